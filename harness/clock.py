"""Training time: monotonic nanoseconds from validation to validation, and where the rest of the time went."""
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
import torch.distributed as dist

# bound at import: replacing time.monotonic_ns or dist.barrier later does not change the clock
_now_ns, _barrier, _all_reduce, _max = time.monotonic_ns, dist.barrier, dist.all_reduce, dist.ReduceOp.MAX
_synchronize = torch.cuda.synchronize


class Clock:
    """Charges the timed segments. Ranks meet at their borders only; all that lies between is charged."""

    def __init__(self, device: torch.device):
        self.device = device
        self.resumed_ns = 0  # charged in the run that this one goes on from
        self.spent_ns = {"setup": 0, "warmup": 0, "validation": 0, "checkpoint": 0, "finish": 0}
        self._opened_ns = self._left_ns = _now_ns()  # left: when untimed work was last done with
        self._segment_ns: int | None = None
        self._timed_ns = 0  # closed segments
        # of a step (the mean of each timed segment), of one in the warm-up, of a piece of the validation, and
        # of the submission's part of the set-up
        self.lengths_ns: dict[str, list[int]] = {"step": [], "warmup_step": [], "piece": [], "setup": []}
        self._compiled_ns = compiled_ns()

    def synchronize(self) -> None:
        """Wait until the device has done all work that was issued to it."""
        if self.device.type == "cuda":
            _synchronize(self.device)

    def start(self) -> None:
        """Open a timed segment on all ranks together (collective)."""
        self.synchronize()
        _barrier()
        self._segment_ns = _now_ns()

    def stop(self, steps: int = 1) -> None:
        """Close the segment, of some steps, and charge its length on the slowest rank (collective)."""
        self.synchronize()
        length = torch.tensor(_now_ns() - self._segment_ns, dtype=torch.int64, device=self.device)
        _all_reduce(length, op=_max)
        self._segment_ns, self._timed_ns = None, self._timed_ns + int(length)
        self.lengths_ns["step"].append(int(length) // steps)

    @property
    def running(self) -> bool:
        """Whether a timed segment is open."""
        return self._segment_ns is not None

    @property
    def train_time_ns(self) -> int:
        """Charged time so far; inside a segment as this rank sees it, without waiting for the device."""
        now = _now_ns()
        return self.resumed_ns + self._timed_ns + now - (self._segment_ns or now)

    @contextmanager
    def spending(self, what: str) -> Iterator[None]:
        """Account the time inside as one of spent_ns. Segments must be closed."""
        assert self._segment_ns is None, "untimed work inside a timed segment"
        begin = _now_ns()
        try:
            yield
        finally:
            self.synchronize()
            self._left_ns = _now_ns()
            self.spent_ns[what] += self._left_ns - begin

    def finish(self) -> None:
        """Account all since the last validation as the finish: no training after it changes its loss."""
        self.spent_ns["finish"] = _now_ns() - self._left_ns

    def account(self) -> dict[str, Any]:
        """Return the wall time since the run was opened and its parts, in ns; they add up exactly.

        untimed: what a reader needs to tell how much of warm-up and validation their own work explains:
        numbers and median lengths of their parts on this rank, and what torch compiled.
        """
        now = _now_ns()
        wall = now - self._opened_ns
        timed = self._timed_ns + now - (self._segment_ns or now)  # read once: another thread may end the run
        parts = {f"{what}_ns": spent for what, spent in self.spent_ns.items()}
        medians = {f"{what}_ns": int(statistics.median(ns or [0])) for what, ns in self.lengths_ns.items()}
        untimed = {**medians, "warmup_steps": len(self.lengths_ns["warmup_step"]),
                   "pieces": len(self.lengths_ns["piece"]), "compile_ns": compiled_ns() - self._compiled_ns}
        return {"wall_ns": wall, "timed_ns": timed, **parts, "untimed": untimed,
                "unexplained_ns": wall - timed - sum(parts.values())}


def compiled_ns() -> int:
    """Return the time that torch says this process has spent compiling; 0 where nothing was compiled."""
    dynamo = sys.modules.get("torch._dynamo.utils")
    with suppress(AttributeError, RuntimeError):  # there is none, or another thread imports it or compiles
        return int(dynamo.calculate_time_spent()["total_wall_time"] * 1e9)
    return 0


def host_clocks() -> dict[str, int | None]:
    """Return realtime, monotonic and boot time in ns: a verifier sees clock steps and suspends."""
    boottime = getattr(time, "CLOCK_BOOTTIME", None)
    return {"realtime_ns": time.time_ns(), "monotonic_ns": _now_ns(),
            "boottime_ns": boottime and time.clock_gettime_ns(boottime)}
