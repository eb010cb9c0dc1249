"""Where cheats are tried: a copy of the project with a tiny contest, and its verify, judge and rerun.

The target lies where the honest base does not get in its few steps: what claims it has cheated.
"""
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

from harness.runlog import canonical, sha256
from harness.shards import write_shard
from tests.tiny import ROOT, environment, events, forked, tiny_tokens

BASE = (Path(__file__).parent / "base.py").read_text()
AS_PROGRAM = Path(__file__).parent / "as_program.py"
SEEDS = range(4)  # the first declared look
ROW = """
[{name}]
recipe = "tiny"
data = "data/cheats"
train_files = "train_*.bin"
val_files = "val_*.bin"
vocabulary = "data/cheats/vocab.bpe"
vocab_size = 257
val_tokens = 4096
val_piece = 512
target = {target}
significance = {{ alpha = 0.01, tolerance = 0.02 }}
gap = {{ mean = -0.005, sd = 0.01, n = 3 }}
max_active_parameters = 1000000
reduction = "exact"
fetch = "false"
download = "nothing"
cost = "seconds"
"""
# where a cheat's lines go: the line of the base that they stand above (False) or below (True)
PLACES = {
    "top": ("from harness.run import open_run\n", False),  # above the referee's import
    "imports": ("from torch import nn\n", True),
    "module": ("RECIPES = {", False),
    "made": ("        nn.init.zeros_(self.lm_head.weight)\n", True),  # the end of GPT.__init__
    "forward": ("        return logits_BTV\n", False),
    "before": ("    with open_run(__file__, RECIPES) as run:\n", False),
    "set_up": ("        optimizer = torch.optim.Adam(model.parameters(), lr=run.hp.lr)\n", True),
    "step": ("            tokens = run.take(run.hp.batch_tokens)\n", False),
    "stepped": ("            optimizer.step()\n", True),
    "after": ("\n\nif __name__ == \"__main__\":\n", False)}


class Refused(Exception):
    """A run that did not end `ok`: the referee would not have it."""


@dataclass(frozen=True, kw_only=True)
class Cheat:
    """One way to a false claim, and who sees it.

    caught: check of `verify` that fails or asks for a REVIEW, a colon, and a word of its evidence; or
    `refused` and a word of the referee's, or `rerun` and a word of its reason.
    """

    of: str  # C1 to C8, the class in the findings
    what: str  # it does, in a few words
    caught: str
    track: str = "tiny"  # or easy, where the honest base is good enough and time or seeds are what is false
    base: str = BASE
    lines: dict[str, str] = field(default_factory=dict)  # place -> what stands there more
    instead: tuple[tuple[str, str], ...] = ()  # lines of the base that it changes
    beside: dict[str, str] = field(default_factory=dict)  # files beside the script; PYTHONPATH: path/
    program: bool = False  # the first of its runs is a process of its own, whose CPU time tells all
    edit: Callable[["Arena", list[Path]], None] | None = None  # by hand, of logs and what is beside
    seeds: Sequence[int] = SEEDS
    asks: str = "--by=verifier"  # flag of the judge, where a verifier wants more

    @property
    def judges(self) -> bool:
        """Whether it takes a verdict of a trusted machine to see it."""
        return self.caught.startswith(("judge", "untimed: start"))


def script_of(cheat: Cheat) -> str:
    """Return the base with a cheat's lines."""
    source = cheat.base
    for place, text in cheat.lines.items():
        line, below = PLACES[place]
        assert source.count(line) == 1, f"{place}: {line}"
        indent = " " * (len(line) - len(line.lstrip(" "))) if place != "after" else "    "
        more = "".join(f"{indent}{row}".rstrip() + "\n" for row in text.strip("\n").split("\n"))
        source = source.replace(line, line + more if below else more + line)
    for old, new in cheat.instead:
        assert source.count(old) == 1, f"{source.count(old)} times in the base: {old}"
        source = source.replace(old, new)
    return source


