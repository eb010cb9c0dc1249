"""data/fineweb.py: documents in, shards out."""
import contextlib
import gzip
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tomllib
from collections import Counter

import pyarrow
import pytest
from pyarrow import parquet

from data.bpe import encoding
from data.documents import DataError, documents, local_files
from data.fineweb import VOCAB, batches, parse
from harness.shards import read_shard
from tiny import ROOT
from waiting import until

SCRIPT = "fineweb.py"
EOT = 50256
OPTIONS = ("--shard_tokens", 1000, "--processes", 1)


@pytest.fixture(scope="module")
def texts():
    """Longer than a shard, empty, of several scripts, with special names, with odd white space."""
    words = "the a of speed record naïve 東京 🙂 don't 1234 <|endoftext|> \n \t , ; \r\n".split(" ")
    rng = random.Random(0)
    made = [" ".join(rng.choices(words, k=rng.randint(1, 200))) for _ in range(60)]
    return ["", "<|endoftext|>", "x\r\n\r\ny  ", " ".join(rng.choices(words, k=3000)), *made]


def write_jsonl(path, texts, column="text"):
    path.write_text("".join(json.dumps({"id": i, column: text}) + "\n" for i, text in enumerate(texts)))
    return path


def write_parquet(path, texts, column="text"):
    parquet.write_table(pyarrow.table({"id": range(len(texts)), column: texts}), path, row_group_size=7)
    return path


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def shards(folder):
    return {name: data for name, data in contents(folder).items() if name.endswith(".bin")}


def the_error(result):
    """The one line of a run that failed, after the progress bar."""
    rc, out, err = result
    [line] = [line for line in err.replace("\r", "\n").split("\n") if line.startswith("fineweb: ")]
    assert rc == 2 and out == "" and "Traceback" not in err, err
    return line


@pytest.fixture
def made(run):
    """Make shards in a folder, of a file or by other words; return what was said on stdout."""
    def made(out, *args, **hub):
        rc, said, err = run(SCRIPT, *OPTIONS, *args, "--output", out, **hub)
        assert rc == 0, err
        return said
    return made


def test_shards_are_those_of_a_ten_line_reference(texts, tmp_path, made):
    """And the name of the end-of-text token, in a text, is plain text: each text has one such token."""
    assert any("<|endoftext|>" in text for text in texts)
    said = made(tmp_path / "out", write_jsonl(tmp_path / "a.jsonl", texts))
    gpt2, stream = encoding(VOCAB), []
    for text in texts:
        stream += [EOT, *gpt2.encode(text, disallowed_special=())]
    expected = [stream[i:i + 1000] for i in range(0, len(stream), 1000)]
    names = ["fineweb_val_000000.bin", *(f"fineweb_train_{i:06d}.bin" for i in range(1, len(expected)))]
    assert sorted(shards(tmp_path / "out")) == sorted(names) and len(names) > 4
    found = [read_shard(tmp_path / "out" / name).tolist() for name in names]
    assert found == expected and sum(map(Counter, found), Counter())[EOT] == len(texts)
    assert said.endswith(f"out: 1 validation and {len(names) - 1} train shards, {len(stream)} tokens\n")
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["documents"] == len(texts) and manifest["inputs"] == ["a.jsonl"]
    assert manifest["files"] == {name: {"bytes": len(data), "tokens": (len(data) - 1024) // 2,
                                        "sha256": hashlib.sha256(data).hexdigest()}
                                 for name, data in shards(tmp_path / "out").items()}


