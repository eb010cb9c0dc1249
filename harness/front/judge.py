"""A second witness: knows of a run its log and its weights, and gives <run>.judge.json. Needs no torch.

    python -m harness.front.judge LOG [--weights FILE] [--cuts N] [--holdout SEED|SHARD] [--against LOG]

Two children, one after the other, build the model from the log alone and give logits for token ids; neither
gets a target. The first has each piece of the validation once. The second has rows that are cut, with another
text behind: what stands before the cut must cost what it cost before. Losses are compared, not logits.
"""
import argparse
import hashlib
import json
import math
import os
import re
import secrets
import shutil
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack, closing
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from harness.front.cell import Child, Fails, NotJudged, shown
from harness.runlog import ROOT, RULE, canonical, sha256
from harness.shards import HEADER_BYTES, MAGIC, VERSION, read_shard, scan_shard, write_atomically
from harness.track import pinned_hashes

HERE = Path(__file__).resolve().parent
SOURCES = ("judge", "cell", "judged", "sandbox")
LIMITS = {"difference": 2e-6, "moved": 0.0}  # nats, eager on a CPU: honest runs had at most 1.6e-7, and 0
UNREADABLE = (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError,
              MemoryError)  # of whatever a log or a file of weights may hold
GAP_REVIEW, GAP_FAILS = 4, 8  # standard deviations of the gap of honest runs


def judge(log: Path, weights: Path | None = None, cuts: int | None = None, holdout: str | None = None,
          against: Path | None = None, data: Path | None = None, device: str = "cpu", by: str = "owner",
          deadline: float = 300) -> dict[str, Any]:
    """Return the verdict on a run, whose `ok` is None where it could not be judged.

    holdout: a seed, which chooses among the tokens of the track's validation shard that no run validates on,
    or a shard. against: the log of a trusted run, whose gap on the same holdout is told beside. by: who
    judges. deadline: seconds in which a child must answer.
    """
    begin, source = time.monotonic(), log.read_bytes()
    judges = {name: sha256((HERE / f"{name}.py").read_bytes()) for name in SOURCES}
    names = ("run_id", "track", "seed", "state_sha256", "ok", "refused", "loss", "difference", "moved",
             "peek", "peek_se", "cuts", "holdout", "numbers", "parameters", "calls", "order_seed", "sandbox",
             "torch", "import_cpu_ns")
    verdict = dict.fromkeys(names) | {
        "format": 1, "log_sha256": sha256(source), "judge_sha256": sha256(canonical(judges).encode()),
        "device": device, "judged_by": by, "init": "could not tell", "limits": "unmeasured"}
    run = None
    try:
        with ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="judge-"))
            run = Judged(source, Path(folder).resolve(), verdict)
            run.take_data(data or ROOT / run.row["data"], holdout)
            run.take_weights(weights or log.with_suffix(".safetensors"))
            first, second = (stack.enter_context(closing(Child(run.folder, device, deadline))) for _ in "AB")
            run.count(first)
            run.probe(second, cuts)
        if against and holdout:
            other = judge(against, None, 1, holdout, None, data, device, by, deadline)
            verdict["holdout"]["against"] = {**(other["holdout"] or {}), "run_id": other["run_id"]}
        verdict["ok"] = run.holds()
    except Fails as error:
        elsewhere = run and verdict["limits"] == "unmeasured"  # a script may want the device that it ran on
        verdict |= {"ok": None if elsewhere else False, "refused": str(error)}
    except NotJudged as error:
        verdict["refused"] = str(error)
    except UNREADABLE as error:
        verdict["refused"] = f"{type(error).__name__}: {shown(error)}"
    return verdict | {"seconds": round(time.monotonic() - begin, 3)}


