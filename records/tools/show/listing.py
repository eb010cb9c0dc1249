"""Lists runs, one line a run."""
import argparse
import math
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from records.tools.check.significance import Test
from records.tools.read.logs import LOGS, find_logs, load_runs
from records.tools.read.values import NoLog, ReadError, json_text, shown

HEAD = ["status", "track", "step", "val_loss", "time", "seed", "code", "device", "file",
        "name, overrides, note"]

ARGUMENTS = {
    "logs": LOGS,
    "--track": {"metavar": "NAME", "help": "list the runs of this track alone"},
    "--json": "print a JSON array with all facts of each run",
}


def main(arguments: argparse.Namespace) -> int:
    """List runs; return the exit code: 2 where a file that was named is no log."""
    rows: list[dict[str, Any]] = []
    code, paths = 0, list(find_logs(arguments.logs))
    if not paths:
        raise ReadError(f"{shown(', '.join(map(str, arguments.logs)))}: no logs there")
    for path in paths:
        try:
            rows += [run.facts() for run in load_runs(path) if arguments.track in (None, run.track)]
        except ReadError as error:
            named = path in arguments.logs
            if named or not isinstance(error, NoLog):
                print(f"records list: {error}", file=sys.stderr)
            code = 2 if named else code
    if arguments.json:
        print(json_text(rows), end="")
    elif rows or not code:
        print(*(line[1:] for line in columns([HEAD, *map(line_of, rows)], "<<>>>><<<<")), sep="\n")
    return code


def line_of(facts: dict[str, Any]) -> list[str]:
    """Return the columns of a run: what its log lacks is a dash."""
    step, steps = facts["step"], facts["steps"]
    file = facts["file"] + (f"#{facts['trial']}" if facts["trial"] else "")
    cells = [facts["status"], facts["track"], step if step == steps or steps is None else f"{step}/{steps}",
             loss(facts["val_loss"]), duration(facts["train_time_ms"]), facts["seed"],
             facts["code"] and str(facts["code"])[:8], facts["device"]]
    note = facts["note"] and f"({facts['note']})"
    changes = (f"{name}={value}" for name, value in facts["overrides"].items())
    words = shown(" ".join(str(word) for word in (facts["name"], *changes, note) if word))
    return [*("-" if cell is None else shown(str(cell), 40) for cell in cells), shown(file, 300), words]


def loss(value: float | None) -> str | None:
    """Return a loss as a table shows it."""
    return None if value is None else f"{value:.5f}" if abs(value) < 1e6 else f"{value:.6g}"


def duration(ms: float | None) -> str | None:
    """Return a training time in seconds as a table shows it."""
    return None if ms is None else f"{ms / 1000:.1f} s" if math.isfinite(ms) else str(ms)


def columns(rows: Iterable[list[str]], sides: str) -> Iterator[str]:
    """Yield rows as lines, a space before each, every column as wide as its widest cell.

    sides: < or > for each column, the side on which its cells stand.
    """
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        cells = (f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths))
        yield f" {'  '.join(cells)}".rstrip()


def report_lines(report: dict[str, Any], above: str = "") -> str:
    """Return a report for people, a line for each value below the name of its part, a part's verdict last."""
    lines = []
    for name, value in report.items():
        label = f"{above}{name}".replace("_", " ")
        if isinstance(value, dict):
            lines.append(report_lines(value, f"{label} "))
        elif isinstance(value, Test):
            sd = "" if value.sd is None else f", sd {value.sd:.3g}"
            numbers = ("no spread, no p" if value.degenerate else
                       f"t {value.t:.4g}, df {value.df:.4g}, p {value.p:.3g}")
            lines.append(f"{label:<28}  mean {value.mean:.7g}{sd}, {numbers}, {value.n} values\n")
        elif name == "notes":
            lines += [f"note: {note}\n" for note in value]
        elif value is not None and name not in ("word", "reason"):
            value = len(value) if isinstance(value, list) else value
            text = f"{value:.7g}" if isinstance(value, float) else value
            lines.append(f"{label:<28}  {text}\n")
    return "".join(lines) + (f"{report['word']}: {report['reason']}\n" if "word" in report else "")
