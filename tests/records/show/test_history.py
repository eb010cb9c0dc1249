"""The figure of a track's records shows those that show something."""
import json
from pathlib import Path

import pytest

from records.tools.read.values import ReadError
from records.tools.show.history import read_records


def write_record(folder: Path, name: str, word: str) -> None:
    """Write a record.json as far as the figure needs it."""
    (folder / f"2026-01-01_{name}").mkdir(parents=True)
    fields = {"date": "2026-01-01", "name": name, "track": "tiny", "train_time_s": {"mean": 9, "sd": 1},
              "significance": {"word": word}}
    (folder / f"2026-01-01_{name}" / "record.json").write_text(json.dumps(fields))


def test_records_that_show_nothing_are_passed_over(tmp_path, capsys):
    """A refuted record with a time near zero was the best of its track."""
    for name, word in (("A", "REFUTED"), ("B", "PROVEN"), ("C", "PROMISING"), ("D", "NOT SHOWN")):
        write_record(tmp_path, name, word)
    assert [record.name for record in read_records(tmp_path)] == ["B", "C"]
    assert capsys.readouterr().err == ("passed over: 2026-01-01_A: REFUTED\n"
                                       "passed over: 2026-01-01_D: NOT SHOWN\n")


def test_where_none_is_left_there_is_nothing_to_draw(tmp_path):
    write_record(tmp_path, "A", "REFUTED")
    with pytest.raises(ReadError, match="none of its records is PROVEN or PROMISING"):
        list(read_records(tmp_path))
