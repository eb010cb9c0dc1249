"""lab report: what the logs of a sweep say: best points, marginals with what was tested at all, figures."""
import argparse
import math
import statistics
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lab.sweep.results import (comparable, Group, group, label, load_results, mean_and_sd, perplexity,
                               Results, Run)
from lab.sweep.space import admissible, make_space, points
from records.tools.read.values import json_text, shown
from records.tools.show.figure import figure_for, GREY, PALETTE
from records.tools.show.listing import columns

TOP = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("folder", metavar="SWEEP", type=Path, help="the folder of a sweep")
    parser.add_argument("-o", "--output", metavar="DIR", type=Path,
                        help="where curves.png and, if rates are an axis, lr.png go; default: SWEEP")
    parser.add_argument("--json", action="store_true", help="print what was found as one JSON object")
    parser.epilog = ("Exit code 1 where no run ended ok, 2 where runs do not compare: they must have taken\n"
                     "equal tokens of equal data or, where the duration is a budget of FLOPs, equal FLOPs\n"
                     "within a step.\n\nexample: python -m lab report lab/sweeps/example -o img")


def main(arguments: argparse.Namespace) -> int:
    """Print the tables and draw the figures; return the exit code."""
    results = load_results(arguments.folder)
    if not any(run.status == "ok" for run in results.runs):
        print(f"lab report: no run ended ok: {counted(results.runs) or 'there is none'}", file=sys.stderr)
        return 1
    found = report(results)
    output = arguments.output or arguments.folder
    output.mkdir(parents=True, exist_ok=True)
    title = f"{arguments.folder.resolve().name}: losses {found['compared']}"
    groups = ranked(results.runs)
    draws = {"curves.png": draw_curves}
    if "optimizer.lr" in found["axes"]:
        draws["lr.png"] = draw_lr
    for name, draw in draws.items():
        draw(groups, title, output / name)
    found["figures"] = [str(output / name) for name in draws]
    sys.stdout.write(json_text(found) if arguments.json else "\n".join(text(found)) + "\n")
    return 0


def report(results: Results) -> dict[str, Any]:
    """Return all that the tables show, as plain values. Raises ValueError where the runs do not compare."""
    compared, groups, space = comparable(results.runs), ranked(results.runs), make_space(results.space)
    for run in results.runs:
        if any(label(value_of(run, axis)) not in map(label, values) for axis, values in space.axes.items()):
            raise ValueError(f"{run.name} is no point of sweep.json's space; one of the two was changed")
    if len({run.recipe["data"]["seq_len"] for run in results.runs if run.recipe}) > 1:
        compared += "; each validated at its own data.seq_len"
    return {"runs": len(results.runs), "planned": len(points(space)), "statuses": counted(results.runs),
            "compared": compared, "points": len(groups), "noise": noise(groups),
            "best": [facts(g) for g in groups[:TOP]],
            "axes": {axis: marginal(axis, counts, results.runs)
                     for axis, counts in admissible(space).items()}}


def ranked(runs: Sequence[Run]) -> list[Group]:
    """Return the points of runs that compare, best mean first; those without a loss last."""
    return sorted(group(runs), key=lambda g: (g.mean is None, g.mean or 0.0))


def counted(runs: Sequence[Run]) -> str:
    """Return how many runs ended how, as "3 ok, 1 diverged"."""
    return ", ".join(f"{n} {status}" for status, n in Counter(run.status for run in runs).most_common())


def facts(found: Group) -> dict[str, Any]:
    """Return a point's row in the table of the best; spikes and gradient norm are those of its worst run."""
    runs, norms = found.runs, [run.largest("grad_norm") for run in found.runs]
    return {"point": found.point, "n": found.n, "mean": found.mean, "sd": found.sd,
            "ppl": None if found.mean is None else perplexity(found.mean),
            "tokens": max(run.tokens for run in runs), "flops": found.flops,
            "parameters": runs[0].parameters,
            "spikes": max(run.spikes for run in runs),
            "max_grad_norm": max((norm for norm in norms if norm is not None), default=None),
            "peak_lr": runs[0].largest("lr"), "statuses": counted(runs)}


