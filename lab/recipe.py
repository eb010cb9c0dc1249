"""Recipe: one typed config, from a YAML file and overrides; all that shapes a run, and nothing else."""
import dataclasses
import difflib
import functools
import math
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentError, ArgumentParser

from lab.guide import from_guide
from lab.schema import DURATIONS, ROLES, Recipe

FOLDER = Path(__file__).resolve().parent / "recipes"
POSITIVE = {"model": ("n_layer", "n_head", "n_embd", "head_dim", "filter_size", "vocab_size"),
            "data": ("seq_len", "batch_tokens", "micro_batch"), "optimizer": ("lr",)}


def shipped() -> list[str]:
    """Return the names of the recipes that the lab has."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_recipe(name: str, overrides: dict[str, Any] | None = None) -> Recipe:
    """Return a shipped recipe by name, or one from a YAML file, the muP guide's own too.

    overrides: dotted keys, {"optimizer.lr": 3e-3, ...}.

    Raises ValueError, in one line, naming the closest to an unknown name or key.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else FOLDER / f"{name}.yaml"
    if not path.is_file():
        close = difflib.get_close_matches(name, shipped(), 1, 0)
        raise ValueError(f"--config {name}: no such recipe or file; the closest is {close[0]}")
    return make_recipe({"name": path.stem, **from_guide(load_yaml(path), path.name)}, overrides, path.name)


def load_yaml(path: Path) -> dict[str, Any]:
    """Return a YAML file's mapping. Raises ValueError, in one line, for anything else."""
    try:
        values = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{path.name}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path.name}: found {type(values).__name__}, expected `key: value` lines")
    return values


def make_recipe(values: dict[str, Any], overrides: dict[str, Any] | None = None, where: str = "") -> Recipe:
    """Return the recipe of a nested mapping and dotted overrides; a duration overridden replaces the other.

    Raises ValueError, in one line, for an unknown key, naming the closest, a wrong type or two durations.
    """
    values, overrides = _nested(values), overrides or {}
    if any(key.startswith("duration.") for key in overrides):
        values["duration"] = {}
    for key, value in overrides.items():
        *above, last = key.split(".")
        place = values
        for word in above:
            if not isinstance(place.get(word), dict):
                place[word] = {}
            place = place[word]
        place[last] = value
    values.setdefault("duration", {"steps": 100})
    _check_keys(values, overrides, where)
    parser = _parser()
    try:
        recipe = Recipe(**vars(parser.instantiate(parser.parse_object(values))))
    except (ArgumentError, ValueError, TypeError, KeyError) as error:
        words = " ".join(str(error).replace("Parser key", "").replace("<class", "").split())
        raise ValueError(f"{where or 'recipe'}: {words}") from None
    check(recipe)
    return recipe


def as_dict(recipe: Recipe) -> dict[str, Any]:
    """Return the recipe as nested plain values; make_recipe gives it back."""
    return dataclasses.asdict(recipe)


def replace(recipe: Recipe, **overrides: Any) -> Recipe:
    """Return the recipe with some values changed; a dot is written as two underscores."""
    return make_recipe(as_dict(recipe), {key.replace("__", "."): value for key, value in overrides.items()})


def keys(kind: type = Recipe, prefix: str = "") -> list[str]:
    """Return every key that an override may name, dotted."""
    names = []
    for f in dataclasses.fields(kind):
        inner = dataclass_of(f.type)
        names += keys(inner, f"{prefix}{f.name}.") if inner else [f"{prefix}{f.name}"]
    return names


def check(recipe: Recipe) -> None:
    """Raise ValueError where the values of a recipe cannot go together."""
    given = [name for name in DURATIONS if getattr(recipe.duration, name) is not None]
    if len(given) != 1:
        raise ValueError(f"duration: found {' and '.join(given) or 'nothing'}, expected exactly one of "
                         f"{', '.join(DURATIONS)}")
    if not 0 < getattr(recipe.duration, given[0]) < math.inf:
        raise ValueError(f"duration.{given[0]}: found {getattr(recipe.duration, given[0])}, expected above 0")
    model = recipe.model
    for section, names in POSITIVE.items():
        for name in names:
            if (value := getattr(getattr(recipe, section), name)) is not None and not 0 < value < math.inf:
                raise ValueError(f"{section}.{name}: found {value}, expected above 0")
    if recipe.validations < 1:
        raise ValueError(f"validations: found {recipe.validations}, expected at least 1")
    name = "head_dim" if model.head_dim else "n_head"
    if model.n_embd % getattr(model, name):
        raise ValueError(f"model.n_embd: {model.n_embd} is not a multiple of {name} = {getattr(model, name)}")
    for where, roles in (("optimizer.lr_factor", recipe.optimizer.lr_factor),
                         ("schedule.roles", recipe.schedule.roles)):
        for role in roles:
            if role not in ROLES:
                raise ValueError(f"{where}: no role {role!r}; there are {', '.join(ROLES)}")
    schedule = recipe.schedule
    for curve in filter(None, (schedule, schedule.weight_decay, *schedule.roles.values())):
        if not curve.timescale_tokens > 0:
            raise ValueError(f"schedule.timescale_tokens: found {curve.timescale_tokens}, expected above 0")
        if curve.warmup_tokens is not None and curve.warmup_frac is not None:
            raise ValueError("schedule: found warmup_tokens and warmup_frac, expected at most one")
        if not 0 <= (curve.warmup_frac or 0) <= 1 or not (curve.warmup_tokens or 0) >= 0:
            raise ValueError(f"schedule: a warm-up of {curve.warmup_frac or curve.warmup_tokens}; expected "
                             f"warmup_frac from 0 to 1, or warmup_tokens from 0")
    for name in ("batch_tokens", "seq_len"):
        stairs = getattr(recipe.schedule, name)
        if [begin for begin, _ in stairs] != sorted({begin for begin, _ in stairs}):
            raise ValueError(f"schedule.{name}: found {stairs}, expected rising token counts")
    if recipe.duration.flops and recipe.schedule.seq_len:
        raise ValueError("duration.flops with a schedule.seq_len: a token's cost would change; give tokens")


@functools.cache
def _parser() -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Recipe)
    return parser


def _nested(value: Any) -> Any:
    return {str(k): _nested(v) for k, v in value.items()} if isinstance(value, dict) else value


def dataclass_of(kind: Any) -> type | None:
    """Return the dataclass that a field holds, also an optional one."""
    for part in (kind, *getattr(kind, "__args__", ())):
        if dataclasses.is_dataclass(part) and getattr(kind, "__origin__", None) is not dict:
            return part
    return None


def _check_keys(values: dict[str, Any], overrides: dict[str, Any], where: str) -> None:
    def walk(values: Any, kind: type, prefix: str) -> None:
        fields = {f.name: f for f in dataclasses.fields(kind)}
        for name, value in values.items():
            key = prefix + name
            if name not in fields:
                known = keys()
                close = difflib.get_close_matches(key, known, 1, 0)
                given = any(name == key or name.startswith(f"{key}.") for name in overrides)
                source = "--override" if given else where or "recipe"
                raise ValueError(f"{source}: unknown key {key}; the closest is {close[0]}")
            inner = dataclass_of(fields[name].type)
            if inner and value is not None and not isinstance(value, dict):
                raise ValueError(f"{where or '--override'}: {key}: found {value!r}, expected keys of its "
                                 f"own: {', '.join(f.name for f in dataclasses.fields(inner))}")
            if inner and value:
                walk(value, inner, f"{key}.")
    walk(values, Recipe, "")
