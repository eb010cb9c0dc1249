"""Tests the final losses of runs against a target, or against those of other runs."""
import argparse
import dataclasses
import hashlib
import json
import math
import re
import statistics
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from records.tools.check import significance
from records.tools.check.significance import ALPHA, SIGMA, Test
from records.tools.show.stats_text import against_text, compare_text, earliest_text, sample_text
from records.tools.read.logs import find_logs, load_runs
from records.tools.read.run import Point, Run
from records.tools.read.tracks import row_of
from records.tools.read.values import ReadError, is_finite, json_text, number, shown

SEED = re.compile(rb"(?im)^(\s*seed\s*=\s*)\d+")  # public scripts that differ in this line alone are one code
HOLDS = ("PROVEN", "PROMISING")


@dataclass(frozen=True)
class Sample:
    """What counts of a group of runs: one loss for each distinct seed, the mean where a seed was repeated."""

    runs: list[str]
    step: int | None
    losses: dict[Hashable, float]  # by seed; a run that tells none stands for itself
    times_ms: dict[Hashable, float | None]  # charged until that validation
    decimals: int | None  # digits behind the point of all losses; None: full precision
    invalid: list[str]  # what keeps runs from being evidence; no loss is tested then
    notes: list[str]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("logs", metavar="LOG", nargs="+", type=Path, help="logs, or folders of them")
    parser.add_argument("--target", type=float, metavar="NATS",
                        help="default: that of the logs' track in this checkout")
    parser.add_argument("--vs", metavar="LOG", nargs="+", type=Path, help="test against these runs instead; "
                        "paired where both have the same seeds, else by Welch's test")
    parser.add_argument("--margin", type=float, metavar="NATS",
                        help="with --vs: test that the loss is worse by less than this")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--step", type=int, help="judge at this step, not at the last")
    which.add_argument("--earliest", action="store_true",
                       help="find the earliest step: backwards from the last, until one does not pass")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def main(arguments: argparse.Namespace) -> int:
    """Print the tests; return the exit code, which --vs gives where no --target is named."""
    if arguments.vs is None and arguments.margin is not None:
        raise ReadError("--margin says how much worse than --vs LOG... is allowed; name those logs")
    if arguments.vs is not None and arguments.earliest:
        raise ReadError("--earliest looks for a step against a target; it takes no --vs")
    for value in (arguments.target, arguments.margin):
        if value is not None and not math.isfinite(value):
            raise ReadError(f"{value} is no loss; expected a finite number of nats")
    new = load(arguments.logs)
    sample = collect(new, arguments.step)
    report: dict[str, Any] = {"runs": sample.runs, "step": sample.step, "notes": sample.notes}
    codes, text = [], sample_text(sample.runs, len(sample.losses), sample.step, sample.notes)
    if arguments.vs is None or arguments.target is not None:
        target = track_target(new) if arguments.target is None else arguments.target
        alpha = row_of(new).get("significance", {}).get("alpha", ALPHA)
        judged = earliest(new, target, alpha) if arguments.earliest else against(sample, target, alpha)
        report["target"] = judged
        text += earliest_text(judged) if arguments.earliest else against_text(judged, sample.decimals)
        codes.append(exit_code(judged))
    if arguments.vs is not None:
        old_trials = load(arguments.vs)
        check_track(new + old_trials)
        old = collect(old_trials, arguments.step)
        compared = compare(sample, old, arguments.margin, places(new + old_trials))
        report["vs"] = {"runs": old.runs, "step": old.step, "notes": old.notes, **compared}
        text += ["against", *sample_text(old.runs, len(old.losses), old.step, old.notes)]
        text += compare_text(compared)
        codes.append(exit_code(compared))
    print(json_text(report) if arguments.json else "\n".join(text) + "\n", end="")
    return 1 if 1 in codes else max(codes)


def exit_code(judged: dict[str, Any]) -> int:
    """Return 0 for a claim that holds, 1 for one that does not, 2 where no test was possible."""
    test = judged.get("test")
    if judged["word"] == "NOT SHOWN" and (test is None or test["degenerate"]):
        return 2
    return int(judged["word"] not in HOLDS)


