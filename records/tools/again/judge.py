"""Has a run judged by this checkout's judge, which knows its log and its weights alone: <run>.judge.json."""
import argparse
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from records.tools.again import launch as launches
from records.tools.again.checkout import shipped_logs
from records.tools.check.verdict import verdict_on
from records.tools.read.log import read_bytes
from records.tools.read.logs import LOG, load_runs, log_of
from records.tools.read.values import ReadError, json_text, shown

WORDS = {True: "holds", False: "does not hold", None: "not judged"}
ARGUMENTS = {
    "log": LOG,
    "--weights": {"metavar": "FILE", "type": Path, "help": "default: RUN.safetensors beside the log"},
    "--cuts": {"metavar": "N", "type": int,
               "help": "places at which to look for what a model sees ahead; a verifier takes 10240"},
    "--holdout": {"metavar": "SEED|SHARD",
                  "help": "text that no run validates on: of the track's validation shard, chosen by a seed, "
                          "or a shard of your own"},
    "--against": {**LOG, "help": "a trusted run with weights: its gap stands beside"},
    "--yes": "run the code without asking",
    "--json": "print the verdict",
}


def main(arguments: argparse.Namespace) -> int:
    """Judge one run; return the exit code: 0 holds, 1 does not hold, 2 could not tell."""
    cuts = arguments.cuts
    if cuts is not None and not 1 <= cuts <= 1 << 20:
        raise ReadError(f"--cuts {cuts}: expected a whole number from 1 to {1 << 20}")
    if arguments.against and not arguments.holdout:
        raise ReadError("--against without --holdout: what is compared is the gap to a holdout")
    arguments.against = arguments.against and log_of(arguments.against)
    log = launches.find_log(arguments.log)
    if not trusted(log.path):
        files = launches.files_of(log)
        code = launches.Code(log.script_path, files, {}, log.manifest["code"]["digest"])
        launches.consent([code], arguments.yes)
    chosen = {name: getattr(arguments, name) for name in ("weights", "cuts", "holdout", "against")}
    words = [f"--{name}={value}" for name, value in chosen.items() if value is not None]
    by = "owner" if made_here(log.path) else "verifier"
    with launches.Signals() as signals:
        verdict = judge(log.path, signals, words, quiet=arguments.json, by=by)
    if arguments.json and not signals.caught:
        print(json_text(verdict or {"ok": None}, None), end="")
    return 130 if signals.caught else 2 if verdict is None else 0 if verdict["ok"] else 1


def made_here(log: Path) -> bool:
    """Tell whether a log lies where this checkout's runs, races and reruns leave theirs."""
    return log.resolve().is_relative_to((launches.ROOT / "records" / "runs").resolve())


def trusted(log: Path) -> bool:
    """Tell whether a log's code has run here before, or is that of a shipped record."""
    return made_here(log) or read_bytes(log) in shipped_logs()


def weights_path(log: Path) -> Path:
    """Return where the weights of a run lie."""
    return log.with_suffix(".safetensors")


def judge(log: Path, signals: launches.Signals, words: Iterable[str] = (), quiet: bool = False,
          by: str = "owner") -> dict[str, Any] | None:
    """Have a run judged, its line on stdout or, quiet, stderr; return the verdict, None where it was not."""
    command = [launches.torch_python(), "-P", "-m", "harness.front.judge", str(log.resolve()), f"--by={by}"]
    child = subprocess.Popen([*command, *words], stdin=subprocess.DEVNULL, stdout=2 if quiet else None,
                             env={**os.environ, "PYTHONPATH": str(launches.ROOT)})
    signals.children.append(child)
    code = child.wait()
    if code not in (0, 1, 2) or signals.caught:
        print(f"{shown(log.name)}: not judged (exit code {code})", file=sys.stderr)
    return None if code not in (0, 1) or signals.caught else verdict_on(load_runs(log)[0])


def judge_all(logs: Iterable[Path], signals: launches.Signals, keep: bool) -> list[str]:
    """Judge the runs that have weights and no verdict, after the last timed one; return the bad ones' names.

    A verdict that is another log's, or damaged, is made anew. The weights of what is judged are dropped
    unless they are to be kept; those of what could not be judged, or without a sandbox, stay.
    Raises KeyboardInterrupt where a signal came.
    """
    bad = []
    for log in logs:
        run = load_runs(log)[0]
        try:
            verdict = verdict_on(run)
        except ReadError:
            verdict = None  # without weights it stays, and verify says what is wrong with it
        if run.at("sys", "gpus") or run.at("launch", "compile"):
            print(f"{shown(log.name)}: not judged: nobody has measured limits for GPUs or compiled code",
                  file=sys.stderr)
        elif verdict is None and weights_path(log).exists():
            print(f"judging {shown(log.stem)}", file=sys.stderr)
            verdict = judge(log, signals, quiet=True)
        if signals.caught:
            raise KeyboardInterrupt("interrupted; the same command goes on with judging")
        if verdict and verdict.get("sandbox") != "none" and not keep:
            weights_path(log).unlink(missing_ok=True)
        if verdict and verdict.get("ok") is False:
            bad.append(log.name)
    return bad
