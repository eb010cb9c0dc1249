"""What a race shows follows from race.json and its logs, and only where its runs can be compared."""
import math
from pathlib import Path

import pytest
from scipy.stats import ttest_1samp
from synthetic import (HARNESS, SCRIPT, change, checkout, edited, ending, killed, race_logs, raced, setting,
    sound, write)

from records.tools.check import race
from records.tools.read import tracks
from records.tools.read.log import read_log, sha256
from records.tools.read.logs import load_runs
from records.tools.read.values import ReadError


def judge(folder: Path, side: str = "A") -> dict:
    return race.Race(folder).judge(side)


def test_the_verdict_follows_from_the_logs_and_agrees_with_scipy(tmp_path):
    assert "".join(race.order(5)) == "ABBAABBAAB"
    found = judge(raced(tmp_path))
    assert found["verdict"] == "faster" and found["pairs"] == 4 and found["killed"] == 0
    assert found["loss"] == max(loss for pair in found["losses"] for loss in pair)
    apart = [a - b for a, b in found["times"]]
    oracle = ttest_1samp(apart, 0, alternative="less")
    assert math.isclose(found["p"], oracle.pvalue, rel_tol=1e-9)
    assert math.isclose(found["t"], oracle.statistic)
    bound = oracle.confidence_interval(0.99).high
    assert math.isclose(found["bound_s"], bound, rel_tol=1e-9) and found["df"] == 3
    assert math.isclose(found["difference_s"], sum(apart) / 4) and found["loss_difference"] == 0


def test_slower_and_no_difference_have_their_words_and_the_first_pair_is_dropped(tmp_path):
    assert judge(raced(tmp_path / "1", a_later_ms=5.0))["verdict"] == "slower"
    assert judge(raced(tmp_path / "2", a_later_ms=0.0))["verdict"] == "no difference shown"
    late = setting(vals=[[0, 9.0, 0], [4, 8.0, 10**12], [8, 7.0, 10**13]])
    assert judge(raced(tmp_path / "3", spoil=late, slot=0))["verdict"] == "faster"


def test_from_the_other_side_a_race_shows_the_opposite(tmp_path):
    a, b = (judge(raced(tmp_path / side), side) for side in "AB")
    assert (a["verdict"], b["verdict"]) == ("faster", "slower") and b["reason"].startswith("B against A")
    assert b["difference_s"] == -a["difference_s"] and math.isclose(b["p"], 1 - a["p"])
    mean_a = sum(time for time, _ in a["times"]) / 4
    assert math.isclose(b["difference_percent"], 100 * b["difference_s"] / mean_a)


def test_three_sides_share_a_sitting_and_are_each_judged_against_the_first(tmp_path):
    assert "".join(race.order(7, "ABC")) == "BAC" "ABCCBABCAACBCABBAC"  # each side in each place, twice
    folder = raced(tmp_path, n=6, a_later_ms=5.0, sides="ABC")
    b, c, a = (judge(folder, side) for side in "BCA")
    assert (b["verdict"], c["verdict"], a["verdict"]) == ("faster", "slower", "slower")
    assert (b["against"], c["against"], a["against"]) == ("A", "A", "B") and b["loss"] == c["loss"]
    assert b["pairs"] == 6 and b["reason"].endswith("(Holm, 2 tests)")
    of_b, of_c = (ttest_1samp([x - y for x, y in found["times"]], 0, alternative="less") for found in (b, c))
    assert math.isclose(b["p"], 2 * of_b.pvalue, rel_tol=1e-9) and math.isclose(c["p"], of_c.pvalue)
    assert math.isclose(b["bound_s"], of_b.confidence_interval(0.995).high, rel_tol=1e-9)
    digest = read_log(race_logs(folder, "C")[0]).manifest["code"]["digest"]
    found = race.Race(folder).attempts_of(digest)
    assert [(f["seed"], f["dropped"]) for f in found] == [(i, i == 0) for i in range(7)]


def test_a_race_tells_every_attempt_of_a_code_as_a_ledger_does(tmp_path):
    folder = edited(raced(tmp_path), killed)
    log = race_logs(folder, "A")[0]
    digest = read_log(log).manifest["code"]["digest"]
    found = race.Race(folder).attempts_of(digest)
    assert [(f["seed"], f["dropped"], f["status"]) for f in found] == [
        (0, True, "ok"), (1, False, "ok"), (2, False, "incomplete"), (2, False, "ok"), (3, False, "ok"),
        (4, False, "ok")]
    assert found[1]["sha256"] == sha256(log.read_bytes()) and found[1]["run_id"] == log.stem
    assert race.Race(folder).attempts_of("f" * 64) == []


