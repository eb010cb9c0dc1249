"""Runs code again, out of a log on the harness that it carries or out of a working tree; gives the log."""
import ast
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from records.tools.check.claim import code_digest, harness_digest
from records.tools.check.of_a_run import row_differences
from records.tools.read.extract import sources_of, write_files
from records.tools.read.log import Log, is_log, read_bytes, read_log, sha256
from records.tools.read.logs import log_of, run_of
from records.tools.read.scan import scan
from records.tools.read.tracks import ROOT, load_harnesses, own_row
from records.tools.read.values import ReadError, shown, write_whole

LAUNCH = ("device", "device_batch_size", "compile", "stop_at_step")  # of a log's launch options, those kept
RESERVED = {*LAUNCH, "track", "data", "resume", "checkpoint_every", "seed", "against", "script", "python",
            "from", "yes", "seeds", "judge", "weights", "nproc_per_node", "nnodes", "rdzv_endpoint",
            "rdzv_id", "environment", "help", "h", "name", "note", "log_every", "timeout", "version"}


@dataclass
class Code:
    """What runs: a submission with the harness that referees it, and what the run was asked."""

    script: str  # path of the entry script, relative
    files: dict[str, bytes]  # the submission's, the script included: path -> source
    base: dict[str, bytes]  # harness/, run.sh, requirements.txt
    digest: str  # as the log of its run gives it
    track: str | None = None  # None: a working tree's, which may run on any
    flags: list[str] = field(default_factory=list)  # overrides and launch options of the log
    log: Log | None = None


class Interrupted(ReadError):
    """The user ended a run before it had a log."""


def load(path: Path) -> Code:
    """Return what a log, a record (its first log), a working tree or a script of this one runs.

    Raises ReadError where no harness is known that referees it, or where what a log says does not fit.
    """
    if path.is_dir() and (path / "run.sh").is_file():
        return load_tree(path.resolve(), "train_gpt2.py")
    if path.suffix == ".py":
        if not path.resolve().is_relative_to(ROOT):
            raise ReadError(f"{shown(str(path))}: a script outside of this checkout; name its working tree")
        return load_tree(ROOT, path.resolve().relative_to(ROOT).as_posix())
    log = find_log(path)
    files, base = files_of(log), harness_of(log)
    for name in files:
        if name.split("/")[0].casefold() == "harness" or name in base:
            raise ReadError(f"{shown(log.path.name)}: file {shown(name)} would take a place of the harness's")
    return Code(log.script_path, files, base, log.manifest["code"]["digest"], log.manifest["track"],
                recorded_flags(log), log)


def find_log(path: Path) -> Log:
    """Return a log, or the first one of a record's folder."""
    named, path = path, log_of(path)
    if path is not named:
        print(f"{shown(named.name)}: its first log, {shown(path.name)}", file=sys.stderr)
    data = read_bytes(path)
    if not is_log(data):
        raise ReadError(f"{shown(path.name)}: no log of format 1; could not tell how to run it, for logs of "
                        f"other formats carry no harness")
    return read_log(path, data)


def files_of(log: Log) -> dict[str, bytes]:
    """Return the submission's files in a log, its script first: path -> source.

    Raises ReadError where they are not those of the digest in its manifest.
    """
    code, name, script = log.manifest.get("code"), shown(log.path.name), log.script_path
    if not isinstance(code, dict) or not isinstance(log.manifest.get("track"), str):
        raise ReadError(f"{name}: cut off above its manifest, or without code and track; nothing to run")
    files = {path: source for path, source in sources_of(run_of(log)).items()
             if path == script or not path.startswith("harness/")}
    others = {path: source for path, source in files.items() if path not in {script, *late_paths(log)}}
    if code_digest(log.script, str(code.get("harness")), others) != code.get("digest"):
        raise ReadError(f"{name}: the code digest in its manifest is not that of the files it carries")
    return files


def late_paths(log: Log) -> set[str]:
    """Return the paths of the files that a run loaded after its start."""
    return {str(event.fields.get("path")) for event in log.events if event.kind == "late"}


def load_tree(root: Path, script: str) -> Code:
    """Return a submission of a working tree as it stands: its script and what that imports of the tree."""
    if not (root / script).is_file():
        raise ReadError(f"{shown(str(root / script))}: no such file")
    files = imported_files(root, script)
    base, others = tree_harness(root), {path: files[path] for path in files if path != script}
    return Code(script, files, base, code_digest(files[script], harness_digest(base), others))


