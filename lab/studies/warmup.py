"""lab warmup: what does learning-rate warm-up do under sp and mup?

The question of https://github.com/emergenz/mup-lr-warmup, without its confounds: the arms differ in their
parametrization alone, each at a learning rate tuned at equal cost, with equal tokens, a time scale in tokens,
and seeds.
"""
import argparse
import math
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lab.studies import study
from lab.sweep import verdict
from lab.sweep.results import perplexity, Run
from lab.sweep.verdict import Claim, elsewhere, finite, Losses, SUPPORTED, UNDECIDED, UNSUPPORTED
from records.tools.show.figure import figure_for, PALETTE

RECIPE = "warmup_study"
FRACTIONS = (0.0, 0.01, 0.05, 0.1, 0.2, 0.4, 0.6)  # 0, 1, 5, 10, 20, 40, 60 M of the original's 100 M tokens
ARMS = ("sp", "mup")
ARM, RATE, WARMUP = "parametrization.kind", "optimizer.lr", "schedule.warmup_frac"  # the axes


class Size(NamedTuple):
    """What is run: at full size about 13 minutes on two cores."""

    overrides: dict
    fractions: tuple[float, ...]
    lr_octaves: tuple[int, ...]  # of each arm's tuning, relative to the recipe's rate
    seeds: tuple[int, ...]


FULL = Size({}, FRACTIONS, (-3, -2, -1, 0, 1), (0, 1, 2))
QUICK = Size({"model.n_embd": 32, "duration.steps": 10, "validations": 2}, (0.0, 0.1, 0.6), (-1, 0), (0,))


def colours(warmups: Sequence[float], best: float) -> dict[float, float]:
    """Return each warm-up's place on a colour map: 1 for the best, 0 for the farthest, by rank of distance.

    Equal distances share a colour.
    """
    distances = sorted({round(abs(w - best), 9) for w in warmups})
    last = max(1, len(distances) - 1)
    return {w: 1 - distances.index(round(abs(w - best), 9)) / last for w in warmups}


def sensitivity(by_warmup: Losses) -> list[float]:
    """Return, for each seed, its loss at the worst minus that at the best warm-up of the other seeds."""
    return [by_warmup[elsewhere(by_warmup, i, max)][i] - best
            for i, best in enumerate(verdict.tuned(by_warmup))]


def penalty(by_warmup: Losses) -> list[float]:
    """Return, for each seed, its loss without warm-up minus that at the other seeds' best above none."""
    some = verdict.tuned({w: losses for w, losses in by_warmup.items() if w})
    return [none - best for none, best in zip(by_warmup[0.0], some)]


def deviation(by_warmup: Losses) -> list[float]:
    """Return, for each seed, the sd of its losses over warm-ups."""
    return [statistics.pstdev(seed) if finite(seed) else math.inf for seed in zip(*by_warmup.values())]


def gradient(by_warmup: Losses) -> list[float]:
    """Return, for each seed, the nats by which its loss grows a budget away from the others' best warm-up."""
    return [statistics.linear_regression([abs(w - elsewhere(by_warmup, i)) for w in by_warmup], seed).slope
            for i, seed in enumerate(zip(*by_warmup.values()))]


def claims(sp: Losses, mup: Losses) -> list[Claim]:
    """Return what the runs say of each claim of the original study.

    What is chosen, a best or worst warm-up, is chosen by other seeds than the one it is measured on: else
    noise alone would support (a), (b) and, where an arm is noisier, (c).
    """
    arms = {"sp": sp, "mup": mup}
    each = [verdict.claim("", sp[w], mup[w], least=0.0).verdict for w in sp]
    words = [UNSUPPORTED, UNDECIDED, SUPPORTED]
    above_0 = [  # statement, the losses whose mean is above 0, or above that of others
        *((f"(a) {arm}: loss grows with distance from the best warm-up", gradient(losses), (),
           "nats a budget") for arm, losses in arms.items()),
        *((f"(b) {arm}: warm-up helps: loss without any, minus that of the best above 0", penalty(losses))
          for arm, losses in arms.items()),
        ("(c) losses lie closer together under mup: sensitivity of sp minus that of mup", sensitivity(sp),
         sensitivity(mup)),
        ("(d) mup is better at each arm's best warm-up: loss of sp minus that of mup", verdict.tuned(sp),
         verdict.tuned(mup))]
    return [*(verdict.claim(*claimed, least=0.0) for claimed in above_0),
            Claim("(d) mup is better at every warm-up",
                  f"{each.count(SUPPORTED)} of {len(each)} warm-ups",
                  next(word for word in words if word in each))]


