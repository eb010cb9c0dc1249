"""What the three studies share: where things go, sweeps, claims with an interval, and the generated page."""
import argparse
import math
import statistics
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from harness.track import ROOT
from lab.sweep.results import Run, comparable, load_results
from lab.sweep.space import make_space
from lab.sweep.sweep import run_sweep
from lab.sweep.worker import from_root
from records.tools.check.significance import Test, one_sample, upper_bound, welch

CONFIDENCE = 0.95
SUPPORTED, UNSUPPORTED, UNDECIDED = "supported", "not supported", "undecided at this noise"


class Folders(NamedTuple):
    """Folders of a study: its sweeps, its figures, its page; and how many runs go at a time."""

    sweeps: Path
    images: Path
    pages: Path
    jobs: int | None


class Claim(NamedTuple):
    """A statement about a number, and what its interval says of it."""

    statement: str
    value: str
    verdict: str


def add_study_arguments(parser: argparse.ArgumentParser, name: str) -> None:
    """Add the flags that every study has."""
    parser.add_argument("--quick", action="store_true",
                        help="all parts at a toy size; the numbers mean nothing")
    parser.add_argument("--jobs", type=int, metavar="N", help="runs at a time; default: one a core")
    parser.add_argument("--out", type=Path, metavar="DIR", help="for sweeps, figures and page; default: "
                        "lab/sweeps, img and docs, or all in lab/sweeps with --quick")
    parser.epilog = f"example: python -m lab {name} --quick"


def folders_of(arguments: argparse.Namespace, name: str) -> Folders:
    """Return the folders of a study and make them."""
    if arguments.jobs is not None and arguments.jobs < 1:
        raise ValueError(f"--jobs {arguments.jobs}: expected at least 1")
    sweeps = ROOT / "lab" / "sweeps" / (f"quick_{name}" if arguments.quick else name)
    out = arguments.out or (sweeps if arguments.quick else None)
    found = Folders(out or sweeps, out or ROOT / "img", out or ROOT / "docs", arguments.jobs)
    for folder in found[:3]:
        folder.mkdir(parents=True, exist_ok=True)
    return found


def sweep(folders: Folders, name: str, space: dict[str, Any]) -> list[Run]:
    """Run a space in a folder of the study, or what is left of it; return its runs, which compare.

    Raises ValueError where a run failed: a study with holes would choose by what happened to work.
    """
    folder = folders.sweeps / name
    print(f"{name}: {from_root(folder)}", file=sys.stderr)
    run_sweep(make_space(space), folder, folders.jobs)
    runs = load_results(folder).runs
    comparable(runs)
    if broken := [run for run in runs if run.status in ("failed", "oom")]:
        raise ValueError(f"{folder.name}: {broken[0].name} {broken[0].status}: {broken[0].message}; mend "
                         f"that and run again; an oom's line in {from_root(folder)}/results.jsonl must go "
                         f"first")
    return runs


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % confidence interval of a mean."""
    return _interval(one_sample(values, 0)) if len(values) > 1 and finite(values) else (-math.inf, math.inf)


def difference_interval(a: Sequence[float], b: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % confidence interval of mean(a) - mean(b), the two with spreads of their own (Welch)."""
    return _interval(welch(a, b)) if min(len(a), len(b)) > 1 and finite([*a, *b]) else (-math.inf, math.inf)


def _interval(test: Test) -> tuple[float, float]:
    high = upper_bound(test, (1 + CONFIDENCE) / 2)
    return 2 * test.mean - high, high


def finite(values: Iterable[float]) -> bool:
    """Tell whether all values are finite: no run diverged."""
    return all(math.isfinite(value) for value in values)


def verdict(low: float, high: float, least: float = -math.inf, most: float = math.inf) -> str:
    """Return whether an interval lies inside least..most, outside of it, or says neither."""
    if least <= low and high <= most:
        return SUPPORTED
    return UNSUPPORTED if high < least or low > most else UNDECIDED


def plus_minus(middle: float, low: float, high: float, unit: str = "") -> str:
    """Return a mean with half its interval's width, in words."""
    unit = f" {unit}" if unit else ""
    spread = f" ± {(high - low) / 2:.4f}{unit}" if finite((low, high)) else f"{unit}, no spread"
    return f"{middle:+.4f}{spread}"


def mean_claim(statement: str, values: Sequence[float], unit: str, least: float = -math.inf,
               most: float = math.inf) -> Claim:
    """Return the claim that a mean over seeds lies between two numbers."""
    ends = mean_interval(values)
    return Claim(statement, plus_minus(statistics.fmean(values), *ends, unit), verdict(*ends, least, most))


def difference_claim(statement: str, a: Sequence[float], b: Sequence[float], least: float = -math.inf,
                     most: float = math.inf) -> Claim:
    """Return the claim that mean(a) - mean(b), in nats, lies between two numbers."""
    ends, middle = difference_interval(a, b), statistics.fmean(a) - statistics.fmean(b)
    return Claim(statement, plus_minus(middle, *ends, "nats"), verdict(*ends, least, most))


def cell(values: Sequence[float], bold: bool = False) -> str:
    """Return a mean over seeds with its sd, or how many of them diverged, for a table."""
    if not finite(values):
        return f"{sum(map(math.isinf, values))} of {len(values)} diverged"
    mean = f"**{statistics.fmean(values):.4f}**" if bold else f"{statistics.fmean(values):.4f}"
    return f"{mean} ({statistics.stdev(values):.4f})" if len(values) > 1 else mean


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(str(cell) for cell in line) + " |" for line in lines]


def claims_table(claims: Iterable[Claim]) -> list[str]:
    """Return claims as a Markdown table."""
    return table(("claim", "measured, 95 % interval", "verdict"), claims)


def write_page(path: Path, lines: Iterable[str]) -> None:
    """Write a study's page, show it, and say where it lies."""
    text = "\n".join(lines) + "\n"
    path.write_text(text)
    print(text)
    print(f"page: {from_root(path)}", file=sys.stderr)
