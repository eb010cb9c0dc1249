"""Fixtures of all tests: ranks as forked processes, a group of one, a tiny project."""
import multiprocessing
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from shipped import difference
from tiny import Project

torch.set_num_threads(1)


def pytest_terminal_summary(terminalreporter) -> None:
    """Say that tests were skipped for the script that stands in train_gpt2.py, where it is another."""
    if line := difference():
        terminalreporter.write_line(line)


def _rank(function: Callable, rank: int, world_size: int, store: str, results, args: tuple) -> None:
    try:
        dist.init_process_group("gloo", store=dist.FileStore(store, world_size), rank=rank,
                                world_size=world_size)
        results.put((rank, True, function(*args)))
        dist.barrier()  # a rank that leaves while another still connects fails it
        dist.destroy_process_group()
    except BaseException:
        results.put((rank, False, traceback.format_exc()))


@pytest.fixture
def ranks(tmp_path: Path) -> Callable:
    """Return call(n, function, *args) -> [function's numpy arrays or plain values on rank 0, 1, ...]."""
    calls = iter(range(1000))

    def call(n: int, function: Callable, *args: object) -> list:
        context = multiprocessing.get_context("fork")  # torch is loaded already
        results, store = context.Queue(), str(tmp_path / f"store{next(calls)}")
        processes = [context.Process(target=_rank, args=(function, rank, n, store, results, args))
                     for rank in range(n)]
        for process in processes:
            process.start()
        answers = {}
        try:
            while len(answers) < n:
                rank, fine, value = results.get(timeout=120)
                assert fine, f"rank {rank}:\n{value}"
                answers[rank] = value
        finally:
            for process in processes:
                process.join(timeout=10)
                process.kill()
        return [answers[rank] for rank in range(n)]

    return call


@pytest.fixture
def alone(tmp_path: Path):
    """A process group of this process alone."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A tiny project whose track reduces exactly."""
    return Project(tmp_path / "the project")
