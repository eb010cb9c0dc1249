"""Finds logs, and loads the runs of one, whichever program wrote it."""
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from records.tools.read.log import Log, is_log, read_bytes, read_log, sha256
from records.tools.read.public import read_public
from records.tools.read.run import Point, Run

T = TypeVar("T")
SUFFIXES = (".txt", ".log", ".stdout", ".out")


def load_runs(path: Path, data: bytes | None = None) -> list[Run]:
    """Return the runs of one file, at least one. Raises ReadError, in one line, where it is no log.

    data: the bytes of the file, where they were read before.
    """
    data = read_bytes(path) if data is None else data
    runs = [run_of(read_log(path, data))] if is_log(data) else read_public(path, data)
    digest = sha256(data)
    for run in runs:
        run.sha256 = digest
    return runs


def run_of(log: Log) -> Run:
    """Return the one run of a log of format 1."""
    manifest = log.manifest
    facts = _of(dict, manifest.get("sys")) or {}
    gpus = _of(list, facts.get("gpus"))
    device = f"{len(gpus)} x {gpus[0]}" if gpus else _of(str, facts.get("cpu"))
    versions = {name: str(facts[name]) for name in ("python", "torch", "cuda") if facts.get(name)}
    vals = [Point(v.step, v.val_loss, v.train_time_ns / 1e6, v.tokens) for v in log.vals]
    train = [Point(s.step, s.train_loss, s.train_time_ms) for s in log.steps if s.train_loss is not None]
    last_step = log.steps[0].last_step if log.steps else None
    files = {path: file.source for path, file in log.files.items()}
    return Run(log.path, 0, "1", log.status, last_step, vals, train, None, log.script, files,
               _of(str, manifest.get("track")), _of(int, manifest.get("seed")),
               _of(int, manifest.get("world_size")), device, versions,
               _of(dict, manifest.get("hyperparameters")) or {},
               _of(int, (log.end or {}).get("peak_memory_mib")), log)


def find_logs(paths: Iterable[Path]) -> Iterator[Path]:
    """Yield the log files among files and folders, folders searched in order of name.

    A file that is named is always yielded; below a folder those with the suffix of a log. Symbolic links
    below a folder are not followed.
    """
    for path in paths:
        if not os.path.isdir(path):  # Path.is_dir raises where a name is too long
            yield path
            continue
        for folder, folders, files in os.walk(path):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(files):
                if name.endswith(SUFFIXES) and not os.path.islink(os.path.join(folder, name)):
                    yield Path(folder) / name


def _of(kind: type[T], value: object) -> T | None:
    """Return a stranger's value where it is of a type, bool being no int; else None."""
    return value if type(value) is kind else None
