"""The checks of verify, a small function each: it looks at a claim and says what it found, with evidence."""
import dataclasses
from collections import Counter
from typing import Any

from records.tools.check import of_a_run
from records.tools.check.claim import ENDED_BY_OTHERS, FEWEST, Claim, attempts
from records.tools.check.of_a_run import (NOT_SHOWN, OF_A_RUN, Result, each_run, first_of, number_of,
    result_of)
from records.tools.check.race import ENDED_BY_USER, RACE
from records.tools.check.significance import Verdict
from records.tools.read.log import ChangedLog, read_json
from records.tools.read.run import Run
from records.tools.read.values import json_text, need, shown

FIRST = 20  # training losses that tell two seeds apart; the very first is ln(vocabulary) for a head of zeros


def framing(claim: Claim) -> Result:
    """Every log is laid out as its format says, line by line; what it is named and counts by fits."""
    wrong = [str(error) for error in claim.damage.values() if not isinstance(error, ChangedLog)]
    named = each_run(of_a_run.fields, claim)
    wrong += [named.evidence] * (named.state == "fail")
    return result_of(wrong, f"{number_of(claim.runs, 'run')} read")


def hashes(claim: Claim) -> Result:
    """Script, files, code digest and the whole log are those whose sha256 they give."""
    changed = [str(error) for error in claim.damage.values() if isinstance(error, ChangedLog)]
    result = each_run(of_a_run.code_hashes, claim)
    changed += [result.evidence] * (result.state == "fail")
    return Result("fail", first_of(changed)) if changed else result


def data(claim: Claim) -> Result:
    """The shards are those that this checkout pins."""
    found = each_run(of_a_run.data, claim)
    return found if found.state != "ok" or claim.pinned else Result(
        "unknown", "this checkout pins no shards of the track; fetch its data")


def code(claim: Claim) -> Result:
    """All runs have the same code and settings, and no flag changed a setting."""
    if not claim.own:
        bare = [run.name for run in claim.runs if run.code is None]
        coded = len(claim.runs) - len(bare)
        words = f"; no code in {len(bare)}: {first_of(bare)}" if bare else ""
        words += f"; left out: {first_of(claim.faster)}" if claim.faster else ""
        return Result("review" if bare and coded or claim.faster else "unknown" if bare else "ok",
                      f"one script in {number_of(range(coded), 'run')}, its seed and log's name apart{words}")
    digests = {str(run.at("code", "digest")) for run in claim.own}
    if len(digests) > 1 or len(claim.own) < len(claim.runs):
        return Result("fail", f"{len(digests)} code digests: {first_of([d[:8] for d in sorted(digests)])}")
    if (flags := each_run(of_a_run.no_overrides, claim)).state == "fail":
        return flags
    if len({json_text(run.at("hyperparameters")) for run in claim.own}) > 1:
        return Result("fail", "the runs have different hyperparameters")
    return Result("ok", f"code {digests.pop()[:8]}, no overrides")


def distinct(claim: Claim) -> Result:
    """Every run is one of its own: no copy, no seed under two numbers; a seed's repeats count once."""
    runs = claim.runs
    for what, key in (("the run id", lambda run: run.at("run_id")), ("all times", measured)):
        for value, n in Counter(map(key, runs)).items():
            if value and n > 1:
                names = [run.name for run in runs if key(run) == value]
                return Result("fail", f"{first_of(names)} share {what}: one run, copied")
    first: dict[Any, Run] = {}
    for run in runs:
        losses = tuple(point.loss for point in run.train[:FIRST] if point.loss is not None) or (
            tuple(point.loss for point in run.vals[:-1] if point.step))  # the last is what a cheat edits
        other = first.setdefault(losses, run) if len(losses) >= 5 else run
        if other is not run and (run.seed is None or other.seed != run.seed):
            seeds = "no seed" if run.seed is other.seed is None else f"seeds {other.seed} and {run.seed}"
            return Result("fail", f"{other.name} and {run.name} say {seeds}, but {len(losses)} of their "
                                  f"losses are the same")
    if any(run.seed is None for run in runs):
        return Result("unknown", f"{len(runs)} different runs; the logs tell no seeds")
    seeds = {run.seed for run in runs}
    return Result("ok", f"{number_of(runs, 'run')}, {number_of(seeds, 'seed')}")


def measured(run: Run) -> tuple[Any, ...]:
    """Return what no two runs share: their times, of logs that round these to ms together with the losses."""
    return tuple(p.time_ms if run.log else (p.time_ms, p.loss) for p in run.vals if p.time_ms)


