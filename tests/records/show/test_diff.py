"""python -m records diff: what differs between two sides, and what their losses prove."""
import json
import math
import subprocess
from pathlib import Path

import pytest
from small_logs import SCRIPT, write_log

from records.tools.read.run import Point, Run
from records.tools.show import diff
from records.tools.show import differences as compare
from records.tools.show.group import Group, step_times
from records.tools.show.source import FileDiff, add_lines, file_diffs


def run(*losses: float, name: str = "t", ms: float = 10, every: int = 2, **facts) -> Run:
    """Return a run by hand, validated every so many steps of so many ms each."""
    vals = [Point(every * i, loss, every * i * ms) for i, loss in enumerate(losses)]
    return Run(Path(name), 0, "by hand", vals=vals, **{"code": b"x = 1\n", **facts})


def side(*runs: Run) -> Group:
    """Return a group by hand."""
    return Group(runs[0].path.name, list(runs))


def sources(a: Run, b: Run) -> list[FileDiff]:
    """Return the files of two runs that differ, with their lines."""
    add_lines(found := file_diffs(a, b))
    return found


def text(a: Group, b: Group, width: int = 80, **how: bool) -> str:
    """Return what is printed of two sides, without colours."""
    return "\n".join(diff.Printer(False, width, **how).lines(diff.report(a, b)))


def changed(log: Path, *changes: tuple[bytes, bytes]) -> Path:
    """Cut the end line off a log and replace some of its bytes."""
    data = log.read_bytes().rpartition(b"#:end")[0]
    for old, new in changes:
        assert old in data
        data = data.replace(old, new)
    log.write_bytes(data)
    return log


def test_sections_without_a_difference_are_left_out(tmp_path, call):
    log = write_log(tmp_path)
    lines = call("diff", log, log).out.split("\n")
    assert not {"code", "hyperparameters"} & set(lines) and "verdict" in lines
    other = changed(write_log(tmp_path, "b"), (b'{"lr":0.1}', b'{"lr":0.2}'))
    lines = call("diff", log, other, "--stat").out.split("\n")
    assert lines[0].startswith("differ in hyperparameters") and " lr  0.1 -> 0.2" in lines


def test_code_is_compared_file_by_file_the_harness_in_one_line():
    a = run(code=b"one\ntwo\n", files={"harness/a.py": b"1\n", "lab/b.py": b"1\n", "lab/same.py": b"\n"})
    b = run(code=b"one\n2\n3\n", files={"harness/a.py": b"2\n", "lab/same.py": b"\n"})
    first, second, third = sources(a, b)
    assert first.lines[2:] == ["@@ -1,2 +1,3 @@", " one", "-two", "+2", "+3"]
    assert (first.added, first.removed) == (2, 1)
    assert (second.a, second.b, second.removed) == ("lab/b.py", None, 1) and third.harness
    told = text(side(a), side(b), stat=True)
    assert " script => none" not in told and "| 3 ++-\n" in told and "| 1 -\n" in told
    assert "harness differs: 1 file; --harness shows them" in told and "harness/a.py" not in told
    told = text(side(a), side(b), harness=True)
    assert "--- a/harness/a.py\n+++ b/harness/a.py\n" in told and "--harness" not in told


def test_a_last_line_without_an_end_is_a_difference():
    [found] = sources(run(code=b"x\n"), run(code=b"x"))
    assert found.lines[-2:] == ["+x", "\\ No newline at end of file"]
    assert (found.added, found.removed) == (1, 1)


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
    points = compare.curve(side(run(6.0, 5.0, 4.0), run(6.0, 5.5, 5.0)), side(run(6.0, 4.75)))
    assert [p["step"] for p in points] == [0, 2] and points[1] == {
        "step": 2, "a": 5.25, "b": 4.75, "difference": -0.5, "a_sd": math.sqrt(0.125), "b_sd": None}


