"""python -m records stats: what counts of runs, what is said of them, and what is refused."""
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from small_logs import FIXTURES, SCRIPT, manifest, write_log, write_public

from records.tools.read.run import Point, Run
from records.tools.show import stats
from records.tools.show.group import Group, kind, outcome

GOOD = (4.9971, 4.9978, 4.9987, 4.9984, 4.9979, 4.9981, 4.9976, 4.9985)  # the tiny track's target is 5.0


def write(folder: Path, seed: int | None, *losses: float, ms: float = 10.0, end: str | None = "ok",
          **changes) -> Path:
    """Write the log of a run validated at steps 0, 2, ... in times of its own, and return its path."""
    count = len(list(folder.glob("*.txt")))
    place = {"world_size": 1, "sys": {"cpu": "a CPU"}}
    return write_log(folder, f"run{count}", losses, end, last=2 * len(losses) - 2, ms=ms,
                     later_ms=count**2 / 100, **{"seed": seed, **place, **changes})


def runs(folder: Path, losses: tuple = GOOD, **changes) -> list[str]:
    """Write one log a loss, with seeds 0, 1, ..."""
    return [str(write(folder, seed, 6.0, loss, **changes)) for seed, loss in enumerate(losses)]


@pytest.fixture
def called(call) -> Callable:
    """Return called(*words, code=0) -> JSON of the command; a terminal must see the same verdict."""
    def called(*words: object, code: int = 0) -> dict:
        said = call("stats", *words, code=code).out
        report = json.loads(call("stats", *words, "--json", code=code).out, parse_constant=pytest.fail)
        for part in ("target", "vs"):
            assert part not in report or f"{report[part]['word']}: {report[part]['reason']}" in said
        return report
    return called


def run(loss: float, i: int, **facts) -> Run:
    """Return a run as a public log tells it: 4 digits, no seed, no status."""
    points = [Point(0, 10.8, 0.0), Point(90, loss + 0.001, 900.0 + i), Point(100, loss, 1000.0 + i)]
    return Run(Path(f"{i}.txt"), 0, "D", None, 100, points, val_decimals=4, code=b"x", **facts)


def group(*losses: float) -> Group:
    """Return public runs with these losses."""
    return Group("public", [run(loss, i) for i, loss in enumerate(losses)])


def test_eight_seeds_below_the_target_of_their_track_are_proof(tmp_path, called):
    found = called(*runs(tmp_path))["target"]
    assert found["word"] == "PROVEN" and found["target"] == 5.0 and found["test"]["n"] == 8
    assert found["test"]["mean"] == pytest.approx(4.9980125, rel=1e-12)
    assert found["bound"] < 5.0 and found["runs_in_reach"] == 8


@pytest.mark.parametrize("losses, code, word", [
    (GOOD[:7], 0, "PROMISING"), ((5.0008, *GOOD[:2], 5.0007), 1, "NOT SHOWN"), (GOOD[:1], 2, "NOT SHOWN"),
    ((4.99,) * 4, 2, "NOT SHOWN"), ((5.1, 5.11, 5.12, 5.1), 1, "REFUTED")])
def test_the_exit_code_says_whether_the_claim_holds(tmp_path, called, losses, code, word):
    assert called(*runs(tmp_path, losses), code=code)["target"]["word"] == word


def test_a_named_target_wins_over_that_of_the_track(tmp_path, called):
    found = called(*runs(tmp_path), "--target", "4.9", code=1)["target"]
    assert found["word"] == "REFUTED" and found["target"] == 4.9


def test_repeats_of_a_seed_count_once_by_their_mean_and_are_named(tmp_path, called):
    """Two seeds run five times each are two runs: taken as ten, the test errs ten times as often."""
    logs = [write(tmp_path, seed, 6.0, 4.99 + seed / 100 + i / 1000) for seed in (0, 1) for i in range(5)]
    report = called(*logs, code=1)
    assert report["target"]["test"]["n"] == 2 and len(report["runs"]) == 10
    assert report["target"]["test"]["mean"] == pytest.approx(4.997)
    assert [note.split(" (")[0].split(":")[0] for note in report["notes"]] == [
        f"seed {seed} was run 5 times and counts once, by its mean" for seed in (0, 1)]


