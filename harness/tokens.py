"""Which training tokens, in which order: one global position over all shards, whatever the world size."""
from bisect import bisect_right
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from harness.shards import read_shard


class EndOfData(ValueError):
    """More tokens were asked for than the shards and epochs hold."""


class TokenStream:
    """The tokens of some shards, epochs times over, read once from front to back."""

    opened = 0  # streams made in this process: a run opens one, a second is a tripwire

    def __init__(self, paths: list[Path], epochs: int = 1, position: int = 0):
        TokenStream.opened += 1
        self._shards = [read_shard(path) for path in paths]
        self._ends = list(accumulate(len(shard) for shard in self._shards))
        self._length = self._ends[-1] * epochs
        self.position = position  # tokens taken so far
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch")
        self._ahead: tuple[tuple[int, int], Future] | None = None

    def take_share(self, n: int, rank: int, world_size: int) -> Tensor:
        """Take the next n tokens; return the rank's contiguous share and one token more.

        int64 on CPU, shape (n / world_size + 1,). The one more, the last one's target, is not taken; it is
        absent at the very end of the stream. Ranks must call with the same n. Crosses shard borders; never
        repeats a token. Raises EndOfData, with the number of tokens left, when fewer than n remain.
        """
        if n % world_size:
            raise ValueError(f"{n} tokens do not divide by world_size {world_size}")
        if n > self._length - self.position:
            raise EndOfData(f"{n} tokens asked for, {self._length - self.position} of {self._length} left; "
                            f"fetch more shards or raise `epochs`")
        share = n // world_size
        start = self.position + rank * share
        self.position += n
        ahead, self._ahead = self._ahead, None
        fetched = ahead is not None and ahead[0] == (start, share + 1)
        tokens = ahead[1].result() if fetched else self._read(start, share + 1)
        if self.position + n <= self._length:  # the next step most likely wants as much
            self._ahead = (start + n, share + 1), self._pool.submit(self._read, start + n, share + 1)
        return tokens

    def _read(self, start: int, n: int) -> Tensor:
        """Return tokens start .. start + n of the stream, fewer at its end, without moving the position."""
        stop, parts = min(start + n, self._length), []
        while start < stop:
            offset = start % self._ends[-1]
            shard = bisect_right(self._ends, offset)
            local = offset - (self._ends[shard] - len(self._shards[shard]))
            parts.append(self._shards[shard][local:local + stop - start])
            start += len(parts[-1])
        return torch.from_numpy(np.concatenate([part.astype(np.int64) for part in parts]))

    def close(self) -> None:
        """End the prefetching thread."""
        self._pool.shutdown(wait=False, cancel_futures=True)