def mean_curve(runs: Sequence[Run], warmup: float) -> dict[int, float]:
    """Return the mean validation loss over seeds of one warm-up by tokens, without that before training."""
    of_one = [run for run in runs if run.point[WARMUP] == warmup]
    points: dict[int, list[float]] = {}
    for run in of_one:
        for val in run.val:
            points.setdefault(val.tokens, []).append(val.val_loss)
    return {tokens: statistics.fmean(values) for tokens, values in points.items()
            if len(values) == len(of_one) and tokens}


def curves(runs: dict[str, list[Run]], output: Path) -> None:
    """Draw each arm's validation loss, and how far it is above that of the arm's best warm-up."""
    import matplotlib
    map_ = matplotlib.colormaps["viridis_r"]
    with figure_for(output) as canvas:
        canvas.set_size_inches(10, 7)
        panels = canvas.subplots(2, len(runs), sharex=True, sharey="row", squeeze=False)
        for (above, below), (arm, of_arm) in zip(panels.T, runs.items()):
            by_warmup = verdict.losses(of_arm, WARMUP)
            best = study.best(by_warmup)
            of_best = mean_curve(of_arm, best)
            for warmup, shade in colours(list(by_warmup), best).items():
                curve = mean_curve(of_arm, warmup)
                thousands = [tokens / 1e3 for tokens in curve]
                look = {"color": map_(shade), "ls": "--" if warmup > best else "-", "lw": 1.6}
                above.plot(thousands, list(curve.values()), **look,
                           label=f"{warmup:.0%}" + (", best" if warmup == best else ""))
                below.plot(thousands, [loss - of_best[tokens] for tokens, loss in curve.items()], **look)
            above.set_title(arm, fontsize=11)
            above.legend(fontsize=8, ncols=2, title="warm-up; dashed: longer than the best", title_fontsize=8)
            below.set_xlabel("thousand tokens")
        panels[0][0].set_ylabel("val loss, nats")
        panels[1][0].set_ylabel("val loss above the best warm-up's, nats")
        axis = panels[0][-1].secondary_yaxis("right", functions=(np.exp, lambda y: np.log(np.maximum(y, 1))))
        axis.set(ylabel="val perplexity", yticks=[150, 200, 250, 300, 400, 500, 700, 1000, 1500, 2000, 4000])
        bar = canvas.colorbar(matplotlib.cm.ScalarMappable(cmap=map_), ax=panels[1], ticks=[0, 1])
        bar.ax.set_yticklabels(["farthest", "best"])
        bar.set_label("distance from the best warm-up, by rank")


def comparison(runs: dict[str, list[Run]], output: Path) -> None:
    """Draw both arms' final losses against warm-up."""
    with figure_for(output) as canvas:
        canvas.set_size_inches(7, 4.5)
        axes = canvas.subplots()
        for color, (arm, of_arm) in zip(PALETTE, runs.items()):
            by_warmup = verdict.losses(of_arm, WARMUP)
            places = list(by_warmup)
            study.draw_line(axes, by_warmup, places.index, ring=True, color=color, capsize=3,
                            label=f"{arm}, lr {of_arm[0].recipe['optimizer']['lr']:.3g}")
            axes.set_xticks(range(len(places)), [f"{w:.0%}" for w in places])
        axes.set(xlabel="warm-up, share of the tokens (evenly spaced, not to scale)",
                 ylabel="final val loss, nats")
        study.legend(axes)


