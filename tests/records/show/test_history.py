"""The figure of a track's records shows those that show something."""
import pytest
from small_logs import write_record

from records.tools.read.values import ReadError
from records.tools.show.history import read_records


def test_records_that_show_nothing_are_passed_over(tmp_path, capsys):
    """A refuted record with a time near zero was the best of its track."""
    words = {"A": "REFUTED", "D": "NOT SHOWN", "B": "PROVEN", "C": "PROMISING"}
    for name, word in words.items():
        write_record(tmp_path, "2026-01-01", name, significance={"word": word})
        if name == "A":
            with pytest.raises(ReadError, match="none of its records is PROVEN or PROMISING"):
                list(read_records(tmp_path))
            capsys.readouterr()
    assert [record.name for record in read_records(tmp_path)] == ["B", "C"]
    assert capsys.readouterr().err == ("passed over: 2026-01-01_A: REFUTED\n"
                                       "passed over: 2026-01-01_D: NOT SHOWN\n")
