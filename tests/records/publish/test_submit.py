"""submit makes a record that verifies, or says why it makes none, and never half a one."""
import json
from pathlib import Path

import pytest

from records.__main__ import main
from synthetic import campaign, change, race_logs, raced


def submit(root: Path, logs: list[Path], *more: str, name: str = "Muon") -> int:
    """Run the command on logs."""
    return main(["submit", *map(str, logs), "--name", name, "--to", str(root / "records"), *more])


def test_a_record_verifies_and_what_it_lacks_is_said(root, capsys):
    assert submit(root, campaign(root)) == 0
    folder, out = root / "records" / "tiny" / "2026-01-01_Muon", capsys.readouterr().out
    assert sorted(p.name for p in folder.iterdir()) == ["README.md", "logs", "record.json"]
    for section in ("Idea", "What changed", "Ablation", "Credit"):
        assert f"missing: README.md: section {section}" in out
    assert f"next: python -m records verify {folder}" in out and "PROVEN" in out
    assert main(["verify", str(folder)]) == 0
    assert "all_attempts: 4 attempts, all here" in capsys.readouterr().out  # the ledger's lines came along


def test_the_readme_asks_for_words_in_comments(root):
    submit(root, campaign(root))
    text = (root / "records" / "tiny" / "2026-01-01_Muon" / "README.md").read_text()
    assert text.startswith("# Muon\n") and text.count("<!-- ") == 2 + 4 and "?" in text


def test_fewer_runs_than_a_look_are_said_to_be_missing(root, capsys):
    assert submit(root, campaign(root, n=3)) == 0
    assert "missing: runs with other seeds: 1 more, up to the declared look at 4" in capsys.readouterr().out


def test_what_verify_calls_invalid_is_refused_by_name(root, capsys):
    logs = campaign(root, change=change("overrides", {"lr": 1}), which=None)
    assert submit(root, logs) == 1
    assert "more: overrides on the command line" in capsys.readouterr().out
    assert not (root / "records").exists()


def test_what_its_own_runs_refute_is_refused(root, capsys):
    """Such a record was written with exit code 0, and then led the table."""
    def worse(run):
        run.vals[-1][1] += 0.5
    logs = campaign(root, change=worse, which=None)
    assert submit(root, logs) == 1 and "REFUTED, no record" in capsys.readouterr().out
    assert submit(root, logs, "--json") == 1
    assert json.loads(capsys.readouterr().out)["word"] == "REFUTED" and not (root / "records").exists()


def test_the_exit_code_is_that_of_the_record(root):
    def near(run):
        run.vals[-1][1] = 5.0 + (run.manifest["seed"] - 2.6) / 10
    assert submit(root, campaign(root, change=near, which=None)) == 1  # NOT SHOWN, at a declared look
    assert (root / "records" / "tiny" / "2026-01-01_Muon").is_dir()


def test_json_is_what_verify_says_and_what_is_missing(root, capsys):
    assert submit(root, campaign(root), "--json") == 0
    found = json.loads(capsys.readouterr().out)
    folder = root / "records" / "tiny" / "2026-01-01_Muon"
    assert (found["word"], found["record"]) == ("PROVEN", str(folder))
    assert "README.md: section Idea" in found["missing"]
    main(["verify", "--json", str(folder)])
    assert found.items() >= json.loads(capsys.readouterr().out)[0].items()


def test_without_ledger_and_race_a_record_is_promising_at_most(root, capsys):
    """Leaving out the ledger made PROVEN of PROMISING."""
    logs = campaign(root, n=5)
    (logs[0].parent / "ledger.jsonl").unlink()
    assert submit(root, logs[1:]) == 0
    assert "PROMISING" in capsys.readouterr().out


