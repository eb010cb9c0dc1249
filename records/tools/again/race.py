"""Runs two submissions in turns on this host, ABBA ABBA ..., and tests which is faster to an equal loss."""
import argparse
import json
import math
import os
import shlex
import sys
from pathlib import Path
from typing import Any

from records.tools.again import launch as launches
from records.tools.check.claim import ENDED_BY_USER, RACE, own_row
from records.tools.check.significance import one_sample, plain_word, upper_bound
from records.tools.read.log import Log, read_bytes, read_log, sha256
from records.tools.again.rerun import status
from records.tools.read.values import ReadError, is_finite, json_text, need, parse_json, shown

ALPHA = 0.01
RULE = ("time at equal loss: the highest final val_loss among the kept runs; a run's time is where its "
        "validation curve first reaches that, linear between validations; paired one-sided t test at alpha "
        "0.01; pair 0 dropped")
HOST = ("cpu", "gpus", "torch", "cuda", "threads", "float32_matmul_precision")
WORDS = {"faster": 0, "slower": 1, "no difference shown": 1}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    for name in ("a", "b"):
        parser.add_argument(name, metavar=name.upper(), type=Path, help="record, log, working tree or script")
    parser.add_argument("-n", type=int, default=8, metavar="PAIRS", help="that count; one more is run before")
    parser.add_argument("--to", metavar="DIR", type=Path, help="default: records/runs/races/<A's>_<B's code>")
    parser.add_argument("--yes", action="store_true", help="run the code without asking")
    parser.add_argument("--seed0", type=int, default=0, metavar="SEED", help="pair i runs with seed SEED + i")
    parser.add_argument("--track", help="where no log names it; default: that of the launcher on this host")
    parser.add_argument("--nproc_per_node", type=int, metavar="RANKS", help="default: the launcher's choice")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def main(arguments: argparse.Namespace) -> int:
    """Race, or go on with a race that was ended, and judge it; return the exit code."""
    if arguments.n < 2:
        raise ReadError(f"-n {arguments.n}: expected at least 2 pairs, for a spread")
    codes = {"A": launches.load(arguments.a), "B": launches.load(arguments.b)}
    plan = declare(codes, arguments)
    folder = arguments.to or (launches.ROOT / "records" / "runs" / "races"
                              / f"{codes['A'].digest[:8]}_{codes['B'].digest[:8]}")
    file = folder / RACE
    race = read_race(folder) if file.exists() else {**plan, "attempts": []}
    if other := [name for name in plan if race.get(name) != plan[name]]:
        raise ReadError(f"{shown(str(file))}: declares another race (its {', '.join(other)} differ); name "
                        f"another folder with --to, or repeat that race's arguments")
    if next_slot(race) is not None and not launches.consent(list(codes.values()), arguments.yes):
        print("not run", file=sys.stderr)
        return 2
    with launches.Signals() as signals:
        while (slot := next_slot(race)) is not None:
            if any(attempt.get("status") not in ("ok", None, *ENDED_BY_USER) for attempt in race["attempts"]):
                break  # a run that failed decides: it is evidence, and is not repeated
            take(race, slot, codes, folder, signals)
            if signals.caught or race["attempts"][-1]["status"] in (None, *ENDED_BY_USER):
                print("interrupted; the same command goes on with the race", file=sys.stderr)
                return 130
    found = judge(folder)
    print(json_text(found, None).strip() if arguments.json else "\n".join(told(found)))
    if found["pairs"] and not arguments.json:
        logs = [str(folder / attempt["log"]) for attempt in race["attempts"] if attempt["status"] == "ok"
                and attempt["run"] > 1 and race["order"][attempt["run"]] == "A"]
        print(f"+ python -m records submit {shlex.join(logs)} --name NAME --race {shlex.quote(str(folder))}")
    return WORDS.get(found["verdict"], 2)


