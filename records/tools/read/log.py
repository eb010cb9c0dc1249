"""Reads the log of a run, format 1 (docs/log_format.md). It may be a stranger's: nothing in it is trusted."""
import hashlib
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any

from records.tools.read.values import ReadError, need, number, parse_json, shown

RULE = b"=" * 100
FILE_BYTES, LINE_BYTES, JSON_BYTES = 1 << 26, 1 << 22, 1 << 23
LINES = VALUES = 1 << 20  # in a file; JSON values in its events: 64 MiB of "[]," would take 1.5 GB of memory
NUMBER = r"(-?(?:\d+(?:\.\d+)?|inf|nan))"
STEP = re.compile(rf"step:(\d{{1,15}})/(\d{{1,15}}) (train|val)_loss:{NUMBER} "
                  rf"train_time:(\d{{1,20}})ms step_avg:{NUMBER}ms", re.ASCII)
EVENT = re.compile(rb"^#:(?:manifest|val|end) ", re.MULTILINE)


class ChangedLog(ReadError):
    """A log that is not what the harness wrote: a sha256 in it does not match."""


@dataclass(frozen=True, slots=True)
class Step:
    """A `step:` line, made for people: losses rounded to four digits, times in whole milliseconds."""

    step: int
    last_step: int
    train_loss: float | None  # one of the two
    val_loss: float | None
    train_time_ms: int
    step_avg_ms: float  # nan at step 0


@dataclass(frozen=True, slots=True)
class Val:
    """A `#:val` event, made for machines: full precision."""

    step: int
    val_loss: float
    tokens: int  # taken before this validation
    train_time_ns: int
    weights: str | None = None  # digest of all weights


@dataclass(frozen=True, slots=True)
class Event:
    """A `#:kind {...}` line, as it stands: non-finite numbers are strings, see number()."""

    kind: str
    fields: dict[str, Any]


@dataclass(frozen=True, slots=True)
class File:
    """A project file that the run had loaded."""

    source: bytes
    sha256: str


@dataclass
class Log:
    """What a log says. One cut inside its script has no manifest; one without end is an incomplete run's."""

    path: Path
    script: bytes = b""
    manifest: dict[str, Any] = field(default_factory=dict)
    files: dict[str, File] = field(default_factory=dict)
    environment: list[str] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    vals: list[Val] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)  # all of them, those above too, in order
    text: list[str] = field(default_factory=list)  # what the submission said
    end: dict[str, Any] | None = None

    @property
    def script_path(self) -> str:
        """The script's path, relative to the repository; its name where it lay elsewhere."""
        return str(self.manifest.get("script"))

    @property
    def status(self) -> str:
        """How the run ended; "incomplete" where there is no end line."""
        return (self.end or {}).get("status", "incomplete")

    @property
    def track(self) -> dict[str, Any]:
        """The row of the run's track: its target, baselines, data; empty where the manifest has none."""
        row = self.manifest.get("track_row")
        return row if isinstance(row, dict) else {}


def is_log(data: bytes) -> bool:
    """Tell whether bytes are a log of format 1, whole, cut off below its first rule or damaged."""
    return EVENT.search(data) is not None


def read_log(path: str | Path, data: bytes | None = None) -> Log:
    """Return what a log says; a file that was cut off is read up to its last whole line.

    data: the bytes of the file, where they were read before.

    Raises ReadError, in one line, for anything that the harness cannot have written, and ChangedLog where a
    sha256 does not match.
    """
    path = Path(path)
    parser = _Parser(Log(path), read_bytes(path) if data is None else data)
    try:
        return parser.parse()
    except (ReadError, UnicodeDecodeError) as error:
        kind = type(error) if isinstance(error, ReadError) else ReadError
        raise kind(f"{shown(path.name)}: {parser.place}{error}") from None


def read_bytes(path: Path) -> bytes:
    """Return the bytes of an ordinary file of at most 64 MiB; follows no symbolic link, opens no device."""
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
        with open(handle, "rb") as f:
            about = os.fstat(handle)
            ordinary = stat.S_ISREG(about.st_mode)
            data = f.read(FILE_BYTES + 1) if ordinary and about.st_size <= FILE_BYTES else b""  # it may grow
    except (OSError, ValueError) as error:
        reason = "a symbolic link" if os.path.islink(path) else getattr(error, "strerror", None) or error
        raise ReadError(f"{shown(path.name)}: cannot be read ({reason})") from None
    if not ordinary:
        raise ReadError(f"{shown(path.name)}: not an ordinary file")
    if max(about.st_size, len(data)) > FILE_BYTES:
        raise ReadError(f"{shown(path.name)}: more than {FILE_BYTES} bytes; a log has at most that many")
    return data


