"""The checks of verify, a small function each: it looks at a claim and says what it found, with evidence."""
import statistics
from collections import Counter
from typing import Any

from records.tools.check.claim import (ENDED_BY_OTHERS, ENDED_BY_USER, FEWEST, Case,
    Decision, Run, attempts, decide, load_runs)
from records.tools.read.log import ChangedLog
from records.tools.check.of_a_run import (NOT_SHOWN, STUMBLES, Result, clocks, code_hashes, complete, data, git,
                                harness, lines, monotone, no_overrides, nothing_late, number_of, parameters,
                                sequence, settings, some, status, stumbled, tokens, track, tripwires, wall)
from records.tools.read.values import ReadError, json_text, shown

FIRST = 20  # training losses that tell two seeds apart; the very first is ln(vocabulary) for a head of zeros


def framing(case: Case) -> Result:
    """Every log is laid out as its format says, line by line."""
    wrong = [str(error) for error in case.damage.values() if not isinstance(error, ChangedLog)]
    return Result("fail", some(wrong)) if wrong else Result("ok", f"{number_of(case.runs, 'run')} read")


def hashes(case: Case) -> Result:
    """Script, files, code digest and the whole log are those whose sha256 they give."""
    changed = [str(error) for error in case.damage.values() if isinstance(error, ChangedLog)]
    result = code_hashes(case)
    if changed or result.state == "fail":
        return Result("fail", some(changed + [result.evidence] * (result.state == "fail")))
    return result


def code(case: Case) -> Result:
    """All runs have the same code and settings, and no flag changed a setting."""
    if not case.own:
        digests = {run.trial.code_sha256 for run in case.runs}
        state = "review" if len(digests - {None}) > 1 else "unknown" if None in digests else "ok"
        return Result(state, f"{number_of(digests - {None}, 'script')} in {number_of(case.runs, 'run')}")
    digests = {str(run.at("code", "digest")) for run in case.own}
    if len(digests) > 1 or len(case.own) < len(case.runs):
        return Result("fail", f"{len(digests)} code digests: {some([d[:8] for d in sorted(digests)])}")
    if (flags := no_overrides(case)).state == "fail":
        return flags
    if len({json_text(run.at("hyperparameters")) for run in case.own}) > 1:
        return Result("fail", "the runs have different hyperparameters")
    return Result("ok", f"code {digests.pop()[:8]}, no overrides")


def distinct(case: Case) -> Result:
    """Every run is one of its own: no copy, no seed under two numbers; a seed's repeats count once."""
    runs = case.runs
    for what, key in (("the run id", lambda run: run.at("run_id")), ("all times", measured)):
        for value, n in Counter(map(key, runs)).items():
            if value and n > 1:
                names = [run.trial.name for run in runs if key(run) == value]
                return Result("fail", f"{some(names)} share {what}: one run, copied")
    first: dict[Any, Run] = {}
    for run in runs:
        losses = tuple(point.loss for point in run.trial.train[:FIRST])
        other = first.setdefault(losses, run) if len(losses) >= 5 else run
        if other.trial.seed != run.trial.seed:
            return Result("fail", f"{other.trial.name} and {run.trial.name} say seeds {other.trial.seed} and "
                                  f"{run.trial.seed}, but their first {len(losses)} losses are the same")
    if any(run.trial.seed is None for run in runs):
        return Result("unknown", f"{len(runs)} different runs; the logs tell no seeds")
    seeds = {run.trial.seed for run in runs}
    return Result("ok", f"{number_of(runs, 'run')}, {number_of(seeds, 'seed')}")


def measured(run: Run) -> tuple[Any, ...]:
    """Return what no two runs share: their times, of logs that round these to ms together with the losses."""
    return tuple(p.time_ms if run.trial.log else (p.time_ms, p.loss) for p in run.trial.vals if p.time_ms)


