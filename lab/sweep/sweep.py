"""lab sweep: train every point of a space in worker processes, a line of JSON a run; goes on after a kill."""
import argparse
import dataclasses
import fcntl
import json
import os
import signal
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import wait
from pathlib import Path
from typing import NoReturn

from tqdm import tqdm

from harness.front.cores import physical_cores
from harness.runlog import ROOT, canonical
from lab.sweep.space import Space, as_json, check, load_space, points, recipe_of
from lab.sweep.worker import Row, Worker
from lab.train import train_recipe
from records.tools.read.values import write_whole


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("space", type=Path, metavar="SPACE.yaml", help="recipe, axes, constraints")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: lab/sweeps/ and the file's name")
    parser.add_argument("--jobs", type=int, metavar="N", help="runs at a time; default: one a core")
    parser.add_argument("--samples", type=int, metavar="N", help="of a random space, instead of the file's")
    parser.epilog = "example: python -m lab sweep lab/spaces/example.yaml --samples 4"


def main(arguments: argparse.Namespace) -> int:
    """Run a space's points; return the exit code: 1 where a run failed, 0 also where runs diverged."""
    space = load_space(arguments.space)
    if arguments.samples is not None:
        space = check(dataclasses.replace(space, samples=arguments.samples))
    folder = arguments.out or ROOT / "lab" / "sweeps" / arguments.space.stem
    rows = run_sweep(space, folder, arguments.jobs)
    counts = Counter(row["status"] for row in rows)
    print(f"{len(rows)} runs: {', '.join(f'{n} {status}' for status, n in counts.items())}")
    if finished := [row for row in rows if row["status"] == "ok"]:
        best = min(finished, key=lambda row: row["val_loss"])
        print(f"lowest val_loss {best['val_loss']:.4f}: {shown(best)}")
    print(f"+ python -m lab report {os.path.relpath(folder)}")
    return 1 if counts["failed"] else 0


def run_sweep(space: Space, folder: Path, jobs: int | None = None, trainer: Callable = train_recipe
              ) -> list[Row]:
    """Train what the folder has no result of yet; return the rows of results.jsonl in the space's order.

    trainer: called as train_recipe is, in other processes. Ctrl-C and SIGTERM end these and go on to the
    caller, as KeyboardInterrupt and SystemExit(143). Raises ValueError for a folder that is in use or another
    space's, and for a space that admits nothing.
    """
    if jobs is not None and jobs < 1:
        raise ValueError(f"--jobs {jobs}: expected at least 1")
    wanted = planned(space)
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        declare(space, folder / "sweep.json")
        rows = recover(folder / "results.jsonl", {identity(row): row["index"] for row in wanted})
        there = {identity(row) for row in rows}
        todo = [row for row in wanted if identity(row) not in there]
        if todo:
            print(f"{len(wanted)} runs, {len(wanted) - len(todo)} of them done; what the others print is in "
                  f"{os.path.relpath(folder)}/worker_*.txt", file=sys.stderr)
            rows += train(space, folder, todo, len(wanted), min(jobs or default_jobs(), len(todo)), trainer)
    by_identity = {identity(row): row for row in rows}
    return [by_identity[identity(row)] for row in wanted]


def default_jobs() -> int:
    """Return how many runs go at a time: one on a GPU, whose memory they would share, else one a core."""
    from torch import cuda  # takes seconds to load
    return 1 if cuda.is_available() else physical_cores()


def planned(space: Space) -> list[Row]:
    """Return the rows of a space's points before they are run. Raises ValueError where there are none."""
    wanted = [{"index": i, "point": {key: value for key, value in point.items() if key != "seed"},
               "seed": point.get("seed", 0)} for i, point in enumerate(points(space))]
    if not wanted:
        raise ValueError(f"none of {len(space.refusals)} combinations may be run; the first: "
                         f"{space.refusals[0]}")
    if space.samples and len(wanted) < space.samples:
        print(f"{space.samples} samples asked for; of {len(space.refusals)} combinations {len(wanted)} may "
              f"be run, and are all taken", file=sys.stderr)
    return wanted


def identity(row: Row) -> str:
    """Return what tells a run from the others of its sweep."""
    return canonical([row["point"], row["seed"]])


def shown(row: Row) -> str:
    """Return a row's point and seed for people."""
    return " ".join(f"{key}={value}" for key, value in {**row["point"], "seed": row["seed"]}.items())


# ---------------------------------------------------------------------------------------------------
# the folder


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a sweep's folder. Raises ValueError where another sweep does."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{folder}: another sweep runs there; wait, or give --out another folder"
                             ) from None
        yield
    finally:
        os.close(handle)


