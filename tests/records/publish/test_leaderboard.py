"""The tables of README.md are what the records say, and nothing else."""
import json
import re
import shutil
from pathlib import Path

import pytest
from synthetic import write_record

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
        r"| 1 | [A\_b-1](records/tiny/2026-01-01_A_b-1) | 2026-01-01 | 1 | 8 | 4.9025 (sd 0.0013), n=4 | the "
        "first |"]
    assert "Tiny CPU, 1 rank:" in text and "Attempts" not in text
    assert text.endswith("<!-- leaderboard tiny end -->\nbelow\n")
    assert "unchanged" in call("leaderboard").out and page.read_text() == text


def test_only_improvements_are_numbered_and_times_are_ratios(root):
    """The table set seconds of different sittings side by side, and numbered what was slower or unproven."""
    folder = root / "records" / "tiny"
    write_record(folder, "One")
    write_record(folder, "Slower", "One", 5.0, significance={"word": "PROMISING"})
    write_record(folder, "Two", "One")
    write_record(folder, "GPU", device="8 x H100", world_size=8)
    text = leaderboard.table("tiny", root / "records")
    best, attempts = text.split("\nAttempts")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in best.split("\n") if "[" in line]
    names = [(row[0], row[1].partition("]")[0]) for row in rows]
    assert names == [("1", "[One"), ("2", "[Two"), ("1", "[GPU")]
    assert rows[0][3] == rows[2][3] == "1" and rows[1][3].startswith("0.9") and " to 0.9" in rows[1][3]
    assert rows[1][6].startswith("faster than One: -6.") and "8 x H100, 8 ranks:" in best
    assert "[Slower]" in attempts and "slower than One: +" in attempts and "PROMISING" in attempts


def test_a_record_that_was_made_again_is_named_off_the_table(root, monkeypatch):
    """The table of a new referee had the rows of the old one too, which no race connects with its own."""
    folder = root / "records" / "tiny"
    for name in ("One", "Two"):
        write_record(folder, name)
    one, two = leaderboard.standings(folder)
    one.again, one.number = two, None
    monkeypatch.setattr(leaderboard, "standings", lambda *_: [one, two])
    text = leaderboard.table("tiny", root / "records")
    assert text.endswith("\nSuperseded, made again with the same script on a newer harness: "
                         "[One](records/tiny/2026-01-01_One) of 2026-01-01.\n")
    assert "[One]" not in text.partition("Superseded")[0] and "\nAttempts, " in text


def test_a_record_that_verify_calls_invalid_is_refused(page, record, call):
    """Any folder with a record.json got a row."""
    text = (record / "record.json").read_text()
    (record / "record.json").write_text(text.replace('"steps": 8', '"steps": 4'))
    for words in ([], ["--check"]):
        err = call("leaderboard", *words, code=1).err
        assert f"{record.name} is INVALID, so nothing is written: rebuilt failed" in err
        assert err.count("\n") == 1
    assert page.read_text() == PAGE


def test_check_tells_an_old_table_from_a_new_one(page, call):
    assert "+| 1 | [A" in call("leaderboard", "--check", code=1).out and page.read_text() == PAGE
    call("leaderboard")
    call("leaderboard", "--check")
    page.write_text(page.read_text().replace("the first", "the best"))
    call("leaderboard", "--check", code=1)


def test_json_says_whether_the_tables_are_up_to_date(page, call):
    for words, code, fresh, written in ((["--check"], 1, False, False), ([], 0, False, True),
                                        (["--check"], 0, True, False)):
        assert json.loads(call("leaderboard", "--json", *words, code=code).out) == {
            "file": "README.md", "tracks": ["tiny"], "up_to_date": fresh, "written": written}


@pytest.mark.parametrize("text", [
    "<script>alert(1)</script>", "a | b", "[x](javascript:x)", "x\n# y", "**b**", "\x1b[31m\u202e",
    "<!-- leaderboard tiny end -->", "http://x.example"])
@pytest.mark.parametrize("field", ["name", "date", "device", "word", "rival"])
def test_a_strangers_record_carries_no_markup(field, text, root):
    """Steps and n went into the page as they stood; what is no whole number there is an error now."""
    folder = root / "records" / "tiny"
    write_record(folder, "One", **{"name": text} if field == "rival" else {})
    write_record(folder, "Two", "One", **{"rival": {}, "word": {"significance": {"word": text}}}.get(
        field, {field: text}))
    head, *lines = leaderboard.table("tiny", root / "records").split("\n\n")
    block = re.sub(r"\\.", "", "\n\n".join(lines))  # what is escaped is no markup
    assert {line.count("|") for line in block.split("\n")} <= {0, 8}
    assert block.count("](") == block.count("](records/tiny/2026-01-01_") == 2
    assert not any(word in f"\n{block}" for word in ("<", "**", "\n#", "\x1b", "\u202e", "://"))


@pytest.mark.parametrize("text", ["{", "[]", '{"name": 1}', '{"name": "A_b", "date": "2026-01-01"}'])
def test_a_record_that_says_nothing_is_invalid_in_one_line(page, record, text, call):
    (record / "record.json").write_text(text)
    assert call("leaderboard", code=1).err.count("\n") == 1 and page.read_text() == PAGE


def test_a_track_without_records_needs_no_markers_and_has_an_empty_block(root, page, call):
    (root / "harness" / "tracks.toml").open("a").write('\n[new]\ntarget = 3.0\n')
    call("leaderboard")
    assert "leaderboard new" not in page.read_text() and leaderboard.table("tiny", Path("nowhere")) == ""


def test_what_can_hold_no_table_is_refused(root, page, refused):
    """The last used to be called up to date."""
    page.write_text("# x\n")
    assert "leaderboard tiny begin" in refused("leaderboard")
    page.write_bytes(b"\xff")
    assert "README.md: 'utf-8' codec" in refused("leaderboard")
    page.write_text("# x\n")
    shutil.rmtree(root / "records")
    assert "there is no table" in refused("leaderboard", "--check")
