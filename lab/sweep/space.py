"""Space: the recipes of a sweep, as pure functions of a YAML file; what may not be run is never built."""
import dataclasses
import hashlib
import heapq
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_origin

import numpy as np

from harness.runlog import canonical
from lab.recipe import costs
from lab.recipe import load as recipes
from lab.recipe.load import typed
from lab.recipe.schedule import factor
from lab.recipe.schema import Duration, Recipe, unknown
from lab.train import divided, memory_bytes

MOST_POINTS = 1_000_000
KEYS = ("recipe", "overrides", "axes", "points", "method", "samples", "seed", "constraints", "resolved")
CONSTRAINTS = {"parameters": lambda recipe: costs.parameters(recipe).total,  # the cheap ones first
               "parameter_bytes": costs.parameter_bytes, "memory_bytes": memory_bytes,
               "flops": costs.total_flops}
Point = dict[str, Any]  # axis -> value


class Count(NamedTuple):
    """Of the combinations with one value of an axis: how many there are, and how many may be run."""

    value: Any
    combinations: int
    admissible: int


@dataclass(frozen=True, kw_only=True)
class Space:
    """What SPACE.yaml says, values typed as the recipe's; make_space makes one."""

    recipe: str
    overrides: dict[str, Any]
    axes: dict[str, list]
    points: list[Point]  # of a list, whose axes follow from them
    method: str  # grid, random or list
    samples: int | None  # random: how many points, at most
    seed: int  # of the choice
    constraints: dict[str, tuple[float, float]]  # name -> least, most
    base: Recipe  # overrides applied

    @cached_property
    def refusals(self) -> list[str | None]:
        """Why each combination, in the grid's order, may not be run; None where it may."""
        names, known, found = list(self.axes), {}, []
        bound = [i for i, name in enumerate(names)  # no refusal depends on an optimizer's numbers
                 if name == "optimizer.name" or not name.startswith(("seed", "optimizer."))]
        for places in self.combinations():
            key = tuple(places[i] for i in bound)
            if key not in known:
                known[key] = self._refusal({names[i]: self.axes[names[i]][places[i]] for i in bound})
            found.append(known[key])
        return found

    def combinations(self) -> Iterator[tuple[int, ...]]:
        """Yield where each combination's values stand on the axes, in the grid's order or the list's."""
        if self.method != "list":
            return itertools.product(*(range(len(values)) for values in self.axes.values()))
        return (tuple(values.index(point[name]) for name, values in self.axes.items())
                for point in self.points)

    def _refusal(self, point: Point) -> str | None:
        """Return why a point's recipe, its costs, its division into steps or its curves refuse it, if so."""
        recipe = recipe_of(self, point)
        try:
            recipes.check(recipe)
            for name, cost in CONSTRAINTS.items():
                if name == "flops":
                    divided(recipe)
                least, most = self.constraints.get(name, (0, math.inf))
                if name in self.constraints and not least <= (found := cost(recipe)) <= most:
                    return f"{name}: {found:.4g}, expected {least:.4g} to {most:.4g}"
            tokens, schedule = costs.total_tokens(recipe), recipe.schedule
            for curve in (schedule, schedule.weight_decay, *schedule.roles.values()):
                if curve is not None:
                    factor(curve, tokens, tokens)
        except ValueError as error:
            return str(error)
        return None


def load_space(path: Path) -> Space:
    """Return the space of a YAML file, or of a sweep's sweep.json. Raises ValueError, in one line."""
    try:
        return make_space(recipes.load_yaml(path))
    except ValueError as error:
        raise ValueError(f"{path.name}: {str(error).removeprefix(f'{path.name}: ')}") from None


