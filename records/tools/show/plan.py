"""Tells how many runs a claim needs: one test, the declared looks, and a comparison of times."""
import argparse
import json
import math
import random
from collections.abc import Sequence
from itertools import accumulate

from records.tools.check.significance import ALPHA, LOOKS, SIGMA, power, runs_needed, time_runs_needed
from records.tools.check.student import t_quantile
from records.tools.read.values import ReadError

CAMPAIGNS = 50_000  # simulated; the standard error of a chance is at most 0.0023


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add = parser.add_argument
    add("--buffer", type=float, required=True, metavar="NATS",
        help="how far below the target the mean loss is expected")
    add("--sigma", type=float, default=SIGMA, metavar="NATS",
        help="sd of the final loss between seeds (default: %(default)s)")
    add("--power", type=float, default=0.9, help="chance to show it (default: %(default)s)")
    add("--alpha", type=float, default=ALPHA, help="chance to err (default: %(default)s)")
    add("--minutes", type=float, help="what one run takes, for the hours")
    add("--effect", type=float, help="relative gain in time to show: 0.005 is 0.5 %%")
    add("--cv", type=float, help="sd over mean of times on one host; with --effect")
    add("--json", action="store_true", help="print one JSON object")


def main(arguments: argparse.Namespace) -> int:
    """Print the plan; return the exit code."""
    for name in ("buffer", "sigma", "power", "alpha", "minutes", "effect", "cv"):
        value, most = getattr(arguments, name), 1 if name in ("power", "alpha") else 1e9
        if value is not None and not 1e-9 < value < most:
            raise ReadError(f"--{name} {value:g}: expected a number between 1e-9 and {most:g}")
    if (arguments.effect is None) != (arguments.cv is None):
        raise ReadError("--effect and --cv belong together; give both or neither")
    try:
        plan = make_plan(arguments)
    except ValueError as error:
        raise ReadError(f"{error}; plan for a larger buffer or effect") from None
    print(json.dumps(plan) if arguments.json else "\n".join(lines(arguments, plan)))
    return 0


def make_plan(arguments: argparse.Namespace) -> dict:
    """Return runs, chances and hours. Raises ValueError where no number of runs is enough."""
    d, alpha, minutes = arguments.buffer / arguments.sigma, arguments.alpha, arguments.minutes

    def hours(runs: float) -> float | None:
        return None if minutes is None else runs * minutes / 60

    n = runs_needed(arguments.buffer, arguments.sigma, arguments.power, alpha)
    chances, expected = campaign(d, alpha, LOOKS)
    plan = {"runs": n, "power": power(n, d, alpha), "hours": hours(n), "alpha_per_look": alpha / len(LOOKS),
            "looks": [{"runs": n, "accepted": chance} for n, chance in zip(LOOKS, chances, strict=True)],
            "expected_runs": expected, "expected_hours": hours(expected)}
    if arguments.effect is not None:
        arm = time_runs_needed(arguments.effect, arguments.cv, arguments.power, alpha)
        plan["time"] = {"runs_per_arm": arm, "hours": hours(2 * arm)}
    return plan


def campaign(d: float, alpha: float, looks: Sequence[int]) -> tuple[list[float], float]:
    """Return the chance to have accepted by each look, and the expected runs until then or the last look.

    d: distance of the mean from the target in standard deviations. Simulated, the same on every call, not
    run by run: mean and squares of the runs between two looks are a normal and a chi-square number.
    """
    draw = random.Random(0)
    new = [look - before for before, look in zip((0, *looks), looks)]
    limits = [t_quantile(look - 1, alpha / len(looks)) / math.sqrt(look * (look - 1)) for look in looks]
    accepted = dict.fromkeys(looks, 0)
    for _ in range(CAMPAIGNS):
        mean = squares = 0.0  # squares: summed over deviations from the mean
        for look, m, limit in zip(looks, new, limits):
            apart = draw.gauss(-d, 1 / math.sqrt(m)) - mean
            mean += apart * m / look
            squares += draw.gammavariate((m - 1) / 2, 2) + apart**2 * m * (look - m) / look
            if mean < limit * math.sqrt(squares):  # as decide() says PROVEN
                accepted[look] += 1
                break
    by_look = list(accumulate(accepted.values()))
    runs = sum(look * count for look, count in accepted.items()) + looks[-1] * (CAMPAIGNS - by_look[-1])
    return [count / CAMPAIGNS for count in by_look], runs / CAMPAIGNS


def lines(arguments: argparse.Namespace, plan: dict) -> list[str]:
    """Return the plan for people."""
    def took(hours: float | None) -> str:
        return "" if hours is None else f", {hours:.3g} hours"

    text = [f"a mean {arguments.buffer:g} below the target, sd {arguments.sigma:g} between seeds, "
            f"alpha {arguments.alpha:g}",
            f"one test, its number of runs fixed: {plan['runs']} runs{took(plan['hours'])}, "
            f"shown with a chance of {plan['power']:.3f}",
            f"declared looks, each at {plan['alpha_per_look']:g}: {plan['expected_runs']:.1f} runs "
            f"expected{took(plan['expected_hours'])}"]
    text += [f"  shown by run {look['runs']:2}  {look['accepted']:.3f}" for look in plan["looks"]]
    if time := plan.get("time"):
        text.append(f"a gain in time of {arguments.effect:.3g}, cv {arguments.cv:.3g}: {time['runs_per_arm']}"
                    f" runs of each code in turns on one host{took(time['hours'])}, shown with a chance of "
                    f"{arguments.power:g}")
    return text