def test_losses_at_equal_time_lie_on_the_lines_between_validations():
    """B takes half the time a step; until it ends after 40 ms, A has gone from 6 to 4."""
    a, b = side(run(6.0, 5.0, 4.0, 3.0, 2.0)), side(run(6.0, 4.0, 2.0, ms=5, every=4))
    points = compare.equal_time(a, b)
    assert [round(p["time_s"], 6) for p in points] == [0.008, 0.016, 0.024, 0.032, 0.04]
    assert [round(p["a"], 9) for p in points] == [5.6, 5.2, 4.8, 4.4, 4.0]
    assert [round(p["b"], 9) for p in points] == [5.2, 4.4, 3.6, 2.8, 2.0]


def test_runs_without_a_clock_have_no_times():
    a = side(Run(Path("a"), 0, "llm.c", vals=[Point(0, 5.0, None), Point(2, 4.0, None)]))
    assert compare.equal_time(a, a) == [] and compare.speed(a)["ms_per_step"] is None
    told = text(a, a)
    assert "unknown: a log without code" in told and "unknown       unknown" in told


def test_time_per_step_is_the_median_of_steps_in_a_row_and_no_late_clock_makes_them_fast():
    """Older public logs start theirs after ten steps."""
    lines = [Point(step, None, ms) for step, ms in ((1, 10), (2, 22), (4, 90), (5, 100), (6, 111))]
    assert step_times(run(train=lines)) == [12, 10, 11]
    assert compare.speed(side(run(6.0, 5.0, train=lines)))["ms_per_step"] == 11
    vals = [Point(0, 9.0, 0), Point(10, 8.0, 0), Point(20, 7.0, 500)]
    assert compare.average(vals) == 50 and compare.average(vals[:1]) is None


def test_one_run_against_one_decides_nothing():
    words = compare.verdict(side(run(5.0, 4.0)), side(run(5.0, 3.0)))["words"]
    assert words == "B - A = -1.00000; one run against one run decides nothing"
    found = compare.verdict(*(side(run(loss, track="fineweb")) for loss in (3.28, 3.2774)))
    assert found["in_sd"] == pytest.approx(-2)
    assert "-2.0 times the known run-to-run sd 0.0013" in found["words"]


def test_repeats_of_a_seed_and_copies_of_a_curve_count_once():
    same_seed = side(run(5.0, 4.0, seed=1), run(5.0, 4.2, seed=1))
    assert compare.finals(same_seed) == (2, {1: pytest.approx(4.1)})
    copies = side(run(5.0, 4.0), run(5.0, 4.0), run(5.0, 4.2))
    assert sorted(compare.finals(copies)[1].values()) == [4.0, 4.2]
    assert "one run" not in (words := compare.verdict(same_seed, copies)["words"]) and "one seed" in words


def test_runs_that_did_not_finish_are_in_no_verdict():
    a = side(run(5.0, 4.0, seed=0, status="ok"), run(5.0, 9.0, seed=1, status="incomplete"),
             run(5.0, math.nan, seed=2, status="nonfinite"))
    assert compare.finals(a) == (2, {0: 4.0})
    assert "2 of 3 runs of A did not end in order" in compare.verdict(a, side(run(4.0)))["words"]
    assert "nothing to test" in compare.verdict(side(run(4.0)), side(run(math.nan)))["words"]


def test_the_verdict_is_paired_at_the_same_seeds_and_welch_s_otherwise():
    """By hand: differences -0.3, -0.2, -0.4 have t = -0.3 / (0.1 / sqrt(3)), two degrees of freedom."""
    a = side(*(run(5.0, loss, seed=i) for i, loss in enumerate((4.0, 5.0, 6.0))))
    b = side(*(run(5.0, loss, seed=i) for i, loss in enumerate((3.7, 4.8, 5.6))))
    found = compare.verdict(a, b)
    assert found["test"] == "paired over 3 seeds" and found["t"] == pytest.approx(-0.3 / (0.1 / math.sqrt(3)))
    t = found["t"]
    assert found["p_b_lower"] == pytest.approx(0.5 + t / (2 * math.sqrt(2 + t * t)))  # Student's t, df = 2
    assert "no difference shown" in found["words"]
    for one in b.runs:
        one.seed += 10
    found = compare.verdict(a, b)
    assert found["test"] == "Welch, 3 and 3 seeds" and found["p_b_lower"] > 0.3


