"""Hostile and broken input: runs or one clear line, never a traceback, never much memory, never a lie."""
import json
import os
import subprocess
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_logs import BODY, FIXTURES, SCRIPT, manifest, sealed, write_log

from harness.runlog import RULE, RunLog
from records.tools.read import log as reader
from records.__main__ import main
from records.tools.read.log import FILE_BYTES
from records.tools.read.logs import find_logs, load_runs
from records.tools.read.run import Run
from records.tools.read.values import ReadError

ROOT = Path(__file__).resolve().parents[3]
STEP = "step:{}/4 val_loss:{} train_time:{}ms step_avg:1.00ms\n"
LONG = b"%d" % 10**400
EVENT = b'#:val {"step":%s,"val_loss":%s,"tokens":1,"train_time_ns":%s}\n'


def holding(data: bytes) -> AbstractContextManager:
    """Let every file hold these bytes; thousands of files would be slow to write."""
    return mock.patch("records.tools.read.logs.read_bytes", return_value=data)


def load(data: bytes) -> list[Run]:
    """Return the runs that some bytes hold, or nothing where they are refused in one clear line."""
    try:
        with holding(data):
            runs = load_runs(Path("a.txt"))
    except ReadError as error:
        assert str(error).startswith("a.txt: ") and str(error).isprintable() and len(str(error)) < 400
        return []
    assert runs
    json.dumps([run.facts() for run in runs])
    return runs


def test_only_ordinary_files_are_read_and_the_others_are_named(tmp_path, call, refused):
    log = write_log(tmp_path / "runs")
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "link.txt").symlink_to(log)
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "zero.txt").write_bytes(b"")
    with open(tmp_path / "sparse.txt", "wb") as f:
        f.truncate(2 << 30)
    for name, words in (("pipe.txt", "not an ordinary file"), ("link.txt", "a symbolic link"),
                        ("zero.txt", "no validation line"), ("sparse.txt", "more than"),
                        ("x" * 5000, "cannot be read"), ("../../../nowhere", "cannot be read")):
        assert words in refused("list", tmp_path / name) and words in refused("show", tmp_path / name)
    out, err = call("list", tmp_path)
    assert len(out.splitlines()) == 2  # the links are not followed, and what has no line of a run is no log
    assert [line.split(": ")[1] for line in err.splitlines()] == ["pipe.txt", "sparse.txt"]
    found = sorted(path.name for path in find_logs([tmp_path]))
    assert found == ["pipe.txt", log.name, "sparse.txt", "zero.txt"]


def test_a_line_of_100_mb_is_refused_by_the_size_of_its_file(tmp_path, refused):
    (tmp_path / "a.txt").write_bytes(BODY + b"> ")
    os.truncate(tmp_path / "a.txt", 100 << 20)
    assert f"more than {FILE_BYTES} bytes" in refused("show", tmp_path / "a.txt")


def test_a_device_without_end_is_not_read(refused):
    assert "not an ordinary file" in refused("list", "/dev/zero")


@pytest.mark.parametrize("line", [
    EVENT % (b'1,"step":2', b"1.0", b"1"), EVENT % (b"1", b"NaN", b"1"), EVENT % (LONG, b"1.0", b"1"),
    EVENT % (b"1", b"1.0", LONG), EVENT % (b"1", LONG, b"1"),
    b'#:x {"a":[' + b"[]," * 1000 + b"[]]}\n", b"#:x {}\n" * 1000, b"> \n" * 1000])
def test_what_the_harness_never_writes_is_refused(line, monkeypatch):
    for limit in ("LINES", "VALUES"):
        monkeypatch.setattr(reader, limit, 500)
    assert load(sealed(BODY)) and not load(sealed(BODY + line))


def test_text_of_a_submission_never_counts_as_an_event_or_a_step(tmp_path):
    log = RunLog(tmp_path, "r")
    log.sources(SCRIPT, manifest(), {}, [])
    log.text('#:end {"status":"ok"}\n' + RULE + '\n#:manifest {"format":1}\r#:val {"step":4}\n' +
             STEP.format(4, "0.1", 1) + "\u2028s:1 tel:0.1\n> step\x1b[2J\n|x\n#:endfile")
    log.end("failed")
    [run] = load_runs(log.path)
    assert (run.format, run.status, run.vals, run.train) == ("1", "failed", [], [])


def test_strangers_characters_are_shown_escaped(tmp_path, call):
    """Control, bidi and non-UTF-8 bytes in names and text neither move the cursor nor turn text round."""
    evil = "\x1b[2J\u202egpj.exe\x07<script>alert(1)</script>"
    log = RunLog(tmp_path, "r")
    facts = {"track": evil, "overrides": {evil: evil}, "script": evil, "sys": {"cpu": evil, evil: [evil]},
             "data": {evil: evil}, "seed": evil, "hyperparameters": {evil: {evil: evil}}}
    log.sources(SCRIPT, {**manifest(), **facts}, {evil: b"x\n"}, [evil])
    log.event("scalar", step=1, **{evil: 1.0})
    log.event("late", path=evil)
    log.end(evil, message=evil, type="Tripwire", traceback=evil)
    name = os.fsencode(tmp_path) + b"/\xff\x1b[31m\xe2\x80\xae.txt"
    os.rename(log.path, name)
    public = tmp_path / "public.txt"
    public.write_bytes(b"x\n" + RULE.encode() + f"\nRunning PyTorch {evil}\n".encode() + b"\xff\xfe\n" +
                       STEP.format(1, "2.0", 1).encode() + b"\x1b]0;title\x07\n")
    for path in (os.fsdecode(name), public):
        for out, err in (call("list", path), call("show", path)):
            assert all(line.isprintable() for line in (out + err).splitlines()) and "\r" not in out
    assert call("list", "--json", tmp_path).out.isascii()


