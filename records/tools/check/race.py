"""What a race shows, out of race.json and its logs alone: which side is faster to an equal loss."""
import math
from functools import cached_property
from pathlib import Path
from typing import Any

from records.tools.check.significance import one_sample, plain_word, upper_bound
from records.tools.read.log import read_bytes
from records.tools.read.logs import load_runs
from records.tools.read.run import Run
from records.tools.read.tracks import accepted_harnesses
from records.tools.read.values import ReadError, is_finite, need, parse_json, shown

RACE = "race.json"
ENDED_BY_USER = ("incomplete", "interrupted")  # incomplete: no end line, it was killed
ALPHA = 0.01
RULE = ("time at equal loss: the highest final val_loss among the kept runs; a run's time is where its "
        "validation curve first reaches that, linear between validations; paired one-sided t test at alpha "
        "0.01; pair 0 dropped")
HOST = ("cpu", "gpus", "torch", "cuda", "threads", "float32_matmul_precision")
FIELDS = {"format": int, "track": str, "A": dict, "B": dict, "n": int, "seeds": list, "order": list,
          "rule": str, "attempts": list}


def order(pairs: int) -> list[str]:
    """Return which side runs when: ABBA ABBA ..."""
    return [side for i in range(pairs) for side in ("AB", "BA")[i % 2]]


class Race:
    """A race whose race.json and logs lie in a folder; they are read when they are first asked for."""

    def __init__(self, folder: Path):
        self.folder = folder

    @cached_property
    def plan(self) -> dict[str, Any]:
        """What race.json says. Raises ReadError where it declares no race, or a field has another type."""
        plan = parse_json(read_bytes(self.folder / RACE).decode(errors="replace"))
        for name, kind in FIELDS.items():
            need(plan, name, kind)
        pairs = plan["n"] + 1
        if plan["format"] != 1 or plan["rule"] != RULE or not 2 <= plan["n"] <= 10_000 \
                or len(plan["seeds"]) != pairs or plan["order"] != order(pairs):
            raise ReadError("race.json: does not declare a race of format 1 with this rule and order")
        if len({seed for seed in plan["seeds"] if type(seed) is int}) != pairs:
            raise ReadError("race.json: expected a different whole number as seed for each pair")
        for attempt in plan["attempts"]:
            log, slot = map(attempt.get, ("log", "run")) if isinstance(attempt, dict) else (0, 0)
            if not isinstance(log, (str, type(None))) or (log and Path(log).name != log) \
                    or type(slot) is not int:
                raise ReadError("race.json: an attempt is no object with run and the name of a log")
            if slot not in range(len(plan["order"])):
                raise ReadError(f"race.json: an attempt is of run {slot}; {len(plan['order'])} are declared, "
                                f"counted from 0")
        return plan

    @cached_property
    def runs(self) -> list[Run | None]:
        """The run of each attempt; None for one that was killed before it had a log."""
        logs = [attempt.get("log") for attempt in self.plan["attempts"]]
        return [load_runs(self.folder / log)[0] if log else None for log in logs]

    def side_of(self, code: str) -> str:
        """Return the side, A or B, on which some code ran. Raises ReadError where it was on neither."""
        codes = {side: str(self.plan[side].get("code")) for side in "AB"}
        if found := next((side for side in codes if codes[side] == code), None):
            return found
        raced = " and ".join(shown(digest[:8]) for digest in codes.values())
        raise ReadError(f"the race is of code {raced}, the logs are of {shown(code[:8])}; race their code")

    def attempts_of(self, code: str) -> list[dict[str, Any]]:
        """Return every attempt with some code: run_id, seed, sha256 of its log, status.

        "dropped" are those of the first pair, as the rule says. Raises ReadError where a log cannot be read.
        """
        plan = self.plan
        return [{"run_id": run.path.stem if run else f"attempt {i}", "dropped": attempt["run"] < 2,
                 "seed": plan["seeds"][attempt["run"] // 2], "sha256": run and run.sha256,
                 "status": run.status if run else "incomplete"}
                for i, (attempt, run) in enumerate(zip(plan["attempts"], self.runs), start=1)
                if plan[plan["order"][attempt["run"]]].get("code") == code]

    def judge(self, side: str = "A") -> dict[str, Any]:
        """Return what the logs alone show; "verdict" is a word, "reason" says why.

        "verdict": faster, slower, no difference shown (a side against the other) or could not tell; "pairs"
        that count; "p" is nan where nothing was tested. Raises ReadError where a file cannot be read.
        """
        plan = self.plan
        found: dict[str, Any] = {"verdict": "could not tell", "reason": "", "pairs": 0, "p": math.nan,
                                 "attempts": len(plan["attempts"]), "killed": 0, "times": [], "losses": []}
        runs: dict[int, Run] = {}
        bad = []
        for attempt, run in zip(plan["attempts"], self.runs):
            if run is None or run.status in ENDED_BY_USER:
                found["killed"] += 1
            elif run.status != "ok":
                bad.append(f"{attempt['log']} (run {attempt['run'] + 1}) ended {run.status}")
            elif runs.setdefault(attempt["run"], run) is not run:
                bad.append(f"run {attempt['run'] + 1} has two finished logs")
        declared = len(plan["order"])
        if not bad and len(runs) < declared:
            bad.append(f"{declared - len(runs)} of {declared} runs are missing")
        if bad := bad or mismatches(plan, [runs[slot] for slot in range(declared)]):
            return {**found, "reason": shown("; ".join(bad), 400)}
        return found | measure([{plan["order"][slot]: runs[slot] for slot in (i, i + 1)}
                                for i in range(2, declared, 2)], side)


def mismatches(plan: dict[str, Any], runs: list[Run]) -> list[str]:
    """Return what keeps the runs of a race from being compared."""
    wrong = []
    harnesses = {str(run.at("code", "harness")) for run in runs}
    if len(harnesses) > 1 and not harnesses <= accepted_harnesses().keys():
        wrong.append("the sides ran on different harnesses, not all of them accepted by this checkout")
    first, hosts, begun = {}, {}, -math.inf
    for slot, (side, run) in enumerate(zip(plan["order"], runs)):
        now, host = run.at("clocks", "realtime_ns"), {
            **{fact: run.at("sys", fact) for fact in HOST}, "world size": run.at("world_size"),
            "validation": run.at("data", "val")}
        found = [f"another {fact} than the runs before" for fact, value in host.items()
                 if hosts.setdefault(fact, repr(value)) != repr(value)]
        found += [f"{what} {there}, declared {declared}" for what, declared, there in (
            ("code", plan[side].get("code"), run.at("code", "digest")),
            ("seed", plan["seeds"][slot // 2], run.at("seed")),
            ("track", plan["track"], run.at("track"))) if there != declared]
        settings = repr(run.at("hyperparameters"))
        found += [words for holds, words in (
            (first.setdefault(side, settings) == settings, f"other hyperparameters than {side} had before"),
            (not run.at("resumed_from"), "a resumed run"),
            (type(now) is int and now > begun, "not begun after the run before it"),
            (run.last and is_finite(run.last.loss), "no final loss")) if not holds]
        begun = now if type(now) is int else begun
        wrong += [f"{run.path.name}: {words}" for words in found]
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
