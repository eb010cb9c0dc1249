"""Recipe: one typed config, from a YAML file and overrides; all that shapes a run, and nothing else."""
import dataclasses
import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args, get_origin

import yaml
from jsonargparse import ArgumentError, ArgumentParser

from lab.optimizers import Optimizer, section
from lab.recipe import pylo
from lab.recipe.guide import from_guide
from lab.recipe.hlb import PARTS
from lab.recipe.schema import DURATIONS, Recipe, unknown
from lab.types import ROLES, WORDS

FOLDER = Path(__file__).resolve().parent.parent / "recipes"


def shipped() -> list[str]:
    """Return the names of the recipes that the lab has."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_recipe(name: str, overrides: dict[str, Any] | None = None) -> Recipe:
    """Return a shipped recipe by name, or one from a YAML file, the muP guide's own too.

    overrides: dotted keys, {"optimizer.lr": 3e-3, ...}; PyLO's words, where the name is that of its config.

    Raises ValueError, in one line, naming the closest to an unknown name or key.
    """
    if name == pylo.CONFIG:
        words, overrides = pylo.split(overrides or {})
        return make_recipe(_whole(pylo.from_pylo(words)), overrides, name)
    path = Path(name) if name.endswith((".yaml", ".yml")) else FOLDER / f"{name}.yaml"
    if not path.is_file():
        raise ValueError(f"--config: {unknown('recipe or file', name, shipped())}")
    values = _whole(from_guide(load_yaml(path), path.name))
    return make_recipe({"name": path.stem, **values}, overrides, path.name)


def _whole(values: dict[str, Any]) -> dict[str, Any]:
    """Return a recipe's values over those of the shipped one that it is `from`, section by section."""
    if "from" not in values:
        return values
    if (name := values["from"]) not in shipped():
        raise ValueError(f"from: {unknown('recipe', name, shipped())}")
    whole = _whole(load_yaml(FOLDER / f"{name}.yaml"))
    for key, value in values.items():
        sections = isinstance(value, dict) and isinstance(whole.get(key), dict) and key != "duration"
        if sections and key == "data":
            _replace_batch(whole[key], {f"data.{name}": inner for name, inner in value.items()})
        whole[key] = whole[key] | value if sections else value
    del whole["from"]
    return whole


def load_yaml(path: Path) -> dict[str, Any]:
    """Return a YAML file's mapping. Raises ValueError, in one line, for anything else."""
    try:
        values = yaml.load(path.read_text(), Loader=_Loader)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{path.name}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path.name}: found {type(values).__name__}, expected `key: value` lines")
    return values


class _Loader(yaml.SafeLoader):
    """A YAML loader that refuses a key twice in one mapping, of which one would be lost."""

    def construct_mapping(self, node, deep=False):
        names = [self.construct_object(key) for key, _ in node.value]
        if twice := [name for i, name in enumerate(names) if name in names[:i]]:
            raise yaml.YAMLError(f"{twice[0]} stands twice in one mapping {node.start_mark}")
        return super().construct_mapping(node, deep)


def make_recipe(values: dict[str, Any], overrides: dict[str, Any] | None = None, where: str = "") -> Recipe:
    """Return the recipe of a mapping, nested or dotted, and overrides; one of the duration replaces it.

    Raises ValueError, in one line, for an unknown key, naming the closest, a wrong type or two durations.
    """
    given, overrides = dict(_nested(values)), overrides or {}
    for key in (*given, *overrides):
        if said := pylo.instead(key):
            raise ValueError(f"{'--override' if key in overrides else where or 'recipe'}: {said}")
    if any(key.startswith("duration.") for key in overrides):
        given = {key: value for key, value in given.items() if not key.startswith("duration")}
    values = {}
    for key, value in given.items():
        place, last = _place(values, key)
        place[last] = value
    _replace_batch(values.get("data"), overrides)
    for key, value in overrides.items():
        place, last = _place(values, key)
        place[last] = value
    values.setdefault("duration", {"steps": 100})

    def complain(key: str, words: str) -> NoReturn:
        given = any(name == key or name.startswith(f"{key}.") for name in overrides)
        raise ValueError(f"{'--override' if given else where or 'recipe'}: {words}")

    if overrides.get("data.batch_sequences", 0) is None and "batch_tokens" not in values["data"]:
        complain("data.batch_sequences", "data.batch_sequences null: give data.batch_tokens in its place")
    recipe, fields = _section(Recipe, values, "", complain), 0
    said = values.get("data", {}).get("batch_tokens", recipe.data.batch_tokens)
    if recipe.data.batch_sequences and said != recipe.data.batch_tokens:
        complain("data.batch_sequences", f"data: found batch_tokens {said} and {recipe.data.batch_sequences} "
                 f"batch_sequences of {recipe.data.seq_len} tokens, expected one of the two")
    for part in PARTS if recipe.model.scale else ():
        for key, value in part(recipe).items():
            place, last = _place(values, key)
            fields += last not in place
            place.setdefault(last, value)
        recipe = _section(Recipe, values, "", complain)
    if "model.scale" in overrides and recipe.model.scale and not fields:
        complain("model.scale", "model.scale: it finds nothing to fill here; start from a recipe's file")
    check(recipe)
    return recipe


