"""The .bin shard, read and written in one place. Needs numpy, not torch.

256 little-endian int32 (magic, version, token count, zeros), then uint16 tokens: the format of the public
FineWeb shards (https://github.com/KellerJordan/modded-nanogpt).
"""
import contextlib
import fcntl
import hashlib
import json
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

MAGIC, VERSION, HEADER_BYTES = 20240520, 1, 1024
SCAN_BYTES = 1 << 24
CACHE_NAME = ".scan_cache.json"


class ShardError(ValueError):
    """A shard is missing, damaged, or not what the track expects."""


class Scan(NamedTuple):
    """What one pass over a shard found."""

    tokens: int
    sha256: str
    max_token: int


def check_shard(path: str | Path) -> int:
    """Return a shard's number of tokens after checking magic, version and size; reads the header only."""
    try:
        with open(path, "rb") as f:
            size, header = os.fstat(f.fileno()).st_size, f.read(HEADER_BYTES)
    except OSError as error:
        raise ShardError(f"{path}: cannot be read ({error.strerror}); fetch or build it first") from None
    magic, version, tokens = np.frombuffer(header.ljust(HEADER_BYTES, b"\0"), dtype="<i4")[:3].tolist()
    for what, found, expected in (("length", len(header), HEADER_BYTES), ("magic", magic, MAGIC),
                                  ("version", version, VERSION),
                                  ("tokens", tokens, (size - HEADER_BYTES) / 2)):
        if found != expected:
            raise ShardError(f"{path}: {size} bytes whose header has {what} {found}, expected "
                             f"{expected:.10g}; fetch it again, or build it with data/fineweb.py")
    return tokens


def read_shard(path: str | Path) -> np.ndarray:
    """Return the tokens of a shard as a read-only memory map, uint16, shape (tokens,)."""
    tokens = check_shard(path)
    if tokens == 0:
        return np.empty(0, dtype="<u2")
    return np.memmap(path, dtype="<u2", mode="r", offset=HEADER_BYTES, shape=(tokens,))


def write_shard(path: str | Path, tokens: np.ndarray) -> str:
    """Write tokens (any integer dtype, values below 2^16) as a shard, atomically, and return its sha256."""
    tokens = np.asarray(tokens)
    if tokens.ndim != 1 or len(tokens) >= 2**31:
        raise ShardError(f"{path}: tokens of shape {tokens.shape}; a shard holds one row of fewer than 2^31")
    if not (0 <= tokens.min(initial=0) and tokens.max(initial=0) < 2**16):
        raise ShardError(f"{path}: token ids {tokens.min()} to {tokens.max()} do not fit into uint16")
    header = np.zeros(HEADER_BYTES // 4, dtype="<i4")
    header[:3] = MAGIC, VERSION, len(tokens)
    body, digest = tokens.astype("<u2"), hashlib.sha256(header)
    write_atomically(path, header, body)
    digest.update(body)
    return digest.hexdigest()


def write_atomically(path: str | Path, *parts: bytes | memoryview | np.ndarray) -> None:
    """Write a file beside path, fsync, rename: readers see the old file or the new one."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as f:
            for part in parts:
                f.write(part)
            f.flush()
            os.fsync(f.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def scan_shard(path: str | Path) -> Scan:
    """Read a whole shard once: token count, sha256 of the file, largest token id (-1 where it is empty)."""
    tokens = check_shard(path)
    max_token, digest = -1, hashlib.sha256()
    with open(path, "rb") as f:
        digest.update(f.read(HEADER_BYTES))
        while chunk := f.read(SCAN_BYTES):
            digest.update(chunk)
            max_token = max(max_token, int(np.frombuffer(chunk, dtype="<u2").max()))
    return Scan(tokens, digest.hexdigest(), max_token)


def scan_shards(paths: list[Path], rehash: bool = False) -> dict[Path, Scan]:
    """Scan shards of one folder in threads, each at most once: it caches results by size and mtime_ns.

    The ranks of a host take turns: the first scans, the others find its results. rehash: scan all of them,
    for a file may change and keep size and time.
    """
    if not paths:
        return {}
    folder, = {path.parent for path in paths}
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # NFS locks no folder: there each rank scans
            fcntl.flock(handle, fcntl.LOCK_EX)
        cache = read_cache(folder / CACHE_NAME)
        keys = {path: [path.stat().st_size, path.stat().st_mtime_ns] for path in paths}
        stale = [path for path in paths if rehash or cache.get(path.name, [])[:2] != keys[path]]
        with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
            for path, scan in zip(stale, pool.map(scan_shard, stale)):
                cache[path.name] = [*keys[path], *scan]
        if stale:
            with contextlib.suppress(OSError):  # a read-only data folder is scanned anew each time
                write_atomically(folder / CACHE_NAME, json.dumps(cache).encode())
    finally:
        os.close(handle)
    return {path: Scan(*cache[path.name][2:]) for path in paths}


def read_cache(path: Path) -> dict[str, list]:
    """Return what earlier scans left, by name: size, mtime_ns and the scan; nothing that is not so."""
    kinds = [int, int, int, str, int]
    try:
        cache = json.loads(path.read_text())
        return {name: entry for name, entry in cache.items() if [type(value) for value in entry] == kinds}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}
