"""What a log says of its runs, whichever program wrote it: one Trial each. Facts that it lacks are None."""
import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from records.tools.read.log import Log, is_log, read_bytes, read_log
from records.tools.read.values import shown

SUFFIXES = (".txt", ".log", ".stdout", ".out")


@dataclass(frozen=True, slots=True)
class Point:
    """A printed line of a run: loss in nats per token, charged time in ms since the start of training."""

    step: int
    loss: float | None  # may be nan or inf
    time_ms: float | None
    tokens: int | None = None  # taken before


@dataclass
class Trial:
    """One training run. Most files hold one; public ones may hold many, one after the other."""

    path: Path
    index: int  # 0-based place in its file
    format: str  # "1" for docs/log_format.md, else the layout of a public log, as records/public.py names it
    status: str | None = None  # how it ended; "incomplete" for format 1 without an end line
    steps: int | None = None  # that it was to take
    vals: list[Point] = field(default_factory=list)
    train: list[Point] = field(default_factory=list)
    val_decimals: int | None = None  # digits behind the point of its validation losses; None: full precision
    code: bytes | None = None  # the entry script
    files: dict[str, bytes] = field(default_factory=dict)  # other project files: path -> source
    track: str | None = None
    seed: int | None = None
    world_size: int | None = None
    device: str | None = None  # "8 x NVIDIA H100 80GB HBM3", "Intel(R) Xeon(R) Processor"
    versions: dict[str, str] = field(default_factory=dict)  # of python, torch, ...
    hyperparameters: dict[str, Any] = field(default_factory=dict)
    peak_memory_mib: int | None = None
    log: Log | None = None  # all that a log of format 1 says

    @property
    def last(self) -> Point | None:
        """The last validation."""
        return self.vals[-1] if self.vals else None

    @property
    def code_sha256(self) -> str | None:
        """sha256 of the entry script."""
        return None if self.code is None else hashlib.sha256(self.code).hexdigest()

    @property
    def name(self) -> str:
        """The file's name, with the trial's number where its file holds several; fit for a terminal."""
        return shown(self.path.name, 60) + (f"#{self.index}" if self.index else "")

    def facts(self) -> dict[str, Any]:
        """Return what `list --json` prints of a trial; None is a fact that the log lacks."""
        last = self.last
        return {"file": str(self.path), "trial": self.index, "format": self.format, "status": self.status,
                "track": self.track, "step": last and last.step, "steps": self.steps,
                "val_loss": last and last.loss, "train_time_ms": last and last.time_ms,
                "code_sha256": self.code_sha256, "device": self.device, "world_size": self.world_size,
                "seed": self.seed, "torch": self.versions.get("torch")}


def load_trials(path: Path) -> list[Trial]:
    """Return the trials of one file, at least one. Raises ReadError, in one line, where it is no log."""
    data = read_bytes(path)
    if is_log(data):
        return [own_trial(read_log(path, data))]
    from records.tools.read.public import read_public  # only for logs that are not ours
    return read_public(path, data)


def own_trial(log: Log) -> Trial:
    """Return the one trial of a log of format 1."""
    manifest, sys_facts = log.manifest, log.manifest.get("sys")
    facts = sys_facts if isinstance(sys_facts, dict) else {}
    gpus = facts.get("gpus")
    device = facts.get("cpu") if not isinstance(gpus, list) or not gpus else f"{len(gpus)} x {gpus[0]}"
    versions = {name: str(facts[name]) for name in ("python", "torch", "cuda") if facts.get(name)}
    hyperparameters = manifest.get("hyperparameters")
    vals = [Point(v.step, v.val_loss, v.train_time_ns / 1e6, v.tokens) for v in log.vals]
    train = [Point(s.step, s.train_loss, s.train_time_ms) for s in log.steps if s.train_loss is not None]
    end = log.end or {}
    last_step = log.steps[0].last_step if log.steps else None
    return Trial(log.path, 0, "1", end.get("status", "incomplete"), last_step, vals, train, None, log.script,
                 {path: file.source for path, file in log.files.items()}, _text(manifest.get("track")),
                 _whole(manifest.get("seed")), _whole(manifest.get("world_size")), _text(device), versions,
                 hyperparameters if isinstance(hyperparameters, dict) else {},
                 _whole(end.get("peak_memory_mib")), log)


def find_logs(paths: Iterable[Path]) -> Iterator[Path]:
    """Yield the log files among files and folders, folders searched in order of name.

    A file that is named is always yielded; below a folder those with the suffix of a log. Symbolic links
    below a folder are not followed.
    """
    for path in paths:
        if not os.path.isdir(path):  # Path.is_dir raises where a name is too long
            yield path
            continue
        for folder, folders, files in os.walk(path):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(files):
                if name.endswith(SUFFIXES) and not os.path.islink(os.path.join(folder, name)):
                    yield Path(folder) / name


def _whole(value: Any) -> int | None:
    return value if type(value) is int else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