def _replace_batch(data: Any, new: dict[str, Any]) -> None:
    """Take out of a recipe's data what the new values, by dotted key, say in another way: a step's size."""
    if isinstance(data, dict):
        if "data.batch_tokens" in new:
            data.pop("batch_sequences", None)
        if new.get("data.batch_sequences") or data.get("batch_sequences") and "data.seq_len" in new:
            data.pop("batch_tokens", None)


def _place(values: dict[str, Any], key: str) -> tuple[dict[str, Any], str]:
    """Return the mapping, made where it is missing, in which a dotted key's last word stands, and that."""
    *above, last = key.split(".")
    for word in above:
        if not isinstance(values.get(word), dict):
            values[word] = {}
        values = values[word]
    return values, last


def _section(kind: type, values: Any, prefix: str, complain: Callable) -> Any:
    """Return a dataclass of the schema from a mapping, its keys behind a prefix in complaints."""
    types = {f.name: f.type for f in dataclasses.fields(kind)}
    if not isinstance(values, dict):
        key = prefix.rstrip(".")
        complain(key, f"{key}: found {values!r}, expected keys of its own: {', '.join(types)}")
    found = {}
    for name, value in values.items():
        key, of = f"{prefix}{name}", types.get(name)
        if of is None:
            complain(key, str(unknown("key", key, keys())))
        inner = dataclass_of(of)
        if inner and not (value is None and type(None) in get_args(of)):
            found[name] = _section(inner, value, f"{key}.", complain)
        elif get_origin(of) is dict and isinstance(value, dict) and (inner := dataclass_of(get_args(of)[1])):
            found[name] = {k: _section(inner, v, f"{key}.{k}.", complain) for k, v in value.items()}
        elif get_origin(of) is list and isinstance(value, list) and (inner := dataclass_of(get_args(of)[0])):
            found[name] = [_section(inner, v, f"{key}.{i}.", complain) for i, v in enumerate(value)]
        else:
            try:
                found[name] = typed(of, value)
            except ValueError as error:
                complain(key, f"{key}: {error}")
    return kind(**found)


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
    """Raise ValueError, in one line, where a value is out of its range or values cannot go together."""
    given = [name for name in DURATIONS if getattr(recipe.duration, name) is not None]
    if len(given) != 1:
        raise ValueError(f"duration: found {' and '.join(given) or 'nothing'}, expected exactly one of "
                         f"{', '.join(DURATIONS)}")
    schedule, optimizer, model = recipe.schedule, recipe.optimizer, recipe.model
    for where, roles in (("optimizer.lr_factor", optimizer.lr_factor), ("schedule.roles", schedule.roles)):
        for role in roles:
            if role not in ROLES:
                raise ValueError(f"{where}: no role {role!r}; there are {', '.join(ROLES)}")
    curves = {"schedule": schedule, "schedule.weight_decay": schedule.weight_decay, **schedule.roles,
              **{f"groups: {one.pattern}": one.schedule for one in recipe.groups}}
    name = "head_dim" if model.head_dim else "n_head"
    if model.n_embd % getattr(model, name):
        raise ValueError(f"model.n_embd: {model.n_embd} is not a multiple of {name} = {getattr(model, name)}")
    for where, curve in curves.items():
        if curve and curve.warmup_tokens is not None and curve.warmup_frac is not None:
            raise ValueError(f"{where}: found warmup_tokens and warmup_frac, expected at most one")
    for name in ("batch_tokens", "seq_len"):
        stairs = getattr(schedule, name)
        if [u for u, _ in stairs] != sorted({u for u, _ in stairs}):
            raise ValueError(f"schedule.{name}: found {stairs}, expected [[tokens seen, value], ...], rising")
    if recipe.data.batch_sequences and (schedule.batch_tokens or schedule.seq_len):
        raise ValueError("data.batch_sequences: a schedule changes a step's tokens or its sequences' length; "
                         "give data.batch_tokens")
    if schedule.accumulation and (not recipe.duration.tokens or schedule.batch_tokens):
        raise ValueError("schedule.accumulation: a step's tokens are known when it comes; give "
                         "duration.tokens, and no schedule.batch_tokens")
    for one in recipe.groups:
        try:
            re.compile(one.pattern)
        except re.error as error:
            raise ValueError(f"groups: {one.pattern!r} is no regular expression: {error}") from None
    if recipe.duration.flops and schedule.seq_len:
        raise ValueError("duration.flops with a schedule.seq_len: a token's cost would change; give tokens")


