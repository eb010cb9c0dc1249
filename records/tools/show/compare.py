"""What differs between two groups of runs, their sources apart (source.py). Prints nothing."""
import json
import math
import statistics
from collections.abc import Callable
from typing import Any

from records.tools.check.significance import ALPHA, lower, plain_word
from records.tools.read.log import sha256
from records.tools.read.run import Point, Run
from records.tools.read.values import is_finite
from records.tools.show.group import Group, Outcome, between, outcome, smoothed

UNKNOWN = "unknown"
# what runs of one experiment need not share: told elsewhere, or another each time
ELSEWHERE = {"track", "data", "seed", "name", "note", "log_every", "against", "device", "load", "python",
             "torch", "cpu", "gpus"}
TIMES = 5  # at which losses are compared


def facts(run: Run) -> dict[str, dict[str, str]]:
    """Return settings, environment and data of a run, as text: section -> name -> value."""
    def others(name: str) -> dict[str, Any]:
        return {key: value for key, value in run.mapping(name).items()
                if key not in ELSEWHERE and value is not None}

    row = run.log.track if run.log else {}
    settings = {**others("launch"), **run.hyperparameters}
    sections = {
        "settings": settings and {"seed": run.seed, **settings},
        "environment": {"device": run.device, "world_size": run.world_size, "reduction": run.at("reduction"),
                        **{name: run.versions.get(name) for name in ("torch", "python")}, **others("sys")},
        "data": {"track": run.track, **run.mapping("data"),
                 **{name: row.get(name) for name in ("vocabulary", "val_tokens", "target")}}}
    return {section: {name: text(value) for name, value in found.items()}
            for section, found in sections.items()}


def text(value: Any) -> str:
    """Return a value of a manifest as text, a long one cut before its digest."""
    if value is None:
        return UNKNOWN
    told = value if isinstance(value, str) else json.dumps(value)
    digest = sha256(told.encode(errors="surrogatepass"))[:8]
    return told if len(told) <= 60 else f"{told[:20]}... (sha256 {digest})"


def differences(a: Group, b: Group) -> dict[str, list[dict[str, str]]]:
    """Return by section the facts in which two groups differ, or that neither of them tells.

    Runs of one group that differ among themselves give their values with a bar between them.
    """
    sides = [[facts(run) for run in group.runs] for group in (a, b)]
    found: dict[str, list[dict[str, str]]] = {}
    for section in sides[0][0]:
        of_runs = [[told[section] for told in side] for side in sides]
        rows = found[section] = []
        for name in dict.fromkeys(name for side in of_runs for told in side for name in told):
            x, y = (" | ".join(dict.fromkeys(told.get(name, "-" if told else UNKNOWN) for told in side))
                    for side in of_runs)
            if x != y or x == UNKNOWN:
                rows.append({"name": name, "a": x, "b": y})
    return found


def incomparable(a: Group, b: Group) -> str | None:
    """Return why the losses of two groups do not compare, None where nothing speaks against it."""
    for what, told in (("track", lambda run: run.track),
                       ("validation shard", lambda run: run.at("data", "val", "sha256")),
                       ("number of validation tokens", lambda run: run.at("track_row", "val_tokens"))):
        x, y = ({str(told(run)) for run in group.runs} - {"None"} for group in (a, b))
        if x and y and x != y:
            return f"{what} differs: the losses do not compare"
    return None


def equal(a: Group, b: Group) -> list[str]:
    """Return in words up to which step the runs of each seed are the same on both sides."""
    seeds: dict[str, list[str]] = {}
    alone = len(a.runs) == len(b.runs) == 1
    for x, y in ((x, y) for x in a.runs for y in b.runs if x.seed == y.seed):
        if (alone or x.seed is not None) and (words := same_until(x, y)):
            seeds.setdefault(words, []).append(text(x.seed))
    return [f"{words} (seed {', '.join(of_seed)})" for words, of_seed in seeds.items()]


def same_until(a: Run, b: Run) -> str:
    """Return in words up to which step two runs are the same in all that both tell; nothing where in none.

    Bits are those of validation losses and digests of weights; training losses are told as they are printed.
    """
    x, y, last = a.by_step(), b.by_step(), {}
    for step in filter(y.__contains__, x):
        both = x[step].keys() & y[step].keys()
        if any(x[step][name] != y[step][name] for name in both):
            break
        last |= dict.fromkeys(both, step)
    exact = "bit-equal" if a.val_decimals is b.val_decimals is None else "equal as printed"
    val, train = last.get("val_loss"), last.get("train_loss", 0)
    words = [] if val is None else [f"{exact} up to step {val}"]
    if train > (val or 0):
        words.append(f"training losses equal as printed up to step {train}")
    return ", ".join(words)


def at_equal_steps(a: Group, b: Group) -> dict[str, Any]:
    """Return the losses of both groups at the steps that all runs validated.

    Where those are none but step 0, as of runs that validate at steps of their own, their smoothed training
    losses at the steps that all of them tell.
    """
    for kind in ("validation", "training"):
        groups = [[dict(of_run) for of_run in marks(group, "step", kind)] for group in (a, b)]
        runs = groups[0] + groups[1] if all(groups) else [{}]
        steps = set.intersection(*map(set, runs))
        if any(steps):
            break
    return table(kind, "step", groups, sorted(steps), dict.__getitem__)


