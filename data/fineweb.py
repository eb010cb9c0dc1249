"""Tokenise text with GPT-2's BPE into shards: FineWeb from the hub, or parquet, jsonl and plain text files.

    files -> documents -> batches -> processes -> token 50256 before each document -> shards -> manifest.json

Shard 0 is the validation set, the others train; documents run on across shards. The shards are a function of
the documents, `--shard_tokens` and `--val_tokens` alone, whatever the number of processes.
"""
import argparse
import fcntl
import functools
import json
import multiprocessing
import os
import re
import shutil
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

if __name__ == "__main__":  # run as a file, python puts data/ on the path, not the repository
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from data import hub
from data.bpe import encoding
from data.documents import SUFFIXES, DataError, documents, local_files, open_parquet
from harness.shards import CACHE_NAME, HEADER_BYTES, write_atomically, write_shard

VOCAB = Path(__file__).resolve().parent / "gpt2" / "vocab.bpe"
MEANT = "finweb_edu"  # so PyLO's page calls the first 10 G tokens of FineWeb-Edu, remote and local
BATCH_CHARS, BATCH_DOCUMENTS = 1 << 20, 1000
SHARD_NAME = re.compile(r".+_(val|train)_\d{6}\.bin")


class Corpus(NamedTuple):
    """Files in the order in which they are read, and where they come from."""

    files: list[Path]
    source: str
    revision: str | None


def main(argv: list[str] | None = None) -> int:
    """Return the exit code: 0 shards written; 2 an error, 130 Ctrl-C or SIGTERM: nothing written."""
    args = parse(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        forbid_overwriting(args.output, args.overwrite)
        eot_token = load_encoding().eot_token
        corpus = hub_corpus(args) if args.hub else Corpus(local_files(args.inputs), "local files", None)
        for path in corpus.files:
            if path.suffix == ".parquet":  # a wrong column shows before hours of work
                open_parquet(path, args.column).close()
        with staged(args.output) as stage:
            files = build(corpus, args, stage, eot_token)
            publish(stage, args.output)
    except KeyboardInterrupt:
        print("fineweb: stopped, nothing written", file=sys.stderr)
        return 130
    except (DataError, hub.HubError, OSError) as error:
        print(f"fineweb: {hub.first_line(error, args.output)}", file=sys.stderr)
        return 2
    tokens = sum(file["tokens"] for file in files.values())
    print(f"{args.output}: 1 validation and {len(files) - 1} train shards, {tokens} tokens")
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Return the arguments, checked."""
    parser = argparse.ArgumentParser(
        description="Tokenise text files, or a data set of the hub, with GPT-2's BPE into token shards.",
        epilog="example: python data/fineweb.py --hub HuggingFaceFW/fineweb --name sample-10BT "
               "--output data/fineweb10B", formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("inputs", nargs="*", type=Path,
        help=f"files ({', '.join(SUFFIXES)}; a .txt is one document) or folders of them")
    add("--hub", metavar="REPO", help="read a data set of the hub instead, such as HuggingFaceFW/fineweb-edu")
    add("--name", "--remote_name", default="default",
        help="its configuration, such as sample-10BT (default: default); PyLO's finweb_edu is that one of "
             "HuggingFaceFW/fineweb-edu")
    add("--output", type=Path, help="folder for the shards; downloads go to source/ in it")
    add("--local_name", dest="output", type=local_folder,
        help="the same, a folder of data/; PyLO's finweb_edu is fineweb_edu10B")
    add("--prefix", default="fineweb", help="of the names: PREFIX_val_000000.bin, PREFIX_train_000001.bin")
    add("--column", default="text", help="the column or key that holds the text (default: text)")
    add("--articles", action="store_true", help="rows are lines of articles: WikiText's parquet")
    add("--shard_tokens", type=int, default=100_000_000, help="tokens a shard (default: 100_000_000)")
    add("--val_tokens", type=int, help="tokens of shard 0, which validates (default: --shard_tokens)")
    add("--processes", type=int, default=os.cpu_count() or 1, help="that tokenise (default: one a core)")
    add("--overwrite", action="store_true", help="replace the shards that the output folder holds")
    args = parser.parse_args(argv)
    if args.name == MEANT:
        args.hub, args.name = "HuggingFaceFW/fineweb-edu", "sample-10BT"
    if args.output is None:
        parser.error("give --output FOLDER for the shards")
    if bool(args.inputs) == bool(args.hub):
        parser.error("give files or folders to read, or --hub REPO; one of the two")
    args.val_tokens = args.shard_tokens if args.val_tokens is None else args.val_tokens
    if not 1 <= args.val_tokens <= args.shard_tokens:
        parser.error(f"val_tokens={args.val_tokens}, expected 1 to shard_tokens={args.shard_tokens}")
    if not 1 <= args.shard_tokens < 2**31:
        parser.error(f"shard_tokens={args.shard_tokens}, expected 1 to {2**31 - 1}")
    if args.processes < 1:
        parser.error(f"processes={args.processes}, expected at least 1")
    if not re.fullmatch(r"[\w-]+", args.prefix):
        parser.error(f"prefix={args.prefix!r}, expected letters, digits, '_' and '-'")
    return args


def local_folder(name: str) -> Path:
    """Return the folder of data/ by PyLO's name, or by its own."""
    return VOCAB.parents[1] / ("fineweb_edu10B" if name == MEANT else name)


def forbid_overwriting(folder: Path, overwrite: bool) -> None:
    """Raise DataError where folder already holds shards, unless they may be replaced."""
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder}: a file, expected a folder for the shards; choose another --output")
    if not overwrite and (held := old_shards(folder)):
        raise DataError(f"{folder}: already holds {held[0].name}; choose another --output, or pass "
                        "--overwrite to replace what is there")


