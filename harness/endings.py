"""How a run ends: once, soon, with the right status, whatever happens to whichever rank."""
import contextlib
import functools
import itertools
import json
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, NoReturn, Self

import torch.distributed as dist

from harness.runlog import is_disk_full

POLL_S = 0.25      # how often a rank looks for trouble elsewhere (one small request to the store)
ANSWER_S = 3.0     # how long rank 0 waits for the accounts of ranks that are alive
DYING_S = 2.0      # how long a launcher whose store is gone may still be seen: it is dying
LEAVE_S = 8.0      # how long another rank waits for rank 0's end line; the agent kills after 30 s
EXIT_CODES = {"ok": 0, "stopped": 0, "failed": 1, "refused": 2, "nonfinite": 3, "rank_lost": 4,
              "disk_full": 5}
_runs = itertools.count()


class NonFinite(Exception):
    """A loss is not a number any more: a result, not a crash."""

    status = "nonfinite"


class BadInput(ValueError):
    """Something that only shows once the model is built, and that the user can mend."""

    status = "refused"


def is_collective_error(exc: BaseException | None) -> bool:
    """Tell whether an exception only says that a peer or the network is in trouble."""
    while exc is not None:
        if isinstance(exc, dist.DistError) or "/gloo/" in str(exc):
            return True
        exc = exc.__cause__ or exc.__context__
    return False


@functools.cache
def _let_forked_children_be() -> None:
    """Take our handlers out of forked children (data loader workers).

    They share the wakeup socket: their SIGTERM would look like ours.
    """
    def forget():
        if signal.getsignal(signal.SIGTERM) is _noop:
            signal.set_wakeup_fd(-1)
            for number in Endings.SIGNALS:
                signal.signal(number, signal.SIG_DFL)
    os.register_at_fork(after_in_child=forget)


def _noop(number: int, frame: FrameType | None) -> None:
    """Be a Python handler: with one in place the C handler writes to the wakeup socket, at once."""


