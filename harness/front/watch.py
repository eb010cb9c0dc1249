"""What the launcher sees of its ranks and hears of their logs, while they run and when they are gone."""
import contextlib
import json
import os
import re
import secrets
import signal
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any, Self, TextIO

from harness import runlog

POLL_S = 1.0   # a few small files are read each time
NAME_S = 30.0  # a rank that has been stopped for so long is named


class Watch:
    """While it is entered: names ranks of this host that are stopped (SIGSTOP), and ends them at last.

    Rank 0 tells it by a FIFO of each log that it begins, and of the sha256 of one that it has ended
    (harness/runlog.py:tell). Left when no rank lives any more, it prints what it was told, writes the end
    line of the ledger, and writes a line of JSON for each log, {log,
    sha256, status}, to the open file that SPEEDRUN_REPORT_FD names. A log of which it was told no end, or
    two, gets null for its sha256: what a submission has changed after its run is not believed.
    """

    def __init__(self, timeout_s: float):
        self.timeout_s = timeout_s
        report = os.environ.pop("SPEEDRUN_REPORT_FD", None)
        self.report = report and os.fdopen(int(report), "w")
        self.stopped: dict[str, float] = {}  # seconds, of this process's own life too: all may be stopped
        self.heard, self.over = b"", threading.Event()
        self.ended: list[Path] = []  # logs, each with one end

    def __enter__(self) -> Self:
        self.path = Path(tempfile.gettempdir(), f"speedrun-{secrets.token_hex(8)}")
        os.mkfifo(self.path, 0o600)
        self.ear = os.open(self.path, os.O_RDWR | os.O_NONBLOCK)
        os.environ["SPEEDRUN_TOLD"] = str(self.path)
        self.thread = threading.Thread(target=self._watch, name="watch", daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()
        self._hear()
        os.close(self.ear)
        self.path.unlink(missing_ok=True)
        self._conclude()

    def _watch(self) -> None:
        while not self.over.wait(POLL_S):
            self._hear()
            self._look()

    def _hear(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while words := os.read(self.ear, 1 << 16):
                self.heard += words

    def _look(self) -> None:
        """Name ranks that have been stopped for long, end them after the time-out; where there is a /proc."""
        pids = [pid for path in Path("/proc/self/task").glob("*/children") for pid in read(path).split()]
        state = {pid: read(Path("/proc", pid, "stat")).rpartition(")")[2].split()[:1] for pid in pids}
        self.stopped = {pid: self.stopped.get(pid, -POLL_S) + POLL_S for pid in pids if state[pid] == ["T"]}
        limit = min(NAME_S, self.timeout_s / 2)
        for pid, seconds in self.stopped.items():
            if rank := re.search(r"(?:^|\0)RANK=(\d+)", read(Path("/proc", pid, "environ"))):
                who = f"rank {rank[1]} (pid {pid})"
                if seconds >= self.timeout_s:
                    say(f"{who} was stopped for {self.timeout_s:g} s (--timeout): it is ended")
                    with contextlib.suppress(ProcessLookupError):  # just gone
                        os.kill(int(pid), signal.SIGKILL)
                elif seconds - POLL_S < limit <= seconds:
                    say(f"{who} is stopped; `kill -CONT {pid}` lets it go on, else it is ended after "
                        f"{self.timeout_s:g} s (--timeout)")

    def _conclude(self) -> None:
        """Say which logs there are, count them as ended, and report them."""
        told: dict[str, list[dict[str, Any]]] = {}
        for line in self.heard.splitlines():
            with contextlib.suppress(ValueError, KeyError, AttributeError):  # no words of a harness
                facts = {name: str(value) for name, value in json.loads(line).items()}
                told.setdefault(facts["log"], []).extend([facts] * ("sha256" in facts))
        for log, ends in ((log, ends) for log, ends in told.items() if Path(log).exists()):
            facts = {"status": "failed" if ends else "rank_lost", "sha256": None}
            if len(ends) == 1:
                facts = {name: ends[0].get(name) for name in facts}
                self.ended.append(Path(log))
                say(f"log sha256 {facts['sha256']}  {log}", sys.stdout)
            elif ends:
                say(f"{log}: {len(ends)} ends were told of it: not the harness's words alone")
            else:
                say(f"rank 0 was lost before it had ended its log: {log}")
            runlog.count_attempt(Path(log), "end", **facts)  # a harness that tells has it
            if self.report:
                print(json.dumps({"log": log, **facts}), file=self.report, flush=True)
        if self.report:
            self.report.close()


def read(path: Path) -> str:
    """Return the text of a file, '' where there is none."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def say(text: str, stream: TextIO | None = None) -> None:
    """Show a line, on stderr if nothing is said; a terminal or pipe that was closed ends no run."""
    with contextlib.suppress(OSError):
        print(text, file=stream or sys.stderr, flush=True)
