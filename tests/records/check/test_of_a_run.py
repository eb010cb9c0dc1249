"""Every check of one run has a log that fails it and no other check."""
import json
from pathlib import Path

import pytest
from broken import FOR_A_READER, ONE_RUN, states
from synthetic import OLD, OLD_HARNESS, campaign, change, checkout, judging, resealed

from records.tools.check import of_a_run
from records.tools.check.claim import load_claim
from records.tools.check.verdict import verdict_path
from records.tools.publish.verify import check_all


@pytest.mark.parametrize("what", ONE_RUN)
def test_a_log_fails_the_one_check_that_it_breaks(what, root):
    name, change = ONE_RUN[what]
    which = None if name == "harness" else 0  # all runs, or the code would differ too
    assert states(campaign(root, change=change, which=which)) == {name: "fail"}


@pytest.mark.parametrize("path, imported, failed", [
    ("harness/deep/a.py", (), {"harness": "fail"}), ("harness/deep/a.txt", (), {"harness": "fail"}),
    ("harness/front/launch.py", (), {}), ("harness/front/launch.py", True, {"harness": "fail"})])
def test_a_file_below_the_harness_fails_unless_it_is_the_launcher_and_no_rank_imports_it(
        path, imported, failed, root):
    """The code digest leaves harness/ to the harness digest, which counts harness/*.py alone."""
    def beside(run):
        run.files[path] = b"x = 1\n"
        run.imported = imported and (path,)
    assert states(campaign(root, change=beside, which=None)) == failed


def test_an_event_that_was_taken_out_fails_sequence(root):
    logs = campaign(root)
    line = next(line for line in logs[0].read_bytes().split(b"\n") if line.startswith(b"#:scalar"))
    resealed(logs[0], line + b"\n", b"")
    assert states(logs) == {"sequence": "fail"}


def test_a_step_line_that_is_not_its_event_fails_lines(root):
    swaps = ((b"val_loss:4.9010", b"val_loss:4.8010"), (b"4.9010 train_time:80", b"4.9010 train_time:81"),
             (b"step_avg:10.00ms", b"step_avg:9.00ms"), (b'"bits_per_byte":8', b'"bits_per_byte":7'))
    for i, (old, new) in enumerate(swaps):
        folder = checkout(root / str(i))
        logs = campaign(folder)
        resealed(logs[0], old, new)
        assert states(logs) == {"lines": "fail"}


def test_a_dirty_checkout_is_noted_and_no_fault(root):
    logs = campaign(root, change=change("git", {"commit": "c" * 40, "dirty": True}))
    found = check_all(load_claim(logs))
    assert states(logs) == {} and "dirty" in found["git"].evidence


def test_a_number_of_steps_that_nobody_made_fills_no_memory(root):
    """num_iterations of 1e14 with val_every 1 made a list of as many steps."""
    logs = campaign(root, change=change("hyperparameters", {"num_iterations": 10**14, "val_every": 1}))
    resealed_steps(logs[0], 10**14)
    result = of_a_run.each_run(of_a_run.complete, load_claim(logs))
    assert result.state == "fail" and f"{10**14} steps with a validation every 1 steps" in result.evidence


def resealed_steps(log: Path, steps: int) -> None:
    for i in range(9):
        for what in ("train_loss", "val_loss"):
            resealed(log, f"step:{i}/8 {what}".encode(), f"step:{i}/{steps} {what}".encode())


def test_a_value_that_no_harness_writes_names_its_log_and_hides_no_other_run(root):
    logs = campaign(root, change=change("parameters", {"active": "many"}))
    spoilt = campaign(checkout(root / "other"), n=1, change=change("parameters.active", 5000))
    found = of_a_run.each_run(of_a_run.parameters, load_claim([*logs, *spoilt]))
    assert f"{logs[0].name}: a value that no harness writes (TypeError" in found.evidence
    assert f"{spoilt[0].name}: 5000 active parameters" in found.evidence


@pytest.mark.parametrize("field", ["data", "data.train", "parameters", "hyperparameters", "launch", "clocks",
                                   "sys", "track_row", "seed", "overrides", "git", "world_size", "run_id"])
@pytest.mark.parametrize("value", [None, [], {}, "x", -1, 1e400, [[]], {"a": {}}])
def test_a_value_of_another_type_never_ends_in_a_traceback(field, value, root):
    logs = campaign(root, n=1, change=change(field, value))
    check_all(load_claim(logs))


def test_a_log_that_was_cut_off_is_said_to_be(root):
    """Its missing end line was a KeyError in Python's words."""
    [log] = campaign(root, 1)
    log.write_bytes(log.read_bytes().rpartition(b"#:end")[0])
    assert check_all(load_claim([log]))["clocks"].evidence == f"{log.name}: cut off, it has no end line"


@pytest.mark.parametrize("what", FOR_A_READER)
def test_what_only_a_reader_can_settle_is_a_review_of_the_one_check_that_sees_it(what, root):
    name, change = FOR_A_READER[what]
    logs = campaign(root, change=change)
    assert states(logs) == {name: "review"}
    assert check_all(load_claim(logs))[name].logs == (load_claim(logs[:1]).runs[0].sha256,)


