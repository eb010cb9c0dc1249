"""How runs end: each way leaves the right status in the log, an exit code, no process, all within seconds."""
import ctypes
import json
import math
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch.distributed as dist
from tiny import TAKE, Project, environment, events
from waiting import until

from harness.endings import Endings

LONG = ["--num_iterations=100000", "--cooldown_iters=100000", "--val_every=100000", "--epochs=100000",
        "--log_every=1"]
BOUND_S = 30  # the limit of a wait for the end, which comes within seconds


def hear() -> None:
    """Take signals again that the tests themselves ignore: under nohup, or in the background of a shell.

    Where the tests are killed the launcher is too, and its ranks end: a run of hours was left of them.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def launch(project: Project, ranks: int, *flags: str) -> tuple[subprocess.Popen, list[int]]:
    """Start a run that would take hours, in a process group of its own, and wait for its third step.

    Returns the launcher and the process ids of the ranks in order.
    """
    process = subprocess.Popen(project.command(ranks, *LONG, *flags), env=environment(), cwd=project.folder,
                               stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               text=True, start_new_session=True, preexec_fn=hear)
    if not any(line.startswith("step:3/") for line in process.stdout):
        raise AssertionError(process.communicate()[1])
    children = subprocess.check_output(["pgrep", "-P", str(process.pid)], text=True).split()
    found = [re.search(r"\bRANK=(\d+)", Path(f"/proc/{pid}/environ").read_text()) for pid in children]
    return process, [pid for _, pid in sorted((int(r[1]), int(pid)) for r, pid in zip(found, children) if r)]


def finish(project: Project, process: subprocess.Popen, pids: list[int]) -> tuple[dict, int, str]:
    """Wait for the end; return end event, exit code, stderr. Every rank must be gone."""
    _, errors = process.communicate(timeout=BOUND_S)
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    assert not list(project.logs()[0].parent.glob(".*"))
    return project.end(), process.returncode, errors


@pytest.mark.parametrize("number, ranks, send", [
    (signal.SIGTERM, 2, os.kill), (signal.SIGINT, 2, os.kill), (signal.SIGINT, 1, os.kill),
    (signal.SIGHUP, 2, os.kill), (signal.SIGINT, 2, os.killpg)])  # ctrl-C reaches the whole process group
def test_a_signal_to_the_launcher_interrupts_the_run(project, number, ranks, send):
    process, pids = launch(project, ranks)
    send(process.pid, number)
    end, code, errors = finish(project, process, pids)
    assert end["status"] == "interrupted" and code == 128 + number and "Traceback" not in errors


def test_a_killed_rank_is_lost(project):
    process, pids = launch(project, 2)
    os.kill(pids[1], signal.SIGKILL)
    end, code, _ = finish(project, process, pids)
    assert (end["status"], end["ranks"], code) == ("rank_lost", [1], 4)
    assert "rank 1 (pid" in end["message"] and "is gone" in end["message"]


def ledger_end(project: Project) -> dict:
    """Return the ledger's only end line."""
    lines = (project.folder / "records" / "runs" / "ledger.jsonl").read_text().splitlines()
    [end] = [entry for entry in map(json.loads, lines) if entry["what"] == "end"]
    return end


def test_the_launcher_says_that_rank_0_was_killed_and_counts_the_attempt(project):
    """The kernel's likeliest victim went without a word and without an end line in the ledger."""
    process, pids = launch(project, 2)
    os.kill(pids[0], signal.SIGKILL)
    _, errors = process.communicate(timeout=BOUND_S)
    [log] = project.logs()
    assert f"rank 0 (pid {pids[0]}) was killed: SIGKILL" in errors and str(log) in errors
    assert process.returncode == 4 and events(log, "end") == [] and not list(log.parent.glob(".*"))
    assert (ledger_end(project)["status"], ledger_end(project)["run_id"]) == ("rank_lost", log.stem)


def test_where_the_launcher_is_killed_no_stack_of_cpp_comes_up_and_the_attempt_is_counted(project):
    process, pids = launch(project, 2)
    os.kill(process.pid, signal.SIGKILL)
    _, errors = process.communicate(timeout=BOUND_S)  # until the ranks have closed their ends of the pipes
    until(lambda: "#:end" in project.logs()[0].read_text())
    assert project.end()["message"] == "the launcher is gone"
    assert ledger_end(project)["status"] == "interrupted"
    assert "frame #" not in errors and "Exception raised from" not in errors, errors


def test_a_launcher_that_is_still_dying_is_the_cause_and_not_the_rank_that_left_first():
    """Its sockets go before its children are told: on a busy host that was `rank_lost`, and in no ledger."""
    parents, ends = iter([False, False, True, True]), Endings.__new__(Endings)
    ends.rank, ends.world_size, ends.neighbours, ends.pids = 0, 2, [1], [os.getpid(), 1]
    ends.store, ends._gone, ends._orphaned = DeadStore(), lambda rank: True, lambda: next(parents)
    own = {"rank": 0, "order": 0, "kind": "collective"}
    assert ends._verdict(*ends._gather(own))["message"] == "the launcher is gone"


