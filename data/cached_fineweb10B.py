"""Fetch the public FineWeb shards: the validation shard and the first N train shards of kjj0/fineweb10B-gpt2.

Every file is checked (header, size, sha256 as the hub reports it) before it gets its name, and pinned in
manifest.json. Run it again at any time: only what is missing or damaged is fetched, and without a word to the
network when all is there.
"""
import argparse
import fcntl
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

if __name__ == "__main__":  # run as a file, python puts data/ on the path, not the repository
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from data import hub
from harness.shards import Scan, ShardError, check_shard, scan_shard, scan_shards, write_atomically

MANIFEST = "manifest.json"
RECIPE_STEPS, RECIPE_BATCH_TOKENS, SHARD_TOKENS = 4578, 524288, 100_000_000
# One token more than the steps take: the last target.
RECIPE_SHARDS = -(-(RECIPE_STEPS * RECIPE_BATCH_TOKENS + 1) // SHARD_TOKENS)


class DataSet(NamedTuple):
    """A data set of ready shards on the hub."""

    repo: str
    folder: str
    train_shards: int
    default_shards: int


FINEWEB10B = DataSet("kjj0/fineweb10B-gpt2", "fineweb10B", 103, RECIPE_SHARDS)


class Survey(NamedTuple):
    """What is on disk: sha256 by name, or what is wrong by name, None where there is no file."""

    sound: dict[str, str]  # agrees with its pin
    unpinned: dict[str, str]  # whole, but nothing to compare with
    faulty: dict[str, str | None]


def main(data_set: DataSet = FINEWEB10B, argv: list[str] | None = None) -> int:
    """Return the exit code: 0 all there, 1 `--check` found faults, 2 could not fetch, 130 Ctrl-C."""
    args = parse(data_set, argv)
    name = f"cached_{data_set.folder}"
    names = ["fineweb_val_000000.bin"] + [f"fineweb_train_{i:06d}.bin" for i in range(1, args.shards + 1)]
    if args.shards < RECIPE_SHARDS:
        print(f"{name}: {args.shards} train shards are enough to try things; the full recipe ({RECIPE_STEPS} "
              f"steps of {RECIPE_BATCH_TOKENS} tokens) needs {RECIPE_SHARDS}", file=sys.stderr)
    try:
        if args.check:
            return check(args.dir, data_set, names)
        pins = read_pins(args.dir, data_set.repo)
        if len(look(args.dir, names, pins["files"], scan_shards).sound) < len(names):
            with locked(args.dir):
                bring(args.dir, data_set, names, args.threads)
    except KeyboardInterrupt:
        print(f"{name}: stopped; what has come is kept, the same command goes on from there", file=sys.stderr)
        return 130
    except (hub.HubError, ShardError, OSError) as error:
        print(f"{name}: {hub.first_line(error, args.dir)}", file=sys.stderr)
        return 2
    print(f"{args.dir}: {args.shards} train shards and 1 validation shard, sha256 verified")
    return 0


def parse(data_set: DataSet, argv: list[str] | None) -> argparse.Namespace:
    """Return the arguments, checked."""
    script = f"python data/cached_{data_set.folder}.py"
    parser = argparse.ArgumentParser(
        description=f"Fetch the validation shard and the first N train shards of {data_set.repo}.",
        epilog=f"example: {script} {RECIPE_SHARDS}")
    parser.add_argument("shards", nargs="?", type=int, default=data_set.default_shards, metavar="N",
                        help=f"train shards, of {data_set.train_shards} (default: {data_set.default_shards})")
    parser.add_argument("--dir", type=Path, default=Path(__file__).resolve().parent / data_set.folder,
                        help=f"where the shards go (default: data/{data_set.folder})")
    parser.add_argument("--threads", type=int, default=8, help="downloads at a time (default: 8)")
    parser.add_argument("--check", action="store_true",
                        help="only verify, without network; exit code 1 if something is missing or damaged")
    args = parser.parse_args(argv)
    if not 0 <= args.shards <= data_set.train_shards:
        parser.error(f"N={args.shards}, expected 0 to {data_set.train_shards}, what {data_set.repo} holds")
    if args.threads < 1:
        parser.error(f"threads={args.threads}, expected at least 1")
    return args


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder for this process; a second one (another node on a shared disk, say) waits its turn."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".fetch.part", "w") as f:
        try:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"{folder}: another process is fetching; waiting for it", file=sys.stderr)
            fcntl.flock(f, fcntl.LOCK_EX)
        yield


