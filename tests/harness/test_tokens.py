"""The stream of training tokens: one global position, the same at every world size."""
import numpy as np
import pytest
import torch

from harness import tokens
from harness.shards import write_shard
from harness.tokens import TokenStream

SIZES = (1000, 1, 0, 777, 1500)


@pytest.fixture
def shards(tmp_path):
    """Shards of odd sizes that hold 0, 1, 2, ... in order."""
    paths = [tmp_path / f"t{i}.bin" for i in range(len(SIZES))]
    for path, part in zip(paths, np.split(np.arange(sum(SIZES)), np.cumsum(SIZES)[:-1])):
        write_shard(path, part)
    return paths


def take(stream, n):
    """Take n tokens as the only rank, without the target of the last."""
    return stream.take_share(n, 0, 1)[:n]


def test_tokens_come_in_order_across_borders_none_skipped_none_twice(shards):
    stream = TokenStream(shards)
    taken = torch.cat([take(stream, n) for n in (1, 998, 2, 3, 0, 700, 1573)])
    assert taken.dtype == torch.int64
    assert torch.equal(taken, torch.arange(sum(SIZES))[:len(taken)])


@pytest.mark.parametrize("world_size", [2, 4, 8])
def test_ranks_slice_what_one_rank_takes(shards, world_size):
    single, streams = TokenStream(shards), [TokenStream(shards) for _ in range(world_size)]
    for _ in range(sum(SIZES) // 256):
        whole = single.take_share(256, 0, 1)
        shares = [stream.take_share(256, rank, world_size) for rank, stream in enumerate(streams)]
        assert torch.equal(torch.cat([share[:-1] for share in shares]), whole[:256])
        for share in shares:  # each share ends in the target of its last token
            assert torch.equal(share[1:], share[:-1] + 1)


def test_epochs_repeat_the_stream_and_the_last_target_of_one_is_the_first_token_of_the_next(shards):
    total, stream = sum(SIZES), TokenStream(shards, epochs=2)
    assert torch.equal(stream.take_share(total, 0, 1), torch.tensor([*range(total), 0]))
    assert torch.equal(take(stream, total), torch.arange(total))
    with pytest.raises(ValueError, match=f"1 tokens asked for, 0 of {2 * total} left"):
        take(stream, 1)


def test_a_stream_resumes_at_any_position(shards):
    for position in (0, 999, 1000, 1001, 1777, 1778, 2000):
        taken = take(TokenStream(shards, position=position), 500)
        assert torch.equal(taken, torch.arange(position, position + 500))


def test_prefetching_changes_nothing_when_the_batch_changes(shards):
    stream = TokenStream(shards)
    for expected in torch.arange(540).split((100, 100, 60, 60, 200, 10, 10)):
        assert torch.equal(take(stream, len(expected)), expected)


def test_what_does_not_divide_is_refused(shards):
    with pytest.raises(ValueError, match="100 tokens do not divide by world_size 3"):
        TokenStream(shards).take_share(100, 0, 3)


def test_what_is_read_ahead_changes_nothing_however_much_that_is(shards, monkeypatch):
    """Steps of changing sizes, of the first of two ranks, within what was read at once and beyond it."""
    whole = take(TokenStream(shards), sum(SIZES))
    for ahead in (0, 64, 500, 2**16):
        monkeypatch.setattr(tokens, "AHEAD", ahead)
        stream, start = TokenStream(shards), 0
        for n in (20, 20, 20, 90, 20, 600, 600, 20, 1800):
            share = stream.take_share(n, 0, 2)
            assert torch.equal(share, whole[start:start + n // 2 + 1])
            start += n