def old_shards(folder: Path) -> list[Path]:
    """Return the shards, manifest and scan cache in a folder."""
    names = ("manifest.json", CACHE_NAME)
    return sorted(path for path in folder.glob("*") if path.name in names or SHARD_NAME.fullmatch(path.name))


@contextmanager
def staged(output: Path) -> Iterator[Path]:
    """Yield an empty folder beside output that is gone afterwards; a killed process's one is emptied first.

    Raises DataError while another process, known by its lock, builds the same output."""
    stage = output.parent / f".{output.name}.part"
    stage.mkdir(parents=True, exist_ok=True)
    with open(stage / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.fstat(lock.fileno()).st_nlink:  # its holder has just removed it
                raise BlockingIOError
        except BlockingIOError:
            raise DataError(f"{output}: another process is writing it; wait for that one, or choose another "
                            "--output") from None
        try:
            for left in stage.iterdir():
                if left.name != "lock":
                    left.unlink()
            yield stage
        finally:
            shutil.rmtree(stage, ignore_errors=True)


def publish(stage: Path, folder: Path) -> None:
    """Move finished shards into folder in place of those there, the manifest last."""
    folder.mkdir(exist_ok=True)
    for path in old_shards(folder):
        path.unlink()
    for path in sorted(stage.glob("*.bin")) + [stage / "manifest.json"]:
        os.replace(path, folder / path.name)


def hub_corpus(args: argparse.Namespace) -> Corpus:
    """Download the parquet files of a data set's configuration into output/source, those not there yet."""
    revision, configs = hub.revision_and_configs(args.hub)
    if args.name not in configs:
        raise DataError(f"{args.hub}: no configuration {args.name!r}; pass --name NAME, one of: "
                        f"{', '.join(sorted(configs))}")
    remote: dict[str, hub.RemoteFile] = {}
    for pattern in configs[args.name]:
        folder = "/".join(part for part in re.split(r"[*?\[]", pattern)[0].split("/")[:-1])
        listed = hub.list_files(args.hub, revision, folder or None)
        remote |= {path: file for path, file in listed.items()
                   if fnmatchcase(path, pattern) and path.endswith(".parquet")}
    if not remote:
        raise DataError(f"{args.hub}: {args.name} has no parquet files at {', '.join(configs[args.name])}")
    folder = args.output / "source"
    files = [remote[path] for path in sorted(remote)]
    for file in hub.fetch(args.hub, revision, hub.lacking(files, folder), folder, threads=4):
        print(f"{file.path}: downloaded", file=sys.stderr)
    return Corpus([folder / file.path for file in files], f"{args.hub} {args.name}", revision)


def build(corpus: Corpus, args: argparse.Namespace, stage: Path, eot_token: int) -> dict[str, dict]:
    """Write shards and manifest into stage. Return the manifest's entry of each shard."""
    texts = (text for path in corpus.files for text in documents(path, args.column, args.articles))
    with tqdm(unit=" tokens", unit_scale=True, file=sys.stderr,
              mininterval=0.5 if sys.stderr.isatty() else 10) as progress:
        pieces = encoded(texts, args.processes)
        try:
            files, n_documents = write_shards(pieces, stage / args.prefix, args.val_tokens, args.shard_tokens,
                                              eot_token, progress.update)
        finally:
            pieces.close()
    total = sum(file["tokens"] for file in files.values())
    if len(files) < 2:
        raise DataError(f"{total} tokens in {n_documents} documents, expected more than shard_tokens="
                        f"{args.shard_tokens}, or none is left to train on; pass a smaller --shard_tokens")
    manifest = {"source": corpus.source, "revision": corpus.revision, "files": files, "tokenizer": "gpt2",
                "documents": n_documents, "inputs": [path.name for path in corpus.files]}
    write_atomically(stage / "manifest.json", (json.dumps(manifest, indent=1) + "\n").encode())
    return files


def encoded(texts: Iterable[str], processes: int) -> Iterator[np.ndarray]:
    """Yield the tokens of batches of documents, in order, uint16. Holds a few batches a process at a time."""
    # spawn: pyarrow's threads do not survive a fork
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), follow_parent)
    window: deque = deque()
    try:
        for batch in batches(texts):
            window.append(pool.submit(encode, batch))
            if len(window) > 4 * processes:
                yield window.popleft().result()
        while window:
            yield window.popleft().result()
    except BrokenProcessPool:
        raise DataError("a tokenising process died, perhaps out of memory; pass fewer --processes") from None
    finally:
        pool.shutdown(cancel_futures=True)


