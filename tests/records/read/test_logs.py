"""A run and a record have one set of names, for every command that takes a LOG."""
from argparse import ArgumentTypeError
from pathlib import Path

import pytest

from records.tools.read.logs import locate


@pytest.fixture
def runs(root: Path) -> list[Path]:
    """Three logs in records/runs of a checkout that has two records."""
    names = ("20260101T000000Z_aaaaaaaa_000001", "20260101T000000Z_bbbbbbbb_000002",
             "20260102T000000Z_aaaaaaaa_000003")
    (root / "records" / "runs").mkdir(parents=True)
    for name in names:
        (root / "records" / "runs" / f"{name}.txt").touch()
    for folder in ("tiny/2026-01-01_Muon", "tiny/2026-01-02_Both", "huge/2026-01-02_Both"):
        (root / "records" / folder).mkdir(parents=True)
        (root / "records" / folder / "record.json").touch()
    return [root / "records" / "runs" / f"{name}.txt" for name in names]


def test_a_run_is_named_by_its_place_from_the_end_or_the_beginning_of_its_id(runs):
    for word, run in (("-1", 2), ("@latest", 2), ("-3", 0), ("20260102", 2), ("20260101T000000Z_b", 1),
                      (runs[0].stem, 0), (runs[0].name, 0), (str(runs[1]), 1)):
        assert locate(word) == runs[run]


def test_in_the_checkout_a_name_stands_for_a_short_path(runs, monkeypatch):
    monkeypatch.chdir(runs[0].parents[2])
    assert locate("-1") == Path("records/runs") / runs[2].name
    assert locate("Muon") == Path("records/tiny/2026-01-01_Muon")


def test_a_record_is_named_by_its_folder_with_or_without_its_date(runs):
    for word in ("2026-01-01_Muon", "Muon"):
        assert locate(word) == runs[0].parents[1] / "tiny" / "2026-01-01_Muon"


def test_a_record_that_was_made_again_is_named_by_its_date_and_the_last_without(runs):
    """README's checkout and rerun of a record, by name, were refused once it was made again."""
    folder = runs[0].parents[1] / "tiny"
    for date in ("2026-02-01", "2025-12-31"):
        (folder / f"{date}_Muon").mkdir()
        (folder / f"{date}_Muon" / "record.json").touch()
    assert locate("Muon") == folder / "2026-02-01_Muon"
    assert locate("2026-01-01_Muon") == folder / "2026-01-01_Muon"


def test_a_record_stands_for_its_first_log_where_a_command_takes_one(record, tmp_path, call, refused):
    """The help of show and extract takes the name of a record; they called it a directory."""
    first = sorted((record / "logs").glob("*.txt"))[0]
    assert call("show", "A_b-1").out == call("show", first).out
    assert call("extract", "A_b-1", tmp_path / "out").out.startswith("wrote ")
    assert f"{first.name}: no run 1, expected one of 0 to 0" in refused("show", "A_b-1", "--trial", 1)
    assert "nor a record (no logs/*.txt)" in refused("show", tmp_path)


@pytest.mark.parametrize("word, says", [
    ("2026", "3 runs or records"), ("Both", "2 runs or records"), ("-4", "there are 3 logs"),
    ("-0", "there are 3 logs")])
def test_a_word_that_names_several_or_none_from_the_end_is_refused(runs, word, says):
    with pytest.raises(ArgumentTypeError, match=says):
        locate(word)


def test_a_path_that_is_there_is_no_name_and_any_other_word_is_a_path(runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "Muon").touch()
    for word in ("Muon", "nowhere.txt", "../up", "*", "a\0b", "x" * 5000):
        assert locate(word) == Path(word)


@pytest.mark.parametrize("command", ["list", "show", "diff", "stats", "plot", "verify", "extract", "rerun"])
def test_commands_take_minus_one_for_the_last_run(runs, command, call):
    """argparse could take it for an option; the empty file says that it was found."""
    words = {"diff": ["@latest"], "plot": ["-o", "a.png"], "extract": ["out"]}.get(command, [])
    assert f"{runs[2].name}: no log of " in call(command, "-1", *words, code=2).err


def test_a_word_that_names_nothing_is_answered_with_the_records_that_there_are():
    with pytest.raises(ArgumentTypeError, match="Nope: no file, and no run .* records are .*2026-11-22_Muon"):
        locate("Nope")
