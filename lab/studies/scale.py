"""lab scale: does what one submission gains over another grow, hold or fade with width?

Both run at each width for equal tokens a parameter, those that take part in products, through the harness.
"""
import argparse
import math
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from lab.studies import study
from lab.studies.arms import active, losses, parse_arm, plan, recipe_of, study_command
from lab.sweep.verdict import finite, interval, Interval, Losses, plus_minus, UNDECIDED
from lab.sweep.worker import from_root
from records.tools.show.figure import figure_for, PALETTE

FRONTIER = "submissions/frontier.py"
ASKED = {  # what is compared: arms A and B
    "Muon against AdamW": ("train_gpt2.py", "submissions/adamw_matrices.py"),
    "sampled against full softmax": (FRONTIER, f"{FRONTIER} --stage_candidates=(None,)"),
    "table of pairs against none": (FRONTIER, f"{FRONTIER} --pair_rows=0")}
VERDICTS = ("A against B", "difference", "slope", "with width")  # heads of tables
ROWS = ("width", "active parameters", "steps", "A (sd)", "B (sd)", "A - B")
HOLDS = 0.25  # of the difference, by which an octave of width changes it at most


class Size(NamedTuple):
    """What is run."""

    widths: tuple[int, ...]
    seeds: int
    tokens_per_param: float
    track: str


FULL, QUICK = Size((64, 96, 128), 3, 0.33, "sample"), Size((16, 32), 2, 0.03, "lab")


class Compared(NamedTuple):
    """Two arms over widths: what a run took, final losses by width, seeds in order."""

    arms: tuple[str, str]
    taken: dict[int, tuple[int, int]]  # active parameters, steps
    a: Losses
    b: Losses

    @property
    def differences(self) -> Losses:
        """A's losses less B's, seed by seed."""
        return {width: [x - y for x, y in zip(self.a[width], self.b[width])] for width in self.a}


def compare(arms: Sequence[str], size: Size, folder: Path, jobs: int | None) -> Compared:
    """Run both arms at all widths and seeds, or what is left of them; return their losses."""
    parsed, taken, planned = [parse_arm(text) for text in arms], {}, {}
    if len(batches := {recipe_of(arm).batch_tokens for arm in parsed}) > 1:
        raise ValueError(f"the arms take {sorted(batches)} tokens a step, expected the same: both run as "
                         f"many steps")
    for width in size.widths:
        batch, n = recipe_of(parsed[0]).batch_tokens, active(parsed[0], width)
        taken[width] = n, max(1, round(size.tokens_per_param * n / batch))
        for i, arm in enumerate(parsed):
            for seed in range(1, size.seeds + 1):
                planned[i, width, seed] = plan(arm, seed, size.track, folder, width, taken[width][1])
    found = losses(planned, jobs)
    a, b = ({width: [found[i, width, seed] for seed in range(1, size.seeds + 1)] for width in size.widths}
            for i in (0, 1))
    return Compared((arms[0], arms[1]), taken, a, b)


def slopes(differences: Losses) -> list[float]:
    """Return, for each seed, the least-squares slope of its differences over the octaves of width."""
    octaves = [math.log2(width) for width in differences]
    middle = statistics.fmean(octaves)
    square = math.fsum((x - middle) ** 2 for x in octaves)
    return [math.fsum((x - middle) * d for x, d in zip(octaves, of_seed)) / square
            for of_seed in zip(*differences.values(), strict=True)]


def mean(differences: Losses) -> Interval:
    """Return the difference over all widths."""
    return interval([statistics.fmean(of_seed) for of_seed in zip(*differences.values(), strict=True)])


def word(differences: Losses) -> str:
    """Return whether a difference grows, holds or fades with width, or that this noise leaves it open."""
    size, slope = mean(differences), interval(slopes(differences))
    if not finite([*size, *slope]) or size.low <= 0 <= size.high:
        return UNDECIDED
    low, high = sorted(math.copysign(1, size.middle) * end for end in (slope.low, slope.high))
    if low > 0 or high < 0:
        return "grows" if low > 0 else "fades"
    return "holds" if max(-low, high) <= HOLDS * abs(size.middle) else UNDECIDED


def rows(compared: Compared) -> Iterator[list]:
    """Yield a line a width: what a run took, both losses, their difference."""
    for width, (n, steps) in compared.taken.items():
        yield [width, f"{n:,}", steps, study.cell(compared.a[width]), study.cell(compared.b[width]),
               plus_minus(interval(compared.differences[width]))]


