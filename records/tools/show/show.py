"""Shows one run whole: what ran, on what, how the loss fell, how it ended."""
import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from records.tools.read.log import sha256
from records.tools.read.logs import LOG, load_runs, log_of
from records.tools.read.run import Run
from records.tools.read.values import ReadError, is_finite, json_text, number, shown
from records.tools.show.listing import columns, duration

END = ("status", "step", "val_loss", "bits_per_byte", "weights", "weights_sha256", "state_sha256", "rank",
       "type", "message", "signal", "ranks")  # what is shown of the end line
MOST = 60  # lines of one part; a log may hold a million


ARGUMENTS = {
    "log": LOG,
    "--trial": {"metavar": "N", "type": int, "help": "which, from 0, of a file that holds several"},
    "--json": "print one JSON object, with every validation",
}


def main(arguments: argparse.Namespace) -> int:
    """Show a run; return the exit code."""
    runs = load_runs(log_of(arguments.log))
    if not 0 <= (arguments.trial or 0) < len(runs):
        raise ReadError(f"{runs[0].name}: no run {arguments.trial}, expected one of 0 to {len(runs) - 1}")
    run = runs[arguments.trial or 0]
    if arguments.json:
        sys.stdout.write(json_text(whole(run)))
        return 0
    if len(runs) > 1 and arguments.trial is None:
        print(f"records show: run 0 of {len(runs)}; --trial N shows another", file=sys.stderr)
    print(*page(run), sep="\n")
    return 0


def whole(run: Run) -> dict[str, Any]:
    """Return what `show --json` prints."""
    return {**run.facts(), "target": run.log and run.log.track.get("target"), "script": run.at("script"),
            "harness": run.at("code", "harness"), "parameters": run.mapping("parameters"),
            "peak_memory_mib": run.peak_memory_mib, "versions": run.versions,
            "hyperparameters": run.hyperparameters,
            "files": {path: sha256(source) for path, source in run.files.items()},
            "vals": [{"step": point.step, "val_loss": point.loss, "tokens": point.tokens,
                      "train_time_ms": point.time_ms} for point in run.vals], "warnings": warnings(run)}


def page(run: Run) -> Iterator[str]:
    """Yield the lines that show a run."""
    facts = whole(run)
    yield from (line[2:] for line in pairs({name: fact for name, fact in facts.items()
                                            if fact is not None and not isinstance(fact, (dict, list))}))
    for name in ("parameters", "versions", "hyperparameters", "overrides"):
        yield from part(name, pairs(facts[name]))
    yield from part("files", (f"  {digest[:8]}  {shown(path, 100)}"
                              for path, digest in sorted(facts["files"].items())))
    for name in ("data", "sys", "git", "launch", "calibration"):
        yield from part(name, pairs(run.mapping(name)))
    yield from part("validations", validations(run))
    yield from part("scalars", scalars(run))
    if run.log:
        yield from part("text", (f"  {shown(line, 200)}" for line in run.log.text))
    yield from part("end", end(run))
    yield from part("warnings", (f"  {line}" for line in warnings(run)))


def part(title: str, lines: Iterable[str]) -> Iterator[str]:
    """Yield a blank line, a title and lines, at most MOST of them; nothing where there is none."""
    lines = iter(lines)
    if first := list(islice(lines, MOST)):
        yield from ("", title, *first)
    if more := sum(1 for _ in lines):
        yield f"  ... {more} more"


def pairs(facts: dict[str, Any]) -> Iterator[str]:
    """Yield a line for each name and value."""
    for name, value in facts.items():
        text = value if isinstance(value, str) else json.dumps(value)
        yield f"  {shown(name, 40):<24}  {shown(text, 200)}"


def validations(run: Run) -> Iterator[str]:
    """Yield the table of validations, with as many digits as the log has."""
    digits = None if run.val_decimals is None else min(run.val_decimals, 15)
    rows = [["step", "val_loss", "tokens", "time"]]
    for point in run.vals:
        value = repr(point.loss) if digits is None else f"{point.loss:.{digits}f}"
        tokens = "-" if point.tokens is None else str(point.tokens)
        rows.append([str(point.step), value, tokens, duration(point.time_ms) or "-"])
    yield from columns(rows, ">>>>") if run.vals else ()


def scalars(run: Run) -> Iterator[str]:
    """Yield for each scalar that the submission logged: how often, first, last, lowest, highest."""
    found: dict[str, list[float]] = {}
    for fields in run.of_kind("scalar"):
        for name, value in fields.items():
            if name not in ("seq", "step") and isinstance(value, (int, float, str)):
                found.setdefault(name, []).append(number(value))
    for name, values in sorted(found.items()):
        yield (f"  {shown(name, 40):<24}  {len(values)} times, first {values[0]:.6g}, last {values[-1]:.6g}, "
               f"lowest {min(values):.6g}, highest {max(values):.6g}")


def end(run: Run) -> Iterator[str]:
    """Yield how the run ended, and where its wall time went."""
    facts = run.end
    yield from pairs({name: facts[name] for name in END if name in facts})
    yield from (f"    {shown(line, 200)}" for line in str(facts.get("traceback", "")).splitlines())
    wall = facts.get("wall_ns")
    for name in ("wall", "timed", "setup", "warmup", "validation", "checkpoint", "unexplained"):
        ns = facts.get(f"{name}_ns")
        if isinstance(ns, int) and isinstance(wall, int) and abs(ns) < 1 << 63 and 0 < wall < 1 << 63:
            yield f"  {name:<24}  {ns / 1e9:10.3f} s  {100 * ns / wall:5.1f} %"


def warnings(run: Run) -> list[str]:
    """Return what a reader of the run must know before trusting its numbers."""
    found, last = [], run.last
    if last is None:
        found.append("no validation")
    elif not is_finite(last.loss):
        found.append(f"the last loss is {last.loss}")
    if last and run.steps is not None and last.step != run.steps:
        found.append(f"the last validation is of step {last.step}, the run was to take {run.steps}")
    if run.log is None:
        return found
    if not run.end:
        found.append("incomplete: there is no end line; the run was killed, or the log was cut off")
    elif run.status != "ok":
        found.append(f"status {shown(run.status or '')}")
    if run.end.get("type") == "Tripwire":
        found.append(f"tripwire: {shown(str(run.end.get('message')), 200)}")
    found += [f"late: {shown(str(fields.get('path')))} was loaded after the start"
              for fields in run.of_kind("late")]
    if overrides := run.mapping("overrides"):
        found.append(f"{len(overrides)} hyperparameters were overridden on the command line")
    if run.at("resumed_from"):
        found.append("resumed from a checkpoint")
    if settings := run.at("sys", "settings"):
        found.append(f"settings that are not torch's defaults: {shown(json.dumps(settings), 200)}")
    return found
