"""Runs that are broken at random moments end as they should."""
import pytest

from bench.faults import main


@pytest.mark.parametrize("n", [pytest.param("4", marks=pytest.mark.slow),
                               pytest.param("10", marks=pytest.mark.long)])
def test_faults_at_random_moments_leave_a_word_a_count_and_nothing_else(n, capsys):
    assert main(["--n", n, "--seed", "3"]) == 0, capsys.readouterr()