def load(paths: list[Path]) -> list[Run]:
    """Return the runs of some logs. Raises ReadError for none, copies, or runs of more than one kind."""
    runs = [run for path in find_logs(paths) for run in load_runs(path)]
    if not runs:
        raise ReadError(f"{shown(', '.join(map(str, paths)))}: no log there")
    seen: dict[Hashable, Run] = {}
    groups: dict[str, list[Run]] = {}
    for run in runs:
        if run.last and run.last.time_ms:  # two runs do not take the same time at every validation
            if (first := seen.setdefault(tuple(run.vals), run)) is not run:
                raise ReadError(f"{first.name} and {run.name} are the same run; it counts once")
        groups.setdefault(json.dumps(kind(run), sort_keys=True), []).append(run)
    if len(groups) > 1:
        kinds = [kind(group[0]) for group in groups.values()]
        differ = [name for name in kinds[0] if any(k[name] != kinds[0][name] for k in kinds)]
        names = [f"{len(group)} like {group[0].name}" for group in groups.values()]
        names[3:] = ["..."] if names[3:] else []
        raise ReadError(f"runs of {len(groups)} kinds that differ in {', '.join(differ)} "
                        f"({'; '.join(names)}); test one kind at a time, or one --vs another")
    return runs


def kind(run: Run) -> dict[str, Any]:
    """Return what runs must share to be seeds of one another."""
    manifest = run.log.manifest if run.log else {}
    if run.log:
        if not manifest:
            raise ReadError(f"{run.name}: cut off above its manifest; what it ran is unknown")
        code = manifest["code"].get("digest")
    else:
        sources = [run.code or b"", *(f for _, f in sorted(run.files.items()))]
        code = hashlib.sha256(b"\0".join(SEED.sub(rb"\1", source) for source in sources)).hexdigest()
    return {"track": run.track, "code": code, "hyperparameters": run.hyperparameters,
            "reduction": manifest.get("reduction")}


def check_track(runs: list[Run]) -> None:
    """Raise ReadError where logs name more than one track."""
    if len(tracks := sorted({run.track for run in runs if run.track})) > 1:
        raise ReadError(f"tracks {shown(', '.join(tracks))}: their losses do not compare")


def track_target(runs: list[Run]) -> float:
    """Return the target of the runs' track: this checkout's, of a track that it lacks the logs' own."""
    if row := row_of(runs):
        return float(row["target"])
    found = {number(row["target"]) for row in (t.log.track for t in runs if t.log) if "target" in row}
    if len(found) != 1 or not is_finite(target := found.pop()):
        raise ReadError("the logs do not give one target; name it with --target")
    return target


def collect(runs: list[Run], step: int | None = None) -> Sample:
    """Return the losses after the last step, or after the one that is given.

    Raises ReadError where last steps differ, for runs of unequal length are no sample, and where no run
    has that step.
    """
    points: dict[Hashable, list[Point]] = {}
    names: dict[Hashable, list[str]] = {}
    invalid, notes = [], []
    for i, run in enumerate(runs):
        point = measured(run, step)
        if isinstance(point, str):
            invalid.append(point)
            continue
        key = ("run", i) if run.seed is None else run.seed
        points.setdefault(key, []).append(point)
        names.setdefault(key, []).append(run.name)
    validated = sorted({point.step for run in runs for point in run.vals})
    if step is not None and step not in validated:
        raise ReadError(f"no run has a validation at step {step}; "
                        f"there are {len(validated)}, the last ones at {validated[-5:]}")
    steps = sorted({point.step for group in points.values() for point in group})
    if len(steps) > 1:
        raise ReadError(f"the runs end at steps {', '.join(map(str, steps[:5]))}; name one with --step")
    notes += [f"seed {seed} was run {len(runs)} times and counts once, by its mean: {', '.join(runs)}"
              for seed, runs in names.items() if len(runs) > 1]
    if unknown := sum(run.seed is None for run in runs):
        notes.append(f"{unknown} logs do not tell their seed; each is taken for a seed of its own")
    decimals = [run.val_decimals for run in runs]
    return Sample([run.name for run in runs], steps[0] if steps else step,
                  {seed: statistics.mean(p.loss for p in group) for seed, group in points.items()},
                  {seed: mean_time(group) for seed, group in points.items()},
                  None if None in decimals else min(decimals), invalid, notes)


def mean_time(points: list[Point]) -> float | None:
    """Return the mean time, None where one is unknown."""
    times = [point.time_ms for point in points]
    return statistics.mean(times) if all(map(is_finite, times)) else None


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