def imported_files(root: Path, script: str) -> dict[str, bytes]:
    """Return a script and the tree's files that loading it loads, harness/ apart: path -> source."""
    files, waiting = {}, [script]
    while waiting:
        path = waiting.pop()
        if path in files or path.startswith("harness/"):
            continue
        files[path] = read_bytes(root / path)
        try:
            nodes = list(ast.parse(files[path]).body)
        except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
            raise ReadError(f"{shown(path)}: not Python of this version ({type(error).__name__})") from None
        while nodes:
            node = nodes.pop()
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                package = path.split("/")[:-node.level] if node.level else []
                module = ".".join([*package, *filter(None, [node.module])])
                names = [module, *(f"{module}.{alias.name}" for alias in node.names)]
            for parts in (name.split(".") for name in names):
                packages = ["/".join([*parts[:i], "__init__.py"]) for i in range(1, len(parts) + 1)]
                waiting += [p for p in (*packages, "/".join(parts) + ".py") if (root / p).is_file()]
            if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
                nodes += ast.iter_child_nodes(node)
    return files


def tree_harness(root: Path) -> dict[str, bytes]:
    """Return what a tree runs a submission with: harness/, run.sh, requirements.txt."""
    paths = [*sorted((root / "harness").rglob("*.py")), root / "harness/tracks.toml", root / "run.sh",
             root / "requirements.txt"]
    return {path.relative_to(root).as_posix(): read_bytes(path) for path in paths}


def harness_of(log: Log) -> dict[str, bytes]:
    """Return what runs a log's code: the harness/*.py that it carries, with all that starts them from here.

    They must have the digest of the log's manifest, and this checkout must accept that or have it. The
    launcher, run.sh and the track's row are the checkout's: a stranger's row would name the command that
    fetches data. The row's rules must be the log's.
    """
    name, digest, track = shown(log.path.name), log.manifest["code"].get("harness"), log.manifest["track"]
    carried = {path: file.source for path, file in log.files.items()
               if re.fullmatch(r"harness/[^/]+\.py", path) and path not in late_paths(log)}
    if harness_digest(carried) != digest:
        raise ReadError(f"{name}: the harness digest in its manifest is not that of the files it carries")
    own = tree_harness(ROOT)
    if digest not in load_harnesses(ROOT).accepted and digest != harness_digest(own):
        raise ReadError(f"{name}: could not tell: harness/tracks.toml accepts no harness "
                        f"{shown(str(digest)[:12])}, and it is not this checkout's; without it nothing runs")
    if differ := row_differences(log.track, own_row(track, ROOT)):
        raise ReadError(f"{name}: could not tell: its track row is another than this checkout's: "
                        f"{shown('; '.join(differ), 300)}")
    own = {path: source for path, source in own.items() if not re.fullmatch(r"harness/[^/]+", path)}
    return {**carried, **own, "harness/tracks.toml": table_of(track)}


def table_of(track: str) -> bytes:
    """Return a track's table alone, out of this checkout's tracks.toml: older harnesses know tracks only.

    And no gap, which is the judge's.
    """
    text = (ROOT / "harness" / "tracks.toml").read_text()
    table = re.search(rf"^\[{re.escape(track)}\]\n.*?(?=^\[|\Z)", text, re.MULTILINE | re.DOTALL)
    if table is None or tomllib.loads(table[0]) != {track: own_row(track, ROOT)}:
        raise ReadError(f"harness/tracks.toml: expected one table [{shown(track)}], not split or nested")
    return re.sub(r"^gap = .*\n", "", table[0], flags=re.MULTILINE).encode()


def torch_python() -> str:
    """Return a Python that can train: this one, else the one of ./run.sh, which makes it where it must."""
    if importlib.util.find_spec("torch"):
        return sys.executable
    words = ["bash", str(ROOT / "run.sh"), "--environment", str(ROOT / "requirements.txt")]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise ReadError(f"{sys.executable} has no torch, and ./run.sh could make no Python that has it")
    return done.stdout.strip()


def start(module: str, *words: object, **options: Any) -> subprocess.Popen:
    """Start a module of this checkout in a Python that has torch."""
    command = [torch_python(), "-P", "-m", module, *map(str, words)]
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, **options)