def pace(claim: Claim) -> Result:
    """No stretch between two validations was far faster than the next fastest (a reader has to look).

    A host that is busy for a while makes several slow and leaves several fast, even where they are the fewer.
    By over 2 s and 2 % of the charged time in all: short ones are uneven, by 1.0 s at most in 20 runs of 4 s
    at load 18 on 2 cores.
    """
    found, timed = [], [run for run in claim.runs if run.last and run.last.time_ms is not None]
    if not timed:
        return Result("unknown", NOT_SHOWN)
    for run in timed:
        marks = [(val.step, val.time_ms) for val in run.vals if val.time_ms is not None]
        paces = [((t1 - t0) / (s1 - s0), s1 - s0) for (s0, t0), (s1, t1) in zip(marks, marks[1:]) if s1 > s0]
        if len(paces) > 1:
            (ms, steps), (next_ms, _) = sorted(paces)[:2]
            if 0 < ms < next_ms / 2 and (next_ms - ms) * steps > 2e3 + 0.02 * marks[-1][1]:
                found.append(f"{run.name}: {ms:.2f} ms a step, at the next fastest {next_ms:.2f}")
    return result_of(found, f"{number_of(timed, 'run')}, all even", "review")


def place(claim: Claim) -> Result:
    """All runs were made on the same kind of device, with as many ranks and the same torch."""
    places = {(run.world_size, run.device, run.versions.get("torch")) for run in claim.runs}
    words = [f"{number_of(range(n), 'rank') if n else '? ranks'} on {device or '?'}, torch {torch or '?'}"
             for n, device, torch in places]
    if len(places) > 1:
        return Result("fail" if len(claim.own) == len(claim.runs) else "review", first_of(sorted(words)))
    return Result("unknown" if None in next(iter(places), (None,))[:2] else "ok", first_of(words))


def all_attempts(claim: Claim) -> Result:
    """Every attempt that ledger or race counts for this code was submitted, also those that failed."""
    ours = [run for run in claim.own if not run.at("overrides")]
    if not ours:
        return Result("unknown", "no run here is one that a ledger counts as an attempt")
    digest = str(ours[0].at("code", "digest"))
    ours = [run for run in ours if run.at("code", "digest") == digest]  # another is what `code` objects to
    counted = counted_attempts(claim, digest)
    here = {run.run_id for run in claim.runs} | {path.stem for path in claim.damage}
    if not counted and not claim.ledgers:
        return Result("unknown", "no ledger beside the logs, and no race that names them")
    weak = "fail" if len(claim.runs) >= FEWEST else "review"  # fewer claim nothing
    strangers = [run.name for run in ours if run.run_id not in counted]
    if strangers:
        return Result(weak, f"the ledger does not know {len(strangers)} of {number_of(ours, 'run')}: "
                            f"{first_of(strangers)}")
    absent, seeds = [counted[name] for name in counted.keys() - here], [run.seed for run in ours]
    missing = Counter(entry["status"] for entry in absent
                      if entry["status"] not in (*ENDED_BY_OTHERS, "stopped") or entry["seed"] not in seeds)
    if missing:
        kinds = ", ".join(f"{n} {how}" for how, n in sorted(missing.items()))
        return Result(weak, f"{missing.total()} of {len(counted)} attempts are not among the logs: "
                            f"{shown(kinds)}")
    repeated = f", {len(absent)} of them ended and repeated" if absent else ""
    return Result("ok", f"{number_of(counted, 'attempt')}{repeated}, all here")


def counted_attempts(claim: Claim, digest: str) -> dict[str, dict[str, Any]]:
    """Return the attempts with some code, by run id: those of the ledgers, and of races that made runs here.

    Races run in a place without a ledger: race.json is theirs. Who submits runs of one submits all that it
    made with this code; the first pair, which its rule drops, may be left out.
    """
    begun = [entry for ledger in claim.ledgers for entry in attempts(ledger, digest, claim.track)]
    names = {run.sha256: run.run_id for run in claim.runs}
    for raced in (race.attempts_of(digest) for race in claim.races):
        if any(entry["sha256"] in names for entry in raced):
            begun += [entry | {"run_id": names.get(entry["sha256"], f"{entry['run_id']} of the race")}
                      for entry in raced if entry["sha256"] in names or not entry["dropped"]]
    return {str(entry["run_id"]): {"seed": None} | entry for entry in begun}


