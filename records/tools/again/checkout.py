"""Writes the script of a record or log where submissions are edited, or runs it and writes no file."""
import argparse
import os
import shlex
import subprocess
import sys
import tempfile
from hashlib import sha1
from pathlib import Path

from records.tools.again import launch as launches
from records.tools.read.log import RULE, Log, read_bytes
from records.tools.read.logs import LOG
from records.tools.read.values import ReadError, shown, write_whole

OTHERS = {"harness", "records", "data", "lab", "bench", "tests"}  # folders of this checkout's own code
ARGUMENTS = {
    "log": LOG,
    "file": {"metavar": "FILE", "type": Path, "nargs": "?", "help": "default: train_gpt2.py"},
    "--yes": "take the code without asking",
    "--run": {"nargs": argparse.REMAINDER, "metavar": "...",
              "help": "run it with these flags and write no file of the tree: ./run.sh --from does so"},
}


def main(arguments: argparse.Namespace) -> int:
    """Write the script, or run it; return the exit code, the run's own where it is run."""
    log = launches.find_log(arguments.log)
    script = script_of(log)
    usual = launches.ROOT / "train_gpt2.py"
    file = arguments.file or usual
    if arguments.run is None:
        check_replaceable(file, script)
    code = launches.Code(log.script_path, launches.files_of(log), {}, log.manifest["code"]["digest"])
    launches.consent([code], arguments.yes or read_bytes(log.path) in shipped_logs())
    flags = [f"--track={log.manifest['track']}", *launches.recorded_flags(log)]
    if arguments.run is not None:
        return run(script, flags, arguments.run)
    write_whole(file, script)
    flags = [f"--script={file}"] * (file.resolve() != usual.resolve()) + flags
    print(f"wrote {file}, the script of {shown(log.path.name)}; it runs on this checkout's harness:\n"
          f"./run.sh {shlex.join(flags)}")
    return 0


def script_of(log: Log) -> bytes:
    """Return a log's script, which must need no other file than this checkout has. Raises ReadError."""
    for path, source in launches.files_of(log).items():
        own = launches.ROOT / path
        if path != log.script_path and not (own.is_file() and read_bytes(own) == source):
            raise ReadError(f"{shown(log.path.name)}: its script needs {shown(path)}, which this checkout "
                            f"lacks in that form; `python -m records extract LOG DIR` writes all its files")
    return log.script


def shipped_logs() -> list[bytes]:
    """Return the logs of this checkout's records."""
    return [read_bytes(path) for path in launches.ROOT.glob("records/*/*/logs/*.txt")]


def check_replaceable(file: Path, script: bytes) -> None:
    """Raise ReadError where a file holds what would be lost: no commit and no record's log holds it."""
    if file.exists() and not file.is_file():
        raise ReadError(f"{file}: not a file; name another")
    own = any(file.resolve().is_relative_to(launches.ROOT / name) for name in OTHERS)
    if own or file.suffix != ".py":
        raise ReadError(f"{file}: no place for a submission; name a .py file at the top or in submissions/")
    found = read_bytes(file) if file.exists() else script
    if found == script or any(log.startswith(found + RULE + b"\n") for log in shipped_logs()):
        return
    blob = sha1(b"blob %d\0" % len(found) + found, usedforsecurity=False).hexdigest()  # git's name of it
    command = ["git", "-c", "log.showRoot=true", "log", "--all", "-1", "--format=%h", f"--find-object={blob}"]
    try:
        commit = subprocess.run(command, cwd=file.parent, capture_output=True).stdout
    except OSError:
        commit = b""  # no git, so none that could give it back
    if not commit:
        raise ReadError(f"{file}: holds what is in no commit; commit it, or name another FILE")


def run(script: bytes, flags: list[str], words: list[str]) -> int:
    """Run a script on this checkout's harness, its flags first, so that those of the user win."""
    if "script" in launches.parse_flags(words):
        raise ReadError("--script together with --from: give one of them")
    with tempfile.TemporaryDirectory(prefix="records-") as folder, launches.Signals() as signals:
        file = Path(folder) / "train_gpt2.py"
        file.write_bytes(script)
        command = [sys.executable, "-P", "-m", "harness.front.launch", f"--script={file}", *flags, *words]
        path = os.pathsep.join([str(launches.ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        signals.children.append(subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}))
        code = signals.children[0].wait()
    return code if code >= 0 else 128 - code
