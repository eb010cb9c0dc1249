"""lab shift: does the best value of one axis of a sweep move along another?"""
import argparse
import math
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

from lab.recipe.schema import unknown
from lab.sweep.results import comparable, label, load_results, Run
from lab.sweep.verdict import claim, losses, matched, octaves, optimum, shift


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("folder", metavar="SWEEP", type=Path, help="the folder of a sweep")
    parser.add_argument("--axis", required=True, metavar="AXIS", help="whose best value may move; numbers")
    parser.add_argument("--over", required=True, metavar="AXIS", help="along its values, from first to last")
    parser.add_argument("--within", type=float, metavar="X", help="what still counts as staying, in octaves "
                        "where all values are above 0; default: half the smallest step")
    parser.epilog = ("The best value is found seed by seed, between the grid's by a parabola; at an end of\n"
                     "the grid it may lie beyond, so the interval has no end there.\n\n"
                     "example: python -m lab shift lab/sweeps/transfer/adamw_wide --axis optimizer.lr "
                     "--over model.n_embd")


def main(arguments: argparse.Namespace) -> int:
    """Print the best values and the verdicts, for all values of the other axes; return the exit code."""
    results, axis, over = load_results(arguments.folder), arguments.axis, arguments.over
    axes = {name: values for name, values in results.space["axes"].items() if name != "seed"}
    for name in (axis, over):
        if name not in axes:
            raise unknown("axis", name, axes)
    numbers = [value for value in axes[axis] if type(value) in (int, float)]
    if axis == over or min(len(numbers), len(axes[over])) < 2 or len(numbers) < len(axes[axis]):
        raise ValueError(f"found {axis} {axes[axis]} over {over} {axes[over]}, expected two axes of two "
                         "values or more, the first one's numbers")
    log = min(numbers) > 0
    at = sorted(map(math.log2, numbers) if log else numbers)
    within = min(b - a for a, b in zip(at, at[1:])) / 2 if arguments.within is None else arguments.within
    others, parts = [name for name in axes if name not in (axis, over)], {}
    for run in results.runs:
        where = ", ".join(f"{name} {label(run.point[name])}" for name in others)
        parts.setdefault(where, []).append(run)
    for where, runs in parts.items():
        for line in said(runs, axis, over, within, log):
            print(": ".join(filter(None, (where, line))))
    return 0


def said(runs: Sequence[Run], axis: str, over: str, within: float, log: bool) -> Iterator[str]:
    """Yield the best values along an axis, and two claims on the first and the last; log: in octaves."""
    matched(runs, lambda run: label(run.point))  # the same seeds everywhere
    by_value, grids = {}, {}
    for run in runs:
        by_value.setdefault(f"{over} {label(run.point[over])}", []).append(run)
    for value, of_value in by_value.items():
        comparable(of_value)
        grids[value] = octaves(losses(of_value, axis)) if log else losses(of_value, axis)
        best = [optimum(dict(zip(grids[value], seed))).middle for seed in zip(*grids[value].values())]
        mean = statistics.fmean(best)
        yield f"{value}: best {axis} {2**mean if log else mean:.4g}, n {len(best)}"
    if len(grids) < 2:
        return
    first, last = list(grids)[0], list(grids)[-1]
    moved = shift(grids[first], grids[last])
    direction = ("falls", -math.inf, 0.0) if moved.middle < 0 else ("rises", 0.0, math.inf)
    unit = "octaves" * log
    for does, least, most in ((f"stays within {within:g} {unit}".strip(), -within, within), direction):
        yield ": ".join(claim(f"it {does}, {first} to {last}", moved, (), unit, least, most))
