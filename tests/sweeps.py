"""Folders of sweeps whose logs are written here, right in every hash, for tests of what reads them."""
import json
import math
import random
from functools import cache
from pathlib import Path
from typing import Any

from harness.runlog import RunLog, canonical, sha256
from lab.recipe import costs
from lab.recipe.load import as_dict
from lab.sweep.space import Space, as_json, make_space, recipe_of

SCRIPT = b"print('train')\n"
OVERRIDES = {"duration.steps": 8, "data.batch_tokens": 256, "data.seq_len": 32}


def swept(folder: Path, axes: dict[str, list], runs: list[dict[str, Any]], **space: Any) -> Path:
    """Write a sweep's folder: each run a point, and what write_log or its index line should say instead."""
    folder.mkdir(parents=True, exist_ok=True)
    overrides = {**OVERRIDES, **space.pop("overrides", {})}
    overrides = {key: value for key, value in overrides.items() if key not in axes}
    made = space_of(canonical({"recipe": "gpt_tiny", "overrides": overrides, "axes": axes, **space}))
    (folder / "sweep.json").write_text(canonical(as_json(made)) + "\n")
    rows = []
    for index, run in enumerate(runs):
        point = {"seed": 0, **run.pop("point")}
        row = {"index": index, "seed": point.pop("seed"), "point": point, "status": "ok", "tokens": 0,
               "steps": 0, "flops": 0.0, "parameters": 0, "val_loss": None, "message": None, "wall_s": 1.0}
        recipe = recipe_of(made, point)
        row |= {name: run.pop(name) for name in list(run) if name in row}
        row["log"] = None if row["status"] == "oom" else str(
            write_log(folder / "logs", index, recipe, row["seed"], row["status"], **run))
        rows.append(row)
    (folder / "results.jsonl").write_text("".join(canonical(row) + "\n" for row in rows))
    return folder


@cache
def space_of(text: str) -> Space:
    return make_space(json.loads(text))


def write_log(folder: Path, index: int, recipe: Any, seed: int, status: str, loss: float = 5.0,
              cut: int | None = None, train_sha256: str = "a" * 64, val_tokens: int = 512,
              grad_norm: float = 1.0, spike_at: int | None = None) -> Path:
    """Write the log of a run whose losses fall from 8 to a final one, validated four times."""
    log = RunLog(folder, f"20260101T000000Z_00000000_{index:06x}")
    planned = [step.tokens for step in costs.steps(recipe)][:cut]
    total, tokens, random_ = len(planned), 0, random.Random(index)
    data = {"train": [{"file": "t.bin", "tokens": 9, "sha256": train_sha256}], "epochs": 1,
            "val": {"file": "v.bin", "tokens": 9, "sha256": "b" * 64}, "tokens": 512}
    log.sources(SCRIPT, {
        "format": 1, "seed": seed, "code": {"script": sha256(SCRIPT), "digest": ""}, "data": data,
        "hyperparameters": {"num_iterations": total, "recipe": as_dict(recipe)},
        "track": "lab", "track_row": {"val_tokens": val_tokens},
        "parameters": {"active": 90, "total": 120}}, {}, ["Python"])
    for step, taken in enumerate([*planned, None]):
        now = 8 - (8 - loss) * min(1.0, 1.2 * step / total)
        if step % max(1, total // 4) == 0 or step == total:
            log.event("val", step=step, val_loss=loss if step == total else now, tokens=tokens,
                      train_time_ns=step * 10**7, weights="0" * 16)
        if taken:
            tokens += taken
            noisy = now + random_.gauss(0, 0.02) + 3 * (step == spike_at)
            log.line(f"step:{step + 1}/{total} train_loss:{noisy:.4f} train_time:{step}ms step_avg:1.00ms")
            log.event("scalar", step=step + 1, lr=recipe.optimizer.lr,
                      grad_norm=math.nan if status == "diverged" and step + 1 == total else grad_norm)
    log.end(**{"status": {"ok": "ok", "diverged": "nonfinite"}.get(status, "failed")})
    return log.path
