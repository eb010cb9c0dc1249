"""The list of mutations keeps fitting the code, and tells the killed from the living."""
import pytest

from bench.mutate import MUTATIONS, ROOT, Mutation, main, misplaced, survives


def test_every_mutations_text_stands_once_in_its_file_and_its_test_is_there():
    assert [words for words in map(misplaced, MUTATIONS) if words] == []
    missing = [m.test for m in MUTATIONS if not (ROOT / m.test.split("::")[0]).is_file()]
    assert missing == [] and len({m.name for m in MUTATIONS}) == len(MUTATIONS)


def test_a_mutation_is_killed_where_a_test_fails_and_survives_where_none_does_or_none_ran(tmp_path):
    (tmp_path / "m.py").write_text("x = 1\n")
    (tmp_path / "test_m.py").write_text("from m import x\n\n\ndef test_x():\n    assert x < 3\n")
    for new, test, said in (("x = 5", "test_m.py", ""), ("x = 2", "test_m.py", "its test passes"),
                            ("x = 5", "test_none.py", "pytest left with 4")):
        assert survives(Mutation("a", "m.py", "x = 1", new, test), tmp_path).partition(":")[0] == said
        assert (tmp_path / "m.py").read_text() == "x = 1\n"


@pytest.mark.long
def test_every_mutation_is_killed(capsys):
    assert main([]) == 0, capsys.readouterr().out
