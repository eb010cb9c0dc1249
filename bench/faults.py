"""Break a small run of two ranks at random moments, and see what is said of it and what is left of it.

    python -m bench.faults                    100 faults, about 20 minutes
    python -m bench.faults --n 10 --seed 1    ten others

Prints a table: fault, and how often the run ended how, as status in the log, exit code, status in the ledger
(- where there is none); --output keeps it, with what it was measured on, after each fault. Exit code 1 where
a run is not as its fault allows: another status or code, a ledger that does not know how a log ended, no word
on the terminal, or a process or FIFO that is left (a launcher that is killed before its ranks have loaded
torch leaves its FIFO; one that is killed between the ranks' end and its own has not counted that end).
Kills, stops and limits of file sizes are the system's own: Linux only.
"""
import argparse
import collections
import contextlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from bench.project import TINY, Project
from bench.rounds import conditions
from harness.shards import write_atomically

FLAGS = [*TINY, "--num_iterations=60", "--cooldown_iters=1", "--val_every=10", "--timeout=5", "--log_every=5",
         "--track=sample", "--nproc_per_node=2"]
BOUND_S = 120  # after which a run hangs
PAUSE_S = 4.0  # below --timeout, above what endings.py waits for an answer


class Fault(NamedTuple):
    """What is done to which process; the statuses and exit codes that may come of it."""

    name: str
    do: Callable[[int], None]
    victim: str  # launcher, or a rank
    statuses: set[str]
    codes: set[int]


def send(number: int) -> Callable[[int], None]:
    """Return what sends a signal."""
    return lambda pid: os.kill(pid, number)


def pause(pid: int) -> None:
    """Stop a process for longer than the store is given to answer."""
    os.kill(pid, signal.SIGSTOP)
    time.sleep(PAUSE_S)
    os.kill(pid, signal.SIGCONT)


def fill_disk(pid: int) -> None:
    """Let no file of a process grow beyond what its log has now."""
    runs = Path(f"/proc/{pid}/cwd/records/runs")
    size = max((path.stat().st_size for path in runs.glob("*.txt")), default=0)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, size))


def faults() -> list[Fault]:
    """Return all that is done; what is over before it comes ends ok."""
    lost = {"rank_lost", "-"}, {4, 137}  # 137: before it opens a run
    ended = [(s, victim) for s in (signal.SIGTERM, signal.SIGINT) for victim in ("launcher", "0", "1")]
    return [
        *(Fault(f"{s.name} to {victim}", send(s), victim, {"interrupted", "-"}, {128 + s, -s})
          for s, victim in ended),  # -s: before Python has taken signals, so that the caller's shell says it
        Fault("SIGKILL to launcher", send(signal.SIGKILL), "launcher", {"interrupted", "-"}, {-9}),
        *(Fault(f"{s.name} to {victim}", send(s), victim, *lost)
          for s in (signal.SIGKILL, signal.SIGSTOP) for victim in ("0", "1")),
        *(Fault(f"SIGSTOP to {victim} for {PAUSE_S:g} s", pause, victim, set(), {0})
          for victim in ("launcher", "1")),
        Fault("disk full", fill_disk, "0", {"disk_full", "-"}, {1, 2, 5})]


class Outcome(NamedTuple):
    """How a run ended."""

    status: str
    code: int
    ledger: str
    wrong: list[str]


def processes(token: str) -> dict[str, int]:
    """Return the processes of a run by rank, the others by their ids."""
    found = {}
    for pid in sorted(int(path.name) for path in Path("/proc").glob("[0-9]*")):
        try:
            words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if f"FAULTS={token}".encode() in words:
            rank = next((w[5:].decode() for w in words if w.startswith(b"RANK=")), None)
            found[f"process {pid}" if rank in {None, *found} else rank] = pid  # a rank's git has its RANK
    return found


