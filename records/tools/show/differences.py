"""What differs between two groups of runs, their sources apart (source.py). Prints nothing."""
import json
import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from records.tools.check.significance import ALPHA, lower, plain_word
from records.tools.read.log import sha256
from records.tools.read.run import Point, Run
from records.tools.read.values import is_finite
from records.tools.show.group import Group, between, outcome, step_times

RUN_TO_RUN_SD = {"fineweb": 0.0013}  # of the final loss over seeds, where it is known


@dataclass
class Row:
    """A fact that differs, as text; None is unknown, "-" is absent."""

    name: str
    a: str | None
    b: str | None


def hyperparameters(run: Run) -> dict[str, str | None]:
    """Return the hyperparameters and what the command line changed; or that the log is silent."""
    if not run.hyperparameters:
        return {"all of them": None}
    changed = run.at("overrides")
    words = (" ".join(f"{name}={text(value)}" for name, value in sorted(changed.items())) or "-"
             if isinstance(changed, dict) else None)
    return {**{name: text(value) for name, value in run.hyperparameters.items()}, "(overrides)": words}


def environment(run: Run) -> dict[str, str | None]:
    """Return on what a run ran."""
    names = ("platform", "cpus", "threads", "float32_matmul_precision", "settings")
    return {"device": run.device, "world_size": text(run.world_size), "torch": run.versions.get("torch"),
            "python": run.versions.get("python"), "reduction": text(run.at("reduction")),
            **{name: text(run.at("sys", name)) for name in names}}


def data(run: Run) -> dict[str, str | None]:
    """Return of what a run learned and on what it was validated; shards by their sha256."""
    row, train, val = run.log.track if run.log else {}, run.at("data", "train"), run.at("data", "val")
    shards = ", ".join(map(shard, train)) if isinstance(train, list) else None
    if shards and len(train) > 3:
        shards = f"{len(train)} shards, sha256 of their list {sha256(shards.encode())[:8]}"
    return {"track": run.track, "train shards": shards or None,
            "validation shard": shard(val) if val else None,
            **{name: text(run.at("data", name)) for name in ("tokens", "epochs")},
            "vocabulary": text(row.get("vocabulary")), "validation tokens": text(row.get("val_tokens")),
            "target": text(row.get("target"))}


def shard(fields: Any) -> str:
    """Return eight digits of a shard's sha256 and its tokens."""
    if not isinstance(fields, dict):
        return "?"
    return f"{str(fields.get('sha256'))[:8]} ({fields.get('tokens')} tokens)"


def text(value: Any) -> str | None:
    """Return a value of a manifest as text; None stays None."""
    return value if value is None or isinstance(value, str) else json.dumps(value)


def rows(facts_of: Callable[[Run], dict[str, str | None]], a: Group, b: Group) -> list[Row]:
    """Return the facts in which two groups differ, or that neither of them tells.

    Runs of one group that differ among themselves give their values with a bar between them.
    """
    sides = [[facts_of(run) for run in group.runs] for group in (a, b)]
    names = list(dict.fromkeys(name for side in sides for facts in side for name in facts))
    if "all of them" in names:  # hyperparameters of which one group tells none
        tells = [None if "all of them" in side[0] else f"{len(side[0]) - 1} fields" for side in sides]
        return [Row("all of them", *tells)]
    found = []
    for name in names:
        values = [list(dict.fromkeys(facts.get(name, "-") for facts in side)) for side in sides]
        x, y = (v[0] if len(v) == 1 else " | ".join(map(str, v)) for v in values)
        if x != y or x is None:
            found.append(Row(name, x, y))
    return found


def incomparable(a: Group, b: Group) -> str | None:
    """Return why the losses of two groups do not compare, None where nothing speaks against it."""
    for name in ("track", "validation shard", "validation tokens"):
        x, y = ({facts[name] for facts in map(data, group.runs)} - {None} for group in (a, b))
        if x and y and x != y:
            return f"{name} differs: the losses do not compare"
    return None


def curve(a: Group, b: Group) -> list[dict[str, float | None]]:
    """Return mean loss and its sd over the runs of each group, and b - a, at the steps all validated."""
    groups = [[{p.step: p.loss for p in run.vals if p.loss is not None} for run in group.runs if run.vals]
              for group in (a, b)]
    if not all(groups):
        return []
    return [{"step": step, **compared([[losses[step] for losses in group] for group in groups])}
            for step in sorted(set.intersection(*(set(losses) for group in groups for losses in group)))]


