"""What differs between two sides, each one or several runs of one thing. Prints nothing."""
import difflib
import json
import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from records.tools.read.extract import unsafe
from records.tools.read.log import read_bytes, sha256
from records.tools.read.logs import find_logs, load_runs
from records.tools.read.run import Point, Run
from records.tools.read.values import ReadError, is_finite, shown

RUN_TO_RUN_SD = {"fineweb": 0.0013}  # of the final loss over seeds, where it is known
LINES = 20_000  # of a file; more are not compared line by line


@dataclass
class Side:
    """What stands on one side: the runs of a log or a record, or a script of the working tree, never run."""

    name: str
    runs: list[Run]
    script: bool = False

    @property
    def finished(self) -> list[Run]:
        """The runs that ended in order and validated, their last loss finite; public logs have no status."""
        return [t for t in self.runs if t.status in (None, "ok", "stopped") and t.last
                and is_finite(t.last.loss)]


@dataclass
class Row:
    """A fact that differs, as text; None is unknown, "-" is absent."""

    name: str
    a: str | None
    b: str | None


@dataclass
class FileDiff:
    """A file that differs: its name on each side (None: not there), and the lines of a unified diff."""

    a: str | None
    b: str | None
    added: int = 0
    removed: int = 0
    lines: list[str] = field(default_factory=list)

    @property
    def harness(self) -> bool:
        """Whether the file is the harness's, not the submission's."""
        return str(self.a or self.b).startswith("harness/")


def load_side(path: Path) -> Side:
    """Return the runs of a log or of a record's folder. Raises ReadError where there are none."""
    if not path.is_dir():
        runs = load_runs(path)
        return Side(runs[0].name, runs)
    logs = path / "logs" if (path / "logs").is_dir() else path
    runs = [run for log in find_logs([logs]) for run in load_runs(log)]
    if not runs:
        raise ReadError(f"{shown(str(path))}: no log below it; name a log or the folder of a record")
    return Side(shown(path.resolve().name, 60), runs)


def script_side(path: Path, other: Side | None) -> Side:
    """Return a script of the working tree, with those project files beside it that the other side carries."""
    roots = [folder for folder in path.resolve().parents if (folder / "harness").is_dir()][:1]
    files = {}
    for name in other.runs[0].files if other else ():
        found = [root / name for root in [*roots, path.resolve().parent] if (root / name).is_file()]
        if found and not unsafe(name):  # the name is a stranger's
            files[name] = read_bytes(found[0])
    return Side(shown(path.name, 60), [Run(path, 0, "script", code=read_bytes(path), files=files)], True)


def code(a: Side, b: Side) -> list[FileDiff]:
    """Return the files that differ, the entry script first, of the first run of each side."""
    x, y = a.runs[0], b.runs[0]
    found = []
    if x.code is not None and y.code is not None:
        found.append(file_diff(script_name(x), script_name(y), x.code, y.code))
        for name in sorted(x.files.keys() | y.files.keys(), key=lambda n: (n.startswith("harness/"), n)):
            old, new = x.files.get(name), y.files.get(name)
            found.append(file_diff(None if old is None else name, None if new is None else name, old, new))
    return [diff for diff in found if diff]


def script_name(run: Run) -> str:
    """Return the path of the entry script; a public log does not tell it."""
    return run.log.script_path if run.log else run.path.name if run.format == "script" else "script"


def file_diff(a: str | None, b: str | None, old: bytes | None, new: bytes | None) -> FileDiff | None:
    """Return how a file differs, None where it does not. A side without the file has None."""
    if old == new:
        return None
    x, y = lines_of(old), lines_of(new)
    if max(len(x), len(y)) > LINES:
        return FileDiff(a, b, len(y), len(x), [f"more than {LINES} lines: not compared line by line"])
    names = f"a/{a}" if a else "none", f"b/{b}" if b else "none"
    lines = list(difflib.unified_diff(x, y, *names, lineterm=""))
    signs = [line[:1] for line in lines[2:]]
    return FileDiff(a, b, signs.count("+"), signs.count("-"), lines)


def lines_of(source: bytes | None) -> list[str]:
    """Return the lines of a source; a last one that does not end is marked, as by diff."""
    if not source:
        return []
    lines = source.decode(errors="replace").split("\n")
    return lines[:-1] if not lines[-1] else [*lines, "\\ No newline at end of file"]


