"""How the sources of two runs differ: the lines of a unified diff, as git finds them."""
import os
import re
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from records.tools.read.run import Run
from records.tools.read.values import ReadError, shown

MOST = 1000  # letters of a line that are shown


@dataclass
class FileDiff:
    """A file that differs: its name on each side (None: not there), the hunks of its diff, safe to print."""

    a: str | None
    b: str | None
    harness: bool  # whether it is the harness's, not the submission's
    added: int = 0
    removed: int = 0
    lines: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Both names, fit for a terminal."""
        return shown(self.b or "" if self.a in (self.b, None) else f"{self.a} => {self.b or 'none'}", 200)

    @property
    def head(self) -> list[str]:
        """The two lines above the hunks."""
        return [f"--- {f'a/{shown(self.a, 200)}' if self.a else 'none'}",
                f"+++ {f'b/{shown(self.b, 200)}' if self.b else 'none'}"]


def file_diffs(a: Run, b: Run) -> list[FileDiff]:
    """Return the files that differ, the entry script first; none where a side has no code.

    Raises ReadError where there is no git.
    """
    if a.code is None or b.code is None or (a.code, a.files) == (b.code, b.files):
        return []
    found = [(script_name(a), script_name(b), a.code, b.code)] if a.code != b.code else []
    for name in sorted(a.files.keys() | b.files.keys(), key=lambda name: (name.startswith("harness/"), name)):
        if (old := a.files.get(name)) != (new := b.files.get(name)):
            sides = (None if source is None else name for source in (old, new))
            found.append((*sides, old or b"", new or b""))
    diffs = [FileDiff(old, new, str(old or new).startswith("harness/")) for old, new, _, _ in found]
    for number, hunks in git_diff([contents[2:] for contents in found]).items():
        diff = diffs[number]
        diff.lines = [shown(line.decode(errors="backslashreplace").expandtabs(4), MOST) for line in hunks]
        diff.added, diff.removed = (sum(line[:1] == sign for line in hunks) for sign in (b"+", b"-"))
    return diffs


def script_name(run: Run) -> str:
    """Return the path of the entry script; a public log does not tell it."""
    return run.log.script_path if run.log else run.path.name if run.format == "script" else "script"


def git_diff(pairs: list[tuple[bytes, bytes]]) -> dict[int, list[bytes]]:
    """Return the hunks of each pair that git finds to differ: its place in the list -> lines.

    git sees copies in a folder that is in no checkout, under numbers, and no configuration: what a stranger
    wrote into a source or a name is content to it and nothing else. NUL, which makes a file binary and no
    Python can run, is escaped in them; the rest only when it is shown: what looks alike may still differ.
    """
    with tempfile.TemporaryDirectory() as folder:
        for side in (0, 1):
            Path(folder, "ab"[side]).mkdir()
            for i, pair in enumerate(pairs):
                Path(folder, "ab"[side], f"{i:06}").write_bytes(pair[side].replace(b"\0", b"\\x00"))
        command = ["git", "diff", "--no-index", "--no-ext-diff", "--no-textconv", "--no-renames",
                   "--no-color", "a", "b"]
        environment = {"PATH": os.environ.get("PATH", os.defpath), "HOME": folder, "LC_ALL": "C",
                       "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull,
                       "GIT_CEILING_DIRECTORIES": os.path.dirname(os.path.realpath(folder))}
        try:
            done = subprocess.run(command, cwd=folder, env=environment, capture_output=True)
        except FileNotFoundError:
            raise ReadError("git is missing, which finds the lines that differ; install it") from None
    if done.returncode not in (0, 1):
        raise ReadError(f"git diff failed: {shown(done.stderr.decode(errors='replace'), 200)}")
    # no line of content begins like git's own, but with a space, +, - or a backslash
    heads = re.split(rb"^diff --git .*(\d{6})\n", done.stdout, flags=re.MULTILINE)[1:]
    return {int(number): text[text.index(b"\n@@") + 1:].split(b"\n")[:-1]
            for number, text in zip(heads[::2], heads[1::2]) if b"\n@@" in text}
