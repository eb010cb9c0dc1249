"""Runs a log's code again, on the harness of its digest, and judges the new run against the old."""
import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

from records.tools.again import launch as launches
from records.tools.again.judge import WORDS, judge, weights_path
from records.tools.check.claim import ENDED_BY_OTHERS
from records.tools.check.significance import SIGMA
from records.tools.read.log import Log, read_log
from records.tools.read.logs import LOG, run_of
from records.tools.read.tracks import own_row
from records.tools.read.values import ReadError, is_finite, number, shown

HOST = ("cpu", "torch", "threads", "gpus", "platform", "float32_matmul_precision", "settings")
WHAT = ("track", "seed", "hyperparameters", "data")  # what two runs must share to be the same experiment
BIT_EQUAL = "bit-equal: the same CPU model, torch, threads and settings, exact reduction"


ARGUMENTS = {
    "log": LOG,
    "--yes": "run the code without asking",
    "--to": {"metavar": "DIR", "type": Path, "help": "where the new log goes; default: records/runs/reruns"},
    "--keep_weights": "keep the weights of the new run",
    "--json": "print one JSON object",
}


def main(arguments: argparse.Namespace) -> int:
    """Run again and judge; return the exit code."""
    code = launches.load(arguments.log)
    old = code.log
    if old is None:
        raise ReadError(f"{shown(arguments.log.name)}: no log, so there is nothing to compare a run with")
    if not old.vals:
        raise ReadError(f"{shown(old.path.name)}: holds no validation, so there is nothing to compare")
    for remark in remarks(old):
        print(remark, file=sys.stderr)
    ranks, seed = old.manifest.get("world_size"), old.manifest.get("seed")
    if type(ranks) is not int or not 1 <= ranks <= 1024 or type(seed) is not int:
        raise ReadError(f"{shown(old.path.name)}: world size {shown(str(ranks))}, seed {shown(str(seed))}: "
                        f"expected whole numbers")
    launches.consent([code], arguments.yes)
    flags = [*code.flags, f"--seed={seed}", f"--nproc_per_node={ranks}"]
    folder = arguments.to or launches.ROOT / "records/runs/reruns"
    with launches.Signals() as signals:
        path = launches.run(code, code.track, flags, folder, signals)
        verdict = judge(path, signals, quiet=True, by="rerun") if weights_path(path).exists() else None
        if verdict and not arguments.keep_weights:
            weights_path(path).unlink()
    tolerance = own_row(code.track, launches.ROOT).get("significance", {}).get("tolerance")
    answer = {**compare(old, read_log(path), tolerance), "old": str(old.path), "new": str(path),
              "judge": verdict,
              "unchanged": "as the launcher was told" if launches.tells(code.base) else
                           "could not tell: this harness tells its launcher nothing"}
    print(json.dumps(answer) if arguments.json else f"{answer['verdict']}: {answer['reason']}\n"
          f"rule: {answer['rule']}\n"
          f"judge of the new run: {WORDS[verdict and verdict['ok']]}\n"
          f"new log: {path}\nunchanged since the run: {answer['unchanged']}")
    if verdict and verdict["ok"] is False:
        return 1
    return {"reproduced": 0, "not reproduced": 1}.get(answer["verdict"], 2)


def remarks(log: Log) -> list[str]:
    """Return what follows for a rerun from how the old run was made."""
    found = []
    if log.manifest.get("overrides"):
        found.append("the run had overrides: they are given again, and neither run is a record")
    if log.manifest.get("resumed_from"):
        found.append("the run was resumed: the new one starts at step 0 and is compared where both validated")
    if log.status != "ok":
        found.append(f"the run ended {shown(log.status)}: only the validations that it has are compared")
    return found


def compare(old: Log, new: Log, tolerance: float | None = None) -> dict[str, Any]:
    """Return verdict (reproduced, not reproduced, could not tell), reason and rule for a rerun.

    tolerance: of the final losses in nats, where the track has one; used where the hosts differ.
    """
    what = [k for k in WHAT if old.manifest.get(k) != new.manifest.get(k)]
    what += ["code"] * (old.manifest["code"].get("digest") != new.manifest["code"].get("digest"))
    hosts = [facts if isinstance(facts := log.manifest.get("sys"), dict) else {} for log in (old, new)]
    other = [k for k in HOST if hosts[0].get(k) != hosts[1].get(k)]
    exact = old.manifest.get("reduction") == new.manifest.get("reduction") == "exact"
    if new.status in ENDED_BY_OTHERS:
        found = "could not tell", f"the new run ended {new.status}", "none"
    elif what:
        found = "could not tell", f"the runs differ in {', '.join(what)}", "none"
    elif exact and not other and not hosts[0].get("gpus"):
        found = *bit_equal(old, new), BIT_EQUAL
    else:
        found = close(old, new, tolerance, ", ".join(other) or "a reduction or GPU that may round otherwise")
    return {"verdict": found[0], "reason": shown(found[1], 300), "rule": shown(found[2], 300)}


def bit_equal(old: Log, new: Log) -> tuple[str, str]:
    """Return verdict and reason where every bit must be the same."""
    there = run_of(new).by_step()
    for step, told in run_of(old).by_step().items():
        for name, value in told.items():
            if (now := there.get(step, {}).get(name, "none")) != value:
                return "not reproduced", (f"step {step} is the first that differs: {name} {value} before, "
                                          f"{now} now")
    if old.status in ENDED_BY_OTHERS:
        return "reproduced", f"all {len(old.vals)} validations that the log has are bit-equal"
    for name in ("status", "step", "val_loss", "weights_sha256", "state_sha256"):
        a, b = [(log.end or {}).get(name) for log in (old, new)]
        if a != b:
            return "not reproduced", f"the end differs: {name} {a!r} before, {b!r} now"
    if len(old.vals) != len(new.vals) and not old.manifest.get("resumed_from"):
        return "not reproduced", f"{len(old.vals)} validations before, {len(new.vals)} now"
    return "reproduced", (f"{len(old.vals)} validations and the final weights are bit-equal; val_loss "
                          f"{old.vals[-1].val_loss!r}")


def close(old: Log, new: Log, tolerance: float | None, why: str) -> tuple[str, str, str]:
    """Return verdict, reason and rule where the losses must be close."""
    most = 3 * SIGMA * math.sqrt(2) if tolerance is None else number(tolerance)
    source = f"3 x {SIGMA} x sqrt(2)" if tolerance is None else "the track's tolerance"
    rule = f"final losses within {most:.4g} nats ({source}); no bits are compared: the hosts differ in {why}"
    last = old.vals[-1]
    there = next((val for val in new.vals if val.step == last.step), None)
    finite = [is_finite(val and val.val_loss) for val in (last, there)]
    if not all(finite):
        verdict = "could not tell" if there and not any(finite) else "not reproduced"
        return verdict, f"step {last.step}: {last.val_loss!r} before, {there and there.val_loss!r} now", rule
    apart = there.val_loss - last.val_loss
    verdict = "reproduced" if abs(apart) <= most else "not reproduced"
    return verdict, (f"step {last.step}: val_loss {last.val_loss:.6f} before, {there.val_loss:.6f} now, "
                     f"{apart:+.6f} nats"), rule
