"""Keeps logs of the public speedrun as a row that was reported elsewhere and not verified here."""
import argparse
import datetime
import re
import statistics
import sys
import tomllib
from pathlib import Path
from typing import Any

from records.claims import ROOT
from records.reader import read_bytes, sha256
from records.trials import Trial, find_logs, load_trials
from records.values import ReadError, json_text, shown


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("logs", metavar="LOG", nargs="+", type=Path, help="a log, or a folder of logs")
    parser.add_argument("--track", metavar="T", required=True, help="a row of harness/tracks.toml")
    parser.add_argument("--name", required=True, help="letters, digits, _ and -")
    parser.add_argument("--date", metavar="YYYY-MM-DD", required=True, help="when it was reported")
    parser.add_argument("--url", required=True, help="where it was reported")
    parser.add_argument("--by", metavar="NAME", help="who reported it")
    parser.add_argument("--json", action="store_true", help="print the row")


def main(arguments: argparse.Namespace) -> int:
    """Write records/reported/<track>/<date>_<NAME>.json and say what it holds; return the exit code."""
    check(arguments)
    row = {"reported": True, "track": arguments.track, "name": arguments.name, "date": arguments.date,
           "url": arguments.url, "by": arguments.by, **summary(list(find_logs(arguments.logs)))}
    path = ROOT / "records" / "reported" / arguments.track / f"{arguments.date}_{arguments.name}.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "x", encoding="utf-8") as f:  # x: neither overwrites nor follows a link
            f.write(json_text(row))
    except OSError as error:
        raise ReadError(f"{shown(str(path))}: cannot be written ({error.strerror})") from None
    print(json_text(row, None).strip() if arguments.json else
          f"wrote {path.relative_to(ROOT)}: {row['n']} runs, mean val_loss {row['val_loss']['mean']:.5f}")
    if "," in (row["code_sha256"] or ""):
        print("records import: these logs hold different scripts", file=sys.stderr)
    return 0


def check(arguments: argparse.Namespace) -> None:
    """Raise ReadError where what was typed by hand is not fit for a file's name or a table's cell."""
    tracks = tomllib.loads((ROOT / "harness" / "tracks.toml").read_text(encoding="utf-8"))
    if arguments.track not in tracks:
        raise ReadError(f"--track {shown(arguments.track)}: expected one of {', '.join(sorted(tracks))}")
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,80}", arguments.name):
        raise ReadError(f"--name {shown(arguments.name)}: expected at most 80 letters, digits, _ and -")
    try:
        date = datetime.date.fromisoformat(arguments.date).isoformat()
    except ValueError:
        date = None
    if date != arguments.date or date > datetime.datetime.now(datetime.UTC).date().isoformat():
        raise ReadError(f"--date {shown(arguments.date)}: expected a date up to today, like 2024-10-10")
    if not re.fullmatch(r"https?://[\w./~%:?=&#,+@-]{1,300}", arguments.url, re.ASCII):
        raise ReadError(f"--url {shown(arguments.url)}: expected https://... of at most 300 plain characters")
    if arguments.by is not None and not re.fullmatch(r"[\w @.,&'-]{1,80}", arguments.by):
        raise ReadError(f"--by {shown(arguments.by)}: expected at most 80 letters, digits and @ . , & ' -")


def summary(paths: list[Path]) -> dict[str, Any]:
    """Return what the logs say, each run and all together. Raises ReadError where one says no loss."""
    runs: list[dict[str, Any]] = []
    seen: dict[str, Path] = {}
    for path in paths:
        digest = sha256(read_bytes(path))
        if digest in seen:
            raise ReadError(f"{shown(path.name)}: the bytes of {shown(seen[digest].name)}; a run counts once")
        seen[digest] = path
        runs += [run(trial, digest) for trial in load_trials(path)]
    if not runs:
        raise ReadError("no logs in these folders; name files that end in .txt, .log, .stdout or .out")
    losses, times = [r["val_loss"] for r in runs], [r["train_time_ms"] for r in runs]
    several = {name: ", ".join(sorted({str(r[name]) for r in runs if r[name] is not None})) or None
               for name in ("step", "device", "code_sha256")}
    mean_ms = None if None in times else statistics.fmean(times)
    return {"n": len(runs), "val_loss": {"mean": round(statistics.fmean(losses), 9), "all": losses},
            "train_time_ms": {"mean": mean_ms, "all": times},
            "steps": several["step"], "device": several["device"], "code_sha256": several["code_sha256"],
            "runs": runs}


def run(trial: Trial, log_sha256: str) -> dict[str, Any]:
    """Return what a row keeps of a run."""
    if trial.log:
        raise ReadError(f"{trial.name}: a log of format 1 proves itself; make a record of it with `submit`")
    if trial.last is None:
        raise ReadError(f"{trial.name}: no validation; leave it out, and say so")
    facts = trial.facts()
    return {"file": trial.path.name, "log_sha256": log_sha256, "val_decimals": trial.val_decimals,
            **{name: facts[name] for name in ("trial", "format", "step", "steps", "val_loss", "train_time_ms",
                                              "code_sha256", "device", "world_size", "seed", "torch")}}
