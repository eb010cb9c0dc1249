"""Tests the final losses of runs against a target, or against those of other runs."""
import argparse
import math
import statistics
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from records.tools.check import significance
from records.tools.check.significance import ALPHA
from records.tools.read.logs import LOGS
from records.tools.read.run import Run
from records.tools.read.same import choose, whole
from records.tools.read.tracks import row_of
from records.tools.read.values import ReadError, is_finite, json_text, number, shown
from records.tools.show.group import Group, Outcome, groups_of, kind, outcome, places, read_runs
from records.tools.show.listing import report_lines

HOLDS = ("PROVEN", "PROMISING")


ARGUMENTS = {
    "logs": LOGS,
    "--target": {"type": float, "metavar": "NATS", "help": "default: that of the track in this checkout"},
    "--vs": {**LOGS, "help": "test against these runs instead; "
             "paired where both have the same seeds, else by Welch's test"},
    "--margin": {"type": float, "metavar": "NATS",
                 "help": "with --vs: test that the loss is worse by less than this"},
    "--time": "with --margin: one verdict on loss and training time of a change that only makes steps faster",
    "--step": {"type": int, "help": "judge at this step, not at the last"},
    "--vs_step": {"type": int, "metavar": "STEP", "help": "the step of --vs; default: --step"},
    "--loss": {"metavar": "NAME", "help": "of public lines with several losses: judge this, as val_ema_loss"},
    "--json": "print one JSON object",
}


def main(arguments: argparse.Namespace) -> int:
    """Print the tests; return the exit code, which --vs gives where no --target is named."""
    if arguments.vs is None and (arguments.margin is not None or arguments.vs_step is not None):
        raise ReadError("--margin and --vs_step are of a comparison with --vs LOG...; name those logs")
    if arguments.time and arguments.margin is None:
        raise ReadError("--time without --margin NATS: say how much worse than --vs LOG... the loss may be")
    for value in (arguments.target, arguments.margin):
        if value is not None and not math.isfinite(value):
            raise ReadError(f"{value} is no loss; expected a finite number of nats")
    group, notes = load(arguments.logs, arguments.loss, arguments.step)
    new = outcome(group, arguments.step)
    new.notes.extend(notes)
    report = head(group, new)
    if arguments.vs is None or arguments.target is not None:
        target = track_target(group.runs) if arguments.target is None else arguments.target
        report["target"] = against(new, target, all(run.log for run in group.runs),
                                   **significance.rule(row_of(group.runs)))
    if arguments.vs is not None:
        vs_step = arguments.step if arguments.vs_step is None else arguments.vs_step
        other, notes = load(arguments.vs, arguments.loss, vs_step)
        if len(tracks := sorted({run.track for run in group.runs + other.runs if run.track})) > 1:
            raise ReadError(f"tracks {shown(', '.join(tracks))}: their losses do not compare")
        old = outcome(other, vs_step)
        old.notes.extend(notes)
        judged = compare(new, old, arguments.margin, row_of(group.runs + other.runs))
        if arguments.time and judged["test"] is not None:
            judged = faster(judged, group.runs, other.runs, (new.step, old.step))
        report["vs"] = {**head(other, old), **judged}
    print(json_text(report) if arguments.json else report_lines(report), end="")
    codes = [exit_code(report[name]) for name in ("target", "vs") if name in report]
    return 1 if 1 in codes else max(codes)


def head(group: Group, found: Outcome) -> dict[str, Any]:
    """Return what was read."""
    return {"runs": [run.name for run in group.runs], "seeds_with_a_loss": len(found.losses),
            "step": found.step, "notes": found.notes}


def exit_code(judged: dict[str, Any]) -> int:
    """Return 0 for a claim that holds, 1 for one that does not, 2 where no test was possible."""
    if judged["word"] == "NOT SHOWN" and (judged["test"] is None or judged["test"].degenerate):
        return 2
    return int(judged["word"] not in HOLDS)


def load(paths: list[Path], loss: str | None = None, step: int | None = None) -> tuple[Group, list[str]]:
    """Return the runs of some logs, unfinished public ones apart, with one loss of their lines, and notes.

    Raises ReadError for none, copies, or runs of more than one kind.
    """
    runs, notes = choose(read_runs(paths), loss)
    groups = groups_of(runs)
    if len(groups) > 1 and all(run.log is None and run.code is None for run in runs):
        print(f"records stats: {len(runs)} logs do not carry their code; taken for one", file=sys.stderr)
    elif len(groups) > 1:
        kinds = [kind(group.runs[0]) for group in groups]
        differ = [name for name in kinds[0] if any(k[name] != kinds[0][name] for k in kinds)]
        names = [f"{len(group.runs)} like {group.name}" for group in groups]
        names[3:] = ["..."] if names[3:] else []
        raise ReadError(f"runs of {len(groups)} kinds that differ in {', '.join(differ)} "
                        f"({'; '.join(names)}); test one kind at a time, or one --vs another")
    runs, unfinished = whole(runs, step)
    return Group(runs[0].name, runs), notes + unfinished


