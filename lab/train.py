"""lab train: one recipe through the harness, in a loop of the lab's own."""
import argparse
import os
import pprint
import re
import shlex
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
import yaml
from torch import Tensor, nn

from harness.endings import BadInput
from harness.plan import check_batch
from harness.run import Run, open_run  # first: the referee binds its clock and its loss
from lab import parametrization
from lab.models.build import build_model
from lab.optimizers import optimizer_of
from lab.recipe import costs, pylo
from lab.recipe import load as recipes
from lab.recipe.hlb import lines as filled
from lab.recipe.schedule import accumulation, factor, stairs
from lab.recipe.schema import Group, Recipe

SCRIPT = '''"""A recipe of the lab as a submission: ./run.sh --track {track} --script THIS"""
from harness.run import open_run
from lab.train import GPT, hyperparameters, train_in

RECIPE = {recipe}
RECIPES = {{"lab": hyperparameters(RECIPE)}}


def main():
    with open_run(__file__, RECIPES) as run:
        train_in(run)


if __name__ == "__main__":
    main()
'''


@dataclass(frozen=True, kw_only=True)
class LabHyperparameters:
    """What the harness asks of a run, worked out from a recipe; and the recipe itself."""

    num_iterations: int
    batch_tokens: int
    micro_batch: int
    seq_len: int
    val_every: int
    epochs: int
    train_tokens: int
    ends_on_tokens: bool
    dtype: str
    recipe: dict[str, Any]


class Result(NamedTuple):
    """A finished run."""

    log: Path
    val_loss: float
    steps: int
    tokens: int
    train_time_s: float
    model: nn.Module