def vocabulary_of(track: str, data: Path | None = None) -> Path:
    """Return the vocab.bpe of a track's data, which may lie elsewhere. Raises ReadError for none."""
    row = own_row(track, ROOT)
    for path in ((data or ROOT / row["data"]) / "vocab.bpe", ROOT / row["vocabulary"]):
        if path.is_file():
            return path
    raise ReadError(f"{row['vocabulary']}: no such vocabulary, and without it text is no ids; get it with "
                    f"`{row['fetch']}`")


def write_ids(text: bytes, vocabulary: Path, shard: Path) -> Path:
    """Write an end of text and the ids of a text as a shard; return its path."""
    process = start("data.ids", vocabulary, shard, stdin=subprocess.PIPE)
    process.communicate(text)
    if process.returncode:
        raise ReadError(f"{shard.name}: its text gave no ids (exit code {process.returncode}); see above")
    return shard


def shard_of(path: Path, vocabulary: Path, folder: Path) -> Path:
    """Return the shard at a path: a file of ids where it is named *.bin, else one made of a text's."""
    return path if path.suffix == ".bin" else write_ids(read_bytes(path), vocabulary, folder / path.name)


def default_track(flags: list[str]) -> str:
    """Return the track that the launcher takes for some flags on this host."""
    return told_by("from harness.plan import choose_track; "
                   "print(choose_track(sys.argv[1:], torch.cuda.is_available())[0].name)", flags)


def places(device: str | None) -> list[dict[str, str]]:
    """Return the variables that give a run one GPU of this host, for each; where it has none, none a core."""
    gpus, cores = map(int, told_by("from harness.front.cores import physical_cores; "
                                   "print(torch.cuda.device_count(), min(8, physical_cores()))", []).split())
    if device == "cpu" or not gpus:
        return [{}] * cores
    names = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(gpus)))
    return [{"CUDA_VISIBLE_DEVICES": name} for name in names.split(",")[:gpus]]


def told_by(code: str, words: list[str]) -> str:
    """Return what a line of code prints where this checkout's harness and torch are."""
    done = subprocess.run([torch_python(), "-c", f"import sys, torch; {code}", *words], cwd=ROOT,
                          capture_output=True, text=True)
    if done.returncode:
        raise ReadError(shown((done.stderr.strip().split("\n") or ["no answer"])[-1], 300))
    return done.stdout.strip()


def recorded_flags(log: Log) -> list[str]:
    """Return a log's overrides and launch options as flags. Raises ReadError where they are no such thing."""
    flags = []
    run = run_of(log)
    chosen = {k: v for k, v in run.mapping("launch").items() if k in LAUNCH}
    for key, value in [*chosen.items(), *run.mapping("overrides").items()]:
        if not key.isidentifier() or not isinstance(value, (int, float, str, list, type(None))) \
                or (key in RESERVED and key not in chosen) or shown(str(value), 1000) != str(value):
            raise ReadError(f"{shown(log.path.name)}: {shown(key)}={shown(str(value))} is no hyperparameter")
        flags.append(f"--{key}={value}")
    return flags


def parse_flags(words: list[str]) -> dict[str, str]:
    """Return the flags of a run by name, of --name value and --name=value. Raises ReadError for others."""
    flags, words = {}, list(words)
    while words:
        name, equals, value = words.pop(0).partition("=")
        if not name.startswith("--") or not (equals or words):
            raise ReadError(f"{shown(name)}: expected flags of the run, --name value")
        flags[name[2:]] = value if equals else words.pop(0)
    return flags


