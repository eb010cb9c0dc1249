"""What a claim rests on: the runs of its logs, this checkout's track row and data, the attempts counted."""
import math
import re
import statistics
import sys
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from records.tools.check.race import ENDED_BY_USER, RACE, Race
from records.tools.check.significance import Verdict, decide, rule
from records.tools.read.log import is_log, read_bytes, read_log, sha256
from records.tools.read.logs import find_logs, load_runs
from records.tools.read.run import Run
from records.tools.read import tracks
from records.tools.read.same import choose, kind, whole, without_copies
from records.tools.read.scan import COMPILER, Finding, scan
from records.tools.read.tracks import Harnesses, judged_row, load_harnesses, pinned_hashes
from records.tools.read.values import NoLog, ReadError, canonical, need, parse_json, shown

FALLBACK = "fineweb"  # the track of public logs, which name none
LEDGER = "ledger.jsonl"
FEWEST = 4  # runs, the first declared look; fewer claim nothing
# ends of a run that are no result: with the same seed it may be made again, and nothing was chosen
ENDED_BY_OTHERS = (*ENDED_BY_USER, "rank_lost", "disk_full")


@dataclass
class Claim:
    """A claim and what it is held against."""

    runs: list[Run]
    track: str
    row: dict[str, Any]  # of the track, from this checkout
    pinned: dict[str, str]  # shard -> sha256, from this checkout's data folder; empty where there is none
    harnesses: Harnesses  # that this checkout accepts
    ledgers: list[Path] = field(default_factory=list)
    damage: dict[Path, ReadError] = field(default_factory=dict)  # of logs that are broken or were changed
    record: Path | None = None  # the folder of a published record
    races: list[Race] = field(default_factory=list)  # whose runs these may be
    campaigns: list[Path] = field(default_factory=list)  # files of `./run.sh --seeds` that name these logs
    notes: list[str] = field(default_factory=list)  # of public logs: what was left out, which loss is judged
    unfinished: list[str] = field(default_factory=list)  # public runs that are no result, in words
    faster: list[str] = field(default_factory=list)  # public scripts that are, and miss the target, in words

    @property
    def own(self) -> list[Run]:
        """The runs whose logs have our format."""
        return [run for run in self.runs if run.log]

    @property
    def race(self) -> Race | None:
        """The race of a published record, if it has one."""
        return self.races[0] if self.record and self.races else None

    @cached_property
    def sources(self) -> list[tuple[str, bytes]]:
        """The submission's files in the logs, each content of a path once."""
        found: dict[tuple[str, bytes], None] = {}
        for run in self.runs:
            path = run.log.script_path if run.log else "script"
            found |= {(path, run.code): None} if run.code else {}
            found |= {pair: None for pair in run.files.items() if not pair[0].startswith("harness/")}
        return list(found)

    @cached_property
    def findings(self) -> list[Finding]:
        """What a reader has to look at in these files, settings of the compiler first."""
        paths = [path for path, _ in self.sources]
        found = [each for path, source in self.sources for each in scan(source, path, paths)]
        return sorted(found, key=lambda each: each.what != COMPILER)

    def standing(self, word: str) -> list[Run]:
        """Return the runs of ours whose harness is current, listed, closed or unknown, as Harnesses says."""
        return [run for run in self.own if self.harnesses.standing(run) == word]

    def losses(self) -> list[float]:
        """Return the last loss of each seed; the runs of one seed are one observation, their mean."""
        by_seed: dict[Any, list[float]] = {}
        for i, run in enumerate(self.runs):
            last = run.last
            loss = float("nan") if last is None or last.loss is None else last.loss
            by_seed.setdefault(("run", i) if run.seed is None else run.seed, []).append(loss)
        return [v[0] if len(v) == 1 else statistics.mean(v) for v in by_seed.values()]

    def decide(self) -> Verdict:
        """Apply the declared rule, at the track's level, to the losses of the seeds."""
        if not self.row.get("target"):
            return Verdict("NOT SHOWN", "no target: the track is no contest", None)
        return decide(self.losses(), self.row["target"], **rule(self.row))