def equal_time(a: Group, b: Group, points: int = 5) -> list[dict[str, float | None]]:
    """Return the same at equal training time, until the first run ends; linear between validations."""
    groups = [[sorted((p.time_ms, p.loss) for p in run.vals if is_finite(p.time_ms) and is_finite(p.loss))
               for run in group.runs if run.vals] for group in (a, b)]
    if not all(groups) or any(len(marks) < 2 for group in groups for marks in group):
        return []
    first = max(marks[0][0] for group in groups for marks in group)
    last = min(marks[-1][0] for group in groups for marks in group)
    times = [first + (last - first) * i / points for i in range(1, points + 1)] if last > first else []
    return [{"time_s": ms / 1e3, **compared([[between(marks, ms) for marks in group] for group in groups])}
            for ms in times]


def compared(losses: list[list[float]]) -> dict[str, float | None]:
    """Return mean and sd of the losses of both groups, and the difference of the means, b - a."""
    a, b = (sum(group) / len(group) for group in losses)
    a_sd, b_sd = (statistics.stdev(group) if len(group) > 1 and all(map(math.isfinite, group)) else None
                  for group in losses)
    return {"a": a, "b": b, "difference": b - a, "a_sd": a_sd, "b_sd": b_sd}


def speed(group: Group) -> dict[str, Any]:
    """Return ms per step, how it was found, and mean and sd of the total time of the finished runs in s."""
    steps = [ms for run in group.runs for ms in step_times(run)]
    totals = [run.last.time_ms / 1e3 for run in group.finished if is_finite(run.last.time_ms)]
    averages = [ms for ms in (average(run.vals) for run in group.runs) if ms is not None]
    ms = statistics.median(steps or averages) if steps or averages else None
    return {"ms_per_step": ms, "found": f"median of {len(steps)} steps" if steps else "average",
            "total_s": statistics.fmean(totals) if totals else None,
            "total_s_sd": statistics.stdev(totals) if len(totals) > 1 else None,
            "devices": sorted({str(run.device) for run in group.runs})}


def average(vals: list[Point]) -> float | None:
    """Return ms per step from the first validation after step 0 on: some logs start the clock late."""
    points = [p for p in vals if p.step and is_finite(p.time_ms)]
    if len(points) > 1 and points[-1].step > points[0].step:
        return (points[-1].time_ms - points[0].time_ms) / (points[-1].step - points[0].step)
    return points[0].time_ms / points[0].step if points else None


def finals(group: Group) -> tuple[int | None, dict[Any, float]]:
    """Return the last step that all finished runs validated and, for each seed, the loss there."""
    shared = [{p.step for p in run.vals if is_finite(p.loss)} for run in group.finished]
    step = max(set.intersection(*shared), default=None) if shared else None
    return step, {} if step is None else outcome(Group(group.name, group.finished), step).losses


def verdict(a: Group, b: Group) -> dict[str, Any]:
    """Return what the final losses say: paired where both groups ran the same seeds, else Welch's test."""
    (a_step, x), (b_step, y) = finals(a), finals(b)
    found: dict[str, Any] = {"a_step": a_step, "b_step": b_step, "a_seeds": len(x), "b_seeds": len(y),
                             "difference": None}
    lost = [f"{len(group.runs) - len(group.finished)} of {len(group.runs)} runs of {name}"
            for name, group in (("A", a), ("B", b)) if 0 < len(group.finished) < len(group.runs)]
    if lost:  # dropping them would be a choice after the fact
        return {**found, "words": f"{' and '.join(lost)} did not end in order with a finite loss: no test"}
    if not x or not y:
        return {**found, "words": "no finished run with a finite loss on one side: nothing to test"}
    difference = found["difference"] = sum(y.values()) / len(y) - sum(x.values()) / len(x)
    lead = f"B - A = {difference:+.5f}"
    lead += "" if a_step == b_step else f" (B after {b_step} steps, A after {a_step})"
    if len(x) < 2 or len(y) < 2:
        sd = RUN_TO_RUN_SD.get(str(a.runs[0].track))
        found["in_sd"] = difference / sd if sd else None
        known = f", {difference / sd:+.1f} times the known run-to-run sd {sd}" if sd else ""
        few = "one run against one run" if len(x) == len(y) == 1 else "a side of one seed"
        return {**found, "words": f"{lead}{known}; {few} decides nothing"}
    (way, test), (_, mirrored) = lower(y, x), lower(x, y)
    name = f"paired over {len(x)} seeds" if way == "paired" else f"Welch, {len(y)} and {len(x)} seeds"
    found |= {"test": name, "t": test.t, "df": test.df, "p_b_lower": test.p, "p_b_higher": mirrored.p}
    if test.degenerate:
        return {**found, "words": f"{lead}; the runs do not spread, so there is no test"}
    says = {"PROMISING": "B is lower", "REFUTED": "B is higher"}.get(plain_word(test), "no difference shown")
    p = min(test.p, mirrored.p)
    return {**found, "words": f"{lead}: {says} ({name}: one-sided p {p:.2g}, wanted below {ALPHA})"}
