"""Which runs count: every attempt of a ledger or a race, and races whose runs pass the checks of any run."""
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from broken import ONE_RUN, states
from synthetic import HARNESS, campaign, change, edited, killed, race_logs, raced, setting

from records.tools.check import of_a_claim as checks
from records.tools.check import of_a_run
from records.tools.check.claim import Claim, load_claim
from records.tools.check.race import Race
from records.tools.publish.verify import check_all


def tell(root: Path, *entries: dict) -> None:
    """Add entries to the ledger of the campaign in a checkout."""
    with open(root / "runs" / "ledger.jsonl", "a") as ledger:
        ledger.writelines(json.dumps(entry) + "\n" for entry in entries)


def test_attempts_that_were_not_submitted_are_counted(root):
    logs = campaign(root, n=5)
    assert states(logs) == {}
    found = check_all(load_claim(logs[:4]))
    assert found["all_attempts"] == of_a_run.Result("fail", "1 of 5 attempts are not among the logs: 1 ok")
    code = load_claim(logs).runs[0].at("code", "digest")
    tell(root, *({"what": "start", "run_id": run_id, "track": "tiny", "code": digest}
                 for run_id, digest in (("killed", code), ("other", "f" * 64))))
    assert "2 of 6 attempts are not among the logs: 1 incomplete, 1 ok" == check_all(
        load_claim(logs[:4]))["all_attempts"].evidence
    (root / "runs" / "ledger.jsonl").rename(root / "ledger.jsonl")
    assert checks.all_attempts(load_claim(logs)).state == "unknown"
    assert checks.all_attempts(load_claim(logs, ledger=root / "ledger.jsonl")).state == "fail"


def test_a_run_with_overrides_is_another_experiment_and_no_attempt(root):
    logs = campaign(root, n=5, change=change("overrides", {"lr": 0.2}))[1:]
    assert check_all(load_claim(logs))["all_attempts"].state == "ok"


@pytest.mark.parametrize("status, seed, state", [
    ("incomplete", 2, "ok"), ("interrupted", 2, "ok"), ("stopped", 4, "ok"),  # ended, and repeated
    ("incomplete", 9, "fail"), ("failed", 2, "fail"), ("nonfinite", 2, "fail"), ("ok", 2, "fail")])
def test_an_attempt_that_was_ended_may_be_repeated_with_its_seed(status, seed, state, root):
    logs = campaign(root)
    code = load_claim(logs).runs[0].at("code", "digest")
    tell(root, {"what": "start", "run_id": "x", "track": "tiny", "code": code, "seed": seed})
    if status != "incomplete":
        tell(root, {"what": "end", "run_id": "x", "status": status})
    assert checks.all_attempts(load_claim(logs)).state == state


def with_race(root: Path, changed: Callable | None = None, **how) -> Claim:
    """Return a sound record's claim with a race, whose logs are spoilt as told, or all are changed."""
    claim = load_claim(campaign(root, change=changed, which=None))
    claim.record = root / "record"
    claim.races = [Race(raced(claim.record / "race", **how))]
    return claim


@pytest.mark.parametrize("side", ["A", "B"])
@pytest.mark.parametrize("what", [what for what, (check, _) in ONE_RUN.items()
                                  if check not in ("harness", "code", "place")])
def test_a_race_fails_where_a_run_of_either_side_fails_a_check(what, side, root):
    """A race is the only claim of speed, and its logs were not checked at all."""
    name, spoil = ONE_RUN[what]
    slot = {"A": 3, "B": 2}[side]
    found = checks.race(with_race(root, spoil=spoil, slot=slot))
    assert found.state == "fail" and f"{name}: " in found.evidence and f"_ace00{slot}.txt" in found.evidence


def late(run):
    run.late = {"late.py": b"x = 1\n"}
    run.manifest["sys"]["settings"] = ["a.b = True"]
    run.end["clocks"] = {name: 0 for name in run.end["clocks"]}


STRANGE = setting(files={**HARNESS, "harness/run.py": b"steps = 7\n"})


@pytest.mark.parametrize("changed, how, track, words", [
    (STRANGE, {"spoil": STRANGE}, "tiny", ["harness: ", "not accepted"]),  # one harness on both sides
    (None, {"spoil": late, "slot": 3}, "tiny", ["nothing_late: ", "wall: ", "clocks: "]),
    (None, {"spoil": change("overrides", {"lr": 1})}, "tiny", ["no_overrides: "]),
    (None, {}, "other", ["track tiny, the logs are of other"])])
def test_what_is_wrong_with_a_race_is_named_together(changed, how, track, words, root):
    claim = with_race(root, changed, **how)
    claim.track = track
    found = checks.race(claim)
    assert found.state == "fail" and all(word in found.evidence for word in words)


def test_a_race_is_reported_and_killed_or_unclear_ones_ask_for_a_reader(root):
    claim = with_race(root)

    def after(edit: Callable) -> of_a_run.Result:
        claim.races = [Race(edited(claim.races[0].folder, edit))]
        return checks.race(claim)
    found = after(lambda plan: None)
    assert found.state == "ok" and found.evidence.startswith("faster: A against B over 4 pairs")
    found = after(killed)
    assert found.state == "review" and found.evidence.endswith("; 1 of 11 attempts were killed")
    found = after(lambda plan: plan.update(attempts=plan["attempts"][:4]))
    assert found.state == "review" and "could not tell" in found.evidence


def test_runs_that_the_ledger_does_not_know_are_counted(root):
    """Runs made elsewhere, or a ledger that was cut, passed for a whole campaign."""
    logs = campaign(root, n=5)
    ledger = root / "runs" / "ledger.jsonl"
    lines = ledger.read_text().splitlines(True)
    ledger.write_text("".join(line for line in lines if logs[0].stem not in line))
    result = checks.all_attempts(load_claim(logs))
    assert result.state == "fail" and "the ledger does not know 1 of 5 runs" in result.evidence
    assert checks.all_attempts(load_claim(logs[:3])).state == "review"
    ledger.write_text("")
    assert "does not know 5 of 5" in checks.all_attempts(load_claim(logs)).evidence


def test_the_runs_of_a_race_are_counted_by_its_race_json(root):
    logs = race_logs(raced(root / "race"), "A")
    result = checks.all_attempts(load_claim(logs))  # race.json lies beside them
    assert result == of_a_run.Result("ok", "4 attempts, all here")
    assert checks.all_attempts(load_claim(race_logs(root / "race", "A", first=0))).state == "ok"
    result = checks.all_attempts(load_claim(logs[:3]))
    assert result.state == "review" and "1 of 4 attempts are not among the logs: 1 ok" in result.evidence
    (root / "x").mkdir()
    copies = [Path(shutil.copy(log, root / "x")) for log in logs]
    assert checks.all_attempts(load_claim(copies)).state == "unknown"


def test_the_better_half_of_a_race_is_no_record(root):
    """Eight runs of one side, and the four with the least loss submitted; nor is a log known by its name."""
    logs = race_logs(raced(root / "race", n=8), "B")
    result = checks.all_attempts(load_claim(logs[:4]))
    assert result.state == "fail" and "4 of 8 attempts" in result.evidence
    claim = load_claim(logs)
    assert checks.all_attempts(claim).state == "ok"
    claim.runs[0].sha256 = "f" * 64
    assert checks.all_attempts(claim).state == "fail"
