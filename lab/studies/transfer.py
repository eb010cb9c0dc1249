"""lab transfer: do the best hyperparameters of a narrow model serve a wide one? (muTransfer)

First the learning rate against width, under sp and mup, AdamW and Muon. Then the procedure of Cerebras'
guide: random search at the proxy, the best of it at an intermediate width, choice by loss and stability,
the target. Yang et al. 2022 (https://arxiv.org/abs/2203.03466).
"""
import argparse
import dataclasses
import functools
import json
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lab.parametrization import at_width, base_head_dim, check
from lab.recipe.load import as_dict, load_recipe, make_recipe
from lab.recipe.schema import Recipe
from lab.studies import study
from lab.studies.study import Folders
from lab.sweep import verdict
from lab.sweep.results import comparable, group, Run
from lab.sweep.verdict import Claim, Losses
from lab.sweep.worker import from_root
from records.tools.show.figure import figure_for, PALETTE

RECIPES = {"AdamW": "transfer_proxy", "Muon": "transfer_proxy_muon"}
TRANSFERABLE = ("optimizer.lr", "optimizer.betas", "optimizer.eps", "model.initializer.std",
                "parametrization.embeddings_scale", "parametrization.output_logits_alpha",
                "parametrization.attention_logits_alpha", "optimizer.lr_factor",
                "model.embedding_initializer", "parametrization.kind", "parametrization.mup_base_hidden_size",
                "parametrization.mup_base_filter_size", "parametrization.scale_qk_dot_by_d",
                "parametrization.scale_output_logits_by_d", "parametrization.adjust_learning_rate",
                "parametrization.weight_decay", "parametrization.scale_eps")
HEAD_DIM = "parametrization.mup_base_head_dim"  # the proxy's, also where it follows from other words
SEARCHED = {  # beside the rate; what muTransfer carries over
    "model.initializer.std": [0.02, 0.04, 0.08, 0.16], "parametrization.embeddings_scale": [1.0, 3.0, 10.0],
    "parametrization.output_logits_alpha": [0.5, 1.0, 2.0],
    "parametrization.attention_logits_alpha": [0.5, 1.0, 2.0]}
STAYS = 0.5  # octaves of learning rate: half a step of the grid


class Size(NamedTuple):
    """What is run: at full size about 20 minutes on two cores."""

    widths: tuple[int, ...]  # the first is the base
    lr_octaves: tuple[int, ...]  # relative to the proxy's own rate
    steps: int
    seeds: dict[str, int]  # optimizer -> how many; AdamW's optimum moves most from seed to seed
    samples: int  # of the random search
    kept: int  # of them at the intermediate width
    tokens_per_param: float  # there


FULL = Size((48, 96, 192), (-2, -1, 0, 1, 2), 100, {"AdamW": 5, "Muon": 3}, 20, 10, 0.05)
QUICK = Size((48, 64, 96), (-1, 0), 6, {"AdamW": 1, "Muon": 1}, 3, 2, 0.002)


def grid(folders: Folders, size: Size, name: str, recipe: str) -> list[Run]:
    """Return runs over width, learning rate, parametrization and seed.

    Those of the base width stand for sp and mup: there both are the same run, bit for bit, as a test shows.
    """
    fixed = {"recipe": recipe, "overrides": {"duration.steps": size.steps, "validations": 1}}
    axes = {"optimizer.lr": study.rates(recipe, size.lr_octaves), "seed": list(range(size.seeds[name]))}
    base, *wider = size.widths
    narrow = study.sweep(folders, f"{name.lower()}_base", {**fixed, "axes": {
        "model.n_embd": [base], "parametrization.kind": ["mup"], **axes}})
    wide = study.sweep(folders, f"{name.lower()}_wide", {**fixed, "axes": {
        "model.n_embd": wider, "parametrization.kind": ["sp", "mup"], **axes}})
    comparable(narrow + wide)
    as_sp = [dataclasses.replace(run, point={**run.point, "parametrization.kind": "sp"}) for run in narrow]
    return as_sp + narrow + wide


def losses(runs: Sequence[Run], kind: str, width: int) -> Losses:
    """Return the final losses by learning rate of one parametrization and width."""
    return verdict.losses([run for run in runs if run.point["parametrization.kind"] == kind
                           and run.point["model.n_embd"] == width], "optimizer.lr")


