"""The Hugging Face hub, spoken to in one place: what a data set holds, and verified downloads that resume.

Downloads are plain HTTP with ranges: `hf_hub_download` of huggingface_hub 2 throws the partial file of an
interrupted process away, gives a file its final name before anyone could check its sha256, and sleeps through
Ctrl-C where it waits. Honours HF_ENDPOINT, HF_HUB_OFFLINE and HF_TOKEN.
"""
import hashlib
import os
import queue
import re
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from time import monotonic, sleep
from typing import Any, NamedTuple

from tqdm import tqdm

ANSWER_S = 15  # the longest wait for the hub's first answer
LISTING_S = 120  # and for a listing, which may take many pages
STALL_S = 10  # a download that receives nothing for so long is asked for again
SLOW_S, SLOW_BYTES = 60, 60_000  # and one that receives no more than this in that time
ATTEMPTS = 4  # in a row that brought nothing, or too little
WAIT_S = 600  # the longest wait that a hub may ask for; its rate limits count windows of 300 s
TRANSIENT = (408, 429, 500, 502, 503, 504)


class HubError(ValueError):
    """The hub could not be reached, refused, or served something other than what it reports."""


class TooSlow(Exception):
    """A transfer all but stopped."""


class RemoteFile(NamedTuple):
    """One file of a data set at a revision; sha256 as the hub reports it."""

    path: str
    size: int
    sha256: str


def ask(question: Callable[[], Any], seconds: float = ANSWER_S,
        wait: Callable[[float], object] = sleep) -> Any:
    """Return question(), a call of huggingface_hub's API. Raises HubError in one line, within `seconds`.

    Asks again, up to ATTEMPTS times, after as long a wait as the hub asks for.
    In a thread of its own: neither name resolution nor a list of dead addresses obeys a client's timeouts."""
    answers: queue.SimpleQueue = queue.SimpleQueue()

    def answer() -> None:
        try:
            answers.put((question(), None))
        except Exception as error:  # handed to the asking thread, which sorts it
            answers.put((None, error))

    client()  # imported here, outside the time limit
    for attempt in range(1, ATTEMPTS + 1):
        threading.Thread(target=answer, daemon=True).start()
        try:
            value, error = answers.get(timeout=seconds)
        except queue.Empty:
            raise HubError(f"{endpoint()} gave no answer within {seconds:g} s; {advice()}") from None
        if error is None:
            return value
        response = getattr(error, "response", None)
        if response is None or attempt == ATTEMPTS or not (pause := asked_to_wait(response)):
            break
        print(f"{endpoint()} answered {response.status_code}; waiting {pause} s, as it asks", file=sys.stderr)
        wait(pause)
    if response is not None:
        raise HubError(f"{response.url.path}: {refusal(error)}") from error
    if isinstance(error, (OSError, client().HTTPError, client().InvalidURL)):
        raise HubError(f"cannot reach {endpoint()} ({first_line(error)}); {advice()}") from error
    if isinstance(error, (KeyError, TypeError, ValueError)):
        raise HubError(f"{endpoint()} answers unlike a hub ({first_line(error)}); {advice()}") from error
    raise error


def asked_to_wait(response: Any) -> int | None:
    """Return for how many seconds a busy hub asks to be left alone, None where it names no time.

    Raises HubError where that is longer than WAIT_S."""
    if response.status_code not in TRANSIENT:
        return None
    named = re.findall(r"^\s*(\d{1,9})\s*$", response.headers.get("retry-after", ""))
    named += re.findall(r"\br=0;t=(\d{1,9})", response.headers.get("ratelimit", ""))  # the hub's own header
    seconds = max(map(int, named), default=None)
    if seconds is not None and seconds > WAIT_S:
        raise HubError(f"{endpoint()} answered {response.status_code} and asks to wait {seconds} s; run the "
                       "same command again after that")
    return seconds


def refusal(error: Any) -> str:
    """Return what the status of a hub's error means here, and what to do."""
    from huggingface_hub.errors import GatedRepoError
    status = error.response.status_code
    token = "set HF_TOKEN to a token that may read it"
    meanings = {401: f"no such data set, or a private one, or a wrong token; check the name, or {token}",
                403: f"the token may not read it, or a firewall refuses; {token}",
                404: "no such data set, revision or file; check the name, and HF_ENDPOINT, if it is set",
                429: "too many requests; wait some minutes, or set HF_TOKEN, which has a higher limit"}
    if isinstance(error, GatedRepoError):
        meaning = f"gated; accept its terms on its page below {endpoint()}/datasets, then {token}"
    else:
        meaning = meanings.get(status, advice())
    return f"{endpoint()} answered {status}: {meaning}"


