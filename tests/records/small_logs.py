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


def write_public(path: Path, losses: dict[int, float], *, code: str = "import torch", ms: float = 60.0,
                 seconds: bool = False, gpus: int = 8, driver: str = "570.1") -> Path:
    """Write a log as the public speedrun does, validated at these steps, and return its path.

    ms: a step. seconds: times are printed so, as its track 3 does.
    """
    last, rule = max(losses), "=" * 100
    table = "".join(f"|   {i}  NVIDIA H100 80GB HBM3          On  |\n" for i in range(gpus))
    vals = "".join(f"step:{step}/{last} val_loss:{loss:.5f} train_time:"
                   f"{f'{ms * step / 1e3:.3f}s' if seconds else f'{ms * step:.0f}ms'} step_avg:{ms:.2f}ms\n"
                   for step, loss in sorted(losses.items()))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{code}\n{rule}\nRunning Python 3.12.7\nRunning PyTorch 2.7.0 compiled for CUDA 12.6\n"
                    f"| Driver Version: {driver} |\n{table}{rule}\n{vals}")
    return path