def test_runs_of_a_race_need_no_other_ledger_than_its_race_json(root, capsys):
    logs = race_logs(raced(root / "race"), "A")
    assert submit(root, logs, "--race", str(root / "race")) == 0 and "PROVEN" in capsys.readouterr().out
    assert submit(root, logs, name="Alone") == 0  # without its race they are runs that no ledger knows
    assert ": PROMISING" in capsys.readouterr().out


def test_missing_attempts_stay_with_the_record(root, capsys):
    logs = campaign(root, n=5)
    assert submit(root, logs[1:]) == 1  # written, and what verify says of it
    out = capsys.readouterr().out
    assert "PROMISING" in out and "1 of 5 attempts are not among the logs" in out
    folder = root / "records" / "tiny" / "2026-01-01_Muon"
    assert json.loads((folder / "record.json").read_text())["significance"]["word"] == "PROMISING"
    assert main(["verify", str(folder)]) == 1  # in a clone too, where nobody has that ledger


@pytest.mark.parametrize("name", ["", "a b", "../x", "a/b", ".x", "-x", "é", "a" * 61, "<b>", "x\n"])
def test_a_name_that_is_no_name_is_refused(name, root, capsys):
    assert main(["submit", str(campaign(root, n=1)[0]), f"--name={name}", "--to", str(root / "records")]) == 2
    assert "letters, digits" in capsys.readouterr().err and not (root / "records").exists()


def test_a_record_is_never_overwritten_and_leaves_nothing_behind(root, capsys):
    logs = campaign(root)
    assert submit(root, logs) == 0
    before = {path: path.read_bytes() for path in (root / "records").rglob("*") if path.is_file()}
    assert submit(root, logs) == 2 and "never overwritten" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in (root / "records").rglob("*") if path.is_file()} == before
    assert [path.name for path in (root / "records" / "tiny").iterdir()] == ["2026-01-01_Muon"]


def test_a_run_id_that_is_no_file_name_is_refused(root, capsys):
    logs = campaign(root, change=change("run_id", "../../escape"))
    assert submit(root, logs) == 2
    assert "no name for a file" in capsys.readouterr().err and not list((root / "records" / "tiny").iterdir())


def test_a_race_is_asked_for_where_there_is_a_record_to_beat(root, capsys):
    logs = campaign(root)
    submit(root, logs)
    capsys.readouterr()
    submit(root, logs, name="Second")
    out = capsys.readouterr().out
    assert "missing: a race against the present record" in out and "2026-01-01_Muon" in out


def test_the_race_of_another_code_is_refused(root, capsys):
    race = {"format": 1, "track": "tiny", "A": {"code": "a" * 64}, "B": {"code": "b" * 64}, "n": 2,
            "attempts": [], "seeds": [0, 1, 2], "order": list("ABBAAB")}
    (root / "race").mkdir()
    from records.tools.again.race import RULE
    (root / "race" / "race.json").write_text(json.dumps({**race, "rule": RULE}))
    assert submit(root, campaign(root), "--race", str(root / "race")) == 2
    assert "the race is of code aaaaaaaa" in capsys.readouterr().err


def test_the_example_of_the_help_runs(root, monkeypatch, capsys):
    logs = campaign(root)
    with pytest.raises(SystemExit):
        main(["submit", "--help"])
    example = capsys.readouterr().out.strip().split("\n")[-1]
    assert example == "example: python -m records submit records/runs/*.txt --name Muon"
    monkeypatch.chdir(root)
    assert main(["submit", *map(str, logs), *example.split()[6:]]) == 0
    assert (root / "records" / "tiny" / "2026-01-01_Muon").is_dir()


def test_a_record_s_folder_without_record_json_is_not_judged_as_loose_logs(root, capsys):
    """Removing record.json used to turn INVALID into PROVEN."""
    logs = campaign(root, 4)
    main(["submit", *map(str, logs), "--name", "A", "--to", str(root / "records")])
    [record] = (root / "records").glob("*/*/record.json")
    record.unlink()
    assert main(["verify", str(record.parent)]) == 2
    assert "without record.json" in capsys.readouterr().err