def consent(codes: list[Code], yes: bool) -> None:
    """Say on stderr what a reader should look at before code is run, and ask whether it may be run.

    Raises ReadError where it may not, and where nobody is there to ask.
    """
    for code in codes:
        found = [f for path in sorted(code.files) for f in scan(code.files[path], path, code.files)]
        print(f"{shown(code.script)}, code {code.digest[:8]}: {len(found)} places to read before it runs"
              f"{'' if found else ' (a scan is no proof)'}",
              *(f"  {shown(f.path)}:{f.line}: {f.what}: {f.text}" for f in found), sep="\n", file=sys.stderr)
    if yes:
        return
    if not (sys.stdin and sys.stdin.isatty()):
        raise ReadError("the code above is to run on this machine, and there is no terminal to ask; if you "
                        "trust it, give --yes")
    print("let it run on this machine? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise ReadError("not run, as nobody said yes")


def run(code: Code, track: str, flags: list[str], folder: Path, signals: "Signals") -> Path:
    """Run code on a track of this checkout in a place of its own; return its log, moved into a folder.

    flags: those of the run, `--seed=0` among them. The log may be of any status: that is evidence too.
    Raises ReadError where there is none, Interrupted where the user was the reason.
    """
    row = own_row(track, ROOT)
    with tempfile.TemporaryDirectory(prefix="records-") as name:
        place, vocabulary = Path(name).resolve() / "place", ROOT / row["vocabulary"]
        needed = {row["vocabulary"]: read_bytes(vocabulary)} if vocabulary.is_file() else {}
        write_files({**needed, **code.base, **code.files}, place)
        # the row's folder is relative: none of this machine gets into the log
        words = [f"--script={place / code.script}", f"--track={track}", f"--data={row['data']}", *flags]
        logs = launch(place, words, ROOT, signals)
        if len(logs) > 1:
            raise ReadError(f"one run wrote {len(logs)} logs; it could not tell which is its own")
        [(path, data)] = logs.items()
        write_whole(folder / path.name, data)
        if (weights := path.with_suffix(".safetensors")).exists():
            shutil.move(weights, folder / weights.name)
    return folder / path.name


def launch(tree: Path, flags: list[str], folder: Path, signals: "Signals",
           place: dict[str, str] | None = None) -> dict[Path, bytes]:
    """Run a tree's run.sh, its words on stderr; return the new logs in the tree with what they hold.

    folder: the flags' paths are relative to it. place: variables of a run beside others, whose
    words nobody could tell apart. Where the tree's harness tells its launcher of the logs,
    those are meant, as they were when the run ended. Raises ReadError where there is none, or one was changed
    since; Interrupted where a signal was the reason that there is none.
    """
    runs = tree / "records" / "runs"
    before = set(runs.glob("*.txt"))
    paths = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p and Path(p).resolve() != ROOT]
    reading, writing = os.pipe()
    environment = {**os.environ, **(place or {}), "PYTHONPATH": os.pathsep.join(paths),
                   "SPEEDRUN_REPORT_FD": str(writing)}
    command = ["bash", str(tree / "run.sh"), "--python", torch_python(), *flags]
    child = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, env=environment,
                             stdout=2 if place is None else subprocess.DEVNULL, pass_fds=[writing])
    signals.children.append(child)
    os.close(writing)
    with open(reading) as report:  # until the launcher, which no rank shares it with, is gone
        told = {Path(facts["log"]).name: facts["sha256"] for facts in map(json.loads, report)}
    code = child.wait()
    new = {path: read_bytes(path) for path in sorted(set(runs.glob("*.txt")) - before)}
    if tells(tree_harness(tree)):
        own = {path: data for path, data in new.items() if path.name in told}
        if new and not own:
            raise ReadError(f"the launcher was told of no log, and {shown(next(iter(new)).name)} is new: "
                            f"another run's, or its script made it")
        for path, data in own.items():
            believed(path, data, told[path.name])
        new = own
    if new:
        return new
    if signals.caught:
        raise Interrupted("interrupted before the run had a log")
    raise ReadError(f"the run left no log (exit code {code}); its own words stand above")


def tells(base: dict[str, bytes]) -> bool:
    """Tell whether a harness says to its launcher which log it wrote, by its sha256; older ones do not."""
    return b"SPEEDRUN_TOLD" in base.get("harness/runlog.py", b"")


def believed(path: Path, data: bytes, told: str | None) -> None:
    """Raise ReadError unless a log is as the launcher was told, or incomplete where it was told of no end."""
    if told != sha256(data) and (told or read_log(path, data).end):
        raise ReadError(f"{path.name}: the log was changed after the run: its sha256 is {sha256(data)[:16]}, "
                        f"the launcher was told {shown(str(told and told[:16]))}; it is not believed")


class Signals:
    """While it is entered, the signals that end a program are passed on to its children, and remembered."""

    def __init__(self):
        self.caught, self.children = False, []

    def _pass_on(self, number: int, frame: object) -> None:
        self.caught = True
        for child in self.children:  # those that have ended are sent nothing
            child.send_signal(number)

    def __enter__(self) -> Self:
        ours = signal.SIGINT, signal.SIGTERM, signal.SIGHUP
        watched = [s for s in ours if signal.getsignal(s) is not signal.SIG_IGN]  # nohup: one is ignored
        self.before = {s: signal.signal(s, self._pass_on) for s in watched}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