def make_space(values: dict[str, Any]) -> Space:
    """Return the space that a mapping with the keys of SPACE.yaml describes.

    `resolved` is the recipe in full, as sweep.json has it, instead of recipe and overrides. Raises
    ValueError, in one line, naming the closest to an unknown key.
    """
    for key in values.keys() - set(KEYS):
        raise unknown("key", key, KEYS)
    name, overrides = values.get("recipe"), values.get("overrides") or {}
    constraints = values.get("constraints") or {}
    points, axes = _listed(values) if values.get("method") == "list" else ([], values.get("axes"))
    if not isinstance(name, str):
        raise ValueError(f"recipe: found {name!r}, expected one of {', '.join(recipes.shipped())}")
    for key, value in (("overrides", overrides), ("axes", axes), ("constraints", constraints)):
        if not isinstance(value, dict):
            raise ValueError(f"{key}: found {value!r}, expected `key: value` lines")
    if both := sorted(overrides.keys() & axes.keys()):
        raise ValueError(f"{', '.join(both)}: found among overrides and axes, expected in one of them")
    resolved = values.get("resolved")
    base = recipes.make_recipe(resolved) if resolved else recipes.load_recipe(name, overrides)
    sequences = "data.batch_sequences" in axes or base.data.batch_sequences
    if sequences and "data.batch_tokens" in {*axes, *overrides}:
        raise ValueError("data.batch_tokens: found beside data.batch_sequences, expected one of the two")
    axes = {str(key): axis_values(str(key), axes[key]) for key in axes}
    points = [{key: _typed(key, value) for key, value in point.items()} for point in points]
    return check(Space(
        recipe=name, overrides=overrides, axes=axes, points=points,
        method=values.get("method", "grid"), samples=values.get("samples"), seed=values.get("seed", 0),
        constraints={key: _bounds(key, constraints[key]) for key in constraints}, base=base))


def _listed(values: dict[str, Any]) -> tuple[list[Point], dict[str, list]]:
    """Return the points of a list, and the axes that they span."""
    given = values.get("points")
    fine = isinstance(given, list) and given and all(isinstance(p, dict) for p in given)
    if not fine or any(p.keys() != given[0].keys() for p in given) or any(given.count(p) > 1 for p in given):
        raise ValueError("points: expected a list of mappings with the same keys, each once")
    return given, {key: [p[key] for i, p in enumerate(given) if p[key] not in [q[key] for q in given[:i]]]
                   for key in given[0]}


def check(space: Space) -> Space:
    """Return a space whose method, samples, seed and size go together; raise ValueError for another."""
    if space.method not in ("grid", "random", "list"):
        raise ValueError(f"method: found {space.method!r}, expected grid, random or list")
    for key, value, least in (("samples", space.samples, 1), ("seed", space.seed, 0)):
        if value is not None and (type(value) is not int or value < least):
            raise ValueError(f"{key}: found {value!r}, expected a whole number of at least {least}")
    if (space.samples is None) == (space.method == "random"):
        raise ValueError(f"samples: found {space.samples}; random needs a number of them, a grid has none")
    if (size := math.prod(map(len, space.axes.values()))) > MOST_POINTS and space.method != "list":
        raise ValueError(f"axes: {size} combinations, at most {MOST_POINTS}; give fewer values")
    return space


def as_json(space: Space) -> dict[str, Any]:
    """Return what sweep.json holds; make_space gives the space back, also when the recipe's file changed."""
    fields = {f.name: getattr(space, f.name) for f in dataclasses.fields(space) if f.name != "base"}
    return {**fields, "resolved": recipes.as_dict(space.base)}


def points(space: Space) -> list[Point]:
    """Return the points of a sweep, a pure function of the space.

    A grid or a list: all admissible combinations, of a grid the last axis fastest. Random: admissible ones
    without replacement, in the order of sha256 of [seed, point]: more samples keep the first ones, and the
    order of the keys in the file does not matter.
    """
    admissible = (point for point, refusal in zip(_combinations(space), space.refusals) if refusal is None)
    if space.method != "random":
        return list(admissible)
    return heapq.nsmallest(space.samples, admissible, key=lambda point: hashlib.sha256(
        canonical([space.seed, point]).encode()).digest())


def admissible(space: Space) -> dict[str, list[Count]]:
    """Return, for every value of every axis, how many combinations have it and how many may be run."""
    counts = {name: [[0, 0] for _ in values] for name, values in space.axes.items()}
    for where, refusal in zip(space.combinations(), space.refusals):
        for name, place in zip(counts, where):
            counts[name][place][0] += 1
            counts[name][place][1] += refusal is None
    return {name: [Count(value, *pair) for value, pair in zip(space.axes[name], pairs)]
            for name, pairs in counts.items()}


