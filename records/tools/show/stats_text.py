"""What stats found, in lines for people."""
from typing import Any

from records.tools.check.significance import SIGMA, Test


def sample_text(runs: list[str], seeds: int, step: int | None, notes: list[str]) -> list[str]:
    """Return what was read; seeds are those of the runs that count."""
    at = "" if step is None else f" at step {step}"
    return [f"{len(runs)} runs, {seeds} distinct seeds with a loss{at}", *(f"note: {note}" for note in notes)]


def against_text(found: dict[str, Any], decimals: int | None) -> list[str]:
    """Return the tests of a sample against a target."""
    verdict = f"{found['word']}: {found['reason']}"
    if found["test"] is None:
        return [f"target      {found['target']:.7g}", verdict]
    test, z, below = Test(**found["test"]), found["z_rule"], found["below"]
    spread = "" if test.sd is None else f", sd {test.sd:.3g}"
    text = [f"target      {found['target']:.7g}", f"mean        {test.mean:.7g}{spread}",
            line_of("t test", test), f"{100 * (1 - found['alpha']):g} % bound  {found['bound']:.7g}"]
    if found["rounding_robust_p"] is not None:
        text.append(f"rounding    p {found['rounding_robust_p']:.3g} if all losses were half a unit of "
                    f"their digit {decimals} higher")
    text.append(f"z rule      {'passes' if z['passes'] else 'fails'}: {z['left']:.5g}, 0.004 needed; "
                f"p {z['p']:.3g} if sigma is {SIGMA}")
    if z["sd_limit"] and test.sd > z["sd_limit"]:
        text.append(f"            warning: sd {test.sd:.3g} is above {z['sd_limit']:.3g}, the 95 % limit for "
                    "that sigma: its p is too small")
    text.append(f"e-value     {found['e_value']:.3g}, valid at any number of runs if sigma is {SIGMA}; "
                f"{1 / found['alpha']:g} rejects")
    if found["power"] is not None:
        text.append(f"power       {found['power']:.3g} if mean and sd are as measured; 0.9 takes "
                    f"{found['runs_for_90']} runs")
    text.append(f"in reach    {below['runs']} of {test.n} runs at or below the target; chance of a run at "
                f"least {below['chance']:.3g} (99 %)")
    known = "; verify counts the attempts that are not here" if found["word"] == "PROVEN" else ""
    return [*text, verdict + known]


def earliest_text(found: dict[str, Any]) -> list[str]:
    """Return the steps that were tested, the last one first."""
    steps = [f"step {w['step']:<6} " + ("" if w["p"] is None else f"p {w['p']:<9.3g} ") + w["word"]
             for w in found["walked"]]
    return [f"target      {found['target']:.7g}", *steps, f"{found['word']}: {found['reason']}"]


def compare_text(found: dict[str, Any]) -> list[str]:
    """Return the tests of runs against other runs."""
    text = []
    for name, unit, label in (("loss", 1, "loss"), ("margin", 1, "margin"), ("time", 1e3, "seconds")):
        if part := found.get(name):
            new, old = part["new"] / unit, part["old"] / unit
            text.append(f"{label:<11} new {new:.7g}, old {old:.7g}, difference {new - old:+.4g}"
                        + (f", allowed {part['nats']:g}" if name == "margin" else ""))
            text += [line_of(test, Test(**part[test])) for test in ("welch", "paired") if part[test]]
    if found["test"] is not None:
        rule = found["pairwise_rule"]
        text.append(f"pairwise    {'passes' if rule['passes'] else 'fails'}: {rule['left']:.5g}, 0.004 "
                    "needed where 100 steps count 0.0045")
        text.append(f"times do not compare: {found['no_time']}" if found["no_time"] else
                    "times compare only where all ran in turns on one host, which logs do not tell; see race")
    return [*text, f"{found['word']}: {found['reason']}"]


def line_of(name: str, test: Test) -> str:
    """Return the numbers of a test."""
    numbers = "no spread, no p" if test.degenerate else f"t {test.t:.4g}, df {test.df:.4g}, p {test.p:.3g}"
    return f"{name:<11} {numbers}, {test.n} values"
