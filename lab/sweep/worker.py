"""A worker of a sweep, both ends: a process that trains one run after another, and the sweep's hold on it.

    python -m lab.sweep.worker FD module:function

FD is a socket. The process reads a line of JSON a run, {"recipe": {...}, "seed": 0}, and answers with a line:
{"status", "val_loss", "steps", "tokens", "log", "message"}. What a run prints goes to a file.
"""
import contextlib
import gc
import importlib
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from harness.runlog import ROOT, canonical
from lab.environment import with_variables
from lab.recipe.load import as_dict, make_recipe
from lab.recipe.schema import Recipe

LEAVE_S = 10.0  # that a run has for its end line once its sweep is gone
MEMORY = ("out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory")
OUTER = ("TORCHELASTIC", "MASTER_", "RANK", "WORLD_", "LOCAL_", "GROUP_")  # a torchrun around the sweep


class Worker:
    """A process that trains one run at a time; closing it ends it, also in the middle of a run."""

    def __init__(self, output: Path, trainer: str):
        self.output, self.row, self.ready, self.began = output, None, False, 0.0
        self.socket, theirs = socket.socketpair()
        own = {key: value for key, value in os.environ.items() if not key.startswith(OUTER)}
        path = os.pathsep.join([str(ROOT), *filter(None, [own.get("PYTHONPATH")])])
        with theirs, open(output, "ab") as file:
            # a session of its own: Ctrl-C reaches the sweep alone, which then closes its workers
            self.process = subprocess.Popen(
                [sys.executable, "-m", "lab.sweep.worker", str(theirs.fileno()), trainer],
                stdin=subprocess.DEVNULL, stdout=file, stderr=file, pass_fds=[theirs.fileno()],
                start_new_session=True,
                env=with_variables({**own, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}))
        self.lines = self.socket.makefile()

    def fileno(self) -> int:
        """Return what to wait on for an answer."""
        return self.socket.fileno()

    def send(self, row: dict[str, Any], recipe: Recipe) -> None:
        """Give the worker a run, described by a row of results.jsonl."""
        self.row, self.began = row, time.monotonic()
        with contextlib.suppress(OSError):  # it died: so receive says
            self.socket.sendall(canonical({"recipe": as_dict(recipe), "seed": row["seed"]}).encode() + b"\n")

    def receive(self) -> dict[str, Any] | None:
        """Return the worker's answer; None where it died first."""
        try:
            line = self.lines.readline()
        except ConnectionError:
            line = ""
        return json.loads(line) if line.endswith("\n") else None

    def death(self) -> dict[str, Any]:
        """Return status and message of the run in which the process died."""
        code = self.process.wait()
        if code == -signal.SIGKILL:
            return {"status": "oom", "message": "its process got SIGKILL, as where a system is out of memory"}
        *_, last = ["", *filter(None, self.output.read_text(errors="replace").splitlines())]
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return {"status": "failed", "message": f"its process ended with {how}: {last.strip()}"[:1000]}

    def close(self) -> None:
        """Tell the process to end."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)

    def wait(self) -> None:
        """Wait for the end of a closed process, which is killed where it takes too long."""
        try:
            self.process.wait(LEAVE_S + 2)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.lines.close()
        self.socket.close()


def main(argv: list[str]) -> None:
    """Answer until the sweep closes the socket, or is gone."""
    channel = socket.socket(fileno=int(argv[0]))
    channel.set_inheritable(False)
    requests: queue.SimpleQueue = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(channel.makefile(), requests), daemon=True).start()
    module, _, name = argv[1].partition(":")
    train = getattr(importlib.import_module(module), name)
    channel.sendall(b"{}\n")  # ready
    while True:
        request = requests.get()
        answered = answer(train, make_recipe(request["recipe"]), request["seed"])
        channel.sendall(canonical(answered).encode() + b"\n")
        gc.collect()  # a model holds cycles: free it before the next one is built


def _listen(lines: TextIO, requests: queue.SimpleQueue) -> None:
    """Pass requests on; at their end leave, also from the middle of a run, which then says so in its log."""
    for line in lines:
        requests.put(json.loads(line))
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(LEAVE_S)
    os._exit(1)


def answer(train: Callable, recipe: Recipe, seed: int) -> dict[str, Any]:
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


if __name__ == "__main__":
    main(sys.argv[1:])