def declare(codes: dict[str, launches.Code], arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what is declared before the first run."""
    named = {*(code.track for code in codes.values()), arguments.track} - {None}
    if len(named) > 1:
        raise ReadError(f"tracks {shown(', '.join(sorted(named)))}: a race is run on one")
    track = named.pop() if named else launches.default_track([])
    own_row(track, launches.ROOT)
    pairs = range(arguments.n + 1)
    sides = {x: {"code": c.digest, "script": c.script, "flags": c.flags} for x, c in codes.items()}
    return {"format": 1, "track": track, **sides, "n": arguments.n, "ranks": arguments.nproc_per_node,
            "seeds": [arguments.seed0 + i for i in pairs], "order": order(arguments.n + 1), "rule": RULE}


def order(pairs: int) -> list[str]:
    """Return which side runs when: ABBA ABBA ..."""
    return [side for i in range(pairs) for side in ("AB", "BA")[i % 2]]


def read_race(folder: Path) -> dict[str, Any]:
    """Return a race.json whose fields have the right types. Raises ReadError for any other."""
    race = parse_json(read_bytes(folder / RACE).decode(errors="replace"))
    for name, kind in {"format": int, "track": str, "A": dict, "B": dict, "n": int, "seeds": list,
                       "order": list, "rule": str, "attempts": list}.items():
        need(race, name, kind)
    pairs = race["n"] + 1
    if race["format"] != 1 or race["rule"] != RULE or not 2 <= race["n"] <= 10_000 \
            or len(race["seeds"]) != pairs or race["order"] != order(pairs):
        raise ReadError("race.json: does not declare a race of format 1 with this rule and order")
    if len({s for s in race["seeds"] if type(s) is int}) != pairs:
        raise ReadError("race.json: expected a different whole number as seed for each pair")
    for attempt in race["attempts"]:
        log = attempt.get("log") if isinstance(attempt, dict) else 0
        if not isinstance(log, (str, type(None))) or (log and Path(log).name != log) \
                or type(attempt.get("run")) is not int:
            raise ReadError("race.json: an attempt is no object with run and the name of a log")
        if attempt["run"] not in range(len(race["order"])):
            raise ReadError(f"race.json: an attempt is of run {attempt['run']}; {len(race['order'])} are "
                            f"declared, counted from 0")
    return race


def next_slot(race: dict[str, Any]) -> int | None:
    """Return the number of the next run, counted from 0; None where all are done."""
    done = {attempt["run"] for attempt in race["attempts"] if attempt.get("status") == "ok"}
    return next((slot for slot in range(len(race["order"])) if slot not in done), None)


def take(race: dict[str, Any], slot: int, codes: dict[str, launches.Code], folder: Path,
         signals: launches.Signals) -> None:
    """Make one run of a race, noting the attempt before and its log after."""
    side, seed = race["order"][slot], race["seeds"][slot // 2]
    attempt: dict[str, Any] = {"run": slot, "log": None, "status": None}  # stays so where it is killed
    race["attempts"].append(attempt)
    write(race, folder)
    print(f"run {slot + 1} of {len(race['order'])}: {side}, seed {seed}", file=sys.stderr)
    flags = [*codes[side].flags, f"--seed={seed}"]
    flags += [f"--nproc_per_node={race['ranks']}"] if race["ranks"] else []
    try:
        path = launches.run(codes[side], race["track"], flags, folder, signals)
    except launches.Interrupted:
        return
    log = read_log(path)
    if log.manifest and log.manifest["code"].get("digest") != codes[side].digest:
        raise ReadError(f"{path.name}: ran other code than declared; does {shown(codes[side].script)} load "
                        f"files that no import statement names?")
    attempt |= {"log": path.name, "status": status(log)}
    write(race, folder)


def write(race: dict[str, Any], folder: Path) -> None:
    """Write race.json whole, in place of the one before."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{RACE}.part").write_text(json.dumps(race, indent=1) + "\n")
    os.replace(folder / f"{RACE}.part", folder / RACE)


# the verdict


def side_of(race: dict[str, Any], code: str) -> str:
    """Return the side, A or B, on which some code ran. Raises ReadError where it was on neither."""
    side = next((side for side in "AB" if race[side].get("code") == code), None)
    if side is None:
        codes = " and ".join(shown(str(race[side].get("code"))[:8]) for side in "AB")
        raise ReadError(f"the race is of code {codes}, the logs are of {shown(code[:8])}; race their code")
    return side


