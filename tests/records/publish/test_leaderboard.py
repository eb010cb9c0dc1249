"""The tables of README.md are what the records say, and nothing else."""
import json
import shutil
from pathlib import Path

import pytest

from records.tools.publish import leaderboard

PAGE = "# x\n<!-- leaderboard tiny begin -->\n<!-- leaderboard tiny end -->\nbelow\n"


@pytest.fixture
def page(root: Path, record: Path) -> Path:
    """The page of a checkout with one record, which it does not show yet."""
    (root / "README.md").write_text(PAGE)
    return root / "README.md"


def test_a_row_says_what_record_json_says_and_writing_it_twice_changes_nothing(page, call):
    call("leaderboard")
    text = page.read_text()
    assert [line for line in text.split("\n") if line.startswith("| 1")] == [
        r"| 1 | [A\_b-1](records/tiny/2026-01-01_A_b-1) | 2026-01-01 | 0.1 (sd 0.0) | 8 | "
        r"4.9025 (sd 0.0013), n=4 | Tiny CPU, 1 rank | PROVEN | not raced |"]
    assert text.endswith("<!-- leaderboard tiny end -->\nbelow\n")
    assert "unchanged" in call("leaderboard").out and page.read_text() == text


def test_check_tells_an_old_table_from_a_new_one(page, call):
    assert "+| 1 | [A" in call("leaderboard", "--check", code=1).out and page.read_text() == PAGE
    call("leaderboard")
    call("leaderboard", "--check")
    page.write_text(page.read_text().replace("PROVEN", "PROVEN "))
    call("leaderboard", "--check", code=1)


def test_json_says_whether_the_tables_are_up_to_date(page, call):
    for words, code, fresh, written in ((["--check"], 1, False, False), ([], 0, False, True),
                                        (["--check"], 0, True, False)):
        assert json.loads(call("leaderboard", "--json", *words, code=code).out) == {
            "file": "README.md", "tracks": ["tiny"], "up_to_date": fresh, "written": written}


@pytest.mark.parametrize("name, value", [
    ("device", "<script>alert(1)</script>"), ("device", "a | b"), ("device", "[x](javascript:x)"),
    ("device", "\x1b[31m\u202e"), ("steps", "**b**\n# x"), ("n", "<b>"), ("track", "../<b>")])
def test_a_strangers_record_carries_no_markup(name, value, root, record):
    """steps, n and track of a record.json went into the page as they stood."""
    path = record / "record.json"
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
def test_a_record_that_says_nothing_is_an_error_in_one_line(page, record, text, refused):
    (record / "record.json").write_text(text)
    refused("leaderboard")
    assert page.read_text() == PAGE


def test_a_track_without_records_needs_no_markers_and_has_an_empty_block(root, page, call):
    (root / "harness" / "tracks.toml").open("a").write('\n[new]\ntarget = 3.0\n')
    call("leaderboard")
    assert "leaderboard new" not in page.read_text() and leaderboard.table("tiny", Path("nowhere")) == ""


def test_what_can_hold_no_table_is_refused(root, page, refused):
    """The latter two used to be called up to date."""
    page.write_text("# x\n")
    assert "leaderboard tiny begin" in refused("leaderboard")
    assert "no such folder" in refused("leaderboard", "--check", "--records", root / "nowhere")
    shutil.rmtree(root / "records")
    (root / "records").mkdir()
    assert "there is no table" in refused("leaderboard", "--check")