def page(tuned: dict[str, dict[float, float]], rates: dict[str, float], runs: dict[str, list[Run]],
         by_arm: dict[str, Losses], claims: Sequence[Claim]) -> Iterator[str]:
    """Yield the page's lines."""
    [*_, last] = runs["sp"][0].val
    numbers: list[list[str]] = []
    seeds, first = len({run.seed for run in runs["sp"]}), runs["sp"][0].recipe
    yield from ("# Warm-up under sp and mup", "",
                "Written by `python -m lab warmup`; figures: img/warmup.png, img/warmup_curves.png.", "",
                f"Recipe `warmup_study`: width {first['model']['n_embd']}, base "
                f"{first['parametrization']['mup_base_hidden_size']}; "
                f"{last.tokens} tokens a run, {seeds} seeds; the arms differ in the parametrization alone. "
                f"Each arm's rate is the best of {len(tuned['sp'])}, one run each at a warm-up of 10 %, "
                f"of a seed of their own. "
                f"Losses in nats a token, the same {runs['sp'][0].data.val_tokens} tokens every time. "
                "Intervals are 95 %, of seeds only.", "",
                "## Claims of the original study", "")
    yield from study.table(verdict.CLAIMS, claims)
    yield from ("", "What is chosen, a rate or a warm-up, is measured on other seeds.", "",
                "## Each arm's numbers", "")
    for name, of in (("sensitivity: worst minus best warm-up", sensitivity), ("sd over warm-ups", deviation),
                     ("penalty of no warm-up: none minus the best above 0", penalty)):
        numbers.append([name, *(verdict.plus_minus(verdict.interval(of(losses)))
                                for losses in by_arm.values())])
    yield from study.table(("nats", *by_arm), numbers)
    warmups = [f"{warmup:.0%}" for warmup in by_arm["sp"]]
    yield from ("", "## Final loss by warm-up", "")
    yield from study.table(["", *warmups, "best"], [
        [f"{arm}, lr {rates[arm]:.3g}", *map(study.cell, losses.values()), f"{study.best(losses):.0%}"]
        for arm, losses in by_arm.items()])
    yield from ("", "Perplexity:", "", *study.table(["", *warmups], [
        [arm, *(f"{perplexity(statistics.fmean(values)):.1f}" for values in losses.values())]
        for arm, losses in by_arm.items()]))
    yield from ("", "## Each arm's tuning", "")
    rates_tried = sorted(tuned["sp"])
    yield from study.table(["", *(f"lr {lr:.3g}" for lr in rates_tried)],
                           [[arm, *(f"{tuned[arm][lr]:.4f}" for lr in rates_tried)] for arm in tuned])
    for arm, lr in rates.items():
        if lr in (rates_tried[0], rates_tried[-1]):
            yield from ("", f"{arm}'s best rate stands at an end of those tried; a better one may exist.")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of lab warmup."""
    study.add_study_arguments(parser, "warmup")


def main(arguments: argparse.Namespace) -> int:
    """Run the study, or what is left of it; write figures and page."""
    size, folders = QUICK if arguments.quick else FULL, study.folders_of(arguments, "warmup")
    tuning = study.sweep(folders, "tuning", {
        "recipe": RECIPE, "overrides": {**size.overrides, "validations": 1}, "axes": {
            ARM: list(ARMS), RATE: study.rates(RECIPE, size.lr_octaves), "seed": [len(size.seeds)]}})
    tuned = {arm: {run.point[RATE]: run.val_loss for run in tuning if run.point[ARM] == arm} for arm in ARMS}
    rates = {arm: min(by_lr, key=by_lr.get) for arm, by_lr in tuned.items()}
    runs = {arm: study.sweep(folders, f"warmup_{arm}", {
        "recipe": RECIPE, "overrides": {**size.overrides, ARM: arm, RATE: rates[arm]},
        "axes": {WARMUP: list(size.fractions), "seed": list(size.seeds)}}) for arm in ARMS}
    by_arm = {arm: verdict.losses(runs[arm], WARMUP) for arm in ARMS}
    curves(runs, folders.images / "warmup_curves.png")
    comparison(runs, folders.images / "warmup.png")
    study.write_page(folders.pages / "warmup.md", page(tuned, rates, runs, by_arm, claims(*by_arm.values())))
    return 0
