"""record.json and a record's README.md say what the logs say, byte for byte, without a stranger's markup."""
import json
import shutil
from pathlib import Path

import pytest

from harness.runlog import sha256

from records.tools.read import tracks
from records.tools.publish import record
from records.__main__ import main
from records.tools.check.claim import load_claim
from records.tools.read.values import ReadError
from synthetic import campaign, checkout, race_logs, raced


@pytest.fixture
def folder(tmp_path: Path, monkeypatch) -> Path:
    """The folder of a sound record."""
    root = checkout(tmp_path / "checkout")
    monkeypatch.setattr(tracks, "ROOT", root)
    logs = campaign(root)
    assert main(["submit", *map(str, logs), "--name", "First-1", "--to", str(root / "records")]) == 0
    shutil.rmtree(root / "runs")
    return root / "records" / "tiny" / "2026-01-01_First-1"


def test_a_record_says_what_its_logs_say(folder):
    found = json.loads((folder / "record.json").read_text())
    assert (found["track"], found["name"], found["date"], found["n"]) == ("tiny", "First-1", "2026-01-01", 4)
    assert found["val_loss"]["mean"] == pytest.approx(4.9025)
    assert found["val_loss"]["sd"] == pytest.approx(0.00129, rel=1e-2)
    assert found["train_time_s"]["values"] == [0.080000007, 0.080000014, 0.080000021, 0.080000028]
    assert (found["steps"], found["tokens"], found["parameters"]) == (8, 512, {"active": 900, "total": 1200})
    assert (found["world_size"], found["device"], found["torch"]) == (1, "Tiny CPU", "2.13.0")
    assert found["significance"]["word"] == "PROVEN" and found["target"] == 5.0 and found["race"] is None
    assert [log["seed"] for log in found["logs"]] == [1, 2, 3, 4]
    for log in found["logs"]:
        assert sha256((folder / log["file"]).read_bytes()) == log["sha256"]


def test_a_sound_record_is_rebuilt_to_the_byte(folder):
    assert record.differences(load_claim([folder])) == []
    assert main(["verify", str(folder)]) == 0


@pytest.mark.parametrize("file, old, new, words", [
    ("record.json", '"active": 900', '"active": 901', "parameters"),
    ("record.json", '"n": 4', '"n": 40', "n is 40"),
    ("record.json", '"n": 4', '"n":  4', "canonical"),
    ("record.json", "{", "[", "not JSON"),
    ("README.md", "PROVEN", "BEYOND DOUBT", "README.md"),
    ("README.md", "4.9025", "4.8025", "README.md"),
])
def test_what_was_typed_by_hand_is_found(folder, file, old, new, words, capsys):
    (folder / file).write_text((folder / file).read_text().replace(old, new, 1))
    assert main(["verify", str(folder)]) == 1
    line = next(line for line in capsys.readouterr().out.split("\n") if "rebuilt" in line)
    assert line.startswith("FAIL") and words in line


def submitted(root: Path, logs: list[Path], code: int = 0) -> Path:
    """Submit logs with the race in root, check the exit code, and return the record's folder."""
    flags = ["--name", "X", "--to", str(root / "records"), "--race", str(root / "race")]
    assert main(["submit", *map(str, logs), *flags]) == code
    return root / "records" / "tiny" / "2026-01-01_X"


def test_a_race_goes_into_the_record_and_its_table(root, capsys):
    raced(root / "race", a_later_ms=-20)
    folder = submitted(root, campaign(root))
    found = json.loads((folder / "record.json").read_text())["race"]
    assert found["verdict"] == "faster" and found["pairs"] == 4 and found["difference_s"] < -0.019
    assert (found["attempts"], found["killed"]) == (10, 0)
    text = (folder / "README.md").read_text()
    assert f"against train.py {found['against']['code'][:8]}: faster, -0.02 s" in text
    assert main(["verify", str(folder)]) == 0 and "ok      race: faster" in capsys.readouterr().out
    [log, *_] = (folder / "race").glob("*.txt")
    log.unlink()
    assert main(["verify", str(folder)]) == 1


