"""record.json and a record's README.md say what the logs say, byte for byte, without a stranger's markup."""
import json
import shutil

import pytest
from synthetic import campaign, edited, killed, race_logs, raced

from harness.runlog import sha256
from records.tools.check.claim import load_claim
from records.tools.publish import record as records
from records.tools.read.values import ReadError


def test_a_record_says_what_its_logs_say(record):
    found = json.loads((record / "record.json").read_text())
    assert (found["track"], found["name"], found["date"], found["n"]) == ("tiny", "A_b-1", "2026-01-01", 4)
    assert found["val_loss"]["mean"] == pytest.approx(4.9025)
    assert found["val_loss"]["sd"] == pytest.approx(0.00129, rel=1e-2)
    assert found["train_time_s"]["values"] == [0.080000007, 0.080000014, 0.080000021, 0.080000028]
    assert (found["steps"], found["tokens"], found["parameters"]) == (8, 512, {"active": 900, "total": 1200})
    assert (found["world_size"], found["device"], found["torch"]) == (1, "Tiny CPU", "2.13.0")
    assert found["significance"]["word"] == "PROVEN" and found["target"] == 5.0 and found["race"] is None
    assert [log["seed"] for log in found["logs"]] == [1, 2, 3, 4]
    for log in found["logs"]:
        assert sha256((record / log["file"]).read_bytes()) == log["sha256"]


def test_a_sound_record_is_rebuilt_to_the_byte_and_words_below_its_block_are_the_writers_own(record, call):
    with open(record / "README.md", "a") as f:
        f.write("\nMore words.\n")
    assert records.differences(load_claim([record])) == []
    call("verify", record)


@pytest.mark.parametrize("file, old, new, words", [
    ("record.json", '"active": 900', '"active": 901', "parameters"), ("record.json", "4.901", "4.801", ""),
    ("record.json", '"n": 4', '"n": 40', "n is 40"), ("record.json", '"n": 4', '"n":  4', "canonical"),
    ("record.json", "{", "[", "not JSON"), ("README.md", "PROVEN", "BEYOND DOUBT", "README.md"),
    ("README.md", "4.9025", "4.8025", "README.md"), ("README.md", "900 active", "265 active", "README.md")])
def test_what_was_typed_by_hand_is_found(record, file, old, new, words, call):
    """A README of another model; two of three seeds mistyped; n = 16 where there were 10."""
    text = (record / file).read_text()
    assert old in text
    (record / file).write_text(text.replace(old, new, 1))
    failed = [line for line in call("verify", record, code=1).out.split("\n") if line.startswith("FAIL")]
    assert len(failed) == 1 and " rebuilt: " in failed[0] and words in failed[0]


@pytest.mark.parametrize("side, edit, verdict, words", [
    (None, None, "faster", "ok      race: faster"), ("A", None, "faster", ": 4 attempts, all here"),
    # the first record of a track is the side that was raced against: its only runs are those of the race
    ("B", None, "slower", ": 4 attempts, all here"), ("A", killed, "faster", "REVIEW  race: faster")])
def test_a_race_goes_into_the_record_of_either_side(side, edit, verdict, words, root, call):
    race, sign = raced(root / "race", a_later_ms=-20), -1 if verdict == "faster" else 1
    if edit:
        edited(race, edit)
    logs = race_logs(race, side) if side else campaign(root)
    call("submit", *logs, "--name", "X", "--to", root / "records", "--race", race)
    folder = root / "records" / "tiny" / "2026-01-01_X"
    found, plan = (json.loads(path.read_text()) for path in (folder / "record.json", race / "race.json"))
    shown, other = found["race"], plan["A" if side == "B" else "B"]
    assert (found["significance"]["word"], found["n"], shown["pairs"]) == ("PROVEN", 4, 4)
    assert shown["verdict"] == verdict and sign * shown["difference_s"] > 0.019
    assert sign * shown["difference_percent"] > 0
    assert shown["against"]["code"] == other["code"] != found["code"]
    assert (shown["attempts"], shown["killed"]) == ((11, 1) if edit else (10, 0))
    page = (folder / "README.md").read_text()
    assert f"against train.py {other['code'][:8]}: {verdict}, {sign * 0.02:+.2f} s" in page
    assert ("1 of 11 attempts killed" in page) == bool(edit) and words in call("verify", folder).out
    next((folder / "race").glob("*.txt")).unlink()
    call("verify", folder, code=1)


def test_the_sides_of_one_race_of_three_are_records_and_beat_the_first_alone(root, call):
    race = raced(root / "race", a_later_ms=30, sides="ABC")
    for name, side in (("One", "A"), ("Two", "B"), ("Three", "C")):
        call("submit", *race_logs(race, side), "--name", name, "--to", root / "records", "--race", race)
    call("verify", root / "records")
    (root / "README.md").write_text("<!-- leaderboard tiny begin -->\n<!-- leaderboard tiny end -->\n")
    call("leaderboard")
    best, attempts = (root / "README.md").read_text().split("\nAttempts")
    assert "| 2 | [Two]" in best and "faster than One: -" in best
    assert "[Three]" in attempts and "not against Two" in attempts


def test_a_verifier_without_the_data_finds_the_same_record_and_says_less_of_it(record, root, call):
    """record.json is what the logs give; what a checkout lacks must not make it another."""
    (root / "data" / "tiny" / "manifest.json").unlink()
    [claim] = json.loads(call("verify", record, "--json").out)
    states = {check["name"]: check["result"] for check in claim["checks"]}
    assert (claim["word"], states["data"], states["rebuilt"]) == ("PROMISING", "unknown", "ok")


def test_a_copied_record_folder_and_a_page_without_its_markers_are_found(record, call):
    copy = shutil.copytree(record, record.with_name("2025-01-01_A_b-1"))
    assert any(record.name in line for line in records.differences(load_claim([copy])))
    shutil.copytree(record, other := record.with_name("2026-01-01_Y"))
    (record / "README.md").write_text("# nothing\n")
    for folder, words in ((copy, ""), (other, ""), (record, "expected <!-- record begin -->")):
        out = call("verify", folder, code=1).out
        assert words in out and [line.split()[1] for line in out.split("\n") if line.startswith("FAIL")] == [
            "rebuilt:"]


def test_a_log_that_was_taken_out_is_found(record, call):
    next((record / "logs").glob("*.txt")).unlink()
    [claim] = json.loads(call("verify", record, "--json", code=1).out)
    failed = {check["name"] for check in claim["checks"] if check["result"] == "fail"}
    assert "rebuilt" in failed and claim["word"] == "INVALID"


def test_sections_count_as_written_only_with_words_in_them():
    text = "# x\n## Idea\n\n<!-- why? -->\n\n## What changed\nA line.\n## Ablation\n## Other\nwords\n"
    assert records.unanswered(text) == ["Idea", "Ablation", "Credit"]


def test_a_strangers_text_is_no_markup_in_a_table():
    text = records.cell("a|b <img src=x> [x](http://y) `c` *d* \x1b[31m\u202e\nline")
    assert "<" not in text and "\n" not in text and "\x1b" not in text and "\u202e" not in text
    assert "\\|" in text and "\\[x\\]" in text and "\\`c\\`" in text and "http://" not in text


def test_markers_must_stand_once_and_in_order():
    assert records.replaced("a [1] old [2] b", "[1]", "[2]", "new", "page") == "a new b"
    for page in ("a [1] b", "[2] [1]", "[1] [1] [2]"):
        with pytest.raises(ReadError, match="page: expected"):
            records.replaced(page, "[1]", "[2]", "new", "page")
