"""python -m records list: a line a run, in order, with nothing lost and nothing guessed."""
import json
import math

import pytest
from small_logs import FIXTURES, write_log

from records.tools.read.logs import load_runs


def test_json_is_the_facts_of_each_trial(tmp_path, call):
    paths = [write_log(tmp_path), FIXTURES / "layout_d_trials.txt", FIXTURES / "layout_b.txt"]
    found = json.loads(call("list", "--json", *paths).out, parse_constant=pytest.fail)
    assert found[:4] == [run.facts() for path in paths[:2] for run in load_runs(path)]
    assert found[0]["status"] == "ok" and found[0]["track"] == "tiny" and found[0]["seed"] == 3
    assert [f["trial"] for f in found] == [0, 0, 1, 2, 0] and found[4]["val_loss"] == "nan"
    assert found[4]["status"] is None and found[4]["seed"] is None


def test_a_line_a_run_shows_what_its_log_says(tmp_path, call):
    """Their code was the script's digest once, another than the one in the file's name."""
    write_log(tmp_path, "r", (5.5, math.inf), "nonfinite")
    paths = [tmp_path, FIXTURES / "layout_d_track_3.txt", FIXTURES / "llmc.log"]
    head, own, track_3, llmc = call("list", *paths).out.splitlines()
    assert head.split()[:9] == "status track step val_loss time seed code device file".split()
    assert own.split() == ["nonfinite", "tiny", "2/4", "inf", "0.0", "s", "3", "dddddddd", "-",
                           str(tmp_path / "r.txt")]
    assert track_3.split()[:8] == ["-", "track_3_optimization", "3125/3148", "3.27946", "615.2", "s", "7",
                                   "-"]
    assert llmc.split()[:6] == ["-", "-", "3", "10.25000", "-", "-"]


def test_name_overrides_and_note_of_a_run_are_listed(tmp_path, call):
    log = write_log(tmp_path, overrides={"lr": 0.2}, launch={"name": "wider", "note": "try"})
    assert call("list", log).out.endswith("  wider lr=0.2 (try)\n")
    [facts] = json.loads(call("list", log, "--json").out)
    told = [facts[name] for name in ("name", "overrides", "note", "seed", "code")]
    assert told == ["wider", {"lr": 0.2}, "try", 3, "d" * 64]


def test_what_is_no_log_is_not_mentioned_and_a_damaged_one_is_named(tmp_path, call):
    """The file of requirements in records/ was once one of 60 that were damaged, without a name."""
    write_log(tmp_path)
    (tmp_path / "requirements.txt").write_text("numpy\n")
    (tmp_path / "stderr.log").write_text("")
    assert call("list", tmp_path).err == ""
    (tmp_path / "cut.txt").write_text("#:val {}\n")
    out, err = call("list", tmp_path)
    assert len(out.splitlines()) == 2 and err.startswith("records list: cut.txt: events, but no rule")


def test_a_named_file_that_is_no_log_is_told_after_the_others_are_listed(tmp_path, call):
    log, bad = write_log(tmp_path), tmp_path / "bad.txt"
    bad.write_text("nothing\n")
    out, err = call("list", bad, tmp_path / "absent.txt", log, code=2)
    assert str(log) in out and "bad.txt: no log of a run" in err and "absent.txt: cannot be read" in err
    assert err.count("\n") == 2


def test_nothing_is_listed_where_there_is_nothing(tmp_path, call):
    assert call("list", tmp_path / "absent", code=2).out == ""


def test_a_track_is_picked_by_name(tmp_path, call):
    write_log(tmp_path)
    for track, n in (("tiny", 1), ("huge", 0)):
        assert len(json.loads(call("list", "--json", "--track", track, tmp_path, FIXTURES).out)) == n
