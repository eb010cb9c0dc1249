"""A comparison as text for a terminal."""
import math
from collections.abc import Iterator
from typing import Any

from records.tools.show.differences import FileDiff, Row
from records.tools.read.values import shown

COLOURS = {"bold": "1", "dim": "2", "red": "31", "green": "32", "cyan": "36"}
CURVE_ROWS = 12


class Page:
    """A comparison as text for a terminal: coloured or not, width in columns."""

    def __init__(self, coloured: bool, width: int, stat: bool = False, harness: bool = False):
        self.coloured, self.width, self.stat, self.harness = coloured, max(width, 40), stat, harness

    def paint(self, text: str, *colours: str) -> str:
        """Return text in colours, where there are any."""
        if not self.coloured or not colours:
            return text
        return f"\x1b[{';'.join(COLOURS[colour] for colour in colours)}m{text}\x1b[m"

    def cut(self, text: str, width: int | None = None) -> str:
        """Return text for one line of the terminal or of a column, ending in dots where it is too long."""
        width = width or self.width
        return shown(text, width if len(text) <= width else max(width - 3, 1))

    def lines(self, found: dict[str, Any]) -> Iterator[str]:
        """Yield the lines; a section in which nothing differs is left out."""
        yield self.paint(self.cut(summary(found)), "bold")
        for side in ("a", "b"):
            yield self.cut(f"{side.upper()}  {who(found[side])}")
        yield from self.code(found)
        for name in ("hyperparameters", "environment", "data"):
            if found.get(name):
                yield from self.section(name)
                yield from self.facts(found[name])
        if found["a"]["script"] or found["b"]["script"]:
            return
        yield from self.losses(found)
        yield from self.time(found["time"])
        yield from self.section("verdict")
        yield " " + (found["incomparable"] or found["verdict"]["words"])

    def section(self, name: str) -> list[str]:
        """Return an empty line and the name of a section."""
        return ["", self.paint(name, "bold")]

    def code(self, found: dict[str, Any]) -> Iterator[str]:
        """Yield the files that differ, as diffs or counted."""
        shown_diffs = [d for d in found["code"] if self.harness or not d.harness]
        hidden = len(found["code"]) - len(shown_diffs)
        if not (found["code"] or found["mixed"] or not found["code_known"]):
            return
        yield from self.section("code")
        for name in found["mixed"]:
            yield f" the runs of {name} differ in code; its first one is compared"
        if not found["code_known"]:
            yield " unknown: a log without code"
        if self.stat:
            yield from self.counts(shown_diffs)
        else:
            for diff in shown_diffs:
                yield from map(self.code_line, diff.lines)
        if hidden:
            yield f" harness differs: {hidden} file{'s' * (hidden > 1)}; --harness shows them"

    def code_line(self, line: str) -> str:
        """Return one line of a unified diff."""
        colour = {"-": ["red"], "+": ["green"], "@": ["cyan"]}.get(line[:1], [])
        if line.startswith(("--- a/", "--- none", "+++ b/", "+++ none")):
            colour = ["bold"]
        return self.paint(shown(line.expandtabs(4), 1000), *colour)

    def counts(self, diffs: list[FileDiff]) -> Iterator[str]:
        """Yield name | number +++--- of each file, and their sum."""
        if not diffs:
            return
        names = [shown(d.b or "" if d.a in (d.b, None) else f"{d.a} => {d.b or 'none'}", self.width // 2)
                 for d in diffs]
        wide, digits = max(map(len, names)), len(str(max(d.added + d.removed for d in diffs)))
        room = max(self.width - wide - digits - 6, 5)
        scale = min(1.0, room / max(1, *(d.added + d.removed for d in diffs)))
        for name, d in zip(names, diffs):
            plus, minus = (math.ceil(n * scale) for n in (d.added, d.removed))
            graph = self.paint("+" * plus, "green") + self.paint("-" * min(minus, room - plus), "red")
            yield f" {name:<{wide}} | {d.added + d.removed:>{digits}} {graph}"
        yield (f" {len(diffs)} file{'s' * (len(diffs) > 1)} differ{'s' * (len(diffs) == 1)}, "
               f"{sum(d.added for d in diffs)} lines added (+), {sum(d.removed for d in diffs)} removed (-)")

    def facts(self, rows: list[Row]) -> Iterator[str]:
        """Yield a table old -> new; facts that neither side tells stand in one last line."""
        told = [row for row in rows if row.a is not None or row.b is not None]
        cells = [[shown(row.name, 28), *("unknown" if value is None else value for value in (row.a, row.b))]
                 for row in told]
        if cells:
            wide = max(len(row[0]) for row in cells)
            room = self.width - wide - 7
            b_wide = min(max(len(row[2]) for row in cells), room // 2)
            a_wide = min(max(len(row[1]) for row in cells), room - b_wide)
            for name, a, b in cells:
                old, new = f"{self.cut(a, a_wide):<{a_wide}}", self.cut(b, room - a_wide)
                yield f" {name:<{wide}}  {self.paint(old, 'red')} -> {self.paint(new, 'green')}"
        if rest := [row.name for row in rows if row not in told]:
            yield self.cut(f" unknown on both sides: {', '.join(rest)}")

    def losses(self, found: dict[str, Any]) -> Iterator[str]:
        """Yield the losses at common steps and at equal training time, and where B is better."""
        for name, unit, title in (("curve", "step", "loss at common validated steps"),
                                  ("equal_time", "time_s", "loss at equal training time (s)")):
            points = found.get(name) or []
            if not points:
                continue
            yield from self.section(title)
            if name == "equal_time" and not one_device(found["time"]):
                yield self.paint(" not on one device: these times do not compare", "red")
            spread = any(p[sd] is not None for p in points for sd in ("a_sd", "b_sd"))
            heads = [unit.removesuffix("_s"), "A", "B", "B - A", *(["sd of A", "sd of B"] if spread else [])]
            yield self.paint("".join(f"{text:>10}" for text in heads), "dim")
            for point in evenly(points, CURVE_ROWS):
                yield self.point(point, unit, spread)
            better = [p for p in points if p["difference"] < 0]
            since = next((i for i in range(len(points)) if all(p in better for p in points[i:])), None)
            text = f" B is lower at {len(better)} of {len(points)}"
            yield text + ("" if since is None else f", and at all from {points[since][unit]:g} on")

    def point(self, point: dict[str, Any], unit: str, spread: bool) -> str:
        """Return one line of a table of losses."""
        difference = point["difference"]
        colour = ["green"] if difference < 0 else ["red"] if difference > 0 else []
        where = f"{point[unit]:>10.1f}" if unit == "time_s" else f"{point[unit]:>10}"
        sds = "".join(f"{'-' if sd is None else f'{sd:.4f}':>10}" for sd in (point["a_sd"], point["b_sd"]))
        return (f"{where}{point['a']:>10.4f}{point['b']:>10.4f}"
                + self.paint(f"{difference:>+10.4f}", *colour) + (sds if spread else ""))

    def time(self, time: dict[str, Any]) -> Iterator[str]:
        """Yield time per step and in all."""
        a, b = time["a"], time["b"]
        yield from self.section("time")
        for title, key, unit in (("a step", "ms_per_step", "ms"), ("in all", "total_s", "s")):
            x, y = a[key], b[key]
            told = [title, *("unknown" if v is None else f"{v:.2f} {unit}" for v in (x, y))]
            change = f"{y / x - 1:>+10.1%}" if x and y is not None else ""
            yield f" {told[0]:<8}{told[1]:>14}{told[2]:>14}{change}"
        yield f" a step: A {a['found']}, B {b['found']}"
        if not one_device(time):
            yield self.paint(" not on one device: these times do not compare", "red")


def summary(found: dict[str, Any]) -> str:
    """Return the comparison in one line."""
    parts = [name for name in ("code", "hyperparameters", "environment", "data")
             if any(name == "code" or row.a != row.b for row in found.get(name) or [])]
    differ = f"differ in {', '.join(parts)}" if parts else "no difference in what both sides tell"
    losses = (found.get("verdict") or {}).get("difference")
    return differ if losses is None else f"{differ}; final loss B - A = {losses:+.4f}"


def who(head: dict[str, Any]) -> str:
    """Return who a side is, in one line."""
    runs = head["runs"]
    if head["script"]:
        return f"{head['name']}  script of the working tree"
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


def one_device(time: dict[str, Any]) -> bool:
    """Tell whether all runs say that they ran on the same kind of device."""
    devices = {*time["a"]["devices"], *time["b"]["devices"]}
    return len(devices) == 1 and devices != {"None"}


def evenly(points: list[Any], most: int) -> list[Any]:
    """Return at most so many points, first and last among them."""
    if len(points) <= most:
        return points
    return [points[round(i * (len(points) - 1) / (most - 1))] for i in range(most)]
