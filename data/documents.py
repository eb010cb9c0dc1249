"""Files to documents: parquet, jsonl (plain, .gz, .zst), plain text, WikiText's .raw, read as a stream.

Every error is a DataError of one line that names the file, and the line or row.
"""
import gzip
import io
import json
import re
import sys
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from data.hub import first_line

SUFFIXES = (".parquet", ".jsonl", ".jsonl.gz", ".jsonl.zst", ".txt", ".raw")
TITLE = re.compile("= [^=](.*[^=])? =")  # of a WikiText article; its sections have more signs
MAX_TEXT_BYTES = 1 << 26  # a text file is one document, tokenised in one piece


class DataError(ValueError):
    """The input cannot be read as documents, or the output would harm something."""


def local_files(inputs: list[Path]) -> list[Path]:
    """Return the files to read: inputs in the order given, folders unfolded in the order of their paths."""
    files: list[Path] = []
    for path in inputs:
        if path.is_dir():
            inside = sorted((p for p in path.rglob("*") if p.is_file()), key=lambda p: p.as_posix())
            found = [p for p in inside if p.name.endswith(SUFFIXES)]
            if not found:
                raise DataError(f"{path}: no file in it ends in {', '.join(SUFFIXES)}; name another folder")
            if len(found) < len(inside):
                print(f"{path}: passing over {len(inside) - len(found)} files that end in none of "
                      f"{', '.join(SUFFIXES)}", file=sys.stderr)
            files += found
        elif not path.exists():
            raise DataError(f"{path}: no such file or folder")
        elif not path.is_file():
            raise DataError(f"{path}: no regular file (a pipe, a device?); copy what it gives into a file")
        elif not path.name.endswith(SUFFIXES):
            raise DataError(f"{path}: ends in none of {', '.join(SUFFIXES)}; convert or rename it")
        else:
            files.append(path)
    return files


def documents(path: Path, column: str, joined: bool = False) -> Iterator[str]:
    """Yield the documents of a file; joined: rows are lines of WikiText's articles, as a .raw's are.

    DataError names the file, and the line or row that cannot be read.
    """
    if path.name.endswith(".txt"):
        return iter([text_document(path)])
    if path.name.endswith(".raw"):
        return articles(raw_lines(path))
    rows = (parquet_documents if path.name.endswith(".parquet") else jsonl_documents)(path, column)
    return articles(rows) if joined else rows


def articles(lines: Iterable[str]) -> Iterator[str]:
    """Yield WikiText's articles, line ends and all: each begins with its title."""
    article: list[str] = []
    for line in lines:
        if TITLE.fullmatch(line.strip()) and "".join(article).strip():
            yield "".join(article)
            article = []
        article.append(line or " \n")  # a table's blank line
    yield "".join(article)


def raw_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a text file."""
    number = 0
    try:
        with open(path, encoding="utf-8", newline="\n") as file:
            for number, line in enumerate(file, start=1):
                yield line
    except UnicodeDecodeError as error:
        raise DataError(f"{path}, after line {number}: not UTF-8 ({error.reason}); convert it") from None


def text_document(path: Path) -> str:
    """Return a text file as one document, line ends and all."""
    if path.stat().st_size > MAX_TEXT_BYTES:
        raise DataError(f"{path}: {path.stat().st_size} bytes; a text file is one document, of at most "
                        f"{MAX_TEXT_BYTES}: put one document a line into a .jsonl")
    raw = path.read_bytes()
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}, line {line}: not UTF-8 ({error.reason}); convert the file") from None


def jsonl_documents(path: Path, column: str) -> Iterator[str]:
    """Yield one key of each line of a .jsonl, .jsonl.gz or .jsonl.zst. Blank lines are no documents."""
    number = 0
    try:
        with open_lines(path) as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                record = json.loads(line)
                text = record.get(column) if isinstance(record, dict) else None
                if not isinstance(text, str):
                    found = f"keys {', '.join(record)}" if isinstance(record, dict) else type(record).__name__
                    raise DataError(f"{path}, line {number}: no text under {column!r} (found {found}); "
                                    "pass --column NAME")
                yield text
    except DataError:
        raise
    except (ValueError, RecursionError) as error:  # also an integer longer than Python converts
        raise DataError(f"{path}, line {number}: not JSON ({first_line(error)}); repair the line") from None
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}, after line {number}: damaged ({first_line(error)}); get it again") from None


def open_lines(path: Path) -> Any:
    """Return a binary stream of a file, decompressed."""
    if path.suffix == ".gz":
        return gzip.open(path)
    if path.suffix == ".zst":
        import pyarrow
        return io.BufferedReader(pyarrow.CompressedInputStream(pyarrow.OSFile(str(path)), "zstd"))
    return open(path, "rb")


def open_parquet(path: Path, column: str) -> Any:
    """Return an open ParquetFile after checking that the column is there and holds text."""
    import pyarrow
    from pyarrow import parquet, types
    try:
        file = parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: not readable as parquet ({first_line(error)}); get it again") from None
    schema = file.schema_arrow
    if column not in schema.names:
        raise DataError(f"{path}: no column {column!r} (found {', '.join(schema.names)}); pass --column NAME")
    kind = schema.field(column).type
    if not (types.is_string(kind) or types.is_large_string(kind)):
        raise DataError(f"{path}: column {column!r} holds {kind}, expected string; pass --column NAME")
    return file


def parquet_documents(path: Path, column: str) -> Iterator[str]:
    """Yield one column of a parquet file, a few hundred rows at a time beyond what pyarrow buffers."""
    import pyarrow
    row = 0
    try:
        with open_parquet(path, column) as file:
            for batch in file.iter_batches(batch_size=256, columns=[column]):
                for text in batch.column(0):
                    row += 1
                    if not text.is_valid:
                        raise DataError(f"{path}, row {row}: null under {column!r}, expected text; remove it")
                    yield text.as_py()
    except (pyarrow.ArrowException, UnicodeDecodeError, OSError) as error:
        raise DataError(f"{path}, after row {row}: damaged ({first_line(error)}); get it again") from None
