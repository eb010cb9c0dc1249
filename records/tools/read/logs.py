"""Finds logs, and loads the runs of one, whichever program wrote it."""
import os
import re
from argparse import ArgumentTypeError
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from records.tools.read import tracks
from records.tools.read.log import Log, is_log, read_bytes, read_log, sha256
from records.tools.read.public import read_public
from records.tools.read.run import Point, Run
from records.tools.read.values import ReadError, shown

T = TypeVar("T")
DATED = re.compile(r"(20\d\d)-?(0[1-9]|1[0-2])-?([0-2]\d|3[01])(?:\b|[_T])")  # begins a record's folder
SUFFIXES = (".txt", ".log", ".stdout", ".out")
NAMES = "a path, or the beginning of a run's id, -1 (the last run), -2, @latest, or the name of a record"


def locate(word: str) -> Path:
    """Return the file or folder that a word of the command line names: a path, a run, or a record.

    A run of records/runs is named by -1 (the last), -2, ..., @latest, or the beginning of its id; a record
    by its folder's name, with its date or, the last one that a track has so, without. Raises
    ArgumentTypeError for a word that names several, or none and is no path either.
    """
    if os.path.lexists(word) or not re.fullmatch(r"-\d{1,9}|@latest|\w[\w.-]{0,200}", word):
        return Path(word)
    records = Path("records") if Path.cwd() == tracks.ROOT else tracks.ROOT / "records"  # short, to be shown
    runs = sorted((records / "runs").glob("*.txt"))
    if word[0] in "-@":
        place = 1 if word[0] == "@" else int(word[1:])
        if not 0 < place <= len(runs):
            raise ArgumentTypeError(f"{word}: there are {len(runs) or 'no'} logs in records/runs; -1 is the "
                                    f"last one")
        return runs[-place]
    folders = sorted(file.parent for file in records.glob("*/*/record.json"))
    found = [run for run in runs if run.name.startswith(word)]
    named = [folder for folder in folders if word in (folder.name, folder.name.partition("_")[2])]
    found += named[-1:] if len({folder.parent for folder in named}) == 1 else named
    if len(found) > 1:
        raise ArgumentTypeError(f"{word}: {len(found)} runs or records have that name or begin so, like "
                                f"{found[0].name} and {found[1].name}; name one whole, or its folder")
    if not found and word.isidentifier():
        raise ArgumentTypeError(f"{word}: no file, and no run of records/runs or record is named so; records "
                                f"are {', '.join(folder.name for folder in folders) or 'not here'}")
    return found[0] if found else Path(word)


def log_of(path: Path) -> Path:
    """Return the log at a path, of a record's folder its first one. Raises ReadError for another folder."""
    if not os.path.isdir(path):  # Path.is_dir raises where a name is too long
        return path
    if logs := sorted((path / "logs").glob("*.txt")):
        return logs[0]
    raise ReadError(f"{shown(str(path))}: neither a working tree (no run.sh) nor a record (no logs/*.txt)")


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

    A file that is named is always yielded; below a folder those with the suffix of a log, of a record those
    in its logs/. Symbolic links below a folder are not followed.
    """
    for path in paths:
        if not os.path.isdir(path):
            yield path
            continue
        for folder, folders, files in os.walk(path / "logs" if (path / "logs").is_dir() else path):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(files):
                if name.endswith(SUFFIXES) and not os.path.islink(os.path.join(folder, name)):
                    yield Path(folder) / name


def dated(path: Path) -> list[Path]:
    """Return the uppermost folders below a folder that are named by a date, and the logs beside such.

    The path itself where it is so named, or no folder.
    """
    if not os.path.isdir(path) or DATED.match(path.resolve().name):
        return [path]
    found = ([log, *(p for p in log.parents if p.is_relative_to(path) and DATED.match(p.name))]
             for log in find_logs([path]))
    return list(dict.fromkeys(each[-1] for each in found))


def _of(kind: type[T], value: object) -> T | None:
    """Return a stranger's value where it is of a type, bool being no int; else None."""
    return value if type(value) is kind else None


LOG = {"metavar": "LOG", "type": locate, "help": NAMES}  # an argument of a command
LOGS = {**LOG, "nargs": "+", "help": f"logs, or folders of them; {NAMES}"}
