"""Small logs of format 1, written by harness/runlog.py or by hand, whose numbers nobody checks."""
import json
import math
from pathlib import Path

from harness.runlog import RULE, RunLog, sha256

FIXTURES = Path(__file__).parent / "fixtures"  # public logs, made up, one a layout
SCRIPT = b"import harness\nprint('|')\n"
FILES = {"harness/tracks.toml": b"[tiny]\ntarget = 5.0\n", "lab/a.py": b"x = 1\n", "lab/empty.py": b"",
         "lab/open.py": b"y = 2"}


def manifest(script: bytes = SCRIPT) -> dict:
    """Return a manifest that says as much as a reader insists on."""
    return {"format": 1, "run_id": "r", "script": "train_gpt2.py", "track": "tiny", "seed": 3,
            "reduction": "exact", "track_row": {"target": 5.0, "baselines": {"unigram": 5.5}},
            "hyperparameters": {"lr": 0.1}, "overrides": {},
            "code": {"script": sha256(script), "digest": "d" * 64}}


HEAD = SCRIPT + RULE.encode() + b"\n#:manifest " + json.dumps(manifest()).encode() + b"\n"
BODY = HEAD + RULE.encode() + b"\n"


def sealed(data: bytes) -> bytes:
    """Return a log's lines with a fitting end line."""
    return data + b'#:end {"seq":9,"sha256":"%s","status":"ok"}\n' % sha256(data).encode()


def write_log(folder: Path, name: str = "r", losses: tuple = (5.5, 5.0), end: str | None = "ok") -> Path:
    """Write a small log with a validation every second step, and return its path."""
    log = RunLog(folder, name)
    log.sources(SCRIPT, manifest(), FILES, ["Running Python 3.11.7", " "])
    for i, loss in enumerate(losses):
        times = f"train_time:{20 * i}ms step_avg:{10 if i else math.nan:.2f}ms"
        if i:
            log.line(f"step:{2 * i}/4 train_loss:{loss:.4f} {times}")
            log.event("scalar", step=2 * i, grad_norm=math.inf)
        log.line(f"step:{2 * i}/4 val_loss:{loss:.4f} {times}")
        log.event("val", step=2 * i, val_loss=loss, tokens=512 * i, train_time_ns=20_000_000 * i,
                  weights="0" * 16)
    log.text("two\nlines")
    if end:
        log.end(end, val_loss=losses[-1])
    return log.path