def type_of(key: str) -> Any:
    """Return the type of a recipe's value by its dotted key; None where there is no such key."""
    kind: Any = Recipe
    for word in key.split("."):
        if get_origin(kind) is dict:
            kind = get_args(kind)[1]
        else:
            fields = getattr(dataclass_of(kind), "__dataclass_fields__", {})
            kind = fields[word].type if word in fields else None
    return kind


def words_of(kind: Any) -> str:
    """Return what a type of the schema takes, in words."""
    if kind in WORDS:
        return WORDS[kind]
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return f"one of {', '.join(inner)}"
    if origin in (tuple, list):
        return f"[{', '.join(map(words_of, inner))}{', ...' if origin is list else ''}]"
    if origin is dict:
        return f"names, each with {words_of(inner[1])}"
    return " or ".join(map(words_of, inner)) or "keys of its own"


def typed(kind: Any, value: Any) -> Any:
    """Return a value as a type of the schema has it: 1e-3, which YAML takes for text, is a number there.

    Raises ValueError, in words for a message, where it does not fit.
    """
    try:
        return _plain(_parser(kind).parse_object({"value": value}).value)
    except (ArgumentError, ValueError, TypeError):
        raise ValueError(f"found {value!r}, expected {words_of(kind)}") from None


def _plain(value: Any) -> Any:
    """Return a parsed value with plain numbers: those of jsonargparse's types are classes of their own."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_plain, value))
    return getattr(value, "_type", lambda same: same)(value)


@functools.cache
def _parser(kind: Any) -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=kind)
    return parser


def _nested(value: Any) -> Any:
    return {str(k): _nested(v) for k, v in value.items()} if isinstance(value, dict) else value


def dataclass_of(kind: Any) -> type | None:
    """Return the dataclass that a field holds, also an optional one; of the optimizer, with all fields."""
    for part in (kind, *getattr(kind, "__args__", ())):
        if dataclasses.is_dataclass(part) and getattr(kind, "__origin__", None) not in (dict, list):
            return section() if part is Optimizer else part
    return None


def smoke(recipe: Recipe) -> Recipe:
    """Return a recipe shrunk to 2 layers of width 64 and 8 steps; its kind of everything stays.

    Base sizes but 1, batch and length schedules shrink with it; fractions stay, warm-up tokens become 10 %.
    """
    values = as_dict(recipe)
    model, words, data = values["model"], values["parametrization"], values["data"]
    if (words["mup_base_hidden_size"] or 1) > 1:
        wider = model["n_embd"] > words["mup_base_hidden_size"]
        words |= {"mup_base_hidden_size": 32 if wider else 64, "mup_base_filter_size": 128 if wider else 256}
        words["mup_base_head_dim"] = words["mup_base_head_dim"] and 32
    model |= {"n_layer": 2, "n_head": 2, "head_dim": None, "n_embd": 64, "vocab_size": None,
              "dtype": "float32", "filter_size": 256 if model["filter_size"] else None}
    data |= {"track": "lab", "seq_len": 64, "batch_tokens": 512, "batch_sequences": None, "micro_batch": 8}
    schedule = values["schedule"]
    for curve in (schedule, *schedule["roles"].values(), *(one["schedule"] for one in values["groups"])):
        if curve and curve["warmup_tokens"]:
            curve |= {"warmup_tokens": None, "warmup_frac": 0.1}
    schedule |= {"batch_tokens": [], "seq_len": [(0, 32), (2048, 64)] if schedule["seq_len"] else [],
                 "end_tokens": None}
    values["optimizer"]["newton_schulz_dtype"] = "float32"
    length = {"tokens": 8 * 512} if schedule["accumulation"] else {"steps": 8}
    values |= {"duration": length, "validations": 2}
    return make_recipe(values)
