"""Draws validation and training loss of runs; runs of the same code and settings share a line and a band."""
import argparse
import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from records.reader import Log, ReadError, is_finite, number, read_log, shown

# Okabe and Ito's palette, told apart by colour-blind eyes; https://jfly.uni-koeln.de/color
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LABELS = {"steps": "step", "tokens": "training tokens", "time": "training time (s)"}


@dataclass
class Curve:
    """Mean, lowest and highest of a loss over the runs of a group, at the steps that all of them have."""

    x: list[float]
    mean: list[float]
    low: list[float]
    high: list[float]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("logs", metavar="LOG", nargs="+", type=Path)
    parser.add_argument("-o", "--output", metavar="FILE", type=Path, required=True, help="a .png or .svg")
    parser.add_argument("--x", choices=list(LABELS), default="steps", help="what the horizontal axis counts")
    parser.add_argument("--ladder", action="store_true", help="draw the track's n-gram losses too")


def main(arguments: argparse.Namespace) -> int:
    """Draw the figure and say what is in it; return the exit code."""
    if arguments.output.suffix not in (".png", ".svg"):
        raise ReadError(f"-o {shown(arguments.output.name)}: expected a name that ends in .png or .svg")
    logs = [read_log(path) for path in arguments.logs]
    for log in logs:
        if not any(is_finite(val.val_loss) for val in log.vals):
            raise ReadError(f"{shown(log.path.name)}: no validation with a finite loss in it")
    if len(tracks := sorted({str(log.manifest.get("track")) for log in logs})) > 1:
        raise ReadError(f"tracks {shown(', '.join(tracks))}: their losses do not compare; draw one track")
    groups: dict[str, list[Log]] = {}
    for log in logs:
        groups.setdefault(kind(log), []).append(log)
    draw(list(groups.values()), arguments.x, arguments.ladder, arguments.output)
    print(f"{arguments.output}: {len(logs)} runs in {len(groups)} groups")
    return 0


def kind(log: Log) -> str:
    """Return what runs must share to be seeds of one another: code and hyperparameters."""
    names = ("hyperparameters", "reduction")
    return json.dumps([log.manifest["code"].get("digest"), *map(log.manifest.get, names)], sort_keys=True)


def val_curve(logs: list[Log], axis: str) -> Curve:
    """Return the validation loss of a group."""
    at = {"steps": lambda v: v.step, "tokens": lambda v: v.tokens,
          "time": lambda v: v.train_time_ns / 1e9}[axis]
    return merge([{v.step: (at(v), v.val_loss) for v in log.vals if is_finite(v.val_loss)} for log in logs])


def train_curve(logs: list[Log], axis: str) -> Curve:
    """Return the training loss of a group; the tokens of a step lie on the line between two validations."""
    runs = []
    for log in logs:
        marks = sorted((val.step, val.tokens) for val in log.vals)
        at = {"steps": lambda s, m: s.step, "tokens": lambda s, m: between(m, s.step),
              "time": lambda s, m: s.train_time_ms / 1e3}[axis]
        runs.append({s.step: (at(s, marks), s.train_loss) for s in log.steps if is_finite(s.train_loss)})
    return merge(runs)


def between(marks: list[tuple[int, int]], step: int) -> float:
    """Return the tokens taken at a step, on the straight line through the nearest validations around it."""
    if len(marks) < 2:
        return marks[0][1]
    i = next((i for i in range(1, len(marks) - 1) if marks[i][0] >= step), len(marks) - 1)
    (s0, t0), (s1, t1) = marks[i - 1], marks[i]
    return t0 if s1 == s0 else t0 + (t1 - t0) * (step - s0) / (s1 - s0)


def merge(runs: list[dict[int, tuple[float, float]]]) -> Curve:
    """Return mean and range over runs at their common steps; each run maps a step to (x, loss)."""
    steps = sorted(set.intersection(*(set(run) for run in runs)))
    x = [statistics.fmean(run[step][0] for run in runs) for step in steps]
    losses = [[run[step][1] for run in runs] for step in steps]
    return Curve(x, list(map(statistics.fmean, losses)), list(map(min, losses)), list(map(max, losses)))


