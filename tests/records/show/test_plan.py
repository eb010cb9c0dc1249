"""python -m records plan: known numbers of runs, and chances that agree with the exact ones."""
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from small_logs import write_log, write_public

from records.tools.check.significance import LOOKS, power
from records.tools.show import plan
from records.tools.show.group import outcome


@pytest.fixture
def planned(call) -> Callable:
    """Return planned(*words) -> the plan as JSON."""
    return lambda *words: json.loads(call("plan", *words, "--json").out)


def test_runs_hours_and_looks_are_planned(planned):
    found = planned("--buffer", "0.001", "--sigma", "0.0013", "--power", "0.9", "--minutes", "12")
    chance = power(25, 0.001 / 0.0013)
    assert found["one_test"] == {"runs": 25, "hours": 5.0, "chance_to_be_shown": chance}
    looks = found["looks"]
    assert looks["alpha_each"] == 0.0025
    assert looks["hours"] == pytest.approx(looks["runs_expected_at_most"] / 5)
    assert set(found) == {"one_test", "looks"}


@pytest.mark.parametrize("d, shown, runs", [(0.77, 0.906, 23.3), (1.0, 0.994, 17.7), (1.5, 1.0, 10.8)])
def test_a_campaign_does_no_worse_than_is_planned(planned, d, shown, runs):
    """As campaigns drawn run by run do: their chance to be shown by run 32, and the runs that they take."""
    found = planned("--buffer", d, "--sigma", 1)["looks"]
    chances = [found["shown_by_run"][str(look)] for look in LOOKS]
    assert chances == [power(look, d, 0.0025) for look in LOOKS] == sorted(chances)
    assert shown - 0.015 < chances[-1] <= shown + 0.002  # theirs have a standard error of 0.0013
    assert runs - 0.2 < found["runs_expected_at_most"] < runs + 1


@pytest.mark.parametrize("words, says", [
    ("--buffer 0", "--buffer 0"), ("--buffer -1", "--buffer -1"), ("--buffer nan", "--buffer nan"),
    ("--buffer 1 --power 1", "--power"), ("--buffer 1 --alpha 2", "--alpha"),
    ("--buffer 1 --sigma inf", "--sigma"), ("--buffer 1 --minutes -3", "--minutes"),
    ("--buffer 1e-6 --sigma 9", "billion")])
def test_a_plan_that_makes_no_sense_is_refused_in_one_line(refused, words, says):
    assert says in refused("plan", *words.split())


def public(folder: Path, spread: float, **how) -> list[Path]:
    """Write four seeds that end at 3.275 on average, and fall by 0.0001 a step before."""
    steps = (100, 150, 180, 190, 200)
    return [write_public(folder / f"{i}.txt", {step: 3.275 + (200 - step) / 1e4 + off * spread
                                               for step in steps}, ms=60 + i, **how)
            for i, off in enumerate((-1, 1, -1, 1))]


def test_logs_tell_after_how_few_steps_their_target_is_still_provable(tmp_path, planned):
    """Going back from the end, and by what a step less costs, for each declared number of seeds."""
    logs = public(tmp_path, 0.001)
    found = planned(*logs, "--target", "3.28", "--minutes", "10")
    assert found["nats_per_step"] == pytest.approx(0.0001)
    assert found["sd"] == pytest.approx(0.0011547, rel=1e-4)
    assert found["shown_after_step"] == 180  # 3.277, not 3.28
    steps = [found["steps_for"][f"{n}_seeds"] for n in LOOKS]
    assert steps == sorted(steps, reverse=True) and 150 < steps[-1] < 160 < 200 < steps[0]
    for n, fewest in zip(LOOKS, steps):
        buffer = 0.005 - (200 - fewest) * 0.0001
        d, less = buffer / found["sd"], (buffer - 0.0002) / found["sd"]
        assert power(n, d, 0.0025) > 0.89 > power(n, less, 0.0025)
    assert found["hours_for"]["4_seeds"] == pytest.approx(4 / 6 * steps[0] / 200)


def test_a_public_track_plans_by_its_own_rule(tmp_path, planned):
    found = planned(*public(tmp_path, 0.001, seconds=True))
    assert (found["target"], found["sd"], found["nats_per_step"]) == (3.28, 0.0013, 0.000045)
    assert found["steps_for"]["16_seeds"] == 200 - int((0.005 - (0.004 + 1.28155 * 0.0013) / 4) / 0.000045)


def test_a_plan_from_logs_that_cannot_be_made_is_refused_in_one_line(tmp_path, refused):
    logs = public(tmp_path, 0.001)
    for words in ([*logs, "--buffer", "1"], []):
        assert "expected logs to plan from, or --buffer" in refused("plan", *words)
    assert "--target" in refused("plan", *logs)
    flat = [write_public(tmp_path / "flat" / f"{i}.txt", {0: 11, 100: 3.2, 200: 3.2}, ms=60 + i)
            for i in (0, 1)]
    assert "does not fall from step 100 to 200" in refused("plan", *flat, "--target", "3.28")


def test_numbers_that_no_loss_has_are_refused_in_one_line(tmp_path, refused):
    """Each was a traceback, or words about converting NaN to an integer."""
    logs = public(tmp_path, 0.001)
    for target in ("inf", "nan", "-1e300"):
        assert "expected fewer than 1e+09 nats" in refused("plan", *logs, f"--target={target}")
    huge = [write_log(tmp_path / "huge", f"r{i}", (1.5e308, 1e308), seed=i, last=2, ms=9 + i) for i in (0, 1)]
    assert "losses up to 1e+308" in refused("plan", *huge)
    odd = [write_log(tmp_path / "odd", f"r{i}", (loss, 4.9), seed=i, last=2, ms=9 + i)
           for i, loss in enumerate((math.inf, -math.inf))]
    assert "--nats_per_step" in refused("plan", *odd)


def test_a_plan_judges_all_runs_once_however_often_they_validated(tmp_path, planned, monkeypatch):
    """Once a step, each time through all validations: 6,000 of them took 35.6 s."""
    judged = []
    monkeypatch.setattr(plan, "outcome", lambda *words: judged.append(words) or outcome(*words))
    assert planned(*public(tmp_path, 0.001), "--target", "3.28")["shown_after_step"] == 180
    assert len(judged) == 1
