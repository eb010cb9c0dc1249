"""What this checkout says of its tracks: their rows, the harnesses whose runs count, the pinned shards."""
import functools
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from records.tools.read.log import read_json
from records.tools.read.run import Run
from records.tools.read.values import ReadError, shown

ROOT = Path(__file__).resolve().parents[3]
HARNESS = "harness"  # the table of tracks.toml that is no track
PUBLIC = Path(__file__).resolve().parents[2] / "public_tracks.toml"


def load_rows(root: Path | None = None) -> dict[str, dict[str, Any]]:
    """Return the row of each track, by name."""
    return {name: row for name, row in _tables(root).items() if name != HARNESS}


class Harnesses(NamedTuple):
    """The digests of harness/*.py that this checkout accepts: the current one, and those that are closed."""

    current: str
    accepted: dict[str, str]  # digest -> since when, and what was new
    closed: dict[str, list[str]]  # digest -> how the sha256 of each log that counts begins

    def standing(self, run: Run) -> str:
        """Return "current", "listed" (closed, but the log was there before), "closed" or "unknown"."""
        digest = str(run.at("code", "harness"))
        if digest not in self.accepted or digest == self.current:
            return "current" if digest in self.accepted else "unknown"
        return "listed" if run.sha256[:16] in self.closed.get(digest, ()) else "closed"


def load_harnesses(root: Path | None = None) -> Harnesses:
    """Return the harnesses of this checkout's tracks.toml."""
    table = _tables(root).get(HARNESS, {})
    return Harnesses(table.get("current", ""), table.get("accepted", {}), table.get("closed", {}))


def own_row(track: str, root: Path | None = None) -> dict[str, Any]:
    """Return this checkout's row of a track. Raises ReadError where it has none."""
    rows = load_rows(root)
    if track not in rows:
        raise ReadError(f"track {shown(track)} is not in this checkout's harness/tracks.toml; "
                        f"it has {', '.join(rows)}")
    return rows[track]


def judged_row(track: str) -> dict[str, Any]:
    """Return what a track's claims are held against: a public track's rule, else this checkout's row."""
    return public_rows().get(track) or own_row(track)


@functools.cache
def public_rows() -> dict[str, dict[str, Any]]:
    """Return the rule of each public track whose logs are no runs of this harness, by name."""
    return tomllib.loads(PUBLIC.read_text())


def public_track(code: bytes | None, seconds: bool) -> str | None:
    """Return the track of a public log by its script and its unit of time; None where it is the first one."""
    for name, row in public_rows().items():
        if "code" in row and code and re.search(row["code"].encode(), code) or seconds and "seconds" in row:
            return name
    return None


def row_of(runs: Iterable[Run]) -> dict[str, Any]:
    """Return the row of the track that all runs name, empty where it has none."""
    names = {run.track for run in runs}
    return {**load_rows(), **public_rows()}.get(str(names.pop()), {}) if len(names) == 1 else {}


def pinned_hashes(row: dict[str, Any], root: Path | None = None) -> dict[str, str]:
    """Return file name -> sha256 from the manifest.json of a track's data; empty where there is none."""
    path = (root or ROOT) / str(row.get("data")) / "manifest.json"
    if not path.is_file():
        return {}
    try:
        return {name: entry["sha256"] for name, entry in read_json(path)["files"].items()}
    except (KeyError, TypeError, AttributeError):
        raise ReadError(f"{path.name}: no manifest of shards; fetch the data again") from None


def _tables(root: Path | None) -> dict[str, dict[str, Any]]:
    return tomllib.loads(((root or ROOT) / "harness" / "tracks.toml").read_text())