def test_the_verdict_says_which_side_is_lower():
    a, b = (side(*(run(5.0, loss + i / 1000, seed=i + first) for i in range(4)))
            for loss, first in ((4.0, 0), (3.9, 10)))
    assert "B is lower" in compare.verdict(a, b)["words"] and "B is higher" in compare.verdict(b, a)["words"]
    flat = side(run(5.0, 4.0, seed=0), run(5.0, 4.0, seed=1))
    assert "do not spread" in compare.verdict(flat, flat)["words"]


def test_losses_of_two_tracks_and_times_of_two_devices_are_not_compared():
    a, b = side(run(5.0, 4.0, track="one")), side(run(5.0, 3.0, track="other"))
    assert not {"curve", "verdict"} & set(diff.report(a, b))
    assert text(a, b).split("\n")[-1] == " track differs: the losses do not compare"
    a, b = side(run(5.0, 4.0, device="8 x H100")), side(run(5.0, 3.0, device="H200"))
    assert text(a, b).count("not on one device") == 2
    b.runs[0].device = "8 x H100"
    assert "not on one device" not in text(a, b)


def test_a_folder_of_a_record_is_all_its_runs(tmp_path, refused):
    for i in range(2):
        write_log(tmp_path / "2026-11-22_Muon" / "logs", f"r{i}", (6.0, 5.0 + i))
    found = diff.load_group(tmp_path / "2026-11-22_Muon")
    assert found.name == "2026-11-22_Muon" and [t.last.loss for t in found.runs] == [5.0, 6.0]
    (tmp_path / "empty").mkdir()
    refused("diff", tmp_path / "empty", tmp_path)


def test_json_holds_all_numbers_and_no_nan(tmp_path, call):
    a, b = write_log(tmp_path, "a", (6.0, 5.0)), write_log(tmp_path, "b", (6.0, math.nan), end="nonfinite")
    found = json.loads(call("diff", a, b, "--json").out, parse_constant=pytest.fail)
    assert found["curve"][1]["b"] == "nan" and found["curve"][0]["difference"] == 0
    assert found["b"]["finished"] == 0 and found["time"]["a"]["total_s"] == 0.02
    assert {"code", "hyperparameters", "environment", "data", "equal_time", "verdict"} <= set(found)


@pytest.mark.parametrize("words, environment, terminal, coloured", [
    ([], {}, False, False), ([], {}, True, True), ([], {"NO_COLOR": "1"}, True, False),
    (["--color=always"], {"NO_COLOR": "1"}, False, True), (["--color=never"], {}, True, False)])
def test_colour_is_for_terminals(tmp_path, call, monkeypatch, words, environment, terminal, coloured):
    log = write_log(tmp_path)
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in {"TERM": "xterm", **environment}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.stdout.isatty", lambda: terminal)
    assert ("\x1b[" in call("diff", log, log, "--no_pager", *words).out) == coloured


def test_long_text_goes_through_the_pager(capfd, monkeypatch):
    monkeypatch.setenv("PAGER", "tr a b")
    monkeypatch.setenv("LINES", "20")
    for lines, may_page, letter in ((30, True, "b"), (30, False, "a"), (3, True, "a")):
        diff.write("a\n" * lines, may_page)
        assert capfd.readouterr().out == f"{letter}\n" * lines


