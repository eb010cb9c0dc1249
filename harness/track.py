"""A track, one table of tracks.toml: which data, how many validation tokens, which target; and its shards."""
import dataclasses
import json
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from harness.runlog import ROOT, sha256
from harness.shards import Scan, ShardError, check_shard, scan_shards

TRACKS = ROOT / "harness" / "tracks.toml"


@dataclass(frozen=True, kw_only=True)
class Track:
    """One row of tracks.toml; every field is a fact of the contest, none of the submission."""

    name: str
    recipe: str  # key of the submission's RECIPES
    data: str  # folder, relative to the repository
    train_files: str  # glob
    val_files: str
    vocabulary: str  # vocab.bpe
    vocab_size: int  # ids are below it; the last is end of text
    val_tokens: int  # the first of the validation shards
    val_piece: int  # tokens of one validation batch
    val_bytes: int | None = None  # bytes of text of the validation tokens, where known
    target: float | None = None  # nats per token; none where there is no contest
    max_active_parameters: int
    reduction: str  # exact or fast
    fetch: str  # the command that gets the data
    download: str  # what that loads and takes on disk, in words
    cost: str  # how long a run takes, in words
    baselines: dict[str, float] = field(default_factory=dict)  # n-gram losses on the validation tokens
    significance: dict[str, float] = field(default_factory=dict)
    gap: dict[str, float] = field(default_factory=dict)  # holdout's loss minus val_loss, of honest runs

    @property
    def digest(self) -> str:
        """sha256 of the row without its gap, which is measured on finished runs and changes none."""
        row = {name: value for name, value in dataclasses.asdict(self).items() if name != "gap"}
        return sha256(json.dumps(row, sort_keys=True).encode())


class Data(NamedTuple):
    """The shards a run will use, checked."""

    train: list[Path]
    val: Path
    scans: dict[Path, Scan]


def load_tracks(path: Path = TRACKS) -> dict[str, Track]:
    """Return the tracks by name. Raises ValueError where a row lacks a field or has one too many."""
    tracks = {}
    for name, row in tomllib.loads(path.read_text()).items():
        if name != "harness":
            try:
                tracks[name] = Track(**row, name=name)
            except TypeError as error:
                raise ValueError(f"{path.name}: track {name}: {error}") from None
    return tracks


def find_data(track: Track, folder: Path, train_tokens: int, epochs: int, rehash: bool = False) -> Data:
    """Return the shards that train_tokens tokens, the last one's target and the validation need, all checked.

    Checked are header, size, sha256 where the folder's manifest.json pins it, ids within the vocabulary, and
    that there are enough tokens. rehash: no earlier scan is believed. Raises ShardError.
    """
    train, val = sorted(folder.glob(track.train_files)), sorted(folder.glob(track.val_files))
    if not train or not val:
        pattern = track.val_files if train else track.train_files
        raise ShardError(f"{folder}: no {pattern}; get the data with `{track.fetch}`")
    have, used = 0, []
    for path in train:
        used.append(path)
        have += check_shard(path)
        if have > train_tokens and epochs == 1:  # an epoch is all shards, however long the run
            break
    if have * epochs <= train_tokens:
        raise ShardError(f"{folder}: {len(train)} training shards hold {have} tokens, times {epochs} epochs; "
                         f"the run takes {train_tokens} and one more for the last target; get more: "
                         f"`{track.fetch}`")
    val_tokens = check_shard(val[0])
    if val_tokens <= track.val_tokens:
        raise ShardError(f"{val[0]}: {val_tokens} tokens, the track validates on {track.val_tokens} and one "
                         f"more; get the data with `{track.fetch}`")
    scans = scan_shards([*used, val[0]], rehash)
    pinned = pinned_hashes(folder)
    for path, scan in scans.items():
        if scan.max_token >= track.vocab_size:
            raise ShardError(f"{path}: token id {scan.max_token}, expected ids below {track.vocab_size}; the "
                             f"shard was made with another vocabulary")
        if path.name in pinned and pinned[path.name] != scan.sha256:
            raise ShardError(f"{path}: sha256 {scan.sha256[:16]}..., manifest.json pins "
                             f"{pinned[path.name][:16]}...; get the file again with `{track.fetch}`")
    return Data(used, val[0], scans)


def pinned_hashes(folder: Path) -> dict[str, str]:
    """Return file name -> sha256 from the folder's manifest.json; empty where there is none."""
    path = folder / "manifest.json"
    try:
        files = json.loads(path.read_text())["files"]
        return {name: entry["sha256"] for name, entry in files.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ShardError(f"{path}: no manifest of shards ({error}); fetch it again") from None
