"""Holding a run against an earlier one."""
import math

import numpy as np
import pytest

from harness.against import Against, at


@pytest.fixture
def against(tmp_path):
    """Return call(*lines) -> the earlier run with these lines in its log."""
    def call(*lines):
        (tmp_path / "a.txt").write_text("\n".join(lines) + "\n")
        return Against(tmp_path / "a.txt")
    return call


def test_differences_at_equal_step_and_equal_time_lie_on_the_line_between_points(against):
    other = against("step:0/20 val_loss:8.0000 train_time:0ms step_avg:nanms",
                    "step:10/20 val_loss:6.0000 train_time:1000ms step_avg:100.00ms",
                    "step:20/20 val_loss:5.0000 train_time:3000ms step_avg:150.00ms")
    words = other.validated(15, 1500, 5.25)  # the other one: 5.5 at step 15, 5.75 after 1500 ms
    assert words == "-0.2500 at equal step, -0.5000 at equal time, projected final loss 4.7500"
    assert other.validated(20, 4000, 5.1) == "+0.1000 at equal step, projected final loss 5.1000"
    assert other.validated(30, 4000, 5.0) == ""


def test_a_run_held_against_itself_differs_by_nothing(against):
    lines = [f"step:{step}/9 train_loss:{9 - step / 7:.4f} train_time:{step * 100}ms step_avg:100.00ms"
             for step in range(1, 10)]
    other = against(*lines, "step:9/9 val_loss:7.5000 train_time:900ms step_avg:1ms")
    words = {other.trained(step, step * 100, round(9 - step / 7, 4)) for step in range(1, 10)}
    assert words == {"+0.0000 at equal step, +0.0000 at equal time, projected final loss 7.5000"}


def test_a_public_log_with_seconds_and_no_training_loss_is_read(against):
    other = against("import torch", "step:0/9 train_time:1ms step_avg:nanms",
                    "step:9/9 val_loss:3.27912 train_time:80.5s step_avg:nanms")
    assert other.final == (9, 3.27912) and other.trained(1, 5, 4.0) == ""
    assert other.validated(9, 80_500, 3.28912).startswith("+0.0100 at equal step, +0.0100 at equal time")


def test_of_several_trials_the_first_counts_and_other_losses_and_nan_are_passed_over(against):
    other = against(
        "step:5/10 val_loss:nan train_time:50ms step_avg:10.00ms",
        "step:10/10 val_loss:3.3000 val_ema_loss:3.2900 train_time:100ms step_avg:10.00ms ema_beta:0",
        "step:5/10 val_loss:4.0000 train_time:50ms step_avg:10.00ms",
        "step:10/10 val_loss:3.4000 train_time:100ms step_avg:10.00ms")
    assert other.final == (10, 3.3) and other.validated(5, 50, 4.0) == ""


def test_outside_the_curve_there_is_no_difference():
    curve = np.array([[10, 20], [100.0, 200.0], [5.0, 4.0]])
    assert at(curve, 0, 9, 5.0) is None and at(curve, 1, 200.5, 5.0) is None
    assert at(curve, 0, 10, 5.5) == 0.5 and math.isnan(at(curve, 0, 10, math.nan))


def test_what_is_no_log_is_refused_in_one_line(against, tmp_path):
    for path in (tmp_path, tmp_path / "none.txt"):
        with pytest.raises(ValueError, match="no such file; name the log of a run"):
            Against(path)
    with pytest.raises(ValueError, match="no line step"):
        against("step:1/2 val_loss:many train_time:1ms step_avg:1ms")


def test_no_line_is_drawn_from_step_0_nor_to_training_losses_of_another_objective(against):
    """Halfway to the first validation the line is 1.0 above this curve, which falls steeply at first."""
    lines = ["step:0/20 val_loss:8.0000 train_time:0ms step_avg:nanms",
             "step:5/20 train_loss:6.0000 train_time:500ms step_avg:100.00ms",
             "step:10/20 val_loss:6.0000 train_time:1000ms step_avg:100.00ms"]
    other = against(*lines)
    assert other.validated(5, 500, 6.0) == "" and other.trained(5, 500, 6.0) != ""
    assert other.validated(0, 0, 8.5) == "+0.5000 at equal step, +0.5000 at equal time"
    assert other.validated(10, 500, 6.0) == "+0.0000 at equal step, projected final loss 6.0000"
    lines.insert(1, '#:objective {"plain":false,"seq":4,"step":1}')
    assert against(*lines).trained(5, 500, 6.0) == ""
