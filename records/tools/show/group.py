"""Groups of runs that are seeds of one another: what such runs share, one loss for each seed."""
import dataclasses
import json
import statistics
import sys
from bisect import bisect_left
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from records.tools.read.logs import find_logs, load_runs
from records.tools.read.run import Point, Run
from records.tools.read.same import kind, without_copies
from records.tools.read.values import NoLog, ReadError, is_finite, shown

IN_TURNS = "compare only where all ran in turns on one host; logs do not tell it, see race"
WINDOW = 21  # training losses in a mean; odd, so that one of them is the middle


@dataclass
class Group:
    """Several runs of one thing: a code, a log, a record; or a script of the working tree, never run."""

    name: str
    runs: list[Run]

    @property
    def script(self) -> bool:
        """Whether it is a script of the working tree."""
        return self.runs[0].format == "script"

    @property
    def finished(self) -> list[Run]:
        """The runs that ended in order and validated, their last loss finite; public logs have no status."""
        return [run for run in self.runs if run.status in (None, "ok", "stopped") and run.last
                and is_finite(run.last.loss)]


@dataclass(frozen=True)
class Outcome:
    """What counts of a group after a step: one loss a distinct seed, the mean where it was repeated."""

    step: int | None
    losses: dict[Hashable, float]  # by seed; a run that tells none stands for itself, a copy of it does not
    invalid: list[str]  # what keeps runs from being evidence; no loss is tested then
    notes: list[str]


def read_runs(paths: list[Path], command: str | None = None, once: bool = True) -> list[Run]:
    """Return the runs of logs and folders of them. Raises ReadError for none, and for a file that is no log.

    command: whose stderr line tells of a file below a folder that is no log and is passed over.
    once: raise ReadError for a copy too.
    """
    runs: list[Run] = []
    seen: dict[Hashable, Run] = {}
    for path in find_logs(paths):
        try:
            found = load_runs(path)
        except ReadError as error:
            if path in paths or command is None and not isinstance(error, NoLog):
                raise
            if not isinstance(error, NoLog):
                print(f"records {command}: passed over {error}", file=sys.stderr)
            continue
        for run in found:  # two runs do not take the same time at every validation
            timed = bool(run.log and run.last and run.last.time_ms)
            key = (run.code, *run.vals) if timed else (run.path, run.index)
            if (first := seen.setdefault(key, run)) is not run and once:
                raise ReadError(f"{first.name} and {run.name} are the same run; it counts once")
        runs += found
    if not runs:
        raise ReadError(f"{shown(', '.join(map(str, paths)))}: no log there")
    runs, notes = without_copies(runs)
    print(*(f"records {command or 'stats'}: {note}\n" for note in notes), sep="", end="", file=sys.stderr)
    return runs


def groups_of(runs: Iterable[Run]) -> list[Group]:
    """Return runs in groups of one kind, in order of their first."""
    groups: dict[str, Group] = {}
    for run in runs:
        groups.setdefault(json.dumps(kind(run), sort_keys=True), Group(run.name, [])).runs.append(run)
    return list(groups.values())


def outcome(group: Group, step: int | None = None) -> Outcome:
    """Return the losses after the last step, or after the one that is given.

    Raises ReadError where last steps differ, for runs of unequal length are no sample, and where no run
    has that step.
    """
    points: dict[Hashable, list[Point]] = {}
    invalid = []
    for run in group.runs:
        point = measured(run, step)
        if isinstance(point, str):
            invalid.append(point)
        else:
            points.setdefault(tuple(run.vals) if run.seed is None else run.seed, []).append(point)
    validated = sorted({point.step for run in group.runs for point in run.vals})
    if step is not None and step not in validated:
        raise ReadError(f"no run has a validation at step {step}; "
                        f"there are {len(validated)}, the last ones at {validated[-5:]}")
    steps = sorted({point.step for of_seed in points.values() for point in of_seed})
    if len(steps) > 1:
        raise ReadError(f"the runs end at steps {', '.join(map(str, steps[:5]))}; name one with --step")
    names = {seed: [run.name for run in group.runs if run.seed == seed] for seed in points}
    notes = [f"seed {seed} was run {len(names[seed])} times and counts once, by its mean: "
             f"{', '.join(names[seed])}" for seed in points if len(names[seed]) > 1]
    if unknown := sum(run.seed is None for run in group.runs):
        notes.append(f"{unknown} logs do not tell their seed; each is taken for a seed of its own")
    return Outcome(steps[0] if steps else step,
                   {seed: statistics.mean(p.loss for p in of_seed) for seed, of_seed in points.items()},
                   invalid, notes)


def measured(run: Run, step: int | None) -> Point | str:
    """Return the validation that counts of a run, or what keeps it from being evidence."""
    orderly = (None, "ok") if step is None else (None, "ok", "stopped")  # public logs tell no status
    if run.status not in orderly:
        return f"{run.name}: ended {shown(run.status)}"
    point = run.last if step is None else next((p for p in run.vals if p.step == step), None)
    if point is None or point.loss is None:
        return f"{run.name}: no validation" + ("" if step is None else f" at step {step}")
    if step is None and run.steps and point.step != run.steps:
        return (f"{run.name}: its last validation is at step {point.step} of {run.steps}; "
                f"--step {point.step} judges it there")
    return point if is_finite(point.loss) else f"{run.name}: val_loss {point.loss} at step {point.step}"


def between(marks: list[tuple[float, float]], x: float) -> float:
    """Return y at x on the straight line through the two marks (x, y) that are nearest around it."""
    if len(marks) < 2:
        return marks[0][1]
    i = bisect_left(marks, x, 1, len(marks) - 1, key=lambda mark: mark[0])
    (x0, y0), (x1, y1) = marks[i - 1], marks[i]
    return y0 if x1 == x0 else y0 + (y1 - y0) * (x - x0) / (x1 - x0)


def smoothed(run: Run) -> list[Point]:
    """Return the training losses of a run as means of WINDOW printed ones, each where the middle one stands.

    Empty for a run that trains on another quantity than the loss that is validated, and for one that prints
    fewer.
    """
    points = [point for point in run.train if is_finite(point.loss)]
    if any(fields.get("plain") is False for fields in run.of_kind("objective")):
        return []
    sums = list(accumulate((point.loss for point in points), initial=0.0))
    return [dataclasses.replace(points[i + WINDOW // 2], loss=(sums[i + WINDOW] - sums[i]) / WINDOW)
            for i in range(len(points) - WINDOW + 1)]


def places(runs: list[Run]) -> str | None:
    """Return why times do not compare, None where nothing speaks against it."""
    found = {run.device and f"{run.device}, {run.world_size} ranks" for run in runs}
    if None in found:
        return "not all logs tell their device"
    return None if len(found) == 1 else f"devices differ ({shown('; '.join(sorted(found)), 200)})"
