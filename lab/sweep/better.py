"""lab better: is one arm of a sweep better than another, each tuned over all that it leaves open?"""
import argparse
import re
import statistics
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from lab.recipe.schema import unknown
from lab.sweep.report import value_of, varied, words
from lab.sweep.results import comparable, group, label, load_results, Run
from lab.sweep.space import axis_values
from lab.sweep.verdict import better, chosen
from lab.train import parse_overrides


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("folder", metavar="SWEEP", type=Path, help="the folder of a sweep")
    parser.add_argument("--arms", nargs=2, required=True, metavar=("A", "B"),
                        help="axis=value[,axis=value ...], or a value alone where one axis has it")
    parser.epilog = ("Losses are compared seed by seed; supported: all of the 95 % interval of A - B is\n"
                     "below 0. What an arm leaves open, a rate say, the other seeds choose for each.\n\n"
                     "example: python -m lab better lab/sweeps/optimizers/muon --arms cosine constant")


def main(arguments: argparse.Namespace) -> int:
    """Print both arms and the verdict; return the exit code."""
    results = load_results(arguments.folder)
    arms = [arm(results.runs, results.space["axes"], word) for word in arguments.arms]
    print(f"losses compare {comparable([*arms[0], *arms[1]])}")
    for name, runs in zip(arguments.arms, arms):
        best, axes = chosen(runs), varied(group(runs))
        points = Counter(words(run.point, axes) for run in best)
        chose = ", ".join(f"{n} x {point}" for point, n in points.items()) if axes else "one point"
        print(f"{name}: {chose}: mean {statistics.fmean(run.val_loss for run in best):.4f}, n {len(best)}")
    print(": ".join(better(arguments.arms, *arms)))
    return 0


def arm(runs: Sequence[Run], axes: dict[str, list], word: str) -> list[Run]:
    """Return the runs that have the values of a word, as --arms takes it. Raises ValueError for none."""
    if "=" in word:
        pairs = [part for pair in re.split(",(?=[^,=]+=)", word) for part in pair.split("=", 1)]
        asked = {axis: label(axis_values(axis, [value])[0]) for axis, value in parse_overrides(pairs).items()}
    else:
        having = [axis for axis, values in axes.items() if word in map(label, values)]
        if len(having) != 1:
            raise ValueError(f"--arms: found {word}, a value of {', '.join(having) or 'no axis'}; expected "
                             f"one of one axis, or axis=value; the axes are {', '.join(axes)}")
        asked = {having[0]: word}
    for axis in asked.keys() - axes.keys():
        raise unknown("axis", axis, axes)
    found = [run for run in runs if all(label(value_of(run, axis)) == value for axis, value in asked.items())]
    if not found:
        raise ValueError(f"--arms: found {word}, which no run has; the axes are {axes}")
    return found