def recipe_of(space: Space, point: Point) -> Recipe:
    """Return the recipe at a point; its values must be of the space's axes, as these are typed."""
    recipe = space.base
    if any(key.startswith("duration.") for key in point):
        recipe = dataclasses.replace(recipe, duration=Duration())
    for key, value in point.items():
        if key != "seed":
            recipe = _replaced(recipe, Recipe, key.split("."), value)
    return recipe


def _combinations(space: Space) -> Iterator[Point]:
    for places in space.combinations():
        yield {name: space.axes[name][i] for name, i in zip(space.axes, places)}


def _replaced(value: Any, kind: Any, words: list[str], new: Any) -> Any:
    """Return a copy of a value, of a type as declared, in which a key that words lead to is new."""
    if not words:
        return new
    word, rest = words[0], words[1:]
    if get_origin(kind) is dict:
        return {**value, word: _replaced(value.get(word), get_args(kind)[1], rest, new)}
    kind = recipes.dataclass_of(kind)
    value = kind() if value is None else value
    inner = _replaced(getattr(value, word), kind.__dataclass_fields__[word].type, rest, new)
    return dataclasses.replace(value, **{word: inner})


def _bounds(key: str, given: Any) -> tuple[float, float]:
    if key not in CONSTRAINTS:
        raise unknown("constraint", key, CONSTRAINTS)
    try:
        least, most = typed(tuple[float, float], given if isinstance(given, list) else [0, given])
    except ValueError:
        least, most = math.inf, 0.0
    if least > most:
        raise ValueError(f"constraints: {key}: found {given!r}, expected the most, or [least, most]")
    return least, most


def axis_values(key: str, given: Any) -> list:
    """Return an axis' values from a list, {log: [lo, hi, n]} or {linear: [lo, hi, n]}.

    Raises ValueError, in one line, for an unknown key, a wrong type or a value that stands there twice.
    """
    if isinstance(given, dict) and len(given) == 1 and next(iter(given)) in ("log", "linear"):
        given = _spaced(key, *next(iter(given.items())))
    if not isinstance(given, list) or not given:
        raise ValueError(f"axes: {key}: found {given!r}, expected a list of values, {{log: [lo, hi, n]}} or "
                         f"{{linear: [lo, hi, n]}}")
    values = [_typed(key, value) for value in given]
    if key == "seed" and min(values) < 0:
        raise ValueError(f"axes: seed: found {min(values)}, expected at least 0")
    if again := [value for i, value in enumerate(values) if value in values[:i]]:
        raise ValueError(f"axes: {key}: found {again[0]!r} twice, expected once")
    return values


def _typed(key: str, value: Any) -> Any:
    """Return an axis' value as the recipe has it, or a run's seed."""
    kind = int if key == "seed" else recipes.type_of(key)
    if kind is None or recipes.dataclass_of(kind):
        raise unknown("axis", key, ["seed", *recipes.keys()])
    if key in ("model.scale", "groups"):
        raise ValueError(f"axes: {key}: settled as a recipe is read; give it in overrides, a sweep for each")
    try:
        return typed(kind, value)
    except ValueError as error:
        raise ValueError(f"axes: {key}: {error}") from None


def _spaced(key: str, spacing: str, ends: Any) -> list[float]:
    """Return n values from lo to hi, rounded to 3 significant digits: the same on every machine."""
    try:
        lo, hi, n = typed(tuple[float, float, int], ends)
    except ValueError:
        lo, hi, n = 0.0, 0.0, 0
    if not (lo < hi and 2 <= n <= 1000 and (lo > 0 or spacing == "linear")):
        raise ValueError(f"axes: {key}: {spacing}: found {ends!r}, expected [lo, hi, n]: 2 to 1000 values "
                         f"from lo up to hi{', lo > 0' if spacing == 'log' else ''}")
    values = (np.geomspace if spacing == "log" else np.linspace)(lo, hi, n)
    rounded = [float(f"{value:.3g}") for value in values]
    if len(set(rounded)) < n:
        raise ValueError(f"axes: {key}: {spacing}: found {ends!r}, whose values are equal to 3 digits; give "
                         f"fewer or a list")
    return [int(value) if value.is_integer() else value for value in rounded]