def hyperparameters(run: Run) -> dict[str, str | None]:
    """Return the hyperparameters and what the command line changed; or that the log is silent."""
    if not run.hyperparameters:
        return {"all of them": None}
    facts = {name: text(value) for name, value in run.hyperparameters.items()}
    changed = run.log.manifest.get("overrides") if run.log else None
    return {**facts, "(overrides)": words(changed)}


def environment(run: Run) -> dict[str, str | None]:
    """Return on what a run ran."""
    manifest = run.log.manifest if run.log else {}
    sys = manifest.get("sys") if isinstance(manifest.get("sys"), dict) else {}
    names = ("platform", "cpus", "threads", "float32_matmul_precision", "settings")
    return {"device": run.device, "world_size": text(run.world_size),
            "torch": run.versions.get("torch"), "python": run.versions.get("python"),
            "reduction": text(manifest.get("reduction")), **{name: text(sys.get(name)) for name in names}}


def data(run: Run) -> dict[str, str | None]:
    """Return of what a run learned and on what it was validated; shards by their sha256."""
    manifest, row = (run.log.manifest, run.log.track) if run.log else ({}, {})
    taken = manifest.get("data") if isinstance(manifest.get("data"), dict) else {}
    shards = taken.get("train") if isinstance(taken.get("train"), list) else []
    return {"track": run.track, "train shards": shard_list(shards),
            "validation shard": shard(taken["val"]) if taken.get("val") else None,
            "tokens": text(taken.get("tokens")), "epochs": text(taken.get("epochs")),
            "vocabulary": text(row.get("vocabulary")), "validation tokens": text(row.get("val_tokens")),
            "target": text(row.get("target"))}


def shard_list(shards: list[Any]) -> str | None:
    """Return training shards as text, many of them as their number and one sha256 over all."""
    names = ", ".join(map(shard, shards))
    if len(shards) < 4:
        return names or None
    return f"{len(shards)} shards, sha256 of their list {sha256(names.encode())[:8]}"


def shard(fields: Any) -> str:
    """Return eight digits of a shard's sha256 and its tokens."""
    if not isinstance(fields, dict):
        return "?"
    return f"{str(fields.get('sha256'))[:8]} ({fields.get('tokens')} tokens)"


def text(value: Any) -> str | None:
    """Return a value of a manifest as text; None stays None."""
    return value if value is None or isinstance(value, str) else json.dumps(value)


def words(fields: Any) -> str | None:
    """Return an object's fields as name=value; "-" where it is empty."""
    if not isinstance(fields, dict):
        return None
    return " ".join(f"{name}={text(value)}" for name, value in sorted(fields.items())) or "-"


def rows(facts_of: Callable[[Run], dict[str, str | None]], a: Side, b: Side) -> list[Row]:
    """Return the facts in which two sides differ, or that neither of them tells.

    Runs of one side that differ among themselves give their values with a bar between them.
    """
    sides = [[facts_of(run) for run in side.runs] for side in (a, b)]
    names = list(dict.fromkeys(name for side in sides for facts in side for name in facts))
    if "all of them" in names:  # hyperparameters of which one side tells none
        tells = [None if "all of them" in side[0] else f"{len(side[0]) - 1} fields" for side in sides]
        return [Row("all of them", *tells)]
    found = []
    for name in names:
        values = [list(dict.fromkeys(facts.get(name, "-") for facts in side)) for side in sides]
        x, y = (v[0] if len(v) == 1 else " | ".join(str(value) for value in v) for v in values)
        if x != y or x is None:
            found.append(Row(name, x, y))
    return found


def incomparable(a: Side, b: Side) -> str | None:
    """Return why the losses of two sides do not compare, None where nothing speaks against it."""
    for name in ("track", "validation shard", "validation tokens"):
        x, y = ({facts[name] for facts in map(data, side.runs)} - {None} for side in (a, b))
        if x and y and x != y:
            return f"{name} differs: the losses do not compare"
    return None


def curve(a: Side, b: Side) -> list[dict[str, float | None]]:
    """Return mean loss and its sd over the runs of each side, and b - a, at the steps that all validated."""
    sides = [[{p.step: p.loss for p in t.vals if p.loss is not None} for t in side.runs if t.vals]
             for side in (a, b)]
    if not all(sides):
        return []
    return [{"step": step, **compared([[run[step] for run in runs] for runs in sides])}
            for step in sorted(set.intersection(*(set(run) for runs in sides for run in runs)))]