class DeadStore:
    """A store whose server is gone."""

    def check(self, keys: list[str]) -> bool:
        raise dist.DistNetworkError("Connection reset by peer")


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_is_stopped_is_named_and_ends_the_run_after_the_timeout(project, rank):
    process, pids = launch(project, 2, "--timeout=4")
    os.kill(pids[rank], signal.SIGSTOP)
    _, errors = process.communicate(timeout=90)
    assert f"rank {rank} (pid {pids[rank]}) is stopped; `kill -CONT {pids[rank]}` lets it go on" in errors
    assert process.returncode == 4 and ledger_end(project)["status"] == "rank_lost"
    assert rank == 0 or project.end()["ranks"] == [1]


def test_a_run_that_fails_before_its_first_step_leaves_log_and_ledger_line(project):
    """It left neither: a first run that trains in its set-up and raises was counted nowhere."""
    opened = "    with open_run(__file__, RECIPES) as run:\n"
    script = project.submission("early.py", (opened, f"{opened}        raise KeyError('early')\n"))
    project.run(2, script=script, code=1)
    [log] = project.logs()
    assert events(log, "manifest")[0]["parameters"] is None and project.end()["status"] == "failed"
    assert events(log, "val") == [] and ledger_end(project)["status"] == "failed"


def ending(project: Project, code: int, *lines: str, rank: int | str = 0) -> str:
    """Run on two ranks, one of which runs lines of its own at step 2; return what is said on stderr."""
    script = project.adds("ends.py", f"if step == 2 and run.rank == {rank} and not run._warming:",
                          *(f"    {line}" for line in lines), after=TAKE)
    return project.run(2, script=script, code=code).stderr


@pytest.mark.parametrize("rank, error", [(1, ValueError("bad thing")), (0, KeyError("lost"))])
def test_an_exception_is_told_with_its_rank_type_and_message_and_on_rank_0_too(project, rank, error):
    """Rank 0 writes the log itself: the right end is written even when it is the first that fails."""
    errors = ending(project, 1, f"raise {error!r}", rank=rank)
    end = project.end()
    assert (end["status"], end["rank"]) == ("failed", rank)
    assert (end["type"], end["message"]) == (type(error).__name__, str(error))
    assert "ends.py" in end["traceback"] and errors.count("Traceback") == 1


def test_a_killed_rank_0_leaves_a_log_without_end_and_an_open_ledger_entry(project):
    ending(project, 4, "import os, signal", "os.kill(os.getpid(), signal.SIGKILL)")
    [log] = project.logs()
    assert events(log, "end") == [] and events(log, "val")
    [entry] = (log.parent / "ledger.jsonl").read_text().splitlines()
    assert '"what":"start"' in entry


def test_a_loss_that_is_not_a_number_ends_the_run_as_a_result(project):
    errors = ending(project, 3, "model.lm_head.weight.data.fill_(float('nan'))", rank="run.rank")
    assert project.end()["status"] == "nonfinite" and math.isnan(float(project.end()["val_loss"]))
    assert "Traceback" not in errors


def test_a_full_disk_ends_the_run_with_whole_lines_in_the_log(project):
    errors = ending(project, 5, "import os, resource", "room = os.stat(run.log_path).st_size + 20",
                    "resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))")
    [log] = project.logs()
    assert log.read_bytes().endswith(b"\n") and not list(log.parent.glob(".*"))
    assert "disk_full" in errors


@pytest.mark.slow
def test_after_ctrl_c_the_last_words_say_where_the_log_lies_and_how_to_go_on(project):
    """The command that they give is typed as it stands: with checkpoints it goes on, else it starts anew."""
    script = project.adds("stops.py", "if step == 5 and run._first_step == 0 and not run._warming:",
                          "    import os, signal, threading", "    os.kill(os.getpid(), signal.SIGINT)",
                          "    threading.Event().wait()")  # takes no step more
    stopped = [subprocess.run(project.command(1, *LONG, *flags, script=script), cwd=project.folder, text=True,
                              env=environment(), capture_output=True, preexec_fn=hear, timeout=120)
               for flags in ([], ["--checkpoint_every=2"])]
    assert [done.returncode for done in stopped] == [130, 130]
    first, said = project.logs()[0], stopped[0].stderr
    again = "there is no checkpoint (--checkpoint_every); to start again: "
    again += shlex.quote(str(project.folder / "run.sh"))
    assert f"\nlog: {first}\n{again} " in said and "--resume" not in said
    [command] = re.findall("to go on from the last checkpoint: (.*)", stopped[1].stderr)
    subprocess.run(["bash", "-c", f"{command} --stop_at_step=7"], cwd=project.folder, env=environment(),
                   check=True, capture_output=True, timeout=120)
    manifest, [val] = events(project.logs()[-1], "manifest")[0], events(project.logs()[-1], "val")
    assert manifest["resumed_from"]["step"] == 4 and val["step"] == 7
