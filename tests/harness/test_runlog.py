"""The log: sources come back byte for byte and run again, nothing printed looks like an event."""
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import IMPORT, ROOT, TINY, Project, environment, events, new_log

from harness import runlog
from harness.run import Run
from harness.runlog import RULE, RunLog, canonical, new_run_id, read_source
from records.tools.read.extract import write_files
from records.tools.read.log import read_log

RULE_BYTES = RULE.encode()


def rip(log: Path) -> bytes:
    """Return the script as the documentation says to rip it."""
    return subprocess.run(["sed", r"/^=\{100\}$/,$d", str(log)], capture_output=True, check=True).stdout


@pytest.fixture(scope="module")
def real(tmp_path_factory) -> Project:
    """A project with the log of one run of train_gpt2.py."""
    project = Project(tmp_path_factory.mktemp("real") / "the project")
    project.run(1)
    return project


def bits(log: Path) -> list:
    """Return what two runs of the same training must share to the last bit."""
    [end] = events(log, "end")
    return [end["status"], end["val_loss"], end["state_sha256"], [v["weights"] for v in events(log, "val")]]


def test_a_script_ripped_from_its_log_trains_to_the_same_bits(real):
    log = real.logs()[0]
    assert rip(log) == (real.folder / "train_gpt2.py").read_bytes() == read_log(log).script
    (real.folder / "ripped.py").write_bytes(rip(log))
    real.run(1, script="ripped.py")
    assert bits(real.logs()[-1]) == bits(log) and len(real.logs()) == 2
    assert read_log(real.logs()[-1]).manifest["code"] == read_log(log).manifest["code"]


def test_the_code_of_a_log_alone_trains_to_the_same_bits_in_an_empty_folder(real, tmp_path):
    """It needs the data and, at the path that tracks.toml names, the vocabulary, but no launcher."""
    log, folder = real.logs()[0], tmp_path / "from the log"
    subprocess.run([sys.executable, "-m", "records", "extract", str(log), str(folder)], cwd=ROOT, check=True)
    (folder / "data" / "tiny").mkdir(parents=True)
    shutil.copy(real.folder / "data" / "tiny" / "vocab.bpe", folder / "data" / "tiny")
    flags = ["--track=tiny", f"--data={real.folder / 'data' / 'tiny'}", *TINY]
    subprocess.run([sys.executable, "train_gpt2.py", *flags], cwd=folder, env=environment(), check=True)
    [again] = (folder / "records" / "runs").glob("*.txt")
    assert bits(again) == bits(log)


def test_the_documented_line_of_python_unpacks_every_project_file(real, tmp_path):
    [line] = re.findall(r"```sh\n(python3 -c .* LOG DIR)\n```", (ROOT / "docs" / "log_format.md").read_text())
    log, folder = real.logs()[0], tmp_path / "unpacked"
    line = line.replace("python3", '"$PYTHON"', 1).removesuffix("LOG DIR") + '"$LOG" "$DIR"'
    subprocess.run(["sh", "-c", line], check=True, cwd=tmp_path,
                   env={**os.environ, "PYTHON": sys.executable, "LOG": str(log), "DIR": str(folder)})
    found = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert found == {path: file.source for path, file in read_log(log).files.items()} and len(found) > 15


def test_the_reader_finds_in_a_real_log_what_the_run_did_and_its_events_are_numbered_without_gaps(real):
    read = read_log(real.logs()[0])
    assert [v.step for v in read.vals] == [0, 3, 6] and read.track["baselines"] == {"unigram": 5.5}
    assert read.script_path == "train_gpt2.py"
    assert [s.step for s in read.steps if s.train_loss is not None] == [1, 2, 3, 4, 5, 6]
    lines = real.logs()[0].read_text().split("\n")
    numbered = [line for line in lines if line.startswith("#:") and line != "#:endfile"]
    for number, line in enumerate(numbered, start=1):
        assert line.startswith("#:file ") or json.loads(line.partition(" ")[2])["seq"] == number


