"""The log of a run: all code that ran, the environment, the events, how it ended (docs/log_format.md)."""
import ast
import errno
import fcntl
import functools
import hashlib
import json
import math
import os
import secrets
import sys
import tempfile
import threading
import time
from pathlib import Path

RULE = "=" * 100
SPARE_BYTES = 1 << 16
SOURCE_BYTES = 1 << 22  # the largest file; a reader may refuse longer lines and logs of over 64 MiB
TEXT_CHARACTERS = 1 << 12  # of one line of text; what is longer goes on in the next line
ROOT = Path(__file__).resolve().parent.parent


def canonical(value: dict) -> str:
    """Return a line of JSON: keys sorted, no spaces, ASCII, full precision, non-finite numbers as strings."""
    def finite(v):
        if isinstance(v, float) and not math.isfinite(v):
            return str(v)
        if isinstance(v, dict):
            return {str(k): finite(w) for k, w in v.items()}
        return [finite(w) for w in v] if isinstance(v, (list, tuple)) else v
    return json.dumps(finite(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def read_source(path: Path, script: bool = False) -> bytes:
    """Return the bytes of a source file that a log can carry and give back.

    Raises ValueError for NUL, CR, what is not UTF-8, 4 MiB and more and, in the entry script, which is ripped
    with sed, a bare rule line or a missing final newline.
    """
    source = path.read_bytes()
    found = "a NUL byte" if b"\0" in source else "a carriage return" if b"\r" in source else None
    if len(source) >= SOURCE_BYTES:
        found = f"{len(source)} bytes, expected fewer than {SOURCE_BYTES}"
    try:
        source.decode("utf-8")
    except UnicodeDecodeError as error:
        found = f"a byte that is not UTF-8 at offset {error.start}"
    if script and not found:
        lines = source.split(b"\n")
        if RULE.encode() in lines:
            found = f"a line of exactly 100 '=' (line {lines.index(RULE.encode()) + 1})"
        elif lines[-1]:
            found = "no newline at its end"
        elif not (first := first_import(source)).split(".")[0] == "harness":
            raise ValueError(f"{path.name} imports {first} first; the harness must come first")
    if found:
        raise ValueError(f"{path.name} has {found}; a log could not give the file back, mend it first")
    return source


def first_import(source: bytes) -> str:
    """Return the name of the first module that a script imports, 'nothing' where it imports none."""
    try:
        body = ast.parse(source).body
    except SyntaxError as error:
        raise ValueError(f"not Python of this version: line {error.lineno}: {error.msg}") from None
    names = (node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
             for node in body if isinstance(node, (ast.Import, ast.ImportFrom)))
    return next((name for name in names if name != "__future__"), None) or "nothing"


def is_ours(path: Path) -> bool:
    """Tell whether a file is the project's: under the repository root, in no environment made there."""
    prefixes = {Path(sys.prefix), Path(sys.prefix).resolve()} - {ROOT}  # .venv may be a link
    inside = any(prefix.is_relative_to(ROOT) and path.is_relative_to(prefix) for prefix in prefixes)
    return path.is_relative_to(ROOT) and not inside


@functools.cache  # of some 2,000 modules, at every validation
def _own_file(file: str) -> Path | None:
    """Return where a module's file lies, if it is a source of the project's."""
    path = Path(file).resolve()
    return path if is_ours(path) and Path(file).is_absolute() and path.suffix == ".py" else None


def loaded_files() -> dict[str, Path]:
    """Return the project's files among the loaded modules: path relative to the repository root -> file."""
    files = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
    paths = {path for file in files if file and (path := _own_file(file))}
    return {path.relative_to(ROOT).as_posix(): path for path in sorted(paths)}


def new_run_id(code_digest: str) -> str:
    """Return <UTC time>_<code8>_<rand6>."""
    return f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}_{code_digest[:8]}_{secrets.token_hex(3)}"


class RunLog:
    """One log file, created exclusively, written in whole lines, unbuffered; none where folder is None.

    Safe to call from several threads. A line that cannot be written raises OSError; no part of it stays.
    """

    def __init__(self, folder: Path | None, run_id: str):
        self.run_id = run_id
        self.path = None if folder is None else folder / f"{run_id}.txt"
        self._end: dict | None = None
        self._lock = threading.RLock()
        self._digest, self._size, self._events = hashlib.sha256(), 0, 0
        self._fd, self._spare = None, None
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            self._spare = tempfile.TemporaryFile(dir=folder)  # given up for the end line; has no name
            self._spare.write(bytes(SPARE_BYTES))
            self._spare.flush()
            tell(log=str(self.path))  # before there is one
            self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)

    def write(self, data: bytes) -> None:
        """Append whole lines; nothing once the end line stands."""
        with self._lock:
            if self._fd is None:
                return
            done = 0
            try:
                while done < len(data):
                    done += os.write(self._fd, data[done:])
            except OSError:
                os.ftruncate(self._fd, self._size)  # a reader finds whole lines
                raise
            self._size += len(data)
            self._digest.update(data)

    def line(self, text: str) -> None:
        """Append one line as it stands; for the harness only."""
        self.write(text.encode() + b"\n")

    def event(self, kind: str, /, **fields) -> None:
        """Append `#:kind {...}` with its number in the sequence of events."""
        with self._lock:
            self.line(f"#:{kind} {canonical({**fields, 'seq': self._events + 1})}")
            self._events += 1

    def text(self, text: str) -> None:
        """Append what a submission says, each line behind '> ', so that it can look like nothing else.

        Every character at which some reader or terminal breaks a line breaks it here; others that do not
        print are written as in a Python string.
        """
        for line in text.splitlines() or [""]:
            shown = "".join(c if c.isprintable() or c == "\t" else ascii(c)[1:-1] for c in line)
            for begin in range(0, len(shown) or 1, TEXT_CHARACTERS):
                self.line("> " + shown[begin:begin + TEXT_CHARACTERS])

    def sources(self, script: bytes, manifest: dict, files: dict[str, bytes], environment: list[str]) -> None:
        """Append everything above the second rule: the script, the manifest, the project's other files.

        Where it cannot be written the log is ended before the OSError goes on.
        """
        if self.path:
            count_attempt(self.path, "start", track=manifest["track"], seed=manifest["seed"],
                          code=manifest["code"]["digest"])
        try:
            self.write(script)
            self.line(RULE)
            self.event("manifest", **manifest)
            for path, source in files.items():
                self.file(path, source)
            for line in environment:
                self.line(line)
            self.line(RULE)
        except OSError as error:
            status = "disk_full" if is_disk_full(error) else "failed"
            self.end(status, type=type(error).__name__, message=str(error))
            raise

    def file(self, path: str, source: bytes) -> None:
        """Append one project file, every line behind a bar; `bytes` tells whether it ends in a newline."""
        head = canonical({"path": path, "bytes": len(source), "sha256": sha256(source)})
        lines = b"".join(b"|" + line + b"\n" for line in source.removesuffix(b"\n").split(b"\n"))
        with self._lock:
            self.write(f"#:file {head}\n".encode() + lines + b"#:endfile\n")
            self._events += 1

    def end(self, status: str, **fields) -> dict:
        """Append `#:end`, whose sha256 covers every byte above, and return its fields.

        The sha256 of the whole log is told to the launcher, which writes the ledger's end line when no rank
        is left; where none listens, that line is written here. Later calls change nothing. What cannot be
        written, though the spare bytes are given up, is told in the field `unwritten`, and by the status if
        it was to be ok.
        """
        with self._lock:
            if self._end is None:
                self._end = {"status": status, **fields}
                if self._fd is not None:
                    self._spare.truncate(0)  # room for the line, also where a forked process has it open
                    self._spare.close()
                    line = canonical({**self._end, "seq": self._events + 1,
                                      "sha256": self._digest.hexdigest()})
                    try:
                        self.write(f"#:end {line}\n".encode())
                    except OSError as error:
                        self._end["unwritten"] = str(error)
                        if is_disk_full(error) and status in ("ok", "stopped"):
                            self._end["status"] = "disk_full"
                    os.close(self._fd)
                    self._fd = None
                facts = {"status": self._end["status"], "sha256": self._digest.hexdigest()}
                if self.path and not tell(log=str(self.path), **facts):
                    count_attempt(self.path, "end", **facts)
            return self._end