class Judged:
    """A run under judgement: its log unpacked into an empty folder, its weights, the track's tokens."""

    def __init__(self, source: bytes, folder: Path, verdict: dict[str, Any]):
        self.folder, self.verdict = folder, verdict
        self.manifest, self.end, files = read_log(source)
        verdict |= {name: self.manifest[name] for name in ("run_id", "track", "seed")}
        if self.end["status"] not in ("ok", "stopped"):
            raise NotJudged(f"the run ended {shown(self.end['status'])}")
        self.rows = tomllib.loads((ROOT / "harness" / "tracks.toml").read_text())
        self.row, told = self.rows[verdict["track"]], self.manifest["track_row"]
        if other := [name for name in ("val_tokens", "val_piece", "recipe") if told[name] != self.row[name]]:
            raise NotJudged(f"its track has another {', '.join(other)} than this checkout's")
        hp, facts, cpus = self.manifest["hyperparameters"], self.manifest["sys"], Path("/proc/cpuinfo")
        here = cpus.exists() and f": {facts['cpu']}\n" in cpus.read_text()
        self.same_place = here and not facts["gpus"] and facts["torch"] == version("torch")
        seq_len = hp.get("val_seq_len") or hp["seq_len"]
        self.shape = [self.row["val_piece"] // seq_len, seq_len]
        self.setup = {
            **{name: self.manifest[name] for name in ("script", "overrides", "seed")},
            "recipe": self.row["recipe"], "shape": self.shape, "weights": str(folder / "weights"),
            "modules": [*self.manifest.get("process", {}).get("modules", {})],
            # elsewhere 'medium' may round to bfloat16
            "precision": facts["float32_matmul_precision"] if here else "highest"}
        eager = not facts["gpus"] and not self.manifest["launch"].get("compile")
        if verdict["device"] == "cpu" and eager and (here or hp.get("dtype", "float32") == "float32"):
            verdict["limits"] = LIMITS
        verdict["parameters"] = self.manifest["parameters"]["total"]
        for path, data in files.items():
            if not re.fullmatch(r"([\w-][\w .-]*/)*[\w-][\w .-]*", path):
                raise NotJudged(f"a file's path is {shown(path)!r}")
            file = folder / "code" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
        if self.row["recipe"] == "lab":
            self.furnish(folder / "code")

    def furnish(self, folder: Path) -> None:
        """Give a recipe of the lab what it looks up: the tracks, and the length of shards, which hold 0."""
        shutil.copyfile(ROOT / "harness" / "tracks.toml", folder / "harness" / "tracks.toml")
        for shard in self.manifest["data"]["train"]:
            path, n = folder / self.row["data"] / Path(shard["file"]).name, shard["tokens"]
            path.parent.mkdir(parents=True, exist_ok=True)
            np.array([MAGIC, VERSION, n], "<i4").tofile(path)
            os.truncate(path, HEADER_BYTES + 2 * n)  # takes no room on the disk

    def take_data(self, folder: Path, holdout: str | None) -> None:
        """Take the pieces to count: the track's validation, and behind them those of a holdout.

        The shard must be the one that the log names, and that this checkout pins.
        """
        piece, n = self.row["val_piece"], self.row["val_tokens"]
        shard = min(folder.glob(self.row["val_files"]), default=folder / self.row["val_files"])
        found = scan_shard(shard).sha256
        if {found} != {self.manifest["data"]["val"]["sha256"], pinned_hashes(folder).get(shard.name, found)}:
            raise NotJudged(f"{shard.name} here is not the shard that the log names")
        tokens, starts, self.counted = read_shard(shard), range(0, n, piece), n // piece
        self.pieces = [np.array(tokens[i:i + piece + 1]) for i in starts]
        if holdout is not None:
            where, seed = ("data", "val_files"), int(holdout) if holdout.isdigit() else None
            used = max(row["val_tokens"] for row in self.rows.values()  # and their last target
                       if [row.get(name) for name in where] == [self.row[name] for name in where]) + 1
            tokens = read_shard(holdout) if seed is None else tokens[used:]
            starts = np.random.default_rng(seed or 0).permutation(np.arange(0, len(tokens) - piece, piece))
            name, self.seeded = Path(holdout).name, seed is not None
            if not len(starts):
                raise NotJudged(f"--holdout {shown(name)}: {len(tokens)} tokens that no run validates on, "
                                f"expected over {piece}; give a longer text of your own, with --against")
            chosen = starts[:self.counted]
            self.pieces += [np.array(tokens[i:i + piece + 1]) for i in chosen]
            self.verdict["holdout"] = {"source": name, "tokens": piece * len(chosen)}

    def take_weights(self, path: Path) -> None:
        """Copy the weights that the log names into the folder; only then is the order of the calls drawn."""
        if (named := self.end.get("state_sha256")) is None:
            raise NotJudged("its log names no weights; train again with --weights true")
        if not path.is_file():
            raise NotJudged(f"{path.name}: no such file; train with --weights true, or give --weights FILE")
        copy = self.folder / "weights"
        shutil.copyfile(path, copy)
        with open(copy, "rb") as f:
            if (found := hashlib.file_digest(f, "sha256").hexdigest()) != named:
                raise NotJudged(f"{path.name}: sha256 {found[:16]}..., the log names {shown(named)[:16]}...")
            f.seek(0)
            header = json.loads(f.read(int.from_bytes(f.read(8), "little")))
        self.size = copy.stat().st_size
        self.verdict |= {"state_sha256": named, "order_seed": secrets.randbits(63),
                         "numbers": sum(math.prod(entry["shape"]) for entry in header.values())}
        self.generator = np.random.default_rng(self.verdict["order_seed"])

    def begin(self, child: Child) -> None:
        """Have a child import the script, build the model, load the weights; compare the step-0 weights."""
        memory = (8 << 30) + 8 * self.size + 48 * self.row["val_piece"] * self.row["vocab_size"]
        digest = child.begin(self.setup | {"memory": memory}, 4 * self.size + (1 << 20))
        if named := self.manifest.get("init_sha256"):
            self.verdict["init"] = ("same" if digest == named else
                                    "differs" if self.same_place else "could not tell")

    def count(self, child: Child) -> None:
        """Ask a child, which is killed then, for each piece in random order, and compare the loss."""
        self.begin(child)
        self.verdict |= child.told
        order = self.generator.permutation(len(self.pieces))
        self.costs = np.empty((len(self.pieces), self.row["val_piece"]))
        calls = [self.pieces[i][:-1] for i in order]
        for i, logits in zip(order, child.logits(calls, self.shape, self.row["vocab_size"])):
            self.costs[i] = nll(logits, self.pieces[i][1:])
        child.close()
        counted, held = self.costs[:self.counted], self.costs[self.counted:]
        loss = math.fsum(counted.flat) / counted.size
        self.verdict |= {"loss": loss, "difference": loss - float(self.end["val_loss"]), "calls": len(calls)}
        if held.size:
            mean, told, known = math.fsum(held.flat) / held.size, self.verdict["holdout"], self.row.get("gap")
            told |= {"loss": mean, "gap": mean - loss, "word": "not measured"}
            if known and self.seeded:
                told["sds"] = (told["gap"] - known["mean"]) / known["sd"]
                told["word"] = ("holds" if told["sds"] <= GAP_REVIEW else
                                "review" if told["sds"] <= GAP_FAILS else "fails")

    def probe(self, child: Child, cuts: int | None) -> None:
        """Ask another child for rows that are cut, and compare what each place before the cut costs."""
        rows, T = self.shape
        x, y = (np.concatenate([piece[cut] for piece in self.pieces[:self.counted]]).reshape(-1, T)
                for cut in (np.s_[:-1], np.s_[1:]))
        before, moved, peeks = self.costs[:self.counted].reshape(-1, T), 0.0, []
        calls = list(probes(self.generator, len(x), T, cuts or default_cuts(len(x), T), rows))
        ids = [np.concatenate([part for row, cut, donor in call for part in (x[row][:cut], x[donor][cut:])])
               for call in calls]
        self.begin(child)
        for call, logits in zip(calls, child.logits(ids, self.shape, self.row["vocab_size"])):
            for (row, cut, donor), found in zip(call, logits.reshape(rows, T, -1)):
                if row != donor:
                    apart = nll(found[:cut], y[row][:cut]) - before[row][:cut]
                    moved = np.maximum(moved, np.abs(apart).max())  # NaN stays
                    peeks.append(apart[-1])
        self.verdict |= {"moved": float(moved), "cuts": len(peeks), "peek": float(np.mean(peeks)),
                         "peek_se": float(np.std(peeks) / math.sqrt(max(1, len(peeks) - 1)))}
        self.verdict["calls"] += len(calls)

    def holds(self) -> bool | None:
        """Tell whether all is within the limits, None where those are not known. Raises Fails."""
        found, words = self.verdict, []
        for name in LIMITS:
            most = math.inf if found["limits"] == "unmeasured" else LIMITS[name]
            if not abs(found[name]) <= most:  # NaN too
                words.append(f"{name} {found[name]:.3g}, at most {most:g}")
        if found["init"] == "differs":
            words.append("the weights of step 0 are not those of GPT(hp) after torch.manual_seed(seed)")
        if (found["holdout"] or {}).get("word") == "fails":
            words.append(f"the gap to the holdout is {found['holdout']['sds']:.1f} sd above honest runs'")
        if words:
            raise Fails("; ".join(words))
        if found["limits"] == "unmeasured":
            raise NotJudged("no limits are measured for what is compiled, on a GPU, or bfloat16 of another "
                            "processor; see difference, moved and peek")
        return True


def default_cuts(rows: int, T: int) -> int:
    """Return the number of cuts: a quarter of the validation's rows, at most T, at least 128."""
    return max(128, min(T, rows // 4))


def nll(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return the cross-entropy in nats of each place, float64, of float32 logits (places, vocabulary)."""
    found = np.empty(len(targets))
    with np.errstate(all="ignore"):
        for i in range(0, len(targets), 64):  # so many rows stay in the cache
            rows, wanted = logits[i:i + 64], targets[i:i + 64].astype(np.int64)
            top = rows.max(1)
            total = np.exp(rows - top[:, None]).sum(1)
            found[i:i + 64] = np.log(total) + top - rows[np.arange(len(rows)), wanted]
    return found


def probes(generator: np.random.Generator, rows: int, T: int, cuts: int,
           per_call: int) -> Iterator[list[tuple[int, int, int]]]:
    """Yield calls of (row, cut, donor): before the cut stands the row, behind it the donor.

    What a donor says is asked nowhere. A row has its cuts in ascending order, each in a call of its own: what
    it has shown before helps nobody. Calls are filled up with donors whole.
    """
    order = generator.permutation(rows)
    asked, donors = order[:rows // 2], order[rows // 2:]
    if not len(asked) or cuts < 1:
        raise NotJudged(f"{rows} rows, {cuts} cuts: too few to see what a model looks ahead at")
    rounds = np.sort(generator.integers(1, T + 1, (-(-cuts // len(asked)), len(asked))), axis=0)
    for k, each in enumerate(rounds):
        chosen = generator.permutation(len(asked))[:cuts - k * len(asked)]
        for i in range(0, len(chosen), per_call):
            call = [(int(asked[j]), int(each[j]), int(generator.choice(donors)))
                    for j in chosen[i:i + per_call]]
            yield call + [(int(d), T, int(d)) for d in generator.choice(donors, per_call - len(call))]


def read_log(data: bytes) -> tuple[dict[str, Any], dict[str, Any], dict[str, bytes]]:
    """Return manifest, end line and files of a log (docs/log_format.md), the script among them."""
    script, rule, rest = data.partition(b"\n" + RULE.encode() + b"\n")
    above, found, end = data.rpartition(b"\n#:end ")
    if not (rule and found and rest.startswith(b"#:manifest ") and end.endswith(b"}\n")):
        raise NotJudged("no whole log of format 1: it has no end line")
    manifest, end = json.loads(rest.split(b"\n", 1)[0].removeprefix(b"#:manifest ")), json.loads(end)
    if sha256(above + b"\n") != end["sha256"] or sha256(script + b"\n") != manifest["code"]["script"]:
        raise Fails("its sha256 is not that of its end line, or its script's not that of its manifest")
    files = {manifest["script"]: script + b"\n"}
    for head, body in re.findall(rb"(?m)^#:file (.*)\n((?:\|.*\n)*)#:endfile$", rest):
        head = json.loads(head)
        source = re.sub(rb"(?m)^\|", b"", body)[:head["bytes"]]
        if sha256(source) != head["sha256"] or head["path"] in files:
            raise Fails(f"{shown(head['path'])}: there twice, or not the file of its sha256")
        files[head["path"]] = source
    return manifest, end, files


def sentence(verdict: dict[str, Any]) -> str:
    """Return a verdict in one line."""
    word = {True: "holds", False: "does not hold", None: "not judged"}[verdict["ok"]]
    words = [f"judge: {word}" + f": {verdict['refused']}" * bool(verdict["refused"])]
    if verdict["peek"] is not None:
        words.append("loss {loss:.6f}, {difference:+.1e} off the log's; moved {moved:.3g}, peek {peek:+.2g} "
                     "at {cuts} cuts; weights of step 0: {init}; sandbox {sandbox}".format(**verdict))
    if verdict["holdout"] and "gap" in verdict["holdout"]:
        words.append("gap {gap:+.4f} to {tokens} other tokens: {word}".format(**verdict["holdout"]))
    return "; ".join(words) + f"; {verdict['seconds']:.1f} s"


def main() -> int:
    """Judge the command line's log; return 0 where it holds, 1 where it does not, 2 where it was not judged.

    A verdict is written beside the log; where there is none, what lies there stays.
    """
    parser = argparse.ArgumentParser(prog="python -m harness.front.judge", description=__doc__)
    parser.add_argument("log", type=Path)
    for name, kind in (("weights", Path), ("cuts", int), ("holdout", str), ("against", Path), ("data", Path),
                       ("device", str), ("by", str)):
        parser.add_argument(f"--{name}", type=kind, default=argparse.SUPPRESS)
    arguments = vars(parser.parse_args())
    try:
        verdict = judge(**arguments)
    except KeyboardInterrupt:
        print("judge: not judged: interrupted", file=sys.stderr)
        return 130
    print(sentence(verdict))
    if verdict["ok"] is None:
        return 2
    file = arguments["log"].with_suffix(".judge.json")
    try:
        write_atomically(file, canonical(verdict).encode() + b"\n")
    except OSError as error:
        print(f"judge: {file}: the verdict cannot be written ({error.strerror})", file=sys.stderr)
        return 2
    return 0 if verdict["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