@pytest.mark.parametrize("end, loss, says", [
    ("failed", 4.99, "ended failed"), ("nonfinite", math.nan, "ended nonfinite"), (None, 4.99, "incomplete"),
    ("stopped", 4.99, "ended stopped"), ("ok", math.inf, "val_loss inf")])
def test_a_run_that_did_not_end_well_makes_the_evidence_invalid(tmp_path, called, end, loss, says):
    logs = [*runs(tmp_path), write(tmp_path, 99, 6.0, loss, end=end)]
    found = called(*logs, code=1)["target"]
    assert found["word"] == "INVALID" and found["test"] is None
    assert found["reason"].startswith("run8.txt: ") and says in found["reason"]
    assert called(*logs, "--vs", *runs(tmp_path / "old"), code=1)["vs"]["word"] == "INVALID"


def test_a_public_run_that_stopped_before_its_last_step_has_no_final_loss():
    early = run(4.99, 0)
    early.steps = 120
    found = outcome(Group("early", [early]))
    assert found.losses == {} and "step 100 of 120; --step 100" in found.invalid[0]
    assert list(outcome(Group("early", [early]), 100).losses.values()) == [4.99]


def test_printed_losses_give_the_known_p_and_logs_without_a_seed_say_so():
    x = [3.2763, 3.2806, 3.2789, 3.2785, 3.2780, 3.2790, 3.2794, 3.2798, 3.2788, 3.2802,
         3.2798, 3.2783, 3.2789, 3.2775, 3.2811, 3.2793, 3.2802, 3.2785, 3.2801, 3.2803]
    judged = outcome(group(*x))
    found = stats.against(judged, 3.28, own=False)
    assert found["test"].p == pytest.approx(0.0023570716325535, rel=1e-9)
    assert judged.notes == ["20 logs do not tell their seed; each is taken for a seed of its own"]
    assert found["word"] == "PROMISING" and found["runs_in_reach"] == 14


def test_public_logs_are_judged_like_our_own(tmp_path, called, refused):
    """Their seeds stand in the script, their losses have four digits, their target must be named."""
    rule = "=" * 100
    for i, loss in enumerate((3.2791, 3.2778, 3.2787, 3.2784)):
        val = "".join(f"step:{step}/1390 val_loss:{x:.4f} train_time:{step * 60 + i}ms step_avg:60.00ms\n"
                      for step, x in ((0, 10.8258), (1375, loss + 0.004), (1390, loss)))
        (tmp_path / f"{i}.txt").write_text(f"import torch\nSEED = {i}\n{rule}\nRunning Python 3.12.7\n"
                                           f"Running PyTorch 2.7.0 compiled for CUDA 12.6\n{rule}\n{val}")
    assert "--target" in refused("stats", tmp_path)
    found = called(tmp_path, "--target", "3.28")["target"]
    assert found["test"]["p"] == pytest.approx(0.0059834561492737, rel=1e-9)


def test_runs_at_the_target_are_counted_as_in_reach():
    assert stats.against(outcome(group(3.28, 3.27, 3.29)), 3.28, own=False)["runs_in_reach"] == 2


def test_another_step_is_judged_when_asked_for(tmp_path, called):
    logs = [write(tmp_path, seed, 6.0, loss + 1, loss, end="stopped") for seed, loss in enumerate(GOOD)]
    assert called(*logs, "--step", "4")["target"]["word"] == "PROVEN"
    assert called(*logs, "--step", "2", code=1)["target"]["word"] == "REFUTED"
    logs = [*runs(tmp_path / "short"), write(tmp_path, 9, 6.0, 5.5, 4.99)]
    reason = called(*logs, "--step", "4", code=1)["target"]["reason"]
    assert reason.count("no validation at step 4") == 8  # none is dropped


def moved(folder: Path, by: float, **changes) -> list[str]:
    """Write the good runs once more, their losses moved and in another order."""
    return runs(folder, tuple(x + by for x in reversed(GOOD)), **changes)


def test_equal_seeds_are_compared_in_pairs_and_others_by_welch(tmp_path, called):
    new, old = runs(tmp_path / "new"), moved(tmp_path / "old", 0.001)
    report = called(*new, "--vs", *old)
    found = report["vs"]
    assert found["word"] == "PROMISING" and "target" not in report and found["reason"].endswith("(paired)")
    assert found["test"]["mean"] == pytest.approx(-0.001) == found["new"] - found["old"]
    found = called(*new[:6], "--vs", *old)["vs"]
    assert found["reason"].endswith("(Welch)") and found["test"]["n"] == 14


