"""What a finished race shows, out of race.json and its logs alone: which side is faster to an equal loss."""
import math
from pathlib import Path
from typing import Any

from records.tools.check.claim import ENDED_BY_USER, RACE
from records.tools.check.significance import one_sample, upper_bound
from records.tools.read.log import Log, read_bytes, read_log, sha256
from records.tools.read.tracks import accepted_harnesses
from records.tools.read.values import ReadError, is_finite, need, parse_json, shown

ALPHA = 0.01
RULE = ("time at equal loss: the highest final val_loss among the kept runs; a run's time is where its "
        "validation curve first reaches that, linear between validations; paired one-sided t test at alpha "
        "0.01; pair 0 dropped")
HOST = ("cpu", "gpus", "torch", "cuda", "threads", "float32_matmul_precision")


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
                      "status": read_log(folder / name, data).status if name else "incomplete"})
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
        if log.status in ENDED_BY_USER:
            found["killed"] += 1
        elif log.status != "ok":
            bad.append(f"{attempt['log']} (run {attempt['run'] + 1}) ended {log.status}")
        elif attempt["run"] in logs:
            bad.append(f"run {attempt['run'] + 1} has two finished logs")
        else:
            logs[attempt["run"]] = log
    missing = [str(slot + 1) for slot in range(len(race["order"])) if slot not in logs]
    bad += [f"{len(missing)} of {len(race['order'])} runs are missing"] if missing and not bad else []
    bad = bad or mismatches(race, [logs[slot] for slot in range(len(race["order"]))])
    if bad:
        return {**found, "reason": shown("; ".join(bad), 400)}
    kept = [{race["order"][slot]: logs[slot] for slot in (2 * i, 2 * i + 1)} for i in range(1, race["n"] + 1)]
    return found | measure(kept, side)


def mismatches(race: dict[str, Any], logs: list[Log]) -> list[str]:
    """Return what keeps the runs of a race from being compared."""
    wrong = []
    harnesses = {str(log.manifest["code"].get("harness")) for log in logs}
    if len(harnesses) > 1 and not harnesses <= accepted_harnesses().keys():
        wrong.append("the sides ran on different harnesses, not all of them accepted by this checkout")
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
    apart = [a - b for a, b in zip(*times)]
    test, slower = one_sample(apart, 0), one_sample([-d for d in apart], 0)
    mean_other = math.fsum(times[1]) / len(kept)
    word = "no difference shown"
    if not test.degenerate:
        word = "faster" if test.p < ALPHA else "slower" if slower.p < ALPHA else word
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