def attempts_of(folder: Path, code: str) -> list[dict[str, Any]]:
    """Return every attempt of a race with some code: run_id, seed, sha256 of its log, status.

    "dropped" are those of the first pair, as the rule says. Raises ReadError where a log cannot be read.
    """
    race, found = read_race(folder), []
    for i, attempt in enumerate(race["attempts"]):
        slot, name = attempt["run"], attempt.get("log")
        if race[race["order"][slot]].get("code") != code:
            continue
        data = read_bytes(folder / name) if name else b""
        found.append({"run_id": Path(name).stem if name else f"attempt {i + 1}", "dropped": slot < 2,
                      "seed": race["seeds"][slot // 2], "sha256": sha256(data) if name else None,
                      "status": status(read_log(folder / name, data)) if name else "incomplete"})
    return found


def judge(folder: Path, side: str = "A") -> dict[str, Any]:
    """Return what a race shows, out of race.json and the logs alone; "verdict" is a word, "reason" says why.

    "verdict": faster, slower, no difference shown (a side against the other) or could not tell; "pairs" that
    count; "p" is nan where nothing was tested. Raises ReadError where a file cannot be read.
    """
    race = read_race(folder)
    found: dict[str, Any] = {"verdict": "could not tell", "reason": "", "pairs": 0, "p": math.nan,
                             "attempts": len(race["attempts"]), "killed": 0, "times": [], "losses": []}
    logs, bad = {}, []
    for attempt in race["attempts"]:
        if not attempt.get("log"):
            found["killed"] += 1
            continue
        log = read_log(folder / attempt["log"])
        if status(log) in ENDED_BY_USER:
            found["killed"] += 1
        elif status(log) != "ok":
            bad.append(f"{attempt['log']} (run {attempt['run'] + 1}) ended {status(log)}")
        elif attempt["run"] in logs:
            bad.append(f"run {attempt['run'] + 1} has two finished logs")
        else:
            logs[attempt["run"]] = log
    missing = [str(slot + 1) for slot in range(len(race["order"])) if slot not in logs]
    bad += [f"{len(missing)} of {len(race['order'])} runs are missing"] if missing and not bad else []
    bad = bad or misfits(race, [logs[slot] for slot in range(len(race["order"]))])
    if bad:
        return {**found, "reason": shown("; ".join(bad), 400)}
    kept = [{race["order"][slot]: logs[slot] for slot in (2 * i, 2 * i + 1)} for i in range(1, race["n"] + 1)]
    return found | measure(kept, side)


def misfits(race: dict[str, Any], logs: list[Log]) -> list[str]:
    """Return what keeps the runs of a race from being compared."""
    wrong = []
    harnesses = {str(log.manifest["code"].get("harness")) for log in logs}
    accepted = own_row(race["track"], launches.ROOT).get("harness", {}) if len(harnesses) > 1 else harnesses
    if not harnesses <= set(accepted):
        wrong.append("the sides ran on different harnesses, not all of them accepted by the track")
    hosts: dict[str, str] = {}
    begun = -math.inf
    for slot, log in enumerate(logs):
        manifest, side = log.manifest, race["order"][slot]
        sys_facts = manifest.get("sys") if isinstance(manifest.get("sys"), dict) else {}
        data = manifest.get("data") if isinstance(manifest.get("data"), dict) else {}
        host = {**{name: sys_facts.get(name) for name in HOST}, "world size": manifest.get("world_size"),
                "validation": data.get("val")}
        for name, value in host.items():
            if hosts.setdefault(name, repr(value)) != repr(value):
                wrong.append(f"{log.path.name}: another {name} than the runs before")
        for name, declared, there in (("code", race[side].get("code"), manifest["code"].get("digest")),
                                      ("seed", race["seeds"][slot // 2], manifest.get("seed")),
                                      ("track", race["track"], manifest.get("track"))):
            if there != declared:
                wrong.append(f"{log.path.name}: {name} {there}, declared {declared}")
        first = logs[race["order"].index(side)].manifest
        if repr(manifest.get("hyperparameters")) != repr(first.get("hyperparameters")):
            wrong.append(f"{log.path.name}: other hyperparameters than the first run of {side}")
        if manifest.get("resumed_from"):
            wrong.append(f"{log.path.name}: a resumed run")
        clocks = manifest.get("clocks")
        now = clocks.get("realtime_ns") if isinstance(clocks, dict) else None
        if type(now) is not int or now <= begun:
            wrong.append(f"{log.path.name}: not begun after the run before it")
        begun = now if type(now) is int else begun
        if not log.vals or not is_finite(log.vals[-1].val_loss):
            wrong.append(f"{log.path.name}: no final loss")
    return wrong


def measure(kept: list[dict[str, Log]], side: str) -> dict[str, Any]:
    """Return loss, times, the paired test and the verdict over pairs of fit logs, side against other side."""
    sides = side, "AB".replace(side, "")
    finals = [[pair[side].vals[-1].val_loss for pair in kept] for side in sides]
    loss = max(map(max, finals))
    times = [[time_to(pair[side], loss) for pair in kept] for side in sides]
    test = one_sample([a - b for a, b in zip(*times)], 0)
    mean_other = math.fsum(times[1]) / len(kept)
    word = {"PROMISING": "faster", "REFUTED": "slower"}.get(plain_word(test, ALPHA), "no difference shown")
    t, df, p = (math.nan if x is None else x for x in (test.t, test.df, test.p))
    return {"verdict": word, "pairs": len(kept), "loss": loss, "times": list(zip(*times)),
            "losses": list(zip(*finals)), "difference_s": test.mean, "sd_s": test.sd,
            "difference_percent": 100 * test.mean / mean_other if mean_other else math.nan,
            "t": t, "df": df, "p": p,
            "bound_s": upper_bound(test, 1 - ALPHA),
            "loss_difference": math.fsum(a - b for a, b in zip(*finals)) / len(kept),
            "reason": f"{' against '.join(sides)} over {len(kept)} pairs: {test.mean:+.3f} s, p {p:.3g}"}


def time_to(log: Log, loss: float) -> float:
    """Return the seconds of training after which a run first validated at a loss, linear in between."""
    before = None
    for val in log.vals:
        if val.val_loss <= loss:
            if before is None:
                return val.train_time_ns / 1e9
            fall = before.val_loss - val.val_loss
            part = (before.val_loss - loss) / fall if is_finite(fall) else 1.0
            return (before.train_time_ns + part * (val.train_time_ns - before.train_time_ns)) / 1e9
        before = val
    raise ReadError(f"{shown(log.path.name)}: never reaches {loss}")


def told(found: dict[str, Any]) -> list[str]:
    """Return the lines that a person reads."""
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
