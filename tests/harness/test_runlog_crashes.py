"""The log keeps whole lines and says how it ended: kills at any moment, many writers, a full disk."""
import errno
import json
import multiprocessing
import os
import random
import resource
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tiny import new_log

from harness.runlog import RunLog, count_attempt, is_disk_full
from records.tools.read.log import read_log
from waiting import until

FORK = multiprocessing.get_context("fork")


def in_a_fork(function: Callable) -> int:
    """Call a function in a process of its own; return the number of the OSError that ended it, or 0."""
    def call() -> None:
        try:
            function()
        except OSError as error:
            os._exit(error.errno)

    process = FORK.Process(target=call)
    process.start()
    process.join()
    return process.exitcode


def limit(room: int) -> None:
    """Let no file of this process grow over room bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))


def ledger(folder: Path) -> list[dict]:
    """Return the ledger's entries."""
    return [json.loads(line) for line in (folder / "ledger.jsonl").read_text().split("\n")[:-1]]


def write_for_ever(folder: Path, run_id: str) -> None:
    """Write a log without a pause, as three threads would."""
    log = new_log(folder, run_id, files={"a.py": b"x = 1\n" * 500, "b.py": b"y"})
    for i in range(10**9):
        log.line(f"step:{i}/9 train_loss:1.0000 train_time:{i}ms step_avg:1.00ms")
        log.event("scalar", step=i, words="x" * (i * 997 % 9000))
        log.text("one\ntwo " + "y" * (i * 31 % 5000))


def test_a_hundred_kills_leave_nothing_but_whole_lines(tmp_path):
    """Each comes once the log has a size of its own, from a few bytes to some hundred thousand."""
    rng, lengths = random.Random(0), set()
    for i in range(100):
        writer = FORK.Process(target=write_for_ever, args=(tmp_path, f"r{i}"))
        writer.start()
        path, size = tmp_path / f"r{i}.txt", rng.random() ** 3 * 400_000
        until(lambda: path.exists() and path.stat().st_size >= size)
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        read = read_log(path)
        lengths.add(len(read.steps))
        assert read.end is None and [s.step for s in read.steps] == list(range(len(read.steps)))
        assert 0 <= len(read.steps) - sum(e.kind == "scalar" for e in read.events) <= 1
        assert not read.files or read.files["a.py"].source == b"x = 1\n" * 500
    assert len(lengths) > 20, "the kills all came at the same moment"


def test_fifty_writers_at_once_never_share_a_log_and_keep_the_ledger_whole(tmp_path):
    """Five processes of ten threads; each run id is wanted twice and granted once."""
    made, gate = FORK.Queue(), FORK.Event()

    def make_log(run_id: str) -> None:
        try:
            log = new_log(tmp_path, run_id)
        except FileExistsError:
            return made.put((run_id, False))
        log.text(run_id)
        log.end("ok")
        made.put((run_id, True))

    def ten(first: int) -> None:
        gate.wait(30)
        with ThreadPoolExecutor(10) as threads:
            list(threads.map(make_log, [f"r{(first + i) % 25}" for i in range(10)]))

    processes = [FORK.Process(target=ten, args=(10 * i,)) for i in range(5)]
    for process in processes:
        process.start()
    gate.set()
    answers = sorted(made.get(timeout=60) for _ in range(50))
    for process in processes:
        process.join(timeout=10)
    run_ids = sorted(f"r{i}" for i in range(25))
    assert answers == [(run_id, granted) for run_id in run_ids for granted in (False, True)]
    for read in [read_log(tmp_path / f"{run_id}.txt") for run_id in run_ids]:
        assert read.end["status"] == "ok" and read.text == [read.path.stem]
    found = sorted((entry["run_id"], entry["what"]) for entry in ledger(tmp_path))
    assert found == [(run_id, what) for run_id in run_ids for what in ("end", "start")]
    assert {p.name for p in tmp_path.iterdir()} == {*(f"{run_id}.txt" for run_id in run_ids), "ledger.jsonl"}


