"""Finds logs, and loads the runs of one, whichever program wrote it."""
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from records.tools.read.log import Log, is_log, read_bytes, read_log, sha256
from records.tools.read.public import read_public
from records.tools.read.run import Point, Run

SUFFIXES = (".txt", ".log", ".stdout", ".out")


def load_runs(path: Path) -> list[Run]:
    """Return the runs of one file, at least one. Raises ReadError, in one line, where it is no log."""
    data = read_bytes(path)
    runs = [run_of(read_log(path, data))] if is_log(data) else read_public(path, data)
    digest = sha256(data)
    for run in runs:
        run.sha256 = digest
    return runs


def run_of(log: Log) -> Run:
    """Return the one run of a log of format 1."""
    manifest, sys_facts = log.manifest, log.manifest.get("sys")
    facts = sys_facts if isinstance(sys_facts, dict) else {}
    gpus = facts.get("gpus")
    device = facts.get("cpu") if not isinstance(gpus, list) or not gpus else f"{len(gpus)} x {gpus[0]}"
    versions = {name: str(facts[name]) for name in ("python", "torch", "cuda") if facts.get(name)}
    hyperparameters = manifest.get("hyperparameters")
    vals = [Point(v.step, v.val_loss, v.train_time_ns / 1e6, v.tokens) for v in log.vals]
    train = [Point(s.step, s.train_loss, s.train_time_ms) for s in log.steps if s.train_loss is not None]
    last_step = log.steps[0].last_step if log.steps else None
    return Run(log.path, 0, "1", log.status, last_step, vals, train, None, log.script,
               {path: file.source for path, file in log.files.items()}, _text(manifest.get("track")),
               _whole(manifest.get("seed")), _whole(manifest.get("world_size")), _text(device), versions,
               hyperparameters if isinstance(hyperparameters, dict) else {},
               _whole((log.end or {}).get("peak_memory_mib")), log)


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


def _whole(value: Any) -> int | None:
    return value if type(value) is int else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