def equal_time(a: Side, b: Side, points: int = 5) -> list[dict[str, float | None]]:
    """Return the same at equal training time, until the first run ends; linear between validations."""
    sides = [[timed(t) for t in side.runs if t.vals] for side in (a, b)]
    if not all(sides) or any(len(run) < 2 for runs in sides for run in runs):
        return []
    first = max(run[0][0] for runs in sides for run in runs)
    last = min(run[-1][0] for runs in sides for run in runs)
    times = [first + (last - first) * i / points for i in range(1, points + 1)] if last > first else []
    return [{"time_s": ms / 1e3, **compared([[between(run, ms) for run in runs] for runs in sides])}
            for ms in times]


def compared(losses: list[list[float]]) -> dict[str, float | None]:
    """Return mean and sd of the losses of both sides, and the difference of the means, b - a."""
    a, b = (sum(side) / len(side) for side in losses)
    a_sd, b_sd = (statistics.stdev(side) if len(side) > 1 and all(map(math.isfinite, side)) else None
                  for side in losses)
    return {"a": a, "b": b, "difference": b - a, "a_sd": a_sd, "b_sd": b_sd}


def timed(run: Run) -> list[tuple[float, float]]:
    """Return (time in ms, loss) of a run's validations, in the order of time."""
    return sorted((p.time_ms, p.loss) for p in run.vals if is_finite(p.time_ms) and is_finite(p.loss))


def between(marks: list[tuple[float, float]], x: float) -> float:
    """Return y at x on the straight line through the two marks (x, y) that are nearest around it."""
    if len(marks) < 2:
        return marks[0][1]
    i = next((i for i in range(1, len(marks) - 1) if marks[i][0] >= x), len(marks) - 1)
    (x0, y0), (x1, y1) = marks[i - 1], marks[i]
    return y0 if x1 == x0 else y0 + (y1 - y0) * (x - x0) / (x1 - x0)


def step_times(run: Run) -> list[float]:
    """Return the times of steps in ms, where the lines of training tell two in a row; may be empty."""
    pairs = zip(run.train, run.train[1:])
    return [q.time_ms - p.time_ms for p, q in pairs
            if q.step == p.step + 1 and is_finite(p.time_ms) and is_finite(q.time_ms)]


def speed(side: Side) -> dict[str, Any]:
    """Return ms per step, how it was found, and mean and sd of the total time of the finished runs in s."""
    steps = [ms for run in side.runs for ms in step_times(run)]
    totals = [t.last.time_ms / 1e3 for t in side.finished if is_finite(t.last.time_ms)]
    averages = [a for a in (average(t.vals) for t in side.runs) if a is not None]
    ms = statistics.median(steps or averages) if steps or averages else None
    return {"ms_per_step": ms, "found": f"median of {len(steps)} steps" if steps else "average",
            "total_s": statistics.fmean(totals) if totals else None,
            "total_s_sd": statistics.stdev(totals) if len(totals) > 1 else None,
            "devices": sorted({str(t.device) for t in side.runs})}


def average(vals: list[Point]) -> float | None:
    """Return ms per step from the first validation after step 0 on: some logs start the clock late."""
    points = [p for p in vals if p.step and is_finite(p.time_ms)]
    if len(points) > 1 and points[-1].step > points[0].step:
        return (points[-1].time_ms - points[0].time_ms) / (points[-1].step - points[0].step)
    return points[0].time_ms / points[0].step if points else None


def finals(side: Side) -> tuple[int | None, dict[Any, float]]:
    """Return the last step that all finished runs validated and, for each seed, the loss there.

    Repeats of a seed are averaged. A run whose log tells no seed stands for itself; copies of it count once.
    """
    runs = [(t, {p.step: p.loss for p in t.vals if is_finite(p.loss)}) for t in side.finished]
    shared = set.intersection(*(set(losses) for _, losses in runs)) if runs else set()
    if not shared:
        return None, {}
    found: dict[Any, list[float]] = {}
    for run, losses in runs:
        seed = run.seed if run.seed is not None else tuple(sorted(losses.items()))
        found.setdefault(seed, []).append(losses[max(shared)])
    return max(shared), {seed: statistics.fmean(losses) for seed, losses in found.items()}
