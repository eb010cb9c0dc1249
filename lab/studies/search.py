"""lab search: the best recipe for a budget of FLOPs, after the homework "Decoder from Scratch" (CMU 11-667).

GPT-tiny as it was; a random search under a budget, its space cut by closed forms before anything is built;
the best three again with more seeds; the best of them trained on with eight times the budget.
"""
import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lab.recipe import costs
from lab.recipe.load import FOLDER, load_recipe, load_yaml, make_recipe
from lab.studies import study
from lab.studies.study import Folders
from lab.sweep.report import ranked, report, text
from lab.sweep.results import Group, load_results, perplexity, Run
from lab.sweep.space import admissible, make_space
from records.tools.show.figure import figure_for, GREY, PALETTE

SPACES = FOLDER.parent / "spaces"
FINALS = ("gpt_full", "gpt_full_large")  # the homework's own


class Size(NamedTuple):
    """What is run: at full size about 18 minutes on two cores."""

    flops: float  # a run of the search
    samples: int
    again: int  # best points with more seeds
    seeds: tuple[int, ...]
    longer: float  # times the budget, for the best
    tiny: dict[str, Any]  # overrides of GPT-tiny


FULL = Size(2e12, 24, 3, (1, 2), 8, {})
QUICK = Size(2e10, 3, 1, (1,), 2, {"duration.steps": 8, "validations": 2})


def tiny(folders: Folders, size: Size) -> Run:
    """Return the run of the homework's GPT-tiny recipe."""
    [run] = study.sweep(folders, "gpt_tiny", {
        "recipe": "gpt_tiny", "overrides": size.tiny, "axes": {"seed": [0]}})
    return run


def searched(folders: Folders, size: Size) -> list[Run]:
    """Return the runs of the random search."""
    values = load_yaml(SPACES / "search.yaml")
    return study.sweep(folders, "search", {
        **values, "samples": size.samples, "overrides": {"duration.flops": size.flops},
        "constraints": {**values["constraints"], "flops": size.flops}})


def again(folders: Folders, size: Size, best: Sequence[Group]) -> list[Run]:
    """Return the best points' runs with more seeds."""
    return study.sweep(folders, "again", {
        "recipe": "search_base", "overrides": {"duration.flops": size.flops}, "method": "list",
        "points": [{**found.point, "seed": seed} for found in best for seed in size.seeds]})


def trained_on(folders: Folders, size: Size, best: Group) -> Run:
    """Return the run of the best point with a larger budget."""
    [run] = study.sweep(folders, "best", {
        "recipe": "search_base", "axes": {"seed": [0]},
        "overrides": {**best.point, "duration.flops": size.longer * size.flops, "validations": 20}})
    return run


def shapes() -> tuple[int, int, dict[str, list]]:
    """Return how many shapes (width, layers, length) the homework's space has, how many fit, and counts."""
    values = load_yaml(SPACES / "homework.yaml")
    axes = {axis: values["axes"][axis] for axis in ("model.n_embd", "model.n_layer", "data.seq_len")}
    counts = admissible(make_space({**values, "axes": axes}))
    rows = counts["model.n_embd"]
    return sum(row.combinations for row in rows), sum(row.admissible for row in rows), counts


def finals() -> list[list[str]]:
    """Return name, parameters, weights in MB, steps, tokens and FLOPs of the homework's two final recipes."""
    rows = []
    for name in FINALS:
        recipe = load_recipe(name)
        rows.append([name, f"{costs.parameters(recipe).total:,}",
                     f"{costs.parameter_bytes(recipe) / 1e6:.1f}", f"{len(costs.steps(recipe)):,}",
                     f"{costs.total_tokens(recipe):.4g}", f"{costs.total_flops(recipe):.3g}"])
    return rows