def test_a_gain_that_is_the_same_for_every_seed_has_no_p(tmp_path, called):
    """Subtracted in floats the gains differ in their last bits, and p would be 1e-40."""
    new, old = runs(tmp_path / "new"), runs(tmp_path / "old", tuple(round(x + 0.001, 4) for x in GOOD))
    called(*new, "--vs", *old, code=2)


def test_not_worse_than_a_margin_is_a_claim_of_its_own(tmp_path, called):
    new, old = runs(tmp_path / "new"), moved(tmp_path / "old", -0.0001)
    called(*new, "--vs", *old, code=1)
    found = called(*new, "--vs", *old, "--margin", "0.005")["vs"]
    assert found["word"] == "PROMISING" and found["margin"] == 0.005
    assert found["test"]["mean"] == pytest.approx(0.0001)


def test_both_claims_must_hold_where_both_are_made(tmp_path, called):
    new, old = runs(tmp_path / "new"), moved(tmp_path / "old", 0.01)
    for words, code in (([*new, "--vs", *old, "--target", "5"], 0),
                        ([*new, "--vs", *old, "--target", "4.9"], 1),
                        ([*old, "--vs", *new, "--target", "5.02"], 1),
                        ([*new, "--vs", *old[:1], "--target", "4.9"], 1),
                        ([*new, "--vs", *old[:1], "--target", "5"], 2)):
        called(*words, code=code)


def test_public_seeds_in_the_script_make_no_other_code():
    sources = (b"SEED = 2\nlr = 1\n", b"SEED = 8\nlr = 1\n", b"SEED = 2\nlr = 2\n")
    x, y, z = (kind(Run(Path("a"), 0, "D", code=source)) for source in sources)
    assert x == y != z


def test_logs_that_carry_no_code_are_tested_together_and_stderr_says_so(tmp_path, call):
    source = (FIXTURES / "llmc.log").read_text()
    for i in range(3):
        (tmp_path / f"{i}.log").write_text(source.replace("tel:10.2500", f"tel:10.2{i}00"))
    out, err = call("stats", *sorted(tmp_path.iterdir()), "--target", "10", "--step", "3", code=1)
    assert out.startswith(f"{'runs':30}3\n{'seeds with a loss':30}3\n")
    assert "3 logs do not carry their code" in err


@pytest.mark.parametrize("losses, change, says", [
    ((6.0, 4.99), {"code": {**manifest()["code"], "digest": "e" * 64}}, "differ in code"),
    ((6.0, 4.99), {"hyperparameters": {"lr": 0.2}}, "differ in hyperparameters"),
    ((6.0, 4.99), {"track": "huge"}, "differ in track"), ((6.0, 5.5, 4.99), {}, "end at steps 2, 4")])
def test_runs_that_are_no_sample_are_refused(tmp_path, refused, losses, change, says):
    assert says in refused("stats", *runs(tmp_path), write(tmp_path, 9, *losses, **change))


def test_what_cannot_be_tested_is_refused_in_one_line(tmp_path, refused):
    log, other = runs(tmp_path, GOOD[:2])
    bare, odd, far = (write(tmp_path / "more", 0, 6.0, 4.99, **change) for change in (
        {"track_row": {}}, {"track_row": {"target": "nan"}}, {"track": "huge"}))
    (tmp_path / "empty").mkdir()
    cut = tmp_path / "cut.txt"
    cut.write_bytes(Path(log).read_bytes()[:len(SCRIPT) + 140])
    for words, says in (([log, log], "same run"), ([bare], "--target"), ([odd], "--target"),
                        ([log, "--target", "nan"], "finite"), ([log, "--margin", "1"], "--vs"),
                        ([log, "--vs", far], "do not compare"), ([log, "--step", "3"], "step 3"),
                        ([cut], "manifest"),
                        ([tmp_path / "empty"], "no log"), (["none.txt"], "cannot be read")):
        assert says in refused("stats", *words)