def client() -> Any:
    """Return the HTTP library that the installed huggingface_hub uses: httpx (1.x) or its successor."""
    try:
        from huggingface_hub.utils import get_session
    except ImportError:
        raise HubError("huggingface_hub is not installed; `pip install huggingface_hub` first") from None
    return sys.modules[type(get_session()).__module__.split(".")[0]]


def endpoint() -> str:
    """Return the address of the hub in use."""
    from huggingface_hub import constants
    return constants.ENDPOINT


def advice() -> str:
    """Return what to do when the hub fails."""
    from huggingface_hub import constants
    if constants.HF_HUB_OFFLINE:
        return "unset HF_HUB_OFFLINE and run the same command again"
    return "run the same command again with network access (HF_ENDPOINT names a mirror)"


def first_line(error: BaseException, folder: Path | None = None) -> str:
    """Return an error's first line, or its type where it has no text; `folder` stands for a file it lacks."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    unplaced = folder and isinstance(error, OSError) and error.filename is None
    return f"{folder}: {line}" if unplaced else line


def revision_and_configs(repo: str) -> tuple[str, dict[str, list[str]]]:
    """Return the commit at the head of a data set, and the patterns of train files by configuration."""
    from huggingface_hub import HfApi
    info = ask(lambda: HfApi().dataset_info(repo, expand=["sha", "cardData"], timeout=STALL_S))
    if not info.sha:
        raise HubError(f"{endpoint()} names no commit of {repo}; {advice()}")
    card = info.card_data.to_dict() if info.card_data else {}
    configs: dict[str, list[str]] = {}
    for config in card.get("configs") or []:
        for files in as_list(config.get("data_files")):
            files = files if isinstance(files, dict) else {"path": files}
            if files.get("split", "train") == "train":
                configs.setdefault(config["config_name"], []).extend(as_list(files["path"]))
    return info.sha, configs or {"default": ["*"]}


def as_list(value: Any) -> list:
    """Return a list as it is, None as an empty list, anything else as a list of one."""
    return value if isinstance(value, list) else [] if value is None else [value]


def list_files(repo: str, revision: str, folder: str | None = None) -> dict[str, RemoteFile]:
    """Return the large files (those with a reported sha256) below a folder of a data set, by path."""
    from huggingface_hub import HfApi
    tree = ask(lambda: list(HfApi().list_repo_tree(repo, folder, recursive=True, revision=revision,
                                                   repo_type="dataset")), LISTING_S)
    for entry in tree:
        if entry.path.startswith("/") or ".." in entry.path.split("/"):
            raise HubError(f"{endpoint()} lists {entry.path!r}, a path outside of {repo}; use another hub")
        sha256 = entry.lfs.sha256 if getattr(entry, "lfs", None) else None
        if sha256 is not None and not re.fullmatch("[0-9a-f]{64}", str(sha256)):  # it becomes part of a path
            raise HubError(f"{endpoint()} reports sha256 {sha256!r} of {entry.path}; use another hub")
    return {entry.path: RemoteFile(entry.path, entry.lfs.size, entry.lfs.sha256)
            for entry in tree if getattr(entry, "lfs", None)}


def require_space(files: list[RemoteFile], folder: Path) -> None:
    """Raise HubError unless the files, less what is already downloaded of them, fit on the disk of folder."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = [part_path(file, folder) for file in files]
    need = sum(file.size for file in files) - sum(part.stat().st_size for part in parts if part.exists())
    free = shutil.disk_usage(folder).free
    if need > free:
        raise HubError(f"{folder}: {need / 1e9:.2f} GB to download, {free / 1e9:.2f} GB free; make room "
                       "there or ask for less")


def part_path(file: RemoteFile, folder: Path) -> Path:
    """Return where a download grows. The name holds the hash: no other version of the file is resumed."""
    target = folder / file.path
    return target.with_name(f".{target.name}.{file.sha256[:12]}.part")


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def lacking(files: list[RemoteFile], folder: Path) -> list[RemoteFile]:
    """Return the files that are not in folder as the hub reports them. Reads those that are there."""
    def same(file: RemoteFile) -> bool:
        path = folder / file.path
        return path.is_file() and path.stat().st_size == file.size and sha256_of(path) == file.sha256

    with ThreadPoolExecutor() as pool:
        return [file for file, whole in zip(files, pool.map(same, files)) if not whole]