def test_nothing_is_written_below_the_end_line_and_no_file_stays_open(tmp_path):
    before = len(os.listdir("/dev/fd"))
    for i in range(5):
        log = new_log(tmp_path, f"r{i}")
        first = log.end("ok", val_loss=1.0)
        log.line("step:1/1 train_loss:1.0000 train_time:1ms step_avg:1.00ms")
        log.text("late")
        assert log.end("failed") is first and first["status"] == "ok"
        assert read_log(log.path).end["status"] == "ok"
    assert len(os.listdir("/dev/fd")) == before


def test_a_rank_without_a_log_writes_nothing(tmp_path):
    log = new_log(None, files={"a.py": b""})
    log.text("x")
    assert log.end("ok") == {"status": "ok"} and log.path is None


def read_full(folder: Path):
    """Read the log of a disk that was full. Log and ledger are whole, and nothing else stays."""
    assert (folder / "r.txt").read_bytes().endswith(b"\n")
    assert {p.name for p in folder.iterdir()} == {"ledger.jsonl", "r.txt"}
    assert [entry["what"] for entry in ledger(folder)] == ["start", "end"]
    return read_log(folder / "r.txt")


@pytest.mark.parametrize("room", [65_536, 65_000, 64_600])
def test_a_full_disk_leaves_whole_lines_and_says_so(room, tmp_path):
    """A line of 603 bytes fails; the shorter end line fits after it, or not."""
    def fill() -> None:
        log = new_log(tmp_path)
        limit(room)
        try:
            while True:
                log.text("x" * 600)
        except OSError as error:
            end = log.end("disk_full" if is_disk_full(error) else "failed", val_loss=1.0)
            assert end["status"] == "disk_full" and (read_log(log.path).end is None) == ("unwritten" in end)
            raise

    assert in_a_fork(fill) == errno.EFBIG
    read = read_full(tmp_path)
    assert (tmp_path / "r.txt").stat().st_size <= room and set(read.text) == {"x" * 600}
    assert read.end is None or (read.end["status"], read.end["val_loss"]) == ("disk_full", 1.0)


def test_a_disk_that_fills_up_among_the_sources_ends_the_log_too(tmp_path):
    """It once left neither end nor ledger line: the run did not know its log yet."""
    def fill() -> None:
        limit(70_000)
        new_log(tmp_path, files={"a.py": b"x = 1\n" * 100, "b.py": b"y" * 70_000})

    assert in_a_fork(fill) == errno.EFBIG
    read = read_full(tmp_path)
    assert (read.end["status"], read.end["type"], list(read.files)) == ("disk_full", "OSError", ["a.py"])


def test_the_spare_bytes_of_a_full_disk_let_the_end_line_through(tmp_path, monkeypatch):
    """A file system with no room but what the spare file gives back, played by os.write."""
    log = new_log(tmp_path)
    write = os.write

    def full(fd: int, data: bytes) -> int:
        if fd == log._fd and not log._spare.closed:
            write(fd, data[:7])  # what fits into the last block
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(fd, data)

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError):
        log.text("more")
    assert "unwritten" not in log.end("disk_full")
    read = read_log(log.path)
    assert read.end["status"] == "disk_full" and read.end["seq"] == 2 and not read.text


def test_a_ledger_line_that_does_not_fit_leaves_no_half(tmp_path):
    def short_ledger() -> None:
        log = RunLog(tmp_path, "b")
        limit((tmp_path / "ledger.jsonl").stat().st_size + 20)
        count_attempt(log.path, "start", track="t")

    count_attempt(tmp_path / "a.txt", "start", track="t" * 2000)
    assert in_a_fork(short_ledger) == 0
    count_attempt(tmp_path / "c.txt", "start", track="t")
    assert [entry["run_id"] for entry in ledger(tmp_path)] == ["a", "c"]


def test_where_there_is_no_room_for_the_spare_no_empty_log_stays(tmp_path):
    def no_room() -> None:
        limit(0)
        with pytest.raises(OSError):
            RunLog(tmp_path, "r")

    assert in_a_fork(no_room) == 0
    assert list(tmp_path.iterdir()) == []
