"""lab optimizers: is a learned optimizer better than AdamW and Muon, these tuned?

Each plain (its rate constant), with a schedule, and with weight decay too. AdamW, Muon and small_fc start
alike, under mup with base width 1, as small_fc's weights were made (muLO): the optimizers alone differ.
"""
import argparse
import itertools
import math
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from harness.track import ROOT
from lab.optimizers import optimizer_of
from lab.recipe import costs
from lab.recipe.load import load_recipe, make_recipe
from lab.studies import study
from lab.sweep.results import comparable, Run
from lab.sweep.verdict import better, chosen, Claim, CLAIMS
from lab.sweep.worker import from_root
from lab.train import parse_overrides
from records.tools.show.figure import figure_for, PALETTE

SHIPPED = ROOT / "lab" / "optimizers" / "learned" / "small_fc.safetensors"
PLAIN, SCHEDULE, DECAY = VARIANTS = ("plain", "schedule", "schedule + decay")
SHRINK = 0.2  # decay times rate times steps, the same for all
FIFTHS = ("1/5", "2/5", "3/5", "4/5", "5/5")  # of the budget, where losses are measured
MULO = {"model.initializer.std": 1.0, "model.residual_init": "plain", "model.readout_init": "zero",
        "parametrization.kind": "mup", "parametrization.mup_base_hidden_size": 1,
        "parametrization.mup_base_filter_size": 1, "parametrization.scale_qk_dot_by_d": True}
MATRICES = dict.fromkeys(("decoder_attention", "decoder_input_ffn", "decoder_output_ffn"), 1 / 15)
ARMS = {  # what each asks of a recipe, and its rate; Muon's is that of the embedding, its matrices' a 15th
    "AdamW": ({**MULO, "optimizer.name": "adamw", "optimizer.betas": (0.9, 0.99)}, 0.3),
    "AdamW at 1e-3": ({"optimizer.name": "adamw"}, 1e-3),
    "Muon": ({**MULO, "optimizer.name": "muon", "parametrization.adjust_learning_rate": MATRICES}, 0.3),
    "small_fc": ({**MULO, "optimizer.name": "small_fc"}, 1.0),
    "VeLO": ({"optimizer.name": "velo", "optimizer.zero_std": 0.02}, 1.0)}
TUNED = ("AdamW", "Muon")
OWN = {*(key for own, _ in ARMS.values() for key in own), "model.embedding_initializer.std", "optimizer.lr",
       "optimizer.weight_decay", "optimizer.weights", "schedule.kind", "schedule.warmup_frac"}

# overrides of gpt_tiny, octaves around the rate of what is tuned, seeds: in full 15 minutes of a core
SMALL = {"model.tied": False, "data.seq_len": 64, "data.batch_tokens": 512}
FULL = {**SMALL, "model.n_embd": 64, "duration.steps": 200}, (-2, -1, 0, 1), (0, 1, 2)
QUICK = {**SMALL, "model.n_embd": 16, "duration.steps": 10}, (-1, 0), (0,)


def space(name: str, octaves: Sequence[int], seeds: Sequence[int], recipe: str, overrides: dict[str, Any],
          weights: str | None) -> dict[str, Any]:
    """Return an optimizer's sweep: its variants, rates and seeds."""
    (own, rate), base = ARMS[name], load_recipe(recipe, overrides)
    if own.get("parametrization.kind") == "mup":
        own = {**own, "model.embedding_initializer.std": base.model.n_embd**-0.5}
    decay = SHRINK / sum(stretch.steps for stretch in costs.stretches(base))
    return {"recipe": recipe, "overrides": {**overrides, **own, "optimizer.weights": weights},
            "method": "list", "points": [
                {"schedule.kind": kind, "schedule.warmup_frac": warmup, "optimizer.lr": rate * 2.0**octave,
                 "optimizer.weight_decay": shrink / rate / 2.0**octave, "seed": seed}
                for seed in seeds for octave in (octaves if name in TUNED else [0])
                for kind, warmup, shrink in (("constant", 0, 0), ("cosine", .05, 0), ("cosine", .05, decay))]}


def runs_of(arm: Sequence[Run], variant: str) -> list[Run]:
    """Return the runs of a variant."""
    return [run for run in arm if (run.point["schedule.kind"] == "constant") == (variant == PLAIN)
            and (run.point["optimizer.weight_decay"] > 0) == (variant == DECAY)]


def claims(runs: dict[str, list[Run]]) -> Iterator[Claim]:
    """Yield who is better than whom, and than AdamW in each variant; and whether schedule and decay help."""
    for b, a in itertools.combinations(runs, 2):
        yield better((a, f"{b}, each at its best"), runs[a], runs[b])
        for variant in VARIANTS if b == "AdamW" else ():
            yield better((a, f"{b}, {variant}"), *(runs_of(runs[arm], variant) for arm in (a, b)))
    for name, arm in runs.items():
        for a, b in ((SCHEDULE, PLAIN), (DECAY, SCHEDULE)):
            yield better((f"{name}: {a}", b), runs_of(arm, a), runs_of(arm, b))


def losses(runs: Sequence[Run]) -> list[Sequence[float]]:
    """Return all seeds' losses at 1/5 .. 5/5 of the budget, inf where a run diverged."""
    lost = [math.inf] * len(FIFTHS)
    return list(zip(*([val.val_loss for val in run.val[1:]] if run.status == "ok" else lost for run in runs)))


