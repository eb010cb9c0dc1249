"""What a race shows, out of race.json and its logs alone: which side is faster to an equal loss."""
import math
import statistics
from functools import cached_property
from pathlib import Path
from typing import Any

from records.tools.check.significance import holm, one_sample, upper_bound
from records.tools.check.student import t_below
from records.tools.read.log import read_json
from records.tools.read.logs import load_runs
from records.tools.read.run import Run
from records.tools.read.tracks import load_harnesses
from records.tools.read.values import ReadError, is_finite, shown

RACE = "race.json"
ENDED_BY_USER = ("incomplete", "interrupted")  # incomplete: no end line, it was killed
ALPHA = 0.01
SIDES = "ABCDEFGH"
TIMES = ("time at equal loss: the highest final val_loss among the kept runs; a run's time is where its "
         "validation curve first reaches that, linear between validations")
RULE = f"{TIMES}; paired one-sided t test at alpha 0.01; pair 0 dropped"
RULE_OF_MANY = (f"{TIMES}; paired one-sided t test of each side against A at alpha 0.01, with Holm's "
                "correction; row 0 dropped")
HOST = ("cpu", "gpus", "torch", "cuda", "threads", "float32_matmul_precision")
FIELDS = {"format": int, "track": str, "n": int, "seeds": list, "order": list, "rule": str, "attempts": list,
          "A": dict, "B": dict}


