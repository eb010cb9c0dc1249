"""The process in which the judge has a script's model run, and how the two talk. Needs no torch."""
import contextlib
import hashlib
import json
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
ENVIRONMENT = {  # all of it. MALLOC: memory that is freed is kept, which saves 22 % of the CPU time
    "PATH": os.defpath, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "TORCHDYNAMO_DISABLE": "1",
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TOP_PAD_": str(1 << 29),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 32), "CUDA_CACHE_DISABLE": "1"}


class NotJudged(Exception):
    """Why there is no answer; nothing is said against the run."""


class Fails(Exception):
    """What does not hold of the run."""


class Child:
    """A process that runs a script's model, locked up."""

    def __init__(self, folder: Path, device: str, deadline: float):
        self.deadline, self.told = deadline, {}
        given = {k: v for k, v in os.environ.items() if k in ("CUDA_VISIBLE_DEVICES", "LD_LIBRARY_PATH")}
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-B", str(HERE / "judged.py"), str(folder), device],
            env=ENVIRONMENT | given, start_new_session=True, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)

    def close(self) -> None:
        """Kill the process."""
        self.process.kill()
        with contextlib.suppress(OSError, ValueError):
            self.process.communicate()

    def within(self, talk: Callable[[], Any]) -> Any:
        """Return what talk() does, unless the process ends in it, or has not answered before the deadline."""
        begin, answer = time.monotonic(), None
        timer = threading.Timer(self.deadline, self.process.kill)
        timer.daemon = True
        timer.start()
        with contextlib.suppress(BrokenPipeError):
            answer = talk()
        timer.cancel()
        if not answer:
            late = time.monotonic() - begin >= self.deadline
            raise NotJudged(f"no answer within {self.deadline:g} s" if late else
                            f"the model's process ended with exit code {self.process.wait()}")
        return answer

    def say(self, data: bytes) -> None:
        """Send the process some bytes."""
        self.within(lambda: self.process.stdin.write(data) and not self.process.stdin.flush())

    def frame(self) -> dict[str, Any]:
        """Return the facts of the next frame. Raises Fails or NotJudged where they are of an error."""
        facts = json.loads(self.within(lambda: self.process.stdout.readline(1 << 16)))
        if "error" in facts:
            kind = Fails if facts["ok"] is False else NotJudged
            raise kind(f"its code, out of the log: {shown(facts['error'])}")
        return facts

    def begin(self, setup: dict[str, Any], most: int) -> str:
        """Let the process begin; return the sha256 of the step-0 weights, of at most so many bytes."""
        self.told = self.frame()  # nothing of the script's has run yet
        self.say(json.dumps(setup).encode() + b"\n")
        self.frame()
        with contextlib.suppress(OSError):  # Linux alone tells; of what the process says nothing is sure now
            stat = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
            self.told["import_cpu_ns"] = sum(map(int, stat[11:13])) * 10**9 // os.sysconf("SC_CLK_TCK")
        left, digest = self.frame()["bytes"], hashlib.sha256()
        if not 0 < left <= most:
            raise Fails(f"GPT(hp) has a state of {left} bytes, expected at most {most}")
        while left:
            part = self.within(lambda: self.process.stdout.read(min(left, 1 << 24)))
            digest.update(part)
            left -= len(part)
        return digest.hexdigest()

    def logits(self, calls: list[np.ndarray], shape: list[int], vocab_size: int) -> Iterator[np.ndarray]:
        """Yield the logits of each call, float32, shape (tokens, vocabulary); valid until the next."""
        calls, buffer = [ids.astype("<u2").tobytes() for ids in calls], None
        self.say(calls[0])
        for following in [*calls[1:], b""]:
            found = self.frame()["shape"]
            if buffer is None and len(found) == 3 and vocab_size <= found[2] <= 4 * vocab_size:
                buffer = np.empty((math.prod(shape), found[2]), dtype="<f4")
            if buffer is None or found != [*shape, buffer.shape[1]]:
                raise Fails(f"GPT(hp) gives logits of shape {shown(found)}, expected {[*shape, vocab_size]}")
            view = memoryview(buffer).cast("B")
            self.within(lambda: self.process.stdout.readinto(view) == len(view))
            if following:
                self.say(following)  # it computes while the judge does
            yield buffer


def shown(value: object) -> str:
    """Return a stranger's words on one short line."""
    return "".join(c if c.isprintable() else " " for c in str(value))[:200]