def figure(runs: dict[str, list[Run]], output: Path) -> None:
    """Draw the losses of each optimizer, a colour, in each variant, a dash."""
    with figure_for(output) as canvas:
        canvas.set_size_inches(10, 5.5)
        axes = canvas.subplots()
        for color, (name, arm) in zip(PALETTE, runs.items()):
            for variant, dash in zip(VARIANTS, (":", "--", "-")):
                study.draw_line(axes, dict(enumerate(losses(chosen(runs_of(arm, variant))))), ls=dash, ms=3,
                                color=color, capsize=2, label=f"{name}, {variant}")
        axes.set_xticks(range(len(FIFTHS)), FIFTHS)
        axes.set(xlabel="share of the budget", ylabel="val loss, nats, mean and sd over seeds")
        axes.legend(fontsize=6.5, ncols=len(runs), handlelength=4)


def rows(runs: dict[str, list[Run]]) -> Iterator[list]:
    """Yield each optimizer's losses by variant, its state, and the time of a step by the logs."""
    times = {name: min([run.val[-1].train_time_ns for run in arm if run.status == "ok"], default=math.nan)
             for name, arm in runs.items()}
    for name, arm in runs.items():
        state = optimizer_of(make_recipe(arm[0].recipe).optimizer).STATE
        for variant in VARIANTS:
            best = chosen(runs_of(arm, variant))
            rates = ", ".join(sorted({f"{run.point['optimizer.lr']:.3g}" for run in best}))
            yield [name, variant, rates, *map(study.cell, losses(best)), state,
                   f"{times[name] / times['AdamW']:.2f}"]


def page(runs: dict[str, list[Run]], name: str, command: str) -> Iterator[str]:
    """Yield the page's lines."""
    first = runs["AdamW"][0]
    model, tried = first.recipe["model"], sorted({run.point["optimizer.lr"] for run in runs["AdamW"]})
    yield from (
        "# Learned optimizers against tuned ones", "",
        f"Written by `{command}`; the figure is img/{name}.png.", "",
        f"Recipe `{first.recipe['name']}`, {model['n_layer']} layers of width {model['n_embd']}, "
        f"{first.tokens:,} tokens, {len({run.seed for run in runs['AdamW']})} seeds; losses in nats a token, "
        f"the same {first.data.val_tokens:,} tokens every time. AdamW, Muon and small_fc start alike, under "
        "mup with base width 1; AdamW at 1e-3 and VeLO as the recipe does. AdamW and Muon are tuned over "
        f"{len(tried)} rates, {tried[0]:g} to {tried[-1]:g} (Muon's matrices a 15th), of which each seed "
        "takes the one that is best by the others; learned ones take 1, as trained. Plain: a constant rate. "
        f"Schedule: warm-up over 5 %, cosine to a tenth. Decay: rate times decay times steps is {SHRINK:g}.",
        *(f"Weights of {arm}: {weights}." for arm, found in runs.items()
          if (weights := found[0].recipe["optimizer"]["weights"])),
        "", "## Verdicts", "", "As `python -m lab better` has them: differences seed by seed, each interval "
        "95 % by itself.", "", *study.table(CLAIMS, claims(runs)), "", "## Losses and costs", "",
        "At fifths of the budget, mean (sd). State: numbers kept a parameter, at least. Time: of a step, "
        "over AdamW's, by the fastest run of each, the least disturbed; an update alone, on quiet "
        "cores: [performance](performance.md).", "")
    yield from study.table(["optimizer", "", "rate", *FIFTHS, "state", "time"], [
        *rows(runs), *([arm, "not run: no weights", *[""] * (len(FIFTHS) + 3)]
                       for arm in ARMS if arm not in runs)])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of lab optimizers."""
    study.add_study_arguments(parser, "optimizers")
    parser.add_argument("--config", metavar="NAME", help="a recipe or YAML file; default: gpt_tiny, cut")
    parser.add_argument("--track", metavar="NAME", help="a track of the lab instead of the recipe's")
    parser.add_argument("--override", nargs="+", default=[], metavar="KEY VALUE", help="values to change")
    parser.add_argument("--small_fc", metavar="WEIGHTS", default=from_root(SHIPPED) if SHIPPED.is_file() else
                        None, help="a file, or a repository of the hub; default: those that ship")
    parser.add_argument("--velo", metavar="WEIGHTS", help="the same for VeLO; default: it is not run")


def main(arguments: argparse.Namespace) -> int:
    """Run the study, or what is left of it; write figure and page."""
    small, octaves, seeds = QUICK if arguments.quick else FULL
    if own := sorted(OWN & parse_overrides(arguments.override).keys()):
        raise ValueError(f"--override {own[0]}: each optimizer has its own here; leave it out")
    recipe, name = arguments.config or "gpt_tiny", "optimizers"
    overrides = {"schedule": {"final": 0.1}, "optimizer.lr_factor": {}, "validations": len(FIFTHS),
                 **({} if arguments.config else small), **parse_overrides(arguments.override)}
    if arguments.track:
        overrides["data.track"] = arguments.track
    if arguments.config:
        name += f"_{Path(recipe).stem}"
    weights = {"small_fc": arguments.small_fc, "VeLO": arguments.velo}
    folders = study.folders_of(arguments, name)
    runs = {arm: study.sweep(folders, arm.lower().replace(" ", "_"),
                             space(arm, octaves, seeds, recipe, overrides, weights.get(arm)))
            for arm in ARMS if weights.get(arm, "none needed")}
    comparable([run for arm in runs.values() for run in arm])
    figure(runs, folders.images / f"{name}.png")
    flags = {"config": arguments.config, "track": arguments.track, "override": shlex.join(arguments.override)}
    words = ["python -m lab optimizers", *(f"--{flag} {value}" for flag, value in flags.items() if value)]
    study.write_page(folders.pages / f"{name}.md", page(runs, name, " ".join(words)))
    return 0
