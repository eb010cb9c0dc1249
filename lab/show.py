"""lab recipe: a recipe in full, what it costs, and its table of init, learning rates and factors."""
import argparse
import json
from typing import Any

import yaml

from lab.optimizers import optimizer_of
from lab.parametrization import lines, multipliers, table
from lab.recipe import costs, hlb
from lab.recipe import load as recipes
from lab.recipe.schema import Recipe
from lab.train import add_recipe_arguments, divided, memory_bytes, recipe_of


def cost_of(recipe: Recipe) -> dict[str, float]:
    """Return what a recipe's run costs, in closed form: numbers, bytes, tokens, FLOPs."""
    a, b = optimizer_of(recipe.optimizer).FLOPS
    return {"parameters": costs.parameters(recipe).total, "parameter_bytes": costs.parameter_bytes(recipe),
            "memory_bytes": memory_bytes(recipe), "micro_batch": costs.micro_batch(recipe),
            "steps": sum(s.steps for s in costs.stretches(recipe)), "tokens": costs.total_tokens(recipe),
            "flops_per_token": costs.flops_per_token(recipe), "flops": costs.total_flops(recipe),
            "optimizer_flops": (a + b * recipe.model.n_embd) * costs.parameters(recipe).total}


def as_text(recipe: Recipe) -> str:
    """Return a recipe, its costs and its table for people."""
    words = yaml.safe_dump(plain(recipes.as_dict(recipe)), sort_keys=False, default_flow_style=None)
    cost = cost_of(recipe)
    numbers = [("parameters", f"{cost['parameters']:,} ({cost['parameter_bytes'] / 1e6:,.1f} MB)"),
               ("memory", f"over {cost['memory_bytes'] / 1e9:,.2f} GB"),
               ("micro-batch", f"{cost['micro_batch']} sequences"),
               ("steps", f"{'at most ' * bool(recipe.schedule.accumulation)}{cost['steps']:,}"),
               ("tokens", f"{cost['tokens']:,}"),
               ("FLOPs", f"{cost['flops']:.4g} ({cost['flops_per_token']:,} a token)"),
               ("optimizer", f"{cost['optimizer_flops']:.4g} FLOPs a step")]
    return "\n".join([words, *(f"{name:11} {value}" for name, value in numbers), "", *hlb.lines(recipe),
                      *lines(recipe)])


def as_json(recipe: Recipe) -> dict:
    """Return the same as data."""
    return {"recipe": recipes.as_dict(recipe), "costs": cost_of(recipe),
            "table": [row._asdict() for row in table(recipe).values()],
            "forward": multipliers(recipe)._asdict()}


def plain(value: Any) -> Any:
    """Return nested values as YAML has them: without those that are None, tuples as lists."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items() if inner is not None}
    return list(value) if isinstance(value, tuple) else value


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of lab recipe."""
    add_recipe_arguments(parser)
    parser.add_argument("--json", action="store_true", help="the same as one JSON object")
    parser.epilog = "example: python -m lab recipe --config cerebras_2.7b --override duration.steps 1000"


def main(arguments: argparse.Namespace) -> int:
    """Print a recipe; return the exit code."""
    recipe = recipe_of(arguments)
    divided(recipe)  # says what could not run
    print(json.dumps(as_json(recipe)) if arguments.json else as_text(recipe))
    return 0
