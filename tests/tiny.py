"""A copy of the project with a tiny track, launches of it, and the events of its logs.

What it trains is the script of a shipped record: these tests look at no line of the checkout's train_gpt2.py.
"""
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from harness.runlog import RULE, RunLog, canonical, sha256
from harness.shards import write_shard

ROOT = Path(__file__).resolve().parent.parent
RECORD = ROOT / "records" / "sample" / "2026-11-22_Muon"
TAKE = "        tokens = run.take(hp.batch_tokens)\n"  # two places in a step of that record's script
TRAIN = "        for optimizer in optimizers:\n            optimizer.step()\n"
TINY = ["--n_layer=2", "--n_embd=32", "--vocab_size=257", "--seq_len=16", "--batch_tokens=256",
        "--micro_batch=4", "--num_iterations=6", "--cooldown_iters=3", "--val_every=3", "--epochs=1"]
HP = dict(vocab_size=257, n_layer=2, n_head=2, n_embd=32, seq_len=16, dtype="float32")  # of small_model
IMPORT = b"import harness\n"  # the shortest script that may be logged
TINY_ROW = """
[tiny]
recipe = "sample"
data = "data/tiny"
train_files = "tiny_train_*.bin"
val_files = "tiny_val_*.bin"
vocabulary = "data/tiny/vocab.bpe"
vocab_size = 257
val_tokens = 512
val_piece = 128
val_bytes = 512
target = 5.0
max_active_parameters = 1000000
reduction = "{reduction}"
fetch = "false"
download = "nothing"
cost = "seconds"
baselines = {{ unigram = 5.5 }}
"""


def record_script(record: Path = RECORD) -> str:
    """Return the script of a shipped record, as the first of its logs holds it."""
    log = min((record / "logs").glob("*.txt"))
    return log.read_text().partition("=" * 100 + "\n")[0]


@cache
def submission() -> ModuleType:
    """Return that script as a module, for tests that need a model and its optimizers."""
    module = sys.modules["record_script"] = ModuleType("record_script")
    exec(compile(record_script(), "record_script.py", "exec"), module.__dict__)
    return module


def small_model(seed: int = 0) -> torch.nn.Module:
    """Return the model of that script for the tiny track, with weights large enough to tell tokens apart."""
    torch.manual_seed(seed)
    gpt = submission().GPT(submission().Hyperparameters(**HP))
    for p in gpt.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return gpt


def new_log(folder: Path, run_id: str = "r", script: bytes = IMPORT, files: dict[str, bytes] | None = None,
            environment: tuple[str, ...] = ()) -> RunLog:
    """Return an open log of some sources, with a manifest that says as much as a reader insists on."""
    log, code = RunLog(folder, run_id), {"script": sha256(script), "digest": "d"}
    log.sources(script, {"format": 1, "track": "t", "seed": 0, "code": code}, files or {}, list(environment))
    return log


def tiny_tokens(n: int, seed: int) -> np.ndarray:
    """Return n token ids with structure to learn: a noisy walk over the bytes, cut into texts."""
    random = np.random.default_rng(seed)
    tokens = np.cumsum(random.integers(0, 4, n)) % 250
    tokens[::100] = 256
    return tokens


