"""data/cached_fineweb10B.py and its hub client, against a hub on this machine."""
import hashlib
import json
import re
import signal
import threading
from pathlib import Path

import numpy as np
import pytest

from data import hub
from harness.shards import read_shard, write_shard
from waiting import until

SCRIPT = "cached_fineweb10B.py"
VAL, TRAIN_1, TRAIN_2 = "fineweb_val_000000.bin", "fineweb_train_000001.bin", "fineweb_train_000002.bin"


@pytest.fixture
def shards(fake_hub, tmp_path):
    """The hub with a validation and two train shards, and the folder that they are to be fetched into."""
    for i, name in enumerate((VAL, TRAIN_1, TRAIN_2)):
        write_shard(tmp_path / "hub" / name, np.random.default_rng(i).integers(0, 50257, 5000))
        fake_hub.files[name] = (tmp_path / "hub" / name).read_bytes()
    return tmp_path / "shards"


def the_line(err):
    """The one line of an error: not the notice on small N, not a progress bar."""
    lines = [line for line in re.split(r"[\r\n]+", err) if line and "it/s" not in line and "B/s" not in line]
    assert "needs 25" in lines[0] and len(lines) == 2 and "Traceback" not in err, err
    return lines[1]


@pytest.fixture
def fetch(fake_hub, shards, run):
    """Fetch N shards from the hub; return what was said on stderr, of a refusal the one line."""
    def fetch(n, code=0):
        rc, _, err = run(SCRIPT, n, "--dir", shards, endpoint=fake_hub.address)
        assert rc == code, err
        return the_line(err) if code else err
    return fetch


def shard_names(folder):
    return {path.name for path in folder.glob("*.bin")}


def flip_a_byte(path):
    np.memmap(path, "u1", "r+")[-7] ^= 1


def test_shards_arrive_whole_and_pinned_from_any_directory(fake_hub, shards, run):
    rc, out, err = run(SCRIPT, 2, "--dir", shards, endpoint=fake_hub.address)
    assert (rc, out) == (0, f"{shards}: 2 train shards and 1 validation shard, sha256 verified\n"), err
    assert shard_names(shards) == {VAL, TRAIN_1, TRAIN_2}
    manifest = json.loads((shards / "manifest.json").read_text())
    assert (manifest["source"], manifest["revision"]) == ("kjj0/fineweb10B-gpt2", fake_hub.commit)
    for name, data in fake_hub.files.items():
        facts = {"bytes": len(data), "tokens": 5000, "sha256": hashlib.sha256(data).hexdigest()}
        assert (shards / name).read_bytes() == data and manifest["files"][name] == facts
    assert len(read_shard(shards / VAL)) == 5000
    assert not [path.name for path in shards.glob("*.part") if path.name != ".fetch.part"]


def test_a_second_run_asks_nothing_and_a_larger_one_fetches_the_difference(fake_hub, shards, run, fetch):
    fetch(1)
    fake_hub.requests.clear()
    fetch(1)
    assert fake_hub.requests == []
    assert run(SCRIPT, 1, "--dir", shards)[0] == 0  # no hub at all
    fetch(2)
    assert fake_hub.downloads() == [(TRAIN_2, None)]


@pytest.mark.parametrize("cut, part, spans", [
    ({VAL: 4000}, b"", [None, "bytes=4000-"]), ({}, bytes(4000), ["bytes=4000-", None])])
def test_a_download_goes_on_where_it_broke_and_starts_over_where_what_came_is_damaged(
        cut, part, spans, fake_hub, shards, fetch):
    fake_hub.cut |= cut
    if part:
        shards.mkdir()
        sha256 = hashlib.sha256(fake_hub.files[VAL]).hexdigest()
        (shards / f".{VAL}.{sha256[:12]}.part").write_bytes(part)
    fetch(0)
    assert [span for _, span in fake_hub.downloads()] == spans
    assert (shards / VAL).read_bytes() == fake_hub.files[VAL]