def test_time_is_taken_where_the_curve_first_reaches_the_highest_final_loss(tmp_path):
    def log(*vals: list):
        run = sound(0)
        run.vals = list(vals)
        run.train = []
        return load_runs(write(tmp_path / str(len(list(tmp_path.iterdir()))), run))[0]
    curve = [0, 6.0, 0], [4, 5.0, 10**9], [8, 4.0, 3 * 10**9]
    assert race.time_to(log(*curve), 4.5) == 2.0
    assert race.time_to(log(*curve), 5.0) == 1.0 and race.time_to(log(*curve), 4.0) == 3.0
    assert race.time_to(log(*curve), 7.0) == 0.0
    assert race.time_to(log([0, 6.0, 0], [4, 4.5, 10**9], [8, 4.9, 2 * 10**9]), 4.9) < 1.0
    assert race.time_to(log([0, math.inf, 0], [4, 4.5, 10**9]), 4.9) == 1.0


@pytest.mark.parametrize("spoil, words", [
    (setting(script=b"from harness.run import open_run\n"), "code"),
    (change("seed", 77), "seed 77, declared 1"),
    (change("track", "other"), "track other"), (change("sys.cpu", "Another"), "another cpu"),
    (change("sys.gpus", ["H100"]), "another gpus"), (change("sys.torch", "2.12.0"), "another torch"),
    (change("world_size", 2), "another world size"), (change("data.val", {}), "another validation"),
    (change("hyperparameters.num_iterations", 9), "other hyperparameters"),
    (change("clocks.realtime_ns", 5), "not begun after"),
    (change("resumed_from", {"step": 4}), "a resumed run"),
    (ending(status="failed"), "ended failed"), (ending(status="nonfinite"), "ended nonfinite"),
    (ending(status="interrupted"), "1 of 10 runs are missing"),
])
def test_a_run_that_does_not_fit_makes_the_race_undecided(spoil, words, tmp_path):
    found = judge(raced(tmp_path, spoil=spoil, slot=2))
    assert found["verdict"] == "could not tell" and words in found["reason"] and math.isnan(found["p"])


@pytest.mark.parametrize("edit, words", [
    (lambda plan: plan["attempts"].append(plan["attempts"][3]), "two finished logs"),
    (lambda plan: plan.update(attempts=plan["attempts"][:7]), "3 of 10 runs are missing")])
def test_a_log_that_two_attempts_name_or_that_is_missing_decides_nothing(edit, words, tmp_path):
    assert words in judge(edited(raced(tmp_path), edit))["reason"]


def test_sides_on_different_harnesses_need_the_track_to_accept_both(tmp_path, monkeypatch):
    """A side on a slower referee would make the other one faster."""
    monkeypatch.setattr(tracks, "ROOT", checkout(tmp_path / "checkout"))

    def slow_referee(run):
        if run.script != SCRIPT:
            run.files = {**HARNESS, "harness/run.py": b"sleep\n"}
    assert "different harnesses" in judge(raced(tmp_path / "race", spoil=slow_referee))["reason"]


@pytest.mark.parametrize("edit", [
    lambda plan: plan.update(order=plan["order"][::-1]), lambda plan: plan.update(n=10**9),
    lambda plan: plan.update(format=2), lambda plan: plan.update(C=plan["A"]),
    lambda plan: plan.update(seeds=[0] * 5), lambda plan: plan.update(rule="the best run counts"),
    lambda plan: plan["attempts"][0].update(log="../../x"), lambda plan: plan.update(A=None),
    lambda plan: plan["attempts"].append(3), lambda plan: plan["attempts"][0].update(log="absent.txt"),
    lambda plan: plan["attempts"][0].update(run="0"), lambda plan: plan["attempts"][0].update(run=10),
    lambda plan: plan["attempts"].append({"run": -1, "log": None}),
])
def test_a_race_file_that_no_race_wrote_is_refused_in_one_line(edit, tmp_path):
    with pytest.raises(ReadError) as caught:
        judge(edited(raced(tmp_path), edit))
    assert "\n" not in str(caught.value) and str(caught.value).startswith(("race.json: ", "absent.txt: "))