class Project:
    """A copy of the project's code in a folder of its own, with a track named tiny."""

    def __init__(self, folder: Path, reduction: str = "exact"):
        self.folder = folder
        shutil.copytree(ROOT / "harness", folder / "harness", ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("run.sh", "requirements.txt"):
            shutil.copy(ROOT / name, folder / name)
        (folder / "train_gpt2.py").write_text(record_script())
        with open(folder / "harness" / "tracks.toml", "a") as f:
            f.write(TINY_ROW.format(reduction=reduction))
        data = folder / "data" / "tiny"
        for i in range(3):  # 7 steps of 256 tokens fit, across two borders
            write_shard(data / f"tiny_train_{i:06d}.bin", tiny_tokens(601 + i, seed=i))
        write_shard(data / "tiny_val_000000.bin", tiny_tokens(600, seed=9))
        (data / "vocab.bpe").write_text("#version: 0.2\n")

    def add_records(self) -> None:
        """Copy the tools that read logs, and put all into a git history of one commit."""
        shutil.copytree(ROOT / "records", self.folder / "records", dirs_exist_ok=True,
                        ignore=shutil.ignore_patterns("__pycache__", "runs", "sample"))
        who = ["-c", "user.name=t", "-c", "user.email=t@t"]
        for words in (["init", "-q"], ["add", "-A"], [*who, "commit", "-qm", "t"]):
            subprocess.run(["git", *words], cwd=self.folder, check=True)

    def command(self, ranks: int, *flags: str, script: str = "train_gpt2.py") -> list[str]:
        """Return the command line of a run of the tiny track with some ranks; later flags win."""
        return [sys.executable, "-m", "harness.front.launch", f"--nproc_per_node={ranks}", "--track=tiny",
                f"--script={self.folder / script}", *TINY, *flags]

    def run(self, ranks: int, *flags: str, script: str = "train_gpt2.py", code: int = 0,
            timeout: float = 120) -> subprocess.CompletedProcess:
        """Run and return the finished process; its exit code must be as given.

        Without launcher, by forks of a process that has loaded torch: `command` is the real thing.
        """
        [answer] = self.many((script, list(flags)), ranks=ranks, timeout=timeout)
        said = answer["stdout"], answer["stderr"]
        assert answer["code"] == code, f"exit code {answer['code']}:\n{said[0]}\n{said[1]}"
        return subprocess.CompletedProcess(script, code, *said)

    def many(self, *cases: tuple[str, list[str]], shared: list[str] = TINY, ranks: int = 1,
             timeout: float = 240) -> list[dict]:
        """Run several submissions one after the other in ONE process, as a sweep does, each with some flags.

        shared: flags of all. Returns for each its exit code (1 where an exception came out), stdout, stderr
        and the path of its log. ranks: processes that do so together.
        """
        words = [(str(self.folder / script), ["--track=tiny", *shared, *flags]) for script, flags in cases]
        with tempfile.TemporaryDirectory() as folder:
            last = forked(timeout, ranks=ranks, cases=words, folder=str(self.folder), answers=folder,
                          environ=environment())
            answers = [{kind: Path(folder, f"{i}.{kind}").read_text() for kind in ("stdout", "stderr")}
                       for i in range(len(cases))]
            for i, answer in enumerate(answers):
                end = Path(folder, f"{i}.json")
                answer |= json.loads(end.read_text()) if end.exists() else {}
        answers[-1]["code"] = last
        return answers

    def logs(self) -> list[Path]:
        """Return the logs, oldest first."""
        logs = (self.folder / "records" / "runs").glob("*.txt")
        return sorted(logs, key=lambda path: path.stat().st_mtime_ns)

    def end(self) -> dict:
        """Return the end event of the only log."""
        [log] = self.logs()
        return result(log)

    def adds(self, name: str, *lines: str, after: str = TRAIN) -> str:
        """Write a variant of train_gpt2.py with lines added behind a piece of a step; return its name."""
        return self.submission(name, (after, after + "".join(f"        {line}\n" for line in lines)))

    def submission(self, name: str, *changes: tuple[str, str]) -> str:
        """Write a variant of train_gpt2.py with some text replaced, and return its name."""
        source = (self.folder / "train_gpt2.py").read_text()
        for old, new in changes:
            assert source.count(old) == 1, f"{source.count(old)} times in train_gpt2.py: {old}"
            source = source.replace(old, new)
        (self.folder / name).write_text(source)
        return name


@cache
def warm() -> subprocess.Popen:
    """Return the process that forks itself for runs, the same one as long as the tests last."""
    return subprocess.Popen([sys.executable, str(ROOT / "tests" / "warm.py")], stdin=subprocess.PIPE,
                            stdout=subprocess.PIPE, text=True, env=environment(), start_new_session=True)


def forked(timeout: float, **request: Any) -> int:
    """Have tests/warm.py fork for a request; return the exit code of its ranks."""
    process = warm()
    print(json.dumps(request), file=process.stdin, flush=True)
    if not select.select([process.stdout], [], [], timeout)[0]:
        warm.cache_clear()
        os.killpg(process.pid, signal.SIGKILL)
        raise TimeoutError(f"no end within {timeout:g} s")
    return int(process.stdout.readline())


def environment() -> dict[str, str]:
    """Return the environment of a launch, without what an outer torchrun may have left."""
    outer = ("TORCHELASTIC", "MASTER_", "RANK", "WORLD_")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(outer)}
    return {**kept, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "PYTHONUNBUFFERED": "1"}


def resealed_script(log: bytes, *changes: tuple[str, str]) -> bytes:
    """Return a log with text of its script, or else below it, replaced, and the hashes that fit."""
    script, rule, rest = log.partition(b"\n" + RULE.encode() + b"\n")
    for old, new in changes:
        assert old.encode() in script + rest, f"not in the log: {old}"
        if old.encode() in script:
            script = script.replace(old.encode(), new.encode())
        else:
            rest = rest.replace(old.encode(), new.encode())
    head, _, body = rest.partition(b"\n")
    manifest = json.loads(head.removeprefix(b"#:manifest "))
    manifest["code"]["script"] = sha256(script + b"\n")
    log = script + rule + b"#:manifest " + canonical(manifest).encode() + b"\n" + body
    above, _, end = log.rpartition(b"#:end ")
    return above + b"#:end " + canonical({**json.loads(end), "sha256": sha256(above)}).encode() + b"\n"


def events(log: Path, kind: str) -> list[dict]:
    """Return the events of one kind in a log."""
    start = f"#:{kind} "
    return [json.loads(line[len(start):]) for line in log.read_text().split("\n") if line.startswith(start)]


def result(log: Path) -> dict:
    """Return the end event of a log."""
    [end] = events(log, "end")
    return end