def pace(case: Case) -> Result:
    """No stretch between two validations was far faster than the others (a reader has to look)."""
    if not case.own:
        return Result("unknown", NOT_SHOWN)
    found = []
    for run in case.own:
        marks = [(val.step, val.train_time_ns) for val in run.log.vals]
        ms = [(t1 - t0) / 1e6 / (s1 - s0) for (s0, t0), (s1, t1) in zip(marks, marks[1:]) if s1 > s0]
        if ms and 0 < min(ms) < statistics.median(ms) / 2:
            found.append(f"{run.trial.name}: {min(ms):.2f} ms a step, median {statistics.median(ms):.2f}")
    return Result("review", some(found)) if found else Result("ok", f"{number_of(case.own, 'run')}, all even")


def place(case: Case) -> Result:
    """All runs were made on the same kind of device, with as many ranks and the same torch."""
    places = {(run.trial.world_size, run.trial.device, run.trial.versions.get("torch")) for run in case.runs}
    words = [f"{number_of(range(n), 'rank') if n else '? ranks'} on {device or '?'}, torch {torch or '?'}"
             for n, device, torch in places]
    if len(places) > 1:
        return Result("fail" if len(case.own) == len(case.runs) else "review", some(sorted(words)))
    return Result("unknown" if None in next(iter(places), (None,))[:2] else "ok", some(words))


def all_attempts(case: Case) -> Result:
    """Every attempt that ledger or race counts for this code was submitted, also those that failed."""
    ours = [run for run in case.own if not run.at("overrides")]
    if not ours:
        return Result("unknown", "no run here is one that a ledger counts as an attempt")
    digest = str(ours[0].at("code", "digest"))
    ours = [run for run in ours if run.at("code", "digest") == digest]  # another is what `code` objects to
    counted = counted_attempts(case, digest)
    here = {run.run_id for run in case.runs} | {path.stem for path in case.damage}
    if not counted and not case.ledgers:
        return Result("unknown", "no ledger beside the logs, and no race that names them")
    weak = "fail" if len(case.runs) >= FEWEST else "review"  # fewer claim nothing
    strangers = [run.trial.name for run in ours if run.run_id not in counted]
    if strangers:
        return Result(weak, f"the ledger does not know {len(strangers)} of {number_of(ours, 'run')}: "
                            f"{some(strangers)}")
    absent, seeds = [counted[name] for name in counted.keys() - here], [run.trial.seed for run in ours]
    missing = Counter(entry["status"] for entry in absent
                      if entry["status"] not in (*ENDED_BY_OTHERS, "stopped") or entry["seed"] not in seeds)
    if missing:
        kinds = ", ".join(f"{n} {how}" for how, n in sorted(missing.items()))
        return Result(weak, f"{missing.total()} of {len(counted)} attempts are not among the logs: "
                            f"{shown(kinds)}")
    repeated = f", {len(absent)} of them ended and repeated" if absent else ""
    return Result("ok", f"{number_of(counted, 'attempt')}{repeated}, all here")


def counted_attempts(case: Case, digest: str) -> dict[str, dict[str, Any]]:
    """Return the attempts with some code, by run id: those of the ledgers, and of races that made runs here.

    Races run in a place without a ledger: race.json is theirs. Who submits runs of one submits all that it
    made with this code; the first pair, which its rule drops, may be left out.
    """
    begun = [entry for ledger in case.ledgers for entry in attempts(ledger, digest, case.track)]
    names = {run.sha256: run.run_id for run in case.runs}
    for folder in case.races:
        from records.tools.again.race import attempts_of
        raced = attempts_of(folder, digest)
        if any(entry["sha256"] in names for entry in raced):
            begun += [entry | {"run_id": names.get(entry["sha256"], f"{entry['run_id']} of the race")}
                      for entry in raced if entry["sha256"] in names or not entry["dropped"]]
    return {str(entry["run_id"]): {"seed": None} | entry for entry in begun}


