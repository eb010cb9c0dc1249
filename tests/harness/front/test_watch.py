"""What the launcher sees of its ranks, and which logs it believes."""
import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import IMPORT, new_log, result
from waiting import until

from harness import runlog
from harness.front import watch
from harness.front.watch import Watch
from harness.runlog import sha256


@pytest.fixture
def reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Return a function that leaves a Watch and gives the lines of its report."""
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setattr(watch, "POLL_S", 0.05)
    path = tmp_path / "report"
    os.environ["SPEEDRUN_REPORT_FD"] = str(os.open(path, os.O_WRONLY | os.O_CREAT))
    yield lambda: [json.loads(line) for line in path.read_text().splitlines()]
    runlog._launcher.cache_clear()


def ledger(folder: Path) -> list[tuple[str, str]]:
    lines = (folder / "ledger.jsonl").read_text().splitlines()
    return [(entry["what"], entry.get("status")) for entry in map(json.loads, lines)]


def test_a_log_that_ended_is_told_printed_and_counted_by_the_launcher(reported, tmp_path, capsys):
    with Watch(600):
        log = new_log(tmp_path)
        log.end("ok")
        assert ledger(tmp_path) == [("start", None)]
    digest = sha256(log.path.read_bytes())
    assert reported() == [{"log": str(log.path), "sha256": digest, "status": "ok"}]
    assert f"log sha256 {digest}  {log.path}\n" in capsys.readouterr().out
    assert ledger(tmp_path) == [("start", None), ("end", "ok")]
    assert not Path(os.environ["SPEEDRUN_TOLD"]).exists()


def test_a_log_is_counted_where_nobody_reads_the_terminal_any_more(reported, tmp_path, monkeypatch):
    """`./run.sh | head` lost the ledger's end line, and ended as input that cannot be run."""
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as closed, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", closed)
        with Watch(600):
            new_log(tmp_path).end("ok")
        patch.undo()
        with contextlib.suppress(BrokenPipeError):
            closed.close()
    assert ledger(tmp_path) == [("start", None), ("end", "ok")]


def test_several_runs_of_a_process_are_told_one_by_one(reported, tmp_path):
    with Watch(600):
        for i in range(3):
            new_log(tmp_path, f"r{i}").end("ok")
    assert [Path(line["log"]).stem for line in reported()] == ["r0", "r1", "r2"]


def test_a_log_without_an_end_is_counted_as_lost(reported, tmp_path, capsys):
    with Watch(600):
        log = new_log(tmp_path)
    assert reported() == [{"log": str(log.path), "sha256": None, "status": "rank_lost"}]
    assert str(log.path) in capsys.readouterr().err
    assert ledger(tmp_path) == [("start", None), ("end", "rank_lost")]


def test_a_log_of_which_two_ends_are_told_is_not_believed(reported, tmp_path, capsys):
    """A script that opens the FIFO before the run can speak too, but cannot keep the harness from it."""
    with Watch(600):
        other = os.open(os.environ["SPEEDRUN_TOLD"], os.O_WRONLY)
        log = new_log(tmp_path)
        log.end("ok")
        forged = {"log": str(log.path), "sha256": "0" * 64, "status": "ok"}
        os.write(other, json.dumps(forged).encode() + b'\nno words\n[]\n{"lag": 3}\n')
        os.close(other)
        with pytest.raises(OSError):
            os.open(os.environ["SPEEDRUN_TOLD"], os.O_WRONLY)  # no way there once a run is open
    assert reported()[0] == {"log": str(log.path), "sha256": None, "status": "failed"}
    assert "2 ends were told" in capsys.readouterr().err


def test_without_a_launcher_or_after_its_death_the_run_counts_itself(reported, tmp_path):
    new_log(tmp_path / "alone").end("ok")
    runlog._launcher.cache_clear()
    assert ledger(tmp_path / "alone")[1] == ("end", "ok")
    for name in ("orphan", "late"):
        watched = Watch(600).__enter__()
        log = new_log(tmp_path / name) if name == "orphan" else None
        watched.over.set()
        watched.thread.join()
        os.close(watched.ear)
        log = log or new_log(tmp_path / name)
        log.end("interrupted")
        runlog._launcher.cache_clear()
        assert not watched.path.exists()  # killed before rank 0 began its log, it left the FIFO
        assert ledger(tmp_path / name)[1] == ("end", "interrupted")
        assert result(log.path)["status"] == "interrupted" and log.path.read_bytes().startswith(IMPORT)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="it looks into /proc")
def test_a_stopped_rank_is_named_and_ended_after_the_time_out_and_a_running_one_let_be(reported, capsys):
    """Ten minutes of silence, then a process that existed was called killed."""
    stopped, running = (subprocess.Popen(["sleep", "1000"], env={"RANK": str(rank)}) for rank in (1, 0))
    try:
        os.kill(stopped.pid, signal.SIGSTOP)
        with Watch(0.6):
            assert stopped.wait(30) == -signal.SIGKILL
        words = capsys.readouterr().err.splitlines()
        assert words[0].startswith(f"rank 1 (pid {stopped.pid}) is stopped; `kill -CONT {stopped.pid}` lets")
        assert words[1] == f"rank 1 (pid {stopped.pid}) was stopped for 0.6 s (--timeout): it is ended"
        assert len(words) == 2 and running.poll() is None
    finally:
        running.kill()
        running.wait()


def test_a_rank_that_goes_on_is_not_ended(reported, monkeypatch, capsys):
    monkeypatch.setattr(watch, "NAME_S", 0.1)
    rank = subprocess.Popen(["sleep", "1000"], env={"RANK": "1"})
    try:
        with Watch(600) as watched:
            os.kill(rank.pid, signal.SIGSTOP)
            until(lambda: watched.stopped.get(str(rank.pid), 0) > 0.2)
            os.kill(rank.pid, signal.SIGCONT)
            until(lambda: not watched.stopped)
        assert capsys.readouterr().err.count("is stopped") == 1 and rank.poll() is None
    finally:
        rank.kill()
        rank.wait()
