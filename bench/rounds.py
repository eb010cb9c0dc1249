"""How a ratio is measured: alternating rounds in one run, median and spread, the state of the machine."""
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from harness.environment import cpu_name

ROOT = Path(__file__).resolve().parent.parent


class Row(NamedTuple):
    """One line of the page: a value a round, and the goal it is held against, such as '>= 0.60'."""

    name: str
    values: list[float]
    unit: str
    goal: str = ""

    @property
    def median(self) -> float:
        """The median over the rounds."""
        return statistics.median(self.values)

    def measured(self) -> str:
        """Return median, spread and number of rounds in words."""
        text = f"{self.median:.4g} {self.unit}".strip()
        if len(self.values) == 1:
            return f"{text} (one)"
        return f"{text} ({min(self.values):.4g} to {max(self.values):.4g}, {len(self.values)} rounds)"

    def verdict(self) -> str:
        """Return pass or miss, or nothing where no goal was set."""
        if not self.goal:
            return ""
        sign, number = self.goal.split()[:2]
        met = self.median >= float(number) if sign == ">=" else self.median <= float(number)
        return "pass" if met else "miss"


class Result(NamedTuple):
    """What a benchmark found: rows for the table, a paragraph on how, all numbers."""

    rows: list[Row]
    how: str
    raw: dict[str, Any]


def interleaved(works: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list]:
    """Return what each work returned in each round; every second round runs them backwards: A B, B A, A B."""
    found: dict[str, list] = {name: [] for name in works}
    for i in range(rounds):
        for name in list(works) if i % 2 == 0 else reversed(works):
            found[name].append(works[name]())
    return found


def ratios(above: list[float], below: list[float]) -> list[float]:
    """Return the quotient of each round."""
    return [a / b for a, b in zip(above, below, strict=True)]


def foreign_load(seconds: float = 2.0) -> float | None:
    """Return how many cores others keep busy while this process sleeps; None where /proc does not say."""
    def busy_ticks() -> int:
        ticks = [int(n) for n in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
        return sum(ticks) - ticks[3] - ticks[4]  # idle, waiting for a disk
    try:
        before = busy_ticks()
        time.sleep(seconds)
        return (busy_ticks() - before) / os.sysconf("SC_CLK_TCK") / seconds
    except (OSError, ValueError, IndexError):
        return None


def conditions() -> dict[str, Any]:
    """Return hardware and versions, for the page."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"cpu": cpu_name(), "cpus": os.cpu_count(), "memory_gib": round(memory), "gpu": gpu,
            "platform": f"{platform.system()} {platform.release()}", "python": platform.python_version(),
            "torch": torch.__version__, "load": [round(load, 2) for load in os.getloadavg()],
            "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())}