BODIES = {
    "empty": b"", "one newline": b"\n", "newlines": b"\n\n\n", "no final newline": b"x = 1",
    "form feed": b"a\fb\f\n", "vertical tab": b"a\vb\n", "U+2028": "a\u2028b\u2029c\n".encode(),
    "U+0085": "a\x85b\n".encode(), "information separators": b"a\x1cb\x1dc\x1ed\x1f\n",
    "BOM": b"\xef\xbb\xbfx\n", "emoji": "👩‍🚀\n".encode(), "combining": "e\u0301 \u202e\n".encode(),
    "tabs": b"\tx\t\n", "trailing spaces": b"x  \n  \n", "escape": b"\x1b[2J\n", "lone bars": b"|\n||\n|\n",
    "bars": b"|x|\n", "an event": b'#:end {"status":"ok","sha256":"0"}\n',
    "the end of a file": b"#:endfile\n",
    "a file": b'#:file {"path":"evil.py","bytes":1,"sha256":"0"}\n|x\n#:endfile\n',
    "a manifest": b'#:manifest {"format":1}\n',
    "a step": b"step:1/2 val_loss:1.0 train_time:0ms step_avg:nanms\n", "text": b"> x\n",
    "99": b"=" * 99 + b"\n", "101": b"=" * 101 + b"\n", "rule and space": RULE_BYTES + b" \n",
    "space and rule": b" " + RULE_BYTES + b"\n", "rule and form feed": RULE_BYTES + b"\f\n",
    "rule behind a bar": b"|" + RULE_BYTES + b"\n", "backslashes": b"\\n \\0 \\\n", "DEL": b"\x7f\n",
    "long line": b"x" * 1_000_000 + b"\n", "many lines": b"x\n" * 20_000,
    "two lines, the last open": b"a\nb", "highest character": "\U0010ffff\n".encode(),
    "unassigned": "\ufffe\uffff\n".encode(), "a bar, open": b"|",
}


@pytest.mark.parametrize("name", BODIES)
def test_a_source_comes_back_byte_for_byte(name, tmp_path):
    """As a project file; and as a script, inside a string, where it ends in a newline as a script must."""
    body = BODIES[name]
    script = IMPORT + b'x = r"""\n' + body + (b"" if body.endswith(b"\n") else b"\n") + b'"""\n'
    files = {"file.py": body, "twice/file.py": body, "last.py": b"after = 1\n"}
    for path, source in {"script.py": script, **files}.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(source)
    script = read_source(tmp_path / "script.py", script=True)
    sources = {path: read_source(tmp_path / path) for path in files}
    log = new_log(tmp_path / "runs", "r", script, sources, ("Running Python", " "))
    log.end("ok")
    read = read_log(log.path)
    assert rip(log.path) == read.script == script
    assert {path: file.source for path, file in read.files.items()} == files
    assert read.environment == ["Running Python", " "] and not read.text and not read.steps
    write_files({"script.py": read.script, **{p: f.source for p, f in read.files.items()}}, tmp_path / "out")
    assert (tmp_path / "out" / "twice" / "file.py").read_bytes() == body


REFUSED = {
    "CRLF": (IMPORT + b"x\r\n", "carriage return", True),
    "CR": (IMPORT + b"x\ry\n", "carriage return", True),
    "NUL": (IMPORT + b"\0\n", "NUL", True),
    "latin-1": (IMPORT + "é\n".encode("latin-1"), "not UTF-8 at offset 15", True),
    "a surrogate": (IMPORT + b"\xed\xa0\x80\n", "not UTF-8", True),
    "overlong": (IMPORT + b"\xc0\xaf\n", "not UTF-8", True),
    "UTF-16": ("import harness\n".encode("utf-16"), "not UTF-8", True),
    "4 MiB": (IMPORT + b"#" * (1 << 22) + b"\n", "expected fewer than", True),
    "a bare rule": (IMPORT + RULE_BYTES + b"\n", "exactly 100 '=' (line 2)", False),
    "a bare rule at the end": (IMPORT + RULE_BYTES, "exactly 100 '=' (line 2)", False),
    "a bare rule in a string": (IMPORT + b'"""\n' + RULE_BYTES + b'\n"""\n', "(line 3)", False),
    "no final newline": (IMPORT + b"x = 1", "no newline at its end", False),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_source_that_could_not_be_given_back_is_refused_in_one_line(name, tmp_path):
    source, words, always = REFUSED[name]
    (tmp_path / "bad.py").write_bytes(source)
    with pytest.raises(ValueError) as error:
        read_source(tmp_path / "bad.py", script=True)
    assert words in str(error.value) and "bad.py" in str(error.value) and str(error.value).isprintable()
    if always:
        with pytest.raises(ValueError):
            read_source(tmp_path / "bad.py")
    else:  # a project file's lines stand behind bars
        log = new_log(tmp_path, files={"bad.py": read_source(tmp_path / "bad.py")})
        assert rip(log.path) == IMPORT and read_log(log.path).files["bad.py"].source == source


ODD = [RULE, "\n", "\r", "\r\n", "\x85", "\u2028", "\f", "#:end {}", "|x", "step:1/2 val_loss:1.0", "> ",
       "\ud800", "\x1b[2K", "\0", "x" * 10_000]


@given(st.lists(st.one_of(st.text(), st.sampled_from(ODD))).map("".join))
def test_printed_text_never_looks_like_anything_else(text):
    """To a reader that breaks lines at newlines, to one that does where Python does, and to a terminal."""
    with tempfile.TemporaryDirectory() as folder:
        log = new_log(Path(folder))
        above = log.path.stat().st_size
        log.text(text)
        said = log.path.read_bytes()[above:]
        log.end("ok")
        read = read_log(log.path)
    lines = said.decode().split("\n")
    assert lines.pop() == "" and lines == said.decode().splitlines()
    assert lines and all(line.startswith("> ") and len(line) <= 4098 for line in lines)
    assert all(c.isprintable() or c == "\t" for line in lines for c in line)
    assert read.text == [line[2:] for line in lines] and not read.steps
    assert {event.kind for event in read.events} == {"manifest", "end"}
    assert not text.isprintable() or "".join(read.text) == text


PLAIN = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text())


