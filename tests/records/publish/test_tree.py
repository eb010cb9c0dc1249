"""The records of this repository hold, and the README says what they say. CI runs this."""
from pathlib import Path

from records.__main__ import COMMANDS, main

ROOT = Path(__file__).resolve().parents[3]


def test_every_record_of_the_tree_verifies(capsys):
    records = [str(path.parent) for path in sorted(ROOT.glob("records/*/*/record.json"))]
    assert records, "no records"
    assert main(["verify", *records]) == 0, capsys.readouterr().out


def test_the_readme_s_tables_are_those_of_the_records(capsys):
    """As the example of leaderboard's help does."""
    words = COMMANDS["leaderboard"][1].split()[3:]
    assert words == ["leaderboard", "--check"] and main(words) == 0, capsys.readouterr().out
