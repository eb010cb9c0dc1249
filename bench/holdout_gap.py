"""The gap of honest runs: what a token that no run validates on costs them more, for a track's row.

    python -m bench.holdout_gap LOG... -o bench/results/holdout_gap.json   runs with their weights beside them
    python -m bench.holdout_gap SCRIPT.py... --seeds 7                     trains on the sample, with one rank

Prints a row a script, all of them, and the line for harness/tracks.toml. A verdict that lies beside a log is
taken as it is where it is that log's and has the holdout.
"""
import argparse
import json
import shutil
import statistics
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench.project import Project
from bench.rounds import Result, Row
from bench.run import run_one
from harness.front.judge import judge, read_log
from harness.runlog import sha256


def train(project: Project, script: Path, seed: int) -> Path:
    """Train a script in the project and return its log, beside which the weights lie."""
    copy = shutil.copy(script, project.folder / "submissions")
    project.run(f"--script={copy}", f"--seed={seed}", "--nproc_per_node=1", "--weights=true")
    return max((project.folder / "records" / "runs").glob("*.txt"))


def judged(log: Path, holdout: str) -> dict[str, Any]:
    """Return seed, loss and gap of a run. Raises ValueError where the judge does not find it honest."""
    beside, source = log.with_suffix(".judge.json"), log.read_bytes()
    found = json.loads(beside.read_text()) if beside.exists() else {}
    if found.get("log_sha256") != sha256(source) or (found["holdout"] or {}).get("source") != holdout:
        found = judge(log, cuts=1, holdout=holdout)
    if found["ok"] is False or "gap" not in (found["holdout"] or {}):
        raise ValueError(f"{log.name}: {found['refused']}; give runs that the judge finds honest")
    return {"script": Path(read_log(source)[0]["script"]).stem, "gap": found["holdout"]["gap"],
            **{name: found[name] for name in ("run_id", "seed", "loss", "track")}}


def result(runs: Iterable[dict[str, Any]], holdout: str) -> Result:
    """Return the gaps by script and of all, and the line of the row."""
    sides: dict[str, list[dict[str, Any]]] = {"all": []}
    for run in runs:
        print("{script} seed {seed}: loss {loss:.4f}, gap {gap:.4f}".format(**run), flush=True)
        for name in ("all", run["script"]):
            sides.setdefault(name, []).append(run)
    [track] = {run["track"] for run in sides["all"]}
    rows = [Row(f"gap, {name}", [run["gap"] for run in side], "nats") for name, side in sides.items()]
    line = "gap = {{ mean = {:.4f}, sd = {:.4f}, n = {}, loss = {:.3f} }}".format(
        statistics.mean(rows[0].values), statistics.stdev(rows[0].values), len(rows[0].values),
        statistics.mean(run["loss"] for run in sides["all"]))
    how = f"Track {track}: loss on the holdout of seed {holdout} minus validation loss, both the judge's."
    return Result(rows, how, {"line": line, "runs": sides["all"]})


def main(argv: list[str] | None = None) -> None:
    """Judge the runs of the command line, print and keep what was found."""
    parser = argparse.ArgumentParser(epilog="example: python -m bench.holdout_gap train_gpt2.py --seeds 2")
    parser.add_argument("paths", nargs="+", type=Path, help="scripts (.py), or logs")
    parser.add_argument("--seeds", type=int, default=7, help="how many runs of each script")
    parser.add_argument("--holdout", default="1", metavar="SEED")
    parser.add_argument("-o", "--output", type=Path, help="file for all numbers, JSON")
    asked = parser.parse_args(argv)
    with Project() as project:
        logs = (log for seed in range(1, asked.seeds + 1) for path in asked.paths if path.suffix == ".py"
                for log in [train(project, path, seed)])
        runs = (judged(log, asked.holdout) for log in
                [*(path for path in asked.paths if path.suffix != ".py"), *logs])
        found = run_one("holdout_gap", lambda quick: result(runs, asked.holdout), False)
    print(found["raw"]["line"])
    if asked.output:
        asked.output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