def test_a_wrong_verdict_is_told_with_its_numbers_and_who_judged(root):
    logs = campaign(root, change=judging(ok=False, loss=None, refused="moved 0.25", judged_by="verifier"))
    evidence = check_all(load_claim(logs))["judge"].evidence
    assert "moved 0.25; loss None, judged by a verifier" in evidence
    assert "judged by its owner" in check_all(load_claim(logs[1:]))["judge"].evidence


def test_a_file_that_no_judge_writes_fails_in_one_line(root):
    claim = load_claim(campaign(root))
    file = verdict_path(claim.runs[0].path)
    for text in ("", "[]", "{}", "{", "[" * 10**5, '{"ok":true}', '{"ok":1}', " " * (2 << 20), "\0",
                 '{"judged_by":"owner"}'):
        file.write_text(text)
        found = of_a_run.each_run(of_a_run.judge, claim)
        assert found.state == "fail" and file.name in found.evidence, text[:20]


def test_a_verdict_with_a_value_of_another_type_never_ends_in_a_traceback(root):
    claim = load_claim(campaign(root, n=1))
    file = verdict_path(claim.runs[0].path)
    sound = json.loads(file.read_text())
    for field in sound:
        for value in (None, [], {}, "x", -1, 1e400, [[]], True):
            file.write_text(json.dumps(sound | {field: value}))
            for check in (of_a_run.judge, of_a_run.untimed):
                of_a_run.each_run(check, claim)


@pytest.mark.parametrize("old, new", [
    (b'"seed":1,"seq"', b'"seed":"1","seq"'), (b'"world_size":1', b'"world_size":0'),
    (b'"world_size":1', b'"world_size":100000'), (b'"run_id":"2026', b'"run_id":"2025'),
    (b"Running Python 3.11.7", b"Running \x1b[2J3.11.7"), (b"Running Python 3.11.7", b"Running\r3.11.7"),
    (b'"cpu":"Tiny', b'"cpu":"\\u0000Tiny'), (b"step:1/8", b"> \x1b]0;x\nstep:1/8")])
def test_what_no_harness_writes_fails_framing_though_all_sums_fit(old, new, root):
    """verify passed resealed logs with NUL, CR, ESC in text, a seed that is text, another's run_id."""
    logs = campaign(root)
    resealed(logs[0], old, new)
    assert states(logs)["framing"] == "fail"


def test_a_log_of_a_closed_harness_counts_where_the_list_of_its_closing_has_it(root):
    """It has neither a verdict nor the facts of later harnesses, and its row lacks later fields."""
    def old(run):
        run.files, run.verdict = OLD_HARNESS, None
        del run.manifest["process"], run.end["untimed"], run.end["state_sha256"]
    logs = campaign(root, change=old, which=None)
    found = check_all(load_claim(logs))
    assert found["harness"].state == "unknown" and "closed" in found["harness"].evidence
    listed = [load_claim([log]).runs[0].sha256[:16] for log in logs]
    rows = root / "harness" / "tracks.toml"
    rows.write_text(rows.read_text().replace(f"{OLD} = []", f"{OLD} = {listed}"))
    found = check_all(load_claim(logs))
    assert found["harness"].state == "ok" and states(logs) == {}
    assert {found[name].state for name in ("untimed", "imports", "judge")} == {"unknown"}


def test_new_fields_of_a_row_are_words_and_a_target_of_0_is_none():
    row = {"target": 0.0, "val_tokens": 512}
    assert of_a_run.row_differences(row, {"val_tokens": 512, "gap": {"mean": 1}}) == []
    assert of_a_run.row_differences(row, {"val_tokens": 513, "target": 3.0}) == [
        "target is 0.0, this checkout says 3.0", "val_tokens is 512, this checkout says 513"]


@pytest.mark.parametrize("seconds, found", [(1, {}), (9, {"untimed": "review"})])
def test_what_comes_after_the_last_validation_is_a_part_that_untimed_looks_at(seconds, found, root):
    """0.75 s on a busy host, of 1 s that were allowed, made an honest short run nearly INVALID."""
    def slow(run):
        run.end["finish_ns"] = seconds * 10**9
        run.end["wall_ns"] += seconds * 10**9
        run.end["clocks"] = {name: ns + seconds * 10**9 for name, ns in run.end["clocks"].items()}
    assert states(campaign(root, change=slow)) == found


def test_an_older_logs_target_of_zero_is_that_of_a_track_without_one():
    row = {"val_tokens": 512}
    assert of_a_run.row_differences({**row, "target": 0.0}, row) == []
    assert of_a_run.row_differences({**row, "target": None}, row) == []
    assert of_a_run.row_differences({**row, "target": 0.0}, {**row, "target": 5.0}) != []
    assert of_a_run.row_differences({**row, "target": 5.0}, row) != []
