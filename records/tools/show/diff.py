"""Compares two logs, two records, or one with a script: code, settings, data, curves, speed, verdict."""
import argparse
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from records.tools.read.extract import unsafe
from records.tools.read.log import read_bytes
from records.tools.read.run import Run
from records.tools.read.values import ReadError, json_text, shown
from records.tools.show import differences as compare
from records.tools.show.differences import Row
from records.tools.show.group import Group, read_runs
from records.tools.show.source import FileDiff, add_lines, file_diffs, stat_lines

COLOURS = {"bold": "1", "dim": "2", "red": "31", "green": "32", "cyan": "36"}
SIGNS = {"-": "red", "+": "green", "@": "cyan"}  # first letters of a diff's lines
FACTS = ("hyperparameters", "environment", "data")
CURVE_ROWS = 12


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    what, add = "a log, the folder of a record, or a script (.py)", parser.add_argument
    add("a", metavar="A", type=Path, help=what)
    add("b", metavar="B", type=Path, help=what)
    add("--stat", action="store_true", help="count the lines that differ, do not show them")
    add("--harness", action="store_true", help="show the harness's files too")
    add("--json", action="store_true", help="print one JSON object")
    add("--color", choices=("auto", "always", "never"), default="auto")
    add("--no_pager", action="store_true", help="do not pass long text to $PAGER")


def main(arguments: argparse.Namespace) -> int:
    """Compare and print; return the exit code, 0 for compared."""
    paths = arguments.a, arguments.b
    loaded = [None if path.suffix == ".py" else load_group(path) for path in paths]
    found = report(*(group or script_group(path, other)
                     for path, group, other in zip(paths, loaded, loaded[::-1])))
    if arguments.json:
        print(json_text({**found, "code": [diff.facts for diff in found["code"]]}, None), end="")
        return 0
    coloured = arguments.color == "always" or (
        arguments.color == "auto" and sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        and os.environ.get("TERM") != "dumb")
    printer = Printer(coloured, shutil.get_terminal_size().columns, arguments.stat, arguments.harness)
    write("\n".join(printer.lines(found)) + "\n", sys.stdout.isatty() and not arguments.no_pager)
    return 0


def write(text: str, may_page: bool) -> None:
    """Write text to stdout, through git's choice of pager where it is longer than the screen."""
    pager = shlex.split(os.environ.get("PAGER", "less -FRX"))
    long = text.count("\n") >= shutil.get_terminal_size().lines
    encoding = sys.stdout.encoding or "utf-8"
    if may_page and long and pager and pager != ["cat"] and shutil.which(pager[0]):
        environment = {"LESS": "FRX", **os.environ}
        subprocess.run(pager, input=text, encoding=encoding, errors="backslashreplace", env=environment)
    else:
        sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))


def load_group(path: Path) -> Group:
    """Return the runs of a log or of a record's folder. Raises ReadError where there are none."""
    logs = path / "logs" if (path / "logs").is_dir() else path
    runs = read_runs([logs], once=False)
    return Group(shown(path.resolve().name, 60) if path.is_dir() else runs[0].name, runs)


def script_group(path: Path, other: Group | None) -> Group:
    """Return a script of the working tree, with those project files beside it that the other side carries."""
    roots = [folder for folder in path.resolve().parents if (folder / "harness").is_dir()][:1]
    files = {}
    for name in other.runs[0].files if other else ():
        found = [root / name for root in [*roots, path.resolve().parent] if (root / name).is_file()]
        if found and not unsafe(name):  # the name is a stranger's
            files[name] = read_bytes(found[0])
    return Group(shown(path.name, 60), [Run(path, 0, "script", code=read_bytes(path), files=files)], True)


