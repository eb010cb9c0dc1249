"""What a stranger's file says, taken as values: one error, JSON, numbers, text fit for a terminal."""
import dataclasses
import html
import json
import math
import os
import re
from pathlib import Path
from typing import Any

DEPTH = 32  # of JSON; Python's own limit depends on how deep the caller stands


class ReadError(ValueError):
    """A file that is no log of format 1, or that is damaged; one line says where."""


class NoLog(ReadError):
    """A file that has no line of a run: below a folder it is passed over."""


def parse_json(text: str) -> dict[str, Any]:
    """Return a JSON object, raising ReadError for anything else, a bare NaN and a key given twice too."""
    try:
        value = json.loads(text, object_pairs_hook=_object, parse_constant=int)  # int: refuses a bare NaN
    except (ValueError, RecursionError) as error:
        raise ReadError(f"not JSON ({shown(str(error))})") from None
    if not isinstance(value, dict):
        raise ReadError(f"found JSON of type {type(value).__name__}, expected an object")
    level: list[Any] = [value]
    for _ in range(DEPTH):
        level = [inner for v in level if isinstance(v, (dict, list))
                 for inner in (v.values() if isinstance(v, dict) else v)]
    if level:
        raise ReadError(f"JSON nested deeper than {DEPTH}")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(fields := dict(pairs)) < len(pairs):
        raise ValueError("a key given twice")  # each reader might believe another of the two
    return fields


def need(fields: dict[str, Any], name: str, kind: type) -> Any:
    """Return a field that must be there and of that type."""
    value = fields.get(name)
    if type(value) is not kind:
        raise ReadError(f"field {name!r} is {shown(repr(value))}, expected {kind.__name__}")
    if kind is int and not -1 << 63 <= value < 1 << 63:  # beyond, it may be no float, nor be printed
        raise ReadError(f"field {name!r} has {value.bit_length()} bits, expected at most 63")
    return value


def number(value: Any) -> float:
    """Return a JSON number as a float; the log writes what is not finite as 'nan', 'inf' and '-inf'."""
    try:
        if isinstance(value, bool) or not isinstance(value, (int, float, str)):
            raise ValueError
        return float(value)
    except (ValueError, OverflowError):
        raise ReadError(f"found {shown(repr(value))}, expected a number") from None


def is_finite(value: float | None) -> bool:
    """Tell whether a number is there and finite."""
    return value is not None and math.isfinite(value)


def shown(text: str, most: int = 80) -> str:
    """Return a stranger's text for one line on a terminal: escapes visible, cut."""
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[:most + 1])
    return text if len(text) <= most else text[:most] + "..."


def cell(text: str) -> str:
    """Return a stranger's text for a cell of a Markdown table: no markup, no link, no HTML, one line."""
    text = html.escape(shown(text, 400))
    return re.sub(r"([\\`*_\[\]|~@#!])", r"\\\1", text).replace("://", ":&#47;&#47;")


def json_text(value: Any, indent: int | None = 1) -> str:
    """Return JSON with sorted keys and a last newline; numbers that are not finite are strings."""
    def finite(v: Any) -> Any:
        if dataclasses.is_dataclass(v):
            v = dataclasses.asdict(v)
        if isinstance(v, float) and not is_finite(v):
            return str(v)
        if isinstance(v, dict):
            return {str(k): finite(w) for k, w in v.items()}
        return [finite(w) for w in v] if isinstance(v, (list, tuple)) else v
    return json.dumps(finite(value), sort_keys=True, indent=indent, allow_nan=False) + "\n"


def canonical(value: Any) -> bytes:
    """Return JSON as the log writes it, of values without floats."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def write_whole(path: Path, data: bytes | str) -> None:
    """Write a file whole in place of the one before: aside, to disk, then renamed; a kill leaves either."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    with open(part, "wb") as file:
        file.write(data.encode() if isinstance(data, str) else data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)