def load_claim(paths: Iterable[Path], track: str | None = None, ledger: Path | None = None,
               loss: str | None = None, step: int | None = None) -> Claim:
    """Return the claim that logs make, files or folders of them; a folder with a record.json is a record.

    track: for logs that name none. loss, step: at which public runs are judged.

    Raises ReadError where logs cannot be read, are of several tracks, or of one that this checkout does not
    have.
    """
    paths = list(paths)
    record = paths[0] if len(paths) == 1 and (paths[0] / "record.json").is_file() else None
    runs, damage, folders = [], {}, set()
    named = [record / "logs"] if record else paths
    for path in find_logs(named):
        folders.add(path.parent)
        data = read_bytes(path)
        try:
            runs += load_runs(path, data)
        except ReadError as error:
            if is_log(data):
                damage[path] = error  # ours, and not as the harness wrote it
            elif path in named:
                raise
            elif not isinstance(error, NoLog):
                print(f"passed over: {error}", file=sys.stderr)
    if ledger:
        read_bytes(ledger)  # one that was named must be there
    if not runs and not damage:
        raise ReadError(f"{shown(', '.join(map(str, paths)))}: no logs there")
    told = {run.track for run in runs if run.log or not track}  # a public log's own is a guess
    if len(names := told - {None}) > 1:
        raise ReadError(f"tracks {shown(', '.join(sorted(names)))}: a claim is of one; name its logs only")
    if names and track and track not in names:
        raise ReadError(f"the logs are of track {shown(names.pop())}, not of {shown(track)}")
    track = next(iter(names), track or FALLBACK)
    ledgers = [ledger] if ledger else sorted(f / LEDGER for f in folders if (f / LEDGER).is_file())
    row = judged_row(track)
    of_public: tuple[list[str], ...] = ([], [], [])
    if runs and not damage and not any(run.log for run in runs):
        runs, *of_public = of_one_script(runs, row.get("target", 0.0), loss, step)
    elif loss or step is not None:
        raise ReadError("--loss and --step are for public logs; ours are judged by their last val_loss")
    races = [Race(f) for f in sorted(folders) if not record and (f / RACE).is_file()]
    races += [Race(record / "race")] if record and (record / "race").is_dir() else []
    names = [run.path.name.encode() for run in runs]
    campaigns = [file for f in sorted(folders) for file in sorted(f.glob("seeds_*.json"))
                 if any(map(read_bytes(file).__contains__, names))]
    return Claim(runs, track, row, pinned_hashes(row), load_harnesses(), ledgers, damage, record, races,
                 campaigns, *of_public)


def of_one_script(runs: list[Run], target: float, loss: str | None,
                  step: int | None) -> tuple[list[Run], list[str], list[str], list[str]]:
    """Return the public runs that make one claim, what was left out, which of theirs are unfinished, and
    which scripts are faster, in FEWEST runs, and miss the target: one of these may be what is claimed.

    Of several scripts it is the fastest that reaches the target, in FEWEST runs if there are as many: what
    stands beside it are baselines. Logs without code are those of the one script that ends where they do.
    """
    runs, notes = choose(runs, loss, step)
    runs, copies = without_copies(runs)
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault("" if run.code is None else kind(run)["code"], []).append(run)
    bare, coded = groups.get("", []), [group for code, group in groups.items() if code]
    if len(coded) == 1:
        ends = {(run.last.step, run.steps) for run in coded[0] if run.last}
        coded[0] += [run for run in bare if run.last and (run.last.step, run.steps) in ends]
        bare = [run for run in bare if run not in coded[0]]
    ranked = []
    for group in coded or [bare]:
        ended, unfinished = whole(group, step)
        mean = statistics.mean(run.last.loss for run in ended) if ended else math.inf
        time_ms = statistics.mean(run.last.time_ms or math.inf for run in ended) if ended else math.inf
        ranked.append((len(ended) < FEWEST, not mean <= target, time_ms, -len(ended), len(ranked),
                       mean, ended, unfinished))
    (_, missed, time_ms, *_, runs, unfinished), *others = sorted(ranked)
    left, faster = [], []
    for few, misses, its_ms, *_, mean, ended, _ in others:
        above = ", faster, above the target" if misses and not few and its_ms < time_ms else ""
        words = [f"{len(ended)} like {place(ended[0])} (mean {mean:.5f}{above})"] if ended else []
        left += words
        faster += words if above else []
    if left:
        notes.append(f"judged: {len(runs)} like {place(runs[0])}, the fastest script"
                     f"{' that reaches the target' if not missed else ''}; left out: {', '.join(left)}")
    return runs, notes + copies, unfinished, faster


