"""Fixtures of all tests: ranks as forked processes, a group of one, a tiny project."""
import pickle
import signal
import tempfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from shipped import difference
from tiny import Project
from torch.multiprocessing import start_processes

torch.set_num_threads(1)


def pytest_configure() -> None:
    """Let Ctrl-C through to what tests start; a shell that starts pytest behind its back ignores it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_terminal_summary(terminalreporter) -> None:
    """Say that tests were skipped for the script that stands in train_gpt2.py, where it is another."""
    if line := difference():
        terminalreporter.write_line(line)


def _rank(rank: int, function: Callable, world_size: int, folder: Path, args: tuple) -> None:
    dist.init_process_group("gloo", store=dist.FileStore(str(folder / "store"), world_size), rank=rank,
                            world_size=world_size, timeout=timedelta(seconds=120))
    (folder / str(rank)).write_bytes(pickle.dumps(function(*args)))
    dist.barrier()  # a rank that leaves while another still connects fails it
    dist.destroy_process_group()


@pytest.fixture
def ranks(tmp_path: Path) -> Callable:
    """Return call(n, function, *args) -> [function's numpy arrays or plain values on rank 0, 1, ...]."""
    torch.optim.Adam([torch.zeros(1)])  # loads torch's compiler, here once instead of in each rank

    def call(n: int, function: Callable, *args: object) -> list:
        folder = Path(tempfile.mkdtemp(dir=tmp_path))
        start_processes(_rank, (function, n, folder, args), nprocs=n, start_method="fork")
        return [pickle.loads((folder / str(rank)).read_bytes()) for rank in range(n)]

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
