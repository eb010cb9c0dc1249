"""Runs two submissions in turns on this host, ABBA ABBA ..., and tests which is faster to an equal loss."""
import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import Any

from records.tools.again import launch as launches
from records.tools.check.race import ENDED_BY_USER, RACE, RULE, Race, order
from records.tools.read.log import read_log
from records.tools.read.tracks import own_row
from records.tools.read.values import ReadError, json_text, shown, write_whole

WORDS = {"faster": 0, "slower": 1, "no difference shown": 1}


ARGUMENTS = {
    "a": {"metavar": "A", "type": Path, "help": "record, log, working tree or script"},
    "b": {"metavar": "B", "type": Path, "help": "record, log, working tree or script"},
    "-n": {"type": int, "default": 8, "metavar": "PAIRS", "help": "that count; one more is run before"},
    "--to": {"metavar": "DIR", "type": Path, "help": "default: records/runs/races/<A's>_<B's code>"},
    "--yes": "run the code without asking",
    "--seed0": {"type": int, "default": 0, "metavar": "SEED", "help": "pair i runs with seed SEED + i"},
    "--track": {"help": "where no log names it; default: that of the launcher on this host"},
    "--nproc_per_node": {"type": int, "metavar": "RANKS", "help": "default: the launcher's choice"},
    "--json": "print one JSON object",
}


def main(arguments: argparse.Namespace) -> int:
    """Race, or go on with a race that was ended, and judge it; return the exit code."""
    if arguments.n < 2:
        raise ReadError(f"-n {arguments.n}: expected at least 2 pairs, for a spread")
    codes = {"A": launches.load(arguments.a), "B": launches.load(arguments.b)}
    declared = declare(codes, arguments)
    sides = "_".join(code.digest[:8] for code in codes.values())
    race = Race(arguments.to or launches.ROOT / "records" / "runs" / "races" / sides)
    if not (file := race.folder / RACE).exists():
        race.plan = declared | {"attempts": []}
    if other := [name for name in declared if race.plan.get(name) != declared[name]]:
        raise ReadError(f"{shown(str(file))}: declares another race (its {', '.join(other)} differ); name "
                        f"another folder with --to, or repeat that race's arguments")
    if next_slot(race.plan) is not None and not launches.consent(list(codes.values()), arguments.yes):
        print("not run", file=sys.stderr)
        return 2
    with launches.Signals() as signals:
        while (slot := next_slot(race.plan)) is not None:
            run_slot(race, slot, codes, signals)
            if signals.caught or race.plan["attempts"][-1]["status"] in (None, *ENDED_BY_USER):
                print("interrupted; the same command goes on with the race", file=sys.stderr)
                return 130
    found = race.judge()
    logs = [str(race.folder / attempt["log"]) for attempt in race.plan["attempts"]
            if attempt["status"] == "ok" and attempt["run"] > 1 and race.plan["order"][attempt["run"]] == "A"]
    print(json_text(found, None).strip() if arguments.json else "\n".join(report(found)))
    if found["pairs"] and not arguments.json:
        print(f"+ python -m records submit {shlex.join(logs)} --name NAME --race "
              f"{shlex.quote(str(race.folder))}")
    return WORDS.get(found["verdict"], 2)


def declare(codes: dict[str, launches.Code], arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what is declared before the first run."""
    named = {*(code.track for code in codes.values()), arguments.track} - {None}
    if len(named) > 1:
        raise ReadError(f"tracks {shown(', '.join(sorted(named)))}: a race is run on one")
    track = named.pop() if named else launches.default_track([])
    own_row(track, launches.ROOT)
    sides = {x: {"code": c.digest, "script": c.script, "flags": c.flags} for x, c in codes.items()}
    seeds = [arguments.seed0 + i for i in range(arguments.n + 1)]
    return {"format": 1, "track": track, **sides, "n": arguments.n, "ranks": arguments.nproc_per_node,
            "seeds": seeds, "order": order(len(seeds)), "rule": RULE}


def next_slot(plan: dict[str, Any]) -> int | None:
    """Return the number of the next run, counted from 0; None where all are done, or one of them failed."""
    if any(attempt.get("status") not in ("ok", None, *ENDED_BY_USER) for attempt in plan["attempts"]):
        return None  # a run that failed decides: it is evidence, and is not repeated
    done = {attempt["run"] for attempt in plan["attempts"] if attempt.get("status") == "ok"}
    return next((slot for slot in range(len(plan["order"])) if slot not in done), None)


def run_slot(race: Race, slot: int, codes: dict[str, launches.Code], signals: launches.Signals) -> None:
    """Make one run of a race, noting the attempt before and its log after."""
    plan, folder = race.plan, race.folder
    code, seed = codes[plan["order"][slot]], plan["seeds"][slot // 2]
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


def report(found: dict[str, Any]) -> list[str]:
    """Return what a race shows, in lines for people."""
    lines = [f"  pair {i}: A {a:.2f} s, B {b:.2f} s, {a - b:+.2f} s; final loss A {x:.4f}, B {y:.4f}"
             for i, ((a, b), (x, y)) in enumerate(zip(found["times"], found["losses"]), start=1)]
    if "loss" in found:
        lines += [f"time to val_loss {found['loss']:.4f}: A - B = {found['difference_s']:+.3f} s "
                  f"({found['difference_percent']:+.2f} %), sd {found['sd_s']:.3f} s; t {found['t']:.2f}, df "
                  f"{found['df']:g}, p {found['p']:.3g}; with 99 % below {found['bound_s']:+.3f} s",
                  f"final loss: A - B = {found['loss_difference']:+.5f} nats on average"]
    lines.append(f"{found['attempts']} attempts, {found['killed']} of them killed or interrupted")
    return [*lines, f"A is {found['verdict']} than B" if found["verdict"] in ("faster", "slower")
            else f"{found['verdict']}: {found['reason']}"]
