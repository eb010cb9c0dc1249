"""Synthetic checkouts and logs of format 1, right in every number and hash, to be broken in one place."""
import json
import math
import types
from collections.abc import Callable
from pathlib import Path

from harness.runlog import RunLog, canonical, sha256
from records.tools.check import race
from records.tools.check.verdict import verdict_path
from records.tools.read.log import read_log
from records.tools.read.values import write_whole

SCRIPT = b"from harness.run import open_run\nprint('train')\n"
HARNESS = {"harness/__init__.py": b"", "harness/run.py": b"steps = 8\n"}
ROW = {"recipe": "tiny", "data": "data/tiny", "train_files": "t_*.bin", "val_files": "v_*.bin",
       "vocabulary": "data/tiny/vocab.bpe", "vocab_size": 257, "val_tokens": 512, "val_piece": 128,
       "val_bytes": 500, "target": 5.0, "significance": {"alpha": 0.01}, "max_active_parameters": 1000,
       "reduction": "exact", "fetch": "false", "download": "nothing", "cost": "seconds",
       "baselines": {"unigram": 5.5}}
OLD_HARNESS = {**HARNESS, "harness/run.py": b"steps = 9\n"}  # accepted once, and closed
DAY = 1_767_225_600_000_000_000  # 2026-01-01T00:00:00Z, in ns


def digest(files: dict[str, bytes]) -> str:
    """Return the harness digest of files in harness/."""
    return sha256(canonical({path.removeprefix("harness/"): sha256(source) for path, source in files.items()
                             if path.startswith("harness/") and path.count("/") == 1}).encode())


OLD = digest(OLD_HARNESS)


def checkout(root: Path) -> Path:
    """Make a checkout: a track named tiny, its accepted harness, its pinned shards."""
    (root / "harness").mkdir(parents=True)
    (root / "data" / "tiny").mkdir(parents=True)
    row = "".join(f"{k} = {toml(v)}\n" for k, v in ROW.items())
    accepted = (f'[harness]\ncurrent = "{digest(HARNESS)}"\n[harness.accepted]\n{digest(HARNESS)} = "new"\n'
                f'{OLD} = "older"\n[harness.closed]\n{OLD} = []\n')
    (root / "harness" / "tracks.toml").write_text(f"{accepted}[tiny]\n{row}")
    pins = {name: {"sha256": sha256(name.encode())} for name in ("t_0.bin", "v_0.bin")}
    (root / "data" / "tiny" / "manifest.json").write_text(json.dumps({"files": pins}))
    return root


def runnable(root: Path) -> Path:
    """Make a checkout from which the code of the synthetic logs runs, and return its folder."""
    checkout(root)
    for path, source in {**HARNESS, "run.sh": b"exit 7\n", "requirements.txt": b"torch\n",
                         "data/tiny/vocab.bpe": b"#version: 0.2\n"}.items():
        (root / path).write_bytes(source)
    return root


