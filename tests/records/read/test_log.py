"""Logs written by harness/runlog.py and read back; logs that nobody's harness wrote, refused in one line."""
import math
import re
from pathlib import Path

import pytest
from small_logs import BODY, FILES, HEAD, SCRIPT, sealed, write_log

from harness.runlog import ROOT, RULE, sha256
from records.tools.read.log import LINE_BYTES, ChangedLog, read_log
from records.tools.read.logs import load_runs
from records.tools.read.values import NoLog, ReadError


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A whole log."""
    return write_log(tmp_path / "runs")


def test_everything_that_was_written_is_read(log):
    read = read_log(log)
    assert read.script == SCRIPT and {p: f.source for p, f in read.files.items()} == FILES
    assert read.manifest["seed"] == 3 and read.environment == ["Running Python 3.11.7", " "]
    assert [(s.step, s.train_loss, s.val_loss, s.train_time_ms) for s in read.steps] == [
        (0, None, 5.5, 0), (2, 5.0, None, 20), (2, None, 5.0, 20)]
    assert math.isnan(read.steps[0].step_avg_ms) and read.steps[0].last_step == 4
    assert [(v.step, v.val_loss, v.tokens, v.train_time_ns) for v in read.vals] == [
        (0, 5.5, 0, 0), (2, 5.0, 512, 20_000_000)]
    assert [(e.kind, e.fields["grad_norm"]) for e in read.events if e.kind == "scalar"] == [("scalar", "inf")]
    assert read.text == ["two", "lines"] and read.end["status"] == "ok"
    assert read.track["baselines"] == {"unigram": 5.5} and read.script_path == "train_gpt2.py"


def test_a_loss_that_is_not_finite_is_read_as_a_number(tmp_path):
    read = read_log(write_log(tmp_path, losses=(5.5, math.nan), end="nonfinite"))
    assert math.isnan(read.vals[-1].val_loss) and math.isnan(read.steps[-1].val_loss)


def test_a_log_cut_at_any_byte_is_read_up_to_its_last_whole_line(log, tmp_path):
    data, cut = log.read_bytes(), tmp_path / "cut.txt"
    whole = read_log(log)
    for size in range(len(data)):
        cut.write_bytes(data[:size])
        read = read_log(cut)
        assert read.end is None and read.text == whole.text[: len(read.text)]
        assert repr(read.steps) == repr(whole.steps[: len(read.steps)])  # repr: nan is not itself
        assert read.vals == whole.vals[: len(read.vals)] and read.files.items() <= whole.files.items()
        below = data[:size].split(RULE.encode() + b"\n", 1)[1:]
        assert bool(read.manifest) == bool(below and b"\n" in below[0])
        if b"\n#:manifest " in data[:size]:  # below it, a run that was killed; above, no run at all
            [run] = load_runs(cut)
            assert run.status == "incomplete" and len(run.vals) == len(read.vals)
        else:
            with pytest.raises(NoLog):
                load_runs(cut)


def test_any_changed_byte_is_noticed(log, tmp_path):
    """A flipped bit in each third byte above the end line: the sha256 or the grammar refuses it."""
    data, changed = log.read_bytes(), tmp_path / "changed.txt"
    for i in range(0, data.index(b"#:end {"), 3):
        changed.write_bytes(data[:i] + bytes([data[i] ^ 1]) + data[i + 1 :])
        with pytest.raises(ReadError) as error:
            read_log(changed)
        assert "\n" not in str(error.value)


STEP = "step:1/4 val_loss:1.0 train_time:0ms step_avg:nanms\n"
VAL = b'#:val {"step":1,"val_loss":%s,"tokens":1,"train_time_ns":1}\n'
FILE = b'#:file {"path":"a","bytes":%d,"sha256":"%s"}\n'
EMPTY = FILE % (0, sha256(b"").encode()) + b"|\n#:endfile\n"
NASTY = {
    "a changed script": (BODY.replace(b"'|'", b"'!'"), "sha256 the manifest gives"),
    "no manifest": (SCRIPT + RULE.encode() + b"\nRunning Python\n", "expected #:manifest"),
    "two manifests": (BODY + BODY[len(SCRIPT) + 101 :], "second manifest"),
    "another format": (BODY.replace(b'"format": 1', b'"format": 2'), "format 2"),
    "a manifest that is no object": (SCRIPT + RULE.encode() + b"\n#:manifest [1]\n", "expected an object"),
    "code that is no object": (BODY.replace(b'"code": {', b'"code": 1, "x": {'), "script"),
    "a third rule": (BODY + RULE.encode() + b"\n", "no line of a log"),
    "a line of nothing": (BODY + b"\n", "no line of a log"),
    "a foreign line": (BODY + b"hello \x1b[31m\n", "\\x1b"),
    "a step in other digits": (BODY + STEP.replace("1/", "١/").encode(), "no line"),
    "a step without a number": (BODY + STEP.replace("1.0", "one").encode(), "no line"),
    "bytes that are not UTF-8": (BODY + b"step:\xff\n", "utf-8"),
    "a bar outside of a file": (BODY + b"|x\n", "no line of a log"),
    "JSON cut off": (BODY + b'#:val {"step":\n', "not JSON"),
    "JSON too deep": (BODY + b"#:val " + b"[" * 200_000 + b"\n", "JSON"),
    "an integer too long": (BODY + b'#:val {"step":' + b"9" * 10_000 + b"}\n", "not JSON"),
    "a val with a word for a loss": (BODY + VAL % b'"x"', "number"),
    "a val with a list for a loss": (BODY + VAL % b"[]", "number"),
    "a val with true for a step": (BODY + b'#:val {"step":true,"val_loss":1}\n', "expected int"),
    "a file of the wrong size": (BODY + FILE % (9, b"0") + b"|x\n#:endfile\n", "sha256"),
    "a file of negative size": (BODY + FILE % (-1, b"0") + b"|x\n#:endfile\n", "sha256"),
    "a file without bars": (BODY + FILE % (1, b"0") + b"x\n#:endfile\n", "behind a bar"),
    "one path given twice": (sealed(HEAD + EMPTY * 2 + RULE.encode() + b"\n"), "a second file a"),
    "an end without a status": (BODY + b'#:end {"sha256":"0"}\n', "status"),
    "an end of other sha256": (BODY + b'#:end {"sha256":"0","status":"ok"}\n', "sha256 the end line gives"),
    "something below the end": (sealed(BODY) + b"> more\n", "below the end"),
    "half a line below the end": (sealed(BODY) + b"> more", "below the end"),
    "two ends": (sealed(sealed(BODY)), "below the end"),
    "a line that is too long": (BODY + b"> " + b"x" * LINE_BYTES + b"\n", "expected at most"),
}


@pytest.mark.parametrize("case", NASTY)
def test_what_no_harness_writes_is_refused_in_one_line(case, tmp_path):
    data, words = NASTY[case]
    path = tmp_path / "nasty.txt"
    path.write_bytes(data)
    with pytest.raises(ReadError) as error:
        read_log(path)
    message = str(error.value)
    assert words in message and "nasty.txt" in message and len(message) < 300 and message.isprintable()


def test_json_is_taken_as_a_tolerant_reader_takes_it(tmp_path):
    """Unknown kinds and fields, spaces, numbers that are not finite as strings."""
    lines = (b'#:later {"new": [1]}\n'
             b'#:val {"step": 2, "val_loss": "nan", "tokens": 1, "train_time_ns": 1, "new": 1}\n'
             b'#:val {"step":3,"val_loss":"-inf","tokens":1,"train_time_ns":1}\n')
    (tmp_path / "a.txt").write_bytes(sealed(BODY + lines))
    read = read_log(tmp_path / "a.txt")
    assert [e.kind for e in read.events][-4:] == ["later", "val", "val", "end"]
    assert [v.step for v in read.vals] == [2, 3]
    assert math.isnan(read.vals[0].val_loss) and read.vals[1].val_loss == -math.inf


def test_a_changed_log_is_told_apart_from_one_that_is_none(log):
    log.write_bytes(log.read_bytes().replace(b"val_loss:5.0000", b"val_loss:4.0000"))
    with pytest.raises(ChangedLog):
        read_log(log)


def test_the_example_of_the_format_s_page_is_a_log(tmp_path):
    [example] = re.findall(r"```text\n(.*?)```", (ROOT / "docs" / "log_format.md").read_text(), re.S)
    path = tmp_path / "example.txt"
    path.write_text(example)
    log = read_log(path)
    assert (log.manifest["seed"], log.files["model.py"].source) == (0, b"WIDTH = 128\n")
    assert [val.val_loss for val in log.vals] == [8.317766166719343, 8.201390312158763]
    [scalar] = [event.fields for event in log.events if event.kind == "scalar"]
    assert (log.text, scalar["grad_norm"], log.end["status"]) == (["width 128"], 0.75, "ok")
    path.write_text(example.replace("8.2014", "8.2013"))
    with pytest.raises(ChangedLog, match="the lines above are not those whose sha256"):
        read_log(path)