def count_attempt(log: Path, what: str, **fields) -> None:
    """Append a line to the ledger beside a log, which counts the attempts that nobody submitted."""
    ledger = log.with_name("ledger.jsonl")
    entry = canonical({"what": what, "run_id": log.stem, "realtime_ns": time.time_ns(), **fields}) + "\n"
    try:
        with open(ledger, "ab", buffering=0) as f:
            fcntl.flock(f, fcntl.LOCK_EX)
            size = os.fstat(f.fileno()).st_size
            if f.write(entry.encode()) < len(entry):
                f.truncate(size)  # whole lines only
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        print(f"{ledger.name}: {error}; this attempt's {what} is not counted", file=sys.stderr)


@functools.cache  # the runs of a process share it
def _launcher(path: str) -> int | None:
    """Return the way to the launcher; from then on no path leads there any more."""
    try:
        try:
            return os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        finally:
            os.unlink(path)  # where the launcher is gone nobody else does
    except OSError:
        return None


def tell(**facts) -> bool:
    """Tell the launcher something of a log; False where none listens: started otherwise, or it is gone."""
    fd = _launcher(os.environ.get("SPEEDRUN_TOLD", ""))
    line = canonical(facts).encode() + b"\n"
    try:
        return fd is not None and os.write(fd, line) == len(line)
    except OSError:
        return False


def sha256(data: bytes) -> str:
    """Return the hexadecimal sha256 of some bytes."""
    return hashlib.sha256(data).hexdigest()


def is_disk_full(error: BaseException) -> bool:
    """Tell whether an error says that nothing more can be written: no space, quota, file size limit."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