def hyperparameters(recipe: Recipe | dict[str, Any]) -> LabHyperparameters:
    """Return what the harness asks of a recipe's run. Raises ValueError as `divided`, and without data
    or what the optimizer needs."""
    recipe = recipes.make_recipe(recipe) if isinstance(recipe, dict) else recipe
    hp = divided(recipe)
    getattr(optimizer_of(recipe.optimizer), "check", lambda config: None)(recipe.optimizer)
    return replace(hp, epochs=-(-(hp.train_tokens + 1) // costs.dataset_tokens(costs.track_of(recipe))))


def divided(recipe: Recipe) -> LabHyperparameters:
    """Return the hyperparameters for one epoch; no data is looked at.

    Raises ValueError where a step, of any size on the schedule, does not divide into passes.
    """
    parametrization.check(recipe)
    for key, name in (("model.dtype", recipe.model.dtype),
                      ("optimizer.newton_schulz_dtype", recipe.optimizer.newton_schulz_dtype)):
        if name not in ("float32", "bfloat16"):
            raise ValueError(f"{key}: found {name}, expected float32 or bfloat16")
    if costs.vocab_size(recipe) < costs.track_of(recipe).vocab_size:
        raise ValueError(f"model.vocab_size: found {recipe.model.vocab_size}, the track's ids need at least "
                         f"{costs.track_of(recipe).vocab_size}")
    track, planned = costs.track_of(recipe), costs.stretches(recipe)
    steps = sum(stretch.steps for stretch in planned)
    hp = LabHyperparameters(
        num_iterations=steps, batch_tokens=recipe.data.batch_tokens, micro_batch=costs.micro_batch(recipe),
        seq_len=recipe.data.seq_len, val_every=-(-steps // max(1, recipe.validations)), epochs=1,
        train_tokens=costs.total_tokens(recipe), ends_on_tokens=recipe.schedule.accumulation is not None,
        dtype=recipe.model.dtype, recipe=recipes.as_dict(recipe))
    for _, _, size, seq_len in planned:
        check_batch(replace(hp, batch_tokens=size), track, None, None)
        if recipe.data.seq_len % seq_len:
            raise ValueError(f"schedule.seq_len: {seq_len}, expected a divisor of data.seq_len = "
                             f"{recipe.data.seq_len}, at most that")
    return hp


def train_in(run: Run) -> nn.Module:
    """Train the recipe of an open run; return its model (collective)."""
    recipe = recipes.make_recipe(run.hp.recipe)
    if run.hp != hyperparameters(recipe):
        raise ValueError("the run's hyperparameters are not its recipe's; change the recipe with --override")
    torch.manual_seed(run.seed)
    model = build_model(recipe).to(run.device)
    train(recipe, model, build_optimizers(recipe, model, run.compile), run)
    return model


def train(recipe: Recipe, model: nn.Module, optimizers: list, run: Run) -> None:
    """Train a model in place; the run yields the steps, and validates, times and logs between them."""
    total, whole, n = (costs.curve_tokens(recipe), costs.total_tokens(recipe),
                       sum(p.numel() for p in model.parameters()))
    said = [*filled(recipe), *parametrization.replaced(recipe), *{
        f"optimizer.weights {group['weights_sha256']}" for optimizer in optimizers
        for group in optimizer.param_groups if "weights_sha256" in group}]
    loss_of, schedule, data = run.compile(loss_sum), recipe.schedule, recipe.data
    for step in run.steps(model, optimizers):
        groups = [group for o in optimizers for group in o.param_groups]  # new ones where the run was resumed
        for line in said if step == 0 else ():
            run.print(line)  # shown once: the warm-up, which comes to step 0 first, says nothing
        seen = whole - run.tokens_left
        run.log(lr=set_rates(recipe, optimizers, seen, total))
        size, seq_len = stairs(seen, schedule.batch_tokens, data.batch_tokens), stairs(
            seen, schedule.seq_len, data.seq_len)
        if schedule.accumulation:
            passes = rounded(groups[0].setdefault("passes", 0.0), run.generator(step))
            size = min(passes * size, run.tokens_left)
            run.log(passes=passes)
        tokens = run.take(size)  # a row is cut where sequences are shorter: a pass always has as many tokens
        x_BT, y_BT = tokens[:-1].view(-1, data.seq_len), tokens[1:].view(-1, data.seq_len)
        loss = run.accumulate(lambda net, x, y: loss_of(net(x.view(-1, seq_len)), y), x_BT, y_BT)
        run.log(grad_norm=(norm := clip(model, recipe.optimizer.max_grad_norm)))
        if schedule.accumulation and step % schedule.accumulation.every == 0:
            groups[0]["passes"] = accumulation(groups[0]["passes"], step, float(norm), n,
                                               schedule.accumulation)
        if schedule.weight_decay_loss_base:
            by_loss = schedule.weight_decay_loss_base ** -float(loss)
            for group in groups:
                group["weight_decay"] *= by_loss
            run.log(weight_decay=recipe.optimizer.weight_decay * by_loss)
        for optimizer in optimizers:
            optimizer.step(loss)


def rounded(wanted: float, generator: torch.Generator) -> int:
    """Return what is wanted, rounded up or down at random so that it is the mean over steps; at least 1."""
    more = torch.rand((), generator=generator, device=generator.device) < wanted % 1
    return max(1, int(wanted) + int(more))


def build_optimizers(recipe: Recipe, model: nn.Module, compile: Callable = lambda f: f) -> list:
    """Return the optimizers of a recipe, with a group for each role, or part of one that has its own numbers.

    Raises BadInput where one of the recipe's groups is empty, or its optimizer has no betas that it names.
    """
    config, rows, model_names = recipe.optimizer, parametrization.table(recipe), []
    members: dict[tuple[str, int], dict[str, Tensor]] = {}
    own = [*recipe.groups, Group(pattern="")]  # the last for all others
    for name, p in model.named_parameters():
        place = next(i for i, one in enumerate(own) if re.search(one.pattern, name))
        members.setdefault((parametrization.role_of(name), place), {})[name] = p
        model_names.append(name)
    if empty := [one.pattern for i, one in enumerate(recipe.groups) if i not in {i for _, i in members}]:
        raise BadInput(f"groups: no parameter is left for {empty[0]!r}; there are {', '.join(model_names)}")
    groups = [dict(params=list(params.values()), names=list(params), role=role, place=place,
                   lr=config.lr * rows[role].lr * own[place].lr_factor, eps=config.eps * rows[role].eps,
                   weight_decay=config.weight_decay * rows[role].weight_decay * own[place].weight_decay,
                   **({"betas": own[place].betas} if own[place].betas else {}))
              for (role, place), params in members.items()]
    for group in groups:
        group["peak_lr"], group["peak_weight_decay"] = group["lr"], group["weight_decay"]
    steps = sum(stretch.steps for stretch in costs.stretches(recipe))
    built = optimizer_of(config).build(groups, config, steps, compile)
    for optimizer, group in ((optimizer, group) for optimizer in built for group in optimizer.param_groups):
        if own[group["place"]].betas and "betas" not in optimizer.defaults:
            raise BadInput(f"groups: {own[group['place']].pattern!r}: found betas, {group['names'][0]} is "
                           f"{type(optimizer).__name__}'s, which has none")
    return built


def set_rates(recipe: Recipe, optimizers: list, seen: int, total: float) -> float:
    """Set each group's rate and decay after some of all tokens; return the rate before the roles' factors."""
    curves, own = recipe.schedule, [*(one.schedule for one in recipe.groups), None]
    decay = factor(curves.weight_decay, seen, total) if curves.weight_decay else 1.0
    for group in (group for optimizer in optimizers for group in optimizer.param_groups):
        curve = own[group["place"]] or curves.roles.get(group["role"], curves)
        group["lr"] = group["peak_lr"] * factor(curve, seen, total)
        group["weight_decay"] = group["peak_weight_decay"] * decay
    return recipe.optimizer.lr * factor(curves, seen, total)


def clip(model: nn.Module, max_norm: float | None) -> Tensor:
    """Scale all gradients to a global norm of at most max_norm; return the norm before, a scalar."""
    return nn.utils.clip_grad_norm_(model.parameters(), float("inf") if max_norm is None else max_norm)


def loss_sum(logits_BTV: Tensor, y_BT: Tensor) -> Tensor:
    """Return the float32 cross-entropy, summed: the harness divides it once, by the global token count."""
    return F.cross_entropy(logits_BTV.flatten(0, 1).float(), y_BT.flatten(), reduction="sum")


def GPT(hp: LabHyperparameters) -> nn.Module:
    """Return the model of a run, as the judge asks a submission for it (docs/rules.md)."""
    return build_model(recipes.make_recipe(hp.recipe))


def script_text(recipe: Recipe) -> str:
    """Return a recipe as a submission that ./run.sh can train, on any number of ranks."""
    text = pprint.pformat(recipes.as_dict(recipe), width=100, sort_dicts=False)
    return SCRIPT.format(track=recipe.data.track, recipe=text)


def train_recipe(recipe: Recipe, seed: int = 0, flags: Sequence[str] = ()) -> Result:
    """Train a recipe in this process, with launch options of the harness as flags; return the result.

    Raises ValueError for a recipe that cannot be run, MemoryError for one that cannot fit. Where the harness
    refuses, or the loss stops being a number, SystemExit comes, its context the reason, as ./run.sh ends.
    """
    hp = hyperparameters(recipe)
    if (needed := memory_bytes(recipe)) > (there := memory_there()):
        raise MemoryError(f"the model alone needs over {needed / 1e9:.0f} GB of memory, there are "
                          f"{there / 1e9:.0f}; take a smaller one, or smaller micro-batches")
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "recipe.py"
        script.write_text(script_text(recipe))
        argv = [f"--track={recipe.data.track}", f"--seed={seed}", *flags]
        with open_run(str(script), {"lab": hp}, argv) as run:
            try:
                model = train_in(run)
            except Exception as error:
                error.log = run.log_path and Path(run.log_path)  # a sweep's row names it
                raise
    return Result(Path(run.log_path), run.result["val_loss"], run.result["step"], run.result["tokens"],
                  run.result["train_time_ns"] / 1e9, model)


def memory_bytes(recipe: Recipe) -> int:
    """Return a lower bound of a training process's memory on one device, in bytes.

    Weights, gradients (twice where reduction is exact) and the optimizer's state, float32; of one pass the
    float32 logits with their gradient and what blocks keep for theirs, at least 8 numbers a channel.
    """
    parametrization.check(recipe)
    model, state = recipe.model, optimizer_of(recipe.optimizer).STATE
    copies = 1 + (2 if costs.track_of(recipe).reduction == "exact" else 1) + state
    tokens, size = costs.micro_batch(recipe) * recipe.data.seq_len, 4 if model.dtype == "float32" else 2
    kept = tokens * (8 * costs.vocab_size(recipe) + size * 8 * model.n_layer * model.n_embd)
    return 4 * copies * costs.parameters(recipe).total + kept


def memory_there() -> int:
    """Return the memory in bytes of the device that trains."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_properties(0).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def add_recipe_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that name a recipe."""
    parser.add_argument("--config", required=True, metavar="NAME",
                        help=f"a recipe: {', '.join(recipes.shipped())}; a YAML file; PyLO's {pylo.CONFIG}")
    parser.add_argument("--override", nargs="+", default=[], metavar="KEY VALUE",
                        help="values to change")
    parser.add_argument("--smoke", action="store_true", help="the recipe at a size of seconds on a CPU")


def recipe_of(arguments: argparse.Namespace) -> Recipe:
    """Return the recipe that a command line names; a seed in PyLO's words becomes arguments.seed."""
    words, ours = pylo.split(parse_overrides(arguments.override))
    if "seed" in words:
        arguments.seed = words["seed"]
    if not arguments.smoke:
        return recipes.load_recipe(arguments.config, {**words, **ours})
    small = recipes.smoke(recipes.load_recipe(arguments.config, words))
    return recipes.make_recipe(recipes.as_dict(small), ours)


def parse_overrides(words: list[str]) -> dict[str, Any]:
    """Return {"optimizer.lr": 0.003} from `optimizer.lr 3e-3` pairs."""
    if len(words) % 2:
        raise ValueError(f"--override {words[-1]} has no value; give `key value` pairs")
    return {key: _value(text) for key, text in zip(words[::2], words[1::2])}


def _value(text: str) -> Any:
    try:
        return None if text.lower() == "none" else yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of lab train."""
    add_recipe_arguments(parser)
    parser.add_argument("--seed", type=int, default=0, help="of everything random in the training")
    parser.add_argument("--keep_weights", action="store_true", help="leave them beside the log")
    parser.add_argument("--write", type=Path, metavar="FILE",
                        help="train nothing: write the recipe as a submission, for ./run.sh on many ranks")
    parser.epilog = "example: python -m lab train --config gpt_tiny --smoke --override optimizer.lr 3e-3"


def main(arguments: argparse.Namespace) -> int:
    """Train a recipe, or write it down as a submission; return the exit code."""
    recipe = recipe_of(arguments)
    if arguments.write:
        divided(recipe)
        if arguments.write.exists():
            raise ValueError(f"--write {arguments.write}: there is such a file; name a new one")
        arguments.write.write_text(script_text(recipe))
        print(f"./run.sh --track {recipe.data.track} --script {shlex.quote(str(arguments.write))}",
              *(["--seed", arguments.seed] if arguments.seed else []))
        return 0
    train_recipe(recipe, arguments.seed, ["--weights=true"] * arguments.keep_weights)
    return 0
