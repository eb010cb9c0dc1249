"""submit makes a record that verifies, or says why it makes none, and never half a one."""
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from broken import near, worse
from synthetic import campaign, change, race_logs, raced, unjudged

from records.__main__ import COMMANDS
from records.tools.again import launch as launches
from records.tools.check.race import RULE


@pytest.fixture
def submit(root, call) -> Callable:
    """Return submit(logs, *more, name, code) -> what the command prints, its exit code checked."""
    return lambda logs, *more, name="Muon", code=0: call(
        "submit", *logs, f"--name={name}", "--to", root / "records", *more, code=code)


@pytest.fixture
def folder(root: Path) -> Path:
    """Where the record comes to lie."""
    return root / "records" / "tiny" / "2026-01-01_Muon"


def test_a_record_verifies_and_what_it_lacks_is_said(root, submit, folder, call):
    out = submit(campaign(root)).out
    assert sorted(p.name for p in folder.iterdir()) == ["README.md", "logs", "record.json"]
    for section in ("Idea", "What changed", "Ablation", "Credit"):
        assert f"missing: README.md: section {section}" in out
    assert f"next: python -m records verify {folder}" in out and "PROVEN" in out
    text = (folder / "README.md").read_text()  # it asks for words in comments
    assert text.startswith("# Muon\n") and text.count("<!-- ") == 2 + 4 and "?" in text
    assert "all_attempts: 4 attempts, all here" in call("verify", folder).out  # the ledger's lines came along


def test_verdicts_come_along_and_what_has_weights_is_judged_before(root, submit, folder, judge, monkeypatch):
    monkeypatch.setattr(launches, "ROOT", root)
    logs = campaign(root / "records")
    for log in logs[1:]:
        unjudged(log)
    out = submit(logs).out
    assert len(judge.asked) == 3 and "weights stay out of git" in out
    assert len(list((folder / "logs").glob("*.judge.json"))) == 4
    assert not list(folder.rglob("*.safetensors")) and logs[1].with_suffix(".safetensors").exists()


def test_commands_to_paste_are_quoted_and_name_the_record_to_race(root, submit, call):
    logs, to = campaign(root), root / "my records"
    first, second = (call("submit", *logs, f"--name={name}", "--to", to).out for name in ("One", "Two"))
    one, two = (to / "tiny" / f"2026-01-01_{name}" for name in ("One", "Two"))
    assert f"next: python -m records verify '{one}'\n" in first and "race" not in first
    assert f"(not raced against One): python -m records checkout '{one}' submissions/2026-01-01_One.py, " \
           f"python -m records race '{two}' submissions/2026-01-01_One.py, then" in second


def test_what_verify_calls_invalid_is_refused_by_name(root, submit):
    out = submit(campaign(root, change=change("overrides", {"lr": 1}), which=None), code=1).out
    assert "more: overrides on the command line" in out and not (root / "records").exists()


def test_what_its_own_runs_refute_is_refused(root, submit):
    """Such a record was written with exit code 0, and then led the table."""
    logs = campaign(root, change=worse, which=None)
    assert "REFUTED, no record" in submit(logs, code=1).out
    assert json.loads(submit(logs, "--json", code=1).out)["word"] == "REFUTED"
    assert not (root / "records").exists()


@pytest.mark.parametrize("n, change, first, ledger, code, words", [
    (3, None, 0, True, 0, "missing: runs with other seeds: 1 more, up to the declared look at 4"),
    (4, near, 0, True, 1, "NOT SHOWN"),
    (5, None, 1, False, 0, "PROMISING")])  # leaving out the ledger made PROVEN of it
def test_what_is_no_proof_is_written_with_the_exit_code_of_the_record(
        n, change, first, ledger, code, words, root, submit, folder):
    logs = campaign(root, n, change, which=None)
    if not ledger:
        (root / "runs" / "ledger.jsonl").unlink()
    out = submit(logs[first:], code=code).out
    assert words in out and folder.is_dir()
    assert ("missing: runs with other seeds" in out) == ledger


