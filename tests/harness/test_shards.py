"""The shard format, and what is said of files that are not in it."""
import hashlib
import json
import os

import numpy as np
import pytest

from harness import shards
from harness.shards import CACHE_NAME, ShardError, check_shard, read_shard, scan_shards, write_shard


@pytest.fixture
def shard(tmp_path):
    write_shard(tmp_path / "a.bin", np.arange(100))
    return tmp_path / "a.bin"


def test_a_shard_has_the_public_layout(shard):
    data = shard.read_bytes()
    header = np.frombuffer(data[:1024], "<i4")
    assert header[:3].tolist() == [20240520, 1, 100] and not header[3:].any()
    assert np.frombuffer(data[1024:], "<u2").tolist() == list(range(100)) == read_shard(shard).tolist()


@pytest.mark.parametrize("tokens", [[], [0], [65535], range(1000)])
def test_what_is_written_is_read(tmp_path, tokens):
    digest = write_shard(path := tmp_path / "b.bin", np.array(list(tokens), dtype=np.int64))
    assert read_shard(path).tolist() == list(tokens)
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert os.listdir(tmp_path) == ["b.bin"], "no temporary file stays"


@pytest.mark.parametrize("tokens", [np.array([-1]), np.array([65536]), np.zeros((2, 2), int)])
def test_tokens_that_do_not_fit_are_refused_and_nothing_is_written(tmp_path, tokens):
    with pytest.raises(ShardError):
        write_shard(tmp_path / "b.bin", tokens)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("index, value, message", [
    (0, 20240101, "magic 20240101, expected 20240520"), (1, 2, "version 2, expected 1"),
    (2, 99, "1224 bytes whose header has tokens 99, expected 100"),
    (2, -5, "tokens -5, expected 100")])
def test_a_wrong_header_is_told(shard, index, value, message):
    np.memmap(shard, "<i4", "r+", shape=256)[index] = value
    with pytest.raises(ShardError, match=message):
        check_shard(shard)


def test_a_truncated_shard_is_told_at_every_size(shard):
    for size in (1223, 1024, 1023, 12, 11, 1, 0):
        os.truncate(shard, size)
        with pytest.raises(ShardError, match=f"{size} bytes"):
            check_shard(shard)


def test_a_missing_shard_and_a_folder_are_told(tmp_path):
    for path, said in ((tmp_path / "missing.bin", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(ShardError, match=f"cannot be read .{said}"):
            check_shard(path)


def test_scans_are_cached_until_the_file_changes_or_the_cache_is_damaged(shard):
    first = scan_shards([shard])[shard]
    assert (first.tokens, first.max_token) == (100, 99)
    assert first.sha256 == hashlib.sha256(shard.read_bytes()).hexdigest()
    cache = shard.parent / CACHE_NAME
    cache.write_text(cache.read_text().replace(first.sha256, "from the cache"))
    assert scan_shards([shard])[shard].sha256 == "from the cache"
    write_shard(shard, np.arange(50))
    assert scan_shards([shard])[shard].tokens == 50
    for damaged in ("{", "[]", "3", '{"s.bin": 5}', '{"s.bin": [[1, 2], 3]}'):  # some were a traceback
        cache.write_text(damaged.replace("s.bin", shard.name))
        assert scan_shards([shard])[shard].tokens == 50 and json.loads(cache.read_text())[shard.name][2] == 50


def test_a_bit_that_flips_under_the_same_size_and_time_is_seen_by_a_new_hash_only(shard):
    """A run trained on other data than its log said."""
    first, times = scan_shards([shard])[shard], shard.stat()
    data = bytearray(shard.read_bytes())
    data[-2] ^= 1
    shard.write_bytes(data)
    os.utime(shard, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert scan_shards([shard])[shard] == first
    found = scan_shards([shard], rehash=True)[shard]
    assert found.sha256 == hashlib.sha256(data).hexdigest() != first.sha256
    assert scan_shards([shard])[shard] == found


def test_a_folder_that_cannot_be_locked_as_on_nfs_is_scanned_all_the_same(shard, monkeypatch):
    """There an exclusive lock wants a file that is open for writing: Bad file descriptor ended the run."""
    monkeypatch.setattr(shards.fcntl, "flock", lambda *_: os.close(-1))
    assert scan_shards([shard])[shard].tokens == 100


def test_ranks_of_a_host_scan_each_shard_once_between_them(ranks, tmp_path, monkeypatch):
    """Under plain torchrun eight ranks used to hash the same five gigabytes each."""
    def noting(path, scan=shards.scan_shard):
        with open(tmp_path / "notes", "a") as f:
            f.write(f"{path.name}\n")
        return scan(path)

    monkeypatch.setattr(shards, "scan_shard", noting)
    paths = [tmp_path / f"{i}.bin" for i in range(3)]
    for path in paths:
        write_shard(path, np.arange(500))
    assert ranks(4, lambda: len(scan_shards(paths))) == [3] * 4
    assert sorted((tmp_path / "notes").read_text().split()) == ["0.bin", "1.bin", "2.bin"]