def noise(groups: Sequence[Group]) -> dict[str, Any] | None:
    """Return the sd between seeds, pooled over points, its degrees of freedom, and the points not told from
    the best: those within two standard errors of the difference. None where no point ran twice."""
    several = [g for g in groups if g.sd is not None]
    df = sum(g.n - 1 for g in several)
    if not df:
        return None
    sd = math.sqrt(sum((g.n - 1) * g.sd**2 for g in several) / df)
    best, others = groups[0], [g for g in groups[1:] if g.mean is not None]
    near = sum(g.mean - best.mean <= 2 * sd * math.sqrt(1 / g.n + 1 / best.n) for g in others)
    return {"sd": sd, "df": df, "not_told_from_the_best": near}


def marginal(axis: str, counts: Sequence[tuple[Any, int, int]], runs: Sequence[Run]) -> dict[str, Any]:
    """Return what an axis' values say: losses over all runs that have each, and how far it was tested.

    "not_tested" says why there is no trend: the mean of one value tells nothing of its axis, however many
    runs it has. "balanced" tells whether all values met the same values of the other axes; if not, a part of
    their differences is their partners'. tested counts all runs, n those with a loss, inf where diverged.
    """
    rows, partners = [], []
    for value, combinations, possible in counts:
        mine = [run for run in runs if label(value_of(run, axis)) == label(value)]
        losses = [run.val_loss for run in mine if run.val_loss is not None]
        mean, sd = mean_and_sd(losses)
        rows.append({"value": value, "combinations": combinations, "admissible": possible,
                     "tested": len(mine), "n": len(losses), "mean": mean, "sd": sd,
                     "median": statistics.median(losses) if losses else None, "statuses": counted(mine)})
        if losses:
            partners.append({label({**run.point, "seed": run.seed, axis: None}) for run in mine
                             if run.val_loss is not None})
    open_values = [row["value"] for row in rows if row["admissible"]]
    seen = [row["value"] for row in rows if row["n"]]
    why = None
    if len(open_values) < 2 or len(seen) < 2:
        word, values = ("admissible", open_values) if len(open_values) < 2 else ("run to a loss", seen)
        why = f"of {len(rows)} values only {', '.join(map(label, values)) or 'none'} is {word}"
        for row in rows:
            row |= {"mean": None, "sd": None, "median": None}
    return {"not_tested": why, "balanced": all(p == partners[0] for p in partners), "values": rows}


def value_of(run: Run, axis: str) -> Any:
    """Return a run's value on an axis; the seed is one like any other."""
    return run.seed if axis == "seed" else run.point.get(axis)