def track_target(runs: list[Run]) -> float:
    """Return the target of the runs' track: this checkout's, of a track that it lacks the logs' own."""
    if "target" in (row := row_of(runs)):
        return float(row["target"])
    found = {number(run.log.track["target"]) for run in runs if run.log and "target" in run.log.track}
    if len(found) != 1 or not is_finite(target := found.pop()):
        raise ReadError("the logs do not give one target; name it with --target")
    return target


def against(found: Outcome, target: float, own: bool, alpha: float = ALPHA,
            **known: float) -> dict[str, Any]:
    """Return all that losses say of mean < target, with the verdict; known: of a track with a z test.

    own: whether all logs have our format; others show too little to prove anything.
    """
    if found.invalid:
        return {"target": target, "word": "INVALID", "reason": "; ".join(found.invalid), "test": None}
    losses = list(found.losses.values())
    verdict = significance.decide(losses, target, alpha, **known)
    test = verdict.test
    proven = verdict.word == "PROVEN"
    others = ("; verify counts the attempts that are not here" if proven and own else
              "; but logs of this format show too little" if proven else "")
    return {"target": target, "alpha": alpha, "test": test,
            "bound": significance.upper_bound(test, 1 - alpha),
            "runs_in_reach": sum(loss <= target for loss in losses),
            "word": "PROMISING" if proven and not own else verdict.word, "reason": verdict.reason + others}


def compare(new: Outcome, old: Outcome, margin: float | None, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return what new minus old is in loss, with the verdict: by the track's rule for two results, if any."""
    if new.invalid or old.invalid:
        return {"word": "INVALID", "reason": "; ".join(new.invalid + old.invalid), "test": None}
    found = {"new": statistics.mean(new.losses.values()), "old": statistics.mean(old.losses.values()),
             "margin": margin}
    if margin is None and "nats_per_step" in row:
        sides, steps = (list(side.losses.values()) for side in (new, old)), old.step - new.step
        test, word, facts = significance.of_two(*sides, steps, row["nats_per_step"], **row["significance"])
        return {**found, "word": word, "test": test, "reason":
                f"the new one is better, with {steps} steps less at {row['nats_per_step']} nats: {facts}"}
    name, test = significance.lower(new.losses, old.losses, margin or 0)
    claim = "the new loss is lower" if margin is None else f"the new loss is worse by less than {margin:g}"
    level = "no spread, no test" if test.degenerate else f"p {test.p:.3g}, wanted below {ALPHA:g}"
    return {**found, "word": significance.plain_word(test), "test": test,
            "reason": f"{claim}: {level} ({name})"}


def faster(loss: dict[str, Any], new: list[Run], old: list[Run], steps: tuple[int, int]) -> dict[str, Any]:
    """Return one verdict on a change that only makes steps faster: loss as compared, time by Welch's test.

    Raises ReadError where the logs deny that both sides took the same steps on one host.
    """
    runs, step = new + old, steps[0]
    times = [[point.time_ms / 1e3 for run in side for point in run.vals
              if point.step == step and is_finite(point.time_ms)] for side in (new, old)]
    drivers = sorted({str(run.versions.get("driver")) for run in runs})
    why = (f"the sides take {step} and {steps[1]} steps" if step != steps[1] else
           "not all logs tell times" if sum(map(len, times)) < len(runs) else places(runs) or
           (f"drivers differ ({shown(', '.join(drivers))})" if len(drivers) > 1 else
            None if sum(times[1]) > 0 else "the times of --vs are all 0"))
    if why:
        raise ReadError(f"--time: {why}; expected runs of as many steps on one host")
    test, mean = significance.welch(*times), statistics.mean(times[1])
    words = loss["word"], significance.plain_word(test)
    level = "no spread, no test" if test.degenerate else f"p {test.p:.3g} (Welch)"
    percent = 100 * test.mean / mean
    return {**loss, "old_s": mean, "time_test": test,
            "word": next((word for word in ("REFUTED", "NOT SHOWN") if word in words), words[0]),
            "reason": f"{loss['reason']}; time {test.mean:+.3f} s ({percent:+.2f} %), {level}, "
                      "if all ran on one host, which logs do not tell"}
