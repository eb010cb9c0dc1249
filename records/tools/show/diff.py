"""Compares two logs, two records, or one with a script: code, settings, data, curves, speed, verdict."""
import argparse
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from records.tools.read.extract import unsafe
from records.tools.read.log import read_bytes
from records.tools.read.logs import NAMES, locate
from records.tools.read.run import Run
from records.tools.read.same import kind
from records.tools.read.values import json_text, shown
from records.tools.show import compare
from records.tools.show.group import IN_TURNS, WINDOW, Group, places, read_runs
from records.tools.show.listing import columns
from records.tools.show.source import FileDiff, file_diffs

COLOURS = {"-": "31", "+": "32", "@": "36", "bold": "1"}  # of a diff's lines, by their first letter
ROWS = 12  # of a table of losses
SIDE = {"type": locate, "help": f"a log, a record or a script (.py): {NAMES}"}

ARGUMENTS = {
    "a": {"metavar": "A", **SIDE},
    "b": {"metavar": "B", **SIDE},
    "--stat": "count the lines that differ, do not show them",
    "--harness": "show the harness's files too",
    "--json": "print one JSON object",
    "--color": {"choices": ("auto", "always", "never"), "default": "auto",
                "help": "auto: on a terminal (default: %(default)s)"},
}


def main(arguments: argparse.Namespace) -> int:
    """Compare and print; return the exit code, 0 for compared."""
    paths = arguments.a, arguments.b
    loaded = [None if path.suffix == ".py" else load_group(path) for path in paths]
    found = report(*(group or script_group(path, other)
                     for path, group, other in zip(paths, loaded, loaded[::-1])))
    if arguments.json:
        print(json_text(found, None), end="")
        return 0
    coloured = arguments.color == "always" or (
        arguments.color == "auto" and sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        and os.environ.get("TERM") != "dumb")
    for line in lines(found, arguments.stat, arguments.harness):
        colour = COLOURS.get("bold" if line.startswith(("---", "+++")) else line[:1])
        print(f"\x1b[{colour}m{line}\x1b[m" if coloured and colour else line)
    return 0


def load_group(path: Path) -> Group:
    """Return the runs of a log or of a record's folder. Raises ReadError where there are none."""
    runs = read_runs([path], once=False)
    return Group(shown(path.resolve().name, 60) if path.is_dir() else runs[0].name, runs)


def script_group(path: Path, other: Group | None) -> Group:
    """Return a script of the working tree, with those project files beside it that the other side carries."""
    roots = [folder for folder in path.resolve().parents if (folder / "harness").is_dir()][:1]
    files = {}
    for name in other.runs[0].files if other else ():
        found = [root / name for root in [*roots, path.resolve().parent] if (root / name).is_file()]
        if found and not unsafe(name):  # the name is a stranger's
            files[name] = read_bytes(found[0])
    return Group(shown(path.name, 60), [Run(path, 0, "script", code=read_bytes(path), files=files)])


def report(a: Group, b: Group) -> dict[str, Any]:
    """Return all that `--json` prints, dataclasses in it: what differs, curves, time and verdict."""
    sides = {"a": a, "b": b}
    found: dict[str, Any] = {name: {"name": group.name, "script": group.script,
                                    "finished": len(group.finished),
                                    "runs": [run.facts() for run in group.runs]}
                             for name, group in sides.items()}
    found |= {"code": file_diffs(a.runs[0], b.runs[0]),
              "code_known": all(group.runs[0].code is not None for group in (a, b)),
              "mixed": [name.upper() for name, group in sides.items()
                        if len({run.code and kind(run)["code"] for run in group.runs}) > 1]}
    if a.script or b.script:
        return found
    found |= {**compare.differences(a, b), "incomparable": compare.incomparable(a, b),
              "time": {name: compare.speed(group) for name, group in sides.items()},
              "no_time": places([*a.runs, *b.runs])}
    if not found["incomparable"]:
        found |= {name: getattr(compare, name)(a, b) for name in ("equal", "at_equal_steps",
                                                                  "at_equal_times", "verdict")}
    return found


def lines(found: dict[str, Any], stat: bool = False, harness: bool = False) -> Iterator[str]:
    """Yield a comparison for people; a section in which nothing differs is left out.

    stat: count the lines of code that differ. harness: show its files too.
    """
    rows = {name: found.get(name, []) for name in ("settings", "environment", "data")}
    parts = ["code"] * bool(found["code"]) + [
        name for name, of_part in rows.items()
        if any(row["a"] != row["b"] and compare.UNKNOWN not in row.values() for row in of_part)]
    differ = f"differ in {', '.join(parts)}" if parts else "no difference in what both sides tell"
    losses = (found.get("verdict") or {}).get("difference")
    yield differ + ("" if losses is None else f"; final loss B - A = {losses:+.4f}")
    yield from (f"{name.upper()}  {side_line(found[name])}" for name in ("a", "b"))
    yield from found.get("equal", ())
    yield from code_lines(found, stat, harness)
    for name, of_part in rows.items():
        if of_part:
            yield from ("", name, *fact_lines(of_part))
    if found["a"]["script"] or found["b"]["script"]:
        return
    apart = f" times do not compare: {found['no_time']}" if found["no_time"] else f" times {IN_TURNS}"
    for name, title in (("at_equal_steps", "at equal steps"), ("at_equal_times", "at equal training time")):
        if (table := found.get(name)) and table["rows"]:
            yield from ("", *loss_lines(table, title), *[apart] * ("times" in name))
    yield from ("", "time", *time_lines(found["time"]), apart, "", "verdict",
                " " + (found["incomparable"] or found["verdict"]["words"]))