class Endings:
    """Context manager around a run, on every rank: the run ends once, soon, with the right status.

    Every rank leaves with the same exit code, whatever happens to whichever rank. Enter and leave it in the
    main thread, once there is a group.

    A thread on each rank waits for signals, and between them looks at the store, the launcher and the peers
    of its host: Python handlers run only when a collective returns, and NCCL need not notice a dead peer.
    In trouble a rank files its account (error, signal, collective) in the store; on seeing that, each other
    one files its own; rank 0 gathers them, decides, writes the end line through end(**fields), tells the
    others and says the last words, farewell(status) among them. Then all leave by os._exit, for a group with
    a rank missing cannot be shut down; in a group of one an exception goes on to the caller instead.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

    def __init__(self, end: Callable[..., dict[str, Any]], farewell: Callable[[str], str]):
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        self.end, self.farewell = end, farewell
        self.agent = os.environ.get("TORCHELASTIC_RUN_ID") and os.getppid()
        # A client of its own: a blocking call of the process group holds the lock of the group's client.
        store = dist.HashStore() if self.world_size == 1 else dist.TCPStore(
            os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False,
            wait_for_workers=False, timeout=timedelta(seconds=60))
        self.store = dist.PrefixStore(f"endings/{next(_runs)}", store)  # ranks count the same runs
        host = os.environ.get("GROUP_RANK") or socket.gethostname()  # ranks of an agent see their pids
        self.store.set(f"who/{self.rank}", json.dumps([host, os.getpid()]))
        who = [json.loads(self.store.get(f"who/{r}")) for r in range(self.world_size)]
        self.pids = [pid for _, pid in who]
        self.neighbours = [r for r, (h, _) in enumerate(who) if h == host and r != self.rank]
        store.set_timeout(timedelta(seconds=ANSWER_S))
        self.inbox, self.finished, self.code = [], threading.Event(), None

    def __enter__(self) -> Self:
        _let_forked_children_be()
        self.ear, self.mouth = socket.socketpair()
        self.ear.settimeout(POLL_S)
        self.mouth.setblocking(False)
        # Alone, an ignored signal (nohup, a job in the background) stays ignored; an agent's signals count.
        taken = [s for s in self.SIGNALS if self.agent or signal.getsignal(s) is not signal.SIG_IGN]
        self.handlers = {s: signal.signal(s, _noop) for s in taken}  # read by the thread, hence before it
        self.wakeup_fd = signal.set_wakeup_fd(self.mouth.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._watch, name="endings", daemon=True).start()
        return self

    def __exit__(self, exc_type: type[BaseException] | None, exc: BaseException | None,
                 tb: TracebackType | None) -> bool:
        if exc is None:
            account = {"kind": "done"}
        else:
            text = "".join(traceback.format_exception(exc))
            kind = "collective" if is_collective_error(exc) else "error"
            status = "disk_full" if is_disk_full(exc) else getattr(exc, "status", "failed")
            account = {"kind": kind, "status": status, "type": exc_type.__name__,
                       "message": str(exc)[:1000], "traceback": text[-4000:]}
        self.inbox.append(account)
        self.mouth.send(b"\0")
        self.finished.wait()  # another status, or another rank, may come first: the thread leaves then
        signal.set_wakeup_fd(self.wakeup_fd)
        for number, handler in self.handlers.items():
            signal.signal(number, handler)
        self.ear.close()
        self.mouth.close()
        return False

    def _watch(self) -> None:
        """Wait for the end of the run or for trouble, and see to it; what the thread does."""
        try:
            account = self._wait()
            if account["kind"] != "done":
                self._settle(account)
            elif self.rank == 0:
                end = self.end(status="ok")
                self.code = self._tell(end)
                if self.code:  # no room for the end line
                    say(f"run ended: {end['status']}\n")
        except BaseException:  # a fault of our own must not leave a run that hangs
            os.write(2, traceback.format_exc().encode())
            os._exit(70)
        self.finished.set()

    def _wait(self) -> dict[str, Any]:
        """Return this rank's account: of the end of its run, or of trouble here or elsewhere."""
        while True:
            try:
                heard = [n for n in self.ear.recv(64) if n in self.handlers]  # others' signals come here too
            except TimeoutError:
                heard = []
            if heard:
                return {"kind": "signal", "signal": heard[0]}
            done = self.inbox and self.inbox[0]["kind"] == "done"
            if self.inbox and (not done or self.rank == 0):
                return self.inbox[0]
            if self._orphaned():
                return {"kind": "signal", "signal": signal.SIGKILL, "message": "the launcher is gone"}
            try:
                if done and self.store.check(["ended"]) and int(self.store.get("ended")) == 0:
                    return self.inbox[0]
                if self.store.check(["trouble"]) or any(self._gone(r) for r in self.neighbours):
                    return {"kind": "well"}
            except dist.DistError as error:
                return {"kind": "collective", "status": "failed", "type": type(error).__name__,
                        "message": f"the store does not answer: {error}"[:1000], "traceback": ""}

    def _orphaned(self) -> bool:
        """Tell whether the launcher that started this rank is gone."""
        return bool(self.agent) and os.getppid() != self.agent

    def _gone(self, rank: int) -> bool:
        """Tell whether a rank of this host has no process, or a zombie."""
        try:
            with contextlib.suppress(PermissionError):
                os.kill(self.pids[rank], 0)
        except ProcessLookupError:
            return True
        try:
            with open(f"/proc/{self.pids[rank]}/stat") as stat:
                return stat.read().rpartition(")")[2].split()[0] == "Z"
        except OSError:
            return False

    def _settle(self, account: dict[str, Any]) -> None:
        """Agree with the others on the end of a run in trouble; leave, unless alone with an exception."""
        account = {"rank": self.rank, "order": 0, **account}
        if account.get("status") == "failed" and account["kind"] == "error":
            say(f"rank {self.rank}: {account['traceback']}")
        with contextlib.suppress(dist.DistError):  # where the launcher, which keeps the store, is gone
            account["order"] = self.store.add("order", 1)
            self.store.set(f"account/{self.rank}", json.dumps(account))
            self.store.set("trouble", "1")
        if self.rank == 0:
            end = self.end(**self._verdict(*self._gather(account)))
            self.code = self._tell(end)
            what = ": ".join(["run ended", *(end[k] for k in ("status", "type", "message") if k in end)])
            below = "\n" * sys.stderr.isatty()  # the bar
            say(f"{below}{what}\n{self.farewell(end['status'])}")
        else:
            self.code = self._hear()
        if self.world_size > 1 or account["kind"] not in ("error", "collective"):
            os._exit(self.code)

    def _gather(self, own: dict[str, Any]) -> tuple[dict[int, dict], set[int], set[int]]:
        """Return rank 0's view: accounts by rank, ranks that are gone, ranks that do not answer."""
        accounts, deadline = {0: own}, time.monotonic() + ANSWER_S
        while True:
            # before the accounts: a rank files, then leaves
            gone = {r for r in self.neighbours if self._gone(r)}
            try:
                for rank in set(range(self.world_size)) - accounts.keys():
                    if self.store.check([f"account/{rank}"]):
                        accounts[rank] = json.loads(self.store.get(f"account/{rank}"))
            except dist.DistError:  # kept by the launcher: a dying one loses its sockets first
                deadline = time.monotonic() + DYING_S
                while not self._orphaned() and time.monotonic() < deadline:
                    time.sleep(0.02)
                deadline = 0.0
            missing = set(range(self.world_size)) - accounts.keys()
            if missing <= gone or time.monotonic() > deadline:
                return accounts, missing & gone, missing - gone
            time.sleep(0.02)

    def _verdict(self, accounts: dict[int, dict], gone: set[int], silent: set[int]) -> dict[str, Any]:
        """Return the fields of the end line.

        A missing rank counts before a signal, for an agent that lost one signals the others; of exceptions
        and signals the first counts.
        """
        accounts = sorted(accounts.values(), key=lambda a: a["order"])
        own = next((a for a in accounts if a["kind"] in ("error", "signal")), None)
        lost = sorted(gone | (silent - set(self.neighbours)) or (silent if own is None else ()))
        if self._orphaned() and not (own and own["kind"] == "error"):
            own = {"kind": "signal", "rank": 0, "signal": signal.SIGKILL, "message": "the launcher is gone"}
        elif lost and not (own and own["kind"] == "error"):
            what = {True: "is gone: killed, or out of memory?", False: "is silent: stopped, or cut off?"}
            message = "; ".join(f"rank {r} (pid {self.pids[r]}) {what[r in gone]}" for r in lost)
            return {"status": "rank_lost", "ranks": lost, "message": message}
        if own and own["kind"] == "signal":
            number, rank = int(own["signal"]), own["rank"]
            message = own.get("message", f"{signal.Signals(number).name} at rank {rank}")
            return {"status": "interrupted", "rank": rank, "signal": number, "message": message}
        reason = own or next(a for a in accounts if a["kind"] == "collective")
        return {key: reason[key] for key in ("status", "rank", "type", "message", "traceback")}

    def _tell(self, end: dict[str, Any]) -> int:
        """Tell the other ranks that the end line stands; return the exit code, as a shell counts signals."""
        code = 128 + end["signal"] if end["status"] == "interrupted" else EXIT_CODES[end["status"]]
        with contextlib.suppress(dist.DistError):
            self.store.set("ended", str(code))
        return code

    def _hear(self) -> int:
        """Wait for rank 0's end line; return the exit code it gives, or that of a lost rank."""
        deadline, alone = time.monotonic() + LEAVE_S, False
        with contextlib.suppress(dist.DistError):
            while time.monotonic() < deadline and not alone:
                alone = 0 in self.neighbours and self._gone(0)  # before the store: it tells, then leaves
                if self.store.check(["ended"]):
                    return int(self.store.get("ended"))
                time.sleep(0.02)
        return EXIT_CODES["rank_lost"]


def say(text: str) -> None:
    """Print on stderr and flush stdout, giving up after a second.

    A full pipe, or the main thread's hold on stdout, could block for ever; a closed terminal raises.
    """
    def speak():
        with contextlib.suppress(OSError):
            os.write(2, text.encode())
            sys.stdout.flush()
    speaker = threading.Thread(target=speak, daemon=True)
    speaker.start()
    speaker.join(1.0)


def refuse(error: Exception) -> NoReturn:
    """Leave with exit code 2; the first rank of each host says why, in one line."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr, flush=True)
    sys.exit(2)
