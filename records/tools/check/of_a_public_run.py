"""The checks that the layout of a public log allows: it has lines of steps and code, no event, no hash."""
from bisect import bisect_left

from records.tools.check.claim import Claim
from records.tools.check.of_a_run import Result, each_run, first_of, require, result_of
from records.tools.read.run import Point, Run
from records.tools.read.scan import COMPILER
from records.tools.read.values import is_finite

GRACE = 10  # steps that scripts until 2025 did not time, and left out of step_avg
DIP = 0.1  # nats; in the 1,741 runs of the public history the largest is 0.03
LITTLE = "an edit after which times, averages and curve still fit leaves no trace in it: run it again"


def complete(run: Run, claim: Claim) -> str:
    """The run has all its steps, or stopped where all runs of its script did."""
    require(run.last and run.steps, "the layout does not tell how many steps were to come", state="unknown")
    words = f"ends at step {run.last.step} of {run.steps}"
    return require(run.last.step == run.steps or len(claim.runs) > 1,
                   f"{words}: where its script stops, or cut off; one log does not tell", words, "unknown")


def monotone(run: Run, claim: Claim) -> str:
    """Training time grows from line to line; the first ten steps may not have counted."""
    times = sorted((p.step, p.time_ms) for p in points(run) if p.step > GRACE)
    require(times, "the layout has no times", state="unknown")
    for (_, before), (step, after) in zip(times, times[1:]):
        require(after >= before - 1, f"training time {after:.0f} ms at step {step}, {before:.0f} before it")
    return f"{times[-1][1] / 1e3:.1f} s of training"


def lines(run: Run, claim: Claim) -> str:
    """step_avg is the time over all steps, those after ten, or those since a validation; no loss dips."""
    told = points(run)
    marks = [Point(0, None, 0.0), *(p for p in run.vals if p.time_ms is not None)]
    for point in told:
        before = marks[max(1, bisect_left(marks, point.step, key=lambda p: p.step)) - 1]
        fits = (abs(ms / n - point.step_avg_ms) <= 1 / n + 0.006 for ms, n in (
            (point.time_ms, point.step), (point.time_ms, point.step - GRACE),
            (point.time_ms - before.time_ms, point.step - before.step)) if n > 0)
        require(not point.step or not is_finite(point.step_avg_ms) or any(fits),
                f"step {point.step}: step_avg {point.step_avg_ms} ms is not that of {point.time_ms:.0f} ms")
    for before, point, after in zip(run.vals, run.vals[1:], run.vals[2:]):
        depth = min(before.loss, after.loss) - point.loss
        require(not depth > DIP, f"loss {point.loss} at step {point.step}, between {before.loss} and "
                                 f"{after.loss}", state="review")
    return f"{len(told) or len(run.vals)} step lines"


def points(run: Run) -> list[Point]:
    """Return the lines that tell a time."""
    return [p for p in (*run.train, *run.vals) if p.time_ms is not None]


def public_result(name: str, claim: Claim) -> Result | None:
    """Return what a check of ours, by name, finds of public logs; None where they do not show it."""
    if name == "settings" and claim.sources:
        found = [f"{each.path}:{each.line}: {each.text}" for each in claim.findings if each.what == COMPILER]
        return result_of(found, "none of inductor or torch.compile", "review")
    if name == "complete" and claim.unfinished:
        return Result("review", first_of(claim.unfinished))
    check = {"complete": complete, "monotone": monotone, "lines": lines}.get(name)
    return each_run(check, claim, claim.runs) if check else None
