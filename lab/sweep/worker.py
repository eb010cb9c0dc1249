"""A worker of a sweep: a process of its own for each run, which answers how that ended, or dies.

Processes are forked from a server that has imported torch already. What a run prints goes to a file.
"""
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from harness.runlog import ROOT
from lab.recipe import costs
from lab.recipe.schema import Recipe

LEAVE_S = 10.0  # that a run has for its end line once its sweep is gone
MEMORY = ("out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory")
OUTER = ("TORCHELASTIC", "MASTER_", "RANK", "WORLD_", "LOCAL_", "GROUP_")  # a torchrun around the sweep
Row = dict[str, Any]  # a line of results.jsonl


class Worker:
    """A process that trains one run, described by a row of results.jsonl, and the sweep's hold on it."""

    def __init__(self, row: Row, recipe: Recipe, output: Path, train: Callable):
        self.row, self.recipe, self.output, self.began = row, recipe, output, time.monotonic()
        processes = multiprocessing.get_context("forkserver")
        processes.set_forkserver_preload(["lab.train"])
        self.answer, theirs = processes.Pipe(duplex=False)  # readable when the run has ended, or died
        self.process = processes.Process(target=work, args=(theirs, output, train, recipe, row["seed"]))
        self.process.start()
        theirs.close()

    def result(self) -> Row:
        """Return the row of the run, which has ended: what it answered, and what the recipe costs."""
        try:
            answer = self.answer.recv()
        except (EOFError, ConnectionError):
            answer = self._death()
        self.wait()
        return {**self.row, "val_loss": None, "steps": sum(s.steps for s in costs.stretches(self.recipe)),
                "tokens": costs.total_tokens(self.recipe), "flops": costs.total_flops(self.recipe),
                "parameters": costs.parameters(self.recipe).total, "log": None, "message": None, **answer,
                "wall_s": round(time.monotonic() - self.began, 3)}

    def _death(self) -> dict[str, Any]:
        self.process.join()
        code = self.process.exitcode
        if code == -signal.SIGKILL:
            return {"status": "oom", "message": "its process got SIGKILL, as where a system is out of memory"}
        *_, last = ["", *filter(None, self.output.read_text(errors="replace").splitlines())]
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return {"status": "failed", "message": f"its process ended with {how}: {last.strip()}"[:1000]}

    def wait(self) -> None:
        """Wait for the end of the process, which is killed where it takes too long."""
        self.process.join(LEAVE_S + 2)
        self.process.kill()
        self.process.join()
        self.answer.close()


def work(answer: Connection, output: Path, train: Callable, recipe: Recipe, seed: int) -> None:
    """Train in this process, whose output goes to a file, and answer how that ended."""
    os.setsid()  # Ctrl-C reaches the sweep alone, which then ends its workers
    for name in [name for name in os.environ if name.startswith(OUTER)]:
        del os.environ[name]
    with open(output, "a", buffering=1) as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
        sys.stdout = sys.stderr = file
        threading.Thread(target=_leave_with_the_sweep, daemon=True).start()
        answer.send(attempt(train, recipe, seed))


def _leave_with_the_sweep() -> None:
    """When the sweep is gone leave too, also from the middle of a run, which then says so in its log."""
    multiprocessing.parent_process().join()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(LEAVE_S)
    os._exit(1)


def attempt(train: Callable, recipe: Recipe, seed: int) -> dict[str, Any]:
    """Train a recipe; return how that ended: ok, or what `ending` says. Raises nothing."""
    try:
        result = train(recipe, seed=seed)
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        return ending(error)
    return {"status": "ok", "val_loss": result.val_loss, "steps": result.steps, "tokens": result.tokens,
            "log": from_root(result.log)}


def ending(error: BaseException) -> dict[str, Any]:
    """Return status, message and log of a run that an exception ended: diverged, oom or failed.

    The harness leaves with an exit code; the exception that it was handling then tells why. An exception may
    carry its run's log as `log`.
    """
    log = getattr(error, "log", None)
    while isinstance(error, SystemExit) and error.__context__:
        error = error.__context__
        log = log or getattr(error, "log", None)
    message = f"{type(error).__name__}: {' '.join(str(error).split())}"[:1000]
    short = isinstance(error, MemoryError) or any(words in str(error).lower() for words in MEMORY)
    status = "oom" if short else "diverged" if getattr(error, "status", "") == "nonfinite" else "failed"
    return {"status": status, "message": message, "log": from_root(log)}


def from_root(log: Path | None) -> str | None:
    """Return a log's path from the repository's root, as results.jsonl has it."""
    if log is None:
        return None
    return log.relative_to(ROOT).as_posix() if log.is_relative_to(ROOT) else str(log)
