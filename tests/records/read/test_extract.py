"""python -m records extract: what a log carries comes out byte for byte, nothing outside of the folder."""
import json
import shlex
from pathlib import Path

import pytest
from small_logs import FIXTURES

from harness.runlog import RULE, RunLog, sha256
from records.tools.read.extract import unsafe
from records.tools.read.logs import load_runs

SCRIPT = b"import harness\n"


def write(folder: Path, files: dict[str, bytes], script: str = "train_gpt2.py") -> Path:
    """Write a whole log that carries some files."""
    log = RunLog(folder, "r")
    code = {"script": sha256(SCRIPT), "digest": "d"}
    log.sources(SCRIPT, {"format": 1, "script": script, "track": "t", "seed": 0, "code": code}, files, [])
    log.end("ok")
    return log.path


def test_script_and_files_come_out_byte_for_byte(tmp_path, call):
    files = {"harness/a.py": b"x\n", "harness/__init__.py": b"", "lab/deep/er/b.py": b"no newline",
             "c.py": b"\n\n|#:endfile\n" + RULE.encode() + b"\n"}
    log = write(tmp_path / "runs", files)
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "absent" / "too", tmp_path / "empty"):
        assert "wrote 5 files" in call("extract", log, folder).out
        found = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        assert found == {"train_gpt2.py": SCRIPT, **files}


def test_the_script_lands_where_the_manifest_says(tmp_path, call):
    call("extract", write(tmp_path / "runs", {}, "bench/gpt2_adamw.py"), tmp_path / "out")
    assert (tmp_path / "out" / "bench" / "gpt2_adamw.py").read_bytes() == SCRIPT


UNSAFE = ["", "/etc/passwd", "../a.py", "a/../../b.py", "a/./b.py", "a//b.py", "a/", "a\\b.py", "..\\b.py",
          "C:/a.py", "C:a.py", "a\0.py", "a\n.py", "a\x1b.py", "\u202ea.py", "\ud800.py", "a. ", "a.",
          ".git/config", "lab/.hidden.py", "-rf", "~/a:b", "a?.py", "a*.py", "x" * 256, "é" * 128,
          "a/" * 600 + "b"]


@pytest.mark.parametrize("path", UNSAFE)
def test_an_unsafe_path_writes_nothing(path, tmp_path, refused):
    log = write(tmp_path / "runs", {"good.py": b"x\n", path: b"bad\n"})
    assert len(refused("extract", log, tmp_path / "box" / "out")) < 300
    assert not (tmp_path / "box").exists() and not list(tmp_path.rglob("*.py"))


def test_an_unsafe_script_path_writes_nothing(tmp_path, refused):
    refused("extract", write(tmp_path / "runs", {}, "../../up.py"), tmp_path / "box" / "out")
    assert not list(tmp_path.rglob("*.py"))


@pytest.mark.parametrize("path", ["harness/a.py", "lab/é.py", "x" * 252 + ".py", "a b.py", "console.py",
                                  "com.py", "a..b"])
def test_an_ordinary_path_is_safe(path):
    assert unsafe(path) is None


@pytest.mark.parametrize("paths", [
    ("A.py", "a.py"), ("a", "a/b.py"), ("a/b.py", "A/B.PY"), ("\u00e9.py", "e\u0301.py"), ("train_gpt2.py",),
    ("Train_GPT2.py",), ("train_gpt2.py/x",)])
def test_two_files_never_meet_on_any_file_system(paths, tmp_path, refused):
    refused("extract", write(tmp_path / "runs", {path: b"x\n" for path in paths}), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_in_use_is_left_alone(tmp_path, refused):
    log = write(tmp_path / "runs", {})
    for name in ("full", "real"):
        (tmp_path / name).mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name, words in (("full", "not empty"), ("link", "not a folder"), ("dangling", "not a folder"),
                        ("full/mine.txt", "not a folder"), ("full/mine.txt/x", "cannot be written")):
        assert words in refused("extract", log, tmp_path / name)
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["mine.txt"]
    assert not list((tmp_path / "real").iterdir()) and not (tmp_path / "nowhere").exists()


def test_the_command_to_paste_holds_a_stranger_s_words_as_words(tmp_path, call):
    """They stood in it unquoted: a file named so ran a program in the shell of whoever pasted it."""
    script, track = "a; touch owned $(id) `id` 'x'.py", "t'; touch owned; echo '"
    log = write(tmp_path / "runs", {}, script)
    log.write_bytes(log.read_bytes().rpartition(b"#:end")[0].replace(b'"track":"t"', json.dumps(
        {"track": track}, separators=(",", ":"))[1:-1].encode()))
    command = call("extract", log, tmp_path / "out").out.splitlines()[-1]
    assert shlex.split(command) == ["python", script, f"--track={track}", "--seed=0"]


def test_what_is_no_whole_log_is_refused_in_one_line(tmp_path, refused):
    data = write(tmp_path / "runs", {"a.py": b"x\n"}).read_bytes()
    tampered = data.replace(b"|x", b"|y")
    cases = {"cut": data[:8], "empty": b"", "binary": bytes(range(256)) * 9, "tampered": tampered,
             "resealed": reseal(tampered), "other script": reseal(b"# more\n" + data)}
    for name, bad in cases.items():
        (tmp_path / name).write_bytes(bad)
        refused("extract", tmp_path / name, tmp_path / "out")
        assert not (tmp_path / "out").exists(), name
    refused("extract", tmp_path / "no such log", tmp_path / "out")


def reseal(data: bytes) -> bytes:
    """Return a log with the end line's sha256 made to fit what a forger changed above it."""
    above, _, end = data.rpartition(b"#:end ")
    return above + b"#:end " + json.dumps({**json.loads(end), "sha256": sha256(above)}).encode() + b"\n"


def test_the_code_of_a_public_log_is_extracted_too(tmp_path, call, refused):
    fixture = FIXTURES / "layout_d.txt"
    told = json.loads(call("extract", fixture, tmp_path / "out", "--json").out)
    assert told["script"] == "train_gpt2.py" and len(told["files"]) > 1
    assert (tmp_path / "out" / "train_gpt2.py").read_bytes() == load_runs(fixture)[0].code
    told = refused("extract", FIXTURES / "layout_f.stdout", tmp_path / "none")
    assert "a log of this layout carries no code" in told