@pytest.mark.parametrize("side, verdict, sign, other", [("A", "faster", -1, "B"), ("B", "slower", 1, "A")])
def test_a_races_kept_runs_are_a_record_of_either_side(side, verdict, sign, other, root, capsys):
    """The first record of a track is the side that was raced against: its only runs are those of the race."""
    logs = race_logs(raced(root / "race", a_later_ms=-20), side)
    folder = submitted(root, logs)
    found = json.loads((folder / "record.json").read_text())
    plan = json.loads((root / "race" / "race.json").read_text())
    assert found["significance"]["word"] == "PROVEN" and found["n"] == 4
    assert found["race"]["verdict"] == verdict and sign * found["race"]["difference_s"] > 0.019
    assert sign * found["race"]["difference_percent"] > 0
    assert found["race"]["against"]["code"] == plan[other]["code"] != found["code"]
    assert main(["verify", str(folder)]) == 0
    assert "all_attempts: 4 attempts, all here" in capsys.readouterr().out


def test_killed_attempts_of_a_race_stand_in_the_record(root, capsys):
    race = raced(root / "race", a_later_ms=-20)
    plan = json.loads((race / "race.json").read_text())
    plan["attempts"].insert(4, {"run": 4, "log": None, "status": None})
    (race / "race.json").write_text(json.dumps(plan))
    folder = submitted(root, race_logs(race, "A"))
    assert "1 of 11 attempts killed" in (folder / "README.md").read_text()
    assert json.loads((folder / "record.json").read_text())["race"]["killed"] == 1
    assert main(["verify", str(folder)]) == 0
    assert "REVIEW  race: faster" in capsys.readouterr().out


def test_a_verifier_without_the_data_finds_the_same_record_and_says_less_of_it(folder, capsys):
    """record.json is what the logs give; what a checkout lacks must not make it another."""
    (tracks.ROOT / "data" / "tiny" / "manifest.json").unlink()
    capsys.readouterr()
    assert main(["verify", str(folder), "--json"]) == 0
    [claim] = json.loads(capsys.readouterr().out)
    states = {check["name"]: check["result"] for check in claim["checks"]}
    assert (claim["word"], states["data"], states["rebuilt"]) == ("PROMISING", "unknown", "ok")


def test_words_outside_of_the_block_are_the_writers_own(folder):
    with open(folder / "README.md", "a") as f:
        f.write("\nMore words.\n")
    assert record.differences(load_claim([folder])) == []


def test_a_record_under_another_name_or_date_is_found(folder):
    moved = folder.rename(folder.with_name("2025-01-01_First-1"))
    assert any("2026-01-01_First-1" in line for line in record.differences(load_claim([moved])))


def test_a_log_that_was_taken_out_is_found(folder, capsys):
    next(iter((folder / "logs").glob("*.txt"))).unlink()
    assert main(["verify", str(folder), "--json"]) == 1
    [claim] = json.loads(capsys.readouterr().out)
    failed = {check["name"] for check in claim["checks"] if check["result"] == "fail"}
    assert "rebuilt" in failed and claim["word"] == "INVALID"


def test_a_page_without_its_markers_is_found(folder, capsys):
    (folder / "README.md").write_text("# nothing\n")
    assert main(["verify", str(folder)]) == 1
    assert "expected <!-- record begin -->" in capsys.readouterr().out


def test_sections_count_as_written_only_with_words_in_them():
    text = "# x\n## Idea\n\n<!-- why? -->\n\n## What changed\nA line.\n## Ablation\n## Other\nwords\n"
    assert record.unanswered(text) == ["Idea", "Ablation", "Credit"]


def test_a_strangers_text_is_no_markup_in_a_table():
    text = record.cell("a|b <img src=x> [x](http://y) `c` *d* \x1b[31m\u202e\nline")
    assert "<" not in text and "\n" not in text and "\x1b" not in text and "\u202e" not in text
    assert "\\|" in text and "\\[x\\]" in text and "\\`c\\`" in text and "http://" not in text


def test_markers_must_stand_once_and_in_order():
    assert record.replaced("a [1] old [2] b", "[1]", "[2]", "new", "page") == "a new b"
    for page in ("a [1] b", "[2] [1]", "[1] [1] [2]"):
        with pytest.raises(ReadError, match="page: expected"):
            record.replaced(page, "[1]", "[2]", "new", "page")
