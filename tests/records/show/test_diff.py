"""python -m records diff: what differs between two sides, and what their losses prove."""
import dataclasses
import json
import math
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from small_logs import SCRIPT, unsealed, write_log
from tiny import ROOT

from records.tools.read.logs import load_runs
from records.tools.read.run import Point, Run
from records.tools.show import compare, diff
from records.tools.show.group import Group
from records.tools.show.source import file_diffs

SAMPLE = ROOT / "records" / "sample"


def run(*losses: float, name: str = "t", ms: float = 10, every: int = 2, **facts) -> Run:
    """Return a run by hand, validated every so many steps of so many ms each."""
    vals = [Point(every * i, loss, every * i * ms) for i, loss in enumerate(losses)]
    return Run(Path(name), 0, "by hand", vals=vals, **{"code": b"x = 1\n", **facts})


def trained(*losses: float, ms: float = 10) -> list[Point]:
    """Return the training lines of a run from step 1 on."""
    return [Point(i, loss, i * ms) for i, loss in enumerate(losses, 1)]


def side(*runs: Run) -> Group:
    """Return a group by hand."""
    return Group(runs[0].path.name, list(runs))


def told(a: Group | Run, b: Group | Run, **how: bool) -> str:
    """Return what is printed of two sides."""
    sides = (one if isinstance(one, Group) else side(one) for one in (a, b))
    return "\n".join(diff.lines(diff.report(*sides), **how))


@pytest.fixture
def compared(call) -> Callable:
    """Return compared(a, b) -> the JSON of diff of two shipped records."""
    return lambda a, b: json.loads(call("diff", SAMPLE / f"2026-11-22_{a}", SAMPLE / f"2026-11-22_{b}",
                                        "--json").out)


def test_sections_without_a_difference_are_left_out(tmp_path, call):
    log, other = write_log(tmp_path), write_log(tmp_path, "b", seed=4,
                                             launch={"stop_at_step": 2, "log_every": 9, "note": "why"})
    lines = call("diff", log, log).out.split("\n")
    assert not {"code", "settings"} & set(lines) and "verdict" in lines
    lines = call("diff", log, other, "--stat").out.split("\n")
    assert lines[0].startswith("differ in settings")
    assert [line.split() for line in lines if "->" in line] == [
        ["seed", "3", "->", "4"], ["stop_at_step", "-", "->", "2"]]


def test_code_is_compared_file_by_file_the_harness_in_one_line():
    a = run(code=b"one\ntwo\n", files={"harness/a.py": b"1\n", "lab/b.py": b"1\n", "lab/same.py": b"\n"})
    b = run(code=b"one\n2\n3\n", files={"harness/a.py": b"2\n", "lab/same.py": b"\n"})
    first, second, third = file_diffs(a, b)
    assert first.lines == ["@@ -1,2 +1,3 @@", " one", "-two", "+2", "+3"]
    assert (first.added, first.removed) == (2, 1)
    assert (second.a, second.b, second.removed) == ("lab/b.py", None, 1) and third.harness
    text = told(a, b, stat=True)
    assert " script            +2  -1\n lab/b.py => none  +0  -1\n" in text
    assert "harness differs: 1 file; --harness shows them" in text and "harness/a.py" not in text
    text = told(a, b, harness=True)
    assert "--- a/harness/a.py\n+++ b/harness/a.py\n@@ -1 +1 @@\n-1\n+2" in text and "--harness" not in text
    [found] = file_diffs(run(code=b"x\n"), run(code=b"x"))
    assert found.lines[-2:] == ["+x", "\\ No newline at end of file"] and found.added == found.removed == 1


def test_a_log_is_compared_with_a_script_of_the_working_tree(tmp_path, call):
    script = tmp_path / "train_gpt2.py"
    script.write_bytes(SCRIPT.replace(b"'|'", b"'!'"))
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab" / "a.py").write_bytes(b"x = 2\n")
    out = call("diff", write_log(tmp_path / "runs"), script).out
    assert "-print('|')\n+print('!')\n" in out and "-x = 1\n+x = 2\n" in out and "verdict" not in out


def test_a_stranger_s_log_cannot_show_files_outside_of_the_working_tree(tmp_path):
    (tmp_path / "secret").write_text("secret\n")
    script = tmp_path / "tree" / "train.py"
    script.parent.mkdir()
    script.write_text("x = 1\n")
    other = side(run(files={"../secret": b"", str(tmp_path / "secret"): b""}))
    assert diff.script_group(script, other).runs[0].files == {}


