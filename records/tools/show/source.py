"""How the sources of two runs differ: lines of a unified diff, or their number, as git finds them."""
import os
import re
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from records.tools.read.run import Run
from records.tools.read.values import ReadError, shown

MOST = 1000  # letters of a line that are shown


@dataclass
class FileDiff:
    """A file that differs: its name on each side (None: not there), its lines, safe to print."""

    a: str | None
    b: str | None
    old: bytes
    new: bytes
    lines: list[str] = field(default_factory=list)  # of a unified diff
    added: int = 0
    removed: int = 0

    @property
    def facts(self) -> dict[str, Any]:
        """What `diff --json` says of it."""
        return {name: getattr(self, name) for name in ("a", "b", "lines", "added", "removed", "harness")}

    @property
    def name(self) -> str:
        """Both names, fit for a terminal."""
        return shown(self.b or "" if self.a in (self.b, None) else f"{self.a} => {self.b or 'none'}", 200)

    @property
    def harness(self) -> bool:
        """Whether the file is the harness's, not the submission's."""
        return str(self.a or self.b).startswith("harness/")


def file_diffs(a: Run, b: Run) -> list[FileDiff]:
    """Return the files that differ, the entry script first, yet without lines; none without code."""
    if a.code is None or b.code is None:
        return []
    names = sorted(a.files.keys() | b.files.keys(), key=lambda name: (name.startswith("harness/"), name))
    found = [FileDiff(script_name(a), script_name(b), a.code, b.code)] if a.code != b.code else []
    for name in names:
        if (old := a.files.get(name)) != (new := b.files.get(name)):
            found.append(FileDiff(None if old is None else name, None if new is None else name,
                                  old or b"", new or b""))
    return found


def add_lines(diffs: list[FileDiff]) -> None:
    """Add to each file the lines of its diff, cut, escapes visible. Raises ReadError as git_diff does."""
    for diff in diffs:
        diff.lines += [f"--- {f'a/{shown(diff.a, 200)}' if diff.a else 'none'}",
                       f"+++ {f'b/{shown(diff.b, 200)}' if diff.b else 'none'}"]
    number, in_hunk = 0, False
    for line in git_diff(diffs, "--no-color"):
        if line.startswith(b"diff --git "):  # no line of content begins so, but with " ", +, - or a backslash
            number, in_hunk = int(line[-6:]), False
        elif in_hunk or line.startswith(b"@@"):
            in_hunk = True
            diff, sign = diffs[number], line[:1]
            diff.lines.append(shown(line.decode(errors="backslashreplace").expandtabs(4), MOST))
            diff.added, diff.removed = diff.added + (sign == b"+"), diff.removed + (sign == b"-")


def script_name(run: Run) -> str:
    """Return the path of the entry script; a public log does not tell it."""
    return run.log.script_path if run.log else run.path.name if run.format == "script" else "script"


def stat_lines(diffs: list[FileDiff], width: int, coloured: bool) -> list[str]:
    """Return name | number +++--- of each file, and their sum, as git says it."""
    names = [shown(diff.name, width // 2) for diff in diffs]
    wide = max(map(len, names), default=0)
    head = len("{a => b}/")  # git's words for a file that lies in both folders
    options = f"--stat={width + head},{wide + head}", f"--color={'always' if coloured else 'never'}"
    lines = [line.decode() for line in git_diff(diffs, *options, digits=wide)]
    return [re.sub(r"\{a => b\}/(\d+) *", lambda token: f"{names[int(token[1])]:<{wide}} ", line)
            for line in lines]


def git_diff(diffs: list[FileDiff], *options: str, digits: int = 6) -> list[bytes]:
    """Return what git prints of files that differ, whose names are numbers. Raises ReadError where it fails.

    git sees copies in a folder that is in no checkout, and no configuration: what a stranger wrote into a
    source or a name is content to it and nothing else. NUL, which makes a file binary and no Python
    can run, is escaped in them; the rest only when it is shown: what looks alike may still differ.
    """
    with tempfile.TemporaryDirectory() as folder:
        for side in "ab":
            Path(folder, side).mkdir()
            for i, diff in enumerate(diffs):
                source = diff.old if side == "a" else diff.new
                Path(folder, side, f"{i:0{digits}}").write_bytes(source.replace(b"\0", b"\\x00"))
        words = ["git", "diff", "--no-index", "--no-ext-diff", "--no-textconv", "--no-renames"]
        environment = {"PATH": os.environ.get("PATH", os.defpath), "HOME": folder, "LC_ALL": "C",
                       "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull,
                       "GIT_CEILING_DIRECTORIES": os.path.dirname(os.path.realpath(folder))}
        try:
            done = subprocess.run([*words, *options, "a", "b"], cwd=folder, env=environment,
                                  capture_output=True)
        except FileNotFoundError:
            raise ReadError("git is missing, which finds the lines that differ; install it") from None
    if done.returncode not in (0, 1):
        raise ReadError(f"git diff failed: {shown(done.stderr.decode(errors='replace'), 200)}")
    return done.stdout.split(b"\n")[:-1]
