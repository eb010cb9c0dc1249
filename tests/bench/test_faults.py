"""Runs that are broken at random moments end as they should."""
import pytest

from bench.faults import main


@pytest.mark.slow
def test_four_faults_at_random_moments_leave_a_word_a_count_and_nothing_else(capsys):
    assert main(["--n", "4", "--seed", "3"]) == 0, capsys.readouterr()
