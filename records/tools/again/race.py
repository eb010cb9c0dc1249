"""Runs submissions in turns on this host, ABBA ABBA ..., and tests which is faster to an equal loss."""
import argparse
import json
import math
import shlex
import statistics
import sys
from pathlib import Path
from typing import Any

from records.tools.again import launch as launches
from records.tools.again.judge import judge_all
from records.tools.check.race import ENDED_BY_USER, RACE, SIDES, Race, declaration
from records.tools.read.log import read_log
from records.tools.read.logs import locate
from records.tools.read.tracks import load_rows, own_row
from records.tools.read.values import ReadError, json_text, shown, write_whole

ARGUMENTS = {
    "sides": {"metavar": "SIDE", "nargs": "+", "type": locate,
              "help": "a record, log, working tree or script. Of two, A and B: is A faster; of more: is any "
                      "faster than the first"},
    "-n": {"type": int, "default": 8, "metavar": "PAIRS",
           "help": "runs of each side that count; at least 2, since one has no spread to test with. One more "
                   "is run before them, and dropped (default: %(default)s)"},
    "--to": {"metavar": "DIR", "type": Path, "help": "default: records/runs/races/<A's>_<B's code>"},
    "--yes": "run the code without asking",
    "--seed0": {"type": int, "default": 0, "metavar": "SEED", "help": "pair i runs with seed SEED + i"},
    "--track": {"help": "where no log names it; default: that of the launcher on this host"},
    "--nproc_per_node": {"type": int, "metavar": "RANKS", "help": "default: the launcher's choice"},
    "--keep_weights": "keep the weights of runs that are judged",
    "--json": "print one JSON object, of more than two sides one for each but A",
}


def main(arguments: argparse.Namespace) -> int:
    """Race, or go on with a race that was ended, and judge it; return the exit code.

    0 where A is faster than B, or any of more sides than A; 1 where none is shown to be, 2 where undecided.
    """
    if arguments.n < 2:
        raise ReadError(f"-n {arguments.n}: expected at least 2 pairs, for a spread")
    if not 2 <= len(arguments.sides) <= len(SIDES):
        raise ReadError(f"{len(arguments.sides)} sides: expected 2 to {len(SIDES)}")
    if arguments.nproc_per_node is not None and arguments.nproc_per_node < 1:
        raise ReadError(f"--nproc_per_node {arguments.nproc_per_node}: expected at least 1 rank")
    codes = dict(zip(SIDES, map(launches.load, arguments.sides)))
    declared = declare(codes, arguments)
    default = launches.ROOT / "records/runs/races" / "_".join(code.digest[:8] for code in codes.values())
    race = Race(arguments.to or default)
    if not (file := race.folder / RACE).exists():
        race.plan = declared | {"attempts": []}
    if other := [name for name in declared if race.plan.get(name) != declared[name]]:
        raise ReadError(f"{shown(str(file))}: declares another race (its {', '.join(other)} differ); name "
                        f"another folder with --to, or repeat that race's arguments")
    if next_slot(race.plan) is not None:
        launches.consent(list(codes.values()), arguments.yes)
    with launches.Signals() as signals:
        while (slot := next_slot(race.plan)) is not None:
            run_slot(race, slot, codes, signals)
            if signals.caught or race.plan["attempts"][-1]["status"] in (None, *ENDED_BY_USER):
                raise KeyboardInterrupt("interrupted; the same command goes on with the race")
        logs = [race.folder / attempt["log"] for attempt in race.plan["attempts"] if attempt["log"]]
        bad = judge_all(logs, signals, arguments.keep_weights)
    new = race.sides[1:] if len(codes) > 2 else "A"  # the sides that may be faster than what was there
    found = {side: race.judge(side) for side in new}
    if arguments.json:
        print(json_text(found if len(new) > 1 else found["A"], None).strip())
    else:
        print(*(line for side in new for line in report(race, side, found[side])), sep="\n")
    if bad:
        print(f"by the judge {', '.join(map(shown, bad))} does not hold", file=sys.stderr)
        return 1
    verdicts = {each["verdict"] for each in found.values()}
    return 0 if "faster" in verdicts else 2 if "could not tell" in verdicts else 1