def lr_claims(name: str, runs: Sequence[Run], size: Size) -> list[Claim]:
    """Return what the grid says of one optimizer."""
    base, wide = size.widths[0], size.widths[-1]
    sp, mup = ([losses(runs, kind, width) for width in (base, wide)] for kind in ("sp", "mup"))
    moved_sp, moved_mup = (verdict.shift(*map(verdict.octaves, ends)) for ends in (sp, mup))
    return [
        verdict.claim(f"{name}: the best rate falls with width under sp, {base} to {wide}", moved_sp,
                      unit="octaves", most=0.0),
        verdict.claim(f"{name}: the best rate stays within {STAYS} octaves under mup, {base} to {wide}",
                      moved_mup, unit="octaves", least=-STAYS, most=STAYS),
        verdict.claim(f"{name}: at {wide}, mup at the best rate of {base} is no worse than sp tuned",
                      verdict.tuned(mup[1], by=mup[0]), verdict.tuned(sp[1]), most=0.0)]


def choose(runs: Sequence[Run]) -> int:
    """Return the place of the run to carry on: the lowest loss among the stable of the three lowest.

    Stable: no loss spike, and no gradient norm above ten times the median of all runs' largest. Where none of
    the three is stable, the lowest loss.
    """
    norms = [run.largest("grad_norm") or 0.0 for run in runs]
    limit = 10 * statistics.median(norms)
    order = sorted(range(len(runs)), key=lambda i: runs[i].val_loss)
    stable = [i for i in order[:3] if not runs[i].spikes and norms[i] <= limit]
    return (stable or order)[0]


def target_recipe(proxy: Recipe, target: Recipe) -> Recipe:
    """Return the target with the proxy's values that transfer: optimizer, init, multipliers.

    A tied head is embedding and readout in one: its rate is the lower of theirs.
    """
    values = transferred(proxy)
    factors = values["optimizer.lr_factor"] = dict(values["optimizer.lr_factor"])
    if target.model.tied and not proxy.model.tied:
        factors["embedding"] = min(factors.get("embedding", 1.0), factors.pop("readout", 1.0))
    elif proxy.model.tied and not target.model.tied:
        factors["readout"] = factors.get("embedding", 1.0)
    if target.model.kind == "speedrun":  # its queries and keys are normalised
        values[HEAD_DIM] = None
    found = make_recipe(as_dict(target), values)
    check(found)
    return found


def transferred(proxy: Recipe) -> dict[str, Any]:
    """Return the values of a recipe that transfer, by dotted key."""
    values, mup = as_dict(proxy), proxy.parametrization.kind == "mup"
    return {**{key: functools.reduce(dict.get, key.split("."), values) for key in TRANSFERABLE},
            HEAD_DIM: int(base_head_dim(proxy)) if mup else None}


def differences(proxy: Recipe, target: Recipe) -> list[str]:
    """Return a warning for each difference in architecture: the guide advises to search again then."""
    found = [{"positions": "learned" if recipe.model.kind == "gpt2" else "rotary",
              "activation": recipe.model.activation, "optimizer": recipe.optimizer.name,
              "tied head": recipe.model.tied} for recipe in (proxy, target)]
    return [f"warning: the proxy has {name} {a}, the target {b}; search again with the target's"
            for (name, a), b in zip(found[0].items(), found[1].values()) if a != b]


def figure(grids: dict[str, list[Run]], widths: Sequence[int], output: Path) -> None:
    """Draw loss against learning rate, a panel a grid and kind."""
    with figure_for(output) as canvas:
        canvas.set_size_inches(8, 3.2 * len(grids))
        panels = canvas.subplots(len(grids), 2, sharex="row", sharey="row", squeeze=False)
        for row, (name, runs) in zip(panels, grids.items()):
            for axes, kind in zip(row, ("sp", "mup")):
                for color, width in zip(PALETTE, widths):
                    study.draw_line(axes, losses(runs, kind, width), ring=True, color=color, capsize=2,
                                    label=f"width {width}")
                axes.set_title(f"{name}, {kind}", fontsize=10)
                rates = sorted({run.point["optimizer.lr"] for run in runs})
                axes.set(xscale="log", xlabel="learning rate")
                axes.set_xticks(rates, [f"{lr:.2g}" for lr in rates])
                axes.minorticks_off()
            row[0].set_ylabel("final val loss, nats")
            study.legend(row[0])


