"""Tails of Student's t and of the normal distribution: those of scipy and of 40-digit arithmetic."""
import json
import math
from pathlib import Path

import pytest
from scipy.special import ndtr, stdtr, stdtrit

from records.tools.check.student import normal_below, t_below, t_quantile

VECTORS = json.loads(Path(__file__).with_name("statistics_vectors.json").read_text())
DEGREES = (1, 1.5, 2, 3, 3.7, 7, 15.0024, 31, 50, 99.9, 150, 199.9, 200, 200.1, 5000)


def test_the_tail_gives_the_known_answers():
    for case in VECTORS["student_t_cdf"]:
        assert t_below(float(case["df"]), float(case["t"])) == pytest.approx(float(case["p"]), rel=1e-9)


@pytest.mark.parametrize("df", DEGREES)
def test_the_tail_and_its_t_are_scipy_s_to_nine_digits_far_out_too(df):
    for t in [-i / 20 for i in range(-200, 1001)]:
        theirs = stdtr(df, t)
        if theirs > 1e-12:
            assert t_below(df, t) == pytest.approx(theirs, rel=1e-9), t
    assert t_below(df, -1e200) < 1e-100 and t_below(df, -math.inf) == 0 and t_below(df, math.inf) == 1
    for p in (1e-12, 1e-9, 1e-6, 1e-4, 0.0025, 0.01, 0.05, 0.2, 0.49, 0.499999, 0.5, 0.6, 0.9975, 1 - 1e-9):
        assert t_quantile(df, p) == pytest.approx(stdtrit(df, p), rel=1e-9), p
        assert t_below(df, t_quantile(df, p)) == pytest.approx(p, rel=1e-9), p


def test_the_critical_values_are_the_known_ones():
    for n, critical in VECTORS["t_crit_one_sided_001"].items():
        digits = len(str(critical).partition(".")[2])
        assert t_quantile(int(n) - 1, 0.99) == pytest.approx(float(critical), abs=0.5001 * 10.0**-digits)


def test_the_normal_tail_is_scipy_s_far_out_too():
    for z in (-37, -20, -8, -3.1, 0, 0.5, 9):
        assert normal_below(z) == pytest.approx(ndtr(z), rel=1e-12)
