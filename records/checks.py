"""The checks of verify, a small function each: it looks at a claim and says what it found, with evidence."""
from collections import Counter
from typing import Any

from records.claims import FEWEST, Case, Decision, Run, attempts, decide, json_text
from records.reader import ChangedLog, shown
from records.run_checks import (Result, clocks, code_hashes, complete, data, git, harness, lines, monotone,
                                nothing_late, number_of, pace, parameters, sequence, settings, some, status,
                                tokens, track, tripwires, wall)

# ends that are no result: with the same seed such a run may be made again, and nothing was chosen
UNFINISHED = ("no end", "interrupted", "rank_lost", "disk_full", "stopped")
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
    changed = [f"{run.trial.name}: {shown(json_text(run.at('overrides'), None).strip())}" for run in case.own
               if run.at("overrides") != {}]
    if changed:
        return Result("fail", f"overrides on the command line: {some(changed)}")
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


def place(case: Case) -> Result:
    """All runs were made on the same kind of device, with as many ranks and the same torch."""
    places = {(run.trial.world_size, run.trial.device, run.trial.versions.get("torch")) for run in case.runs}
    words = [f"{number_of(range(n), 'rank') if n else '? ranks'} on {device or '?'}, torch {torch or '?'}"
             for n, device, torch in places]
    if len(places) > 1:
        return Result("fail" if len(case.own) == len(case.runs) else "review", some(sorted(words)))
    return Result("unknown" if None in next(iter(places), (None,))[:2] else "ok", some(words))


def all_attempts(case: Case) -> Result:
    """Every attempt that the ledger counts for this code was submitted, also those that failed."""
    if not case.ledgers or not case.own:
        return Result("unknown", "no ledger beside the logs")
    known = {run.run_id for run in case.runs} | {path.stem for path in case.damage}
    if case.record:
        known |= {path.stem for path in (case.record / "race").glob("*.txt")}  # also runs of this code
    digest = str(case.own[0].at("code", "digest"))
    begun = [entry for ledger in case.ledgers for entry in attempts(ledger, digest, case.track)]
    counted = {str(entry["run_id"]): entry for entry in begun}
    if not counted.keys() & known:
        return Result("unknown", "the ledger knows none of these runs")
    absent, seeds = [counted[name] for name in counted.keys() - known], [run.trial.seed for run in case.runs]
    missing = Counter(entry["status"] for entry in absent
                      if entry["status"] not in UNFINISHED or entry.get("seed") not in seeds)
    if missing:
        kinds = ", ".join(f"{n} {how}" for how, n in sorted(missing.items()))
        state = "fail" if len(case.runs) >= FEWEST else "review"  # fewer claim nothing
        return Result(state, f"{missing.total()} of {len(counted)} attempts are not among the logs: "
                             f"{shown(kinds)}")
    repeated = f", {len(absent)} of them ended and repeated" if absent else ""
    return Result("ok", f"{number_of(counted, 'attempt')}{repeated}, all here")


def scan(case: Case) -> Result:
    """Nothing in the submission's code asks for a reader's eye."""
    from records.scan import scan as find
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
    from records.race import judge
    found = judge(case.record / "race")
    return Result("review" if found["verdict"] == "could not tell" else "ok",
                  f"{found['verdict']}: {found['reason']}")


def rebuilt(case: Case) -> Result:
    """record.json and the block in README.md are, byte for byte, what the logs give."""
    if not case.record:
        return Result("unknown", "these logs are no record yet")
    from records.record import differences
    wrong = differences(case)
    return Result("fail", some(wrong)) if wrong else Result("ok", "record.json and README.md")


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
        except (TypeError, ValueError, KeyError, IndexError, AttributeError, ArithmeticError) as error:
            text = shown(f"{type(error).__name__}: {error}", 200)
            results[check.__name__] = Result("fail", f"a value that no harness writes ({text})")
    return results


def capped(case: Case, attempted: Result) -> Decision:
    """Return what the rule says; PROMISING at most where attempts are missing or the logs show too little."""
    decided, why = decide(case), None
    if attempted.state == "fail":
        why = attempted.evidence
    elif len(case.own) < len(case.runs):
        why = "logs of this format show too little"
    if decided.word != "PROVEN" or not why:
        return decided
    return Decision("PROMISING", f"{decided.reason}; but {why}", decided.p)