def report(a: Group, b: Group) -> dict[str, Any]:
    """Return all that `--json` prints, dataclasses in it: what differs, curves, time and verdict."""
    sides = {"a": a, "b": b}
    found: dict[str, Any] = {name: {"name": group.name, "script": group.script,
                                    "finished": len(group.finished),
                                    "runs": [run.facts() for run in group.runs]}
                             for name, group in sides.items()}
    found |= {"code": file_diffs(a.runs[0], b.runs[0]), "code_error": None,
              "code_known": all(group.runs[0].code is not None for group in (a, b)),
              "mixed": [name.upper() for name, group in sides.items()
                        if len({(run.code, tuple(sorted(run.files.items()))) for run in group.runs}) > 1]}
    try:
        add_lines(found["code"])
    except ReadError as error:
        found["code_error"] = str(error)
    if a.script or b.script:
        return found
    found |= {name: compare.rows(getattr(compare, name), a, b) for name in FACTS}
    found["incomparable"] = compare.incomparable(a, b)
    if not found["incomparable"]:
        found |= {name: getattr(compare, name)(a, b) for name in ("curve", "equal_time", "verdict")}
    return {**found, "time": {name: compare.speed(group) for name, group in sides.items()}}


class Printer:
    """Writes a comparison as text for a terminal: coloured or not, width in columns."""

    def __init__(self, coloured: bool, width: int, stat: bool = False, harness: bool = False):
        self.coloured, self.width, self.stat, self.harness = coloured, max(width, 40), stat, harness

    def paint(self, text: str, colour: str | None) -> str:
        """Return text in a colour, where there are any."""
        return f"\x1b[{COLOURS[colour]}m{text}\x1b[m" if self.coloured and colour else text

    def cut(self, text: str, width: int | None = None) -> str:
        """Return text for one line of the terminal or of a column, ending in dots where it is too long."""
        width = width or self.width
        return shown(text, width if len(text) <= width else max(width - 3, 1))

    def lines(self, found: dict[str, Any]) -> Iterator[str]:
        """Yield the lines; a section in which nothing differs is left out."""
        parts = [name for name in ("code", *FACTS)
                 if any(name == "code" or row.a != row.b for row in found.get(name, []))]
        differ = f"differ in {', '.join(parts)}" if parts else "no difference in what both sides tell"
        losses = (found.get("verdict") or {}).get("difference")
        differ += "" if losses is None else f"; final loss B - A = {losses:+.4f}"
        yield self.paint(self.cut(differ), "bold")
        for name in ("a", "b"):
            yield self.cut(f"{name.upper()}  {group_line(found[name])}")
        yield from self.code(found)
        for name in FACTS:
            if found.get(name):
                yield from (*self.section(name), *self.facts(found[name]))
        if found["a"]["script"] or found["b"]["script"]:
            return
        yield from (*self.losses(found), *self.time(found["time"]), *self.section("verdict"),
                    " " + (found["incomparable"] or found["verdict"]["words"]))

    def section(self, name: str) -> list[str]:
        """Return an empty line and the name of a section."""
        return ["", self.paint(name, "bold")]

    def code(self, found: dict[str, Any]) -> Iterator[str]:
        """Yield the files that differ, as diffs or counted."""
        if not (found["code"] or found["mixed"] or not found["code_known"]):
            return
        diffs: list[FileDiff] = [diff for diff in found["code"] if self.harness or not diff.harness]
        yield from self.section("code")
        yield from (f" the runs of {name} differ in code; its first one is compared"
                    for name in found["mixed"])
        if not found["code_known"]:
            yield " unknown: a log without code"
        if found["code_error"]:
            yield f" {', '.join(diff.name for diff in diffs)}: {found['code_error']}"
        elif self.stat:
            yield from stat_lines(diffs, self.width, self.coloured)
        else:
            for diff in diffs:
                yield from (self.paint(line, "bold") for line in diff.lines[:2])
                yield from (self.paint(line, SIGNS.get(line[:1])) for line in diff.lines[2:])
        if hidden := len(found["code"]) - len(diffs):
            yield f" harness differs: {hidden} file{'s' * (hidden > 1)}; --harness shows them"

    def facts(self, rows: list[Row]) -> Iterator[str]:
        """Yield a table old -> new; facts that neither side tells stand in one last line."""
        cells = [[shown(row.name, 28), *("unknown" if value is None else value for value in (row.a, row.b))]
                 for row in rows if row.a is not None or row.b is not None]
        if cells:
            wide = max(len(row[0]) for row in cells)
            room = self.width - wide - 7
            b_wide = min(max(len(row[2]) for row in cells), room // 2)
            a_wide = min(max(len(row[1]) for row in cells), room - b_wide)
            for name, a, b in cells:
                old, new = f"{self.cut(a, a_wide):<{a_wide}}", self.cut(b, room - a_wide)
                yield f" {name:<{wide}}  {self.paint(old, 'red')} -> {self.paint(new, 'green')}"
        if rest := [row.name for row in rows if row.a is None and row.b is None]:
            yield self.cut(f" unknown on both sides: {', '.join(rest)}")

    def losses(self, found: dict[str, Any]) -> Iterator[str]:
        """Yield the losses at common steps and at equal training time, and where B is better."""
        for name, unit, title in (("curve", "step", "loss at common validated steps"),
                                  ("equal_time", "time_s", "loss at equal training time (s)")):
            points = found.get(name)
            if not points:
                continue
            yield from (*self.section(title), *(self.apart(found["time"]) if name == "equal_time" else ()))
            spread = any(p[sd] is not None for p in points for sd in ("a_sd", "b_sd"))
            heads = [unit.removesuffix("_s"), "A", "B", "B - A", *(["sd of A", "sd of B"] if spread else [])]
            yield self.paint("".join(f"{text:>10}" for text in heads), "dim")
            last = len(points) - 1
            kept = (points if last < CURVE_ROWS else
                    [points[round(i * last / (CURVE_ROWS - 1))] for i in range(CURVE_ROWS)])
            yield from (self.point(point, unit, spread) for point in kept)
            lower = [point["difference"] < 0 for point in points]
            since = next((point for i, point in enumerate(points) if all(lower[i:])), None)
            text = f" B is lower at {sum(lower)} of {len(points)}"
            yield text + (f", and at all from {since[unit]:g} on" if since else "")

    def point(self, point: dict[str, Any], unit: str, spread: bool) -> str:
        """Return one line of a table of losses."""
        difference = point["difference"]
        colour = "green" if difference < 0 else "red" if difference > 0 else None
        where = f"{point[unit]:>10.1f}" if unit == "time_s" else f"{point[unit]:>10}"
        sds = "".join(f"{'-' if sd is None else f'{sd:.4f}':>10}" for sd in (point["a_sd"], point["b_sd"]))
        return (f"{where}{point['a']:>10.4f}{point['b']:>10.4f}"
                + self.paint(f"{difference:>+10.4f}", colour) + (sds if spread else ""))

    def time(self, time: dict[str, Any]) -> Iterator[str]:
        """Yield time per step and in all."""
        yield from self.section("time")
        for title, key, unit in (("a step", "ms_per_step", "ms"), ("in all", "total_s", "s")):
            x, y = time["a"][key], time["b"][key]
            cells = ("unknown" if value is None else f"{value:.2f} {unit}" for value in (x, y))
            change = f"{y / x - 1:>+10.1%}" if x and y is not None else ""
            yield f" {title:<8}{''.join(f'{cell:>14}' for cell in cells)}{change}"
        yield f" a step: A {time['a']['found']}, B {time['b']['found']}"
        yield from self.apart(time)

    def apart(self, time: dict[str, Any]) -> Iterator[str]:
        """Yield a warning where not all runs say that they ran on the same kind of device."""
        devices = {*time["a"]["devices"], *time["b"]["devices"]}
        if len(devices) > 1 or devices == {"None"}:
            yield self.paint(" not on one device: these times do not compare", "red")


def group_line(head: dict[str, Any]) -> str:
    """Return what stands on a side, in one line."""
    if head["script"]:
        return f"{head['name']}  script of the working tree"
    runs = head["runs"]
    words = [head["name"], *({str(run["track"]) for run in runs} - {"None"})]
    if len(runs) == 1:
        [run] = runs
        words += [f"seed {run['seed']}"] if run["seed"] is not None else []
        words += [str(run["status"])] if run["status"] else []
        if run["val_loss"] is not None:
            words.append(f"{run['val_loss']:.4f} at {run['step']}/{run['steps'] or '?'}")
        return "  ".join(words)
    seeds = sorted({run["seed"] for run in runs if run["seed"] is not None})
    words.append(f"{len(runs)} runs, {head['finished']} finished")
    return "  ".join(words + [f"seeds {' '.join(map(str, seeds))}"] * bool(seeds))
