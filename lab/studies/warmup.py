"""lab warmup: what does learning-rate warm-up do under sp and mup?

The question of https://github.com/emergenz/mup-lr-warmup, without its confounds: the arms differ in their
parametrization alone, each at a learning rate tuned at equal cost, with equal tokens, a time scale in tokens,
and seeds.
"""
import argparse
import math
import statistics
from collections.abc import Callable, Sequence
from typing import NamedTuple

from lab.studies import study
from lab.recipe.load import load_recipe
from lab.sweep.results import Run
from lab.studies.study import Claim, Place

RECIPE = "warmup_study"
FRACTIONS = (0.0, 0.01, 0.05, 0.1, 0.2, 0.4, 0.6)  # 0, 1, 5, 10, 20, 40, 60 M of the original's 100 M tokens
ARMS = ("sp", "mup")


class Size(NamedTuple):
    """What is run: at full size about 13 minutes on two cores."""

    overrides: dict
    fractions: tuple[float, ...]
    lr_octaves: tuple[int, ...]  # of each arm's tuning, relative to the recipe's rate
    seeds: tuple[int, ...]


FULL = Size({}, FRACTIONS, (-3, -2, -1, 0, 1), (0, 1, 2))
QUICK = Size({"model.n_embd": 128, "duration.steps": 20, "validations": 2}, (0.0, 0.1, 0.6), (-1, 0), (0,))
Losses = dict[float, list[float]]  # warm-up as a share of the budget -> final losses, of all seeds


def tune(where: Place, size: Size) -> dict[str, dict[float, float]]:
    """Return for each arm the final loss at each rate, one seed, at a warm-up of 10 %."""
    lr = load_recipe(RECIPE).optimizer.lr
    runs = study.sweep(where, "tuning", {
        "recipe": RECIPE, "overrides": {**size.overrides, "validations": 1}, "axes": {
            "parametrization.kind": list(ARMS), "optimizer.lr": [lr * 2.0**o for o in size.lr_octaves]}})
    return {arm: {run.point["optimizer.lr"]: run.val_loss for run in runs
                  if run.point["parametrization.kind"] == arm} for arm in ARMS}


def arm_runs(where: Place, size: Size, arm: str, lr: float) -> list[Run]:
    """Return an arm's runs over warm-ups and seeds."""
    return study.sweep(where, f"warmup_{arm}", {
        "recipe": RECIPE, "overrides": {**size.overrides, "parametrization.kind": arm, "optimizer.lr": lr},
        "axes": {"schedule.warmup_frac": list(size.fractions), "seed": list(size.seeds)}})


def losses(runs: Sequence[Run]) -> Losses:
    """Return the final losses of one arm by warm-up."""
    found: Losses = {}
    for run in runs:
        found.setdefault(run.point["schedule.warmup_frac"], []).append(run.val_loss)
    return dict(sorted(found.items()))


def best_warmup(by_warmup: Losses) -> float:
    """Return the warm-up whose mean loss over seeds is lowest."""
    return min(by_warmup, key=lambda w: math.fsum(by_warmup[w]))


def elsewhere(by_warmup: Losses, i: int, choose: Callable = min) -> float:
    """Return the warm-up that is best, or with max worst, by all seeds but the i-th."""
    return choose(by_warmup, key=lambda w: math.fsum(by_warmup[w][:i] + by_warmup[w][i + 1:]))


def colours(warmups: Sequence[float], best: float) -> dict[float, float]:
    """Return each warm-up's place on a colour map: 1 for the best, 0 for the farthest, by rank of distance.

    Equal distances share a colour.
    """
    distances = sorted({round(abs(w - best), 9) for w in warmups})
    last = max(1, len(distances) - 1)
    return {w: 1 - distances.index(round(abs(w - best), 9)) / last for w in warmups}


def sensitivity(by_warmup: Losses) -> list[float]:
    """Return, for each seed, its loss at the worst minus that at the best warm-up of the other seeds."""
    return [by_warmup[elsewhere(by_warmup, i, max)][i] - by_warmup[elsewhere(by_warmup, i)][i]
            for i in range(len(by_warmup[0.0]))]


def penalty(by_warmup: Losses) -> list[float]:
    """Return, for each seed, its loss without warm-up minus that at the other seeds' best above none."""
    some = {w: losses for w, losses in by_warmup.items() if w}
    return [none - some[elsewhere(some, i)][i] for i, none in enumerate(by_warmup[0.0])]


def deviation(by_warmup: Losses) -> list[float]:
    """Return, for each seed, the sd of its losses over warm-ups."""
    return [statistics.pstdev(seed) if study.finite(seed) else math.inf for seed in zip(*by_warmup.values())]


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
    each = [larger("", sp[w], mup[w]).verdict for w in sp]
    words = [study.UNSUPPORTED, study.UNDECIDED, study.SUPPORTED]
    return [
        *(study.mean_claim(f"(a) {arm}: loss grows with distance from the best warm-up",
                           gradient(losses), "nats a budget", least=0.0) for arm, losses in arms.items()),
        *(study.mean_claim(f"(b) {arm}: warm-up helps: loss without any, minus that of the best above 0",
                           penalty(losses), "nats", least=0.0) for arm, losses in arms.items()),
        larger("(c) losses lie closer together under mup: sensitivity of sp minus that of mup",
               sensitivity(sp), sensitivity(mup)),
        larger("(d) mup is better at each arm's best warm-up: loss of sp minus that of mup",
               sp[best_warmup(sp)], mup[best_warmup(mup)]),
        Claim("(d) mup is better at every warm-up", f"{each.count(study.SUPPORTED)} of {len(each)} warm-ups",
              next(word for word in words if word in each))]


def larger(statement: str, a: Sequence[float], b: Sequence[float]) -> Claim:
    """Return the claim that a is larger than b on average."""
    return study.difference_claim(statement, a, b, least=0.0)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of lab warmup."""
    study.add_study_arguments(parser, "warmup")


def main(arguments: argparse.Namespace) -> int:
    """Run the study, or what is left of it; write figures and page."""
    from lab.studies.warmup_page import comparison, curves, page
    size, where = QUICK if arguments.quick else FULL, study.place_of(arguments, "warmup")
    tuned = tune(where, size)
    rates = {arm: min(by_lr, key=by_lr.get) for arm, by_lr in tuned.items()}
    runs = {arm: arm_runs(where, size, arm, rates[arm]) for arm in ARMS}
    by_arm = {arm: losses(runs[arm]) for arm in ARMS}
    curves(runs, where.images / "warmup_curves.png")
    comparison(runs, where.images / "warmup.png")
    study.write_page(where.pages / "warmup.md", page(tuned, rates, runs, by_arm, claims(*by_arm.values())))
    return 0
