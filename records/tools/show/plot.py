"""Draws losses of runs, or a track's records; runs of the same code and settings share a line."""
import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any, NamedTuple

from records.tools.check.claim import FALLBACK
from records.tools.read.logs import LOGS
from records.tools.read.run import Point, Run
from records.tools.read.values import ReadError, is_finite, number, shown
from records.tools.show.figure import GREY, PALETTE, figure_for, titles
from records.tools.show.group import WINDOW, Group, between, groups_of, read_runs, smoothed
from records.tools.show.history import draw_history, read_records

LABELS = {"steps": "step", "tokens": "training tokens",
          "time": "training time (s; compares within one sitting only)"}


class Curve(NamedTuple):
    """Mean, lowest and highest of a loss over the runs of a group, at the steps that all of them have."""

    x: list[float]
    mean: list[float]
    low: list[float]
    high: list[float]


ARGUMENTS = {
    "logs": LOGS,
    "-o --output": {"metavar": "FILE", "type": Path, "required": True, "help": "a .png or .svg"},
    "--x": {"choices": tuple(LABELS), "default": "steps", "help": "what the horizontal axis counts"},
    "--ladder": "draw the track's n-gram losses too",
    "--json": "print what was drawn as one JSON object",
    "--history": "draw the times of a track's records as ratios; LOG is its folder in records/",
}


def main(arguments: argparse.Namespace) -> int:
    """Draw the figure and say what is in it; return the exit code."""
    if arguments.output.suffix not in (".png", ".svg"):
        raise ReadError(f"-o {shown(arguments.output.name)}: expected a name that ends in .png or .svg")
    if arguments.history:
        records = [record for folder in arguments.logs for record in read_records(folder)]
        draw_history(records, arguments.output)
        stand = sum(bool(each.number) for each in records)
        drawn = {"records": stand, "attempts": len(records) - stand}
    else:
        runs = load(arguments.logs)
        if len(tracks := sorted({run.track or FALLBACK for run in runs})) > 1:
            raise ReadError(f"tracks {shown(', '.join(tracks))}: their runs do not compare; draw one track")
        groups = groups_of(runs)
        draw(groups, arguments)
        drawn = {"runs": len(runs), "groups": len(groups)}
    print(json.dumps({"file": str(arguments.output), **drawn}) if arguments.json else
          f"{arguments.output}: {', '.join(f'{n} {what}' for what, n in drawn.items())}")
    return 0


def load(paths: list[Path]) -> list[Run]:
    """Return the runs of logs and folders that have a finite validation loss; stderr names the others.

    Raises ReadError where none is left.
    """
    runs = read_runs(paths, "plot")
    bare = [run for run in runs if not any(point.step and is_finite(point.loss) for point in run.vals)]
    if len(bare) == len(runs):
        raise ReadError(f"{shown(', '.join(map(str, paths)))}: no run with a finite loss after step 0")
    for run in bare:
        print(f"records plot: passed over {run.name}: no finite validation after step 0", file=sys.stderr)
    return [run for run in runs if run not in bare]


def curve(group: Group, axis: str, training: bool = False) -> Curve:
    """Return the loss of a group in validation after step 0, or in training, smoothed.

    Raises ReadError where a log lacks the axis.
    """
    runs = [{p.step: (position(run, p, axis), p.loss) for p in (smoothed(run) if training else run.vals)
             if p.step and is_finite(p.loss)} for run in group.runs]
    steps = sorted(set.intersection(*map(set, runs)))
    x = [statistics.fmean(run[step][0] for run in runs) for step in steps]
    losses = [[run[step][1] for run in runs] for step in steps]
    return Curve(x, list(map(statistics.fmean, losses)), list(map(min, losses)), list(map(max, losses)))


def position(run: Run, point: Point, axis: str) -> float:
    """Return where a point stands on an axis; tokens lie on the line between validations. Units: LABELS."""
    if axis == "steps":
        return point.step
    if axis == "time" and is_finite(point.time_ms):
        return point.time_ms / 1e3
    if axis == "tokens" and point.tokens is not None:
        return point.tokens
    marks = sorted((val.step, val.tokens) for val in run.vals if val.tokens is not None)
    if axis == "time" or not marks:
        raise ReadError(f"{run.name}: does not tell its {axis}; draw it with --x steps")
    return between(marks, point.step)


