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


def write_log(folder: Path, name: str = "r", losses: tuple = (5.5, 5.0), end: str | None = "ok", *,
              last: int = 4, ms: float = 10.0, later_ms: float = 0.0, ended: dict | None = None,
              **changes: object) -> Path:
    """Write a small log with a validation every second step, and return its path.

    last: step that it was to take. later_ms: added to every time. changes: of its manifest.
    """
    log = RunLog(folder, name)
    log.sources(SCRIPT, {**manifest(), **changes}, FILES, ["Running Python 3.11.7", " "])
    for step, loss in zip(range(0, 2 * len(losses), 2), losses):
        time = ms * step + later_ms
        times = f"train_time:{time:.0f}ms step_avg:{time / step if step else math.nan:.2f}ms"
        if step:
            log.line(f"step:{step}/{last} train_loss:{loss:.4f} {times}")
            log.event("scalar", step=step, grad_norm=math.inf, lr=1 / step)
        log.line(f"step:{step}/{last} val_loss:{loss:.4f} {times}")
        log.event("val", step=step, val_loss=loss, tokens=256 * step, train_time_ns=int(time * 1e6),
                  weights="0" * 16)
    log.text("two\nlines")
    if end:
        log.end(end, **{"val_loss": losses[-1] if losses else None, **(ended or {})})
    return log.path


def unsealed(log: Path, old: str, new: str) -> Path:
    """Replace text in a log and cut its end line off; return its path."""
    above = log.read_bytes().rpartition(b"#:end")[0]
    log.write_bytes(above.replace(old.encode(), new.encode()))
    return log
