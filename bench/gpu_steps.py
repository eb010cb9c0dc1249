"""Steps of the submission's loop on one device, as many as asked for: what the GPU benchmarks time."""
import dataclasses
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from bench.submission import load
from harness import weights
from harness.reduce import REDUCERS
from harness.tokens import TokenStream

TINY = {"vocab_size": 4096, "n_layer": 2, "n_embd": 64, "n_head": 1, "seq_len": 32, "batch_tokens": 128,
        "micro_batch": 2}


class Steps:
    """A model, its optimizers, and what train() takes for its run. rows: sequences of one pass."""

    def __init__(self, data: Path, device: torch.device, quick: bool, reduction: str = "fast",
                 rows: int | None = None, batch_tokens: int | None = None):
        self.submission = load("GPT", "RECIPES", "build_optimizers", "train")
        self.hp = dataclasses.replace(self.submission.RECIPES["fineweb"], **(TINY if quick else {}))
        if batch_tokens and not quick:
            self.hp = dataclasses.replace(self.hp, batch_tokens=batch_tokens)
        self.device, self.rows = device, rows if rows and not quick else self.hp.micro_batch
        self.paths = sorted(data.glob("*train*.bin"))
        if not self.paths:
            raise ValueError(f"--data {data}: no *train*.bin; name a folder with shards")
        self.stream, self.todo, self.step, self.random = TokenStream(self.paths, epochs=10**6), 0, 0, False
        self.compile: Callable = (lambda function: function) if quick else compiled
        torch.manual_seed(0)
        self.model = self.submission.GPT(self.hp).to(device)
        self.optimizers = self.submission.build_optimizers(self.model, self.hp, self.compile)
        self.reducer = REDUCERS[reduction](self.model, self.compile(self.model))

    def take(self, n: int) -> Tensor:
        """Return the next n tokens and one more; random ones in a warm-up."""
        if self.random:
            return torch.randint(self.hp.vocab_size, (n + 1,), device=self.device)
        return self.stream.take_share(n, 0, 1).to(self.device, non_blocking=True)

    def accumulate(self, loss_sum: Callable, x: Tensor, y: Tensor) -> None:
        """Set the gradients, as Run.accumulate does."""
        self.loss = self.reducer(loss_sum, list(zip(x.split(self.rows), y.split(self.rows))))

    def steps(self, model: nn.Module, optimizers: list) -> Iterator[int]:
        """Yield as many steps as run() was asked for."""
        for _ in range(self.todo):
            yield self.step % self.hp.num_iterations
            self.step += 1

    def run(self, n: int, random: bool = False) -> float:
        """Take n steps; return seconds, the device's work included."""
        self.todo, self.random = n, random
        wait(self.device)
        begin = time.perf_counter()
        self.submission.train(self.hp, self.model, self.optimizers, self)
        wait(self.device)
        return time.perf_counter() - begin

    def rewind(self) -> None:
        """Start the tokens and the count of steps anew."""
        self.stream.close()
        self.stream, self.step = TokenStream(self.paths, epochs=10**6), 0

    def digest(self) -> str:
        """Return the digest of the weights."""
        return weights.digest(weights.serialized(self.model))

    def close(self) -> None:
        """Let go of the memory."""
        self.stream.close()
        del self.model, self.optimizers, self.reducer


def compiled(function: Callable) -> Callable:
    """Return the function compiled as the harness does on a GPU."""
    return torch.compile(function, dynamic=False)


def wait(device: torch.device) -> None:
    """Wait until the device has done its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