def test_parquet_jsonl_compressed_jsonl_and_text_files_give_the_same_shards(texts, tmp_path, made):
    plain = write_jsonl(tmp_path / "a.jsonl", texts, "body").read_bytes()
    with gzip.open(tmp_path / "a.jsonl.gz", "wb") as f:
        f.write(plain)
    with pyarrow.output_stream(str(tmp_path / "a.jsonl.zst"), compression="zstd") as f:
        f.write(plain)
    write_parquet(tmp_path / "a.parquet", texts, "body")
    for i, text in enumerate(texts):
        path = tmp_path / "folder" / str(i // 10) / f"{i % 10}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())
    found = []
    for name in ("a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.parquet", "folder"):
        made(tmp_path / f"{name}.out", tmp_path / name, "--column", "body")
        found.append(shards(tmp_path / f"{name}.out"))
    assert all(one == found[0] for one in found)


def test_wikitexts_raw_files_and_its_parquet_become_articles_and_a_validation_of_its_own_size(
        tmp_path, made):
    """A line of the raw file is a row of the parquet; a title begins an article, a section does not."""
    lines = [" \n", " = One = \n", " \n", " a = b \n", " = = A section = = \n", " c \n", " \n", " = = = \n",
             " = Two = \n", " d " * 300 + "\n"]
    raw = tmp_path / "wiki.train.raw"
    table = write_parquet(tmp_path / "wiki.parquet", [line.removeprefix(" \n") for line in lines])
    raw.write_text("".join(lines))
    expected = ["".join(lines[:8]), "".join(lines[8:])]
    assert list(documents(raw, "text")) == list(documents(table, "text", joined=True)) == expected
    for path, *words in ((raw,), (table, "--articles")):
        made(tmp_path / path.suffix[1:], path, "--val_tokens", 100, "--shard_tokens", 150, *words)
    assert shards(tmp_path / "raw") == (found := shards(tmp_path / "parquet"))
    sizes = {name: (len(data) - 1024) // 2 for name, data in found.items()}
    assert (sizes["fineweb_val_000000.bin"], sizes["fineweb_train_000001.bin"]) == (100, 150)


def test_the_number_of_processes_changes_no_byte(tmp_path, made):
    """Many batches, short documents behind a long one, so that workers finish out of order."""
    texts = ["word " * 300_000, *(f"document {i} " * 20 for i in range(4500))]
    path = write_parquet(tmp_path / "a.parquet", texts)
    assert len(list(batches(texts))) > 4
    for n in (1, 2):
        made(tmp_path / str(n), path, "--shard_tokens", 100_000, "--processes", n)
    assert contents(tmp_path / "1") == contents(tmp_path / "2")


def bad_inputs(folder, texts):
    """Yield inputs, more arguments, and what the one line must say."""
    folder.mkdir()
    yield folder / "none.jsonl", (), "none.jsonl: no such file"
    good = write_jsonl(folder / "good.jsonl", texts)
    yield good, ("--column", "body"), "good.jsonl, line 1: no text under 'body' (found keys id, text)"
    table = write_parquet(folder / "a.parquet", texts)
    yield table, ("--column", "body"), "a.parquet: no column 'body' (found id, text)"
    yield table, ("--column", "id"), "a.parquet: column 'id' holds int64, expected string"
    table = write_parquet(folder / "null.parquet", [*texts, None])
    yield table, (), f"null.parquet, row {len(texts) + 1}: null"
    lines = good.read_text().splitlines(keepends=True)
    (folder / "cut.jsonl").write_text("".join(lines[:40]) + '{"text": "cut o')
    yield folder / "cut.jsonl", (), "cut.jsonl, line 41: not JSON"
    (folder / "list.jsonl").write_text("".join(lines) + "\n[1]\n")
    yield folder / "list.jsonl", (), f"list.jsonl, line {len(lines) + 2}: no text under 'text' (found list)"
    (folder / "latin.txt").write_bytes(b"one\ntwo\nna\xefve\n")
    yield folder / "latin.txt", (), "latin.txt, line 3: not UTF-8"
    packed = gzip.compress(good.read_bytes())
    (folder / "cut.jsonl.gz").write_bytes(packed[:len(packed) // 2])
    yield folder / "cut.jsonl.gz", (), "cut.jsonl.gz, after line "
    (folder / "page.parquet").write_text("<html>")
    yield folder / "page.parquet", (), "page.parquet: not readable as parquet"
    (folder / "a.csv").write_text("text\n")
    yield folder / "a.csv", (), "a.csv: ends in none of .parquet"
    (folder / "empty").mkdir()
    yield folder / "empty", (), "empty: no file in it ends in .parquet"
    yield good, ("--shard_tokens", 10**6), "expected more than shard_tokens=1000000"
    yield "--hub", ("HuggingFaceFW/fineweb",), "cannot reach http://127.0.0.1:9"


def test_bad_input_is_one_line_with_file_and_line_and_leaves_nothing(texts, tmp_path, run):
    for path, more, expected in bad_inputs(tmp_path / "in", texts):
        before = sorted(tmp_path.iterdir())
        assert expected in the_error(run(SCRIPT, *OPTIONS, path, *more, "--output", tmp_path / "out"))
        assert sorted(tmp_path.iterdir()) == before


def test_shards_that_are_there_are_replaced_only_on_demand(texts, tmp_path, run, made):
    path, out = write_jsonl(tmp_path / "a.jsonl", texts), tmp_path / "out"
    made(out, path)
    (out / "notes.md").write_text("mine")
    before = contents(out)
    assert "--overwrite" in the_error(run(SCRIPT, path, *OPTIONS, "--output", out))
    failed = run(SCRIPT, tmp_path / "none.txt", *OPTIONS, "--output", out, "--overwrite")
    assert "none.txt: no such file" in the_error(failed)
    assert contents(out) == before
    made(out, path, "--shard_tokens", 4000, "--prefix", "new", "--overwrite")
    names = set(contents(out))
    assert {"manifest.json", "notes.md", "new_val_000000.bin", "new_train_000001.bin"} <= names
    assert not any(name.startswith("fineweb") for name in names)


def test_a_hub_configuration_is_downloaded_once_and_tokenised_in_order(texts, fake_hub, tmp_path, run, made):
    fake_hub.card = {"configs": [
        {"config_name": "default", "data_files": [{"split": "train", "path": "data/*/*"}]},
        {"config_name": "sample-10BT", "data_files": [{"split": "train", "path": "sample/10BT/0*"},
                                                      {"split": "test", "path": "sample/10BT/1*"}]}]}
    wanted = {"sample/10BT/001.parquet": texts[30:], "sample/10BT/000.parquet": texts[:30]}
    others = ("sample/10BT/100.parquet", "sample/100BT/000.parquet", "data/x/000.parquet")
    for path, part in [*wanted.items(), *((path, ["no"]) for path in others)]:
        fake_hub.files[path] = write_parquet(tmp_path / "one.parquet", part).read_bytes()
    fake_hub.cut["sample/10BT/000.parquet"] = 2000
    example = run(SCRIPT, "--help")[1].splitlines()[-1].split()
    assert example[:3] == ["example:", "python", "data/fineweb.py"]
    hub = {"endpoint": fake_hub.address}
    made(tmp_path / "out", *example[3:], **hub)
    assert {name for name, _ in fake_hub.downloads()} == {"000.parquet", "001.parquet"}
    made(tmp_path / "local", write_jsonl(tmp_path / "a.jsonl", texts))
    assert shards(tmp_path / "out") == shards(tmp_path / "local")
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["source"] == "HuggingFaceFW/fineweb sample-10BT"
    assert manifest["revision"] == fake_hub.commit
    fake_hub.requests.clear()
    made(tmp_path / "out", *example[3:], "--overwrite", **hub)
    assert fake_hub.downloads() == []
    wrong = run(SCRIPT, *example[3:], "--name", "10BT", "--output", tmp_path / "out", "--overwrite", **hub)
    assert "no configuration '10BT'; pass --name NAME, one of: default, sample-10BT" in the_error(wrong)


def test_pylos_command_for_fineweb_edu_is_understood_and_fills_the_folder_of_its_track():
    args = parse(["--remote_name", "finweb_edu", "--local_name", "finweb_edu"])
    track = tomllib.loads((ROOT / "harness" / "tracks.toml").read_text())["lab_fineweb_edu"]
    assert args.output == ROOT / track["data"]
    own = parse(track["fetch"].split()[2:])
    assert (own.hub, own.name, ROOT / own.output) == (args.hub, args.name, args.output)
    assert track["train_files"].startswith(args.prefix)
    assert parse(["a.txt", "--local_name", "mine"]).output == ROOT / "data" / "mine"


def test_documents_are_read_as_a_stream(tmp_path):
    """The first documents of a file come before its damaged end is met."""
    path = write_jsonl(tmp_path / "a.jsonl", ["one", "two"])
    path.write_text(path.read_text() + "broken\n")
    stream = documents(path, "text")
    assert [next(stream), next(stream)] == ["one", "two"]
    with pytest.raises(DataError, match="line 3"):
        next(stream)


def test_files_are_read_in_the_order_given_and_folders_by_path(tmp_path, capsys):
    for name in ("b/2.txt", "b/10.txt", "b/c/1.jsonl", "b/notes.md", "a.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")
    found = local_files([tmp_path / "b", tmp_path / "a.txt"])
    assert found == [tmp_path / name for name in ("b/10.txt", "b/2.txt", "b/c/1.jsonl", "a.txt")]
    assert "passing over 1 files" in capsys.readouterr().err


@pytest.mark.parametrize("args", [(), ("a.txt", "--hub", "x/y"), ("a.txt", "--shard_tokens", 0),
                                  ("a.txt", "--processes", 0), ("a.txt", "--prefix", "a/b")])
def test_arguments_that_make_no_sense_are_refused(args, tmp_path, run):
    rc, _, err = run(SCRIPT, *args, "--output", tmp_path / "out")
    assert rc == 2 and err.splitlines()[-1].startswith("fineweb.py: error: ")


@pytest.fixture
def inside(tmp_path):
    """Start data/fineweb.py's main() on an empty a.txt, some lines run before it, in a session of its own.

    Its workers share its stderr, which therefore ends when the last of them has ended, and not before."""
    started = []

    def inside(lines, *args):
        (tmp_path / "a.txt").touch()
        code = f"import itertools, resource, sys\nfrom data import fineweb\n{lines}\nsys.exit(fineweb.main())"
        command = [sys.executable, "-c", code, "a.txt", "--output", "out", "--shard_tokens", "1000", *args]
        started.append(subprocess.Popen(command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
                                        stderr=subprocess.PIPE, text=True, start_new_session=True))
        return started[-1]
    yield inside
    for process in started:
        with contextlib.suppress(ProcessLookupError):  # a worker left behind, where a test has failed
            os.killpg(process.pid, signal.SIGKILL)


ENDLESS = "fineweb.documents = lambda *_: itertools.repeat('a text ' * 10_000)"


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_a_signal_leaves_no_worker_and_no_stage_beyond_the_next_start(
        number, code, texts, tmp_path, inside, run, made):
    """A killed parent left its workers waiting for ever, and a folder of shards that nothing removed."""
    process = inside(ENDLESS, "--processes", "2")
    until(lambda: process.poll() or list(tmp_path.glob(".out.part/*.bin")))
    source = write_jsonl(tmp_path / "a.jsonl", texts)
    second = run(SCRIPT, source, *OPTIONS, "--output", tmp_path / "out")
    assert "out: another process is writing it" in the_error(second)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code
    names = {path.name for path in tmp_path.iterdir()}
    if number == signal.SIGTERM:
        assert names == {"a.txt", "a.jsonl"} and err.endswith("fineweb: stopped, nothing written\n")
    made(tmp_path / "out", source)
    assert {path.name for path in tmp_path.iterdir()} == {"a.txt", "a.jsonl", "out"}
    assert set(contents(tmp_path / "out")) == {"manifest.json", *shards(tmp_path / "out")}


def test_a_full_disk_is_one_line_that_names_the_output(tmp_path, inside):
    """A limit on the size of files stands for the disk."""
    full = "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))"
    process = inside(f"{full}\n{ENDLESS}", "--processes", "1")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2 and "fineweb: out: " in err and "Traceback" not in err
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def odd_inputs(folder):
    """Yield inputs that are no text, and what the one line must say."""
    folder.mkdir()
    (folder / "digits.jsonl").write_text('{"text": "one"}\n{"text": "two", "id": ' + "9" * 5000 + "}\n")
    yield folder / "digits.jsonl", "digits.jsonl, line 2: not JSON (Exceeds the limit"
    os.mkfifo(folder / "pipe.jsonl")
    yield folder / "pipe.jsonl", "pipe.jsonl: no regular file"
    (folder / "zero.txt").symlink_to("/dev/zero")
    yield folder / "zero.txt", "zero.txt: no regular file"


def test_a_pipe_a_device_and_a_number_of_5000_digits_are_one_line_each(tmp_path, run):
    """They hung, ran out of memory, and ended in a traceback."""
    for path, expected in odd_inputs(tmp_path / "in"):
        assert expected in the_error(run(SCRIPT, path, *OPTIONS, "--output", tmp_path / "out"))
        assert [path.name for path in tmp_path.iterdir()] == ["in"]