def test_losses_are_compared_at_the_steps_that_all_runs_validated():
    found = compare.at_equal_steps(side(run(6.0, 5.0, 4.0), run(6.0, 5.5, 5.0)), side(run(6.0, 4.75)))
    assert found["loss"] == "validation" and [row["step"] for row in found["rows"]] == [0, 2]
    assert found["rows"][1] == {"step": 2, "a": 5.25, "b": 4.75, "difference": -0.5,
                                "a_sd": math.sqrt(0.125), "b_sd": None}


def test_runs_that_validate_at_steps_of_their_own_are_compared_by_smoothed_training_losses(compared):
    """Records share no validated step but 0, and diff had nothing to say of their steps."""
    a = side(run(6.0, 5.0, train=trained(*range(50, 10, -1))))
    b = side(run(6.0, 5.0, every=3, train=trained(*range(40, 0, -1))))
    found = compare.at_equal_steps(a, b)
    assert found["loss"] == "training" and [row["step"] for row in found["rows"]] == list(range(11, 31))
    assert {row["difference"] for row in found["rows"]} == {-10} and found["rows"][0]["a"] == 40
    found = compared("Muon", "BigramTable")["at_equal_steps"]
    assert found["loss"] == "training" and found["rows"][-1]["step"] == 275


def test_losses_at_equal_time_lie_on_the_lines_between_validations_after_step_0():
    """B takes half the time a step. Through the validation at step 0 went a line of nats."""
    a, b = side(run(60.0, 5.0, 4.0, 3.0, 2.0)), side(run(60.0, 4.0, 2.0, ms=5, every=4))
    found = compare.at_equal_times(a, b)
    assert found["loss"] == "validation"
    rows = [[round(row[name], 6) for name in ("time_s", "a", "b")] for row in found["rows"]]
    assert rows == [[0.02, 5, 4], [0.025, 4.75, 3.5], [0.03, 4.5, 3], [0.035, 4.25, 2.5], [0.04, 4, 2]]
    assert " B is lower at 5 of 5, and at all from 0.0 on\n" in told(a, b)  # in tenths, as in the table
    assert not compare.at_equal_times(a, side(run(60.0, 4.0)))["rows"]  # no time behind its first


def test_training_losses_of_another_quantity_are_not_compared(tmp_path):
    a, b = (side(run(6.0, 5.0, 4.0, ms=100, train=trained(*[5.0] * 40))) for _ in "ab")
    assert compare.at_equal_times(a, b)["loss"] == "training"
    log = unsealed(write_log(tmp_path), "> two\n", '> two\n#:objective {"plain":false,"step":1}\n')
    b.runs[0].log = load_runs(log)[0].log
    assert compare.at_equal_times(a, b)["loss"] == "validation"


@pytest.mark.parametrize("a, b, before_s, told_then", [
    ("Muon", "BigramTable", 10, -0.656), ("BigramTable", "ModernArchitecture", 10, 0.356),
    ("GPT2-AdamW", "Muon", 40, -2.433)])
def test_no_line_is_drawn_from_the_validation_at_step_0(compared, a, b, before_s, told_then):
    """On it BigramTable led Muon by 0.656 nats at 7 s, where their training losses were 0.03 apart."""
    found = compared(a, b)["at_equal_times"]
    assert found["loss"] == "training" and all(row["time_s"] >= before_s for row in found["rows"])
    assert all(abs(row["difference"]) < abs(told_then) - 0.1 for row in found["rows"])
    assert bool(found["rows"]) == ("AdamW" not in a)  # which has its first when Muon has its last


def test_the_step_up_to_which_two_runs_are_the_same_is_said(tmp_path, call):
    """Validation losses in full, digests of the weights, training losses as they are printed."""
    a = run(6.0, 5.0, 4.0, train=trained(6.0, 5.5, 5.25, 4.0))
    to, printed = "bit-equal up to step", "training losses equal as printed up to step"
    for change, words in (
            ({}, f"{to} 4"), ({"vals": [*a.vals[:2], Point(4, 4.1, 0)]}, f"{to} 2, {printed} 3"),
            ({"train": trained(6.0, 5.5, 5.0)}, f"{to} 2"), ({"train": trained(6.0)}, f"{to} 4"),
            ({"vals": a.vals[:1], "train": trained(7.0)}, f"{to} 0"), ({"vals": []}, f"{printed} 4"),
            ({"val_decimals": 4}, "equal as printed up to step 4"), ({"seed": 1}, None)):
        told_of = compare.equal(side(a), side(dataclasses.replace(a, **change)))
        assert told_of == [f"{words} (seed unknown)"] * (words is not None), change
    one, other = write_log(tmp_path, "a"), write_log(tmp_path, "b")
    assert "bit-equal up to step 2 (seed 3)\n" in call("diff", one, other).out
    unsealed(other, '"weights":"0000', '"weights":"0001')
    assert "bit-equal" not in call("diff", one, other).out


