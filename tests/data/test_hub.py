"""data/hub.py in this process, against a hub on this machine: refusals, waits, slow transfers."""
import hashlib
import itertools

import pytest
from huggingface_hub import HfApi, constants

from data import hub

NAME, BODY = "one.bin", bytes(range(250)) * 40
REFUSALS = [  # status, headers, what the line must say
    (401, {}, "no such data set, or a private one, or a wrong token"),
    (403, {}, "the token may not read it, or a firewall refuses; set HF_TOKEN"),
    (403, {"X-Error-Code": "GatedRepo"}, "gated; accept its terms"),
    (404, {"X-Error-Code": "RepoNotFound"}, "no such data set, revision or file; check the name"),
    (404, {"X-Error-Code": "EntryNotFound"}, "no such data set, revision or file; check the name")]
WAITS = [  # status, headers, seconds; 1 is our own first pause
    (429, {"Retry-After": "17"}, 17), (503, {"Retry-After": " 5 "}, 5),
    (429, {"RateLimit": '"resolvers";r=0;t=42'}, 42), (429, {"RateLimit": '"resolvers";r=9;t=42'}, 1),
    (503, {}, 1), (429, {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}, 1)]


class Waits:
    """Stands for the event that stops downloads: notes each wait instead of waiting, then calls `then`."""

    def __init__(self, then=lambda: None):
        self.seconds, self.then = [], then

    def is_set(self):
        return False

    def wait(self, seconds):
        self.seconds.append(seconds)
        self.then()
        return False


@pytest.fixture
def receive(fake_hub, tmp_path, monkeypatch):
    """Fetch the hub's one file with given waits; return what has come."""
    monkeypatch.setattr(constants, "ENDPOINT", fake_hub.address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE",
                        fake_hub.address + "/{repo_id}/resolve/{revision}/{filename}")
    fake_hub.files[NAME] = BODY
    file, part = hub.RemoteFile(NAME, len(BODY), hashlib.sha256(BODY).hexdigest()), tmp_path / "part"
    part.touch()

    def receive(waits):
        hub.receive("a/b", fake_hub.commit, file, part, lambda n: None, waits)
        return part.read_bytes()
    yield receive
    fake_hub.going_on.set()


@pytest.mark.parametrize("status, headers, seconds", WAITS)
def test_a_download_waits_as_long_as_a_busy_hub_asks(status, headers, seconds, fake_hub, receive):
    fake_hub.refuse, fake_hub.headers = {"/datasets/": status}, headers
    waits = Waits(fake_hub.refuse.clear)
    assert receive(waits) == BODY and waits.seconds == [seconds]


def test_a_question_waits_as_long_as_a_busy_hub_asks_and_not_for_hours(fake_hub, receive, capsys):
    fake_hub.refuse, fake_hub.headers = {"/api/": 429}, {"Retry-After": "17"}
    waits = Waits(fake_hub.refuse.clear)
    assert hub.ask(lambda: HfApi().dataset_info("a/b"), wait=waits.wait).sha == fake_hub.commit
    assert waits.seconds == [17] and "answered 429; waiting 17 s" in capsys.readouterr().err
    fake_hub.refuse = {"/": 429}
    waits = Waits()
    with pytest.raises(hub.HubError, match="429: too many requests"):
        hub.ask(lambda: HfApi().dataset_info("a/b"), wait=waits.wait)
    assert waits.seconds == [17] * (hub.ATTEMPTS - 1)
    fake_hub.headers = {"Retry-After": "86400"}
    for question in (lambda: receive(waits), lambda: hub.revision_and_configs("a/b")):
        with pytest.raises(hub.HubError, match="answered 429 and asks to wait 86400 s"):
            question()


@pytest.mark.parametrize("status, headers, said", REFUSALS)
def test_a_refusal_says_what_it_means(status, headers, said, fake_hub, receive):
    fake_hub.refuse, fake_hub.headers = {"/": status}, headers
    for question in (lambda: receive(Waits()), lambda: hub.revision_and_configs("a/b")):
        with pytest.raises(hub.HubError) as refused:
            question()
        assert f"{fake_hub.address} answered {status}: {said}" in str(refused.value)
        assert "\n" not in str(refused.value) and "network access" not in str(refused.value)


@pytest.mark.parametrize("reported", ["../../outside", "0" * 11 + "/" + "0" * 52, "0" * 63, ""])
def test_a_reported_hash_that_is_none_is_one_line(reported, fake_hub, receive, monkeypatch):
    """It becomes part of a file's name: a `/` in it ended in a traceback."""
    entry = fake_hub.entry(NAME)
    entry["lfs"]["oid"] = reported
    monkeypatch.setattr(fake_hub, "entry", lambda path: entry)
    with pytest.raises(hub.HubError, match=f"reports sha256 {reported!r} of {NAME}; use another hub"):
        hub.list_files("a/b", fake_hub.commit)


def test_a_transfer_that_trickles_is_given_up_and_asked_for_again(fake_hub, receive, monkeypatch):
    """By a clock that jumps at each look: 100 bytes, and then a byte in 100 s."""
    clock = itertools.count(0, 100)
    monkeypatch.setattr(hub, "monotonic", lambda: next(clock))
    fake_hub.hold = 100
    waits = Waits()
    said = rf"{NAME}: broke off at \d+ of {len(BODY)} bytes \(\d+ bytes in 100 s\)"
    with pytest.raises(hub.HubError, match=said):
        receive(waits)
    assert len(waits.seconds) == hub.ATTEMPTS - 1 and len(fake_hub.downloads()) == hub.ATTEMPTS

    def recover():
        fake_hub.hold = None
        monkeypatch.setattr(hub, "monotonic", lambda: 0)
    assert receive(Waits(recover)) == BODY
