"""What the studies share: where things go, sweeps, and the generated page."""
import argparse
import math
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from harness.track import ROOT
from lab.recipe.load import load_recipe
from lab.sweep.results import Run, comparable, load_results
from lab.sweep.space import make_space
from lab.sweep.sweep import run_sweep
from lab.sweep.verdict import finite, Losses
from lab.sweep.worker import from_root

RING = {"marker": "o", "ms": 11, "mfc": "none", "ls": ""}


class Folders(NamedTuple):
    """Folders of a study: its sweeps, its figures, its page; and how many runs go at a time."""

    sweeps: Path
    images: Path
    pages: Path
    jobs: int | None


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


def rates(recipe: str, octaves: Iterable[int]) -> list[float]:
    """Return learning rates some octaves above a recipe's own."""
    lr = load_recipe(recipe).optimizer.lr
    return [lr * 2.0**octave for octave in octaves]


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


def best(by_value: Losses) -> float:
    """Return the value whose mean loss over seeds is lowest."""
    return min(by_value, key=lambda value: math.fsum(by_value[value]))


def draw_line(axes: Any, by_value: Losses, place: Callable = float, ring: bool = False, **look: Any) -> None:
    """Draw means and sd over seeds at the places of their values, with a ring around the lowest if asked.

    Values at which a run diverged are left out.
    """
    means = {value: statistics.fmean(found) for value, found in by_value.items() if finite(found)}
    sds = [statistics.stdev(by_value[value]) if len(by_value[value]) > 1 else 0.0 for value in means]
    if means:
        axes.errorbar(list(map(place, means)), list(means.values()), sds,
                      **{"marker": "o", "ms": 4, **look})
    if means and ring:
        lowest = min(means, key=means.get)
        axes.plot(place(lowest), means[lowest], color=look["color"], **RING)


def legend(axes: Any) -> None:
    """Write a legend of the lines drawn, and of the rings."""
    axes.plot([], [], color="black", label="lowest mean", **RING)
    axes.legend(fontsize=8, title="mean and sd over seeds", title_fontsize=8)


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


def write_page(path: Path, lines: Iterable[str]) -> None:
    """Write a study's page, show it, and say where it lies."""
    text = "\n".join(lines) + "\n"
    path.write_text(text)
    print(text)
    print(f"page: {from_root(path)}", file=sys.stderr)
