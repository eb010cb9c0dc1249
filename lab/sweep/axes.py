"""Axes: the values that a space names for one key of the recipe, typed as the recipe has them."""
import difflib
from typing import Any, get_args, get_origin

from jsonargparse import ArgumentError, ArgumentParser

from lab.recipe import load as recipes
from lab.recipe.schema import Recipe


def axis_values(key: str, given: Any) -> list:
    """Return an axis' values from a list, {log: [lo, hi, n]} or {linear: [lo, hi, n]}.

    Raises ValueError, in one line, for an unknown key, a wrong type or a value that stands there twice.
    """
    kind = kind_of(key)
    if isinstance(given, dict) and len(given) == 1 and next(iter(given)) in ("log", "linear"):
        given = _spaced(key, *next(iter(given.items())))
    if not isinstance(given, list) or not given:
        raise ValueError(f"axes: {key}: found {given!r}, expected a list of values, {{log: [lo, hi, n]}} or "
                         f"{{linear: [lo, hi, n]}}")
    values = [typed(key, kind, value) for value in given]
    if key == "seed" and min(values) < 0:
        raise ValueError(f"axes: seed: found {min(values)}, expected at least 0")
    if again := [value for i, value in enumerate(values) if value in values[:i]]:
        raise ValueError(f"axes: {key}: found {again[0]!r} twice, expected once")
    return values


def kind_of(key: str) -> Any:
    """Return the type of an axis' values: the recipe's, or a run's seed."""
    return int if key == "seed" else _type_of(key)


def _type_of(key: str) -> Any:
    """Return the type of a recipe's value. Raises ValueError, naming the closest, for an unknown key."""
    kind = Recipe
    for word in key.split("."):
        if get_origin(kind) is dict:
            kind = get_args(kind)[1]
        else:
            fields = getattr(recipes.dataclass_of(kind), "__dataclass_fields__", {})
            kind = fields[word].type if word in fields else None
    if kind is None or recipes.dataclass_of(kind):
        check_known(key, ["seed", *recipes.keys()], "axis")
    return kind


def _spaced(key: str, spacing: str, ends: Any) -> list[float]:
    """Return n values from lo to hi, rounded to 3 significant digits: the same on every machine."""
    numbers = [number(end) for end in ends] if isinstance(ends, list) else []
    if len(numbers) != 3 or not all(isinstance(x, (int, float)) for x in numbers) or not (
            numbers[0] < numbers[1] and numbers[2] >= 2 and numbers[2] == int(numbers[2])
            and numbers[2] <= 1000 and (numbers[0] > 0 or spacing == "linear")):
        raise ValueError(f"axes: {key}: {spacing}: found {ends!r}, expected [lo, hi, n]: 2 to 1000 values "
                         f"from lo up to hi{', lo > 0' if spacing == 'log' else ''}")
    lo, hi, n = numbers
    shares = [i / (int(n) - 1) for i in range(int(n))]
    values = [lo * (hi / lo) ** s if spacing == "log" else lo + (hi - lo) * s for s in shares]
    rounded = [float(f"{value:.3g}") for value in values]
    if len(set(rounded)) < n:
        raise ValueError(f"axes: {key}: {spacing}: found {ends!r}, whose values are equal to 3 digits; give "
                         f"fewer or a list")
    return [int(value) if value.is_integer() else value for value in rounded]


def typed(key: str, kind: Any, value: Any) -> Any:
    """Return a value as the recipe's key has it: 1e-3, which YAML takes for text, is a number there."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=kind)
    try:
        return parser.parse_object({"value": value}).value
    except (ArgumentError, ValueError, TypeError):
        name = str(kind).replace("typing.", "") if get_args(kind) else kind.__name__
        raise ValueError(f"axes: {key}: found {value!r}, expected {name}") from None


def number(value: Any) -> Any:
    """Return text such as 1e17, which YAML 1.1 takes for text, as a number; anything else as it is."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def check_known(key: Any, names: Any, what: str) -> None:
    """Raise ValueError, naming the closest, for a key that is none of some names."""
    if key not in names:
        close = difflib.get_close_matches(str(key), names, 1, 0)
        raise ValueError(f"unknown {what} {key}; the closest is {close[0]}")