def text(found: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of a report for people."""
    yield f"{found['runs']} of {found['planned']} runs, {found['points']} points: {found['statuses']}"
    yield f"losses compare {found['compared']}"
    if spread := found["noise"]:
        yield (f"sd between seeds {spread['sd']:.4f} nats, pooled, {spread['df']} degrees of freedom; points "
               f"within two standard errors of the best: {spread['not_told_from_the_best']}")
    else:
        yield "one seed a point: no difference between points has an error bar"
    axes = list(found["best"][0]["point"])
    yield from ["", f"best {len(found['best'])} points by mean final validation loss (diverged: inf)"]
    head = [*(short(axis, axes) for axis in axes), "n", "mean", "sd", "ppl", "tokens", "FLOPs", "parameters",
            "spikes", "max grad", "peak lr", "status"]
    yield from in_columns([head, *([*(brief(row["point"][axis]) for axis in axes), *_cells(row)]
                                for row in found["best"])])
    for axis, part in found["axes"].items():
        yield from ["", f"{axis}: " + (f"not tested: {part['not_tested']}" if part["not_tested"] else
                                       "final validation loss over all runs of a value")]
        counts, losses = ("combinations", "admissible", "tested", "n"), ("mean", "sd", "median")
        yield from in_columns([["value", *counts, *losses, "status"],
                            *([brief(row["value"]), *(str(row[name]) for name in counts),
                               *(_loss(row[name]) for name in losses),
                               row["statuses"] or ("not tested" if row["admissible"] else "not admissible")]
                              for row in part["values"])])
        if not part["not_tested"] and not part["balanced"]:
            yield "unbalanced: its values met different values of the other axes; a part of this is theirs"
    yield from ["", *found["figures"]]


def _cells(row: dict[str, Any]) -> list[str]:
    ppl, grad, lr = ("-" if row[name] is None else f"{row[name]:.4g}"
                     for name in ("ppl", "max_grad_norm", "peak_lr"))
    return [str(row["n"]), _loss(row["mean"]), _loss(row["sd"]), ppl, str(row["tokens"]),
            f"{row['flops']:.3g}", str(row["parameters"]), str(row["spikes"]), grad, lr, row["statuses"]]


def _loss(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def short(axis: str, axes: Sequence[str]) -> str:
    """Return the last word of an axis' name, the whole name where two axes end alike."""
    ends = [other.rpartition(".")[2] for other in axes]
    last = axis.rpartition(".")[2]
    return last if ends.count(last) == 1 else axis


def in_columns(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield rows in columns, right-aligned, the last one left."""
    cut = [[shown(cell, 40) for cell in row] for row in rows]
    return (line[1:] for line in columns(cut, ">" * (len(cut[0]) - 1) + "<"))


HIGHLIGHTED = 10
LINES = 14  # told apart by colour, then dashes
DASHES = ("-", "--")


def words(point: dict[str, Any], axes: Sequence[str]) -> str:
    """Return a point's values on some axes, in words for a legend."""
    return " ".join(f"{axis.rpartition('.')[2]} {brief(point[axis])}" for axis in axes)


def brief(value: Any) -> str:
    """Return a value for people, a float with four digits."""
    return f"{value:.4g}" if isinstance(value, float) else label(value)


def varied(groups: Sequence[Group]) -> list[str]:
    """Return the axes on which the points differ."""
    return [axis for axis in groups[0].point
            if len({label(g.point[axis]) for g in groups}) > 1]


def style(index: int) -> dict[str, Any]:
    """Return the colour and dashes of a line."""
    return {"color": PALETTE[index % len(PALETTE)], "linestyle": DASHES[index // len(PALETTE) % len(DASHES)]}


def draw_curves(groups: Sequence[Group], title: str, output: Path) -> None:
    """Draw every run's validation losses against tokens, the best points highlighted; groups: best first."""
    finite = [run.val_loss for g in groups for run in g.runs if run.status == "ok"]
    first = [run.val[0].val_loss for g in groups for run in g.runs if run.val]
    best = [g for g in groups[:HIGHLIGHTED] if g.mean is not None and math.isfinite(g.mean)]
    axes_names, faint = varied(groups), {"color": GREY, "linewidth": 0.6, "alpha": 0.5}
    with figure_for(output) as figure:
        from matplotlib.ticker import EngFormatter
        axes = figure.subplots()
        for i, found in reversed(list(enumerate(groups))):
            chosen = i < len(best)
            for k, run in enumerate(found.runs):
                name = f"{found.mean:.4f}  {words(found.point, axes_names)}" if chosen and not k else None
                look = {**style(i), "linewidth": 1.6, "zorder": 3} if chosen else faint
                axes.plot([v.tokens for v in run.val], [v.val_loss for v in run.val], label=name, **look)
                if run.status == "diverged" and run.val:
                    axes.plot(run.val[-1].tokens, run.val[-1].val_loss, "x", color=GREY)
        low, high = min(finite), max(finite)
        top = min(max(first), high + max(high - low, (max(first) - low) / 4))  # the start is alike in all
        axes.set(xlabel="training tokens", ylabel="validation loss (nats per token)",
                 ylim=(low - 0.05 * (top - low), top))
        axes.xaxis.set_major_formatter(EngFormatter(sep=" "))
        axes.set_title(title, loc="left", fontsize=9)
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(handles[::-1], labels[::-1], loc="outside lower left", fontsize=8, alignment="left",
                      title=f"best {len(best)} of {len(groups)} points, mean; grey: others; x: diverged",
                      title_fontsize=8, ncols=2)


def draw_lr(groups: Sequence[Group], title: str, output: Path) -> None:
    """Draw final losses against the learning rate, a line for each value of the other axes, sd over seeds.

    Where the others make more lines than can be told apart, a line for each value of one, model.n_embd if it
    is among them, through the best points over the rest. A diverged point is a cross at the top.
    """
    others = [axis for axis in varied(groups) if axis != "optimizer.lr"]
    lines = _lines(groups, others)
    best_over = ""
    if len(lines) > LINES:
        one = min(others, key=lambda axis: (axis != "model.n_embd", len(_lines(groups, [axis]))))
        worst_first = sorted(groups, key=lambda g: -math.inf if g.mean is None else -g.mean)
        best_at = {(label(g.point[one]), g.point["optimizer.lr"]): g for g in worst_first}
        lines = _lines(list(best_at.values()), [one])
        best_over = f"\na point is the best over {', '.join(a for a in others if a != one)}"
    with figure_for(output) as figure:
        axes = figure.subplots()
        for i, (name, line) in enumerate(lines.items()):
            _draw_line(axes, name, sorted(line, key=lambda g: g.point["optimizer.lr"]), i)
        axes.set_xscale("log", base=2)
        rates = sorted({g.point["optimizer.lr"] for g in groups})
        axes.set_xticks(rates, [f"{rate:.3g}" for rate in rates], rotation=45 if len(rates) > 8 else 0)
        axes.minorticks_off()
        axes.set(xlabel="optimizer.lr", ylabel="final validation loss (nats per token)")
        axes.set_title(title + best_over, loc="left", fontsize=9)
        if others:
            figure.legend(loc="outside lower left", fontsize=8, alignment="left", ncols=4, title_fontsize=8,
                          title="mean and sd over seeds; large: lowest of a line; x at the top: diverged")


def _lines(groups: Sequence[Group], axes: Sequence[str]) -> dict[str, list[Group]]:
    def key(found: Group) -> list[tuple]:
        return [(0, value) if isinstance(value, (int, float)) else (1, label(value))
                for value in (found.point[axis] for axis in axes)]
    lines: dict[str, list[Group]] = {}
    for found in sorted(groups, key=key):
        if found.mean is not None:
            lines.setdefault(words(found.point, axes), []).append(found)
    return lines


def _draw_line(axes: Any, name: str, line: Sequence[Group], index: int) -> None:
    """Draw a line with its lowest point larger, and crosses at the top where runs diverged."""
    ended = [g for g in line if math.isfinite(g.mean)]
    rates, means = [g.point["optimizer.lr"] for g in ended], [g.mean for g in ended]
    spread = [g.sd or 0.0 for g in ended] if any(g.sd is not None for g in ended) else None
    axes.errorbar(rates, means, spread, label=name, marker="o", markersize=4, capsize=3, linewidth=1.6,
                  **style(index))
    if ended:
        lowest = min(range(len(ended)), key=means.__getitem__)
        axes.plot(rates[lowest], means[lowest], "o", markersize=9, color=style(index)["color"])
    for found in line:
        if found.diverged:
            axes.plot(found.point["optimizer.lr"], 1.0 - 0.02 * index, "x", color=style(index)["color"],
                      transform=axes.get_xaxis_transform(), clip_on=False)
