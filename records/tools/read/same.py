"""Which runs are of one script, which are one run told twice, which loss and step of a public run count."""
import dataclasses
import hashlib
import re
from typing import Any

from records.tools.read.run import Run
from records.tools.read.values import ReadError, shown

LOSS = "val_loss"
# public scripts that differ in these alone are one: the seed, and under which name the log is kept
NAMES = re.compile(rb"""(?im)^([ \t]*seed[ \t]*=[ \t]*)\d+"""
                   rb"""|^([ \t]*(?:run_id(?::[ \t]*str)?[ \t]*=|logfile[ \t]*=[ \t]*f?|"""
                   rb"""os\.makedirs\()[ \t]*)["'][^"'\n]*["']""")


def kind(run: Run) -> dict[str, Any]:
    """Return what runs must share to be seeds of one another; a log without code is like no other."""
    if run.log:
        if not run.log.manifest:
            raise ReadError(f"{run.name}: cut off above its manifest; what it ran is unknown")
        code = run.at("code", "digest")
    elif run.code is None:
        code = f"{run.path}#{run.index}"
    else:
        sources = [run.code, *(source for _, source in sorted(run.files.items()))]
        bare = (NAMES.sub(lambda found: found[1] or found[2], source) for source in sources)
        code = hashlib.sha256(b"\0".join(bare)).hexdigest()
    return {"track": run.track, "code": code, "hyperparameters": run.hyperparameters,
            "reduction": run.at("reduction")}


def choose(runs: list[Run], loss: str | None = None, step: int | None = None) -> tuple[list[Run], list[str]]:
    """Return public runs up to a step, with another loss of their validation lines in its place, and notes.

    Raises ReadError where no line has that loss, or that step.
    """
    names = {name: None for run in runs for point in run.vals for name, _ in point.others}
    there = shown(", ".join([LOSS, *names]), 200)
    notes = [f"validation lines hold {there}; judged is {loss or LOSS}, --loss NAME "
             f"judges another"] if names else []
    if loss not in (None, LOSS, *names):
        raise ReadError(f"no validation line has {shown(loss)}; there are {there}")
    found = []
    for run in runs:
        points = [p for p in run.vals if step is None or p.step <= step]
        if loss not in (None, LOSS):
            points = [dataclasses.replace(p, loss=value) for p in points for name, value in p.others
                      if name == loss]
        train = [p for p in run.train if step is None or p.step <= step]
        found.append(dataclasses.replace(run, vals=points, train=train))
    if step is not None and not any(run.last and run.last.step == step for run in found):
        raise ReadError(f"no run has a validation at step {step}")
    return found, notes


def without_copies(runs: list[Run]) -> tuple[list[Run], list[str]]:
    """Return runs without the public ones whose validations another tells as well, and a note of these.

    Such are recaps at the end of a file, a terminal's copy of a log, files of a result alone. A fact that the
    one that stays lacks, such as its code, is taken from them. Runs of our format stay.
    """
    told: dict[tuple, Run] = {}
    again: dict[int, Run] = {}
    for run in sorted(runs, key=lambda run: (-len(run.vals), run.code is None)):
        timed = [] if run.log else [(p.step, p.loss, p.time_ms) for p in run.vals if p.time_ms]
        first = told.get(timed[-1]) if timed else None
        if first is None or any(told.get(point) is not first for point in timed) or any(
                len({getattr(one, name) for one in (run, first)} - {None}) > 1 for name in ("code", "seed")):
            told.update({point: run for point in timed if point not in told})
            continue
        again[id(run)] = run
        for name in ("code", "files", "seed", "device", "world_size", "versions"):
            setattr(first, name, getattr(first, name) or getattr(run, name))
    notes = [f"{len(again)} of {len(runs)} tell a run again (a copy, a recap, its result alone) and do not "
             f"count: {shown(', '.join(run.name for run in again.values()), 200)}"] if again else []
    return [run for run in runs if id(run) not in again], notes


def whole(runs: list[Run], step: int | None = None) -> tuple[list[Run], list[str]]:
    """Return runs of one script without the public ones that end before the others, or a step; and these."""
    end = max((run.last.step for run in runs if run.last), default=0) if step is None else step
    short = {id(run) for run in runs if not run.log and (run.last is None or run.last.step < end)}
    return ([run for run in runs if id(run) not in short],
            [f"{run.name} ends at step {run.last.step if run.last else '?'} of {run.steps}, before step "
             f"{end}: unfinished, no result" for run in runs if id(run) in short])