def test_runs_without_a_clock_have_no_times():
    a = side(Run(Path("a"), 0, "llm.c", vals=[Point(0, 5.0, None), Point(2, 4.0, None)]))
    assert not compare.at_equal_times(a, a)["rows"] and compare.speed(a)["ms_per_step"] is None
    text = told(a, a)
    assert "unknown: a log without code" in text
    assert "a step from the first validation on  unknown  unknown" in text


def test_no_late_clock_makes_steps_fast():
    """Older public logs start theirs after ten steps."""
    vals = [Point(0, 9.0, 0), Point(10, 8.0, 0), Point(20, 7.0, 500)]
    assert compare.step_ms(vals) == 50 and compare.step_ms(vals[:1]) is None


def several(*losses: float, first: int = 0) -> Group:
    """Return runs with seeds from the first on, each with its last loss."""
    return side(*(run(5.0, loss, seed=seed) for seed, loss in enumerate(losses, first)))


@pytest.mark.parametrize("a, b, words", [
    (several(4.0), several(3.0), "B - A = -1.00000; one run against one run decides nothing"),
    (side(run(5.0, 4.0, seed=1), run(5.0, 4.2, seed=1)), several(4.0, 4.2), "a side of one seed"),
    (side(run(5.0, 4.0, status="ok"), run(5.0, 9.0, status="incomplete"), run(math.nan)), several(4.0),
     "2 of 3 runs of A did not end in order with a finite loss: no test"),
    (several(4.0), side(run(math.nan)), "nothing to test"),
    (several(4.0, 4.0), several(4.0, 4.0), "the runs do not spread, so there is no test"),
    (several(4.0, 5.0, 6.0), several(3.7, 4.8, 5.6), "no difference shown (paired: one-sided p 0.018"),
    (several(4.0, 5.0, 6.0), several(3.7, 4.8, 5.6, first=9), "no difference shown (Welch: one-sided p 0.3"),
    (several(4.0, 4.001, 4.002), several(3.9, 3.901, 3.902, first=9), "B is lower"),
    (several(3.9, 3.901, 3.902), several(4.0, 4.001, 4.002, first=9), "B is higher")])
def test_the_verdict_tests_one_loss_a_seed_of_runs_that_all_finished(a, b, words):
    """By hand: the differences -0.3, -0.2, -0.4 have t = -0.3 / (0.1 / sqrt(3)) at two degrees of freedom."""
    assert words in compare.verdict(a, b)["words"]


def test_repeats_of_a_seed_and_copies_of_a_curve_count_once():
    repeats = compare.finals(side(run(5.0, 4.0, seed=1), run(5.0, 4.2, seed=1)))
    assert repeats.losses == {1: pytest.approx(4.1)}
    copies = compare.finals(side(run(5.0, 4.0), run(5.0, 4.0), run(5.0, 4.2)))
    assert sorted(copies.losses.values()) == [4.0, 4.2]


def test_losses_of_two_tracks_and_times_of_two_devices_are_not_compared():
    a, b = side(run(5.0, 4.0, track="one")), side(run(5.0, 3.0, track="other"))
    assert not {"at_equal_steps", "verdict"} & set(diff.report(a, b))
    assert told(a, b).split("\n")[-1] == " track differs: the losses do not compare"
    a, b = (side(run(5.0, 4.0, 3.0, device=device, world_size=8)) for device in ("8 x H100", "H200"))
    assert told(a, b).count("times do not compare: devices differ") == 2
    b.runs[0].device = "8 x H100"
    assert "not compare" not in told(a, b) and told(a, b).count("compare only where all ran in turns") == 2


def test_a_folder_of_a_record_is_all_its_runs(tmp_path, refused):
    for i in range(2):
        write_log(tmp_path / "2026-11-22_Muon" / "logs", f"r{i}", (6.0, 5.0 + i))
    found = diff.load_group(tmp_path / "2026-11-22_Muon")
    assert found.name == "2026-11-22_Muon" and [one.last.loss for one in found.runs] == [5.0, 6.0]
    (tmp_path / "empty").mkdir()
    refused("diff", tmp_path / "empty", tmp_path)


def test_json_holds_all_numbers_and_no_nan(tmp_path, call):
    a, b = write_log(tmp_path, "a", (6.0, 5.0)), write_log(tmp_path, "b", (6.0, math.nan), end="nonfinite")
    found = json.loads(call("diff", a, b, "--json").out, parse_constant=pytest.fail)
    rows = found["at_equal_steps"]["rows"]
    assert rows[1]["b"] == "nan" and rows[0]["difference"] == 0
    assert found["b"]["finished"] == 0 and found["time"]["a"]["total_s"] == 0.02
    assert {"code", "settings", "environment", "data", "equal", "at_equal_times", "verdict"} <= set(found)


