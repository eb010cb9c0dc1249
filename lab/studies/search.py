"""lab search: the best recipe for a budget of FLOPs, after the homework "Decoder from Scratch" (CMU 11-667).

GPT-tiny as it was; a random search under a budget, its space cut by closed forms before anything is built;
the best three again with more seeds; the best of them trained on with eight times the budget.
"""
import argparse
from collections.abc import Sequence
from typing import Any, NamedTuple

from lab.recipe import costs
from lab.studies import study
from lab.recipe.load import FOLDER, load_recipe, load_yaml
from lab.sweep.report import ranked
from lab.sweep.results import Group, Run
from lab.sweep.space import admissible, make_space
from lab.studies.study import Place

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


def tiny(where: Place, size: Size) -> Run:
    """Return the run of the homework's GPT-tiny recipe."""
    [run] = study.sweep(where, "gpt_tiny", {
        "recipe": "gpt_tiny", "overrides": size.tiny, "axes": {"seed": [0]}})
    return run


def searched(where: Place, size: Size) -> list[Run]:
    """Return the runs of the random search."""
    values = load_yaml(SPACES / "search.yaml")
    return study.sweep(where, "search", {
        **values, "samples": size.samples, "overrides": {"duration.flops": size.flops},
        "constraints": {**values["constraints"], "flops": size.flops}})


def again(where: Place, size: Size, best: Sequence[Group]) -> list[Run]:
    """Return the best points' runs with more seeds."""
    return study.sweep(where, "again", {
        "recipe": "search_base", "overrides": {"duration.flops": size.flops}, "method": "list",
        "points": [{**found.point, "seed": seed} for found in best for seed in size.seeds]})


def trained_on(where: Place, size: Size, best: Group) -> Run:
    """Return the run of the best point with a larger budget."""
    [run] = study.sweep(where, "best", {
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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of lab search."""
    study.add_study_arguments(parser, "search")


def main(arguments: argparse.Namespace) -> int:
    """Run the study, or what is left of it; write figure and page."""
    from lab.studies.search_page import figure, page
    size, where = QUICK if arguments.quick else FULL, study.place_of(arguments, "search")
    runs = searched(where, size)
    first = tiny(where, size)
    more = again(where, size, ranked(runs)[:size.again])
    best = ranked(more)  # without the runs that chose them
    last = trained_on(where, size, best[0])
    figure(first, runs, last, where.images / "search.png")
    study.write_page(where.pages / "search.md", page(where, size, first, runs, best, last))
    return 0