def test_a_proof_without_the_track_s_data_lacks_the_data_and_no_runs(root, submit):
    """It asked for four more runs, which would have changed nothing."""
    (root / "data" / "tiny" / "manifest.json").unlink()
    out = submit(campaign(root)).out
    assert "missing: data: this checkout pins no shards" in out and "other seeds" not in out


def test_json_is_what_verify_says_and_what_is_missing(root, submit, folder, call):
    found = json.loads(submit(campaign(root), "--json").out)
    assert (found["word"], found["record"]) == ("PROVEN", str(folder))
    assert "README.md: section Idea" in found["missing"]
    assert found.items() >= json.loads(call("verify", "--json", folder).out)[0].items()


def test_runs_of_a_race_need_no_other_ledger_than_its_race_json(root, submit):
    logs = race_logs(raced(root / "race"), "A")
    assert "PROVEN" in submit(logs, "--race", root / "race").out
    assert ": PROMISING" in submit(logs, name="Alone").out  # without it they are runs that no ledger knows


def test_missing_attempts_stay_with_the_record(root, submit, folder, call):
    out = submit(campaign(root, n=5)[1:], code=1).out  # written, and what verify says of it
    assert "PROMISING" in out and "1 of 5 attempts are not among the logs" in out
    assert json.loads((folder / "record.json").read_text())["significance"]["word"] == "PROMISING"
    call("verify", folder, code=1)  # in a clone too, where nobody has that ledger


@pytest.mark.parametrize("name", ["", "a b", "../x", "a/b", ".x", "-x", "é", "a" * 61, "<b>", "x\n"])
def test_a_name_that_is_no_name_is_refused(name, root, submit):
    assert "letters, digits" in submit(campaign(root, n=1), name=name, code=2).err
    assert not (root / "records").exists()


def test_a_record_is_never_overwritten_and_leaves_nothing_behind(root, submit, folder):
    def files() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in (root / "records").rglob("*") if path.is_file()}
    submit(logs := campaign(root))
    before = files()
    assert "never overwritten" in submit(logs, code=2).err and files() == before
    assert list(folder.parent.iterdir()) == [folder]
    assert "missing: a race against the present record" in (out := submit(logs, name="Second").out)
    assert "2026-01-01_Muon" in out


def test_a_run_id_that_is_no_file_name_is_refused(root, submit, folder):
    logs = campaign(root, change=change("run_id", "../../escape"))
    logs[0] = logs[0].rename(logs[0].with_name("a.txt"))  # named by its run id it would be INVALID
    err = submit(logs, code=2).err
    assert "no name for a file" in err and not list(folder.parent.iterdir())


def test_the_race_of_another_code_is_refused(root, submit):
    race = {"format": 1, "track": "tiny", "A": {"code": "a" * 64}, "B": {"code": "b" * 64}, "n": 2,
            "attempts": [], "seeds": [0, 1, 2], "order": list("ABBAAB"), "rule": RULE}
    (root / "race").mkdir()
    (root / "race" / "race.json").write_text(json.dumps(race))
    assert "the race is of code aaaaaaaa" in submit(campaign(root), "--race", root / "race", code=2).err


def test_the_example_of_the_help_runs(root, monkeypatch, call, folder):
    words = COMMANDS["submit"][1].split()
    assert words[:5] == ["python", "-m", "records", "submit", "records/runs/*.txt"]
    monkeypatch.chdir(root)
    call("submit", *campaign(root), *words[5:])
    assert folder.is_dir()


def test_a_record_s_folder_without_record_json_is_not_judged_as_loose_logs(record, refused):
    """Removing record.json used to turn INVALID into PROVEN."""
    (record / "record.json").unlink()
    assert "without record.json" in refused("verify", record)
