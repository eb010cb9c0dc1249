"""The figures of a sweep's report: validation losses against tokens, against lr, against training FLOPs."""
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lab.sweep.results import Group, label
from records.tools.show.figure import GREY, PALETTE, figure_for

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
        lines = {name: _best_at_each_lr(line) for name, line in _lines(groups, [one]).items()}
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


def _best_at_each_lr(line: Sequence[Group]) -> list[Group]:
    best: dict[float, Group] = {}
    for found in sorted(line, key=lambda g: g.mean, reverse=True):
        best[found.point["optimizer.lr"]] = found
    return list(best.values())


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


def draw_pareto(groups: Sequence[Group], title: str, output: Path) -> None:
    """Draw final losses against training FLOPs, the points that no other beats in both joined and named."""
    ended = sorted((g for g in groups if g.mean is not None and math.isfinite(g.mean)),
                   key=lambda g: (g.flops, g.mean))
    front: list[Group] = []
    for found in ended:
        if not front or found.mean < front[-1].mean:
            front.append(found)
    with figure_for(output) as figure:
        from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
        axes = figure.subplots()
        axes.scatter([g.flops for g in ended], [g.mean for g in ended], s=18, color=GREY, alpha=0.6,
                     label=f"all {len(ended)} points with a finite mean")
        axes.plot([g.flops for g in front], [g.mean for g in front], color=GREY, linewidth=1.2,
                  drawstyle="steps-post")
        for i, found in enumerate(front[-HIGHLIGHTED:]):
            axes.plot(found.flops, found.mean, "o", markersize=8, color=PALETTE[i % len(PALETTE)],
                      label=f"{found.mean:.4f}  {words(found.point, varied(groups))}")
        axes.set_xscale("log")
        decades = math.log10(ended[-1].flops / ended[0].flops) if ended else 1
        axes.xaxis.set_major_locator(MaxNLocator(5) if decades < 0.6 else
                                     LogLocator(subs=(1, 2, 5) if decades < 2.5 else (1,)))
        axes.xaxis.set_major_formatter("{x:.3g}")  # the default one is of mathematical text, which is off
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set(xlabel="training FLOPs", ylabel="final validation loss (nats per token)")
        axes.set_title(title, loc="left", fontsize=9)
        figure.legend(loc="outside lower left", fontsize=8, alignment="left", ncols=2, title_fontsize=8,
                      title="points that no other beats in both")