def follow_parent() -> None:
    """In a worker: leave Ctrl-C to the parent, and end when the parent does, even by SIGKILL."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def wait_for_its_end() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait_for_its_end, daemon=True).start()


def batches(texts: Iterable[str]) -> Iterator[list[str]]:
    """Group documents into lists of about BATCH_CHARS characters."""
    batch, chars = [], 0
    for text in texts:
        batch.append(text)
        chars += len(text)
        if chars >= BATCH_CHARS or len(batch) >= BATCH_DOCUMENTS:
            yield batch
            batch, chars = [], 0
    if batch:
        yield batch


def encode(texts: list[str]) -> np.ndarray:
    """Return the tokens of documents, each behind the end-of-text token, whose name in a text is plain."""
    gpt2, tokens = load_encoding(), []
    for text in texts:
        tokens.append(gpt2.eot_token)
        tokens += gpt2.encode_ordinary(text)
    return np.array(tokens, dtype=np.uint16)


def write_shards(pieces: Iterable[np.ndarray], prefix: Path, val_tokens: int, shard_tokens: int,
                 eot_token: int, advance: Callable[[int], object]) -> tuple[dict[str, dict], int]:
    """Cut a stream of tokens into shards. Return manifest entries by file name, and how many documents."""
    files: dict[str, dict] = {}
    buffer, filled, n_documents = np.empty(shard_tokens, dtype=np.uint16), 0, 0

    def save() -> None:
        path = prefix.with_name(f"{prefix.name}_{'train' if files else 'val'}_{len(files):06d}.bin")
        sha256 = write_shard(path, buffer[:filled])
        files[path.name] = {"bytes": HEADER_BYTES + 2 * filled, "tokens": filled, "sha256": sha256}

    for piece in pieces:
        n_documents += int((piece == eot_token).sum())
        advance(len(piece))
        while len(piece):
            size = shard_tokens if files else val_tokens
            n = min(size - filled, len(piece))
            buffer[filled:filled + n] = piece[:n]
            piece, filled = piece[n:], filled + n
            if filled == size:
                save()
                filled = 0
    if filled:
        save()
    return files, n_documents


@functools.cache
def load_encoding() -> Any:
    """Return GPT-2's encoding, from the vocabulary in the repository. Loaded once a process."""
    try:
        import pyarrow  # noqa: F401
        return encoding(VOCAB)
    except ImportError as error:
        raise DataError(f"{error.name} is not installed; `pip install -r data/requirements.txt`") from None


if __name__ == "__main__":
    sys.exit(main())