def figure(tiny: Run, runs: Sequence[Run], best: Run, output: Path) -> None:
    """Draw GPT-tiny's training loss against step, and everything's validation loss against FLOPs."""
    with figure_for(output) as canvas:
        canvas.set_size_inches(10, 4.2)
        left, right = canvas.subplots(1, 2)
        steps, losses = zip(*tiny.train)
        left.plot(steps, losses, lw=0.6, color=PALETTE[0], label="training loss")
        left.plot([v.step for v in tiny.val], [v.val_loss for v in tiny.val], "o-", ms=3, color=PALETTE[1],
                  label="validation loss")
        left.set(xlabel="step", ylabel="loss, nats", title="GPT-tiny")
        left.legend()
        for run, name, color in ((tiny, "GPT-tiny", PALETTE[0]), (best, "the search's best", PALETTE[2])):
            recipe = make_recipe(run.recipe)
            points = [(v.tokens * costs.flops_per_token(recipe), v.val_loss) for v in run.val if v.tokens]
            right.plot(*zip(*points), "o-", ms=3, color=color, label=name)
        ended = [run for run in runs if run.status == "ok"]
        right.plot([run.flops for run in ended], [run.val_loss for run in ended], "x", color=GREY,
                   label=f"search, {len(ended)} runs")
        right.set(xscale="log", xlabel="training FLOPs", ylabel="val loss, nats", title="what a FLOP buys")
        right.xaxis.set_major_formatter("{x:.0e}")
        right.legend(fontsize=8)


def page(folders: Folders, size: Size, tiny: Run, runs: Sequence[Run], best: Sequence[Group], last: Run
         ) -> Iterator[str]:
    """Yield the page's lines."""
    total, fit, counts = shapes()
    yield from ("# Search under a budget of FLOPs", "",
                "Written by `python -m lab search`; the figure is img/search.png. Losses in nats a token of "
                "the embedded sample's 4,096 ids: no perplexity here compares with one of GPT-2's ids.", "",
                "## GPT-tiny", "",
                f"{tiny.parameters:,} parameters, {tiny.tokens:,} tokens, {tiny.flops:.3g} FLOPs: val loss "
                f"{tiny.val_loss:.4f}, perplexity {perplexity(tiny.val_loss):.1f}.", "",
                "## The homework's final recipes, in closed form", "",
                *study.table(("recipe", "parameters", "MB", "steps", "tokens", "FLOPs"), finals()), "",
                "## What the homework's space could test", "",
                f"Of {total} shapes {fit} have weights of 50 to 98 MB:", "")
    for axis, rows in counts.items():
        words = ", ".join(f"{row.value}: {row.admissible} of {row.combinations}" for row in rows)
        only = [row.value for row in rows if row.admissible]
        untested = f"; **not tested**: only {only[0]} is admissible" if len(only) == 1 else ""
        yield f"- {axis}: {words}{untested}"
    yield from ("", f"## {len(runs)} random points at {size.flops:.3g} FLOPs", "", "```",
                *text({**report(load_results(folders.sweeps / "search")), "figures": []}), "```", "",
                f"## The best {len(best)}, with {len(size.seeds)} more seeds", "")
    yield from study.table(("point", "n", "mean", "sd"), [
        [", ".join(f"{axis.split('.')[-1]} {value}" for axis, value in found.point.items()), found.n,
         f"{found.mean:.4f}", "-" if found.sd is None else f"{found.sd:.4f}"] for found in best])
    yield from ("", "## The best of them, trained on", "",
                f"{last.flops:.3g} FLOPs, {last.tokens:,} tokens, {last.parameters:,} parameters: val loss "
                f"{last.val_loss:.4f}, perplexity {perplexity(last.val_loss):.1f}; GPT-tiny took "
                f"{tiny.flops:.3g} FLOPs to {perplexity(tiny.val_loss):.1f}.")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of lab search."""
    study.add_study_arguments(parser, "search")


def main(arguments: argparse.Namespace) -> int:
    """Run the study, or what is left of it; write figure and page."""
    size, folders = QUICK if arguments.quick else FULL, study.folders_of(arguments, "search")
    runs = searched(folders, size)
    first = tiny(folders, size)
    more = again(folders, size, ranked(runs)[:size.again])
    best = ranked(more)  # without the runs that chose them
    last = trained_on(folders, size, best[0])
    figure(first, runs, last, folders.images / "search.png")
    study.write_page(folders.pages / "search.md", page(folders, size, first, runs, best, last))
    return 0
