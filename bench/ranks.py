"""Ranks that wait for orders: processes of one thread in a gloo group, so that two groups can take turns.

A group that waits sleeps in a pipe and takes no CPU time from the other.
"""
import dataclasses
import multiprocessing
import os
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from bench.submission import load
from harness.environment import process_group
from harness.reduce import REDUCERS
from harness.tokens import TokenStream
from harness.track import ROOT, load_tracks
from lab.environment import VARIABLES

LOOP = ("GPT", "RECIPES", "build_optimizers", "train")  # what the submission is asked for


class Ranks:
    """n processes running function(orders, *args); orders is a pipe: ask() sends, the function answers."""

    def __init__(self, n: int, function: Callable, *args: Any, threads: int = 1):
        context, self.pipes, self.processes = multiprocessing.get_context("spawn"), [], []
        self.folder = tempfile.TemporaryDirectory(prefix="bench_store_")
        store = f"{self.folder.name}/store"
        environment = {**VARIABLES, "OMP_NUM_THREADS": str(threads), "WORLD_SIZE": str(n)}
        before = {name: os.environ.get(name) for name in environment}
        os.environ.update(environment)
        try:
            for rank in range(n):
                ours, theirs = context.Pipe()
                process = context.Process(target=_serve, args=(function, rank, n, store, theirs, args),
                                          daemon=True)
                process.start()
                theirs.close()
                self.pipes.append(ours)
                self.processes.append(process)
        finally:
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)

    def ask(self, *order: Any) -> list:
        """Send an order to all ranks; return their answers by rank. Raises RuntimeError where one failed."""
        for pipe in self.pipes:
            pipe.send(order)
        answers = [pipe.recv() for pipe in self.pipes]
        for rank, answer in enumerate(answers):
            if isinstance(answer, str):
                raise RuntimeError(f"rank {rank} of a benchmark failed:\n{answer}")
        return answers

    def __enter__(self) -> "Ranks":
        return self

    def __exit__(self, *_: object) -> None:
        for pipe, process in zip(self.pipes, self.processes):
            try:
                pipe.send(None)
            except OSError:
                pass
            process.join(timeout=10)
            process.kill()
        self.folder.cleanup()


def _serve(function: Callable, rank: int, n: int, store: str, orders: Connection, args: tuple) -> None:
    try:
        dist.init_process_group("gloo", store=dist.FileStore(store, n), rank=rank, world_size=n)
        with process_group("cpu"):  # sets threads and float32 route; the group above is kept
            function(orders, *args)
        dist.destroy_process_group()
    except BaseException:
        orders.send(traceback.format_exc())


class Orders:
    """What train() takes for its run: steps come when they are ordered, and are timed over all ranks."""

    def __init__(self, orders: Connection, hp: Any, reduction: str):
        self.hp, self.orders, self.reduction = hp, orders, reduction
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        track = load_tracks()["sample"]
        self.stream = TokenStream(sorted((ROOT / track.data).glob(track.train_files)), epochs=10**6)

    def compile(self, function: Callable) -> Callable:
        """Return the function as it is: the default run on a CPU does not compile."""
        return function

    def take(self, n: int) -> Tensor:
        """Return this rank's share of the next n tokens and one more."""
        return self.stream.take_share(n, self.rank, self.world_size) % self.hp.vocab_size

    def accumulate(self, loss_sum: Callable, x: Tensor, y: Tensor) -> None:
        """Set the gradients, as Run.accumulate does."""
        rows = self.hp.micro_batch
        self.reducer(loss_sum, list(zip(x.split(rows), y.split(rows))))

    def steps(self, model: nn.Module, optimizers: list) -> Iterator[int]:
        """Yield steps as ordered: ("steps", k) answers what k steps took, each optimizer, and CPU time.

        That is of the process, gloo's threads included, and does not grow where others keep it waiting.
        """
        self.reducer = REDUCERS[self.reduction](model, model)
        spent = {type(optimizer).__name__: 0 for optimizer in optimizers}
        spent |= {"over_ranks_cpu": 0, "step_cpu": 0}
        for optimizer in optimizers:
            step_of = _timed(optimizer.step, spent, type(optimizer).__name__)
            optimizer.step = _timed(step_of, spent, "step_cpu", time.process_time_ns)
        if self.reduction == "exact":
            self.reducer._over_ranks = _timed(self.reducer._over_ranks, spent, "over_ranks_cpu",
                                              time.process_time_ns)
        step = 0
        while order := self.orders.recv():
            if order[0] == "steps":
                spent.update(dict.fromkeys(spent, 0))
                dist.barrier()
                begin, cpu = time.monotonic_ns(), time.process_time_ns()
                for _ in range(order[1]):
                    yield step % self.hp.num_iterations
                    step += 1
                cpu = time.process_time_ns() - cpu
                dist.barrier()
                self.orders.send({"ns": time.monotonic_ns() - begin, "cpu": cpu, **spent})
            else:
                self.orders.send(gemm_gflops(*order[1:]))
        self.stream.close()


def _timed(function: Callable, spent: dict[str, int], name: str,
           now: Callable[[], int] = time.monotonic_ns) -> Callable:
    def timed(*arguments: Any) -> None:
        begin = now()
        function(*arguments)
        spent[name] += now() - begin
    return timed


def sample_recipe(overrides: dict[str, Any]) -> Any:
    """Return the submission's hyperparameters for track `sample`, with changes. Raises SubmissionError."""
    return dataclasses.replace(load(*LOOP).RECIPES["sample"], **overrides)


def training_ranks(n: int, overrides: dict[str, Any]) -> Ranks:
    """Return n ranks that train the submission's `sample` recipe on order. Raises SubmissionError."""
    sample_recipe(overrides)  # here, where the error is one line, before it is a rank's traceback
    return Ranks(n, train_on_order, overrides)


def train_on_order(orders: Connection, overrides: dict[str, Any]) -> None:
    """Train the recipe with the submission's own loop; the steps come when they are ordered."""
    submission, hp = load(*LOOP), sample_recipe(overrides)
    torch.manual_seed(0)
    model = submission.GPT(hp)
    submission.train(hp, model, submission.build_optimizers(model, hp), Orders(orders, hp, "exact"))


def gemm_gflops(shapes: list[tuple[int, int, int]], precision: str | None,
                seconds: float) -> dict[str, float]:
    """Return GFLOP/s of float32 products m x k by k x n on this rank while all do the same (collective).

    precision: torch's name of the route; None: the one in force. The best of several repetitions.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision or before)
    found = {}
    for m, k, n in shapes:
        a, b, out = torch.rand(m, k), torch.rand(k, n), torch.empty(m, n)
        torch.mm(a, b, out=out)
        dist.barrier()
        best, end = float("inf"), time.monotonic() + seconds
        while time.monotonic() < end:
            begin = time.monotonic_ns()
            torch.mm(a, b, out=out)
            best = min(best, time.monotonic_ns() - begin)
        found[f"{m}x{k}x{n}"] = 2 * m * k * n / best
    torch.set_float32_matmul_precision(before)
    return found