def facts(log: Log, ladder: bool) -> dict[str, float]:
    """Return names and losses for horizontal lines: the target and, asked for, the track's n-gram losses."""
    rungs = log.track.get("baselines") if ladder else None
    lines = {**rungs} if isinstance(rungs, dict) else {}
    lines["target"] = log.track.get("target")
    return {shown(k, 30): number(v) for k, v in lines.items() if v is not None and is_finite(number(v))}


def overrides(log: Log) -> set[str]:
    """Return the hyperparameters that the command line changed, as words."""
    changed = log.manifest.get("overrides")
    return {f"{name}={value}" for name, value in changed.items()} if isinstance(changed, dict) else set()


def label(logs: list[Log], common: set[str]) -> str:
    """Return what the legend says of a group: digest of its script, what sets it apart, how many runs."""
    words = [str(logs[0].manifest["code"]["script"])[:8], *sorted(overrides(logs[0]) - common)]
    text = shown(" ".join(words))
    if len(logs) > 1:
        text += f", {len(logs)} runs: mean, lowest and highest"
    incomplete = sum(log.end is None for log in logs)
    return f"{text} ({incomplete} incomplete)" if incomplete else text


def draw(groups: list[list[Log]], axis: str, ladder: bool, output: Path) -> None:
    """Draw groups of runs into a file, the same bytes for the same logs."""
    try:
        import matplotlib
    except ImportError:
        raise ReadError("matplotlib is missing; pip install -r records/requirements.txt") from None
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter
    style = {"text.parse_math": False, "svg.hashsalt": "records", "axes.spines.top": False,
             "axes.spines.right": False, "legend.frameon": False}
    first, common = groups[0][0], set.intersection(*(overrides(logs[0]) for logs in groups))
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(8, 5), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        for i, logs in enumerate(groups):
            draw_group(axes, logs, axis, i, label(logs, common))
        bottom, top = axes.get_ylim()
        free = bottom  # the lowest place that no line's name takes yet
        for name, loss in sorted(facts(first, ladder).items(), key=lambda fact: fact[1]):
            colour, line = ("#000000", "-") if name == "target" else ("#777777", ":")
            axes.axhline(loss, linewidth=1.2, zorder=0, color=colour, linestyle=line)
            place = max(loss, free)
            free = place + 0.04 * (top - bottom)
            axes.annotate(f"{name} {loss:.4g}", (1, place), xycoords=("axes fraction", "data"), xytext=(4, 0),
                          textcoords="offset points", va="center", fontsize=9, color=colour)
        axes.set(xlabel=LABELS[axis], ylabel="loss (nats per token)")
        axes.set_title(shown(f"track {first.manifest.get('track')}"), loc="left", fontsize=11, weight="bold")
        if common:
            axes.set_title(shown(" ".join(sorted(common))), loc="right", fontsize=7, color="#777777")
        if axis == "tokens":
            axes.xaxis.set_major_formatter(EngFormatter(sep=" "))
        figure.legend(loc="outside lower left", title="validation; faint: training", title_fontsize=9,
                      fontsize=9, alignment="left")
        try:
            dated = "Date" if output.suffix == ".svg" else "Software"
            figure.savefig(output, dpi=150, metadata={dated: None})
        except OSError as error:
            raise ReadError(f"{shown(str(output))}: cannot be written ({error.strerror})") from None


def draw_group(axes: Any, logs: list[Log], axis: str, index: int, name: str) -> None:
    """Draw a group: faint training loss, band, validation loss; colours, then dashes, tell groups apart."""
    colour, dashes = PALETTE[index % len(PALETTE)], ("-", "--", ":", "-.")[index // len(PALETTE) % 4]
    train, val = train_curve(logs, axis), val_curve(logs, axis)
    if not val.x:
        raise ReadError(f"{shown(logs[0].path.name)} and runs like it share no validated step")
    axes.plot(train.x, train.mean, color=colour, alpha=0.3, linewidth=0.8)
    axes.fill_between(val.x, val.low, val.high, color=colour, alpha=0.25, linewidth=0)
    axes.plot(val.x, val.mean, color=colour, linestyle=dashes, linewidth=2, label=name,
              marker="o" if len(val.x) < 40 else None, markersize=3.5)