def test_losses_at_the_ends_of_the_floats_are_no_crash(tmp_path, called):
    a, b = ([write(tmp_path / name, seed, 6.0, loss) for seed, loss in runs] for name, runs in (
        ("a", ((0, 1.7e308), (0, 1.7e308), (1, 0.1))), ("b", ((0, -1.7e308), (1, -1.7e308)))))
    for code, words in ((1, a), (2, b), (1, [*a, "--vs", *b, "--margin=1e308"]), (1, [*b, "--vs", *a])):
        called(*words, code=code)


def public(folder: Path, losses: tuple, *, ms: float = 60.0, **how) -> list[Path]:
    """Write a public log a loss, each run a little slower than the one before."""
    return [write_public(folder / f"{i}.txt", {0: 11.0, 180: loss + 0.001, 200: loss}, ms=ms + i / 100, **how)
            for i, loss in enumerate(losses)]


LOSSES = (3.2791, 3.2778, 3.2787, 3.2784, 3.2781)


def test_a_faster_change_of_equal_loss_gets_one_verdict_on_both(tmp_path, called):
    """`stats --vs` said NOT SHOWN of a public record that is 1.04 s faster with p 2.5e-12."""
    new, old = public(tmp_path / "new", LOSSES, ms=59), public(tmp_path / "old", LOSSES[::-1])
    called(*new, "--vs", *old, code=1)
    found = called(*new, "--vs", *old, "--margin", "0.002", "--time")["vs"]
    assert found["word"] == "PROMISING" and found["time_test"]["p"] < 1e-6
    assert found["time_test"]["mean"] == pytest.approx(-0.2) and found["old_s"] == pytest.approx(12.004)
    assert "; time -0.200 s (-1.67 %), p " in found["reason"] and "logs do not tell" in found["reason"]
    assert called(*old, "--vs", *new, "--margin", "0.002", "--time", code=1)["vs"]["word"] == "REFUTED"
    assert called(*new, "--vs", *old, "--margin", "1e-5", "--time", code=1)["vs"]["word"] == "NOT SHOWN"
    same = public(tmp_path / "same", LOSSES)
    assert called(*same, "--vs", *old, "--margin", "0.002", "--time", code=1)["vs"]["word"] == "NOT SHOWN"


@pytest.mark.parametrize("how, says", [
    ({"gpus": 1}, "devices differ"), ({"driver": "999"}, "drivers differ (570.1, 999)")])
def test_times_of_two_hosts_are_refused(how, says, tmp_path, refused):
    new, old = public(tmp_path / "new", LOSSES, ms=59, **how), public(tmp_path / "old", LOSSES)
    assert says in refused("stats", *new, "--vs", *old, "--margin", "0.002", "--time")
    assert "--margin" in refused("stats", *new, "--vs", *old, "--time")


def test_a_change_that_takes_other_steps_is_not_one_of_speed_alone(tmp_path, refused):
    old = public(tmp_path / "old", LOSSES)
    new = [write_public(tmp_path / f"{i}.txt", {0: 11, 190: loss}, ms=60 + i)
           for i, loss in enumerate(LOSSES)]
    assert "take 190 and 200 steps" in refused("stats", *new, "--vs", *old, "--margin", "0.01", "--time")


def test_public_track_3_has_a_z_test_and_counts_steps_between_results(tmp_path, called):
    new = public(tmp_path / "new", (3.2779, 3.2781) * 2, seconds=True, code="new")
    old = [write_public(tmp_path / f"{i}.txt", {0: 11, 300: 3.278}, seconds=True, code="old", ms=60 + i)
           for i in range(4)]
    found = called(*new)["target"]
    assert found["word"] == "PROMISING" and "; but logs of this format show too little" in found["reason"]
    assert found["alpha"] == 0.001 and "at sigma 0.0013" in found["reason"]
    found = called(*new, "--vs", *old)["vs"]
    assert found["word"] == "PROMISING" and "0.004500 / 0.7071 = 0.00636" in found["reason"]
    called(*old, "--vs", *new, code=1)


def test_times_that_are_all_zero_are_refused(tmp_path, refused):
    """It divided by their mean."""
    new = public(tmp_path / "new", LOSSES)
    old = [write_public(tmp_path / f"{i}.txt", {0: 11.0, 180: loss + 0.001, 200: loss}, ms=0)
           for i, loss in enumerate(LOSSES)]
    says = refused("stats", *new, "--vs", *old, "--margin", "0.002", "--time")
    assert "the times of --vs are all 0" in says
