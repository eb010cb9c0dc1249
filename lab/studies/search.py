"""lab search: the best recipe for a budget of FLOPs, after the homework "Decoder from Scratch" (CMU 11-667).

GPT-tiny for a tenth of its steps; a random search, its space cut by closed forms before anything is built;
the best three again with more seeds; the best of them trained with GPT-tiny's FLOPs.
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
    """What is run: at full size about 10 minutes of processor time."""

    flops: float  # a run of the search
    samples: int
    again: int  # best points with more seeds
    seeds: tuple[int, ...]
    tiny: dict[str, Any]  # overrides of GPT-tiny


FULL = Size(1.5e11, 16, 3, (1, 2), {"duration.steps": 200})
QUICK = Size(2e10, 3, 1, (1,), {"duration.steps": 8, "validations": 2})


def shapes() -> tuple[int, int, dict[str, list]]:
    """Return how many shapes (width, layers, length) the homework's space has, how many fit, and counts."""
    values = load_yaml(SPACES / "homework.yaml")
    axes = {axis: values["axes"][axis] for axis in ("model.n_embd", "model.n_layer", "data.seq_len")}
    counts = admissible(make_space({**values, "axes": axes}))
    rows = counts["model.n_embd"]
    return sum(row.combinations for row in rows), sum(row.admissible for row in rows), counts


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
                f"{tiny.parameters:,} parameters; {tiny.val[-1].step:,} of the homework's "
                f"{load_recipe('gpt_tiny').duration.steps:,} steps, {tiny.tokens:,} tokens, "
                f"{tiny.flops:.3g} FLOPs: val loss {tiny.val_loss:.4f}, perplexity "
                f"{perplexity(tiny.val_loss):.1f}.", "",
                "## The homework's final recipes, in closed form", "",
                *study.table(("recipe", "heads", "rates", "sequences a step", "parameters", "MB",
                               "steps", "tokens", "FLOPs"), [
                    [recipe.name, recipe.model.n_head, f"{recipe.optimizer.lr:g} to "
                     f"{recipe.schedule.final * recipe.optimizer.lr:g}",
                     f"{recipe.data.batch_sequences:,}, {recipe.data.micro_batch} a pass",
                     f"{costs.parameters(recipe).total:,}",
                     f"{costs.parameter_bytes(recipe) / 1e6:.1f}", f"{len(costs.steps(recipe)):,}",
                     f"{costs.total_tokens(recipe):.4g}", f"{costs.total_flops(recipe):.3g}"]
                    for recipe in map(load_recipe, FINALS)]), "",
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
    yield from ("", "## The best of them, with GPT-tiny's FLOPs", "",
                f"{last.flops:.3g} FLOPs, {last.tokens:,} tokens, {last.parameters:,} parameters: val loss "
                f"{last.val_loss:.4f}, perplexity {perplexity(last.val_loss):.1f}; GPT-tiny's is "
                f"{perplexity(tiny.val_loss):.1f}. One seed each.")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of lab search."""
    study.add_study_arguments(parser, "search")


def main(arguments: argparse.Namespace) -> int:
    """Run the study, or what is left of it; write figure and page."""
    size, folders = QUICK if arguments.quick else FULL, study.folders_of(arguments, "search")
    values, once = load_yaml(SPACES / "search.yaml"), {"seed": [0]}
    fixed = {"recipe": values["recipe"], "overrides": {"duration.flops": size.flops}}
    runs = study.sweep(folders, "search", {**values, **fixed, "samples": size.samples, "constraints": {
        **values["constraints"], "flops": size.flops}})
    [tiny] = study.sweep(folders, "gpt_tiny", {"recipe": "gpt_tiny", "overrides": size.tiny, "axes": once})
    again = study.sweep(folders, "again", {**fixed, "method": "list", "points": [
        {**found.point, "seed": seed} for found in ranked(runs)[:size.again] for seed in size.seeds]})
    best = ranked(again)  # without the runs that chose them
    equal = {**best[0].point, "duration.flops": tiny.flops, "validations": 20}
    [last] = study.sweep(folders, "best", {**fixed, "overrides": equal, "axes": once})
    figure(tiny, runs, last, folders.images / "search.png")
    study.write_page(folders.pages / "search.md", page(folders, size, tiny, runs, best, last))
    return 0
