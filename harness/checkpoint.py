"""Checkpoints: complete, atomic, loadable at another world size; nothing in them is unpickled."""
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from harness.shards import write_atomically

KEPT = 2


class CheckpointError(ValueError):
    """No checkpoint of a folder can be used."""


def optimizer_state(optimizers: list, model: nn.Module) -> list[dict]:
    """Return each optimizer's groups and state by parameter name, gathered from all ranks (collective).

    A state that several ranks hold is taken from the lowest of them. Tensors on CPU; only rank 0's list is
    complete.
    """
    names = {p: name for name, p in model.named_parameters()}
    mine = []
    for optimizer in optimizers:
        state = {names[p]: {k: v.detach().cpu() if isinstance(v, Tensor) else v for k, v in entry.items()}
                 for p, entry in optimizer.state.items()}
        groups = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
        mine.append({"groups": groups, "state": state})
    everyones: list = [None] * dist.get_world_size()
    dist.gather_object(mine, everyones if dist.get_rank() == 0 else None)
    for other in reversed(everyones if dist.get_rank() == 0 else []):
        for whole, part in zip(mine, other):
            whole["state"] |= part["state"]
    return mine


def restore(state: dict, model: nn.Module, optimizers: list) -> None:
    """Load what load() returned into model, optimizers and random state.

    Optimizers drop what this rank lacks need of. Raises ValueError where the checkpoint is of another model
    or other optimizers.
    """
    try:
        model.load_state_dict(state["model"])
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise CheckpointError(f"the checkpoint is of another model: {reason}") from None
    names = {p: name for name, p in model.named_parameters()}
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        if set(saved["state"]) - {names[p] for group in optimizer.param_groups for p in group["params"]}:
            raise CheckpointError("the checkpoint is of other optimizers: their parameters differ")
        groups, index = [], {}
        for group, values in zip(optimizer.param_groups, saved["groups"], strict=True):
            numbers = range(len(index), len(index) + len(group["params"]))
            index |= {names[p]: number for number, p in zip(numbers, group["params"])}
            groups.append({**values, "params": list(numbers)})
        optimizer.load_state_dict({"param_groups": groups, "state": {
            index[name]: entry for name, entry in saved["state"].items()}})
    torch.set_rng_state(state["rng"]["cpu"])
    if state["rng"]["cuda"] is not None and torch.cuda.is_initialized():
        torch.cuda.set_rng_state(state["rng"]["cuda"])


def save(folder: Path, step: int, model: nn.Module, optimizers: list, facts: dict[str, Any]) -> None:
    """Write folder/step<step>/ : state.pt, then COMPLETE with its sha256; keep the last two (collective)."""
    state = {"step": step, "model": {k: v.cpu() for k, v in model.state_dict().items()},
             "optimizers": optimizer_state(optimizers, model), "facts": facts,
             "rng": {"cpu": torch.get_rng_state(),
                     "cuda": torch.cuda.get_rng_state() if next(model.parameters()).is_cuda else None}}
    if dist.get_rank() == 0:
        target = folder / f"step{step:06d}"
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        part, whole = target / "state.pt.part", target / "state.pt"
        with open(part, "wb") as f:
            torch.save(state, f)
            f.flush()
            os.fsync(f.fileno())
        os.replace(part, whole)
        write_atomically(target / "COMPLETE", json.dumps({"sha256": file_sha256(whole)}).encode())
        for old in sorted(folder.glob("step*"))[:-KEPT]:
            shutil.rmtree(old)
    dist.barrier()


def load(folder: Path) -> tuple[dict, str, list[str]]:
    """Return the newest whole checkpoint of a folder, its name, and why newer ones were passed over.

    Raises CheckpointError where none is whole. A checkpoint's own folder may be given too.
    """
    candidates = [folder] if (folder / "state.pt").exists() else sorted(folder.glob("step*"), reverse=True)
    refused = []
    for candidate in candidates:
        try:
            expected = json.loads((candidate / "COMPLETE").read_text())["sha256"]
            found = file_sha256(candidate / "state.pt")
            if found != expected:
                raise ValueError(f"sha256 {found[:16]}..., COMPLETE says {expected[:16]}...")
            state = torch.load(candidate / "state.pt", map_location="cpu", weights_only=True)
            return state, candidate.name, refused
        except (OSError, ValueError, KeyError, TypeError) as error:
            refused.append(f"{candidate.name} is not whole ({error})")
    raise CheckpointError(f"{folder}: no whole checkpoint; {'; '.join(refused) or 'it holds none'}")


def resume(folder: Path, identity: dict[str, str], stop: int, model: nn.Module, optimizers: list) -> dict:
    """Restore the newest whole checkpoint of a folder; return its facts, among them step and resumed_from.

    Raises CheckpointError where there is none, where it belongs to a run of another identity, or where it
    stands at the step stop or later.
    """
    state, name, refused = load(folder)
    facts, step = state["facts"], state["step"]
    if differ := [f"{k} {facts[k]}, not {v}" for k, v in identity.items() if facts[k] != v]:
        raise CheckpointError(f"a checkpoint of another run: {'; '.join(differ)}")
    if step >= stop:
        raise CheckpointError(f"{name} stands at step {step}, the run is to stop at {stop}")
    restore(state, model, optimizers)
    return {**facts, "step": step, "resumed_from": {"checkpoint": name, "refused": refused, "step": step,
                                                    "run_id": facts["run_id"]}}


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