def verdicts(found: dict[str, Compared]) -> Iterator[list]:
    """Yield a line a comparison: the difference, its slope, the word."""
    for name, compared in found.items():
        differences = compared.differences
        yield [name, plus_minus(mean(differences)), plus_minus(interval(slopes(differences))),
               word(differences)]


def page(found: dict[str, Compared], size: Size, command: str) -> Iterator[str]:
    """Yield the page's lines."""
    yield from (
        "# Does a gain survive size?", "", f"Written by `{command}`; the figure is img/scale.png.",
        "", f"Each pair of submissions at {len(size.widths)} widths, for {size.tokens_per_param:g} tokens a "
        f"parameter of A that takes part in products, {size.seeds} seeds, through the harness on track "
        f"`{size.track}`, one rank. What counts steps keeps its share of a run. Heads are as many as in the "
        "recipe, so one head is as wide as the model. **Learning rates are the recipe's at every width, "
        "tuned at 128 and for longer runs**: a difference may change because one side's rates fit a width "
        "less.", "",
        "Differences are A's loss less B's in nats, seed by seed (below 0: A is better); intervals 95 %, of "
        "seeds alone. Slope: nats an octave of width. A difference grows or fades where the interval of its "
        f"slope is on one side of 0; it holds where an octave changes it by at most {HOLDS:.0%}.", "")
    yield from study.table(VERDICTS, verdicts(found))
    for name, compared in found.items():
        yield from ("", f"## {name[0].upper()}{name[1:]}", "", f"A: `{compared.arms[0]}`, B: "
                    f"`{compared.arms[1]}`.", "")
        yield from study.table(ROWS, rows(compared))


def figure(found: dict[str, Compared], output: Path) -> None:
    """Draw each difference against width: seeds as points, means as a line."""
    with figure_for(output) as canvas:
        canvas.set_size_inches(3.4 * len(found), 3.4)
        panels = canvas.subplots(1, len(found), squeeze=False)[0]
        for axes, color, (name, compared) in zip(panels, PALETTE, found.items()):
            for width, values in compared.differences.items():
                axes.plot([width] * len(values), values, "o", color=color, ms=3, alpha=0.5)
            study.draw_line(axes, compared.differences, color=color, capsize=2)
            axes.axhline(0, color="black", lw=0.6)
            axes.set_xscale("log", base=2)
            axes.set_xticks(list(compared.taken), list(map(str, compared.taken)))
            axes.set_title(f"{name}:\n{word(compared.differences)}", fontsize=8)
            axes.set(xlabel="width", ylabel="A - B, nats")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of lab scale."""
    study.add_study_arguments(parser, "scale")
    parser.add_argument("arms", nargs="*", metavar="ARM", help="two: a script and its flags, in quotes; "
                        "default: the three pairs of the page")
    parser.add_argument("--widths", type=int, nargs="+", metavar="N", help="default: 64 96 128")
    parser.add_argument("--seeds", type=int, metavar="N", help="of each arm and width; default: 3")
    parser.add_argument("--tokens_per_param", type=float, metavar="X", help=f"default: "
                        f"{FULL.tokens_per_param:g}; a run of 300 steps at width 128 has twice as many")
    parser.add_argument("--track", help="default: sample; lab validates on an eighth of its tokens")


def main(arguments: argparse.Namespace) -> int:
    """Compare two arms and print that, or make the study's page, with what is left of its runs."""
    if len(arguments.arms) not in (0, 2):
        raise ValueError(f"found {len(arguments.arms)} arms, expected two or none; one pair of quotes each")
    asked = {name: value for name in Size._fields if (value := getattr(arguments, name)) is not None}
    size = (QUICK if arguments.quick else FULL)._replace(**asked)
    if len(set(size.widths)) < 2 or min(size.widths) < 1 or size.seeds < 1 or not size.tokens_per_param > 0:
        raise ValueError("expected at least two --widths, one of --seeds, --tokens_per_param above 0")
    folders = study.folders_of(arguments, "scale")
    pairs = {"A against B": arguments.arms} if arguments.arms else ASKED
    found = {name: compare(arms, size, folders.sweeps, folders.jobs) for name, arms in pairs.items()}
    if arguments.arms:
        print(*study.table(VERDICTS, verdicts(found)), "",
              *study.table(ROWS, rows(found["A against B"])), sep="\n")
        print(f"logs: {from_root(folders.sweeps)}")
        return 0
    figure(found, folders.images / "scale.png")
    command = study_command("scale", (), asked)
    study.write_page(folders.pages / "scale.md", page(found, size, command))
    return 0