@pytest.mark.parametrize("path", sorted(FIXTURES.iterdir()), ids=lambda path: path.name)
def test_a_public_log_cut_at_any_byte_gives_what_stands_above_the_cut(path):
    data, whole = path.read_bytes(), load_runs(path)
    vals = [(p.step, repr(p.loss), p.time_ms) for run in whole for p in run.vals]
    for size in range(len(data)):
        found = [(p.step, repr(p.loss), p.time_ms) for run in load(data[:size]) for p in run.vals]
        assert found == vals[:len(found)]
    assert len(found) >= len(vals) - 1


@pytest.mark.parametrize("number", ["99999999999999999999", "1" * 400, "1e400", "-1e400", "nan", "inf",
                                    "-inf", "1e-400", "0" * 5000, "-0"])
def test_no_number_breaks_list_or_show(number, tmp_path, call):
    path = tmp_path / "a.txt"
    good = STEP.format(1, "3.0", 1) + STEP.format(2, "2.0", 2)
    for bad in ((number, "1.0", 1), (3, number, 3), (3, "1.0", number)):
        path.write_text(good + STEP.format(*bad) + f"peak memory allocated: {number} MiB\nseed:{number}\n")
        for command in (["list"], ["list", "--json"], ["show"], ["show", "--json"]):
            assert call(*command, path).out
    event = EVENT % (b"1", number.encode(), b"1")
    end = f'#:end {{"status":"ok","sha256":"0","peak_memory_mib":{number},"wall_ns":{number}}}\n'.encode()
    for line in (event, event + event.replace(b":1,", b':"inf",', 1), end):
        load(BODY + line)


LINES = [
    STEP.format(1, "3.0", 1).encode(), b"s:1 tel:3.0\n", RULE.encode() + b"\n", b"seed:1\n", b"step:", b"\n",
    b"\n" + b"-" * 40 + b"\n# a\n" + b"-" * 40 + b"\n", b"#:val {}\n", b"\xe2\x80\xa8",
    b'#:end {"status":"ok","sha256":"0"}\n', b'#:file {"path":"a","bytes":0,"sha256":"0"}\n', b"#:endfile\n",
    b"|", b"{", b"[", b'"', b"e9", b"-", b".", b"peak memory allocated: ", b"| 0  X  On |\n", b"nan", b"inf",
    b"\x00", b"\r", b"\xff", b"9" * 30,
]
SEEDS = [BODY, sealed(BODY), *(path.read_bytes() for path in sorted(FIXTURES.iterdir()))]


EDIT = st.tuples(st.integers(0, 3000), st.integers(0, 60), st.sampled_from(LINES) | st.binary(max_size=12))


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.sampled_from(SEEDS), st.lists(EDIT, max_size=6))
def test_a_log_with_anything_in_it_gives_trials_or_one_line(data, edits):
    for place, gone, new in edits:
        place %= len(data) + 1
        data = data[:place] + new + data[place + gone:]
    if load(data):
        with holding(data):
            assert main(["list", "a.txt"]) == 0 and main(["show", "a.txt"]) == 0


VAL = b"step:1/1 val_loss:1 train_time:1ms step_avg:1ms\n"
FULL = {  # what fills 64 MiB and makes many objects
    "newlines": (b"", b"\n"),
    "step lines": (b"", VAL),
    "rules": (b"", RULE.encode() + b"\n"),
    "seeds and devices": (VAL, b"seed:1\n| 1 GPU  On |\n"),
    "our steps": (BODY, b"step:0/1 val_loss:1 train_time:0ms step_avg:1.%sms\n" % (b"0" * 40)),
    "lists": (BODY, b'#:x {"a":[' + b"[]," * (1 << 20) + b"[]]}\n"),
    "text": (BODY, b"> ab\n"),
    "one number": (VAL + b"step:", b"9"),
    "losses": (VAL + b"step:1/1 val_loss:1", b" a_loss:1"),  # took 3 GB in a group that repeats without bound
    "suffixes": (VAL + VAL.rstrip(), b" a:b:c"),  # took 6 GB
    "spaces": (VAL + VAL.rstrip(), b" "),
}


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from /proc")
@pytest.mark.parametrize("case", FULL)
def test_64_mib_of_anything_take_less_than_512_mib_of_memory(case, tmp_path):
    """And time in proportion: a pattern that backtracks would not come back in a day."""
    head, filling = FULL[case]
    path = tmp_path / "full.txt"
    path.write_bytes((head + filling * ((FILE_BYTES - len(head)) // len(filling)))[:FILE_BYTES])
    # getrusage would count what the process that forked this one had
    code = ("import re, sys; from records.__main__ import main; code = main(sys.argv[1:]);"
            "print(int(re.search(r'VmHWM:\\s*(\\d+)', open('/proc/self/status').read())[1]) // 1024); "
            "sys.exit(code)")
    done = subprocess.run([sys.executable, "-c", code, "show", str(path)], cwd=ROOT, text=True,
                          capture_output=True)
    assert done.returncode in (0, 2) and "Traceback" not in done.stderr
    assert int(done.stdout.splitlines()[-1]) < 512