def declare(codes: dict[str, launches.Code], arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what is declared before the first run."""
    named = {*(code.track for code in codes.values()), arguments.track} - {None}
    if len(named) > 1:
        raise ReadError(f"tracks {shown(', '.join(sorted(named)))}: a race is run on one")
    track = named.pop() if named else launches.default_track([])
    own_row(track, launches.ROOT)
    sides = {x: {"code": c.digest, "script": c.script, "flags": c.flags} for x, c in codes.items()}
    return {**declaration("".join(codes), arguments.n), **sides, "track": track,
            "ranks": arguments.nproc_per_node, "seeds": [arguments.seed0 + i for i in range(arguments.n + 1)]}


def next_slot(plan: dict[str, Any]) -> int | None:
    """Return the number of the next run, counted from 0; None where all are done, or one of them failed."""
    if any(attempt.get("status") not in ("ok", None, *ENDED_BY_USER) for attempt in plan["attempts"]):
        return None  # a run that failed decides: it is evidence, and is not repeated
    done = {attempt["run"] for attempt in plan["attempts"] if attempt.get("status") == "ok"}
    return next((slot for slot in range(len(plan["order"])) if slot not in done), None)


def run_slot(race: Race, slot: int, codes: dict[str, launches.Code], signals: launches.Signals) -> None:
    """Make one run of a race, noting the attempt before and its log after."""
    plan, folder = race.plan, race.folder
    code, seed = codes[plan["order"][slot]], plan["seeds"][slot // len(codes)]
    attempt: dict[str, Any] = {"run": slot, "log": None, "status": None}  # stays so where it is killed
    plan["attempts"].append(attempt)
    write_whole(folder / RACE, json.dumps(plan, indent=1) + "\n")
    print(f"run {slot + 1} of {len(plan['order'])}: {plan['order'][slot]}, seed {seed}", file=sys.stderr)
    flags = [*code.flags, f"--seed={seed}"] + [f"--nproc_per_node={plan['ranks']}"] * bool(plan["ranks"])
    try:
        path = launches.run(code, plan["track"], flags, folder, signals)
    except launches.Interrupted:
        return
    log = read_log(path)
    if log.manifest and log.manifest["code"].get("digest") != code.digest:
        raise ReadError(f"{path.name}: ran other code than declared; does {shown(code.script)} load files "
                        f"that no import statement names?")
    attempt |= {"log": path.name, "status": log.status}
    write_whole(folder / RACE, json.dumps(plan, indent=1) + "\n")


def report(race: Race, side: str, found: dict[str, Any]) -> list[str]:
    """Return what a race shows of a side, in lines for people; the last one makes a record of it."""
    other, folder = found["against"], race.folder
    lines = [f"  pair {i}: {side} {a:.2f} s, {other} {b:.2f} s, {a - b:+.2f} s; "
             f"final loss {side} {x:.4f}, {other} {y:.4f}"
             for i, ((a, b), (x, y)) in enumerate(zip(found["times"], found["losses"]), start=1)]
    holm = f" by Holm's correction for {len(race.sides) - 1} tests" if len(race.sides) > 2 else ""
    if "loss" in found:
        lines += [f"time to val_loss {found['loss']:.4f}: {side} - {other} = {found['difference_s']:+.3f} s "
                  f"({found['difference_percent']:+.2f} %), sd {found['sd_s']:.3f} s; t {found['t']:.2f}, df "
                  f"{found['df']:g}, p {found['p']:.3g}{holm}; with 99 % below {found['bound_s']:+.3f} s",
                  f"final loss: {side} - {other} = {found['loss_difference']:+.5f} nats on average"]
    lines.append(f"{found['attempts']} attempts, {found['killed']} of them killed or interrupted")
    lines.append(f"{side} is {found['verdict']} than {other}" if found["verdict"] in ("faster", "slower")
                 else f"{found['verdict']}: {found['reason']}")
    if found["pairs"] and (found["verdict"] == "faster" or len(race.sides) == 2):
        logs = [str(folder / attempt["log"]) for attempt in race.plan["attempts"] if attempt["status"] == "ok"
                and attempt["run"] >= len(race.sides) and race.plan["order"][attempt["run"]] == side]
        mean = statistics.fmean(a for a, _ in found["losses"])
        target = load_rows().get(race.plan["track"], {}).get("target", math.inf)
        lines.append(f"{side} is no record: its mean loss {mean:.4f} is above the target {target:g}"
                     if mean > target else
                     f"+ python -m records submit {shlex.join(logs)} --name NAME --race "
                     f"{shlex.quote(str(folder))}")
    return lines
