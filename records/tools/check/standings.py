"""Which records of a track stand: on each class of hardware those that are proven and beat the one before."""
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from records.tools.check.race import Race
from records.tools.check.student import t_quantile
from records.tools.read.log import read_bytes
from records.tools.read.logs import load_runs
from records.tools.read.run import Run
from records.tools.read.tracks import load_harnesses
from records.tools.read.values import ReadError, need, parse_json, shown

# of a record.json, what tables and figures use; losses and significance are objects
FIELDS = {"name": str, "track": str, "date": str, "begun": str, "code": str, "device": str, "world_size": int,
          "n": int, "steps": int, "val_loss": dict, "significance": dict}


@dataclass
class Ratio:
    """A ratio of times, as measured or multiplied up over races: its logarithm's variance and df."""

    value: float = 1.0
    variance: float = 0.0
    df: float = math.inf

    def __str__(self) -> str:
        between = self.interval()
        return f"{self.value:.3g}" + (f" ({between[0]:.3g} to {between[1]:.3g})" if between else "")

    def times(self, other: "Ratio") -> "Ratio":
        """Return the product of two ratios that were measured apart; df by Welch and Satterthwaite."""
        variance = self.variance + other.variance
        parts = self.variance**2 / self.df + other.variance**2 / other.df
        return Ratio(self.value * other.value, variance, variance**2 / parts if parts else math.inf)

    def interval(self, confidence: float = 0.95) -> tuple[float, float] | None:
        """Return what the ratio lies between with a confidence; None for one that was not measured."""
        if not self.variance > 0:
            return None
        reach = math.exp(-t_quantile(self.df, (1 - confidence) / 2) * math.sqrt(self.variance))
        return self.value / reach, self.value * reach


@dataclass
class Standing:
    """A record of a track and what it is: the first of its class, faster than those before, or an attempt."""

    folder: Path
    record: dict[str, Any]  # record.json
    before: "Standing | None" = None  # the record of its class that stood when it came
    number: int | None = None  # among the records of its class; None of an attempt
    ratio: Ratio | None = None  # of its time to equal loss to that of the first of its class
    speed: str = ""  # against the record before it, in words
    again: "Standing | None" = None  # the later record that takes its place

    @property
    def hardware(self) -> str:
        """Its class: GPU model and count, or CPU model, and the number of ranks."""
        return hardware_of(self.record["device"], self.record["world_size"])


def hardware_of(device: str | None, world_size: int | None) -> str:
    """Return a class of hardware in words."""
    return f"{device}, {world_size} rank{'s' * (world_size != 1)}"


def standings(folder: Path, words: dict[str, str] | None = None) -> list[Standing]:
    """Return the records in a track's folder, those of each class in the order in which they were made.

    One of a closed harness that was made again, with its name and code, stands no more. words: name
    of a folder -> what verify says, where that is less than its record.json says. Raises ReadError for a
    record.json of which a field has another type.
    """
    found = sorted((Standing(path.parent, read_record(path)) for path in folder.glob("*/record.json")),
                   key=lambda standing: (standing.record["begun"], standing.folder.name))
    for standing in found:
        significance = standing.record["significance"]
        significance["word"] = (words or {}).get(standing.folder.name, significance["word"])
    last: dict[str, Standing] = {}
    for i, standing in enumerate(found):
        standing.again = next((later for later in found[i + 1:] if takes_place(later, standing)), None)
        if standing.again:
            standing.speed = f"made again on {standing.again.record['date']}"
            continue
        before = standing.before = last.get(standing.hardware)
        proven = standing.record["significance"]["word"] == "PROVEN"
        faster, standing.speed = True, "the first"
        if before:
            faster, standing.speed, standing.ratio = compare(standing, before)
        elif proven:
            standing.ratio = Ratio()
        else:
            standing.speed = "no record before it"
        if proven and faster:
            standing.number = (before.number if before else 0) + 1
            last[standing.hardware] = standing
    return found


def takes_place(later: Standing, standing: Standing) -> bool:
    """Tell whether a record is another one made again: its name and code, on an open harness, no less proven.

    Any CPU will do for another: only a race tells how fast it is. GPUs stay what they are.
    """
    if later.record["name"] != standing.record["name"] or later.record["significance"]["word"] not in (
            "PROVEN", standing.record["significance"]["word"]):
        return False
    new, old = ([load_runs(log)[0] for log in sorted((each.folder / "logs").glob("*.txt"))]
                for each in (later, standing))
    if later.hardware != standing.hardware and any(run.at("sys", "gpus") != [] for run in new + old):
        return False
    harnesses = load_harnesses()
    closed = [{harnesses.standing(run) in ("closed", "listed") for run in runs} for runs in (new, old)]
    return closed == [{False}, {True}] and same_submission(new[0], standing.folder)


def read_record(path: Path) -> dict[str, Any]:
    """Return what a record.json says; a field of another type than ours raises ReadError."""
    try:
        record = parse_json(read_bytes(path).decode())
        for name, kind in FIELDS.items():
            need(record, name, kind)
        need(record["significance"], "word", str)
        need(record["val_loss"], "mean", float)
        need({"sd": 0.0} | {k: v for k, v in record["val_loss"].items() if v is not None}, "sd", float)
    except (ReadError, UnicodeDecodeError) as error:
        raise ReadError(f"{shown(path.parent.name)}/{shown(path.name)}: {error}") from None
    return record


def same_submission(run: Run, folder: Path) -> bool:
    """Tell whether a run had the script and the files of a record, on whichever harness."""
    old = [load_runs(log)[0] for log in sorted((folder / "logs").glob("*.txt"))[:1]]
    return bool(old) and all(run.at("code", what) == old[0].at("code", what) for what in ("script", "others"))


def compare(standing: Standing, before: Standing) -> tuple[bool, str, Ratio | None]:
    """Return whether a record's own race shows it faster than the one before it, in words, and its ratio."""
    name, race = before.record["name"], Race(standing.folder / "race")
    if not race.folder.is_dir():
        return False, f"not raced against {name}", None
    try:
        found = race.judge(race.side_of(standing.record["code"]))
        rival, places = race.plan[found["against"]].get("code"), {
            hardware_of(run.device, run.world_size) for run in race.runs if run}
        theirs = next((run for run in race.runs if run and run.at("code", "digest") == rival), None)
        same = rival == before.record["code"] or theirs and same_submission(theirs, before.folder)
    except ReadError as error:
        return False, f"its race cannot be read: {error}", None
    if not same:
        return False, f"raced against code {str(rival)[:8]}, not against {name}", None
    if any(load_harnesses().standing(run) == "closed" for run in race.runs if run):
        return False, f"raced against {name} on a closed harness", None
    if places != {standing.hardware}:
        return False, f"raced against {name} on other hardware", None
    verdict, total = found["verdict"], None
    words = f"{verdict} than {name}: {found['difference_percent']:+.1f} %" \
        if verdict in ("faster", "slower") else f"{verdict} against {name}"
    if before.ratio and math.isfinite(found.get("ratio", math.nan)):
        total = before.ratio.times(Ratio(found["ratio"], found["ratio_log_error"]**2, found["pairs"] - 1))
    return verdict == "faster", words, total