@pytest.mark.parametrize("words, environment, terminal, coloured", [
    ([], {}, False, False), ([], {}, True, True), ([], {"NO_COLOR": "1"}, True, False),
    (["--color=always"], {"NO_COLOR": "1"}, False, True), (["--color=never"], {}, True, False)])
def test_colour_is_for_terminals(tmp_path, call, monkeypatch, words, environment, terminal, coloured):
    log, script = write_log(tmp_path), tmp_path / "other.py"
    script.write_text("x = 1\n")
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in {"TERM": "xterm", **environment}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.stdout.isatty", lambda: terminal)
    assert ("\x1b[32m+x = 1\x1b[m" in call("diff", log, script, *words).out) == coloured


def test_a_stranger_s_escapes_are_shown_and_not_sent():
    settings = {"\x1b[2J": "\ud800" * 99}
    a = run(5.0, 4.0, code=b"x\n", hyperparameters=settings, device="\x1b[31mred", status="\x07")
    b = run(5.0, 4.0, code=b"\x1b]0;title\x07\n\xff\r\t\xe2\x80\xae", hyperparameters={"lr": "\x1b[0m"})
    text = told(a, b)
    assert text.replace("\n", "").isprintable() and "\\x1b]0;title\\x07" in text


def test_hostile_sources_and_names_are_content_to_git_and_nothing_else(tmp_path, monkeypatch):
    """Names that are options or lead out of the folder, NUL, CR, a long line, lines like git's own."""
    fake = b"diff --git a/b/000000\n@@ -1 +1 @@\nx\0y\rz\n"
    names = ("-x", "--output=owned", "../x", "/etc/passwd", ".gitattributes", ".git/config", "a\x1b[2J\n")
    a = run(code=b"1\n", files={name: fake + b"old\n" for name in names})
    b = run(code=b"2\n" + b"w" * 300_000 + b"\n", files={name: fake + b"new\n" for name in names})
    monkeypatch.chdir(tmp_path)
    found = file_diffs(a, b)
    assert len(found) == 1 + len(names) and not list(tmp_path.iterdir())
    for one in found[1:]:
        assert (one.added, one.removed) == (1, 1) and one.lines[-2:] == ["-old", "+new"]
        assert "x\\x00y\\rz" in one.lines[-3] and all(line.isprintable() for line in one.lines)
    assert max(map(len, found[0].lines)) < 1100
    text = told(a, b, stat=True)
    assert " ../x " in text and text.replace("\n", "").isprintable()


def test_no_configuration_of_git_and_no_checkout_changes_the_diff(tmp_path, monkeypatch):
    """A user's external diff, prefix or context; the same in a checkout that holds the temporary folder."""
    a, b = (run(code=line + b"1\n2\n3\n4\n5\n") for line in (b"one\n", b"two\n"))
    wanted = file_diffs(a, b)[0].lines
    config = "[diff]\n\texternal = touch owned\n\tcontext = 0\n\tnoprefix = true\n[core]\n\tpager = cat\n"
    (tmp_path / ".gitconfig").write_text(config)
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / ".git" / "config").write_text(config)
    (tmp_path / ".gitattributes").write_text("* -diff\n")
    for name in ("HOME", "TMPDIR", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("GIT_EXTERNAL_DIFF", "touch owned")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / ".git"))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.chdir(tmp_path)
    assert file_diffs(a, b)[0].lines == wanted and len(wanted) == 6 and not (tmp_path / "owned").exists()


def test_without_git_equal_code_is_compared_and_other_code_refused(tmp_path, monkeypatch, refused, call):
    log, script = write_log(tmp_path), tmp_path / "other.py"
    script.write_text("x = 1\n")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "verdict" in call("diff", log, log).out
    assert "git is missing, which finds the lines that differ; install it" in refused("diff", log, script)


def test_what_cannot_be_read_is_refused_in_one_line(tmp_path, refused):
    log = write_log(tmp_path)
    (tmp_path / "no.txt").write_text("hello\n")
    for words in ([log, "none.txt"], [tmp_path / "no.txt", log], [log, "none.py"]):
        refused("diff", *words)


def test_a_side_that_mixes_codes_says_so():
    text = told(run(5.0, 4.0), side(run(5.0, 4.0), run(5.0, 4.1, code=b"x = 2\n")))
    assert "the runs of B differ in code; its first one is compared" in text and "runs of A" not in text
    seeds = side(run(5.0, 4.0, code=b"seed = 1\n"), run(5.0, 4.1, code=b"seed = 2\n"))
    assert "differ in code" not in told(seeds, seeds)