@given(st.recursive(PLAIN, lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner))))
def test_an_event_is_one_line_of_ascii_json(value):
    line = canonical({"x": value, "nan": float("nan")})
    assert line.isascii() and line.isprintable()
    assert json.loads(line, parse_constant=pytest.fail)["nan"] == "nan"


def test_a_submission_cannot_give_an_event_another_number_or_kind(tmp_path):
    log = RunLog(tmp_path, "r")
    log.event("scalar", seq=99, kind="end", step=1)
    assert log.path.read_text() == '#:scalar {"kind":"end","seq":1,"step":1}\n'


def test_run_ids_of_one_second_differ():
    assert len({new_run_id("0" * 64) for _ in range(1000)}) > 990
    assert re.fullmatch(r"\d{8}T\d{6}Z_abcdef01_[0-9a-f]{6}", new_run_id("abcdef0123"))


def test_packages_in_an_environment_that_is_a_link_are_not_the_projects(tmp_path, monkeypatch):
    """They were taken for the submission's, and what they read of the environment ended the run."""
    monkeypatch.setattr(runlog, "ROOT", tmp_path / "project")
    (tmp_path / "elsewhere" / "lib").mkdir(parents=True)
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / ".venv").symlink_to(tmp_path / "elsewhere")
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "project" / ".venv"))
    assert not runlog.is_ours(tmp_path / "project" / ".venv" / "lib" / "package.py")
    assert runlog.is_ours(tmp_path / "project" / "train.py")


def test_names_of_what_the_harness_measures_are_reserved():
    """A submission wrote a val_loss and a train_loss of its own choice beside the harness's."""
    run = SimpleNamespace(_scalars={"train_loss": 5.0})
    for name in ("step", "seq", "step_avg", "train_loss", "train_time", "train_time_ms", "val_loss_ema"):
        with pytest.raises(ValueError, match=f"run.log: {name} is the harness's own; choose another name"):
            Run.log(run, lr=1.0, **{name: 1.0})
    assert run._scalars == {"train_loss": 5.0}
    run._scalars = {}
    Run.log(run, train_loss=4.0, step_size=1.0, sequences=2.0)  # of a loop that accumulates by itself
    assert run._scalars == {"train_loss": 4.0, "step_size": 1.0, "sequences": 2.0}


def test_only_numbers_and_tensors_are_logged_since_others_would_run_code_when_they_are_read():
    run = SimpleNamespace(_scalars={})
    with pytest.raises(ValueError, match="run.log: lr is str, expected int, float or Tensor"):
        Run.log(run, lr="0.1")


def test_a_run_says_in_its_manifest_what_its_process_did_and_where_its_log_lies_as_text(project):
    script = project.adds("path.py", "assert type(run.log_path) is str and run.log_path.endswith('.txt')")
    answers = project.many((script, []), (script, ["--seed=1"]))
    assert [answer["code"] for answer in answers] == [0, 0]
    first, second = (events(log, "manifest")[0]["process"] for log in project.logs())
    assert (first["runs_before"], second["runs_before"]) == (0, 1) and second["cpu_ns"] > first["cpu_ns"] > 0
    assert first["modules"] == {} == second["modules"]
