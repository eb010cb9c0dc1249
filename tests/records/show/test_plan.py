"""python -m records plan: known numbers of runs, and chances that agree with the exact ones."""
import json
from collections.abc import Callable

import pytest

from records.tools.check.significance import LOOKS, power


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
