"""Which training tokens, in which order: one global position over all shards, whatever the world size."""
from bisect import bisect_right
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from harness.shards import read_shard

AHEAD = 2**16  # tokens read at once, where a step takes fewer: waking a thread costs more than reading them


class TokenStream:
    """The tokens of some shards, epochs times over, read once from front to back.

    pin: into page-locked memory, from which a GPU copies without waiting.
    """

    opened = 0  # streams made in this process: a run opens one, a second is a tripwire

    def __init__(self, paths: list[Path], epochs: int = 1, position: int = 0, pin: bool = False):
        TokenStream.opened += 1
        self._shards = [read_shard(path) for path in paths]
        self._ends = list(accumulate(len(shard) for shard in self._shards))
        self._length = self._ends[-1] * epochs
        self.position, self._pin = position, pin  # position: tokens taken so far
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch")
        self._held: tuple[int, Tensor] = 0, torch.empty(0, dtype=torch.int64)  # from which position on
        self._ahead: Future | None = None  # what is held next

    def take_share(self, n: int, rank: int, world_size: int) -> Tensor:
        """Take the next n tokens; return the rank's contiguous share and one token more.

        int64 on CPU, shape (n / world_size + 1,), not to be written to. The one more, the last one's target,
        is not taken; it is absent at the very end of the stream. Ranks must call with the same n. Crosses
        shard borders; never repeats a token. Raises ValueError, with the number of tokens left, when fewer
        than n remain.
        """
        if n % world_size:
            raise ValueError(f"{n} tokens do not divide by world_size {world_size}")
        if n > self._length - self.position:
            raise ValueError(f"{n} tokens asked for, {self._length - self.position} of {self._length} left; "
                             f"fetch more shards or raise `epochs`")
        share = n // world_size
        start = self.position + rank * share
        self.position += n
        stop, steps = min(start + share + 1, self._length), max(1, AHEAD // max(1, n))
        if not self._holds(start, stop):
            span = (steps - 1) * n + share + 1
            self._held = self._ahead.result() if self._ahead else self._held
            if not self._holds(start, stop):
                self._held = self._read(start, span)
            self._ahead = self._pool.submit(self._read, start + steps * n, span)  # most likely wanted next
        return self._held[1][start - self._held[0]:stop - self._held[0]]

    def _holds(self, start: int, stop: int) -> bool:
        return self._held[0] <= start and stop <= self._held[0] + len(self._held[1])

    def _read(self, start: int, n: int) -> tuple[int, Tensor]:
        """Return start and the tokens start .. start + n, fewer at the end, without moving the position."""
        begin, stop, parts = start, min(start + n, self._length), [np.empty(0, np.int64)]
        while start < stop:
            offset = start % self._ends[-1]
            shard = bisect_right(self._ends, offset)
            local = offset - (self._ends[shard] - len(self._shards[shard]))
            parts.append(self._shards[shard][local:local + stop - start])
            start += len(parts[-1])
        tokens = torch.from_numpy(np.concatenate(parts, dtype=np.int64))
        return begin, tokens.pin_memory() if self._pin else tokens

    def close(self) -> None:
        """End the prefetching thread."""
        self._pool.shutdown(wait=False, cancel_futures=True)