def run(project: Project, fault: Fault | None, after_s: float) -> Outcome:
    """Run, break it after some seconds, wait for the end; return the outcome. None: let it be."""
    token, runs = uuid.uuid4().hex, project.folder / "records" / "runs"
    with tempfile.TemporaryDirectory() as temporary:  # where FIFOs lie
        environ = {**os.environ, "FAULTS": token, "TMPDIR": temporary}
        # A session of its own: a group with a stopped process that loses its shell gets SIGHUP, this one too.
        process = subprocess.Popen(
            ["bash", str(project.folder / "run.sh"), "--python", sys.executable, *FLAGS], env=environ,
            cwd=project.folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
            stderr=subprocess.STDOUT, start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
        if fault:
            time.sleep(after_s)
            victim = process.pid
            while fault.victim != "launcher" and process.poll() is None:
                if victim := processes(token).get(fault.victim):
                    break
                time.sleep(0.05)
            if process.poll() is None and victim:
                with contextlib.suppress(ProcessLookupError):  # just over
                    fault.do(victim)
        wrong = []
        try:
            said, _ = process.communicate(timeout=BOUND_S)
        except subprocess.TimeoutExpired:
            wrong.append(f"no end after {BOUND_S} s")
            for pid in processes(token).values():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            said, _ = process.communicate()
        end = time.monotonic() + 15
        while (left := processes(token)) and time.monotonic() < end:
            time.sleep(0.1)
        wrong += [f"{who} left" for who in left]
        if list(runs.glob("*.txt")) or process.returncode != -signal.SIGKILL:  # nobody else knows of it yet
            wrong += [f"{name} left" for name in os.listdir(temporary) if name.startswith("speedrun-")]
    return judge(runs, process.returncode, said, fault, wrong)


def judge(runs: Path, code: int, said: str, fault: Fault | None, wrong: list[str]) -> Outcome:
    """Return the outcome of a run, and remove what it left in the folder of the runs."""
    logs, ledger = sorted(runs.glob("*.txt")), runs / "ledger.jsonl"
    entries = [json.loads(line) for line in ledger.read_text().splitlines()] if ledger.exists() else []
    counted = [entry["status"] for entry in entries if entry["what"] == "end"]
    status = "-"
    for log in logs:
        data = log.read_bytes()
        last = data.split(b"\n")[-2:]
        wrong += ["half a line in the log"] * (last[-1] != b"")
        status = json.loads(last[0][6:])["status"] if last[0].startswith(b"#:end ") else "-"
    wrong += [f"{len(logs)} logs"] * (len(logs) > 1)
    starting = (code == 1 and status == "-" and fault and fault.name.startswith("SIGINT")
                and "KeyboardInterrupt" in said)  # Python's own word, and code, while it starts
    if status != "ok" or code:  # ok, and a code: it was over, but for the last processes
        wrong += [f"status {status}"] * (status not in {"ok"} | (fault.statuses if fault else set()))
        wrong += [f"exit code {code}"] * (not starting and code not in (fault.codes if fault else ()))
    wrong += ["no word"] * (code > 0 and not starting and not any(
        word in said for word in ("run ended", "was killed", "interrupted", "cannot write", "SIG")))
    wrong += ["a stack of C++"] * ("frame #" in said)
    lost = ["disk_full", "rank_lost", "failed"] if status == "-" else [status]
    told = status == "ok" and code == -signal.SIGKILL  # the launcher knew of the end, and had not written it
    if logs and not (told and not counted) and (len(counted) != 1 or counted[0] not in lost):
        wrong.append(f"the ledger says {counted}")
    for path in runs.glob("*") if runs.exists() else ():
        path.unlink()
    if wrong:
        print(f"{fault and fault.name}: {'; '.join(wrong)}\n{said[-3000:]}", file=sys.stderr)
    return Outcome(status, code, ",".join(counted) or "-", wrong)


def main(argv: list[str] | None = None) -> int:
    """Break runs, print the table; return the exit code."""
    parser = argparse.ArgumentParser(epilog="example: python -m bench.faults --n 10")
    parser.add_argument("--n", type=int, default=100, help="faults")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of faults and moments")
    parser.add_argument("--output", type=Path, help="a file for the table, such as bench/results/faults.json")
    asked = parser.parse_args(argv)
    choose, kinds = random.Random(asked.seed), faults()
    found: dict[str, list[Outcome]] = {fault.name: [] for fault in kinds}
    facts = {"name": "faults", "command": f"python -m bench.faults --n {asked.n} --seed {asked.seed}",
             "conditions": conditions()}
    with Project() as project:
        begin = time.monotonic()
        sound = run(project, None, 0)
        seconds = time.monotonic() - begin
        for i in range(asked.n):
            fault = kinds[i % len(kinds)] if asked.n >= len(kinds) else choose.choice(kinds)
            found[fault.name].append(run(project, fault, choose.uniform(0, seconds)))
            print(f"{i + 1} of {asked.n}: {fault.name}: {found[fault.name][-1]}", file=sys.stderr, flush=True)
            if asked.output:
                facts |= {"faults": i + 1, "seconds": round(time.monotonic() - begin, 1), "rows": rows(found)}
                write_atomically(asked.output, json.dumps(facts, indent=1).encode() + b"\n")
    print("| fault | n | wrong | status, exit code, ledger: how often |\n| --- | --- | --- | --- |")
    for row in rows(found):
        print("|", " | ".join(map(str, row.values())), "|")
    return int(bool(sound.wrong) or any(o.wrong for outcomes in found.values() for o in outcomes))


def rows(found: dict[str, list[Outcome]]) -> list[dict[str, str | int]]:
    """Return the table."""
    ways = {name: collections.Counter(f"{o.status} {o.code} {o.ledger}" for o in outcomes)
            for name, outcomes in found.items()}
    return [{"fault": name, "n": len(outcomes), "wrong": sum(bool(o.wrong) for o in outcomes),
             "ended": "; ".join(f"{way}: {count}" for way, count in ways[name].most_common())}
            for name, outcomes in found.items()]


if __name__ == "__main__":
    sys.exit(main())