def facts(run: Run, ladder: bool) -> dict[str, float]:
    """Return names and losses for horizontal lines: the target and, asked for, the track's n-gram losses."""
    track = run.log.track if run.log else {}
    rungs = track.get("baselines") if ladder else None
    lines = {**rungs} if isinstance(rungs, dict) else {}
    lines["target"] = track.get("target")
    return {shown(k, 30): number(v) for k, v in lines.items() if v is not None and is_finite(number(v))}


def overrides(run: Run) -> set[str]:
    """Return the hyperparameters that the command line changed, as words."""
    return {f"{name}={value}" for name, value in run.mapping("overrides").items()}


def label(group: Group, common: set[str]) -> str:
    """Return what the legend says of a group: its name or code, what sets it apart, which runs."""
    first, runs = group.runs[0], group.runs
    digest, script = first.at("code", "digest"), first.script_sha256
    names = sorted({str(name) for run in runs if (name := run.at("launch", "name"))})
    code = f"code {digest[:8]}" if digest else f"script {script[:8]}" if script else group.name
    words = [", ".join(names) or first.record or code, *sorted(overrides(first) - common)]
    if len(runs) > 1:
        words.append(f"({len(runs)} runs: mean, lowest and highest)")
    else:
        words += [f"(seed {first.seed})"] * (first.seed is not None)
    if incomplete := sum(run.status == "incomplete" for run in runs):
        words.append(f"({incomplete} incomplete)")
    return shown(" ".join(words), 100)


def draw(groups: list[Group], arguments: argparse.Namespace) -> None:
    """Draw what the arguments ask for of groups of runs into their file."""
    common = set.intersection(*(overrides(group.runs[0]) for group in groups))
    with figure_for(arguments.output) as figure:
        axes = figure.subplots()
        draw_losses(axes, groups, common, arguments.x, arguments.ladder)
        titles(axes, groups[0].runs[0].track, common)
        figure.legend(loc="outside lower left", fontsize=9, alignment="left", title_fontsize=9,
                      title=f"validation from the first after step 0; thin: training, mean of {WINDOW} steps")


def draw_losses(axes: Any, groups: list[Group], common: set[str], axis: str, ladder: bool) -> None:
    """Draw the losses of each group, thin in training; colours, then dashes, tell groups apart."""
    from matplotlib.ticker import EngFormatter
    for i, group in enumerate(groups):
        colour, dashes = PALETTE[i % len(PALETTE)], ("-", "--", ":", "-.")[i // len(PALETTE) % 4]
        train, val = curve(group, axis, training=True), curve(group, axis)
        if not val.x:
            raise ReadError(f"{group.name} and runs like it share no validated step after step 0")
        axes.plot(train.x, train.mean, color=colour, alpha=0.6, linewidth=0.8)
        axes.fill_between(val.x, val.low, val.high, color=colour, alpha=0.25, linewidth=0)
        axes.plot(val.x, val.mean, color=colour, linestyle=dashes, linewidth=2, label=label(group, common),
                  marker="o" if len(val.x) < 40 else None, markersize=3.5)
    lines = sorted(facts(groups[0].runs[0], ladder).items(), key=lambda fact: fact[1])
    colours = ["#000000" if name == "target" else GREY for name, _ in lines]
    for (name, loss), colour in zip(lines, colours):
        axes.axhline(loss, linewidth=1.2, zorder=0, color=colour, linestyle="-" if name == "target" else ":")
    bottom, top = axes.get_ylim()  # of all lines: a name is to stand at its own
    free = bottom  # the lowest place that no line's name takes yet
    for (name, loss), colour in zip(lines, colours):
        place = max(loss, free)
        free = place + 0.04 * (top - bottom)
        axes.annotate(f"{name} {loss:.4g}", (1, place), xycoords=("axes fraction", "data"), xytext=(4, 0),
                      textcoords="offset points", va="center", fontsize=9, color=colour)
    axes.set(xlabel=LABELS[axis], ylabel="loss (nats per token)")
    if axis == "tokens":
        axes.xaxis.set_major_formatter(EngFormatter(sep=" "))
