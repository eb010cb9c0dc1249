"""The head of a log: whose code it names, and what it does not say."""
from pathlib import Path

from harness.environment import code_facts, command, without_paths
from harness.runlog import ROOT, sha256


def test_a_file_of_the_front_that_a_rank_loaded_stands_among_the_others_and_the_referees_own_do_not():
    """The launcher is in no digest, so a rank that imports it must be seen: verify refuses such a run."""
    alone = code_facts(b"x = 1\n", {"harness/clock.py": b"c"})
    assert alone["others"] == {} and alone["script"] == sha256(b"x = 1\n")
    loaded = {"harness/clock.py": b"c", "harness/front/launch.py": b"l", "mine.py": b"m"}
    facts = code_facts(b"x = 1\n", loaded)
    assert facts["others"] == {"harness/front/launch.py": sha256(b"l"), "mine.py": sha256(b"m")}
    assert facts["harness"] == alone["harness"] and facts["digest"] != alone["digest"]


def test_text_loses_the_folders_of_this_host_and_other_values_stay():
    assert without_paths(f"{ROOT}/a {Path.home()}/c") == "./a ~/c"
    assert without_paths(3) == 3


def test_a_fact_that_cannot_be_had_is_unavailable():
    assert command("no-such-command") == command("false") == "unavailable"
    assert command("echo", "x") == "x"
