"""Cheats of each class do not stand; honest runs are not accused."""
import pytest

from tests.cheats.__main__ import ALL, outcomes
from tests.cheats.arena import Outcome


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    return outcomes(tmp_path_factory.mktemp("cheats"))


def test_there_are_two_cheats_of_each_class_and_thirty_in_all():
    classes = [cheat.of for cheat in ALL.values()]
    assert all(classes.count(f"C{i}") >= 2 for i in range(1, 9)) and len(ALL) >= 30


@pytest.mark.slow
def test_no_cheat_is_proven(found):
    assert not {name: outcome.said for name, outcome in found.items() if outcome.escaped}


@pytest.mark.slow
def test_nine_of_ten_are_caught_on_the_line_that_is_there_for_them(found):
    missed = {name: outcome for name, outcome in found.items() if not outcome.caught}
    assert len(missed) <= len(found) // 10, missed