def declare(space: Space, path: Path) -> None:
    """Write sweep.json; more samples of the same space go on with it. Raises ValueError for another's."""
    own = json.loads(canonical(as_json(space)))
    if path.exists():
        try:
            there = {**dict.fromkeys(own), **json.loads(path.read_text())}
        except (ValueError, TypeError):
            raise ValueError(f"{path}: not a sweep's; give --out another folder") from None
        if other := [key for key in own if key != "samples" and there[key] != own[key]]:
            raise ValueError(f"{path}: the sweep there has other {', '.join(other)}; give --out another "
                             f"folder, or remove {path.parent} and its results")
        own["samples"] = own["samples"] and max(own["samples"], there["samples"])
        if own == there:
            return
    elif (path.parent / "results.jsonl").exists():
        raise ValueError(f"{path.parent}: results.jsonl without sweep.json, nobody knows of what; give --out "
                         f"another folder")
    write_whole(path, canonical(own) + "\n")


def recover(path: Path, indices: dict[str, int]) -> list[Row]:
    """Return the results there are; mend the file where a kill cut it off, so that lines can be added.

    What failed, or has lost its log, is run again. The numbers of a grid's runs follow its axes when their
    order changes.
    """
    *lines, half = (path.read_bytes() if path.exists() else b"").split(b"\n")
    rows, kept = [], {}
    for number, line in enumerate(lines, 1):
        try:
            rows.append(row := json.loads(line))
            if row["status"] != "failed" and (row["log"] is None or (ROOT / row["log"]).exists()):
                kept.setdefault(identity(row), {**row, "index": indices.get(identity(row), row["index"])})
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"{path}, line {number}: no result of a sweep; remove that line") from None
    kept = list(kept.values())
    if half:
        print(f"{path.name}: half a line at its end is cut off; that run is run again", file=sys.stderr)
    if len(kept) < len(rows):
        print(f"{path.name}: {len(rows) - len(kept)} runs that failed or lost their log are run again",
              file=sys.stderr)
    if half or kept != rows:
        write_whole(path, "".join(canonical(row) + "\n" for row in kept))
    return kept


# ---------------------------------------------------------------------------------------------------
# the runs


def train(space: Space, folder: Path, todo: Sequence[Row], total: int, jobs: int, trainer: Callable
          ) -> list[Row]:
    """Do some runs, so many at a time; return their rows, each of which is on disk as soon as it ends."""
    waiting, busy, rows, before = deque(todo), {}, [], total - len(todo)
    outputs = [folder / f"worker_{i}.txt" for i in range(jobs)]  # of workers that have nothing to do
    for output in outputs:
        output.write_bytes(b"")
    bar = tqdm(total=total, initial=before, unit="run", dynamic_ncols=True, disable=not sys.stderr.isatty())
    try:
        with _terminating(), bar, open(folder / "results.jsonl", "ab", buffering=0) as file:
            while waiting or busy:
                while waiting and outputs:
                    row = waiting.popleft()
                    with _undisturbed():  # a worker that nobody knows would be ended by nobody
                        worker = Worker(row, recipe_of(space, row["point"]), outputs.pop(), trainer)
                        busy[worker.answer] = worker
                for answer in wait(busy):
                    rows.append(row := busy[answer].result())
                    outputs.append(busy.pop(answer).output)
                    file.write(canonical(row).encode() + b"\n")
                    os.fsync(file.fileno())
                    _say(bar, f"{before + len(rows)}/{total}", row)
    except (KeyboardInterrupt, SystemExit):
        print(f"\nstopped with {before + len(rows)} of {total} runs done; the same command goes on",
              file=sys.stderr)
        raise
    finally:
        for worker in busy.values():
            worker.process.terminate()
        for worker in busy.values():
            worker.wait()
    return rows


@contextmanager
def _terminating() -> Iterator[None]:
    """Turn SIGTERM into SystemExit(143), so that it ends the workers too."""
    def leave(number: int, frame: object) -> NoReturn:
        sys.exit(128 + number)
    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Put Ctrl-C and SIGTERM off to the end of a block; a mask would not, other threads get them then."""
    late: list[int] = []
    before = {number: signal.signal(number, lambda number, frame: late.append(number))
              for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    for number in late:
        signal.raise_signal(number)


def _say(bar: tqdm, count: str, row: Row) -> None:
    """Show how a run ended: on a terminal with the bar, in a line of its own where it has no loss."""
    loss = "" if row["val_loss"] is None else f" {row['val_loss']:.4f}"
    line = f"{count} {row['status']}{loss} {shown(row)} {row['wall_s']:.0f} s {row['message'] or ''}".rstrip()
    bar.update()
    if bar.disable:
        print(line, file=sys.stderr, flush=True)
    elif row["status"] == "ok":
        bar.set_postfix_str(f"val_loss{loss}")
    else:
        bar.write(line, file=sys.stderr)
