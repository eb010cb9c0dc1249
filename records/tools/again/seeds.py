"""Repeats a run, one seed after another, until the track's rule decides; goes on where it was ended."""
import argparse
import fcntl
import itertools
import json
import os
import re
import shlex
import statistics
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from records.tools.again import launch as launches
from records.tools.again.judge import judge_all
from records.tools.check.claim import LEDGER, attempts
from records.tools.check.race import ENDED_BY_USER
from records.tools.check.significance import ALPHA, LOOKS, Verdict, decide
from records.tools.read.log import Log, read_json, read_log, sha256
from records.tools.read.tracks import own_row
from records.tools.read.values import ReadError, canonical, shown, write_whole

RUNS = launches.ROOT / "records" / "runs"
SIDE_BY_SIDE = "--side_by_side"
NOT_HERE = {"seed": "a campaign sets the seeds itself", "resume": "a resumed run is no run of its own",
            "stop_at_step": "a stopped run has no final loss", "nnodes": "a campaign runs on one host"}


ARGUMENTS = {
    "--json": "print the verdict as one JSON object",
    "count": {"metavar": "auto|N", "help": "auto: until the rule decides; N: so many seeds"},
    "flags": {"nargs": argparse.REMAINDER, "metavar": "...",
              "help": "flags of the run; --side_by_side: runs at once, each on one GPU or core, whose times "
              "claim nothing; --keep_weights true: keep them once the runs are judged"},
}


def main(arguments: argparse.Namespace) -> int:
    """Run the seeds that are missing and say the verdict; return the exit code."""
    if not re.fullmatch("auto|[1-9][0-9]{0,3}", arguments.count):
        raise ReadError(f"--seeds {shown(arguments.count)}: expected auto or a whole number from 1")
    looks = LOOKS if arguments.count == "auto" else (int(arguments.count),)
    flags = launches.parse_flags([word for word in arguments.flags if word != SIDE_BY_SIDE])
    for name in NOT_HERE.keys() & flags.keys():
        raise ReadError(f"--{name} together with --seeds: {NOT_HERE[name]}; leave it out")
    script = Path(flags.get("script", launches.ROOT / "train_gpt2.py"))
    code = launches.load(script)
    device = [f"--device={flags['device']}"] if "device" in flags else []
    keep = flags.pop("keep_weights", "false")
    if keep not in ("true", "false"):
        raise ReadError(f"--keep_weights {shown(keep)}: expected true or false")
    places: list[dict[str, str] | None] = [None]
    if SIDE_BY_SIDE in arguments.flags:
        places = places_for(code, flags)
        flags["nproc_per_node"] = "1"
    track = flags.pop("track", None) or launches.default_track(device)
    row = own_row(track, launches.ROOT)
    if not row.get("target"):
        raise ReadError(f"track {shown(track)}: no target, so no rule decides; name another one")
    alpha = row.get("significance", {}).get("alpha", ALPHA)
    file, state = open_campaign({"code": code.digest, "track": track, "flags": dict(sorted(flags.items())),
                                 "target": row["target"], "alpha": alpha, "looks": list(LOOKS)})
    verdict = Verdict("NOT SHOWN", "no runs", None)
    with launches.Signals() as signals:
        while True:
            logs = [finished(name, code.digest, seed) for seed, name in enumerate(state["logs"])]
            losses = [log.vals[-1].val_loss for log in logs if log.status == "ok" and log.vals]
            if len(losses) < len(logs):  # dropping a run that failed would be a choice after the fact
                lost = next(i for i, log in enumerate(logs) if log.status != "ok" or not log.vals)
                verdict = Verdict("INVALID", f"seed {lost} ended {shown(logs[lost].status)}", None)
                break
            if losses:
                verdict = decide(losses, row["target"], alpha)
                print(f"after {len(losses)} runs: {verdict.word}: {verdict.reason}", file=sys.stderr)
            if len(losses) >= looks[-1] or (len(losses) in looks and verdict.word in ("PROVEN", "REFUTED")):
                break
            if launches.load(script).digest != code.digest:
                raise ReadError("the code was changed while the campaign ran; start again: that is another "
                                "campaign")
            here = places[:next(look for look in looks if look > len(logs)) - len(logs)]
            repeat(state, file, signals, here)
            if signals.caught or len(state["logs"]) < len(logs) + len(here):
                raise KeyboardInterrupt("interrupted; the same command goes on with this campaign")
        bad = judge_all([RUNS / name for name in state["logs"]], signals, keep == "true")
    if bad:
        verdict = Verdict("INVALID", f"by the judge {', '.join(map(shown, bad))} does not hold", None)
    logs_named = *state["logs"], *runs_beside(logs, code.digest, track)
    names = [os.path.relpath(RUNS / name) for name in logs_named]
    if arguments.json:
        print(json.dumps({"word": verdict.word, "reason": verdict.reason, "logs": names}))
    else:
        print(f"{verdict.word}: {verdict.reason}")
        print(next_step(verdict, losses, row["target"], names))
    return 0 if verdict.word == "PROVEN" else 1


def runs_beside(logs: list[Log], digest: str, track: str) -> list[str]:
    """Return the names of finished runs of this code on as many ranks that no campaign made.

    They are attempts too, and a seed that is there twice counts once.
    """
    ledger, here = RUNS / LEDGER, {log.path.name for log in logs}
    found = {f"{run['run_id']}.txt" for run in (attempts(ledger, digest, track) if ledger.is_file() else ())
             if run["status"] == "ok"} - here
    return [name for name in sorted(found) if (RUNS / name).is_file() and
            read_log(RUNS / name).manifest.get("world_size") == logs[0].manifest.get("world_size")]


