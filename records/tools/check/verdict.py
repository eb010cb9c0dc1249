"""The judge's verdict on a run, <run>.judge.json beside its log: a stranger's, bound to log and weights."""
import os
from pathlib import Path
from typing import Any

from records.tools.read.log import read_json
from records.tools.read.run import Run
from records.tools.read.values import ReadError, need, number, shown

JUDGES = {"owner": "its owner", "rerun": "a rerun", "verifier": "a verifier"}
FIELDS = {"ok": bool, "judge_sha256": str, "sandbox": str, "device": str, "torch": str, "init": str,
          "cuts": int}


def verdict_path(log: Path) -> Path:
    """Return where the verdict on a run lies."""
    return log.with_suffix(".judge.json")


def verdict_on(run: Run) -> dict[str, Any] | None:
    """Return what the judge said of a run; None where no verdict lies beside its log.

    Where it holds ("ok" is true) all numbers are there. Raises ReadError, in one line, for a file
    that no judge writes, or one that is another log's.
    """
    path = verdict_path(run.path)
    if not os.path.lexists(path):
        return None
    found = read_json(path)
    try:
        bound = {"format": 1, "run_id": run.run_id, "track": run.track, "seed": run.seed,
                 "log_sha256": run.sha256}
        if found.get("ok"):
            bound["state_sha256"] = need(run.end, "state_sha256", str)
            for name in ("loss", "difference", "moved", "peek", "peek_se"):
                number(found.get(name))
            for name, kind in FIELDS.items():
                need(found, name, kind)
        for name, value in bound.items():
            if found.get(name) != value:
                raise ReadError(f"{name} {shown(str(found.get(name)))}, the log has {shown(str(value))}; "
                                f"judge it again")
        if found.get("judged_by") not in [*JUDGES] or type(found.get("ok")) is not bool:
            raise ReadError(f"expected ok true or false, and judged_by one of {', '.join(JUDGES)}")
    except ReadError as error:
        raise ReadError(f"{shown(path.name)}: {error}") from None
    return found