def seeds(claim: Claim) -> Result:
    """The seeds are the unbroken row of the campaign's or race's own file, written before its first run."""
    if claim.damage:
        return Result("unknown", "not every log can be read")
    ours = sorted({run.seed for run in claim.own if run.seed is not None})
    found: list[tuple[str, list[int]]] = []
    shared = ""
    for file in claim.campaigns:
        state = {"seed0": 0, **read_json(file, {"logs": list})}
        first = need(state, "seed0", int)
        found.append((file.name, list(range(first, first + len(state["logs"])))))
        shared = "; several ran at once, so their times tell nothing" if state.get("side_by_side") else shared
    for race in claim.races:
        if race.attempts_of(str(claim.own[0].at("code", "digest"))):
            found += [(RACE, race.plan["seeds"][dropped:]) for dropped in (1, 0)]
    if any(ours == row == list(range(ours[0], ours[0] + len(ours))) for _, row in found):
        return Result("ok", f"seeds {ours[0]} to {ours[-1]}, as declared{shared}")
    numbers = f"seeds {', '.join(map(str, ours))}"
    if not found:  # fewer runs claim nothing; of older harnesses no campaign's file was kept
        asked = claim.standing("current") and len(claim.runs) >= FEWEST
        return Result("review" if asked else "unknown", f"{numbers}: no campaign's or race's file names them")
    return Result("review", f"{numbers}; {found[0][0]} says {', '.join(map(str, found[0][1]))}")


def scan(claim: Claim) -> Result:
    """Nothing in the submission's code asks for a reader's eye."""
    if not claim.sources:
        return Result("unknown", "the logs hold no code")
    found = [f"{each.path}:{each.line}: {each.what}" for each in claim.findings]
    result = result_of(found, number_of(claim.sources, "file"), "review")
    return dataclasses.replace(result, every=tuple(dict.fromkeys(found)))


def significance(claim: Claim) -> Result:
    """What the declared rule says of the losses; the repeats of one seed are one observation."""
    decided = claim.decide()
    states = {"PROVEN": "ok", "PROMISING": "ok", "NOT SHOWN": "unknown"}
    return Result(states.get(decided.word, "fail"), f"{decided.word}: {decided.reason}")


def race(claim: Claim) -> Result:
    """What the record's race against another shows, if there was one; speed is claimed by nothing else."""
    if (race := claim.race) is None:
        return Result("unknown", "no race: no claim of speed")
    found = race.judge(race.side_of(str(claim.own[0].at("code", "digest"))))
    raced = dataclasses.replace(claim, track=race.plan["track"], runs=[
        run for run in race.runs if run and run.status not in ENDED_BY_USER])
    wrong = [f"{check.__name__}: {result.evidence}" for check in OF_A_RUN
             if (result := each_run(check, raced)).state == "fail"]
    if raced.track != claim.track:
        wrong.append(f"track {raced.track}, the logs are of {claim.track}")
    killed = f"; {found['killed']} of {found['attempts']} attempts were killed" if found["killed"] else ""
    state = "review" if killed or found["verdict"] == "could not tell" else "ok"
    if closed := raced.standing("closed"):
        return Result("unknown", f"{closed[0].name}: its harness is closed, and its list lacks this log")
    return Result("fail", first_of(wrong)) if wrong else Result(
        state, f"{found['verdict']}: {found['reason']}{killed}")


CHECKS = (framing, hashes, of_a_run.sequence, of_a_run.harness, code, distinct, of_a_run.track, data,
          of_a_run.tokens, of_a_run.parameters, of_a_run.status, of_a_run.complete, of_a_run.monotone,
          of_a_run.wall, of_a_run.clocks, pace, place, of_a_run.nothing_late, of_a_run.settings,
          of_a_run.tripwires, of_a_run.lines, of_a_run.git, of_a_run.first_loss, of_a_run.untimed,
          of_a_run.imports, of_a_run.judge, all_attempts, seeds, scan, significance, race)


def conclude(claim: Claim, *needed: Result) -> Verdict:
    """Return what the rule says; PROMISING at most unless the needed checks are ok and the format ours."""
    decided = claim.decide()
    why = [result.evidence for result in needed if result.state != "ok"]
    if len(claim.own) < len(claim.runs):
        why = ["logs of this format show too little"]
    if decided.word != "PROVEN" or not why:
        return decided
    return dataclasses.replace(decided, word="PROMISING", reason=f"{decided.reason}; but {why[0]}")