def read_json(path: Path, fields: dict[str, type] | None = None) -> dict[str, Any]:
    """Return the JSON object in a file, which has these fields, each of its type; an error names the file."""
    data = read_bytes(path)
    try:
        if len(data) > JSON_BYTES:
            raise ReadError(f"more than {JSON_BYTES} bytes; a file of ours has at most that many")
        found = parse_json(data.decode(errors="replace"))
        for name, kind in (fields or {}).items():
            need(found, name, kind)
    except ReadError as error:
        raise ReadError(f"{shown(path.name)}: {error}") from None
    return found


class _Parser:
    """Takes the lines of a log one after the other and fills a Log."""

    def __init__(self, log: Log, data: bytes):
        self.log, self.data, self.values = log, data, 0
        self.place = ""  # in the log, for errors
        self.lines = self._lines()

    def _lines(self) -> Iterator[bytes]:
        """Yield each whole line, one at a time: a list of 64 MiB of newlines takes 540 MB."""
        number = start = 0
        while (end := self.data.find(b"\n", start)) >= 0:  # what follows the last newline is no whole line
            number, size, self.place = number + 1, end - start, ""
            if size > LINE_BYTES or number > LINES:
                raise ReadError(f"line {number} has {size} bytes, expected at most {LINE_BYTES} in "
                                f"{LINES} lines")
            self.place = f"line {number}: "
            if self.data.find(b"\0", start, end) >= 0 or self.data.find(b"\r", start, end) >= 0:
                raise ReadError("a NUL or a carriage return; the harness writes neither")
            yield self.data[start:end]
            start = end + 1
        self.place = ""

    def parse(self) -> Log:
        """Read all lines. Raises ReadError for the first one that is wrong."""
        log, head = self.log, True  # head: above the second rule
        log.script = self.data[:sum(len(line) + 1 for line in takewhile(RULE.__ne__, self.lines))]
        for line in self.lines:
            if not log.manifest and not line.startswith(b"#:manifest "):
                raise ReadError("expected #:manifest below the first rule")
            if line.startswith(b"#:"):
                self._event(line)
            elif head and line == RULE:
                head = False
            elif head:
                log.environment.append(line.decode(errors="replace"))
            elif line.startswith(b"> "):
                log.text.append(line[2:].decode(errors="replace"))
            elif match := STEP.fullmatch(line.decode()):
                step, last, kind, loss, time_ms, average = match.groups()
                train, val = (number(loss), None) if kind == "train" else (None, number(loss))
                log.steps.append(Step(int(step), int(last), train, val, int(time_ms), number(average)))
            else:
                raise ReadError(f"{shown(line.decode(errors='replace'))} is no line of a log")
        if not log.manifest and EVENT.search(self.data[:self.data.rfind(b"\n") + 1]):
            raise ReadError("events, but no rule with a manifest below it; something changed its lines")
        return log

    def _event(self, line: bytes) -> None:
        log, (kind, _, text) = self.log, line[2:].decode().partition(" ")
        self.values += sum(map(text.count, ",[{"))
        if self.values > VALUES:
            raise ReadError(f"more than {VALUES} values in the events; a log has at most that many")
        fields = parse_json(text)
        log.events.append(Event(kind, fields))
        if kind == "manifest":
            if log.manifest or fields.get("format") != 1:
                raise ReadError("a second manifest" if log.manifest else
                                f"format {shown(str(fields.get('format')))}, this reader knows format 1")
            log.manifest, code = fields, fields.get("code")
            if not isinstance(code, dict) or code.get("script") != sha256(log.script):
                raise ChangedLog("the script above is not the one whose sha256 the manifest gives")
        elif kind == "file":
            self._file(need(fields, "path", str), need(fields, "bytes", int), need(fields, "sha256", str))
        elif kind == "val":
            log.vals.append(Val(need(fields, "step", int), number(fields.get("val_loss")),
                                need(fields, "tokens", int), need(fields, "train_time_ns", int),
                                fields.get("weights")))
        elif kind == "end":
            need(fields, "status", str)
            above = self.data.removesuffix(line + b"\n")
            if len(above) == len(self.data):
                raise ReadError("something stands below the end line")
            if sha256(above) != need(fields, "sha256", str):
                raise ChangedLog("the lines above are not those whose sha256 the end line gives")
            log.end = fields

    def _file(self, path: str, size: int, digest: str) -> None:
        """Take the lines of a file, unless the log was cut off inside it."""
        if path in self.log.files:
            raise ReadError(f"a second file {shown(path)}")
        bars = []
        for line in self.lines:
            if line == b"#:endfile":
                source = b"\n".join(bars) + b"\n"
                source = source[:-1] if len(source) == size + 1 else source
                if len(source) != size or sha256(source) != digest:
                    raise ChangedLog(f"file {shown(path)} is not the one whose sha256 stands above it")
                self.log.files[path] = File(source, digest)
                return
            if not line.startswith(b"|"):
                raise ReadError("expected a line behind a bar, or #:endfile")
            bars.append(line[1:])


def sha256(data: bytes) -> str:
    """Return the hexadecimal sha256 of some bytes."""
    return hashlib.sha256(data).hexdigest()
