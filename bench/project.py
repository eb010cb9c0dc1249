"""Whole runs for benchmarks, in a copy of the project: logs land there, and no edit reaches a measurement."""
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from bench.rounds import ROOT

TINY = ["--n_layer=1", "--n_embd=32", "--seq_len=64", "--batch_tokens=1024", "--num_iterations=4",
        "--val_every=2"]


class Launch(NamedTuple):
    """A finished run: its validations, its end, when which line came on stdout (seconds from the start)."""

    vals: list[dict[str, Any]]
    end: dict[str, Any]
    lines: list[tuple[float, str]]

    def curve(self) -> list[tuple[float, float, int]]:
        """Return (training seconds, validation loss, step) of every validation."""
        return [(val["train_time_ns"] / 1e9, val["val_loss"], val["step"]) for val in self.vals]


class Project:
    """A copy of the code and the sample's shards in a temporary folder; use it in a with statement."""

    def __enter__(self) -> "Project":
        self.folder = Path(tempfile.mkdtemp(prefix="bench_project_"))
        hidden = shutil.ignore_patterns("__pycache__", "results")
        for name in ("harness", "bench", "submissions", "data/sample", "data/gpt2"):
            shutil.copytree(ROOT / name, self.folder / name, ignore=hidden)
        for name in ("train_gpt2.py", "run.sh", "requirements.txt"):
            shutil.copy(ROOT / name, self.folder / name)
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def run(self, *flags: str) -> Launch:
        """Run ./run.sh with flags on the sample track; return the run. Raises RuntimeError where it fails."""
        runs = self.folder / "records" / "runs"
        before = set(runs.glob("*.txt"))
        command = ["bash", str(self.folder / "run.sh"), "--python", sys.executable, "--track=sample", *flags]
        print(f"+ run.sh {' '.join(command[4:])}", file=sys.stderr, flush=True)
        begin, lines = time.monotonic(), []
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "MALLOC_"))}
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              cwd=self.folder, stdin=subprocess.DEVNULL, env=environment) as process:
            for line in process.stdout:
                lines.append((time.monotonic() - begin, line.rstrip("\n")))
        if process.returncode:
            raise RuntimeError(f"{' '.join(command)}: exit code {process.returncode}\n" +
                               "\n".join(line for _, line in lines[-20:]))
        [log] = set(runs.glob("*.txt")) - before
        lines_of_log = log.read_text().split("\n")
        events = [line.split(" ", 1) for line in lines_of_log if line.startswith(("#:val ", "#:end "))]
        vals = [json.loads(text) for kind, text in events if kind == "#:val"]
        [end] = [json.loads(text) for kind, text in events if kind == "#:end"]
        return Launch(vals, end, lines)


def crossing(curve: list[tuple[float, float, int]], loss: float) -> tuple[float, float] | None:
    """Return training seconds and steps at which a curve first meets a loss, linear between validations."""
    for (t0, high, s0), (t1, low, s1) in zip(curve, curve[1:]):
        if low <= loss:
            part = (high - loss) / (high - low) if high > low else 0.0
            return t0 + part * (t1 - t0), s0 + part * (s1 - s0)
    return None