def next_step(verdict: Verdict, losses: list[float], target: float, names: list[str]) -> str:
    """Return the command that submits a campaign, or why nobody would take it for a record."""
    if verdict.word in ("PROVEN", "PROMISING"):
        return f"+ python -m records submit {shlex.join(names)} --name NAME"
    if verdict.word == "INVALID":
        return "nothing to submit"
    above = statistics.fmean(losses) - target
    if verdict.word == "NOT SHOWN" and above < 0:
        if len(losses) >= LOOKS[-1]:
            return "nothing to submit: no declared look is left"
        return f"nothing to submit yet: n={len(losses)}, too few or too far apart; --seeds auto goes on"
    return f"nothing to submit: the mean loss is {above:.4g} above the target {target:g}"


def open_campaign(declared: dict[str, Any]) -> tuple[Path, dict[str, Any]]:
    """Return file and state of the campaign that was declared so; a new one is written before any run."""
    same = {name: declared[name] for name in ("code", "track", "flags")}
    file = RUNS / f"seeds_{sha256(canonical(same))[:12]}.json"
    if not file.exists():
        state = {**declared, "attempts": 0, "logs": []}
        write_whole(file, json.dumps(state, indent=1) + "\n")
        looks = declared["looks"]
        print(f"new campaign, declared in {os.path.relpath(file)}: target {declared['target']}, looks at "
              f"{looks} runs, each at alpha {declared['alpha']}/{len(looks)}", file=sys.stderr)
        return file, state
    state = read_json(file, {"attempts": int, "logs": list})
    if other := [name for name in declared if state.get(name) != declared[name]]:
        raise ReadError(f"{file.name}: declares another {', '.join(other)} than this checkout's now; the "
                        f"rule of a campaign does not change under way")
    if not all(isinstance(name, str) and Path(name).name == name for name in state["logs"]):
        raise ReadError(f"{file.name}: its logs are not names of files beside it")
    print(f"going on with {os.path.relpath(file)}: {len(state['logs'])} runs so far", file=sys.stderr)
    return file, state


def places_for(code: launches.Code, flags: dict[str, str]) -> list[dict[str, str] | None]:
    """Return the places of this host for runs at once. Raises ReadError where they would train otherwise."""
    if "nproc_per_node" in flags:
        raise ReadError(f"--nproc_per_node together with {SIDE_BY_SIDE}: each run has one GPU or core; leave "
                        f"it out")
    if own := [path for path, source in code.files.items() if re.search(rb"\breduce *= *False\b", source)]:
        raise ReadError(f"{shown(own[0])}: sums gradients by itself (reduce=False), so one rank may train "
                        f"otherwise than several; leave {SIDE_BY_SIDE} out")
    if len(places := launches.places(flags.get("device"))) < 2:
        raise ReadError(f"{SIDE_BY_SIDE}: this host has one GPU or core, expected several; leave it out")
    return [*places]


def repeat(state: dict[str, Any], file: Path, signals: launches.Signals,
           places: list[dict[str, str] | None]) -> None:
    """Run the next seeds of a campaign, one a place, and note their logs up to one that was interrupted."""
    seeds = [len(state["logs"]) + i for i in range(len(places))]
    state["attempts"] += len(seeds)
    if places[0] is not None:
        state.setdefault("side_by_side", []).append(seeds)
    write_whole(file, json.dumps(state, indent=1) + "\n")
    print(f"seed {', '.join(map(str, seeds))}", file=sys.stderr)
    try:
        with ThreadPoolExecutor(len(seeds)) as pool:  # a thread waits for a run
            logs = list(pool.map(partial(run_seed, state, signals), seeds, places))
    except ReadError:
        if state["attempts"] == len(seeds):
            file.unlink()  # nothing ran: the flags were refused, so nothing was declared
        raise
    if places[0] is not None:
        with open(RUNS / LEDGER, "ab", buffering=0) as ledger:  # in one write, beside those of other runs
            fcntl.flock(ledger, fcntl.LOCK_EX)
            names = [log.path.stem for log in logs if log]
            ledger.write(canonical({"what": "side_by_side", "run_ids": names}) + b"\n")
    done = itertools.takewhile(lambda log: log and log.status not in ENDED_BY_USER, logs)
    state["logs"] += [log.path.name for log in done]
    write_whole(file, json.dumps(state, indent=1) + "\n")


def run_seed(state: dict[str, Any], signals: launches.Signals, seed: int,
             place: dict[str, str] | None) -> Log | None:
    """Run one seed of a campaign; return its log, None where it was interrupted before it had one."""
    asked = {"code": state["code"], "track": state["track"], "seed": seed}
    words = [f"--{name}={value}" for name, value in {**state["flags"], **asked}.items() if name != "code"]
    try:
        logs = [read_log(path) for path in launches.launch(launches.ROOT, words, Path.cwd(), signals, place)]
    except launches.Interrupted:
        return None
    # other runs of this checkout may have ended meanwhile
    own = [log for log in logs if asked_of(log) == asked]
    if len(own) != 1:
        raise ReadError(f"{len(own)} new logs of this code with seed {asked['seed']}, expected one; where "
                        f"the code loads files that no import statement names, a campaign cannot tell its "
                        f"runs")
    return own[0]


def finished(name: str, digest: str, seed: int) -> Log:
    """Return the log of a run of the campaign. Raises ReadError where it is another's."""
    log = read_log(RUNS / name)
    if asked_of(log) | {"track": None} != {"code": digest, "track": None, "seed": seed}:
        raise ReadError(f"{shown(name)}: not the log of this campaign's seed {seed}")
    return log


def asked_of(log: Log) -> dict[str, Any]:
    """Return what tells a campaign's runs from others: code, track, seed."""
    return {"code": log.manifest.get("code", {}).get("digest"), "track": log.manifest.get("track"),
            "seed": log.manifest.get("seed")}
