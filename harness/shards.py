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
    path = Path(path)
    try:
        with open(path, "rb") as f:
            size = os.fstat(f.fileno()).st_size
            header = f.read(HEADER_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        raise ShardError(f"{path}: no such shard; fetch or build the data set first") from None
    except OSError as error:
        raise ShardError(f"{path}: cannot be read ({error.strerror})") from None
    if size < HEADER_BYTES:
        raise ShardError(f"{path}: {size} bytes, expected a header of {HEADER_BYTES}; "
                         f"fetch or build it again")
    magic, version, tokens = np.frombuffer(header, dtype="<i4")[:3].tolist()
    if magic != MAGIC:
        raise ShardError(f"{path}: magic {magic}, expected {MAGIC}; rebuild it with data/fineweb.py")
    if version != VERSION:
        raise ShardError(f"{path}: version {version}, expected {VERSION}; rebuild it with data/fineweb.py")
    if size != HEADER_BYTES + 2 * tokens:
        raise ShardError(f"{path}: {size} bytes, but its header counts {tokens} tokens, which take "
                         f"{HEADER_BYTES + 2 * tokens}; fetch or build the file again")
    return tokens


def read_shard(path: str | Path) -> np.ndarray:
    """Return the tokens of a shard as a read-only memory map, uint16, shape (tokens,)."""
    tokens = check_shard(path)
    if tokens == 0:
        return np.empty(0, dtype="<u2")
    return np.memmap(path, dtype="<u2", mode="r", offset=HEADER_BYTES, shape=(tokens,))


def write_shard(path: str | Path, tokens: np.ndarray) -> str:
    """Write tokens (any integer dtype, values below 2^16) as a shard, atomically, and return its sha256."""
    path = Path(path)
    tokens = np.asarray(tokens)
    if tokens.ndim != 1 or len(tokens) >= 2**31:
        raise ShardError(f"{path}: tokens of shape {tokens.shape}; a shard holds one row of fewer than 2^31")
    if len(tokens) and not (0 <= int(tokens.min()) and int(tokens.max()) < 2**16):
        raise ShardError(f"{path}: token ids {tokens.min()} to {tokens.max()} do not fit into uint16")
    header = np.zeros(HEADER_BYTES // 4, dtype="<i4")
    header[:3] = MAGIC, VERSION, len(tokens)
    body = tokens.astype("<u2")
    write_atomically(path, header.tobytes(), memoryview(body).cast("B"))
    digest = hashlib.sha256(header.tobytes())
    digest.update(body)
    return digest.hexdigest()


def write_atomically(path: str | Path, *parts: bytes | memoryview) -> None:
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
    """Scan shards in threads, each at most once: results are cached beside them by size and mtime_ns.

    The ranks of a host take turns: the first scans, the others find its results. rehash: scan all of them,
    for a file may change and keep size and time.
    """
    for path in paths:
        check_shard(path)
    caches: dict[Path, dict[str, list]] = {}
    with contextlib.ExitStack() as locks:
        for folder in sorted({path.parent for path in paths}):
            handle = os.open(folder, os.O_RDONLY)
            locks.callback(os.close, handle)
            fcntl.flock(handle, fcntl.LOCK_EX)
            caches[folder] = read_cache(folder / CACHE_NAME)
        keys = {path: [path.stat().st_size, path.stat().st_mtime_ns] for path in paths}
        known = {path: caches[path.parent].get(path.name, [])[:2] for path in paths}
        stale = [path for path in paths if rehash or known[path] != keys[path]]
        with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
            for path, scan in zip(stale, pool.map(scan_shard, stale)):
                caches[path.parent][path.name] = [*keys[path], *scan]
        for folder in {path.parent for path in stale}:
            with contextlib.suppress(OSError):  # a read-only data folder is scanned anew each time
                write_atomically(folder / CACHE_NAME, json.dumps(caches[folder]).encode())
    return {path: Scan(*caches[path.parent][path.name][2:]) for path in paths}


def read_cache(path: Path) -> dict[str, list]:
    """Return what earlier scans left, by name: size, mtime_ns and the scan; nothing that is not so."""
    try:
        cache = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    kinds = [int, int, int, str, int]
    return {name: entry for name, entry in (cache.items() if isinstance(cache, dict) else ())
            if isinstance(entry, list) and [type(value) for value in entry] == kinds}
