"""What is checked before a run starts: how its batches divide."""
from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from harness.plan import check_batch, run_tokens, sort_flags, world_sizes


def asked(**fields):
    """Return hyperparameters of batches that grow 1:2:3."""
    return SimpleNamespace(**{"num_iterations": 10, "batch_tokens": 64, "micro_batch": 1, "seq_len": 16,
                              "val_every": 5, "epochs": 1, "batch_stages": ((4, 128), (7, 192)), **fields})


def track(**fields):
    """Return the part of a track that matters."""
    return SimpleNamespace(**{"name": "t", "reduction": "exact", "val_piece": 128, **fields})


def test_the_tokens_of_a_run_follow_from_its_stages():
    assert run_tokens(asked()) == 4 * 64 + 3 * 128 + 3 * 192
    assert run_tokens(asked(num_iterations=5)) == 4 * 64 + 128  # a shorter run does not get so far
    assert run_tokens(asked(train_tokens=7)) == 7


def test_a_world_size_must_divide_every_stage():
    assert world_sizes(asked(), track(), 1) == [1, 2, 4]
    assert world_sizes(asked(batch_stages=((4, 96),)), track(reduction="fast"), 1) == [1, 2]
    assert check_batch(asked(), track(), None, 4) == 1
    with pytest.raises(ValueError, match="64, 128, 192 does not divide over world_size=8 .* 1, 2, 4 ranks"):
        check_batch(asked(), track(), None, 8)


@pytest.mark.parametrize("fields, message", [
    ({"batch_stages": ((4, 100),)}, "batch_stages: 100 from step 4 on is not a multiple of micro_batch"),
    ({"batch_stages": ((4, 128), (4, 192))}, "expected .* steps rising from 1"),
    ({"batch_stages": ((0, 128),)}, "expected .* steps rising from 1"),
    ({"batch_stages": ((4, 0),)}, "expected .step, tokens."),
    ({"epochs": 0}, "epochs=0, expected a field of Hyperparameters, an int of at least 1"),
    ({"micro_batch": None}, "micro_batch=None, expected a field"),
    ({"val_seq_len": 48}, "val_seq_len=48 does not divide the track's validation piece of 128"),
    ({"val_seq_len": 0}, "val_seq_len=0 does not divide"),
    ({"seq_len": 48, "batch_tokens": 96, "batch_stages": ()}, "seq_len=48 does not divide the track's val"),
])
def test_each_stage_and_the_validations_rows_are_checked_before_launch(fields, message):
    with pytest.raises(ValueError, match=message):
        check_batch(asked(**fields), track(), None, None)


def test_a_hyperparameter_that_is_none_takes_a_value_of_its_annotation():
    """Whatever was given to it, the answer was: expected NoneType."""
    @dataclass
    class Hyperparameters:
        max_norm: float | None = None
        late: "int | None" = None

    options, overrides = sort_flags({"max_norm": "2", "late": "3", "compile": "false"}, Hyperparameters())
    assert overrides == {"max_norm": 2.0, "late": 3} and options.compile is False
    with pytest.raises(ValueError, match="--late many: expected int . None"):
        sort_flags({"late": "many"}, Hyperparameters())