def order(rows: int, sides: str = "AB") -> list[str]:
    """Return which side runs when, row by row, every second one backward, so that a drift cancels: ABBA ABBA.

    Of more than two sides each pair of rows that count begins one side further on: ABC CBA BCA ACB CAB BAC.
    """
    found, many = [], len(sides) > 2
    for i in range(-1, rows - 1) if many else range(rows):
        first = many * (i // 2) % len(sides)
        row = sides[first:] + sides[:first]
        found += row[::-1] if i % 2 else row
    return found


def declaration(sides: str, n: int) -> dict[str, Any]:
    """Return what race.json says of a race of some sides and n rows that count, whoever runs."""
    form, rule = (1, RULE) if len(sides) == 2 else (2, RULE_OF_MANY)
    return {"format": form, "n": n, "order": order(n + 1, sides), "rule": rule}


class Race:
    """A race whose race.json and logs lie in a folder; they are read when they are first asked for."""

    def __init__(self, folder: Path):
        self.folder = folder

    @cached_property
    def plan(self) -> dict[str, Any]:
        """What race.json says. Raises ReadError where it declares no race, or a field has another type."""
        plan = read_json(self.folder / RACE, FIELDS)
        n, sides = plan["n"], "".join(side for side in SIDES if isinstance(plan.get(side), dict))
        if not 2 <= n <= 10_000 or any(plan[name] != value for name, value in declaration(sides, n).items()):
            raise ReadError("race.json: does not declare a race of format 1 or 2 with its rule and order")
        if not len({seed for seed in plan["seeds"] if type(seed) is int}) == len(plan["seeds"]) == n + 1:
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

    @property
    def sides(self) -> str:
        """The letters of the sides, in their order: AB, ABC, ..."""
        return "".join(sorted(set(self.plan["order"])))

    def side_of(self, code: str) -> str:
        """Return the side on which some code ran. Raises ReadError where it was on none."""
        codes = {side: str(self.plan[side].get("code")) for side in self.sides}
        if found := next((side for side in codes if codes[side] == code), None):
            return found
        raced = " and ".join(shown(digest[:8]) for digest in codes.values())
        raise ReadError(f"the race is of code {raced}, the logs are of {shown(code[:8])}; race their code")

    def attempts_of(self, code: str) -> list[dict[str, Any]]:
        """Return every attempt with some code: run_id, seed, sha256 of its log, status.

        "dropped" are those of the first row, as the rule says. Raises ReadError where a log cannot be read.
        """
        plan, width = self.plan, len(self.sides)
        return [{"run_id": run.path.stem if run else f"attempt {i}", "dropped": attempt["run"] < width,
                 "seed": plan["seeds"][attempt["run"] // width], "sha256": run and run.sha256,
                 "status": run.status if run else "incomplete"}
                for i, (attempt, run) in enumerate(zip(plan["attempts"], self.runs), start=1)
                if plan[plan["order"][attempt["run"]]].get("code") == code]

    def judge(self, side: str = "A") -> dict[str, Any]:
        """Return what the logs alone show of a side against A, of A against B; "verdict" is a word.

        "verdict": faster, slower, no difference shown or could not tell; "reason" says why; "against" whom;
        "pairs" that count; "p" is nan where nothing was tested. Raises ReadError where a file cannot be read.
        """
        plan, width = self.plan, len(self.sides)
        found: dict[str, Any] = {"verdict": "could not tell", "reason": "", "pairs": 0, "p": math.nan,
                                 "attempts": len(plan["attempts"]), "killed": 0, "times": [], "losses": [],
                                 "against": "B" if side == "A" else "A"}
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
        return found | measure([{plan["order"][slot]: runs[slot] for slot in range(i, i + width)}
                                for i in range(width, declared, width)], side, found["against"])


def mismatches(plan: dict[str, Any], runs: list[Run]) -> list[str]:
    """Return what keeps the runs of a race from being compared."""
    wrong = []
    harnesses = {str(run.at("code", "harness")) for run in runs}
    if len(harnesses) > 1 and not harnesses <= load_harnesses().accepted.keys():
        wrong.append("the sides ran on different harnesses, not all of them accepted by this checkout")
    first, hosts, begun, width = {}, {}, -math.inf, len(set(plan["order"]))
    for slot, (side, run) in enumerate(zip(plan["order"], runs)):
        now, host = run.at("clocks", "realtime_ns"), {
            **{fact: run.at("sys", fact) for fact in HOST}, "world size": run.at("world_size"),
            "validation": run.at("data", "val")}
        found = [f"another {fact} than the runs before" for fact, value in host.items()
                 if hosts.setdefault(fact, repr(value)) != repr(value)]
        found += [f"{what} {there}, declared {declared}" for what, declared, there in (
            ("code", plan[side].get("code"), run.at("code", "digest")),
            ("seed", plan["seeds"][slot // width], run.at("seed")),
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


def measure(rows: list[dict[str, Run]], side: str, other: str) -> dict[str, Any]:
    """Return loss, times, the paired test and the verdict over rows of fit logs, a side against another.

    All sides are tested against A, or A against all; p is what Holm's correction makes of this test's.
    """
    finals = {x: [row[x].last.loss for row in rows] for x in sorted(rows[0])}
    loss = max(map(max, finals.values()))
    times = {x: [time_to(row[x], loss) for row in rows] for x in finals}
    pairs = [(x, "A") if other == "A" else ("A", x) for x in finals if x != "A"]
    tests = [one_sample([a - b for a, b in zip(times[x], times[y])], 0) for x, y in pairs]
    this = pairs.index((side, other))
    test, mean_other = tests[this], statistics.fmean(times[other])
    below, above = (holm([1.0 if t.degenerate else t_below(t.df, sign * t.t) for t in tests])[this]
                    for sign in (1, -1))
    t, df, p = (math.nan,) * 3 if test.degenerate else (test.t, test.df, below)
    ratio, error = ratio_of(times[side], times[other])
    words = f"{side} against {other} over {len(rows)} pairs: {test.mean:+.3f} s, p {p:.3g}"
    return {"verdict": "faster" if below < ALPHA else "slower" if above < ALPHA else "no difference shown",
            "pairs": len(rows), "loss": loss, "times": list(zip(times[side], times[other])),
            "losses": list(zip(finals[side], finals[other])), "difference_s": test.mean, "sd_s": test.sd,
            "difference_percent": 100 * test.mean / mean_other if mean_other else math.nan,
            "ratio": ratio, "ratio_log_error": error,
            "t": t, "df": df, "p": p, "bound_s": upper_bound(test, 1 - ALPHA / len(tests)),
            "loss_difference": math.fsum(a - b for a, b in zip(finals[side], finals[other])) / len(rows),
            "reason": words + (f" (Holm, {len(tests)} tests)" if len(tests) > 1 else "")}


def ratio_of(times: list[float], others: list[float]) -> tuple[float, float]:
    """Return the ratio of two means of times taken in pairs, and the standard error of its logarithm."""
    mean, mean_other = statistics.fmean(times), statistics.fmean(others)
    if not mean or not mean_other:
        return math.nan, math.nan
    apart = [a / mean - b / mean_other for a, b in zip(times, others)]
    return mean / mean_other, statistics.stdev(apart) / math.sqrt(len(apart))


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
