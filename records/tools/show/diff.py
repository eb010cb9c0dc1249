"""Compares two logs, two records, or one with a script: code, settings, data, curves, speed, verdict."""
import argparse
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from records.tools.show import differences as compare
from records.tools.show.differences import Side
from records.tools.show.diff_text import Page
from records.tools.read.values import json_text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    what = "a log, the folder of a record, or a script (.py)"
    parser.add_argument("a", metavar="A", type=Path, help=what)
    parser.add_argument("b", metavar="B", type=Path, help=what)
    parser.add_argument("--stat", action="store_true", help="count the lines that differ, do not show them")
    parser.add_argument("--harness", action="store_true", help="show the harness's files too")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--color", choices=("auto", "always", "never"), default="auto")
    parser.add_argument("--no_pager", action="store_true", help="do not pass long text to $PAGER")


def main(arguments: argparse.Namespace) -> int:
    """Compare and print; return the exit code, 0 for compared."""
    paths = arguments.a, arguments.b
    loaded = [None if path.suffix == ".py" else compare.load_side(path) for path in paths]
    a, b = (side or compare.script_side(path, other)
            for path, side, other in zip(paths, loaded, loaded[::-1]))
    found = report(a, b)
    if arguments.json:
        print(json_text(found, None), end="")
        return 0
    coloured = arguments.color == "always" or (
        arguments.color == "auto" and sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        and os.environ.get("TERM") != "dumb")
    page = Page(coloured, shutil.get_terminal_size().columns, arguments.stat, arguments.harness)
    put("\n".join(page.lines(found)) + "\n", sys.stdout.isatty() and not arguments.no_pager)
    return 0


def put(text: str, may_page: bool) -> None:
    """Write text to stdout, through git's choice of pager where it is longer than the screen."""
    pager = shlex.split(os.environ.get("PAGER", "less -FRX"))
    long = text.count("\n") >= shutil.get_terminal_size().lines
    encoding = sys.stdout.encoding or "utf-8"
    if may_page and long and pager and pager != ["cat"] and shutil.which(pager[0]):
        environment = {"LESS": "FRX", **os.environ}
        subprocess.run(pager, input=text, encoding=encoding, errors="backslashreplace", env=environment)
    else:
        sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))


def report(a: Side, b: Side) -> dict[str, Any]:
    """Return all that `--json` prints, dataclasses in it: what differs, curves, time and verdict."""
    found: dict[str, Any] = {"a": head(a), "b": head(b), "code": compare.code(a, b)}
    found["code_known"] = all(side.runs[0].code is not None for side in (a, b))
    found["mixed"] = [name for name, side in (("A", a), ("B", b))
                      if len({(t.code, tuple(sorted(t.files.items()))) for t in side.runs}) > 1]
    if a.script or b.script:
        return found
    for name in ("hyperparameters", "environment", "data"):
        found[name] = compare.rows(getattr(compare, name), a, b)
    found["incomparable"] = compare.incomparable(a, b)
    if not found["incomparable"]:
        found |= {"curve": compare.curve(a, b), "equal_time": compare.equal_time(a, b)}
        found["verdict"] = verdict(a, b)
    found["time"] = {"a": compare.speed(a), "b": compare.speed(b)}
    return found


def head(side: Side) -> dict[str, Any]:
    """Return who a side is: name, track, runs, seeds, how the runs ended, loss and time of each."""
    facts = [run.facts() for run in side.runs]
    return {"name": side.name, "script": side.script, "finished": len(side.finished), "runs": facts}


def verdict(a: Side, b: Side) -> dict[str, Any]:
    """Return what the final losses say: paired where both sides ran the same seeds, else Welch's test."""
    (a_step, x), (b_step, y) = compare.finals(a), compare.finals(b)
    found: dict[str, Any] = {"a_step": a_step, "b_step": b_step, "a_seeds": len(x), "b_seeds": len(y),
                             "difference": None}
    lost = [f"{len(side.runs) - len(side.finished)} of {len(side.runs)} runs of {name}"
            for name, side in (("A", a), ("B", b)) if 0 < len(side.finished) < len(side.runs)]
    if lost:  # dropping them would be a choice after the fact
        return {**found, "words": f"{' and '.join(lost)} did not end in order with a finite loss: no test"}
    if not x or not y:
        return {**found, "words": "no finished run with a finite loss on one side: nothing to test"}
    difference = sum(y.values()) / len(y) - sum(x.values()) / len(x)
    found["difference"] = difference
    lead = f"B - A = {difference:+.5f}"
    lead += "" if a_step == b_step else f" (B after {b_step} steps, A after {a_step})"
    if len(x) < 2 or len(y) < 2:
        sd = compare.RUN_TO_RUN_SD.get(str(a.runs[0].track))
        found["in_sd"] = difference / sd if sd else None
        known = f", {difference / sd:+.1f} times the known run-to-run sd {sd}" if sd else ""
        single = len(x) == len(y) == 1
        return {**found, "words": f"{lead}{known}; " + (
            "one run against one run decides nothing" if single else "a side of one seed decides nothing")}
    try:
        from records.tools.check.significance import ALPHA, differences, paired, welch
    except ImportError as error:
        return {**found, "words": f"{lead}; no test: {error}; pip install -r records/requirements.txt"}
    same = x.keys() == y.keys() and all(isinstance(seed, int) for seed in x)
    lower, higher = ((paired(differences([new[s] for s in x], [old[s] for s in x])) if same
                      else welch(list(new.values()), list(old.values()))) for new, old in ((y, x), (x, y)))
    name = f"paired over {len(x)} seeds" if same else f"Welch, {len(y)} and {len(x)} seeds"
    found |= {"test": name, "t": lower.t, "df": lower.df, "p_b_lower": lower.p, "p_b_higher": higher.p}
    if lower.degenerate:
        return {**found, "words": f"{lead}; the runs do not spread, so there is no test"}
    word, p = ("lower", lower.p) if difference < 0 else ("higher", higher.p)
    says = f"B is {word}" if p < ALPHA else "no difference shown"
    return {**found, "words": f"{lead}: {says} ({name}: one-sided p {p:.2g}, wanted below {ALPHA})"}