def place(run: Run) -> str:
    """Return a run's name below that of its folder; the logs of two scripts may be named the same."""
    return f"{shown(run.path.resolve().parent.name, 60)}/{run.name}"


def attempts(ledger: Path, code: str, track: str) -> list[dict[str, Any]]:
    """Return the runs that were begun with a code digest on a track, each with its status, in their order.

    Those whose log lies beside the ledger and tells of overrides were other experiments, and are left out.
    """
    starts: dict[str, dict[str, Any]] = {}
    ends: dict[str, str] = {}
    for i, line in enumerate(read_bytes(ledger).split(b"\n"), start=1):
        if not line:
            continue
        try:
            entry = parse_json(line.decode())
        except (ReadError, UnicodeDecodeError) as error:
            raise ReadError(f"{shown(ledger.name)}: line {i}: {error}") from None
        run_id = str(entry.get("run_id"))
        if entry.get("what") == "end":
            ends[run_id] = str(entry.get("status"))
        elif (entry.get("code"), entry.get("track")) == (code, track):
            starts[run_id] = entry
    return [{**start, "status": ends.get(run_id, "incomplete")} for run_id, start in starts.items()
            if not overridden(ledger.parent, run_id)]


def overridden(folder: Path, run_id: str) -> bool:
    """Tell whether the log of a run lies in a folder and says that flags changed hyperparameters."""
    path = folder / f"{run_id}.txt"
    if not re.fullmatch(r"\w{1,100}", run_id, re.ASCII) or not path.is_file():
        return False
    try:
        return bool(read_log(path).manifest.get("overrides"))
    except ReadError:
        return False  # cut off, changed: it counts


def taken_reviews() -> dict[str, set[str]]:
    """Return check -> the sha256 of logs whose REVIEW by it this checkout's records/accepted.toml takes.

    Raises ReadError for an entry without check, logs and a reason.
    """
    found: dict[str, set[str]] = {}
    path = tracks.ROOT / "records" / "accepted.toml"
    try:
        for entry in tomllib.loads(path.read_text()).get("review", []) if path.is_file() else []:
            need(entry, "reason", str)
            found.setdefault(need(entry, "check", str), set()).update(map(str, need(entry, "logs", list)))
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise ReadError(f"records/{path.name}: {error}") from None
    return found


def harness_digest(files: dict[str, bytes]) -> str:
    """Return the digest that a log gives of harness/*.py, out of files: path -> source."""
    return sha256(canonical({path.removeprefix("harness/"): sha256(source) for path, source in files.items()
                             if re.fullmatch(r"harness/[^/]+\.py", path)}))


def code_digest(script: bytes, harness: str, others: dict[str, bytes]) -> str:
    """Return the digest that a log gives of all the code of its run, harness being that of harness/*.py."""
    return sha256(canonical({"script": sha256(script), "harness": harness,
                             "others": {path: sha256(source) for path, source in others.items()}}))
