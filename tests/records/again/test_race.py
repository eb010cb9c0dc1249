"""python -m records race: ABBA, declared first, resumable; the verdict follows from its logs."""
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from synthetic import race_run, runnable, unjudged, write
from tiny import Project, environment
from waiting import until

from records.tools.again import launch as launches
from records.tools.check.race import Race
from records.__main__ import COMMANDS, main

ENDS: list = []  # of the next runs of a race: None for ok, a status, or an exception


@pytest.fixture
def sides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Arguments for a race of two synthetic logs; its runs are synthetic too and end as ENDS says.

    A is 5 ms faster than B; C, which is not raced unless it is added, 5 ms slower.
    """
    monkeypatch.setattr(launches, "ROOT", runnable(tmp_path / "checkout"))
    runs = iter(range(100))

    def run(code, track, flags, folder, signals):
        slot = next(runs)
        ends = ENDS.pop(0) if ENDS else None
        if ends is SystemExit:
            raise ends
        place = code.files["train.py"].count(b"# before")
        made = race_run("ABC"[place], slot, int(flags[-1].removeprefix("--seed=")), 5.0 * (place - 1))
        made.end["status"] = ends or "ok"
        return write(folder, made)
    monkeypatch.setattr(launches, "run", run)
    logs = [str(write(tmp_path / side, race_run(side, 0, 0, 0.0))) for side in "AB"]
    ENDS.clear()
    return ["race", *logs, "-n", "3", "--to", str(tmp_path / "to"), "--yes"]


def plan_of(folder: Path) -> dict:
    """Return what a race in a folder declares, and its attempts."""
    return json.loads((folder / "to" / "race.json").read_text())


def test_the_plan_is_written_before_the_first_run_and_a_killed_race_goes_on(
        sides, tmp_path, capsys, monkeypatch):
    ENDS.extend([None, None, None, SystemExit])
    with pytest.raises(SystemExit):  # stands for a kill: nothing is written after it
        main(sides)
    plan = plan_of(tmp_path)
    assert plan["seeds"] == [0, 1, 2, 3] and plan["order"] == list("ABBAABBA")
    assert [a["log"] is None for a in plan["attempts"]] == [False, False, False, True]
    assert main([*sides, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["verdict"] == "faster" and found["attempts"] == 9 and found["killed"] == 1
    before = (tmp_path / "to" / "race.json").read_bytes()
    assert main(sides) == 0 and (tmp_path / "to" / "race.json").read_bytes() == before
    *_, verdict, command = capsys.readouterr().out.strip().split("\n")
    kept = [str(tmp_path / "to" / a["log"]) for a in plan_of(tmp_path)["attempts"]
            if a["status"] == "ok" and a["run"] in (3, 4, 7)]  # A's of ABBAABBA, without the first pair's
    assert verdict == "A is faster than B"
    assert command.split()[4:-4] == ["submit", *kept] and command.endswith(f"--race {tmp_path / 'to'}")
    monkeypatch.setattr("records.tools.again.race.load_rows", lambda: {"tiny": {"target": 4.5}})
    assert main(sides) == 0  # a race alone makes no record of a loss above the track's target
    assert "A is no record: its mean loss 4.90" in capsys.readouterr().out.strip().split("\n")[-1]


def test_runs_of_a_race_are_judged_after_the_last_and_a_bad_one_decides(
        sides, tmp_path, judge, capsys, monkeypatch):
    made = launches.run

    def run(*given):
        assert not judge.asked  # never between two timed runs
        log = unjudged(made(*given))
        judge.words[log.name] = "ace005" not in log.name
        return log
    monkeypatch.setattr(launches, "run", run)
    assert main(sides) == 1 and len(judge.asked) == 8
    assert "ace005.txt does not hold" in capsys.readouterr().err
    assert not list((tmp_path / "to").glob("*.safetensors"))


def test_an_interrupted_run_stops_the_race_and_a_failed_one_decides_it(sides, capsys):
    ENDS.extend([None, "interrupted"])
    assert main(sides) == 130
    ENDS.extend([None, "failed"])
    assert main(sides) == 2
    assert "ended failed" in capsys.readouterr().out
    assert main(sides) == 2  # it is not repeated until it fits


def test_other_arguments_are_another_race_and_one_pair_or_side_is_too_few(sides, call, refused):
    call(*sides)
    assert "declares another race (its seeds differ)" in refused(*sides, "--seed0", "5")
    words = COMMANDS["race"][1].split()[3:]
    assert "-n 1: expected at least 2 pairs" in refused(*words, "-n", "1")
    assert "--nproc_per_node 0: expected at least 1 rank" in refused(*words, "--nproc_per_node", "0")
    assert "1 sides: expected 2 to 8" in refused("race", sides[1])


def test_several_sides_run_in_turns_and_each_is_judged_against_the_first(sides, tmp_path, call):
    """Times of two sittings say nothing about each other; three ideas took two races."""
    third = write(tmp_path / "C", race_run("C", 0, 0, 0.0))
    _, a, b, *words = sides
    sides = ["race", b, a, third, *words]  # the middle one is B now, and faster than the first
    out = call(*sides).out
    plan = plan_of(tmp_path)
    assert (plan["format"], plan["order"]) == (2, list("BACABCCBABCA"))
    assert "B is faster than A" in out and "C is slower than A" in out
    assert out.count("by Holm's correction for 2 tests") == 2
    [command] = [line for line in out.split("\n") if line.startswith("+ ")]
    kept = [str(tmp_path / "to" / a["log"]) for a in plan["attempts"] if a["run"] in (4, 7, 9)]
    assert command.split()[4:-4] == ["submit", *kept]
    found = json.loads(call(*sides, "--json").out)
    assert {side: each["verdict"] for side, each in found.items()} == {"B": "faster", "C": "slower"}
    assert len(Race(tmp_path / "to").runs) == 12


@pytest.mark.slow
def test_a_real_race_that_is_killed_goes_on(tmp_path):
    project = Project(tmp_path / "the project")
    project.add_records()
    project.run(1)
    log = str(project.logs()[0])
    command = [sys.executable, "-m", "records", "race", log, log, "-n", "2", "--to", "to", "--yes", "--json",
               "--nproc_per_node", "1"]
    variables = {**environment(), "TMPDIR": str(tmp_path)}  # a kill leaves the place that it ran in
    settings = {"cwd": project.folder, "env": variables, "stdin": subprocess.DEVNULL}
    with subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL, **settings) as process:
        declared = project.folder / "to" / "race.json"
        until(lambda: process.poll() is not None or declared.exists()
              and len(json.loads(declared.read_text())["attempts"]) == 2)  # the second one has begun
        os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, **settings)
    found = json.loads(done.stdout)
    assert found["pairs"] == 2 and found["attempts"] == 7 and found["killed"] == 1, done.stderr
    assert done.returncode == {"faster": 0}.get(found["verdict"], 1)
