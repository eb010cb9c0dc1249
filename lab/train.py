"""lab train: one recipe through the harness and the submission's own train()."""
from harness.run import Run, open_run  # first: the referee binds its clock and its loss

import argparse
import math
import os
import pprint
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from torch import Tensor, nn

from harness.plan import check_batch
from lab import parametrization
from lab.recipe import costs
from lab.recipe import load as recipes
from lab.model import build_model
from lab.optimizer import build_optimizers, clip
from lab.recipe.schema import Recipe
from lab.recipe.schedule import factor
from lab.recipe.smoke import smoke
from train_gpt2 import train

SCRIPT = '''"""A recipe of the lab as a submission: ./run.sh --track {track} --script THIS"""
from harness.run import open_run
from lab.train import hyperparameters, train_in

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
    """Return what the harness asks of a recipe's run. Raises ValueError as `divided`, and without data."""
    recipe = recipes.make_recipe(recipe) if isinstance(recipe, dict) else recipe
    hp = divided(recipe)
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
        train_tokens=costs.total_tokens(recipe), dtype=recipe.model.dtype, recipe=recipes.as_dict(recipe))
    for _, _, size, seq_len in planned:
        check_batch(replace(hp, batch_tokens=size, seq_len=seq_len), track, None, None)
        if seq_len > recipe.data.seq_len:
            raise ValueError(f"schedule.seq_len: {seq_len}, at most data.seq_len = {recipe.data.seq_len}")
    return hp


def schedule_of(recipe: Recipe, log: Callable) -> Callable:
    """Return a schedule for train(): rates and decay of each group from the tokens seen; the step's size.

    log(lr=...) gets the rate before the roles' own factors.
    """
    planned, total = costs.steps(recipe), costs.asked_tokens(recipe)
    if total == math.inf:  # the duration is one of steps
        total = costs.total_tokens(recipe)

    def schedule(step: int, hp: LabHyperparameters, optimizers: list) -> tuple[int, int]:
        now, curves = planned[step], recipe.schedule
        decay = factor(curves.weight_decay, now.seen, total) if curves.weight_decay else 1.0
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            curve = curves.roles.get(group["role"], curves)
            group["lr"] = group["peak_lr"] * factor(curve, now.seen, total)
            group["weight_decay"] = group["peak_weight_decay"] * decay
        log(lr=recipe.optimizer.lr * factor(curves, now.seen, total))
        return now.tokens, now.seq_len

    return schedule


def train_in(run: Run) -> nn.Module:
    """Train the recipe of an open run; return its model (collective)."""
    recipe = recipes.make_recipe(run.hp.recipe)
    if run.hp != hyperparameters(recipe):
        raise ValueError("the run's hyperparameters are not its recipe's; change the recipe with --override")
    torch.manual_seed(run.seed)
    model = build_model(recipe).to(run.device)
    rates = schedule_of(recipe, run.log)

    def schedule(step: int, hp: LabHyperparameters, optimizers: list) -> tuple[int, int]:
        for line in parametrization.replaced(recipe) if step == 0 else ():
            run.print(line)  # shown once: the warm-up, which comes to step 0 first, says nothing
        return rates(step, hp, optimizers)

    def update(optimizers: list, loss: Tensor) -> None:
        run.log(grad_norm=clip(model, recipe.optimizer.max_grad_norm))
        for optimizer in optimizers:
            optimizer.step(loss)

    train(run.hp, model, build_optimizers(recipe, model, run.compile), run, schedule, update)
    return model


@contextmanager
def script_of(recipe: Recipe) -> Iterator[Path]:
    """Give a file that holds the recipe as a submission; the log of its run starts with it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recipe.py"
        path.write_text(script_text(recipe))
        yield path


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
    if (needed := costs.memory_bytes(recipe)) > (there := memory_there()):
        raise MemoryError(f"the model alone needs over {needed / 1e9:.0f} GB of memory, there are "
                          f"{there / 1e9:.0f}; take a smaller one, or smaller micro-batches")
    with script_of(recipe) as script:
        argv = [f"--track={recipe.data.track}", f"--seed={seed}", *flags]
        with open_run(str(script), {"lab": hp}, argv) as run:
            try:
                model = train_in(run)
            except Exception as error:
                error.log = run.log_path  # a sweep's row names it
                raise
    return Result(run.log_path, run.result["val_loss"], run.result["step"], run.result["tokens"],
                  run.result["train_time_ns"] / 1e9, model)


def memory_there() -> int:
    """Return the memory in bytes of the device that trains."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_properties(0).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def add_recipe_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that name a recipe."""
    parser.add_argument("--config", required=True, metavar="NAME",
                        help=f"a recipe: {', '.join(recipes.shipped())}; or a YAML file")
    parser.add_argument("--override", nargs="+", default=[], metavar="KEY VALUE",
                        help="values to change, as `key value` pairs or `key=value`")
    parser.add_argument("--smoke", action="store_true", help="the recipe at a size of seconds on a CPU")


def recipe_of(arguments: argparse.Namespace) -> Recipe:
    """Return the recipe that a command line names."""
    overrides = parse_overrides(arguments.override)
    recipe = recipes.load_recipe(arguments.config, None if arguments.smoke else overrides)
    return recipes.make_recipe(recipes.as_dict(smoke(recipe)), overrides) if arguments.smoke else recipe


def parse_overrides(words: list[str]) -> dict[str, Any]:
    """Return {"optimizer.lr": 0.003} from `optimizer.lr 3e-3` pairs, `optimizer.lr=3e-3`, or both."""
    overrides, rest = {}, list(words)
    while rest:
        key, equals, text = rest.pop(0).partition("=")
        if not equals:
            if not rest:
                raise ValueError(f"--override {key} has no value; give `key value` pairs or `key=value`")
            text = rest.pop(0)
        overrides[key] = _value(text)
    return overrides


def _value(text: str) -> Any:
    if text.lower() == "none":
        return None
    try:
        return float(text) if "e" in text.lower() and text[:1] in "+-.0123456789" else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError):
        return text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of lab train."""
    add_recipe_arguments(parser)
    parser.add_argument("--seed", type=int, default=0, help="of everything random in the training")
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
        print(f"./run.sh --track {recipe.data.track} --script {arguments.write}")
        return 0
    train_recipe(recipe, arguments.seed)
    return 0
