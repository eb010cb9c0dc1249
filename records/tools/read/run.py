"""One training run as its log tells it, whichever program wrote the log. Facts that it lacks are None."""
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from records.tools.read.log import Event, Log, sha256
from records.tools.read.values import shown


@dataclass(frozen=True, slots=True)
class Point:
    """A printed line of a run: loss in nats per token, charged time in ms since the start of training."""

    step: int
    loss: float | None  # may be nan or inf
    time_ms: float | None
    tokens: int | None = None  # taken before
    step_avg_ms: float | None = None  # as a public line prints it
    others: tuple[tuple[str, float], ...] = ()  # further losses of a public line, by name


@dataclass
class Run:
    """One training run. Most files hold one; public ones may hold many, one after the other."""

    path: Path
    index: int  # 0-based place in its file
    format: str  # "1" for docs/log_format.md, else the layout of a public log, as read/public.py names it
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
    sha256: str = ""  # of its file

    @property
    def last(self) -> Point | None:
        """The last validation."""
        return self.vals[-1] if self.vals else None

    @property
    def script_sha256(self) -> str | None:
        """sha256 of the entry script."""
        return None if self.code is None else sha256(self.code)

    @property
    def name(self) -> str:
        """The file's name, with the run's number where its file holds several; fit for a terminal."""
        return shown(self.path.name, 60) + (f"#{self.index}" if self.index else "")

    @property
    def run_id(self) -> str:
        """The run's id, the file's name where the log has none."""
        return str(self.at("run_id") or self.path.stem)

    @property
    def record(self) -> str | None:
        """The name of the record whose log it is, None where its folder is none of a record."""
        folder = self.path.resolve().parent.parent
        return folder.name if (folder / "record.json").exists() else None

    @property
    def events(self) -> list[Event]:
        """Every event of a log of format 1, in order; none of another's."""
        return self.log.events if self.log else []

    @property
    def end(self) -> dict[str, Any]:
        """The end line's fields; empty for an incomplete run."""
        return self.log and self.log.end or {}

    def at(self, *names: str) -> Any:
        """Return what the manifest has under a name inside names, None where it has nothing."""
        value: Any = self.log.manifest if self.log else None
        for name in names:
            value = value.get(name) if isinstance(value, dict) else None
        return value

    def mapping(self, name: str) -> dict[str, Any]:
        """Return an object of the manifest; an empty one where the log has none, or something else there."""
        return value if isinstance(value := self.at(name), dict) else {}

    def of_kind(self, kind: str) -> list[dict[str, Any]]:
        """Return the fields of the events of one kind."""
        return [event.fields for event in self.events if event.kind == kind]

    def by_step(self) -> dict[int, dict[str, str]]:
        """Return what two runs that are the same have in common, in order: step -> name -> value in full."""
        found: dict[int, dict[str, str]] = {}
        for point in self.train:
            found.setdefault(point.step, {})["train_loss"] = repr(point.loss)  # repr: nan is nan
        for point in self.vals:
            found.setdefault(point.step, {}).update(val_loss=repr(point.loss), tokens=repr(point.tokens))
        for val in self.log.vals if self.log else ():
            found[val.step]["weights"] = repr(val.weights)
        return dict(sorted(found.items()))

    def facts(self) -> dict[str, Any]:
        """Return what `list --json` prints of a run; None is a fact that the log lacks."""
        last = self.last
        return {"file": str(self.path), "trial": self.index, "format": self.format, "status": self.status,
                "track": self.track, "step": last and last.step, "steps": self.steps,
                "val_loss": last and last.loss, "train_time_ms": last and last.time_ms,
                "code": self.at("code", "digest"), "script_sha256": self.script_sha256, "seed": self.seed,
                "overrides": self.mapping("overrides"), "name": self.at("launch", "name"),
                "note": self.at("launch", "note"), "device": self.device, "world_size": self.world_size,
                "torch": self.versions.get("torch")}
