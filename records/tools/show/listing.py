"""Lists runs, one line a run."""
import argparse
import math
import os
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from records.tools.read.logs import find_logs, load_runs
from records.tools.read.values import ReadError, json_text, shown

FEW = 64  # files that one process reads sooner than several would start


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add = parser.add_argument
    add("paths", metavar="PATH", nargs="+", type=Path, help="a log, or a folder to search")
    add("--track", metavar="NAME", help="list the runs of this track alone")
    add("--json", action="store_true", help="print a JSON array with all facts of each run")


def main(arguments: argparse.Namespace) -> int:
    """List runs; return the exit code: 2 where a file that was named is no log."""
    rows: list[dict[str, Any]] = []
    others, code, paths = 0, 0, list(find_logs(arguments.paths))
    named = set(map(os.fspath, arguments.paths))
    for path, found in zip(paths, read_all(paths)):
        if isinstance(found, list):
            rows += [row for row in found if arguments.track in (None, row["track"])]
        elif os.fspath(path) in named:
            print(f"records list: {found}", file=sys.stderr)
            code = 2
        else:
            others += 1
    if not paths:
        raise ReadError(f"{shown(', '.join(map(str, arguments.paths)))}: no logs there")
    print(json_text(rows) if arguments.json else table(map(line_of, rows)), end="")
    if others:
        print(f"records list: {others} of {len(paths)} files are no logs, or damaged; name one to see why",
              file=sys.stderr)
    return code


def read_all(paths: list[Path]) -> Iterator[list[dict[str, Any]] | str]:
    """Yield the facts of each file's runs, in order of the paths, or in one line why it is no log."""
    if len(paths) <= FEW:
        yield from map(facts_of, paths)
        return
    try:
        with ProcessPoolExecutor(os.cpu_count()) as pool:
            yield from pool.map(facts_of, paths, chunksize=8)
    except BrokenProcessPool:
        raise ReadError("a process that reads logs was killed; list fewer files at a time") from None


def facts_of(path: Path) -> list[dict[str, Any]] | str:
    """Return the facts of a file's runs, or in one line why it is no log."""
    try:
        return [run.facts() for run in load_runs(path)]
    except ReadError as error:
        return str(error)


def line_of(facts: dict[str, Any]) -> list[str]:
    """Return the columns of a run: what its log lacks is a dash."""
    step, steps = facts["step"], facts["steps"]
    file = facts["file"] + (f"#{facts['trial']}" if facts["trial"] else "")
    cells = [facts["status"], facts["track"], step if step == steps or steps is None else f"{step}/{steps}",
             loss(facts["val_loss"]), duration(facts["train_time_ms"]), facts["code_sha256"] and
             facts["code_sha256"][:8], facts["device"]]
    return [*("-" if cell is None else shown(str(cell), 40) for cell in cells), shown(file, 300)]


def loss(value: float | None) -> str | None:
    """Return a loss as a table shows it."""
    return None if value is None else f"{value:.5f}" if abs(value) < 1e6 else f"{value:.6g}"


def duration(ms: float | None) -> str | None:
    """Return a training time in seconds as a table shows it."""
    return None if ms is None else f"{ms / 1000:.1f} s" if math.isfinite(ms) else str(ms)


def table(rows: Iterable[list[str]]) -> str:
    """Return rows below a head, in columns."""
    rows = [["status", "track", "step", "val_loss", "time", "code", "device", "file"], *rows]
    widths = [max(map(len, column)) for column in zip(*rows)]
    cells = ([f"{cell:{side}{width}}" for cell, side, width in zip(row, "<<>>><<<", widths)] for row in rows)
    return "".join("  ".join(row).rstrip() + "\n" for row in cells)