def scan(case: Case) -> Result:
    """Nothing in the submission's code asks for a reader's eye."""
    from records.tools.read.scan import scan as find
    sources = {}
    for run in case.runs:
        path = run.log.script_path if run.trial.log else "script"
        sources |= {(path, run.trial.code): None} if run.trial.code else {}
        sources |= {pair: None for pair in run.trial.files.items()
                    if not pair[0].startswith("harness/")}
    if not sources:
        return Result("unknown", "the logs hold no code")
    found = [f"{f.path}:{f.line}: {f.what}" for path, source in sources for f in find(source, path)]
    return Result("review", some(found)) if found else Result("ok", number_of(sources, "file"))


def significance(case: Case) -> Result:
    """What the declared rule says of the losses; the repeats of one seed are one observation."""
    decided = decide(case)
    states = {"PROVEN": "ok", "PROMISING": "ok", "NOT SHOWN": "unknown"}
    return Result(states.get(decided.word, "fail"), f"{decided.word}: {decided.reason}")


def race(case: Case) -> Result:
    """What the record's race against another shows, if there was one; speed is claimed by nothing else."""
    if not case.record or not (case.record / "race").is_dir():
        return Result("unknown", "no race: no claim of speed")
    from records.tools.again.race import judge, read_race, side_of
    folder = case.record / "race"
    declared = read_race(folder)
    found = judge(folder, side_of(declared, str(case.own[0].at("code", "digest"))))
    logs = dict.fromkeys(attempt["log"] for attempt in declared["attempts"] if attempt.get("log"))
    raced = Case([run for log in logs for run in load_runs(folder / log)
                  if run.trial.status not in ENDED_BY_USER], declared["track"], case.row, case.pinned)
    wrong = [f"{check.__name__}: {result.evidence}" for check in OF_A_RACE
             if (result := check(raced)).state == "fail"]
    if declared["track"] != case.track:
        wrong.append(f"track {declared['track']}, the logs are of {case.track}")
    if wrong:
        return Result("fail", some(wrong))
    killed = f"; {found['killed']} of {found['attempts']} attempts were killed" if found["killed"] else ""
    return Result("review" if killed or found["verdict"] == "could not tell" else "ok",
                  f"{found['verdict']}: {found['reason']}{killed}")


def rebuilt(case: Case) -> Result:
    """record.json and the block in README.md are, byte for byte, what the logs give."""
    if not case.record:
        return Result("unknown", "these logs are no record yet")
    from records.tools.publish.record import differences
    wrong = differences(case)
    return Result("fail", some(wrong)) if wrong else Result("ok", "record.json and README.md")


OF_A_RACE = (code_hashes, sequence, harness, no_overrides, track, data, tokens, parameters, status, complete,
             monotone, wall, clocks, nothing_late, settings, tripwires, lines)
CHECKS = (framing, hashes, sequence, harness, code, distinct, track, data, tokens, parameters, status,
          complete, monotone, wall, clocks, pace, place, nothing_late, settings, tripwires, lines, git,
          all_attempts, scan, significance, race, rebuilt)


def run_checks(case: Case) -> dict[str, Result]:
    """Return what each check found, by name, in order.

    A log that holds a value where no harness writes one fails the check that stumbles on it.
    """
    results = {}
    for check in CHECKS:
        if not case.runs and check not in (framing, hashes):
            results[check.__name__] = Result("unknown", "no whole log")
            continue
        try:
            results[check.__name__] = check(case)
        except ReadError as error:
            results[check.__name__] = Result("fail", str(error))
        except STUMBLES as error:
            results[check.__name__] = Result("fail", stumbled(error))
    return results


def capped(case: Case, *needed: Result) -> Decision:
    """Return what the rule says; PROMISING at most unless the needed checks are ok and the format ours."""
    decided = decide(case)
    why = [result.evidence for result in needed if result.state != "ok"]
    if len(case.own) < len(case.runs):
        why = ["logs of this format show too little"]
    if decided.word != "PROVEN" or not why:
        return decided
    return Decision("PROMISING", f"{decided.reason}; but {why[0]}", decided.p)
