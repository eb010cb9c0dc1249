"""Tells how many runs a claim needs: in one test, and by the declared looks."""
import argparse
from typing import Any

from records.tools.check.significance import ALPHA, LOOKS, SIGMA, power, runs_needed
from records.tools.read.values import ReadError, json_text
from records.tools.show.listing import report_lines

ARGUMENTS = {
    "--buffer": {"type": float, "required": True, "metavar": "NATS",
                 "help": "how far below the target the mean loss is expected"},
    "--sigma": {"type": float, "default": SIGMA, "metavar": "NATS",
                "help": "sd of the final loss between seeds (default: %(default)s)"},
    "--power": {"type": float, "default": 0.9, "help": "chance to show it (default: %(default)s)"},
    "--alpha": {"type": float, "default": ALPHA, "help": "chance to err (default: %(default)s)"},
    "--minutes": {"type": float, "help": "what one run takes, for the hours"},
    "--json": "print one JSON object",
}


def main(arguments: argparse.Namespace) -> int:
    """Print the plan; return the exit code."""
    for name in ("buffer", "sigma", "power", "alpha", "minutes"):
        value, most = getattr(arguments, name), 1 if name in ("power", "alpha") else 1e9
        if value is not None and not 1e-9 < value < most:
            raise ReadError(f"--{name} {value:g}: expected a number between 1e-9 and {most:g}")
    try:
        plan = make_plan(arguments)
    except ValueError as error:
        raise ReadError(f"{error}; plan for a larger buffer") from None
    print(json_text(plan) if arguments.json else report_lines(plan), end="")
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
    return {"one_test": {"runs": n, "hours": hours(n), "chance_to_be_shown": power(n, d, alpha)},
            "looks": {"alpha_each": alpha / len(LOOKS), "runs_expected_at_most": most, "hours": hours(most),
                      "shown_by_run": dict(zip(LOOKS, chances))}}  # at least
