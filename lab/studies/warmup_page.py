"""The warm-up study's figures and page."""
import math
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lab.studies import study
from lab.sweep.results import Run, perplexity
from lab.studies.study import Claim
from lab.studies.warmup import Losses, best_warmup, colours, deviation, losses, penalty, sensitivity
from records.tools.show.figure import PALETTE, figure_for


def mean_curve(runs: Sequence[Run], warmup: float) -> tuple[list[int], list[float]]:
    """Return tokens and mean validation loss over seeds of one warm-up, without the one before training."""
    of_one = [run for run in runs if run.point["schedule.warmup_frac"] == warmup]
    points: dict[int, list[float]] = {}
    for run in of_one:
        for val in run.val:
            points.setdefault(val.tokens, []).append(val.val_loss)
    whole = {tokens: values for tokens, values in points.items() if len(values) == len(of_one) and tokens}
    return list(whole), [statistics.fmean(values) for values in whole.values()]


def curves(runs: dict[str, list[Run]], output: Path) -> None:
    """Draw validation loss and perplexity of each arm, coloured by distance from its best warm-up."""
    import matplotlib
    with figure_for(output) as canvas:
        canvas.set_size_inches(9, 7)
        panels = canvas.subplots(2, len(runs), sharex=True, sharey="row", squeeze=False)
        map_ = matplotlib.colormaps["viridis_r"]
        for column, (arm, of_arm) in enumerate(runs.items()):
            best = best_warmup(losses(of_arm))
            shades = colours(list(losses(of_arm)), best)
            for row, (name, value_of) in enumerate((("val loss", float), ("val perplexity", perplexity))):
                axes = panels[row][column]
                for warmup, shade in shades.items():
                    tokens, values = mean_curve(of_arm, warmup)
                    axes.plot(tokens, list(map(value_of, values)), color=map_(shade), lw=1.6,
                              label=f"{warmup:.0%}" + (" best" if warmup == best else ""))
                if row:
                    axes.set_yscale("log")
                    axes.yaxis.set_major_formatter("{x:g}")
                    axes.yaxis.set_minor_formatter("{x:g}")
                    axes.tick_params(axis="y", which="both", labelsize=7)
                axes.set_title(f"{arm}: {name}", fontsize=10)
                axes.set_xlabel("tokens")
            panels[0][column].legend(fontsize=7, title="warm-up", ncols=2)
        bar = canvas.colorbar(matplotlib.cm.ScalarMappable(cmap=map_), ax=panels, ticks=[0, 1], shrink=0.6)
        bar.ax.set_yticklabels(["farthest", "best"])
        bar.set_label("rank of the distance from the arm's best warm-up")


def comparison(runs: dict[str, list[Run]], output: Path) -> None:
    """Draw both arms' losses over tokens, and beside it their final losses against warm-up."""
    dashes: list[Any] = ["-", (0, (1, 1)), (0, (3, 1)), (0, (5, 1, 1, 1)), (0, (5, 3)), (0, (1, 3)),
                         (0, (8, 2, 1, 2))]
    with figure_for(output) as canvas:
        canvas.set_size_inches(10, 4.5)
        left, right = canvas.subplots(1, 2)
        for color, (arm, of_arm) in zip(PALETTE, runs.items()):
            by_warmup = losses(of_arm)
            for dash, warmup in zip(dashes, by_warmup):
                tokens, values = mean_curve(of_arm, warmup)
                left.plot(tokens, values, ls=dash, color=color, lw=1.2, label=f"{arm}, {warmup:.0%}")
            points = {w: values for w, values in by_warmup.items() if study.finite(values)}
            spread = [statistics.stdev(v) if len(v) > 1 else 0.0 for v in points.values()]
            places = [list(by_warmup).index(w) for w in points]
            right.errorbar(places, [statistics.fmean(v) for v in points.values()], spread, marker="o",
                           color=color, capsize=3, label=arm)
            right.set_xticks(range(len(by_warmup)), [f"{w:.0%}" for w in by_warmup])
        left.set(xlabel="tokens", ylabel="val loss, nats", title="colour: parametrization, dash: warm-up")
        right.set(xlabel="warm-up, share of the tokens", ylabel="final val loss, nats",
                  title="mean and sd over seeds")
        left.legend(fontsize=6.5, ncols=2)
        right.legend(fontsize=9)


def page(tuned: dict[str, dict[float, float]], rates: dict[str, float], runs: dict[str, list[Run]],
         by_arm: dict[str, Losses], claims: Sequence[Claim]) -> Iterator[str]:
    """Yield the page's lines."""
    [*_, last] = runs["sp"][0].val
    seeds, first = len({run.seed for run in runs["sp"]}), runs["sp"][0].recipe
    yield from ("# Warm-up under sp and mup", "",
                "Written by `python -m lab warmup`; figures: img/warmup.png, img/warmup_curves.png.", "",
                f"Recipe `warmup_study`: width {first['model']['n_embd']}, base "
                f"{first['parametrization']['mup_base_hidden_size']}; "
                f"{last.tokens} tokens a run, {seeds} seeds; the arms differ in the parametrization alone. "
                f"Each arm's rate is the best of {len(tuned['sp'])}, one run each at a warm-up of 10 %. "
                f"Losses in nats a token, the same {runs['sp'][0].data.val_tokens} tokens every time. "
                "Intervals are 95 %, of seeds only.", "",
                "## Claims of the original study", "")
    yield from study.claims_table(claims)
    yield from ("", "What is chosen on one seed is measured on the others.", "", "## Each arm's numbers", "")
    numbers = [("sensitivity: worst minus best warm-up", sensitivity), ("sd over warm-ups", deviation),
               ("penalty of no warm-up: none minus the best above 0", penalty)]
    yield from study.table(("nats", *by_arm), [[name, *(spread(of(losses)) for losses in by_arm.values())]
                                               for name, of in numbers])
    yield from ("", "## Final loss by warm-up", "")
    rows = [[f"{arm}, lr {rates[arm]:.3g}", *(cell(values) for values in by_arm[arm].values()),
             f"{best_warmup(by_arm[arm]):.0%}"] for arm in by_arm]
    yield from study.table(["", *(f"{w:.0%}" for w in by_arm["sp"]), "best"], rows)
    ppl = [[arm, *(f"{perplexity(math.fsum(v) / len(v)):.1f}" for v in by_arm[arm].values())]
           for arm in by_arm]
    yield from ("", "Perplexity:", "", *study.table(["", *(f"{w:.0%}" for w in by_arm["sp"])], ppl))
    yield from ("", "## Each arm's tuning", "")
    rates_tried = sorted(tuned["sp"])
    yield from study.table(["", *(f"lr {lr:.3g}" for lr in rates_tried)],
                           [[arm, *(f"{tuned[arm][lr]:.4f}" for lr in rates_tried)] for arm in tuned])
    for arm, lr in rates.items():
        if lr in (rates_tried[0], rates_tried[-1]):
            yield from ("", f"{arm}'s best rate stands at an end of those tried; a better one may exist.")


def spread(values: Sequence[float]) -> str:
    """Return a mean over seeds with its interval."""
    return study.plus_minus(statistics.fmean(values), *study.mean_interval(values))


def cell(values: Sequence[float]) -> str:
    """Return a mean with its sd."""
    mean = f"{math.fsum(values) / len(values):.4f}"
    return f"{mean} ({statistics.stdev(values):.4f})" if len(values) > 1 and study.finite(values) else mean


