"""What a finished race shows, out of race.json and its logs alone: which side is faster to an equal loss."""
import functools
import math
from pathlib import Path
from typing import Any

from records.tools.check.claim import ENDED_BY_USER, RACE
from records.tools.check.significance import one_sample, plain_word, upper_bound
from records.tools.read.log import read_bytes
from records.tools.read.logs import load_runs
from records.tools.read.run import Run
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


def runs_of(folder: Path, race: dict[str, Any]) -> list[Run | None]:
    """Return the run of each attempt of a race; None for one that was killed before it had a log."""
    logs = [attempt.get("log") for attempt in race["attempts"]]
    return [_run(folder / log, read_bytes(folder / log)) if log else None for log in logs]


@functools.lru_cache(maxsize=64)  # several checks of one claim ask for the runs of its race
def _run(path: Path, data: bytes) -> Run:
    return load_runs(path, data)[0]


def attempts_of(folder: Path, code: str) -> list[dict[str, Any]]:
    """Return every attempt of a race with some code: run_id, seed, sha256 of its log, status.

    "dropped" are those of the first pair, as the rule says. Raises ReadError where a log cannot be read.
    """
    race = read_race(folder)
    return [{"run_id": run.path.stem if run else f"attempt {i}", "dropped": attempt["run"] < 2,
             "seed": race["seeds"][attempt["run"] // 2], "sha256": run and run.sha256,
             "status": run.status if run else "incomplete"}
            for i, (attempt, run) in enumerate(zip(race["attempts"], runs_of(folder, race)), start=1)
            if race[race["order"][attempt["run"]]].get("code") == code]


def judge(folder: Path, side: str = "A") -> dict[str, Any]:
    """Return what a race shows, out of race.json and the logs alone; "verdict" is a word, "reason" says why.

    "verdict": faster, slower, no difference shown (a side against the other) or could not tell; "pairs" that
    count; "p" is nan where nothing was tested. Raises ReadError where a file cannot be read.
    """
    race = read_race(folder)
    found: dict[str, Any] = {"verdict": "could not tell", "reason": "", "pairs": 0, "p": math.nan,
                             "attempts": len(race["attempts"]), "killed": 0, "times": [], "losses": []}
    runs: dict[int, Run] = {}
    bad = []
    for attempt, run in zip(race["attempts"], runs_of(folder, race)):
        if run is None or run.status in ENDED_BY_USER:
            found["killed"] += 1
        elif run.status != "ok":
            bad.append(f"{attempt['log']} (run {attempt['run'] + 1}) ended {run.status}")
        elif attempt["run"] in runs:
            bad.append(f"run {attempt['run'] + 1} has two finished logs")
        else:
            runs[attempt["run"]] = run
    slots = range(len(race["order"]))
    if not bad and len(runs) < len(slots):
        bad.append(f"{len(slots) - len(runs)} of {len(slots)} runs are missing")
    if bad := bad or mismatches(race, [runs[slot] for slot in slots]):
        return {**found, "reason": shown("; ".join(bad), 400)}
    kept = [{race["order"][slot]: runs[slot] for slot in (2 * i, 2 * i + 1)} for i in range(1, race["n"] + 1)]
    return found | measure(kept, side)


def mismatches(race: dict[str, Any], runs: list[Run]) -> list[str]:
    """Return what keeps the runs of a race from being compared."""
    wrong = []
    harnesses = {str(run.at("code", "harness")) for run in runs}
    if len(harnesses) > 1 and not harnesses <= accepted_harnesses().keys():
        wrong.append("the sides ran on different harnesses, not all of them accepted by this checkout")
    hosts, begun = {}, -math.inf
    for slot, run in enumerate(runs):
        side, name = race["order"][slot], run.path.name
        host = {**{fact: run.at("sys", fact) for fact in HOST}, "world size": run.at("world_size"),
                "validation": run.at("data", "val")}
        wrong += [f"{name}: another {fact} than the runs before" for fact, value in host.items()
                  if hosts.setdefault(fact, repr(value)) != repr(value)]
        wrong += [f"{name}: {what} {there}, declared {declared}" for what, declared, there in (
            ("code", race[side].get("code"), run.at("code", "digest")),
            ("seed", race["seeds"][slot // 2], run.at("seed")),
            ("track", race["track"], run.at("track"))) if there != declared]
        first = runs[race["order"].index(side)]
        if repr(run.at("hyperparameters")) != repr(first.at("hyperparameters")):
            wrong.append(f"{name}: other hyperparameters than the first run of {side}")
        if run.at("resumed_from"):
            wrong.append(f"{name}: a resumed run")
        now = run.at("clocks", "realtime_ns")
        if type(now) is not int or now <= begun:
            wrong.append(f"{name}: not begun after the run before it")
        begun = now if type(now) is int else begun
        if run.last is None or not is_finite(run.last.loss):
            wrong.append(f"{name}: no final loss")
    return wrong


def measure(kept: list[dict[str, Run]], side: str) -> dict[str, Any]:
    """Return loss, times, the paired test and the verdict over pairs of fit logs, side against other side."""
    sides = side, "AB".replace(side, "")
    finals = [[pair[side].last.loss for pair in kept] for side in sides]
    loss = max(map(max, finals))
    times = [[time_to(pair[side], loss) for pair in kept] for side in sides]
    test, mean_other = one_sample([a - b for a, b in zip(*times)], 0), math.fsum(times[1]) / len(kept)
    word = {"PROMISING": "faster", "REFUTED": "slower"}.get(plain_word(test, ALPHA), "no difference shown")
    t, df, p = (math.nan if x is None else x for x in (test.t, test.df, test.p))
    return {"verdict": word, "pairs": len(kept), "loss": loss, "times": list(zip(*times)),
            "losses": list(zip(*finals)), "difference_s": test.mean, "sd_s": test.sd,
            "difference_percent": 100 * test.mean / mean_other if mean_other else math.nan,
            "t": t, "df": df, "p": p, "bound_s": upper_bound(test, 1 - ALPHA),
            "loss_difference": math.fsum(a - b for a, b in zip(*finals)) / len(kept),
            "reason": f"{' against '.join(sides)} over {len(kept)} pairs: {test.mean:+.3f} s, p {p:.3g}"}


def time_to(run: Run, loss: float) -> float:
    """Return the seconds of training after which a run first validated at a loss, linear in between."""
    before = None
    for val in run.log.vals if run.log else []:  # in ns: Point rounds them to float milliseconds
        if val.val_loss <= loss:
            if before is None:
                return val.train_time_ns / 1e9
            fall = before.val_loss - val.val_loss
            part = (before.val_loss - loss) / fall if is_finite(fall) else 1.0
            return (before.train_time_ns + part * (val.train_time_ns - before.train_time_ns)) / 1e9
        before = val
    raise ReadError(f"{shown(run.path.name)}: never reaches {loss}")
