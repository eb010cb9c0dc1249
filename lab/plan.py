"""What the harness asks of a recipe's run: steps, batches, micro-batches. Needs no torch."""
from dataclasses import dataclass, replace
from typing import Any

from harness.plan import check_batch
from lab import parametrization
from lab.recipe import costs
from lab.recipe import load as recipes
from lab.recipe.schema import Recipe


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