def at_equal_times(a: Group, b: Group) -> dict[str, Any]:
    """Return the losses of both groups at equal training time, until the first run ends.

    It begins where the last run has its first validation after step 0: above, the loss falls by nats, and on
    no straight line. Compared are smoothed training losses where all runs tell them, else validation losses,
    on the line between the two around that time.
    """
    val, train = ([marks(group, "time_s", kind) for group in (a, b)] for kind in ("validation", "training"))
    kind, groups = ("training", train) if all(map(all, train)) else ("validation", val)
    times: list[float] = []
    if all(val) and all(map(all, val)):
        first = max(of_run[0][0] for group in val for of_run in group)
        last = min(of_run[-1][0] for group in groups for of_run in group)
        times = [first + (last - first) * i / (TIMES - 1) for i in range(TIMES)] if last > first else []
    return table(kind, "time_s", groups, times, between)


def marks(group: Group, unit: str, kind: str) -> list[list[tuple[float, float]]]:
    """Return (step, loss) or (time in s, loss) in order, of each run that was validated.

    A loss at step 0 has no time: nothing may be drawn through it.
    """
    return [sorted((point.step, point.loss) if unit == "step" else (point.time_ms / 1e3, point.loss)
                   for point in (smoothed(run) if kind == "training" else run.vals)
                   if point.loss is not None and (unit == "step" or point.step and is_finite(point.time_ms)
                                                  and is_finite(point.loss)))
            for run in group.runs if run.vals]


def table(kind: str, unit: str, groups: list[list[Any]], places: list[float],
          at: Callable[[Any, float], float]) -> dict[str, Any]:
    """Return mean loss and its sd over the runs of each group, and b - a, at each place."""
    rows = []
    for place in places:
        losses = [[at(of_run, place) for of_run in group] for group in groups]
        a, b = (sum(of_group) / len(of_group) for of_group in losses)
        a_sd, b_sd = (statistics.stdev(of_group) if len(of_group) > 1 and all(map(math.isfinite, of_group))
                      else None for of_group in losses)
        rows.append({unit: place, "a": a, "b": b, "difference": b - a, "a_sd": a_sd, "b_sd": b_sd})
    return {"loss": kind, "unit": unit, "rows": rows}


def speed(group: Group) -> dict[str, Any]:
    """Return ms per step, and mean and sd of the total time of the finished runs in s."""
    totals = [run.last.time_ms / 1e3 for run in group.finished if is_finite(run.last.time_ms)]
    steps = [ms for ms in (step_ms(run.vals) for run in group.runs) if ms is not None]
    return {"ms_per_step": statistics.fmean(steps) if steps else None,
            "total_s": statistics.fmean(totals) if totals else None,
            "total_s_sd": statistics.stdev(totals) if len(totals) > 1 else None}


def step_ms(vals: list[Point]) -> float | None:
    """Return ms per step from the first validation after step 0 on: some logs start the clock late."""
    points = [p for p in vals if p.step and is_finite(p.time_ms)]
    if len(points) > 1 and points[-1].step > points[0].step:
        return (points[-1].time_ms - points[0].time_ms) / (points[-1].step - points[0].step)
    return points[0].time_ms / points[0].step if points else None


def finals(group: Group) -> Outcome:
    """Return the losses of the finished runs at the last step that all of them validated."""
    shared = [{p.step for p in run.vals if is_finite(p.loss)} for run in group.finished]
    step = max(set.intersection(*shared), default=None) if shared else None
    return Outcome(None, {}, [], []) if step is None else outcome(Group(group.name, group.finished), step)


def verdict(a: Group, b: Group) -> dict[str, Any]:
    """Return what the final losses say: paired where both groups ran the same seeds, else Welch's test."""
    x, y = finals(a), finals(b)
    found: dict[str, Any] = {"a_step": x.step, "b_step": y.step, "a_seeds": len(x.losses),
                             "b_seeds": len(y.losses), "difference": None}
    lost = [f"{len(group.runs) - len(group.finished)} of {len(group.runs)} runs of {name}"
            for name, group in (("A", a), ("B", b)) if 0 < len(group.finished) < len(group.runs)]
    if lost:  # dropping them would be a choice after the fact
        return {**found, "words": f"{' and '.join(lost)} did not end in order with a finite loss: no test"}
    if not x.losses or not y.losses:
        return {**found, "words": "no finished run with a finite loss on one side: nothing to test"}
    difference = statistics.fmean(y.losses.values()) - statistics.fmean(x.losses.values())
    lead = f"B - A = {difference:+.5f}"
    lead += "" if x.step == y.step else f" (B after {y.step} steps, A after {x.step})"
    found["difference"] = difference
    if len(x.losses) < 2 or len(y.losses) < 2:
        few = "one run against one run" if len(x.losses) == len(y.losses) == 1 else "a side of one seed"
        return {**found, "words": f"{lead}; {few} decides nothing"}
    (way, test), (_, mirrored) = lower(y.losses, x.losses), lower(x.losses, y.losses)
    found |= {"test": way, "t": test.t, "df": test.df, "p_b_lower": test.p, "p_b_higher": mirrored.p}
    if test.degenerate:
        return {**found, "words": f"{lead}; the runs do not spread, so there is no test"}
    says = {"PROMISING": "B is lower", "REFUTED": "B is higher"}.get(plain_word(test), "no difference shown")
    p = min(test.p, mirrored.p)
    return {**found, "words": f"{lead}: {says} ({way}: one-sided p {p:.2g}, wanted below {ALPHA})"}
