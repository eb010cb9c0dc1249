"""python -m records plan: known numbers of runs, and chances that agree with the exact ones."""
import json
from collections.abc import Callable

import pytest

from records.tools.check.significance import LOOKS, power
from records.tools.show import plan


@pytest.fixture
def planned(call) -> Callable:
    """Return planned(*words) -> the plan as JSON."""
    return lambda *words: json.loads(call("plan", *words, "--json").out)


def test_runs_hours_and_looks_are_planned(planned):
    found = planned("--buffer", "0.001", "--sigma", "0.0013", "--power", "0.9", "--minutes", "12")
    assert found["runs"] == 25 and found["hours"] == 5.0 and found["power"] == power(25, 0.001 / 0.0013)
    assert [look["runs"] for look in found["looks"]] == list(LOOKS) and found["alpha_per_look"] == 0.0025
    assert found["expected_hours"] == pytest.approx(found["expected_runs"] / 5)
    assert "time" not in found


@pytest.mark.parametrize("d, shown, runs", [(0.77, 0.906, 23.3), (1.0, 0.994, 17.7), (1.5, 1.0, 10.8)])
def test_the_simulated_campaigns_give_the_known_answers(d, shown, runs):
    chances, expected = plan.campaign(d, 0.01, LOOKS)  # tolerances: four standard errors
    assert chances[-1] == pytest.approx(shown, abs=0.006) and expected == pytest.approx(runs, abs=0.2)
    assert chances == sorted(chances) and (chances, expected) == plan.campaign(d, 0.01, LOOKS)


def test_the_first_look_is_accepted_as_often_as_the_exact_power_says():
    chances, _ = plan.campaign(1.5, 0.01, LOOKS)
    assert chances[0] == pytest.approx(power(4, 1.5, 0.0025), abs=0.008)
    assert plan.campaign(1e9, 0.01, LOOKS) == ([1.0] * 4, 4.0)


def test_at_the_target_a_campaign_is_accepted_no_more_often_than_alpha():
    """As 100,000 campaigns drawn run by run say in the tests of significance; standard error 0.0004."""
    chances, expected = plan.campaign(0, 0.01, LOOKS)
    assert 0.007 < chances[-1] <= 0.01 and expected > 31.7


def test_a_gain_in_time_is_planned_for_two_arms(planned):
    found = planned("--buffer", "0.002", "--effect", "0.001", "--cv", "0.00075", "--minutes", "3")
    assert found["time"] == {"runs_per_arm": 17, "hours": pytest.approx(1.7)}
    assert found["runs"] == 9  # sigma and power by default 0.0013 and 0.9


@pytest.mark.parametrize("words, says", [
    ("--buffer 0", "--buffer 0"), ("--buffer -1", "--buffer -1"), ("--buffer nan", "--buffer nan"),
    ("--buffer 1 --power 1", "--power"), ("--buffer 1 --alpha 2", "--alpha"),
    ("--buffer 1 --sigma inf", "--sigma"), ("--buffer 1 --minutes -3", "--minutes"),
    ("--buffer 1 --cv 0.1", "belong together"), ("--buffer 1e-6 --sigma 9", "billion")])
def test_a_plan_that_makes_no_sense_is_refused_in_one_line(refused, words, says):
    assert says in refused("plan", *words.split())
