"""python -m records list: a line a run, in order, with nothing lost and nothing guessed."""
import json
import math
from pathlib import Path

import pytest
from small_logs import FIXTURES, write_log

from records.tools.read.logs import load_runs
from records.tools.show import listing

def test_json_is_the_facts_of_each_trial(tmp_path, call):
    paths = [write_log(tmp_path), FIXTURES / "layout_d_trials.txt", FIXTURES / "layout_b.txt"]
    found = json.loads(call("list", "--json", *paths).out, parse_constant=pytest.fail)
    assert found[:4] == [run.facts() for path in paths[:2] for run in load_runs(path)]
    assert found[0]["status"] == "ok" and found[0]["track"] == "tiny" and found[0]["seed"] == 3
    assert [f["trial"] for f in found] == [0, 0, 1, 2, 0] and found[4]["val_loss"] == "nan"
    assert found[4]["status"] is None and found[4]["seed"] is None


def test_a_line_a_trial_shows_what_its_log_says(tmp_path, call):
    write_log(tmp_path, "r", (5.5, math.inf), "nonfinite")
    paths = [tmp_path, FIXTURES / "layout_d_track_3.txt", FIXTURES / "llmc.log"]
    head, own, track_3, llmc = call("list", *paths).out.splitlines()
    assert head.split() == ["status", "track", "step", "val_loss", "time", "code", "device", "file"]
    code = load_runs(tmp_path / "r.txt")[0].code_sha256[:8]
    assert own.split() == ["nonfinite", "tiny", "2/4", "inf", "0.0", "s", code, "-", str(tmp_path / "r.txt")]
    assert track_3.split()[:6] == ["-", "-", "3125/3148", "3.27946", "615.2", "s"]
    assert llmc.split()[:6] == ["-", "-", "3", "10.25000", "-", "-"]


def test_files_below_a_folder_that_are_no_logs_are_counted(tmp_path, call):
    write_log(tmp_path)
    (tmp_path / "requirements.txt").write_text("numpy\n")
    (tmp_path / "stderr.log").write_text("")
    (tmp_path / "README.md").write_text("no log at all by its name")
    out, err = call("list", tmp_path)
    assert len(out.splitlines()) == 2 and err.startswith("records list: 2 of 3 files are no logs")


def test_a_named_file_that_is_no_log_is_told_after_the_others_are_listed(tmp_path, call):
    log, bad = write_log(tmp_path), tmp_path / "bad.txt"
    bad.write_text("nothing\n")
    out, err = call("list", bad, tmp_path / "absent.txt", log, code=2)
    assert str(log) in out and "bad.txt: no log of a run" in err and "absent.txt: cannot be read" in err
    assert err.count("\n") == 2


def test_a_track_is_picked_by_name(tmp_path, call):
    write_log(tmp_path)
    for track, n in (("tiny", 1), ("huge", 0)):
        assert len(json.loads(call("list", "--json", "--track", track, tmp_path, FIXTURES).out)) == n


def test_many_files_are_read_by_several_processes_in_order(tmp_path, monkeypatch, call):
    data = (FIXTURES / "layout_e.txt").read_bytes()
    for i in range(20):
        (tmp_path / f"{i:02}.txt").write_bytes(data if i != 7 else b"no log")
    alone = call("list", "--json", tmp_path)
    monkeypatch.setattr(listing, "FEW", 5)
    assert call("list", "--json", tmp_path) == alone
    names = [Path(facts["file"]).name for facts in json.loads(alone.out)]
    assert names == [f"{i:02}.txt" for i in range(20) if i != 7]