def check(folder: Path, data_set: DataSet, names: list[str]) -> int:
    """Verify without network. Return 0 if every file is there and agrees with its pin, else 1."""
    def read_anew(paths: list[Path]) -> dict[Path, Scan]:  # a scan cached by mtime hides a failing disk
        return {path: scan_shard(path) for path in paths}

    survey = look(folder, names, read_pins(folder, data_set.repo)["files"], read_anew)
    for name, why in survey.faulty.items():
        print(f"{folder / name}: {why or 'missing'}")
    for name in survey.unpinned:
        print(f"{folder / name}: whole, but not in {MANIFEST}; without --check it is compared with the hub")
    print(f"{folder}: {len(survey.sound)} of {len(names)} shards verified")
    return 0 if len(survey.sound) == len(names) else 1


def bring(folder: Path, data_set: DataSet, names: list[str], threads: int) -> None:
    """Make every named shard present and pinned, with as little network as that takes."""
    pins = read_pins(folder, data_set.repo)
    survey = look(folder, names, pins["files"], scan_shards)
    if len(survey.sound) == len(names):  # another process has just fetched them
        return
    remote = ask_hub(folder, data_set.repo, names, pins)
    for name, sha256 in survey.unpinned.items():
        if sha256 == remote[name].sha256:
            pin(folder, pins, remote[name])
        else:
            print(f"{folder / name}: sha256 {sha256}, the hub reports {remote[name].sha256}; perhaps other "
                  f"data, so renamed to {name}.old; fetching the hub's", file=sys.stderr)
            os.replace(folder / name, folder / f"{name}.old")
            survey.faulty[name] = None
    for name, why in survey.faulty.items():
        if why is not None:
            print(f"{folder / name}: {why}; damaged, fetching it again", file=sys.stderr)
            (folder / name).unlink()
    wanted = [remote[name] for name in names if name in survey.faulty]
    for file in hub.fetch(data_set.repo, pins["revision"], wanted, folder, threads, check_shard):
        pin(folder, pins, file)


def ask_hub(folder: Path, repo: str, names: list[str], pins: dict) -> dict[str, hub.RemoteFile]:
    """Return what the hub reports of the named shards; notes its revision in pins.

    Raises HubError where a pin disagrees."""
    pins["revision"], _ = hub.revision_and_configs(repo)
    remote = hub.list_files(repo, pins["revision"])
    for name in names:
        if name not in remote:
            raise hub.HubError(f"{repo} at {pins['revision']} has no {name}; ask for fewer shards")
        pinned = pins["files"].get(name, {}).get("sha256")
        if pinned not in (None, remote[name].sha256):
            raise hub.HubError(f"{name}: the hub now reports sha256 {remote[name].sha256}, "
                               f"{folder / MANIFEST} pinned {pinned}; "
                               "nothing fetched; for other data use another --dir")
    return remote


def read_pins(folder: Path, repo: str) -> dict:
    """Return the folder's manifest, or an empty one."""
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text())
        pins = [file["sha256"] for file in manifest["files"].values()]
        if manifest["source"] == repo and all(len(sha256) == 64 for sha256 in pins):
            return manifest
        found = f"shards of {manifest['source']}"
    except FileNotFoundError:
        return {"source": repo, "revision": None, "files": {}}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        found = f"no manifest ({hub.first_line(error)})"
    raise ShardError(f"{path}: {found}, expected shards of {repo}; use another --dir, or move that file away")


def pin(folder: Path, pins: dict, file: hub.RemoteFile) -> None:
    """Write a verified shard into the manifest."""
    tokens = check_shard(folder / file.path)
    pins["files"][file.path] = {"bytes": file.size, "tokens": tokens, "sha256": file.sha256}
    pins["files"] = dict(sorted(pins["files"].items()))
    write_atomically(folder / MANIFEST, (json.dumps(pins, indent=1) + "\n").encode())


def look(folder: Path, names: list[str], pinned: dict[str, dict],
         scans: Callable[[list[Path]], dict[Path, Scan]]) -> Survey:
    """Read every named shard that is there and sort the names."""
    survey = Survey({}, {}, {})
    whole = []
    for name in names:
        try:
            check_shard(folder / name)
            whole.append(folder / name)
        except ShardError as error:
            why = str(error).removeprefix(f"{folder / name}: ").split(";")[0]
            survey.faulty[name] = why if (folder / name).exists() else None
    for path, scan in scans(whole).items():
        if path.name not in pinned:
            survey.unpinned[path.name] = scan.sha256
        elif scan.sha256 == pinned[path.name]["sha256"]:
            survey.sound[path.name] = scan.sha256
        else:
            survey.faulty[path.name] = f"sha256 {scan.sha256}, pinned {pinned[path.name]['sha256']}"
    return survey


if __name__ == "__main__":
    sys.exit(main())
