"""Writes the code that a log carries into an empty folder, where it runs."""
import argparse
import json
import re
import shlex
import unicodedata
from pathlib import Path

from records.tools.read.logs import LOG, load_runs, log_of
from records.tools.read.run import Run
from records.tools.read.values import ReadError, shown

UNNAMED = "train_gpt2.py"  # the script of a public log, which does not name it


ARGUMENTS = {
    "log": LOG,
    "folder": {"metavar": "DIR", "type": Path, "help": "empty, or not there yet"},
    "--json": "print one JSON object: script and files",
}


def main(arguments: argparse.Namespace) -> int:
    """Extract and say what was written; return the exit code."""
    run = load_runs(log_of(arguments.log))[0]
    sources, log = sources_of(run), run.log
    script = next(iter(sources))
    write_files(sources, arguments.folder)
    if arguments.json:
        print(json.dumps({"folder": str(arguments.folder), "script": script, "files": sorted(sources)}))
        return 0
    print(f"wrote {len(sources)} files to {arguments.folder}")
    if log:
        needs = [shown(str(log.track[name])) for name in ("data", "vocabulary") if name in log.track]
        data = " and ".join(needs) or "the data"
        print(f"a log carries code, not data; to run it there, add {data}, then:")
        print(f"python {shlex.join([script, f'--track={shown(str(run.track))}', f'--seed={run.seed}'])}")
    return 0


def sources_of(run: Run) -> dict[str, bytes]:
    """Return all files that a log carries, the script first: path -> source. Raises ReadError for none."""
    if run.code is None or (run.log and not run.log.manifest):
        raise ReadError(f"{run.name}: " + ("cut off above its manifest; it holds no whole script" if run.log
                                           else "a log of this layout carries no code"))
    script = run.log.script_path if run.log else UNNAMED
    if script in run.files:
        raise ReadError(f"{run.name}: two files {shown(script)}")
    return {script: run.code, **run.files}


def write_files(sources: dict[str, bytes], folder: Path) -> None:
    """Write files below a folder that is empty or absent; nothing is written unless all paths are safe."""
    check_paths(list(sources))
    try:
        if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
            raise ReadError(f"{shown(str(folder))}: not a folder; name one that is empty or not there yet")
        if folder.is_dir() and any(folder.iterdir()):
            raise ReadError(f"{shown(str(folder))}: not empty; name a folder that is empty or not there yet")
        for path, source in sources.items():
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            with open(target, "xb") as f:  # x: neither overwrites nor follows a link
                f.write(source)
    except OSError as error:
        raise ReadError(f"{shown(str(folder))}: cannot be written ({error.strerror})") from None


def check_paths(paths: list[str]) -> None:
    """Raise ReadError for a path that might leave the folder, hide, or meet another on some file system."""
    files: set[tuple[str, ...]] = set()
    folders: set[tuple[str, ...]] = set()
    for path in paths:
        if reason := unsafe(path):
            raise ReadError(f"path {shown(path)!r}: {reason}")
        parts = tuple(unicodedata.normalize("NFC", part).casefold() for part in path.split("/"))
        if parts in files:
            raise ReadError(f"path {shown(path)!r}: another differs in case only")
        files.add(parts)
        folders.update(parts[:i] for i in range(1, len(parts)))
    if both := files & folders:
        raise ReadError(f"path {shown('/'.join(both.pop()))!r}: a file and a folder")


def unsafe(path: str) -> str | None:
    """Return what is wrong with a path out of a log, None where it is safe below any folder."""
    if not path or len(path) > 1000:
        return "empty, or over 1000 characters"
    if re.search(r'[\\:*?"<>|]', path) or not path.isprintable():
        return "holds a backslash, a colon or another character that is special somewhere"
    for part in path.split("/"):
        if part in ("", ".", ".."):
            return "absolute, or leaves its folder"
        if part.startswith((".", "-")) or part.endswith((".", " ")):
            return "holds a hidden name, or one that ends in a dot or a space"
        if len(part.encode()) > 255:
            return "holds a name of over 255 bytes"
    return None
