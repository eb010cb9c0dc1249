"""Results: the runs of a sweep as their logs tell them, and which of them may be compared."""
import dataclasses
import json
import math
import statistics
import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from harness.track import ROOT
from lab.recipe import costs
from lab.recipe.schema import Duration, Recipe
from records.tools.read.log import Log, Val, read_log
from records.tools.read.values import ReadError, need, number, parse_json

STATUSES = ("ok", "diverged", "oom", "failed")
WINDOW = 32  # steps before a spike that tell what a usual loss is
SPIKE_SDS, SPIKE_NATS = 6.0, 0.2


class Data(NamedTuple):
    """What a run saw: sha256 of the shards, and how many tokens validate."""

    train: tuple[str, ...]
    val: str
    val_tokens: int


@dataclass(frozen=True)
class Run:
    """One run. Losses in nats a token; val_loss is inf where it diverged, None where it has no result."""

    index: int
    point: dict[str, Any]  # without the seed
    seed: int
    status: str
    val_loss: float | None
    tokens: int
    flops: float
    parameters: int
    message: str | None = None
    log: Path | None = None
    recipe: dict[str, Any] | None = None  # for make_recipe; this and all below: None or empty without a log
    data: Data | None = None
    val: list[Val] = field(default_factory=list)
    train: list[tuple[int, float]] = field(default_factory=list)  # step, loss
    scalars: dict[str, list[tuple[int, float]]] = field(default_factory=dict)  # name -> step, value

    @property
    def name(self) -> str:
        """The run's number and log, for messages."""
        return f"run {self.index}" + (f" ({self.log.name})" if self.log else "")

    @property
    def spikes(self) -> int:
        """Number of spikes in the training loss."""
        return spikes([loss for _, loss in self.train])

    def largest(self, scalar: str) -> float | None:
        """Return the largest value logged under a name (grad_norm is that before clipping, lr that before the
        roles' own factors): inf for nan, None where none is logged."""
        values = [value for _, value in self.scalars.get(scalar, [])]
        return max((math.inf if math.isnan(value) else value for value in values), default=None)


class Results(NamedTuple):
    """A sweep: its folder, sweep.json as it stands, its runs in order of their index."""

    folder: Path
    space: dict[str, Any]
    runs: list[Run]


@dataclass(frozen=True)
class Group:
    """Runs of one point. mean is inf where one diverged, None where none has a loss; sd needs two finite."""

    point: dict[str, Any]
    runs: list[Run]
    n: int  # with a loss, the diverged ones too
    diverged: int
    mean: float | None
    sd: float | None

    @property
    def flops(self) -> float:
        """Training FLOPs of the run that took most."""
        return max(run.flops for run in self.runs)


def load_results(folder: Path) -> Results:
    """Return the runs of a sweep's folder; results.jsonl is the index, the numbers come from the logs.

    Raises ValueError, in one line, for a file that is missing or damaged, a log that says otherwise than the
    index, and a run that stands there twice. A last line without its end does not count; stderr says so.
    """
    runs: dict[str, Run] = {}
    try:
        space = need({"": parse_json(_text(folder / "sweep.json"))}, "", dict)
    except ReadError as error:
        raise ValueError(f"{folder}/sweep.json: not a sweep's: {error}") from None
    lines = _text(folder / "results.jsonl").split("\n")
    if lines.pop():
        print(f"lab: {folder}/results.jsonl: its last line has no end and does not count", file=sys.stderr)
    for line_number, line in enumerate(lines, 1):
        try:
            run = _run(parse_json(line))
            if runs.setdefault(label([run.point, run.seed]), run) is not run:
                raise ValueError(f"run {run.index} stands there twice")
        except ValueError as error:
            raise ValueError(f"{folder}/results.jsonl, line {line_number}: {error}") from None
    return Results(folder, space, sorted(runs.values(), key=lambda run: run.index))


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not text"
        raise ValueError(f"{path}: {reason}; expected a folder that `python -m lab sweep` made") from None


def _run(row: dict[str, Any]) -> Run:
    """Return the run of an index line, read from its log where it has one."""
    status = need(row, "status", str)
    if status not in STATUSES:
        raise ValueError(f"status {status!r}, expected one of {', '.join(STATUSES)}")
    run = Run(need(row, "index", int), {k: v for k, v in need(row, "point", dict).items() if k != "seed"},
              need(row, "seed", int), status, math.inf if status == "diverged" else None,
              need(row, "tokens", int), number(row.get("flops")), need(row, "parameters", int),
              row.get("message"))
    if row.get("log") is None and status != "ok":
        return run
    log = read_log(ROOT / need(row, "log", str))
    try:
        return _from_log(run, log)
    except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
        reason = error if isinstance(error, ValueError) else f"no log of this lab's runs ({error})"
        raise ValueError(f"{log.path.name}: {reason}") from None