def side_line(side: dict[str, Any]) -> str:
    """Return what stands on a side, in one line."""
    runs = side["runs"]
    seeds = sorted({run["seed"] for run in runs if run["seed"] is not None})
    words = [side["name"], *sorted({str(run["track"]) for run in runs} - {"None"}),
             *["script of the working tree"] * side["script"],
             *[f"{len(runs)} runs, {side['finished']} finished"] * (len(runs) > 1),
             *[f"seeds {str(seeds)[1:-1]}"] * bool(seeds)]
    if len(runs) == 1 and runs[0]["val_loss"] is not None:
        words += [str(runs[0]["status"] or "ended as its log does not tell"),
                  "{val_loss:.4f} at {step}/{steps}".format(**runs[0])]
    return shown("  ".join(words), 200)


def code_lines(found: dict[str, Any], stat: bool, harness: bool) -> Iterator[str]:
    """Yield the files that differ, as diffs or counted."""
    if not (found["code"] or found["mixed"] or not found["code_known"]):
        return
    diffs: list[FileDiff] = [diff for diff in found["code"] if harness or not diff.harness]
    yield from ("", "code")
    yield from (f" the runs of {name} differ in code; its first one is compared" for name in found["mixed"])
    if not found["code_known"]:
        yield " unknown: a log without code"
    if stat:
        yield from columns([[diff.name, f"+{diff.added}", f"-{diff.removed}"] for diff in diffs], "<>>")
    else:
        yield from (line for diff in diffs for line in (*diff.head, *diff.lines))
    if hidden := len(found["code"]) - len(diffs):
        yield f" harness differs: {hidden} file{'s' * (hidden > 1)}; --harness shows them"


def fact_lines(rows: list[dict[str, str]]) -> Iterator[str]:
    """Yield a table old -> new; facts that not both sides tell stand in one last line."""
    known = [row for row in rows if compare.UNKNOWN not in (row["a"], row["b"])]
    cells = ([shown(row["name"], 28), shown(row["a"], 40), "->", shown(row["b"])] for row in known)
    yield from columns(cells, "<<<<")
    if rest := [row["name"] for row in rows if row not in known]:
        yield shown(f" not told by both sides: {', '.join(rest)}", 300)


def loss_lines(table: dict[str, Any], title: str) -> Iterator[str]:
    """Yield the losses of a table, at most ROWS of them, and where B is lower."""
    rows, unit = table["rows"], table["unit"]
    last = len(rows) - 1
    kept = rows if last < ROWS else [rows[round(i * last / (ROWS - 1))] for i in range(ROWS)]
    how = f" (mean of the {WINDOW} steps around)" if table["loss"] == "training" else ""
    digits = ".1f" if unit == "time_s" else "d"
    yield f"{table['loss']} loss {title}{how}"
    spread = any(row[sd] is not None for row in rows for sd in ("a_sd", "b_sd"))
    cells = [["time (s)" if unit == "time_s" else unit, "A", "B", "B - A", *["sd of A", "sd of B"] * spread]]
    for row in kept:
        sds = ("-" if row[sd] is None else f"{row[sd]:.4f}" for sd in ("a_sd", "b_sd"))
        cells.append([f"{row[unit]:{digits}}", f"{row['a']:.4f}", f"{row['b']:.4f}",
                      f"{row['difference']:+.4f}", *list(sds) * spread])
    yield from columns(cells, ">" * len(cells[0]))
    lower = [row["difference"] < 0 for row in rows]
    since = next((row for i, row in enumerate(rows) if all(lower[i:])), None)
    text = f" B is lower at {sum(lower)} of {len(rows)}"
    yield text + (f", and at all from {since[unit]:{digits}} on" if since else "")


def time_lines(time: dict[str, Any]) -> Iterable[str]:
    """Yield time per step and in all."""
    cells = []
    for title, key, unit in (("a step from the first validation on", "ms_per_step", "ms"),
                             ("in all", "total_s", "s")):
        x, y = time["a"][key], time["b"][key]
        cells.append([title, *("unknown" if value is None else f"{value:.2f} {unit}" for value in (x, y)),
                      f"{y / x - 1:+.1%}" if x and y is not None else ""])
    yield from columns(cells, "<>>>")