def toml(value: object) -> str:
    """Return a value as TOML."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(k)} = {toml(v)}" for k, v in value.items()) + " }"
    return json.dumps(value)


def sound(seed: int) -> types.SimpleNamespace:
    """Return all that the log of a sound run of 8 steps says, to be broken and written."""
    shards = [{"file": name, "tokens": 1000, "sha256": sha256(name.encode())}
              for name in ("t_0.bin", "v_0.bin")]
    vals = [[0, 5.549, 0], [4, 5.2 + seed / 100, 40_000_000 + seed],
            [8, 4.9 + seed / 1000, 80_000_000 + 7 * seed]]
    start = {"realtime_ns": DAY + seed * 10**9, "monotonic_ns": 10**12, "boottime_ns": 10**12 + 5}
    parts = {"timed_ns": vals[-1][2], "setup_ns": 500_000_000, "warmup_ns": 300_000_000,
             "validation_ns": 200_000_000, "checkpoint_ns": 0, "unexplained_ns": 10_000_000}
    lived = sum(parts.values()) - parts["setup_ns"] + 1_000_000
    manifest = {
        "format": 1, "script": "train.py", "track": "tiny", "track_digest": "0" * 64,
        "track_row": {**ROW, "name": "tiny"}, "seed": seed, "argv": [], "launch": {"seed": seed},
        "hyperparameters": {"num_iterations": 8, "val_every": 4, "batch_tokens": 64}, "overrides": {},
        "world_size": 1, "nodes": 1, "reduction": "exact", "rows": 1, "accumulation": 4,
        "parameters": {"active": 900, "total": 1200}, "resumed_from": None,
        "data": {"train": shards[:1], "val": shards[1], "tokens": 512, "epochs": 1},
        "git": {"commit": "c" * 40, "dirty": False}, "calibration": {}, "clocks": start,
        "process": {"runs_before": 0, "cpu_ns": 3 * 10**9, "modules": {}},
        "sys": {"cpu": "Tiny CPU", "gpus": [], "torch": "2.13.0", "python": "3.11.7", "settings": []}}
    train = [[step, 5.5 - step / 50 - seed / 100, 10 * step] for step in range(1, 9)]
    return types.SimpleNamespace(
        script=SCRIPT, files=dict(HARNESS), manifest=manifest, vals=vals, train=train, more=[], late={},
        imported=(),  # the files of harness/front/ that a rank loaded
        verdict={"format": 1, "ok": True, "refused": None, "difference": 0.0,
                 "moved": 0.0, "peek": 0.0, "peek_se": 0.0, "cuts": 128, "init": "same", "holdout": None,
                 "sandbox": "landlock7+seccomp", "device": "cpu", "torch": "2.13.0", "judge_sha256": "7" * 64,
                 "state_sha256": "5" * 64, "import_cpu_ns": 3 * 10**9, "judged_by": "owner"},
        end={"status": "ok", "wall_ns": sum(parts.values()), **parts, "state_sha256": "5" * 64,
             "untimed": {"warmup_steps": 2, "warmup_step_ns": 10**8, "step_ns": 10**7, "pieces": 12,
                         "piece_ns": 10**7, "compile_ns": 0},
             "clocks": {name: ns + lived for name, ns in start.items()}}, name=f"{seed:06x}")


def write(folder: Path, run: types.SimpleNamespace) -> Path:
    """Write a log as the harness does, with hashes and numbers that fit, and return its path."""
    others = {path: sha256(source) for path, source in run.files.items()
              if not path.startswith("harness/") or path in run.imported}
    code = {"script": sha256(run.script), "harness": digest(run.files), "others": others}
    code["digest"] = sha256(canonical(code).encode())
    run_id = f"20260101T000000Z_{code['digest'][:8]}_{run.name}"
    log = RunLog(folder, run_id)
    manifest = {"run_id": run_id, **run.manifest, "code": code}
    log.sources(run.script, manifest, run.files, ["Running Python 3.11.7"])
    last = {}
    for step, loss, time_ns in run.vals:
        for s, train_loss, ms in run.train:
            if last.get("step", 0) < s <= step:
                log.line(f"step:{s}/8 train_loss:{train_loss:.4f} train_time:{ms}ms step_avg:{ms / s:.2f}ms")
                log.event("scalar", step=s, lr=0.1)
        average = time_ns / 1e6 / step if step else math.nan
        times = f"train_time:{time_ns / 1e6:.0f}ms step_avg:{average:.2f}ms"
        log.line(f"step:{step}/8 val_loss:{loss:.4f} {times}")
        last = {"step": step, "val_loss": loss, "train_time_ns": time_ns, "tokens": 64 * step,
                "weights": "0" * 16, "bits_per_byte": loss * 512 / math.log(2) / 500}
        log.event("val", **last)
    for kind, fields in run.more:
        log.event(kind, **fields)
    for path, source in run.late.items():
        log.event("late", path=path)
        log.file(path, source)
    log.end(**{**last, **run.end})
    if run.verdict:
        verdict_path(log.path).write_text(json.dumps(bound_to(log.path) | run.verdict))
    return log.path


def unjudged(log: Path) -> Path:
    """Take the verdict on a log away, and give it weights in its place; return the log."""
    verdict_path(log).unlink()
    log.with_suffix(".safetensors").write_bytes(b"w")
    return log


def bound_to(path: Path) -> dict:
    """Return what a verdict says of the log that it is on."""
    log = read_log(path)
    return {"run_id": path.stem, "log_sha256": sha256(path.read_bytes()), "loss": log.vals[-1].val_loss,
            "track": log.manifest["track"], "seed": log.manifest["seed"]}


def campaign(root: Path, n: int = 4, change: Callable | None = None, which: int | None = 0) -> list[Path]:
    """Write n sound runs with seeds 1, 2, ..., one of them or all changed, and return the logs."""
    logs = []
    for i in range(n):
        run = sound(i + 1)
        if change and which in (i, None):
            change(run)
        logs.append(write(root / "runs", run))
    names = [log.name for log in logs]
    (root / "runs" / "seeds_0.json").write_text(json.dumps({"seed0": 1, "logs": names}))
    return logs


def settled(run: types.SimpleNamespace) -> None:
    """Give a run whose validations were moved in time the step lines and the end line that fit."""
    vals = run.vals
    for step in run.train:
        (s0, _, t0), (s1, _, t1) = next(pair for pair in zip(vals, vals[1:]) if pair[1][0] >= step[0])
        step[2] = int((t0 + (t1 - t0) * (step[0] - s0) / (s1 - s0)) / 1e6)
    longer = vals[-1][2] - run.end["timed_ns"]
    for parts, names in ((run.end, ("timed_ns", "wall_ns")), (run.end["clocks"], run.end["clocks"])):
        parts.update({name: parts[name] + longer for name in names})


def raced(folder: Path, n: int = 4, a_later_ms: float = -5.0, spoil: Callable | None = None,
          slot: int | None = None, sides: str = "AB") -> Path:
    """Write a whole race of sound runs, one of them or all spoilt, and return its folder; A has SCRIPT.

    Against B, A is later by some ms, and C by 10.
    """
    plan = {**race.declaration(sides, n), "track": "tiny", "ranks": None, "seeds": list(range(n + 1)),
            "attempts": []}
    for i, side in enumerate(plan["order"]):
        run = race_run(side, i, i // len(sides), {"A": a_later_ms, "B": 0.0, "C": 10.0}[side])
        if spoil and slot in (i, None):
            spoil(run)
        log = write(folder, run)
        plan.setdefault(side, {"code": read_log(log).manifest["code"]["digest"], "script": "train.py"})
        plan["attempts"].append({"run": i, "log": log.name, "status": "ok"})
    write_whole(folder / race.RACE, json.dumps(plan))
    (folder / "ledger.jsonl").unlink()  # of the places in which a race runs, none is kept
    return folder


def race_run(side: str, slot: int, seed: int, late_ms: float) -> types.SimpleNamespace:
    """Return a run of a race: seeds differ in loss and time, and late_ms is what its side takes longer."""
    run = sound(seed)
    run.script, run.name = SCRIPT + b"# before\n" * "ABC".index(side), f"ace{slot:03x}"
    for clocks in (run.manifest["clocks"], run.end["clocks"]):
        clocks["realtime_ns"] += slot * 10**10
    for val in run.vals:
        val[2] += int(val[0] * (late_ms + (slot * 7 % 5) / 10) * 1e6 / 8)
    settled(run)
    return run


def race_logs(folder: Path, side: str, first: int = 1) -> list[Path]:
    """Return the logs of one side of a race, those of the first pair left out."""
    plan = json.loads((folder / "race.json").read_text())
    return [folder / attempt["log"] for attempt in plan["attempts"] if attempt["log"]
            and plan["order"][attempt["run"]] == side and attempt["run"] >= len(set(plan["order"])) * first]


def code_of(name: str) -> str:
    """Return the code digest of a record by that name which write_record makes."""
    code = {"script": sha256(script_of(name)), "harness": digest(HARNESS), "others": {}}
    return sha256(canonical(code).encode())


def script_of(name: str) -> bytes:
    return SCRIPT + f"# {name}\n".encode()


def write_record(folder: Path, name: str, before: str | None = None, later_ms: float = -5.0,
                 spoil: Callable | None = None, /, **more: object) -> Path:
    """Write a record.json as far as its standing goes, and a race against the one before if that is named.

    It began after those that lie there. Returns the path of the record.json.
    """
    def scripts(run: types.SimpleNamespace) -> None:
        run.script = script_of(name if run.script == SCRIPT else before)
        if spoil:
            spoil(run)
    begun = f"2026-01-01T00:{len(list(folder.glob('*'))) if folder.is_dir() else 0:02}:00Z"
    path = folder / f"2026-01-01_{name}" / "record.json"
    path.parent.mkdir(parents=True)
    if before:
        raced(path.parent / "race", a_later_ms=later_ms, spoil=scripts)
    fields = {"name": name, "track": "tiny", "date": "2026-01-01", "begun": begun, "code": code_of(name),
              "device": "Tiny CPU", "world_size": 1, "n": 4, "steps": 8,
              "val_loss": {"mean": 4.9, "sd": None}, "significance": {"word": "PROVEN"}}
    path.write_text(json.dumps({**fields, **more}))
    return path


def edited(folder: Path, edit: Callable) -> Path:
    """Change what a race.json says and return its folder."""
    plan = json.loads((folder / "race.json").read_text())
    edit(plan)
    (folder / "race.json").write_text(json.dumps(plan))
    return folder


def killed(plan: dict) -> None:
    """Put an attempt that was killed before it had a log into the plan of a race."""
    plan["attempts"].insert(4, {"run": 4, "log": None, "status": None})


def resealed(path: Path, old: bytes, new: bytes) -> None:
    """Replace text in a log and give it the end line and verdict that fit: what a careful forger does."""
    above, _, end = path.read_bytes().replace(old, new, 1).rpartition(b"#:end ")
    fields = json.loads(end)
    path.write_bytes(above + b"#:end " + canonical({**fields, "sha256": sha256(above)}).encode() + b"\n")
    if (verdict := verdict_path(path)).is_file():
        found = json.loads(verdict.read_text()) | {"log_sha256": sha256(path.read_bytes())}
        verdict.write_text(json.dumps(found))


def change(path: str, value: object) -> Callable:
    """Return a change of a manifest's field."""
    *names, last = path.split(".")

    def apply(run: types.SimpleNamespace) -> None:
        at = run.manifest
        for name in names:
            at = at[name]
        at[last] = value
    return apply


def ending(**fields: object) -> Callable:
    """Return a change of the end line."""
    return lambda run: run.end.update(fields)


def judging(**fields: object) -> Callable:
    """Return a change of the judge's verdict."""
    return lambda run: run.verdict.update(fields)


def setting(**fields: object) -> Callable:
    """Return a change of anything else that a log says."""
    return lambda run: vars(run).update(fields)


class Judge:
    """Stands for the judge of a checkout: says of a log what it was told to, and notes what it is asked."""

    def __init__(self):
        self.words, self.asked = {}, []

    def judge(self, log: Path, signals: object, words: tuple = (), quiet: bool = False,
              by: str = "owner") -> dict | None:
        self.asked.append((log.name, [*words], by))
        if self.words.get(log.name, True) is None:
            return None
        verdict = {**sound(0).verdict, **bound_to(log), "ok": self.words.get(log.name, True)}
        verdict_path(log).write_text(json.dumps(verdict))
        return verdict