def _from_log(run: Run, log: Log) -> Run:
    if not log.manifest:
        if run.status == "ok":
            raise ValueError("cut off above its manifest, but its run is ok")
        return dataclasses.replace(run, log=log.path)
    manifest, data, ended = log.manifest, log.manifest["data"], (log.end or {}).get("status", "incomplete")
    if (run.status == "ok") != (ended == "ok"):
        raise ValueError(f"its run {ended}, the index says {run.status}")
    if manifest["seed"] != run.seed:
        raise ValueError(f"seed {manifest['seed']}, the index says {run.seed}")
    recipe = manifest["hyperparameters"]["recipe"]
    scalars: dict[str, list[tuple[int, float]]] = {}
    for event in log.events:
        if event.kind == "scalar":
            for name in event.fields.keys() - {"step", "seq"}:
                scalars.setdefault(name, []).append((event.fields["step"], number(event.fields[name])))
    run = dataclasses.replace(
        run, log=log.path, recipe=recipe, val=log.vals, scalars=scalars,
        train=[(line.step, line.train_loss) for line in log.steps if line.train_loss is not None],
        data=Data(tuple(shard["sha256"] for shard in data["train"]), data["val"]["sha256"],
                  log.track["val_tokens"]), parameters=manifest["parameters"]["total"])
    if log.vals:  # a run that diverged took fewer than were planned
        last = log.vals[-1]
        run = dataclasses.replace(run, tokens=last.tokens, flops=_flops(recipe, tokens=last.tokens),
                                  val_loss=last.val_loss if run.status == "ok" else run.val_loss)
    return run


def _flops(values: dict[str, Any], **duration: int) -> float:
    """Return the training FLOPs of the first steps or tokens of a recipe."""
    recipe = _rebuilt(Recipe(), values)
    return costs.total_flops(dataclasses.replace(recipe, duration=Duration(**duration)))


def _rebuilt(default: Any, values: dict[str, Any]) -> Any:
    """Return a logged recipe, which was checked before its run; make_recipe takes too long for many logs."""
    inner = {name: getattr(default, name) for name in values}
    return dataclasses.replace(default, **{
        name: _rebuilt(inner[name], value) if dataclasses.is_dataclass(inner[name]) else value
        for name, value in values.items()})


def group(runs: Sequence[Run], keys: Sequence[str] | None = None) -> list[Group]:
    """Return the runs of each point, in order of appearance; keys: the axes that count, default all but seed.

    A diverged run counts as a loss of inf, so its group's mean is inf; one without a result counts in no
    number but stands in the group's runs. The sd has n - 1 in its denominator.
    """
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(label({k: run.point[k] for k in keys or run.point}), []).append(run)
    found = []
    for members in groups.values():
        losses, point = [run.val_loss for run in members if run.val_loss is not None], members[0].point
        found.append(Group({k: point[k] for k in keys or point}, members, len(losses),
                           sum(run.status == "diverged" for run in members), *mean_and_sd(losses)))
    return found


def mean_and_sd(losses: Sequence[float]) -> tuple[float | None, float | None]:
    """Return mean, None of nothing, and sd (n - 1), None of fewer than two and where one is infinite."""
    mean = statistics.fmean(losses) if losses else None
    return mean, statistics.stdev(losses) if len(losses) > 1 and math.isfinite(mean) else None


def comparable(runs: Sequence[Run]) -> str:
    """Return what the losses of runs are compared at. Raises ValueError where they do not compare.

    Always equal data; and equal tokens or, where every recipe's duration is a budget of FLOPs, equal FLOPs: a
    run takes the whole steps that fit, so none may lie a step of its own or more below the largest. The loss
    of a diverged run is inf after any number of tokens, so only its data must be equal.
    """
    known = [run for run in runs if run.data]
    for run in known[1:]:
        for name, a, b in zip(Data._fields, known[0].data, run.data):
            if a != b:
                raise ValueError(f"{known[0].name} and {run.name} differ in their data, {name} "
                                 f"{label(a)[:80]} and {label(b)[:80]}: their losses do not compare")
    ended = [run for run in runs if run.status == "ok"]
    if not ended:
        return "at nothing: no run ended ok"
    if any(run.recipe["duration"]["flops"] is None for run in ended):
        if odd := [run for run in ended if run.tokens != ended[0].tokens]:
            raise ValueError(f"{ended[0].name} took {ended[0].tokens} tokens, {odd[0].name} {odd[0].tokens}: "
                             "their losses do not compare; give the space one duration.tokens that all "
                             "steps divide")
        return f"at {ended[0].tokens} tokens"
    most = max(ended, key=lambda run: run.flops)
    for run in ended:
        step = _flops(run.recipe, steps=run.val[-1].step + 1) - run.flops
        if most.flops - run.flops >= step:
            raise ValueError(f"{most.name} took {most.flops:.4g} FLOPs, {run.name} {run.flops:.4g}, a step "
                             f"of {step:.3g} or more apart: their losses do not compare")
    tokens = sorted(run.tokens for run in ended)
    return f"at {most.flops:.4g} training FLOPs, within one step; tokens {tokens[0]} to {tokens[-1]}"


def label(value: Any) -> str:
    """Return a value of a point in words; equal for equal values, a list and a tuple alike."""
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def perplexity(loss: float) -> float:
    """Return exp of a loss in nats a token; inf where that is beyond floats."""
    return math.exp(loss) if loss < 709 else math.inf


def spikes(train_losses: Sequence[float]) -> int:
    """Return the number of loss spikes in the training losses of a run's steps.

    A spike is a rise above the median of the last WINDOW losses outside of spikes by more than SPIKE_SDS
    robust sds (1.4826 median absolute deviations) and by more than SPIKE_NATS, or a loss that is no number;
    steps in a row are one spike. The sds keep a small batch's noise out, the nats a smooth curve's bumps.
    """
    usual: deque[float] = deque(maxlen=WINDOW)
    count, above = 0, False
    for loss in train_losses:
        high = not math.isfinite(loss)
        if not high and len(usual) >= WINDOW // 2:
            median = statistics.median(usual)
            sd = 1.4826 * statistics.median(abs(x - median) for x in usual)
            high = loss - median > max(SPIKE_SDS * sd, SPIKE_NATS)
        count += high and not above
        above = high
        if not high:
            usual.append(loss)
    return count