def test_ctrl_c_ends_in_one_line_and_the_next_run_goes_on_with_what_came(fake_hub, shards, start, fetch):
    """Both transfers stand open, and some of each is on the disk, until the signal has ended the process."""
    for name in (VAL, TRAIN_1):  # larger than a file's buffer
        write_shard(shards.parent / name, np.arange(200_000) % 50257)
        fake_hub.files[name] = (shards.parent / name).read_bytes()
    fake_hub.hold = 300_000
    process = start(SCRIPT, 1, "--dir", shards, endpoint=fake_hub.address)
    until(lambda: process.poll() or sum(p.stat().st_size > 0 for p in shards.glob(".fineweb*.part")) == 2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    fake_hub.going_on.set()
    assert process.returncode == 130 and "stopped" in the_line(err) and shard_names(shards) == set()
    fake_hub.hold = None
    fake_hub.requests.clear()
    fetch(1)
    assert len(fake_hub.downloads()) == 2 and all(span for _, span in fake_hub.downloads())
    assert (shards / VAL).read_bytes() == fake_hub.files[VAL]


def test_a_damaged_shard_is_named_and_replaced(fake_hub, shards, fetch):
    fetch(2)
    fake_hub.requests.clear()
    flip_a_byte(shards / TRAIN_1)
    (shards / TRAIN_2).write_bytes(fake_hub.files[TRAIN_2][:3000])
    err = fetch(2)
    assert f"{TRAIN_1}: sha256" in err and f"{TRAIN_2}: 3000 bytes" in err
    assert err.count("fetching it again") == 2
    assert sorted(fake_hub.downloads()) == [(TRAIN_1, None), (TRAIN_2, None)]
    assert all((shards / name).read_bytes() == data for name, data in fake_hub.files.items())


def test_check_needs_no_hub_and_names_what_is_missing_damaged_or_unknown(fake_hub, shards, run, fetch):
    fetch(1)
    rc, out, _ = run(SCRIPT, 1, "--dir", shards, "--check")
    assert (rc, out) == (0, f"{shards}: 2 of 2 shards verified\n")
    flip_a_byte(shards / VAL)
    (shards / TRAIN_2).write_bytes(fake_hub.files[TRAIN_2])
    before = {path: path.read_bytes() for path in shards.iterdir()}
    rc, out, _ = run(SCRIPT, 3, "--dir", shards, "--check")
    assert rc == 1 and f"{VAL}: sha256" in out and f"{TRAIN_2}: whole, but" in out
    assert "fineweb_train_000003.bin: missing" in out and "1 of 4 shards verified" in out
    assert {path: path.read_bytes() for path in shards.iterdir()} == before


def test_whole_shards_are_pinned_without_download_and_other_data_is_kept_aside(fake_hub, shards, fetch):
    write_shard(shards / VAL, np.arange(100))
    mine = (shards / VAL).read_bytes()
    (shards / TRAIN_1).write_bytes(fake_hub.files[TRAIN_1])
    assert f"renamed to {VAL}.old" in fetch(1)
    assert fake_hub.downloads() == [(VAL, None)]
    assert set(json.loads((shards / "manifest.json").read_text())["files"]) == {VAL, TRAIN_1}
    assert (shards / f"{VAL}.old").read_bytes() == mine
    assert all((shards / name).read_bytes() == fake_hub.files[name] for name in (VAL, TRAIN_1))


@pytest.mark.parametrize("fault, attribute, change", [
    ("corrupted bytes", "served", lambda data: data[:-1] + bytes([data[-1] ^ 1])),
    ("wrong sha256", "reported", lambda data: "0" * 64),
    ("too long", "served", lambda data: data + bytes(50_000)),
    ("not a shard", "files", lambda data: b"<html>" + bytes(2000))])
def test_bytes_that_are_not_what_the_hub_reports_never_get_a_name(
        fault, attribute, change, fake_hub, shards, fetch):
    getattr(fake_hub, attribute)[TRAIN_1] = change(fake_hub.files[TRAIN_1])
    said = fetch(1, code=2)
    assert TRAIN_1 in said and ("magic" if fault == "not a shard" else "reports") in said
    assert not (shards / TRAIN_1).exists()
    if fault == "corrupted bytes":  # and it does not poison the next attempt
        fake_hub.served.clear()
        fetch(1)


def test_a_hub_that_contradicts_a_pin_is_refused(fake_hub, shards, fetch):
    fetch(1)
    before = (shards / VAL).read_bytes()
    write_shard(shards / "other", np.arange(5000))
    fake_hub.files[VAL] = (shards / "other").read_bytes()
    said = fetch(2, code=2)
    assert VAL in said and "pinned" in said and "nothing fetched" in said
    assert (shards / VAL).read_bytes() == before and not (shards / TRAIN_2).exists()


def test_a_folder_of_other_shards_is_not_touched(fake_hub, shards, fetch):
    shards.mkdir()
    (shards / "manifest.json").write_text('{"source": "my text", "files": {}}')
    assert "shards of my text, expected shards of kjj0/fineweb10B-gpt2" in fetch(1, code=2)
    assert fake_hub.requests == []


def test_an_unreachable_hub_is_one_line_and_exit_code_2(shards, run):
    rc, out, err = run(SCRIPT, 1, "--dir", shards)  # the fixture's limit bounds the wait
    assert (rc, out) == (2, "")
    assert re.search("cannot reach http://127.0.0.1:9.*run the same command again", the_line(err))


@pytest.mark.parametrize("attribute, value, n, said", [
    ("refuse", {"/api/": 503}, 1, "503"), ("refuse", {"/api/": 401}, 1, "401"),
    ("refuse", {"/blobs/": 403}, 1, "403"), ("refuse", {}, 3, "has no fineweb_train_000003.bin"),
    ("page", b"<html>Please log in</html>", 1, "answers unlike a hub"), ("size", 10**18, 1, "GB free"),
    ("files", {"../outside.bin": b"x"}, 1, "'../outside.bin', a path outside of")])
def test_a_hub_that_refuses_or_is_none_or_asks_for_too_much_is_one_line_and_nothing_is_downloaded(
        attribute, value, n, said, fake_hub, shards, fetch):
    setattr(fake_hub, attribute, value)
    assert said in fetch(n, code=2) and shard_names(shards) == set()
    assert fake_hub.downloads() == [] or "/blobs/" in fake_hub.refuse


def test_two_processes_share_one_fetch(fake_hub, shards, start):
    fake_hub.hold = 4000
    first = start(SCRIPT, 2, "--dir", shards, endpoint=fake_hub.address)
    until(fake_hub.downloads)
    other = start(SCRIPT, 2, "--dir", shards, endpoint=fake_hub.address)
    second = next(line for line in other.stderr if "another process is fetching" in line)
    fake_hub.going_on.set()
    errors = [process.communicate(timeout=60)[1] for process in (first, other)]
    assert (first.returncode, other.returncode) == (0, 0), errors
    assert "another process is fetching" not in errors[0] + errors[1] and second.startswith(f"{shards}: ")
    assert len(fake_hub.downloads()) == 3


def test_a_silent_hub_is_given_up_in_bounded_time():
    never = threading.Event()
    with pytest.raises(hub.HubError, match="no answer within 0.2 s"):
        hub.ask(never.wait, 0.2)
    never.set()


@pytest.mark.parametrize("script, size, most", [
    (SCRIPT, "10B", 103), ("cached_fineweb100B.py", "100B", 1030)])
def test_each_script_fetches_its_own_data_set_as_its_help_says_and_no_more_than_there_is(
        script, size, most, fake_hub, shards, run):
    fake_hub.files |= {f"fineweb_train_{i:06d}.bin": fake_hub.files[VAL] for i in range(1, 26)}
    rc, out, _ = run(script, "--help")
    example = out.splitlines()[-1].split()
    assert rc == 0 and example[:3] == ["example:", "python", f"data/{script}"]
    rc, out, err = run(script, *example[3:], "--dir", shards, endpoint=fake_hub.address)
    assert rc == 0 and "25 train shards" in out, err
    assert json.loads((shards / "manifest.json").read_text())["source"] == f"kjj0/fineweb{size}-gpt2"
    assert all(f"kjj0/fineweb{size}-gpt2" in path for path, _ in fake_hub.requests if "/resolve/" in path)
    rc, _, err = run(script, most + 1)
    assert rc == 2 and f"N={most + 1}, expected 0 to {most}" in err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
def test_a_full_disk_is_one_line_that_names_the_folder(fake_hub, shards, fetch):
    shards.mkdir()
    sha256 = hashlib.sha256(fake_hub.files[VAL]).hexdigest()
    (shards / f".{VAL}.{sha256[:12]}.part").symlink_to("/dev/full")
    assert f"{shards}: [Errno 28] No space left on device" in fetch(0, code=2)
