"""Tells how many runs a claim needs: one test, the declared looks, and a comparison of times."""
import argparse
import json
from typing import Any

from records.tools.check.significance import ALPHA, LOOKS, SIGMA, power, runs_needed, time_runs_needed
from records.tools.read.values import ReadError

ARGUMENTS = {
    "--buffer": {"type": float, "required": True, "metavar": "NATS",
                 "help": "how far below the target the mean loss is expected"},
    "--sigma": {"type": float, "default": SIGMA, "metavar": "NATS",
                "help": "sd of the final loss between seeds (default: %(default)s)"},
    "--power": {"type": float, "default": 0.9, "help": "chance to show it (default: %(default)s)"},
    "--alpha": {"type": float, "default": ALPHA, "help": "chance to err (default: %(default)s)"},
    "--minutes": {"type": float, "help": "what one run takes, for the hours"},
    "--effect": {"type": float, "help": "relative gain in time to show: 0.005 is 0.5 %%"},
    "--cv": {"type": float, "help": "sd over mean of times on one host; with --effect"},
    "--json": "print one JSON object",
}


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


def make_plan(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return runs, chances and hours. Raises ValueError where no number of runs is enough."""
    d, alpha, minutes = arguments.buffer / arguments.sigma, arguments.alpha, arguments.minutes

    def hours(runs: float) -> float | None:
        return None if minutes is None else runs * minutes / 60

    n = runs_needed(arguments.buffer, arguments.sigma, arguments.power, alpha)
    chances = [power(look, d, alpha / len(LOOKS)) for look in LOOKS]
    # a campaign goes on to a look unless it was decided before: at least as often as at the look before alone
    going_on = zip((0, *LOOKS), LOOKS, (0, *chances))
    most = sum((look - before) * (1 - chance) for before, look, chance in going_on)
    plan = {"runs": n, "power": power(n, d, alpha), "hours": hours(n), "alpha_per_look": alpha / len(LOOKS),
            "looks": [{"runs": look, "shown": chance} for look, chance in zip(LOOKS, chances)],
            "expected_runs": most, "expected_hours": hours(most)}
    if arguments.effect is not None:
        arm = time_runs_needed(arguments.effect, arguments.cv, arguments.power, alpha)
        plan["time"] = {"runs_per_arm": arm, "hours": hours(2 * arm)}
    return plan


def lines(arguments: argparse.Namespace, plan: dict[str, Any]) -> list[str]:
    """Return the plan for people."""
    def took(hours: float | None) -> str:
        return "" if hours is None else f", {hours:.3g} hours"

    text = [f"a mean {arguments.buffer:g} below the target, sd {arguments.sigma:g} between seeds, "
            f"alpha {arguments.alpha:g}",
            f"one test, its number of runs fixed: {plan['runs']} runs{took(plan['hours'])}, "
            f"shown with a chance of {plan['power']:.3f}",
            f"declared looks, each at {plan['alpha_per_look']:g}: at most {plan['expected_runs']:.1f} runs "
            f"expected{took(plan['expected_hours'])}"]
    text += [f"  shown by run {look['runs']:2}  {look['shown']:.3f} or more" for look in plan["looks"]]
    if time := plan.get("time"):
        text.append(f"a gain in time of {arguments.effect:.3g}, cv {arguments.cv:.3g}: {time['runs_per_arm']}"
                    f" runs of each code in turns on one host{took(time['hours'])}, shown with a chance of "
                    f"{arguments.power:g}")
    return text