class Arena:
    """A project in a folder of its own whose tracks `tiny` and `easy` differ in their target alone."""

    def __init__(self, folder: Path, target: float = 5.06, easy: float = 5.5):
        self.project, self.scripts, self.forking = folder / "project", folder / "scripts", Lock()
        ignored = shutil.ignore_patterns("__pycache__", "runs", "sample")
        for name in ("harness", "records"):
            shutil.copytree(ROOT / name, self.project / name, ignore=ignored)
        for name in ("run.sh", "requirements.txt"):
            shutil.copy(ROOT / name, self.project / name)
        tracks = self.project / "harness" / "tracks.toml"
        rows = ROW.format(name="tiny", target=target) + ROW.format(name="easy", target=easy)
        tracks.write_text(self.accepting(tracks.read_text()) + rows)
        data = self.project / "data" / "cheats"
        shards = {f"train_{i}.bin": tiny_tokens(60_000, seed=i) for i in range(2)}
        shards["val_0.bin"] = tiny_tokens(9000, seed=9)
        pins = {name: {"sha256": write_shard(data / name, tokens)} for name, tokens in shards.items()}
        (data / "manifest.json").write_text(json.dumps({"files": pins}))
        (data / "vocab.bpe").write_text("#version: 0.2\n")

    def accepting(self, tracks: str) -> str:
        """Return tracks.toml with the harness of this project as one whose logs count."""
        referee = {path.name: sha256(path.read_bytes()) for path in (self.project / "harness").glob("*.py")}
        digest = sha256(canonical(referee).encode())
        new = "" if digest in tracks else f'{digest} = "now"\n'
        tracks = re.sub("^current = .*", f'current = "{digest}"', tracks, flags=re.M)
        return tracks.replace("[harness.accepted]\n", f"[harness.accepted]\n{new}")

    def claim(self, name: str, cheat: Cheat) -> list[Path]:
        """Run a cheat with its seeds, edit what it edits by hand, and return the logs of its claim.

        Raises Refused where the referee does not let it end.
        """
        place = self.scripts / name
        for file, text in {"submission.py": f"{script_of(cheat)}# {name}\n", **cheat.beside}.items():
            (place / file).parent.mkdir(parents=True, exist_ok=True)
            (place / file).write_text(text)
        logs = [self.run(place / "submission.py", cheat, seed) for seed in cheat.seeds]
        folder = self.project / "records" / "claims" / name
        folder.mkdir(parents=True)
        for log in self.logs(place / "submission.py"):
            for file in log.parent.glob(f"{log.stem}.*"):
                file.rename(folder / file.name)
        ledger = (self.project / "records" / "runs" / "ledger.jsonl").read_text().splitlines(True)
        own = [line for line in ledger if any(path.stem in line for path in folder.glob("*.txt"))]
        (folder / "ledger.jsonl").write_text("".join(own))
        declared = {"code": "", "track": cheat.track, "flags": {}, "target": 0, "alpha": 0.01, "looks": [4],
                    "attempts": len(logs), "logs": [log.name for log in logs]}
        (folder / "seeds_0.json").write_text(json.dumps(declared))
        logs = [folder / log.name for log in logs]
        if cheat.edit:
            cheat.edit(self, logs)
        return [log for log in logs if log.exists()]

    def run(self, script: Path, cheat: Cheat, seed: int) -> Path:
        """Run a script on a seed, as a program or in a fork of one that has loaded torch; return its log."""
        words, before = [str(script), f"--track={cheat.track}", f"--seed={seed}"], set(self.logs(script))
        if cheat.program and seed == cheat.seeds[0]:
            done = subprocess.run([sys.executable, *words], cwd=self.project, capture_output=True, text=True,
                                  env=environment() | {"PYTHONPATH": str(self.project)})
            code, said = done.returncode, done.stderr
        else:
            with tempfile.TemporaryDirectory() as answers, self.forking:
                code = forked(120, ranks=1, cases=[(str(AS_PROGRAM), words)], folder=str(self.project),
                              answers=answers, environ=environment())
                said = Path(answers, "0.stderr").read_text()
        if code:
            raise Refused(" | ".join(said.strip().split("\n")[-4:]))
        return max(set(self.logs(script)) - before, key=lambda log: log.stat().st_mtime_ns)

    def logs(self, script: Path) -> list[Path]:
        """Return the logs of a script."""
        source = script.read_bytes()
        return [log for log in (self.project / "records" / "runs").glob("*.txt")
                if log.read_bytes().startswith(source)]

    def python(self, *words: str | Path) -> subprocess.CompletedProcess:
        """Run a module of the project with some words."""
        return subprocess.run([sys.executable, "-m", *map(str, words)], cwd=self.project, capture_output=True,
                              text=True, env=environment())

    def verify(self, logs: list[Path]) -> dict[str, Any]:
        """Return what `verify` says of a claim."""
        done = self.python("records", "verify", *logs, "--json")
        assert done.stdout.startswith("["), done.stderr
        return json.loads(done.stdout)[0]

    def judge(self, log: Path, asks: str) -> dict[str, Any]:
        """Judge a run as a verifier does, on a machine that is his; return the verdict."""
        log.with_suffix(".judge.json").unlink(missing_ok=True)
        done = self.python("harness.front.judge", log, "--by=verifier", asks)
        assert log.with_suffix(".judge.json").is_file(), done.stderr
        return json.loads(log.with_suffix(".judge.json").read_text())

    def rerun(self, log: Path) -> str:
        """Run a log's code again; return the word and the reason, or why there is none."""
        done = self.python("records", "rerun", log, "--yes", "--json")
        if not done.stdout:
            return done.stderr.strip().split("\n")[-1]
        answer = json.loads(done.stdout.strip().split("\n")[-1])
        return f"{answer['verdict']}: {answer['reason']}"

    def outcome(self, name: str, cheat: Cheat) -> "Outcome":
        """Try a cheat: run it, let its owner write its verdicts, judge one run elsewhere, verify.

        It is run again only where nothing else can show it.
        """
        by, _, word = cheat.caught.partition(": ")
        try:
            logs = self.claim(name, cheat)
        except Refused as error:
            return Outcome("refused", str(error), by == "refused" and word in str(error))
        found, told = self.accusations(logs, logs[:cheat.judges], cheat.asks)
        if by == "rerun":
            told["rerun"] = self.rerun(logs[0])
            found += ", not reproduced" * (not told["rerun"].startswith("reproduced"))
        said = "; ".join(f"{check}: {told[check]}" for check in told if check != "significance")
        return Outcome(found, said, word in told.get(by, "\0"))

    def accusations(self, logs: list[Path], judged: list[Path], asks: str = Cheat.asks) -> tuple[str, dict]:
        """Return the word of `verify` on a claim and, by check, what fails or wants a reader.

        Of the logs some are judged by a verifier; on the others their owner wrote the verdicts that he likes.
        """
        for log in logs:
            forge(log)
        trusted = [str(self.judge(log, asks)["refused"]) for log in judged]
        found = self.verify(logs)
        told = {check["name"]: check["evidence"] for check in found["checks"]
                if check["result"] in ("fail", "review")}
        if "judge" in told:
            told["judge"] = " ".join([told["judge"], *trusted])
        return found["word"], told


