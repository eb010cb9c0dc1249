"""Has a run judged by this checkout's judge, which knows its log and its weights alone: <run>.judge.json."""
import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from records.tools.again import launch as launches
from records.tools.again.checkout import shipped_logs
from records.tools.check.verdict import verdict_on
from records.tools.read.log import Log, read_bytes
from records.tools.read.logs import LOG, load_runs, log_of
from records.tools.read.values import ReadError, json_text, shown

WORDS = {True: "holds", False: "does not hold", None: "not judged"}
ARGUMENTS = {
    "log": LOG,
    "--weights": {"metavar": "FILE", "type": Path, "help": "default: RUN.safetensors beside the log"},
    "--cuts": {"metavar": "N", "type": int,
               "help": "places at which to look for what a model sees ahead; a verifier takes 10240"},
    "--data": {"metavar": "DIR", "type": Path, "help": "the track's shards, where they lie elsewhere"},
    "--holdout": {"metavar": "SEED|TEXT|SHARD",
                  "help": "text that no run validates on: of the track's validation shard, chosen by a seed, "
                          "or a file of your own, of text or of ids (*.bin)"},
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
    log = allowed_log(arguments.log, arguments.yes)
    by = "owner" if made_here(log.path) else "verifier"
    with launches.Signals() as signals, tempfile.TemporaryDirectory(prefix="records-") as folder:
        if arguments.holdout and not arguments.holdout.isdigit():
            vocabulary = launches.vocabulary_of(log.manifest["track"], arguments.data)
            arguments.holdout = launches.shard_of(Path(arguments.holdout), vocabulary, Path(folder))
        words = [f"--{name}={value}" for name in ("weights", "cuts", "data", "holdout", "against")
                 if (value := getattr(arguments, name)) is not None]
        verdict = judge(log.path, signals, words, quiet=arguments.json, by=by)
    if arguments.json and not signals.caught:
        print(json_text(verdict or {"ok": None}, None), end="")
    return 130 if signals.caught else 2 if verdict is None else 0 if verdict["ok"] else 1


def made_here(log: Path) -> bool:
    """Tell whether a log lies where this checkout's runs, races and reruns leave theirs."""
    return log.resolve().is_relative_to((launches.ROOT / "records" / "runs").resolve())


def allowed_log(path: Path, yes: bool) -> Log:
    """Return a log whose code may run: made here, a shipped record's, or one that the user says yes to."""
    log = launches.find_log(path)
    if not trusted(log.path):
        code = launches.Code(log.script_path, launches.files_of(log), {}, log.manifest["code"]["digest"])
        launches.consent([code], yes)
    return log


def trusted(log: Path) -> bool:
    """Tell whether a log's code has run here before, or is that of a shipped record."""
    return made_here(log) or read_bytes(log) in shipped_logs()


def weights_path(log: Path) -> Path:
    """Return where the weights of a run lie."""
    return log.with_suffix(".safetensors")


def judge(log: Path, signals: launches.Signals, words: Iterable[str] = (), quiet: bool = False,
          by: str = "owner") -> dict[str, Any] | None:
    """Have a run judged, its line on stdout or, quiet, stderr; return the verdict, None where it was not."""
    child = launches.start("harness.front.judge", log.resolve(), f"--by={by}", *words,
                           stdin=subprocess.DEVNULL, stdout=2 if quiet else None)
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
