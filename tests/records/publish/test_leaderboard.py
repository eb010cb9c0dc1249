"""The tables of README.md are what the records say, and nothing else."""
import json
import shutil
from pathlib import Path

import pytest

from records.tools.read import tracks
from records.tools.publish import leaderboard
from records.__main__ import COMMANDS, main
from synthetic import campaign, checkout

PAGE = "# x\n<!-- leaderboard tiny begin -->\n<!-- leaderboard tiny end -->\nbelow\n"


@pytest.fixture
def root(tmp_path: Path, monkeypatch) -> Path:
    """A checkout with a page and a record."""
    root = checkout(tmp_path / "checkout")
    monkeypatch.setattr(tracks, "ROOT", root)
    (root / "README.md").write_text(PAGE)
    main(["submit", *map(str, campaign(root)), "--name", "A_b", "--to", str(root / "records")])
    return root


def test_a_row_says_what_record_json_says(root):
    assert main(["leaderboard"]) == 0
    rows = [line for line in (root / "README.md").read_text().split("\n") if line.startswith("| 1")]
    assert rows == [r"| 1 | [A\_b](records/tiny/2026-01-01_A_b) | 2026-01-01 | 0.1 (sd 0.0) | 8 | "
                    r"4.9025 (sd 0.0013), n=4 | Tiny CPU, 1 rank | PROVEN | not raced |"]
    assert (root / "README.md").read_text().endswith("<!-- leaderboard tiny end -->\nbelow\n")


def test_check_tells_an_old_table_from_a_new_one(root, capsys):
    assert main(["leaderboard", "--check"]) == 1 and (root / "README.md").read_text() == PAGE
    assert "+| 1 | [A" in capsys.readouterr().out
    main(["leaderboard"])
    assert main(["leaderboard", "--check"]) == 0
    (root / "README.md").write_text((root / "README.md").read_text().replace("PROVEN", "PROVEN "))
    assert main(["leaderboard", "--check"]) == 1


def test_json_says_whether_the_tables_are_up_to_date(root, capsys):
    for words, code, fresh, written in ((["--check"], 1, False, False), ([], 0, False, True),
                                        (["--check"], 0, True, False)):
        capsys.readouterr()
        assert main(["leaderboard", "--json", *words]) == code
        assert json.loads(capsys.readouterr().out) == {
            "file": "README.md", "tracks": ["tiny"], "up_to_date": fresh, "written": written}


def test_writing_twice_changes_nothing(root, capsys):
    main(["leaderboard"])
    once = (root / "README.md").read_bytes()
    assert main(["leaderboard"]) == 0 and (root / "README.md").read_bytes() == once
    assert "unchanged" in capsys.readouterr().out


def test_a_track_without_records_has_an_empty_block():
    assert leaderboard.table("tiny", Path("nowhere")) == ""


@pytest.mark.parametrize("name, value", [
    ("device", "<script>alert(1)</script>"), ("device", "a | b"), ("device", "[x](javascript:x)"),
    ("device", "\x1b[31m\u202e"), ("steps", "**b**\n# x"), ("n", "<b>"), ("track", "../<b>")])
def test_a_strangers_record_carries_no_markup(name, value, root):
    """steps, n and track of a record.json went into the page as they stood."""
    path = root / "records" / "tiny" / "2026-01-01_A_b" / "record.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))
    row = leaderboard.table("tiny", root / "records").strip().split("\n")[-1]
    plain = row.replace("\\|", "").replace("\\*", "").replace("\\[", "").replace("\\]", "")
    assert row.startswith("| 1 |") and plain.count("|") == 10
    assert not any(word in plain for word in ("<s", "<b", "](j", "**", "\x1b", "\u202e"))


def test_speed_comes_from_the_race_alone():
    race = {"verdict": "faster", "difference_percent": -2.34, "against": {"code": "c" * 64}}
    assert leaderboard.speed(race, {"c" * 64: "Before"}) == "faster than Before: -2.3 %"
    assert leaderboard.speed(race, {}) == "faster than code cccccccc: -2.3 %"
    even = race | {"verdict": "no difference shown"}
    assert leaderboard.speed(even, {}) == "no difference shown against code cccccccc"
    unfit = race | {"verdict": "could not tell", "difference_percent": None}
    assert leaderboard.speed(unfit, {}) == "could not tell (against code cccccccc)"


@pytest.mark.parametrize("text", ["{", "[]", '{"name": 1}', '{"name": "A_b", "date": "2026-01-01"}',
                                  '{"name": "x) <b>", "date": "2026-01-01"}'])
def test_a_record_that_says_nothing_is_an_error_in_one_line(root, text, capsys):
    (root / "records" / "tiny" / "2026-01-01_A_b" / "record.json").write_text(text)
    assert main(["leaderboard"]) == 2
    assert capsys.readouterr().err.count("\n") == 1 and (root / "README.md").read_text() == PAGE


def test_a_page_without_markers_is_an_error(root, capsys):
    (root / "README.md").write_text("# x\n")
    assert main(["leaderboard"]) == 2 and "leaderboard tiny begin" in capsys.readouterr().err


def test_the_example_of_the_help_runs(monkeypatch):
    """On this repository itself: its page must be up to date too."""
    assert COMMANDS["leaderboard"][1] == "python -m records leaderboard --check"
    assert main(["leaderboard", "--check"]) == 0


def test_a_track_without_records_needs_no_markers(root):
    (root / "harness" / "tracks.toml").open("a").write('\n[new]\ntarget = 3.0\n')
    assert main(["leaderboard"]) == 0
    assert "leaderboard new" not in (root / "README.md").read_text()


def test_what_can_hold_no_table_is_refused(root, capsys):
    """Both used to be called up to date."""
    assert main(["leaderboard", "--check", "--records", str(root / "nowhere")]) == 2
    assert "no such folder" in capsys.readouterr().err
    shutil.rmtree(root / "records")
    (root / "records").mkdir()
    (root / "README.md").write_text("# x\n")
    assert main(["leaderboard", "--check"]) == 2
    assert "there is no table" in capsys.readouterr().err
