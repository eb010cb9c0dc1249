"""lab coord-check: how far activations and logits move in a few steps, against width.

In a maximal update parametrization the change of every activation keeps its size as the width grows
(https://arxiv.org/abs/2203.03466, appendix D.1): one slope of log change against log width says it.
"""
import argparse
import contextlib
import dataclasses
import io
import json
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from harness.shards import read_shard
from harness.track import ROOT
from lab.models.build import build_model
from lab.parametrization import at_width
from lab.recipe import costs
from lab.recipe.load import replace
from lab.recipe.schema import Recipe
from lab.train import add_recipe_arguments, recipe_of, train_recipe
from records.tools.show.figure import PALETTE, figure_for

FLAT = 0.35  # a slope up to this is noise and what is left of small widths: muP's own reached 0.29 in 4 steps
PROBE_TOKENS = 1024


def probe(recipe: Recipe) -> Tensor:
    """Return the token ids on which activations are compared: the first of the validation text, (B, T)."""
    track, seq_len = costs.track_of(recipe), recipe.data.seq_len
    costs.dataset_tokens(track)  # says what to do where there is no data
    [shard] = sorted((ROOT / track.data).glob(track.val_files))[:1]
    rows = max(1, PROBE_TOKENS // seq_len)
    return torch.from_numpy(read_shard(shard)[:rows * seq_len].astype("int64")).view(rows, seq_len)


@torch.no_grad()
def activations(model: nn.Module, idx_BT: Tensor) -> dict[str, Tensor]:
    """Return what attention and block of every layer put out, and the logits."""
    seen: dict[str, Tensor] = {}
    hooks = []
    for i, block in enumerate(model.blocks):
        for name, module in ((f"attn{i}", block.attn), (f"res{i}", block)):
            hooks.append(module.register_forward_hook(
                lambda module, inputs, output, name=name: seen.__setitem__(name, output.clone())))
    seen["logits"] = model(idx_BT)
    for hook in hooks:
        hook.remove()
    return seen


def changes(recipe: Recipe, steps: int, seed: int) -> dict[str, float]:
    """Return the mean absolute change of each activation after some steps at the recipe's constant rates."""
    constant = {f"schedule__{name}": value for name, value in (
        ("kind", "constant"), ("warmup_tokens", None), ("warmup_frac", None), ("roles", {}),
        ("batch_tokens", []), ("seq_len", []), ("accumulation", None))}
    groups = [{**dataclasses.asdict(one), "schedule": None} for one in recipe.groups]
    recipe = replace(recipe, duration__steps=steps, validations=1, groups=groups, **constant)
    idx_BT = probe(recipe)
    torch.manual_seed(seed)  # as the run does, so this is the model that it starts from
    before = activations(build_model(recipe), idx_BT)
    with contextlib.redirect_stdout(io.StringIO()):
        model = train_recipe(recipe, seed).model.cpu()
    after = activations(model, idx_BT)
    found = {name: float((after[name] - before[name]).abs().mean()) for name in before}
    if still := [name for name, change in found.items() if not change]:
        raise ValueError(f"{', '.join(still)} did not change in {steps} steps; take more --steps")
    return found


def slope(widths: list[int], values: list[float]) -> float:
    """Return the least-squares slope of log2 value against log2 width."""
    return float(np.polyfit(np.log2(widths), np.log2(values), 1)[0])


def coord_check(recipe: Recipe, widths: list[int], steps: int, seeds: int) -> dict[str, list[float]]:
    """Return, for each activation, its change at each width, the mean over seeds."""
    table: dict[str, list[float]] = {}
    for wide in [at_width(recipe, width) for width in widths]:  # all checked before the first is run
        runs = [changes(wide, steps, seed) for seed in range(seeds)]
        for name in runs[0]:
            table.setdefault(name, []).append(float(np.mean([run[name] for run in runs])))
    return table


def figure(verdicts: dict[str, dict], widths: list[int], title: str, output: Path) -> None:
    """Draw change against width, one panel a parametrization."""
    with figure_for(output) as canvas:
        axes = canvas.subplots(1, len(verdicts), sharey=True, squeeze=False)[0]
        for ax, (kind, verdict) in zip(axes, verdicts.items()):
            for color, (name, values) in zip(PALETTE * 9, verdict["changes"].items()):
                ax.plot(widths, values, "o-", color=color, lw=2.5 if name == "logits" else 1.2,
                        label=f"{name}: slope {verdict['slopes'][name]:+.2f}")
            ax.set(xscale="log", yscale="log", xlabel="width", title=kind)
            ax.set_xticks(widths, map(str, widths))
            ax.yaxis.set_major_formatter("{x:g}")
            ax.minorticks_off()
            ax.legend(fontsize=8, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.1))
        axes[0].set_ylabel("mean absolute change")
        canvas.suptitle(title, fontsize=10)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of lab coord-check."""
    add_recipe_arguments(parser)
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 128, 256, 512],
                        help="default: 64 128 256 512")
    parser.add_argument("--steps", type=int, default=4, help="default: 4")
    parser.add_argument("--seeds", type=int, default=2, help="default: 2")
    parser.add_argument("--kinds", nargs="+", choices=["sp", "mup"], help="default: the recipe's own")
    parser.add_argument("--expect", nargs="+", metavar="KIND=WORD", default=[],
                        help="flat or moves; default: mup=flat, and sp=flat where mup is not among the kinds")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("-o", "--output", type=Path, help="a figure, .png or .svg")
    parser.epilog = "example: python -m lab coord-check --config transfer_proxy --kinds sp mup --widths 32 64"


def main(arguments: argparse.Namespace) -> int:
    """Print changes, slopes and verdict of each kind; return 0 where those expected hold, else 1."""
    recipe, widths = recipe_of(arguments), sorted(set(arguments.widths))
    if len(widths) < 2 or arguments.steps < 1 or arguments.seeds < 1:
        raise ValueError("expected two widths or more, one step or more, one seed or more")
    if (output := arguments.output) and (output.suffix not in (".png", ".svg") or not output.parent.is_dir()):
        raise ValueError(f"-o {output}: expected a .png or .svg file in a folder that is there")
    kinds, verdicts = arguments.kinds or [recipe.parametrization.kind], {}
    expected = {kind: "flat" for kind in kinds if kind == "mup" or "mup" not in kinds}
    for word in arguments.expect:
        kind, _, what = word.partition("=")
        if kind not in kinds or what not in ("flat", "moves"):
            raise ValueError(f"--expect {word}: found {kind or 'nothing'} and {what or 'nothing'}, expected "
                             f"one of {', '.join(kinds)}, and flat or moves, as {kinds[0]}=moves")
        expected[kind] = what
    for kind in kinds:
        print(f"{kind}: {len(widths)} widths, {arguments.seeds} seeds ...", file=sys.stderr)
        changes = coord_check(replace(recipe, parametrization__kind=kind), widths, arguments.steps,
                              arguments.seeds)
        slopes = {name: slope(widths, values) for name, values in changes.items()}
        moving = [name for name, value in slopes.items() if not abs(value) <= FLAT]
        verdicts[kind] = {"slopes": slopes, "moving": moving, "changes": changes, "widths": widths,
                          "expected": expected.get(kind)}
    print(json.dumps(verdicts) if arguments.json else "\n".join(
        line for kind, verdict in verdicts.items() for line in lines(kind, verdict, arguments.steps)))
    if arguments.output:
        words = f"{recipe.name}, {recipe.optimizer.name}, {arguments.steps} steps, {arguments.seeds} seeds"
        figure(verdicts, widths, words, arguments.output)
    return int(any(verdict["expected"] == ("flat" if verdict["moving"] else "moves")
                   for verdict in verdicts.values()))


def lines(kind: str, verdict: dict, steps: int) -> list[str]:
    """Return the table and the verdict of one parametrization."""
    head = f"{kind:8}" + "".join(f"{width:>10}" for width in verdict["widths"]) + "     slope"
    body = [f"{name:8}" + "".join(f"{value:10.4g}" for value in values) + f"{verdict['slopes'][name]:+10.2f}"
            for name, values in verdict["changes"].items()]
    moving = ", ".join(verdict["moving"])
    said = (f"moves with width: {moving} (|slope| over {FLAT})" if moving
            else f"flat: every |slope| is at most {FLAT}") + f" after {steps} steps"
    return [head, *body, f"{kind}: {said}; expected: {verdict['expected'] or 'either'}"]