def page(size: Size, grids: dict[str, list[Run]], claims: Sequence[Claim], found: list, target: Sequence[str]
         ) -> Iterator[str]:
    """Yield the page's lines."""
    yield from ("# Transfer of hyperparameters from narrow to wide", "",
                "Written by `python -m lab transfer`; the figure is img/transfer.png.", "",
                f"Recipes `{RECIPES['AdamW']}` and `{RECIPES['Muon']}`, {size.steps} steps, "
                f"{' and '.join(map(str, size.seeds.values()))} seeds; base width {size.widths[0]}. "
                "Losses in nats a token of the sample. Intervals are 95 %, of seeds only; a claim is "
                "supported where all of its interval lies where it says. sp is tuned over one rate, of which "
                "all groups are fixed multiples.", "",
                "What is chosen is measured on other seeds: each one at the rate that the others chose, the "
                "searched point on none of the search's.", "", "## Claims", "")
    yield from study.table(verdict.CLAIMS, claims)
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
            best = min(map(statistics.fmean, by_lr.values()))
            cells = [study.cell(by_lr[lr], statistics.fmean(by_lr[lr]) == best) for lr in rates]
            rows.append([kind, width, *cells])
    return study.table(["", "width", *(f"{lr:.3g}" for lr in rates)], rows)


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
             run.spikes, f"{run.largest('grad_norm'):.3g}", "chosen" if i - 1 == chosen else ""]
            for i, (point, run) in enumerate(zip(kept, tried), start=1)]
    yield from study.table(["rank at the proxy", *(axis.split(".")[-1] for axis in axes),
                            f"val loss at {size.widths[1]}", "spikes", "largest gradient norm", ""], rows)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of lab transfer."""
    study.add_study_arguments(parser, "transfer")
    parser.add_argument("--target", metavar="NAME", help="a recipe to carry the search's result to; default: "
                                                         "the proxy at the largest width")


def main(arguments: argparse.Namespace) -> int:
    """Run the study, or what is left of it; write figure and page."""
    size, folders = QUICK if arguments.quick else FULL, study.folders_of(arguments, "transfer")
    proxy = load_recipe(RECIPES["AdamW"])
    target = load_recipe(arguments.target) if arguments.target else at_width(proxy, size.widths[-1], "mup")
    target_recipe(proxy, target)  # says now what does not fit
    grids = {name: grid(folders, size, name, recipe) for name, recipe in RECIPES.items()}
    claims = [claim for name, runs in grids.items() for claim in lr_claims(name, runs, size)]
    fixed, steps = {"recipe": RECIPES["AdamW"]}, {"duration.steps": size.steps, "validations": 1}
    other = max(size.seeds.values())  # this seed chooses what those of the grids measure
    searched = study.sweep(folders, "search", {
        **fixed, "overrides": steps, "method": "random", "samples": size.samples, "axes": SEARCHED | {
            "optimizer.lr": study.rates(RECIPES["AdamW"], (-2, -1, 0, 1, 2)), "seed": [other]}})
    kept = [found.point for found in sorted(group(searched), key=lambda g: g.mean)[:size.kept]]
    tried = study.sweep(folders, "intermediate", {
        **fixed, "method": "list", "points": [{**point, "seed": other} for point in kept], "overrides": {
            "model.n_embd": size.widths[1], "duration.tokens_per_param": size.tokens_per_param,
            "validations": 1}})
    chosen = choose(tried)
    winner = target_recipe(make_recipe(as_dict(proxy), kept[chosen]), target)
    recipe_path = folders.sweeps / "target.yaml"
    recipe_path.write_text(json.dumps(as_dict(winner), indent=1) + "\n")  # JSON is YAML
    if not arguments.target:
        overrides = {**kept[chosen], "model.n_embd": size.widths[-1], **steps}
        at_target = study.sweep(folders, "target", {
            **fixed, "overrides": overrides, "axes": {"seed": list(range(size.seeds["AdamW"]))}})
        claims.append(verdict.claim(
            "AdamW: the target at the searched point (five values) is no worse than sp tuned (its rate)",
            [run.val_loss for run in at_target], verdict.tuned(losses(grids["AdamW"], "sp", size.widths[-1])),
            most=0.0))
    figure(grids, size.widths, folders.images / "transfer.png")
    study.write_page(folders.pages / "transfer.md", page(
        size, grids, claims, [len(searched), kept, tried, chosen],
        [*differences(proxy, target), *(f"{key}: {value}" for key, value in transferred(winner).items()),
         f"in full: `python -m lab recipe --config {from_root(recipe_path)}`"]))
    return 0
