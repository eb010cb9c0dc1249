"""What the launcher settles before ranks start."""
from types import SimpleNamespace

import pytest

from harness.front.launch import choose_ranks, number
from harness.track import load_tracks


RECIPES = {"fineweb": dict(seq_len=1024, batch_tokens=524_288, micro_batch=64),
           "sample": dict(seq_len=256, batch_tokens=2048, micro_batch=2)}


def plan(track, rows=None, **changes):
    hp = SimpleNamespace(**{**RECIPES[track], **changes})
    return SimpleNamespace(hp=hp, track=load_tracks()[track], rows=rows or hp.micro_batch)


def test_it_takes_as_many_ranks_as_there_are_places_and_says_when_a_step_does_not_divide(capsys):
    assert [choose_ranks(plan("fineweb"), places, 1) for places in (1, 2, 4, 8)] == [1, 2, 4, 8]
    assert capsys.readouterr().out == ""
    assert choose_ranks(plan("fineweb"), 6, 1) == 4
    assert "4 ranks for 6 GPUs or cores" in capsys.readouterr().out
    assert choose_ranks(plan("sample"), 8, 1) == 4  # four micro-batches a step


def test_nodes_share_a_step_evenly():
    assert choose_ranks(plan("fineweb"), 4, 2) == 4
    assert choose_ranks(plan("fineweb", rows=32), 8, 2) == 8
    with pytest.raises(ValueError, match="divides over no ranks on 3 nodes"):
        choose_ranks(plan("fineweb"), 8, 3)


@pytest.mark.parametrize("text", ["0", "two", "-1", "1.5", ""])
def test_a_count_is_a_whole_number_of_at_least_1(text):
    with pytest.raises(ValueError, match=f"--nnodes {text}: expected a whole number of at least 1"):
        number("nnodes", text)
