"""How runs end: each way leaves the right status in the log, an exit code, no process, all within seconds."""
import math
import os
import signal
import subprocess

import pytest
from tiny import TAKE, Project, environment, events

LONG = ["--num_iterations=100000", "--cooldown_iters=100000", "--val_every=100000", "--epochs=100000"]
BOUND_S = 30  # the limit of a wait for the end, which comes within seconds


def hear() -> None:
    """Take signals again that the tests themselves ignore: under nohup, or in the background of a shell."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def launch(project: Project, ranks: int, script: str = "train_gpt2.py") -> subprocess.Popen:
    """Start a run that would take hours, in a process group of its own, and wait for its third step.

    The process gets an attribute `ranks`, the process ids of its ranks in order.
    """
    process = subprocess.Popen(project.command(ranks, *LONG, script=script), env=environment(),
                               cwd=project.folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True, start_new_session=True,
                               preexec_fn=hear)
    for line in process.stdout:
        if line.startswith("step:3/"):
            process.ranks = rank_pids(process)
            return process
    raise AssertionError(process.communicate()[1])


def rank_pids(process: subprocess.Popen) -> list[int]:
    """Return the process ids of the ranks, in order."""
    children = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True,
                              text=True).stdout

    def rank(pid: int) -> int:
        for entry in open(f"/proc/{pid}/environ").read().split("\0"):
            if entry.startswith("RANK="):
                return int(entry.removeprefix("RANK="))
        return -1

    found = {rank(int(pid)): int(pid) for pid in children.split()}
    return [found[r] for r in sorted(found) if r >= 0]


def finish(project: Project, process: subprocess.Popen) -> tuple[dict, int, str]:
    """Wait for the end; return end event, exit code, stderr. Every rank must be gone."""
    _, errors = process.communicate(timeout=BOUND_S)
    for pid in process.ranks:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    [log] = project.logs()
    assert not list(log.parent.glob(".*spare"))
    ends = events(log, "end")
    return (ends[0] if ends else {}), process.returncode, errors


@pytest.mark.parametrize("number, ranks", [
    (signal.SIGTERM, 2), (signal.SIGINT, 2), (signal.SIGINT, 1), (signal.SIGHUP, 2)])
def test_a_signal_to_the_launcher_interrupts_the_run(project, number, ranks):
    process = launch(project, ranks)
    process.send_signal(number)
    end, code, errors = finish(project, process)
    assert end["status"] == "interrupted" and code == 128 + number
    assert "Traceback" not in errors


def test_ctrl_c_reaches_the_whole_process_group(project):
    process = launch(project, 2)
    os.killpg(process.pid, signal.SIGINT)
    end, code, errors = finish(project, process)
    assert end["status"] == "interrupted" and code == 128 + signal.SIGINT
    assert "Traceback" not in errors


def test_an_exception_on_rank_1_is_told_with_its_rank_type_and_message(project):
    script = project.submission("fails.py", (TAKE, TAKE + (
        "        if run.rank == 1 and step == 5 and not run._warming:\n"
        "            raise ValueError('bad thing')\n")))
    process = launch(project, 2, script)
    end, code, errors = finish(project, process)
    assert (end["status"], end["rank"]) == ("failed", 1)
    assert (end["type"], end["message"]) == ("ValueError", "bad thing")
    assert code == 1 and "fails.py" in end["traceback"] and errors.count("Traceback") == 1


def test_a_killed_rank_is_lost(project):
    process = launch(project, 2)
    os.kill(process.ranks[1], signal.SIGKILL)
    end, code, _ = finish(project, process)
    assert (end["status"], end["ranks"], code) == ("rank_lost", [1], 4)


def test_a_killed_rank_0_leaves_a_log_without_end_and_an_open_ledger_entry(project):
    process = launch(project, 2)
    os.kill(process.ranks[0], signal.SIGKILL)
    process.communicate(timeout=BOUND_S)
    assert process.returncode != 0
    [log] = project.logs()
    assert events(log, "end") == [] and events(log, "val")
    ledger = (log.parent / "ledger.jsonl").read_text().splitlines()
    assert len(ledger) == 1 and '"what":"start"' in ledger[0]


def test_a_loss_that_is_not_a_number_ends_the_run_as_a_result(project):
    script = project.submission("diverges.py", (TAKE, TAKE + (
        "        if step == 2 and not run._warming:\n"
        "            model.lm_head.weight.data.fill_(float('nan'))\n")))
    done = project.run(2, script=script, code=3)
    [log] = project.logs()
    [end] = events(log, "end")
    assert end["status"] == "nonfinite" and math.isnan(float(end["val_loss"]))
    assert "Traceback" not in done.stderr


def test_a_full_disk_ends_the_run_with_whole_lines_in_the_log(project):
    script = project.submission("full.py", (TAKE, TAKE + (
        "        if step == 2 and run.rank == 0 and not run._warming:\n"
        "            import resource\n"
        "            size = run.log_path.stat().st_size\n"
        "            resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, resource.RLIM_INFINITY))\n")))
    done = project.run(2, script=script, code=5)
    [log] = project.logs()
    assert log.read_bytes().endswith(b"\n") and not list(log.parent.glob(".*spare"))
    assert "disk_full" in done.stderr


def test_the_right_end_is_written_even_when_rank_0_fails_first(project):
    script = project.submission("fails.py", (TAKE, TAKE + (
        "        if run.rank == 0 and step == 5 and not run._warming:\n"
        "            raise KeyError('lost')\n")))
    process = launch(project, 2, script)
    end, code, _ = finish(project, process)
    assert (end["status"], end["rank"], end["type"], code) == ("failed", 0, "KeyError", 1)