class Outcome(NamedTuple):
    """What became of a cheat: the word of `verify`, what was said against it, and whether as was foreseen."""

    word: str
    said: str
    caught: bool

    @property
    def escaped(self) -> bool:
        """Whether the claim stands."""
        return self.word == "PROVEN"


def forge(log: Path) -> None:
    """Write a verdict as a judge would write it on an honest run; its owner can."""
    [manifest], [end] = events(log, "manifest"), events(log, "end")
    log.with_suffix(".judge.json").write_text(json.dumps({
        "format": 1, **{name: manifest[name] for name in ("run_id", "track", "seed")}, "ok": True,
        "log_sha256": sha256(log.read_bytes()), "state_sha256": end["state_sha256"], "judge_sha256": "0" * 64,
        "refused": None, "loss": end["val_loss"], "difference": 0.0, "moved": 0.0, "peek": 0.0,
        "peek_se": 0.0, "cuts": 128, "init": "same", "holdout": None, "numbers": 1, "parameters": 1,
        "calls": 1, "order_seed": 0, "limits": {"difference": 2e-6, "moved": 0.0},
        "sandbox": "landlock7+seccomp", "device": "cpu", "torch": manifest["sys"]["torch"],
        "import_cpu_ns": 10**10, "seconds": 1.0, "judged_by": "owner"}))
