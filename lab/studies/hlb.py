"""lab hlb: of hlb-gpt's ideas, which help at equal tokens? A learned slope, steps that follow the gradient,
sequences that grow.

Each is taken away alone (https://github.com/tysam-code/hlb-gpt).
"""
import argparse
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lab.recipe.load import as_dict, load_recipe
from lab.studies import study
from lab.sweep import verdict
from lab.sweep.results import comparable, label, Run
from lab.sweep.verdict import Claim
from records.tools.show.figure import figure_for, PALETTE

RECIPE = "hlb_study"
BATCH, CAP, LENGTHS = "data.batch_tokens", "schedule.accumulation.most", "schedule.seq_len"  # the axes
ALL, FIXED, LONG = "all of hlb-gpt", "fixed slope", "full length from the start"


class Size(NamedTuple):
    """What is run: at full size about 10 minutes on two cores."""

    overrides: dict[str, Any]
    constants: tuple[int, ...]  # passes a step
    seeds: tuple[int, ...]


FULL = Size({}, (1, 2, 4, 8), (0, 1, 2))
QUICK = Size({"model.n_embd": 64, "duration.tokens": 16384, "schedule.seq_len": [[0, 32], [4096, 256]],
              "schedule.accumulation": {"every": 1, "gain": 2.0}}, (1, 4), (0, 1))


def arms(folders: study.Folders, size: Size) -> dict[str, list[Run]]:
    """Return each arm's runs, of all seeds; a cap of one pass makes steps of one size."""
    recipe = as_dict(load_recipe(RECIPE, size.overrides))
    batch, cap = recipe["data"]["batch_tokens"], recipe["schedule"]["accumulation"]["most"]
    # steps that follow the gradient are fewer, so they ask for more validations
    whole = {BATCH: batch, CAP: cap, LENGTHS: recipe["schedule"]["seq_len"], "validations": 40}
    points = {ALL: whole, LONG: {**whole, LENGTHS: []}, **{
        constant(k): {**whole, BATCH: k * batch, CAP: 1, "validations": 10} for k in size.constants}}
    others = {key: value for key, value in size.overrides.items() if key not in whole}
    runs = study.sweep(folders, "arms", {
        "recipe": RECIPE, "overrides": others, "method": "list",
        "points": [{**point, "seed": seed} for point in points.values() for seed in size.seeds]})
    slope, *groups = recipe["groups"]
    fixed = study.sweep(folders, "fixed_slope", {
        "recipe": RECIPE, "axes": {key: [value] for key, value in whole.items()} | {"seed": list(size.seeds)},
        "overrides": {**others, "groups": [{**slope, "lr_factor": 0}, *groups]}})
    comparable(runs + fixed)
    found = {name: [run for run in runs if label(run.point) == label(point)]
             for name, point in points.items()}
    return {ALL: found.pop(ALL), FIXED: fixed, **found}


def constant(passes: int) -> str:
    """Return the name of the arm whose steps all have so many passes."""
    return f"{passes} {'pass' if passes == 1 else 'passes'} a step"


def claims(runs: dict[str, list[Run]], size: Size) -> list[Claim]:
    """Return what the runs say of each idea; the constant number of passes is chosen by other seeds."""
    named = [constant(k) for k in size.constants]
    against = {"a fixed slope": runs[FIXED], "full length from the start": runs[LONG],
               "one pass a step": runs[named[0]],
               "the best constant number of passes": [run for name in named for run in runs[name]]}
    ideas = ("a learned slope", "a length that grows", "steps by the gradient", "steps by the gradient")
    return [verdict.better((idea, other), runs[ALL], others)
            for idea, (other, others) in zip(ideas, against.items())]


def figure(runs: dict[str, list[Run]], output: Path) -> None:
    """Draw every run's validation loss against tokens, and a step's tokens where they follow the gradient."""
    with figure_for(output) as canvas:
        canvas.set_size_inches(10, 4.2)
        left, right = canvas.subplots(1, 2)
        for i, (name, of_arm) in enumerate(runs.items()):
            look = {"color": PALETTE[i % len(PALETTE)], "ls": "-" if i < 3 else "--", "lw": 1.2}
            for j, run in enumerate(of_arm):
                points = [(val.tokens / 1e3, val.val_loss) for val in run.val if val.tokens]
                left.plot(*zip(*points), label=None if j else name, **look)
                if i < 3:
                    right.plot(*zip(*sizes(run)), label=None if j else name, drawstyle="steps-post", **look)
        left.set(xlabel="thousand tokens", ylabel="val loss, nats", title="a line a seed", yscale="log")
        left.yaxis.set_major_formatter("{x:g}")
        left.yaxis.set_minor_formatter("{x:g}")
        right.set(xlabel="thousand tokens", ylabel="tokens a step", title="steps that follow the gradient")
        left.legend(fontsize=8)
        right.legend(fontsize=8)


def sizes(run: Run) -> list[tuple[float, float]]:
    """Return the thousands of tokens before each step of a run, and the tokens that it took."""
    seen, found = 0, []
    for _, value in run.scalars["passes"]:
        found.append((seen / 1e3, value * run.recipe["data"]["batch_tokens"]))
        seen += int(found[-1][1])
    return found


def page(runs: dict[str, list[Run]], said: Sequence[Claim]) -> Iterator[str]:
    """Yield the page's lines."""
    first = runs[ALL][0]
    yield from ("# hlb-gpt's ideas, one by one", "",
                "Written by `python -m lab hlb`; the figure is img/hlb.png.", "",
                f"Recipe `{RECIPE}`: {first.parameters:,} parameters, {first.tokens:,} tokens a run, "
                f"{len(runs[ALL])} seeds. Losses in nats a token, the same {first.data.val_tokens} tokens "
                "every time; differences are seed by seed, intervals 95 %, of seeds alone.", "",
                "## Claims", "")
    yield from study.table(verdict.CLAIMS, said)
    yield from ("", "## The arms", "")
    yield from study.table(("", "final loss (sd)", "steps", "tokens a step", "FLOPs"), [
        [name, study.cell([run.val_loss for run in of_arm]), f"{steps:.0f}",
         f"{first.tokens / steps:,.0f}", f"{of_arm[0].flops:.3g}"] for name, of_arm in runs.items()
        for steps in [statistics.fmean(run.val[-1].step for run in of_arm)]])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of lab hlb."""
    study.add_study_arguments(parser, "hlb")


def main(arguments: argparse.Namespace) -> int:
    """Run the study, or what is left of it; write figure and page."""
    size, folders = QUICK if arguments.quick else FULL, study.folders_of(arguments, "hlb")
    runs = arms(folders, size)
    figure(runs, folders.images / "hlb.png")
    study.write_page(folders.pages / "hlb.md", page(runs, claims(runs, size)))
    return 0
