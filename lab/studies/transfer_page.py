"""The transfer study's figure and page."""
import math
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lab.studies import study
from lab.sweep.results import Run, max_grad_norm, spikes
from lab.studies.study import Claim
from lab.studies.transfer import RECIPES, Size, losses
from records.tools.show.figure import PALETTE, figure_for


def figure(grids: dict[str, list[Run]], widths: Sequence[int], output: Path) -> None:
    """Draw loss against learning rate, a line a width, for each optimizer and parametrization."""
    with figure_for(output) as canvas:
        canvas.set_size_inches(8, 3.2 * len(grids))
        panels = canvas.subplots(len(grids), 2, sharex="row", sharey="row", squeeze=False)
        for row, (name, runs) in zip(panels, grids.items()):
            for axes, kind in zip(row, ("sp", "mup")):
                for color, width in zip(PALETTE, widths):
                    draw(axes, losses(runs, kind, width), f"width {width}", color)
                axes.set_title(f"{name}, {kind}", fontsize=10)
                rates = sorted({run.point["optimizer.lr"] for run in runs})
                axes.set(xscale="log", xlabel="learning rate")
                axes.set_xticks(rates, [f"{lr:.2g}" for lr in rates])
                axes.minorticks_off()
            row[0].set_ylabel("final val loss, nats")
            row[0].legend(fontsize=8)


def draw(axes: Any, by_lr: dict[float, list[float]], name: str, color: str) -> None:
    """Draw one line with the spread over seeds, and a ring around its lowest mean."""
    means = {lr: statistics.fmean(values) for lr, values in by_lr.items() if study.finite(values)}
    if not means:
        return
    spread = [statistics.stdev(by_lr[lr]) if len(by_lr[lr]) > 1 else 0.0 for lr in means]
    axes.errorbar(list(means), list(means.values()), spread, marker="o", ms=4, color=color, label=name,
                  capsize=2)
    best = min(means, key=means.get)
    axes.plot([best], [means[best]], "o", ms=11, mfc="none", color=color)


def page(size: Size, grids: dict[str, list[Run]], claims: Sequence[Claim], found: list, target: Sequence[str]
         ) -> Iterator[str]:
    """Yield the page's lines."""
    yield from ("# Transfer of hyperparameters from narrow to wide", "",
                "Written by `python -m lab transfer`; the figure is img/transfer.png.", "",
                f"Recipes `{RECIPES['AdamW']}` and `{RECIPES['Muon']}`, {size.steps} steps, "
                f"{len(size.seeds)} seeds; base width {size.widths[0]}. Losses in nats a token of the "
                "embedded sample. Intervals are 95 %, of seeds only; a claim is supported where all of its "
                "interval lies where it says. "
                "sp is tuned over one rate, of which all groups are fixed multiples.", "", "## Claims", "")
    yield from study.claims_table(claims)
    for name, runs in grids.items():
        yield from ("", f"## Final loss by learning rate: {name}", "")
        yield from loss_table(runs, size)
    yield from ("", "## The procedure", "")
    yield from procedure(size, *found)
    yield from ("", "## The target", "", *(f"- {line}" for line in target))


def loss_table(runs: Sequence[Run], size: Size) -> list[str]:
    """Return mean and sd over seeds for each parametrization, width and rate; a row's best in bold."""
    rates = sorted({run.point["optimizer.lr"] for run in runs})
    rows = []
    for kind in ("sp", "mup"):
        for width in size.widths:
            by_lr = losses(runs, kind, width)
            means = {lr: statistics.fmean(values) for lr, values in by_lr.items()}
            rows.append([kind, width] + [cell(by_lr[lr], means[lr] == min(means.values())) for lr in rates])
    return study.table(["", "width", *(f"{lr:.3g}" for lr in rates)], rows)


def cell(values: Sequence[float], best: bool) -> str:
    """Return a mean with its sd."""
    if not study.finite(values):
        return f"{sum(map(math.isinf, values))} of {len(values)} diverged"
    mean = f"{statistics.fmean(values):.4f}"
    mean = f"**{mean}**" if best else mean
    return f"{mean} ({statistics.stdev(values):.4f})" if len(values) > 1 else mean


def procedure(size: Size, searched: int, kept: Sequence[dict[str, Any]], tried: Sequence[Run], chosen: int
              ) -> Iterator[str]:
    """Yield what the search found, what the intermediate width said of it, and which was carried on."""
    axes = list(kept[0])
    yield (f"{searched} points at width {size.widths[0]}, chosen at random without replacement; the best "
           f"{len(kept)} at width {size.widths[1]} with {size.tokens_per_param:g} tokens a parameter (the "
           f"guide's 20 would take {20 / size.tokens_per_param:.0f} times as long). Carried on: the lowest "
           f"loss of the stable among the three lowest: no loss spike, no gradient norm ten times the usual.")
    yield ""
    rows = [[i, *(f"{point[axis]:g}" for axis in axes), f"{run.val_loss:.4f}",
             spikes([loss for _, loss in run.train]), f"{max_grad_norm(run):.3g}",
             "chosen" if i - 1 == chosen else ""]
            for i, (point, run) in enumerate(zip(kept, tried), start=1)]
    yield from study.table(["rank at the proxy", *(axis.split(".")[-1] for axis in axes),
                            f"val loss at {size.widths[1]}", "spikes", "largest gradient norm", ""], rows)