def test_a_stranger_s_escapes_are_shown_and_not_sent():
    a = run(5.0, 4.0, code=b"x\n", hyperparameters={"\x1b[2J": 1}, device="\x1b[31mred", status="\x07")
    b = run(5.0, 4.0, code=b"\x1b]0;title\x07\n\xff\r\t\xe2\x80\xae", hyperparameters={"lr": "\x1b[0m"})
    told = text(side(a), side(b))
    assert told.replace("\n", "").isprintable() and "\\x1b]0;title\\x07" in told


def test_hostile_sources_and_names_are_content_to_git_and_nothing_else(tmp_path, monkeypatch):
    """Names that are options or lead out of the folder, NUL, CR, a long line, lines like git's own."""
    fake = b"diff --git a/a/000000 b/b/000000\n@@ -1 +1 @@\nx\0y\rz\n"
    names = ("-x", "--output=owned", "../x", "/etc/passwd", ".gitattributes", ".git/config", "a\x1b[2J\n")
    a = run(code=b"1\n", files={name: fake + b"old\n" for name in names})
    b = run(code=b"2\n" + b"w" * 300_000 + b"\n", files={name: fake + b"new\n" for name in names})
    monkeypatch.chdir(tmp_path)
    found = sources(a, b)
    assert len(found) == 1 + len(names) and not list(tmp_path.iterdir())
    for one in found[1:]:
        assert (one.added, one.removed) == (1, 1) and one.lines[-2:] == ["-old", "+new"]
        assert "x\\x00y\\rz" in one.lines[-3] and all(line.isprintable() for line in one.lines)
    assert max(map(len, found[0].lines)) < 1100
    told = text(side(a), side(b), stat=True)
    assert " ../x " in told and "| 2 +-\n" in told and "8 files changed" in told
    assert told.replace("\n", "").isprintable()


def test_no_configuration_of_git_and_no_checkout_changes_the_diff(tmp_path, monkeypatch):
    """A user's external diff, prefix or context; the same in a checkout that holds the temporary folder."""
    a, b = (run(code=line + b"1\n2\n3\n4\n5\n") for line in (b"one\n", b"two\n"))
    wanted = sources(a, b)[0].lines
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
    assert sources(a, b)[0].lines == wanted and len(wanted) == 8 and not (tmp_path / "owned").exists()


def test_without_git_one_line_says_so_and_the_rest_is_compared(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    a, b = side(run(5.0, 4.0)), side(run(5.0, 4.5, code=b"x = 2\n"))
    for stat in (False, True):
        lines = text(a, b, stat=stat).split("\n")
        assert lines[0].startswith("differ in code; final loss B - A = +0.5000")
        assert [line for line in lines if "git" in line] == [
            " script: git is missing, which finds the lines that differ; install it"]


@pytest.mark.parametrize("width", [40, 80, 200])
def test_tables_keep_to_the_width_of_the_terminal(width):
    a = run(5.0, 4.0, hyperparameters={"n" * 20: "v" * 300, "w": 1}, device="d" * 300)
    b = run(5.0, 4.0, hyperparameters={"n" * 20: "w" * 300, "w": 2}, code=b"y\n" * 500)
    lines = text(side(a), side(b), width, stat=True).split("\n")
    told = [line for line in lines if " -> " in line or "|" in line or "unknown on" in line]
    assert len(told) > 4 and max(map(len, told)) <= width


def test_what_cannot_be_read_is_refused_in_one_line(tmp_path, refused):
    log = write_log(tmp_path)
    (tmp_path / "no.txt").write_text("hello\n")
    for words in ([log, "none.txt"], [tmp_path / "no.txt", log], [log, "none.py"]):
        refused("diff", *words)


def test_a_side_that_mixes_codes_says_so():
    a, mixed = side(run(5.0, 4.0)), side(run(5.0, 4.0), run(5.0, 4.1, code=b"x = 2\n"))
    told = text(a, mixed)
    assert "the runs of B differ in code; its first one is compared" in told and "runs of A" not in told