def against(sample: Sample, target: float, alpha: float = ALPHA) -> dict[str, Any]:
    """Return all that the sample says of mean < target, with the verdict."""
    if sample.invalid:
        return {"target": target, "word": "INVALID", "reason": "; ".join(sample.invalid), "test": None}
    losses, n = list(sample.losses.values()), len(sample.losses)
    verdict = significance.decide(losses, target, alpha)
    test = verdict.test
    passes, left, _, z_p = significance.z_rule(test.mean, n, target)
    below = sum(loss <= target for loss in losses)
    found = {"target": target, "word": verdict.word, "reason": verdict.reason,
             "test": dataclasses.asdict(test), "alpha": alpha,
             "bound": significance.upper_bound(test, 1 - alpha),
             "rounding_robust_p": None,
             "z_rule": {"passes": passes, "left": left, "p": z_p,
                        "sd_limit": significance.largest_sd(n) if n > 1 else None},
             "below": {"runs": below, "chance": significance.clopper_pearson_lower(below, n, 1 - alpha)},
             "e_value": significance.e_values(losses, target, SIGMA, SIGMA)[-1],
             "power": None, "runs_for_90": None}
    if sample.decimals in (4, 5, 6):
        found["rounding_robust_p"] = significance.rounding_robust_p(losses, target, sample.decimals)
    if not test.degenerate and test.t < -0.01:  # above that, the number of runs has no use
        d = -test.t / math.sqrt(n)
        found |= {"power": significance.power(n, d, alpha),
                  "runs_for_90": significance.runs_needed(d, 1, 0.9, alpha)}
    return found


def earliest(runs: list[Run], target: float, alpha: float = ALPHA) -> dict[str, Any]:
    """Return the earliest step that may be claimed: backwards from the last, up to the first failure.

    A fixed sequence of tests needs no correction for their number; the earliest step that passes, looked
    for from the front, would be the best of many.
    """
    shared = set.intersection(*({point.step for point in run.vals} for run in runs))
    walked, passed = [], []
    last = max((run.last.step for run in runs if run.last), default=None)
    for step in sorted(shared | {last}, reverse=True):
        found = against(collect(runs, step), target, alpha)
        walked.append({"step": step, "word": found["word"], "p": (found["test"] or {}).get("p")})
        if found["word"] not in HOLDS:
            break
        passed.append(found)
    if not passed:
        return {"target": target, "step": None, "walked": walked, "word": found["word"],
                "reason": found["reason"], "test": found["test"]}
    word = max((one["word"] for one in passed), key=HOLDS.index)
    step = walked[len(passed) - 1]["step"]
    return {"target": target, "step": step, "walked": walked, "word": word, "test": passed[-1]["test"],
            "reason": f"step {step} is the earliest; from the last step back to it every test passes"}


def places(runs: list[Run]) -> str | None:
    """Return why times do not compare, None where nothing speaks against it."""
    found = {run.device and f"{run.device}, {run.world_size} ranks" for run in runs}
    if None in found:
        return "not all logs tell their device"
    return None if len(found) == 1 else f"devices differ ({shown('; '.join(sorted(found)), 200)})"


def compare(new: Sample, old: Sample, margin: float | None, apart: str | None) -> dict[str, Any]:
    """Return what new minus old is, in loss and where it can be told in time, with the verdict on the loss.

    apart: why times do not compare.
    """
    if new.invalid or old.invalid:
        return {"word": "INVALID", "reason": "; ".join(new.invalid + old.invalid), "test": None}
    found: dict[str, Any] = {"loss": both(new.losses, old.losses)}
    if margin is not None:
        found["margin"] = {"nats": margin, **both(new.losses, old.losses, margin)}
    [gain] = significance.differences([found["loss"]["old"]], [found["loss"]["new"]])
    passes, left = significance.pairwise_rule(gain, old.step - new.step, len(new.losses), len(old.losses))
    found["pairwise_rule"] = {"passes": passes, "left": left}
    times = list(new.times_ms.values()) + list(old.times_ms.values())
    found["no_time"] = apart or ("not all logs tell their time" if None in times else None)
    found["time"] = None if found["no_time"] else both(new.times_ms, old.times_ms)
    judged = found["loss" if margin is None else "margin"]
    name = "paired" if new.losses.keys() == old.losses.keys() and judged["paired"] else "welch"
    test = Test(**judged[name])
    claim = "the new loss is lower" if margin is None else f"the new loss is worse by less than {margin:g}"
    level = "no spread, no test" if test.degenerate else f"p {test.p:.3g}, wanted below {ALPHA:g}"
    return {**found, "word": significance.plain_word(test, ALPHA), "test": judged[name],
            "reason": f"{claim}: {level} ({name})"}


def both(new: dict[Hashable, float], old: dict[Hashable, float], margin: float = 0) -> dict[str, Any]:
    """Return means, Welch's test and, over the seeds that both have, the paired one of new - old < margin."""
    shared = [seed for seed in new if isinstance(seed, int) and seed in old]
    a, b = list(new.values()), list(old.values())
    pairs = significance.differences([new[seed] for seed in shared], [old[seed] for seed in shared])
    return {"new": significance.one_sample(a, 0).mean, "old": significance.one_sample(b, 0).mean,
            "welch": dataclasses.asdict(significance.non_inferiority(a, b, margin)),
            "paired": dataclasses.asdict(significance.paired(pairs, margin)) if len(pairs) > 1 else None}