def fetch(repo: str, revision: str, files: list[RemoteFile], folder: Path, threads: int,
          accept: Callable[[Path], object] = lambda part: None) -> Iterator[RemoteFile]:
    """Download files into folder in parallel and yield each one once it is whole there, under its own path.

    A file gets its name when size and sha256 agree with the hub and accept(temporary path) does not raise.
    Interrupted or failed downloads keep what they have for the next call. Progress on stderr."""
    if not files:
        return
    require_space(files, folder)
    stop = threading.Event()
    with tqdm(total=sum(file.size for file in files), unit="B", unit_scale=True, file=sys.stderr,
              mininterval=0.5 if sys.stderr.isatty() else 10) as progress:
        lock = threading.Lock()

        def advance(n: int) -> None:
            with lock:
                progress.update(n)

        with ThreadPoolExecutor(threads) as pool:
            waiting = {pool.submit(download, repo, revision, file, folder, advance, stop, accept): file
                       for file in files}
            try:
                for done in as_completed(waiting):
                    done.result()
                    yield waiting[done]
            finally:  # also on an error and on Ctrl-C: no thread goes on
                stop.set()
                pool.shutdown(cancel_futures=True)


def download(repo: str, revision: str, file: RemoteFile, folder: Path, advance: Callable[[int], None],
             stop: threading.Event, accept: Callable[[Path], object]) -> None:
    """Download one file, resuming what an earlier call left, verify it and give it its name."""
    part = part_path(file, folder)
    part.parent.mkdir(parents=True, exist_ok=True)
    while True:
        resumed = part.exists()
        part.touch()
        receive(repo, revision, file, part, advance, stop)
        size, sha256 = part.stat().st_size, sha256_of(part)
        if (size, sha256) == (file.size, file.sha256):
            break
        part.unlink()
        advance(-size)
        if not resumed:
            raise HubError(f"{file.path}: received {size} bytes with sha256 {sha256}, but the hub reports "
                           f"{file.size} with {file.sha256}; nothing kept, run the same command again later")
    accept(part)
    os.replace(part, folder / file.path)


def receive(repo: str, revision: str, file: RemoteFile, part: Path, advance: Callable[[int], None],
            stop: threading.Event) -> None:
    """Append to part what it lacks of the file; goes on after a dropped connection.

    Raises HubError after ATTEMPTS responses in a row that brought nothing, or too little in a long time."""
    from huggingface_hub.errors import HfHubHTTPError
    had = part.stat().st_size
    advance(had)
    failures = 0
    while had < file.size:
        pause, slow = None, False
        try:
            stream(repo, revision, file, part, advance, stop)
            reason = "the connection closed early"
        except HfHubHTTPError as error:
            reason = f"status {error.response.status_code}"
            if error.response.status_code not in TRANSIENT:
                raise HubError(f"{file.path}: {refusal(error)}") from error
            pause = asked_to_wait(error.response)
        except TooSlow as error:
            reason, slow = first_line(error), True
        except client().HTTPError as error:
            reason = first_line(error)
        size = part.stat().st_size
        failures = 0 if size > had and not slow else failures + 1
        had = size
        if failures == ATTEMPTS:
            raise HubError(f"{file.path}: broke off at {had} of {file.size} bytes ({reason}); {advice()}")
        if had < file.size and stop.wait(pause or min(2 ** failures, 8) / 2):
            raise HubError(f"{file.path}: stopped")


def stream(repo: str, revision: str, file: RemoteFile, part: Path, advance: Callable[[int], None],
           stop: threading.Event) -> None:
    """Append one response's bytes to part, from where it ends. Raises TooSlow where they trickle."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status
    start = part.stat().st_size
    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    url = hf_hub_url(repo, file.path, repo_type="dataset", revision=revision)
    options = {"headers": headers, "follow_redirects": True, "timeout": STALL_S}
    with get_session().stream("GET", url, **options) as response:
        hf_raise_for_status(response)
        if start and response.status_code != 206:  # the server starts over
            advance(-start)
            start = 0
        since, before = monotonic(), start
        with open(part, "ab" if start else "wb") as f:
            for chunk in response.iter_bytes():
                if stop.is_set() or start > file.size:
                    return
                f.write(chunk)
                start += len(chunk)
                advance(len(chunk))
                if (now := monotonic()) - since > SLOW_S:
                    if start - before < SLOW_BYTES:
                        raise TooSlow(f"{start - before} bytes in {now - since:.0f} s")
                    since, before = now, start
            f.flush()
            os.fsync(f.fileno())
