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
    parser.add_argument("-o", "--output", metavar="FILE", type=Path, required=True, help="FILE.png or FILE.svg")
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
        raise ReadError(f"runs of tracks {shown(', '.join(tracks))}: their losses are of different text; draw one track")
    groups: dict[str, list[Log]] = {}
    for log in logs:
        groups.setdefault(kind(log), []).append(log)
    draw(list(groups.values()), arguments.x, arguments.ladder, arguments.output)
    print(f"{arguments.output}: {len(logs)} runs in {len(groups)} groups")
    return 0


def kind(log: Log) -> str:
    """Return what runs must share to be seeds of one another: code and hyperparameters."""
    shared = [log.manifest["code"].get("digest"), log.manifest.get("hyperparameters"), log.manifest.get("reduction")]
    return json.dumps(shared, sort_keys=True)


def val_curve(logs: list[Log], axis: str) -> Curve:
    """Return the validation loss of a group."""
    runs = []
    for log in logs:
        at = {"steps": lambda v: v.step, "tokens": lambda v: v.tokens, "time": lambda v: v.train_time_ns / 1e9}[axis]
        runs.append({val.step: (at(val), val.val_loss) for val in log.vals if is_finite(val.val_loss)})
    return merge(runs)


def train_curve(logs: list[Log], axis: str) -> Curve:
    """Return the training loss of a group; the tokens of a step lie on the line between two validations."""
    runs = []
    for log in logs:
        marks = sorted((val.step, val.tokens) for val in log.vals)
        at = {"steps": lambda s: s.step, "tokens": lambda s: between(marks, s.step), "time": lambda s: s.train_time_ms / 1e3}
        runs.append({s.step: (at[axis](s), s.train_loss) for s in log.steps if is_finite(s.train_loss)})
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
    losses = [[run[step][1] for run in runs] for step in steps]
    return Curve([statistics.fmean(run[step][0] for run in runs) for step in steps],
                 [statistics.fmean(values) for values in losses], [min(v) for v in losses], [max(v) for v in losses])


def facts(log: Log, ladder: bool) -> dict[str, float]:
    """Return name and loss of the horizontal lines: the target and, asked for, the n-gram losses of the track."""
    lines = {}
    rungs = log.track.get("baselines") if ladder else None
    for name, value in {**(rungs if isinstance(rungs, dict) else {}), "target": log.manifest.get("target")}.items():
        if value is not None and is_finite(number(value)):
            lines[shown(name, 30)] = number(value)
    return lines


def label(logs: list[Log]) -> str:
    """Return what the legend says of a group."""
    name = shown(str(logs[0].manifest["code"].get("script")), 8).removesuffix("...")
    overrides = logs[0].manifest.get("overrides")
    changed = " ".join(f"{k}={v}" for k, v in overrides.items()) if isinstance(overrides, dict) else ""
    incomplete = sum(log.end is None for log in logs)
    many = f", {len(logs)} runs: mean, lowest, highest" if len(logs) > 1 else ""
    return shown(f"{name} {changed}".strip(), 60) + many + (f" ({incomplete} incomplete)" if incomplete else "")


def draw(groups: list[list[Log]], axis: str, ladder: bool, output: Path) -> None:
    """Draw groups of runs into a file, the same bytes for the same logs."""
    try:
        import matplotlib
    except ImportError:
        raise ReadError("matplotlib is missing; pip install -r records/requirements.txt") from None
    matplotlib.use("Agg")
    style = {"text.parse_math": False, "svg.hashsalt": "records", "font.size": 11, "axes.spines.top": False,
             "axes.spines.right": False, "legend.frameon": False}
    from matplotlib import pyplot
    with matplotlib.rc_context(style):
        figure, axes = pyplot.subplots(figsize=(8, 5), layout="constrained")
        for i, logs in enumerate(groups):
            colour, dashes = PALETTE[i % len(PALETTE)], ("-", "--", ":", "-.")[i // len(PALETTE) % 4]
            train, val = train_curve(logs, axis), val_curve(logs, axis)
            if not val.x:
                raise ReadError(f"{shown(logs[0].path.name)} and {len(logs) - 1} runs like it have no validated step in common")
            axes.plot(train.x, train.mean, color=colour, alpha=0.3, linewidth=0.8)
            axes.fill_between(val.x, val.low, val.high, color=colour, alpha=0.25, linewidth=0)
            axes.plot(val.x, val.mean, color=colour, linestyle=dashes, linewidth=2, marker="o",
                      markersize=3.5 if len(val.x) < 40 else 0, label=label(logs))
        for name, loss in facts(groups[0][0], ladder).items():
            bold: dict[str, Any] = {"color": "#000000"} if name == "target" else {"color": "#777777", "linestyle": ":"}
            axes.axhline(loss, linewidth=1.2, zorder=0, **bold)
            axes.annotate(f"{name} {loss:.4g}", (1, loss), xycoords=("axes fraction", "data"), xytext=(-2, 2),
                          textcoords="offset points", ha="right", va="bottom", fontsize=9, color=bold["color"])
        axes.set(xlabel=LABELS[axis], ylabel="loss (nats per token)", title=f"track {shown(str(groups[0][0].manifest['track']), 40)}")
        axes.legend(fontsize=9, title="validation; faint: training", title_fontsize=9, loc="upper right")
        if axis == "tokens":
            axes.xaxis.set_major_formatter(matplotlib.ticker.EngFormatter(sep=" "))
        dates = {"Date": None} if output.suffix == ".svg" else {"Software": None}
        try:
            figure.savefig(output, dpi=150, metadata=dates)
        except OSError as error:
            raise ReadError(f"{shown(str(output))}: cannot be written ({error.strerror})") from None
        finally:
            pyplot.close(figure)
