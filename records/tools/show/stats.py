"""Tests the final losses of runs against a target, or against those of other runs."""
import argparse
import math
import sys
from collections.abc import Hashable
from pathlib import Path
from typing import Any

from records.tools.check import significance
from records.tools.read.logs import locate
from records.tools.read.tracks import row_of
from records.tools.check.significance import ALPHA, SIGMA, Test
from records.tools.read.run import Run
from records.tools.read.values import ReadError, is_finite, json_text, number, shown
from records.tools.show.group import Group, Outcome, groups_of, kind, outcome, read_runs

HOLDS = ("PROVEN", "PROMISING")


ARGUMENTS = {
    "logs": {"metavar": "LOG", "nargs": "+", "type": locate, "help": "logs, or folders of them"},
    "--target": {"type": float, "metavar": "NATS", "help": "default: that of the track in this checkout"},
    "--vs": {"metavar": "LOG", "nargs": "+", "type": locate, "help": "test against these runs instead; "
             "paired where both have the same seeds, else by Welch's test"},
    "--margin": {"type": float, "metavar": "NATS",
                 "help": "with --vs: test that the loss is worse by less than this"},
    "--step": {"type": int, "help": "judge at this step, not at the last"},
    "--json": "print one JSON object",
}


def main(arguments: argparse.Namespace) -> int:
    """Print the tests; return the exit code, which --vs gives where no --target is named."""
    if arguments.vs is None and arguments.margin is not None:
        raise ReadError("--margin says how much worse than --vs LOG... is allowed; name those logs")
    for value in (arguments.target, arguments.margin):
        if value is not None and not math.isfinite(value):
            raise ReadError(f"{value} is no loss; expected a finite number of nats")
    group = load(arguments.logs)
    new = outcome(group, arguments.step)
    report, lines = head(group, new)
    if arguments.vs is None or arguments.target is not None:
        target = track_target(group.runs) if arguments.target is None else arguments.target
        alpha = row_of(group.runs).get("significance", {}).get("alpha", ALPHA)
        report["target"] = against(new, target, alpha)
        lines += against_lines(report["target"])
    if arguments.vs is not None:
        other = load(arguments.vs)
        both = [*group.runs, *other.runs]
        if len(tracks := sorted({run.track for run in both if run.track})) > 1:
            raise ReadError(f"tracks {shown(', '.join(tracks))}: their losses do not compare")
        old = outcome(other, arguments.step)
        facts, words = head(other, old)
        report["vs"] = {**facts, **compare(new, old, arguments.margin, places(both))}
        lines += ["against", *words, *compare_lines(report["vs"])]
    print(json_text(report) if arguments.json else "\n".join(lines) + "\n", end="")
    codes = [exit_code(report[name]) for name in ("target", "vs") if name in report]
    return 1 if 1 in codes else max(codes)


def head(group: Group, found: Outcome) -> tuple[dict[str, Any], list[str]]:
    """Return what was read, for JSON and for people."""
    at = "" if found.step is None else f" at step {found.step}"
    return ({"runs": [run.name for run in group.runs], "step": found.step, "notes": found.notes},
            [f"{len(group.runs)} runs, {len(found.losses)} distinct seeds with a loss{at}",
             *(f"note: {note}" for note in found.notes)])


def exit_code(judged: dict[str, Any]) -> int:
    """Return 0 for a claim that holds, 1 for one that does not, 2 where no test was possible."""
    if judged["word"] == "NOT SHOWN" and (judged["test"] is None or judged["test"].degenerate):
        return 2
    return int(judged["word"] not in HOLDS)


def load(paths: list[Path]) -> Group:
    """Return the runs of some logs. Raises ReadError for none, copies, or runs of more than one kind."""
    runs = read_runs(paths)
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
    return Group(runs[0].name, runs)


def track_target(runs: list[Run]) -> float:
    """Return the target of the runs' track: this checkout's, of a track that it lacks the logs' own."""
    if row := row_of(runs):
        return float(row["target"])
    found = {number(run.log.track["target"]) for run in runs if run.log and "target" in run.log.track}
    if len(found) != 1 or not is_finite(target := found.pop()):
        raise ReadError("the logs do not give one target; name it with --target")
    return target


def against(found: Outcome, target: float, alpha: float = ALPHA) -> dict[str, Any]:
    """Return all that losses say of mean < target, with the verdict."""
    if found.invalid:
        return {"target": target, "word": "INVALID", "reason": "; ".join(found.invalid), "test": None}
    losses, n = list(found.losses.values()), len(found.losses)
    verdict = significance.decide(losses, target, alpha)
    test = verdict.test
    passes, left, _, z_p = significance.z_rule(test.mean, n, target)
    judged = {"target": target, "word": verdict.word, "reason": verdict.reason, "alpha": alpha,
              "test": test, "bound": significance.upper_bound(test, 1 - alpha),
              "z_rule": {"passes": passes, "left": left, "p": z_p},
              "below": {"runs": sum(loss <= target for loss in losses)}, "power": None, "runs_for_90": None}
    if not test.degenerate and test.t < -0.01:  # above that, the number of runs has no use
        d = -test.t / math.sqrt(n)
        judged |= {"power": significance.power(n, d, alpha),
                   "runs_for_90": significance.runs_needed(d, 1, 0.9, alpha)}
    return judged


