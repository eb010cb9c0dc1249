"""Whatever GPT(hp) stands in train_gpt2.py, loaded only when a recipe asks for it."""
import dataclasses
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from torch import nn

from harness.runlog import ROOT
from lab.recipe import costs
from lab.recipe.schema import Recipe

SCRIPT = ROOT / "train_gpt2.py"
SIZES = ("vocab_size", "n_layer", "n_head", "n_embd", "dtype", "seq_len")


def submission(recipe: Recipe) -> nn.Module:
    """Return the submission's GPT at the recipe's size, started as the submission starts it.

    Of its hyperparameters those change that a recipe has too (SIZES). Raises ValueError, in one line, where
    there is no script, none with RECIPES and GPT(hp), or a duration counts parameters that it does not have.
    """
    if not SCRIPT.is_file():
        raise ValueError(f"model.kind submission: there is no {SCRIPT.name}; take kind speedrun or gpt2")
    try:
        module = load(SCRIPT)
    except ValueError as error:
        raise ValueError(f"model.kind submission: {error}") from error
    try:
        hp = next(iter(module.RECIPES.values()))
        sizes = {**dataclasses.asdict(recipe.model), "vocab_size": costs.vocab_size(recipe),
                 "n_head": recipe.model.heads, "seq_len": recipe.data.seq_len}
        there = {f.name for f in dataclasses.fields(hp)}
        model = module.GPT(dataclasses.replace(hp, **{name: sizes[name] for name in SIZES if name in there}))
    except Exception as error:  # a stranger's script may raise anything
        raise ValueError(f"model.kind submission: {SCRIPT.name}: {type(error).__name__}: {error}; expected "
                         f"RECIPES and GPT(hp)") from error
    found, counted = sum(p.numel() for p in model.parameters()), costs.parameters(recipe).total
    if found != counted and (recipe.duration.flops or recipe.duration.tokens_per_param):
        raise ValueError(f"model.kind submission: it has {found} parameters, the closed form of costs "
                         f"{counted}; give duration.steps, tokens or epochs")
    return model


def load(script: Path) -> ModuleType:
    """Return a submission as a module; its name is that of the file, under which a log carries it."""
    if not script.is_file() or script.suffix != ".py":
        raise ValueError(f"there is no script {script.name}; expected a submission")
    spec = importlib.util.spec_from_file_location(script.stem, script)
    assert spec and spec.loader
    module = sys.modules[script.stem] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ValueError(f"{script.name}: {type(error).__name__}: {error}") from error
    return module
