"""How fast TokenStream reads from the page cache, at the batch of the 124M recipe."""
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from bench.counts import GPT2_124M
from bench.rounds import Result, Row, interleaved, ratios
from harness.shards import HEADER_BYTES, write_shard
from harness.tokens import TokenStream


def numpy_rate(path: Path, share: int, steps: int) -> float:
    """Return tokens/s of the plain way: read from the file, widen to int64, no prefetch."""
    begin, sum_ = time.perf_counter(), 0
    for step in range(steps):
        tokens = np.fromfile(path, dtype="<u2", count=share + 1, offset=HEADER_BYTES + 2 * step * share)
        sum_ += int(torch.from_numpy(tokens.astype(np.int64))[0])
    return share * steps / (time.perf_counter() - begin)


def stream_rate(path: Path, batch: int, world_size: int, steps: int) -> float:
    """Return tokens/s that one of the ranks gets, asking for the next share at once: it never computes."""
    stream = TokenStream([path], epochs=1000)
    begin = time.perf_counter()
    for _ in range(steps):
        stream.take_share(batch, world_size - 1, world_size)
    rate = batch // world_size * steps / (time.perf_counter() - begin)
    stream.close()
    return rate


def measure(quick: bool) -> Result:
    """Return rates at world size 1 and 8, and of the plain way."""
    batch = GPT2_124M.batch_tokens
    steps, rounds, tokens = (4, 2, 4 * batch) if quick else (60, 7, 60 * batch)
    with tempfile.TemporaryDirectory(prefix="bench_shards_") as folder:
        path = Path(folder) / "bench_train_000000.bin"
        write_shard(path, np.random.default_rng(0).integers(0, 50257, tokens + 1, dtype=np.uint16))
        stream_rate(path, batch, 1, steps)  # into the page cache
        found = interleaved({
            "one": lambda: stream_rate(path, batch, 1, steps),
            "eight": lambda: stream_rate(path, batch, 8, 8 * steps),
            "numpy": lambda: numpy_rate(path, batch, steps - 1)}, rounds)
    millions = {name: [rate / 1e6 for rate in rates] for name, rates in found.items()}
    rows = [Row("stream read rate, world size 1", millions["one"], "M tokens/s", ">= 100"),
            Row("stream read rate of one rank of 8", millions["eight"], "M tokens/s", ">= 100"),
            Row("... world size 1 over a plain np.fromfile and widening",
                ratios(found["one"], found["numpy"]), "x")]
    how = (f"take_share of {batch} tokens in a loop that does nothing else, so that prefetching hides "
           f"nothing, from one shard of {tokens / 1e6:.0f} M tokens in the page cache; int64 tensors are "
           "delivered. At world size 8 one rank reads its eighth; eight ranks read at once on cores of "
           "their own.")
    return Result(rows, how, found)
