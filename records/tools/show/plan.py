"""Tells how many runs a claim needs, in one test and by the declared looks; of logs, how few steps do."""
import argparse
import math
import statistics
from collections.abc import Hashable
from typing import Any

from records.tools.check import significance
from records.tools.check.significance import ALPHA, LOOKS, SIGMA, power, runs_needed
from records.tools.read.logs import LOGS
from records.tools.read.run import Run
from records.tools.read.tracks import row_of
from records.tools.read.values import ReadError, is_finite, json_text
from records.tools.show.group import outcome
from records.tools.show.listing import report_lines
from records.tools.show.stats import HOLDS, load, track_target

MOST = 1e9
NEAR_END = 0.95  # of the steps: from there on the curve tells what a step is worth
ARGUMENTS = {
    "logs": {**LOGS, "nargs": "*",
             "help": "seeds of one script: how few steps are still provable, and with how many seeds"},
    "--buffer": {"type": float, "metavar": "NATS",
                 "help": "in place of logs: how far below the target the mean loss is expected"},
    "--target": {"type": float, "metavar": "NATS", "help": "of logs; default: that of their track"},
    "--nats_per_step": {"type": float, "metavar": "NATS",
                        "help": "of logs, what a step less costs; default: the track's, else as the curve "
                        "falls near its end, where the same run is stopped: a shorter schedule loses less"},
    "--sigma": {"type": float, "metavar": "NATS", "help": "sd of the final loss between seeds; default: the "
                f"track's, that of {LOOKS[0]} logs or more, else {SIGMA}"},
    "--power": {"type": float, "default": 0.9, "help": "chance to show it (default: %(default)s)"},
    "--alpha": {"type": float, "help": f"chance to err; default: the track's, else {ALPHA}"},
    "--minutes": {"type": float, "help": "what one run takes, for the hours"},
    "--json": "print one JSON object",
}


def main(arguments: argparse.Namespace) -> int:
    """Print the plan; return the exit code."""
    if bool(arguments.logs) == (arguments.buffer is not None):
        raise ReadError("expected logs to plan from, or --buffer NATS without them")
    for name in ("buffer", "nats_per_step", "sigma", "power", "alpha", "minutes"):
        value, most = getattr(arguments, name), 1 if name in ("power", "alpha") else MOST
        if value is not None and not 1e-9 < value < most:
            raise ReadError(f"--{name} {value:g}: expected a number between 1e-9 and {most:g}")
    try:
        plan = make_plan(arguments) if arguments.buffer else fewest_steps(arguments)
    except ReadError:
        raise
    except ValueError as error:
        raise ReadError(f"{error}; plan for a larger buffer") from None
    print(json_text(plan) if arguments.json else report_lines(plan), end="")
    return 0


def make_plan(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return runs, chances and hours. Raises ValueError where no number of runs is enough."""
    sigma, alpha, minutes = arguments.sigma or SIGMA, arguments.alpha or ALPHA, arguments.minutes
    d = arguments.buffer / sigma

    def hours(runs: float) -> float | None:
        return None if minutes is None else runs * minutes / 60

    n = runs_needed(arguments.buffer, sigma, arguments.power, alpha)
    chances = [power(look, d, alpha / len(LOOKS)) for look in LOOKS]
    # a campaign goes on to a look unless it was decided before: at least as often as at the look before alone
    going_on = zip((0, *LOOKS), LOOKS, (0, *chances))
    most = sum((look - before) * (1 - chance) for before, look, chance in going_on)
    return {"one_test": {"runs": n, "hours": hours(n), "chance_to_be_shown": power(n, d, alpha)},
            "looks": {"alpha_each": alpha / len(LOOKS), "runs_expected_at_most": most, "hours": hours(most),
                      "shown_by_run": dict(zip(LOOKS, chances))}}  # at least


def fewest_steps(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return after how many steps the runs of some logs had shown their target, and how many would do.

    The former going back from the end until a step does not show it, so that no choice among steps adds to
    the chance to err. The latter for new runs at each declared look, where each step less costs the same.
    """
    group, _ = load(arguments.logs)
    found, row = outcome(group), row_of(group.runs)
    if found.invalid or not found.losses:
        raise ReadError("; ".join(found.invalid) or "no log has a loss; expected runs that ended")
    target = track_target(group.runs) if arguments.target is None else arguments.target
    rule = significance.rule(row) | ({"alpha": arguments.alpha} if arguments.alpha else {})
    losses = list(found.losses.values())
    if not all(abs(nats) < MOST for nats in (*losses, target)):
        raise ReadError(f"losses up to {max(losses):g}, target {target:g}: expected fewer than {MOST:g} nats")
    mean = statistics.fmean(losses)
    own = statistics.stdev(losses) if len(losses) >= LOOKS[0] else SIGMA
    if not (sd := arguments.sigma or rule.get("sigma") or own):
        raise ReadError(f"all {len(losses)} losses are equal: rounded, or one run repeated; name --sigma")
    curve = curve_of(group.runs)
    cost = arguments.nats_per_step or row.get("nats_per_step") or falls(curve, found.step)
    shown = None
    for step in reversed(curve):
        if significance.decide(curve[step], target, **rule).word not in HOLDS:
            break
        shown = step
    reach = {n: target - significance.buffer_needed(n, sd, arguments.power, **rule) for n in LOOKS}
    steps = {n: max(1, found.step - math.floor((loss - mean) / cost)) for n, loss in reach.items()}
    minutes = arguments.minutes
    return {"runs": [run.name for run in group.runs], "steps": found.step, "mean": mean, "sd": sd,
            "target": target, "nats_per_step": cost, "shown_after_step": shown, "notes": found.notes,
            "steps_for": {f"{n}_seeds": steps[n] for n in LOOKS},
            "mean_loss_for": {f"{n}_seeds": reach[n] for n in LOOKS},
            "hours_for": minutes and {f"{n}_seeds": n * minutes / 60 * steps[n] / found.step for n in LOOKS}}


def curve_of(runs: list[Run]) -> dict[int, list[float]]:
    """Return the losses after each step that all runs validated: one a seed, NaN where one is not finite."""
    seeds: dict[Hashable, list[dict[int, float]]] = {}
    for run in runs:
        losses = {p.step: p.loss if is_finite(p.loss) else math.nan for p in reversed(run.vals)}
        seeds.setdefault(tuple(run.vals) if run.seed is None else run.seed, []).append(losses)
    steps = set.intersection(*(set(losses) for of_seed in seeds.values() for losses in of_seed))
    return {step: [statistics.mean(losses[step] for losses in of_seed) for of_seed in seeds.values()]
            for step in sorted(steps)}


def falls(curve: dict[int, list[float]], last: int) -> float:
    """Return by how many nats a step the mean loss falls near the end. Raises ReadError where it does not."""
    first = max((step for step in curve if step <= NEAR_END * last), default=last)
    fall = statistics.mean(curve[first]) - statistics.mean(curve[last])
    if not fall > 0:
        raise ReadError(f"the mean loss does not fall from step {first} to {last}; name what a step is worth "
                        f"with --nats_per_step")
    return fall / (last - first)
