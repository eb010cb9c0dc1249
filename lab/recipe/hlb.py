"""hlb-gpt's one number: what model.scale says of each field that a recipe leaves open.

The formulas are those of hlb-gpt 0.4 (https://github.com/tysam-code/hlb-gpt); its steps are counted in tokens
here, one step a pass of its device's capacity.
"""
import dataclasses
import math
from collections.abc import Iterator
from typing import Any

from lab.recipe import costs
from lab.recipe.schema import Recipe

CPU_TOKENS = 4096  # a CPU's capacity


def capacity(scale: float, memory_gb: float) -> int:
    """Return the tokens of a pass: hlb-gpt's on its A100 of 40 GB, in proportion on others, a CPU's at 0."""
    if not memory_gb:
        return CPU_TOKENS
    return math.floor(114688 / (1.52174 + 0.482 * scale**0.87) * memory_gb / 40)


def shape(recipe: Recipe) -> dict[str, Any]:
    """Return the model's values, by dotted key."""
    doublings = math.log2(1 + recipe.model.scale)
    return {"model.kind": "latent", "model.n_embd": 64 * max(1, round(6 * doublings)),
            "model.n_layer": max(1, round(8 * doublings)), "model.n_head": 8, "model.tied": False,
            "model.bias": False, "model.vocab_size": -(-costs.vocab_size(recipe) // 128) * 128,
            "model.residual_init": "per_layer", "model.readout_init": "double", "data.seq_len": 1024}


def step(recipe: Recipe) -> dict[str, Any]:
    """Return a step's size: the sequences that fit into the capacity, in one pass on a GPU.

    Raises ValueError where not one fits, and for a model of another kind.
    """
    scale, data = recipe.model.scale, recipe.data
    if recipe.model.kind != "latent":
        raise ValueError(f"model.scale: found kind {recipe.model.kind}, expected latent, hlb-gpt's")
    if not (rows := (tokens := capacity(scale, data.memory_gb)) // data.seq_len):
        raise ValueError(f"model.scale {scale:g}: {tokens} tokens a pass in {data.memory_gb:g} GB are less "
                         f"than data.seq_len = {data.seq_len}; give more data.memory_gb, a shorter one")
    return {"data.batch_tokens": rows * data.seq_len, "data.micro_batch": rows if data.memory_gb else None}


def training(recipe: Recipe) -> dict[str, Any]:
    """Return rates, decay, schedules and groups; under mup those of the base width, which it scales."""
    base = recipe.parametrization.mup_base_hidden_size or recipe.model.n_embd
    reference = dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, n_embd=base))
    log_n, tokens = math.log(costs.parameters(reference).total), recipe.data.batch_tokens
    lengths = [32 << i for i in range(6) if 32 << i <= recipe.data.seq_len]
    power = {"kind": "power", "timescale_tokens": tokens}
    warmup = {} if recipe.schedule.warmup_frac is not None else {"schedule.warmup_tokens": 100 * tokens}
    return {
        "model.initializer.std": 0.25 / math.sqrt(base), "optimizer.lr": 2.62 * 9e7 / log_n**8.8,
        "optimizer.betas": [0.9, 0.95], "optimizer.eps": 1e-9, "optimizer.weight_decay": 16,
        "schedule.weight_decay_loss_base": 0.007 * (0.01 * log_n)**-4,
        **{f"schedule.{key}": value for key, value in power.items()}, **warmup, "schedule.start": 0.02,
        "schedule.exponent": 0.08,
        "schedule.accumulation": {"exponent": -0.677 * log_n**-0.2},
        "schedule.seq_len": [[80 * tokens * i, length] for i, length in enumerate(lengths)],
        "groups": [
            {"pattern": "position_slope", "lr_factor": 100,
             "schedule": {**power, "kind": "exponential", "exponent": -math.log(0.995)}},
            {"pattern": "ln_|wte", "lr_factor": 32, "weight_decay": 0},
            {"pattern": "lm_head", "lr_factor": 2, "weight_decay": 0, "betas": [0.6, 0.95],
             "schedule": {**power, "exponent": 0.2}}]}


PARTS = (shape, step, training)  # each builds on those before


def lines(recipe: Recipe) -> Iterator[str]:
    """Yield, a section a line, what a recipe has from its scale."""
    values, found = dataclasses.asdict(recipe), {}
    for key, value in (item for part in PARTS if recipe.model.scale for item in part(recipe).items()):
        section, _, name = key.partition(".")
        held = values[section]
        for word in name.split(".") if name else ():
            held = held[word]
        if agrees(value, held):
            found.setdefault(section, []).append(f"{name} {value:.4g}" if isinstance(value, float)
                                                 else f"{name} {value}")
    for section, words in found.items():
        yield f"model.scale {recipe.model.scale:g} gives {section}: {', '.join(words)}"


def agrees(said: Any, held: Any) -> bool:
    """Tell whether a value is what was said of it; of keys, those that were said."""
    if isinstance(said, dict):
        return isinstance(held, dict) and all(agrees(value, held[key]) for key, value in said.items())
    if isinstance(said, list):
        return isinstance(held, list | tuple) and len(said) == len(held) and all(map(agrees, said, held))
    return said == held