def against_lines(found: dict[str, Any]) -> list[str]:
    """Return the tests of losses against a target, for people."""
    test, verdict = found["test"], f"{found['word']}: {found['reason']}"
    lines = [f"target      {found['target']:.7g}"]
    if test is None:
        return [*lines, verdict]
    z, spread = found["z_rule"], "" if test.sd is None else f", sd {test.sd:.3g}"
    lines += [f"mean        {test.mean:.7g}{spread}", test_line("t test", test),
              f"{100 * (1 - found['alpha']):g} % bound  {found['bound']:.7g}",
              f"z rule      {'passes' if z['passes'] else 'fails'}: {z['left']:.5g}, 0.004 needed; "
              f"p {z['p']:.3g} if sigma is {SIGMA}"]
    if found["power"] is not None:
        lines.append(f"power       {found['power']:.3g} if mean and sd are as measured; 0.9 takes "
                     f"{found['runs_for_90']} runs")
    known = "; verify counts the attempts that are not here" if found["word"] == "PROVEN" else ""
    return [*lines, f"in reach    {found['below']['runs']} of {test.n} runs at or below the target",
            verdict + known]


def places(runs: list[Run]) -> str | None:
    """Return why times do not compare, None where nothing speaks against it."""
    found = {run.device and f"{run.device}, {run.world_size} ranks" for run in runs}
    if None in found:
        return "not all logs tell their device"
    return None if len(found) == 1 else f"devices differ ({shown('; '.join(sorted(found)), 200)})"


def compare(new: Outcome, old: Outcome, margin: float | None, apart: str | None) -> dict[str, Any]:
    """Return what new minus old is, in loss and where it can be told in time, with the verdict on the loss.

    apart: why times do not compare.
    """
    if new.invalid or old.invalid:
        return {"word": "INVALID", "reason": "; ".join(new.invalid + old.invalid), "test": None}
    found: dict[str, Any] = {"loss": tests(new.losses, old.losses)}
    if margin is not None:
        found["margin"] = {"nats": margin, **tests(new.losses, old.losses, margin)}
    passes, left = significance.pairwise_rule(-found["loss"]["welch"].mean, old.step - new.step,
                                              len(new.losses), len(old.losses))
    found["pairwise_rule"] = {"passes": passes, "left": left}
    times = [*new.times_ms.values(), *old.times_ms.values()]
    found["no_time"] = apart or ("not all logs tell their time" if None in times else None)
    found["time"] = None if found["no_time"] else tests(new.times_ms, old.times_ms)
    name, test = significance.lower(new.losses, old.losses, margin or 0)
    claim = "the new loss is lower" if margin is None else f"the new loss is worse by less than {margin:g}"
    level = "no spread, no test" if test.degenerate else f"p {test.p:.3g}, wanted below {ALPHA:g}"
    return {**found, "word": significance.plain_word(test), "test": test,
            "reason": f"{claim}: {level} ({name})"}


def tests(new: dict[Hashable, float], old: dict[Hashable, float], margin: float = 0) -> dict[str, Any]:
    """Return means, Welch's test and, over the seeds that both have, the paired one of new - old < margin."""
    shared = [seed for seed in new if isinstance(seed, int) and seed in old]
    pairs = [new[seed] for seed in shared], [old[seed] for seed in shared]
    a, b = list(new.values()), list(old.values())
    return {"new": significance.one_sample(a, 0).mean, "old": significance.one_sample(b, 0).mean,
            "welch": significance.welch(a, b, margin),
            "paired": significance.paired(*pairs, margin) if len(shared) > 1 else None}


def compare_lines(found: dict[str, Any]) -> list[str]:
    """Return the tests of runs against other runs, for people."""
    lines = []
    for name, unit, label in (("loss", 1, "loss"), ("margin", 1, "margin"), ("time", 1e3, "seconds")):
        if part := found.get(name):
            new, old = part["new"] / unit, part["old"] / unit
            lines.append(f"{label:<11} new {new:.7g}, old {old:.7g}, difference {new - old:+.4g}"
                         + (f", allowed {part['nats']:g}" if name == "margin" else ""))
            lines += [test_line(test, part[test]) for test in ("welch", "paired") if part[test]]
    if rule := found.get("pairwise_rule"):
        lines.append(f"pairwise    {'passes' if rule['passes'] else 'fails'}: {rule['left']:.5g}, 0.004 "
                     "needed where 100 steps count 0.0045")
        lines.append(f"times do not compare: {found['no_time']}" if found["no_time"] else
                     "times compare only where all ran in turns on one host; logs do not tell it, see race")
    return [*lines, f"{found['word']}: {found['reason']}"]


def test_line(name: str, test: Test) -> str:
    """Return the numbers of a test."""
    numbers = "no spread, no p" if test.degenerate else f"t {test.t:.4g}, df {test.df:.4g}, p {test.p:.3g}"
    return f"{name:<11} {numbers}, {test.n} values"
