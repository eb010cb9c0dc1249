"""The ladder's arms are its script's; equal time follows from ratio and slope; the study at toy size."""
import pytest

from lab.__main__ import main
from lab.studies import ladder
from lab.studies.arms import active, parse_arm, recipe_of, step_ms


@pytest.mark.parametrize("name", ladder.ARMS)
def test_each_arm_can_be_built_and_differs_from_the_recipe(name):
    arm, base = (parse_arm(f"{ladder.SCRIPT} {flags}") for flags in (ladder.ARMS[name], ""))
    assert active(arm, 128) >= active(base, 128)
    assert recipe_of(arm) != recipe_of(base)


@pytest.mark.slow
def test_each_arm_trains():
    arms = [parse_arm(f"{ladder.SCRIPT} --n_embd=16 {flags}") for flags in ladder.ARMS.values()]
    assert all(len(ms) == 1 for ms in step_ms(arms, steps=300, rounds=1, each=1))


def test_a_technique_that_is_not_there_is_refused(capsys):
    assert main(["ladder", "Moun"]) == 2
    assert "'Moun': no such technique; there are" in capsys.readouterr().err


def test_pairs_that_may_fight_are_of_arms_that_are_there():
    assert {name for pair in ladder.TOGETHER for name in pair} <= ladder.ARMS.keys()


def test_at_equal_time_a_slower_step_costs_what_its_lost_steps_are_worth():
    """An arm whose steps are the base's own was said to pay, by the noise of their times alone."""
    def rounds(ratio: float, noise: float = 1e-6) -> list[float]:
        return [ratio * (1 + noise * i) for i in (-1, 0, 1, 0, 0)]
    rung = ladder.Rung("twice as slow", [-0.02, -0.03, -0.025, -0.024], rounds(2.0), 0.04)
    assert rung.at_equal_time.middle == pytest.approx(rung.at_equal_steps.middle + 0.02)
    faster = rung._replace(ratios=rounds(0.5))
    assert faster.at_equal_time.middle == pytest.approx(rung.at_equal_steps.middle - 0.04)
    assert (faster.word, rung._replace(ratios=rounds(1.0)).word) == ("pays", "pays")
    assert rung._replace(ratios=rounds(8.0)).word == "costs"
    assert rung._replace(differences=[-0.1]).word == "open"
    assert rung._replace(ratios=rounds(1.0, noise=0.6)).word == "open"


@pytest.mark.slow
def test_the_study_runs_at_toy_size_and_goes_on_where_it_was(tmp_path, capsys):
    assert main(["ladder", "--quick", "--out", str(tmp_path)]) == 0
    page = (tmp_path / "ladder.md").read_text()
    assert page in capsys.readouterr().out and "65,536 rows of pairs" in page
    assert main(["ladder", "--quick", "--out", str(tmp_path)]) == 0
    assert "to make" not in capsys.readouterr().err and (tmp_path / "ladder.md").read_text() == page
    assert (tmp_path / "ladder.png").stat().st_size > 10_000
