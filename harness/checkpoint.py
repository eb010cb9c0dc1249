"""Copies of all that training changes: in memory around the warm-up, on disk as checkpoints.

They are put back in place: no tensor is cast, what was made since is gone. A checkpoint is complete and
atomic, and nothing in it is unpickled. Of an optimizer, torch's or any object with parameters() and step(),
it holds the attributes: tensors, plain values, and dicts, lists and tuples of them; parameters by name.
"""
import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import NoneType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from harness.parameters import parameters_of
from harness.runlog import sha256
from harness.shards import write_atomically
from harness.tripwires import Tripwire, state_digest

KEPT = 2
PLAIN = (bool, int, float, str, NoneType, torch.dtype)


class CheckpointError(ValueError):
    """No checkpoint of a folder can be used."""


def packed(value: Any, names: dict[Tensor, str], copy: Callable[[Tensor], Tensor]) -> Any:
    """Return what of a value is state, as torch.load takes it; None for an object of another type."""
    if isinstance(value, Tensor):
        return ("parameter", names[value]) if value in names else (value.device.type, copy(value.detach()))
    if isinstance(value, (dict, Optimizer)):
        pairs = (value if isinstance(value, dict) else vars(value)).items()
        return {packed(k, names, copy): packed(v, names, copy) for k, v in pairs if is_state(v)}
    if isinstance(value, (list, tuple)):
        items = [packed(v, names, copy) for v in value]
        return items if isinstance(value, list) else ("tuple", tuple(items))
    return value if is_state(value) else None


def is_state(value: Any) -> bool:
    """Tell whether a value is copied; a function or a process group is left as it is."""
    return isinstance(value, (Tensor, dict, Optimizer, list, tuple)) or type(value) in PLAIN


def put(saved: Any, now: Any, parameters: dict[str, Tensor]) -> Any:
    """Return what `now` becomes: a packed value, in the tensors and containers that are there."""
    if isinstance(saved, dict):
        now = now if isinstance(now, (dict, Optimizer)) else {}
        held = now if isinstance(now, dict) else vars(now)
        saved = {put(key, None, parameters): value for key, value in saved.items()}
        for key in [key for key, value in held.items() if key not in saved and is_state(value)]:
            del held[key]
        held.update({key: put(value, held.get(key), parameters) for key, value in saved.items()})
        return now
    if not isinstance(saved, (list, tuple)):
        return saved if is_state(now) else now
    kind, items = saved if isinstance(saved, tuple) else ("list", saved)
    if kind == "parameter":
        return parameters[items]
    if isinstance(items, Tensor):
        fits = isinstance(now, Tensor) and (now.dtype, now.shape) == (items.dtype, items.shape)
        return now.copy_(items) if fits else items.to(kind, copy=True)
    olds = now if isinstance(now, (list, tuple)) and len(now) == len(items) else [None] * len(items)
    news = [put(item, old, parameters) for item, old in zip(items, olds)]
    if kind == "tuple":
        return getattr(now, "_make", type(now) if isinstance(now, tuple) else tuple)(news)
    now = now if isinstance(now, list) else []
    now[:] = news
    return now


@torch.no_grad()
def state_of(model: nn.Module, optimizers: list, copy: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    """Return copies of what training changes on this rank, and the names of what each optimizer trains."""
    names = {p: name for name, p in model.named_parameters()}
    return {"model": packed(tensors_in(model), {}, copy),
            "optimizers": [packed(vars(optimizer), names, copy) for optimizer in optimizers],
            "trained": [[names.get(p) for p in parameters_of(optimizer)] for optimizer in optimizers],
            "cpu_rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None}


@torch.no_grad()
def put_state(state: dict[str, Any], model: nn.Module, optimizers: list) -> None:
    """Put what state_of() returned back, in place."""
    put(state["model"], tensors_in(model), {})
    for saved, optimizer in zip(state["optimizers"], optimizers, strict=True):
        put({**saved}, vars(optimizer), dict(model.named_parameters()))
    torch.set_rng_state(state["cpu_rng"])
    if state["cuda_rng"] is not None and torch.cuda.is_initialized():
        torch.cuda.set_rng_state(state["cuda_rng"])


def tensors_in(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers by name."""
    return dict(model.named_parameters()) | dict(model.named_buffers())


class Snapshot:
    """A copy of all that training changes; put_back() restores it."""

    def __init__(self, model: nn.Module, optimizers: list):
        self.model, self.optimizers = model, optimizers
        self._digest, self._state = state_digest(model, optimizers), state_of(model, optimizers, Tensor.clone)

    def put_back(self) -> None:
        """Restore everything. Raises Tripwire where model or optimizers still differ from what they were."""
        self.model.zero_grad(set_to_none=True)
        put_state(self._state, self.model, self.optimizers)
        after = state_digest(self.model, self.optimizers)
        names = self._digest.keys() | after.keys()
        if changed := sorted(name for name in names if self._digest.get(name) != after.get(name)):
            raise Tripwire(f"warmup: {', '.join(changed[:5])} kept what the warm-up did; state belongs in "
                           f"parameters, buffers and the optimizers' state")


def save(folder: Path, step: int, model: nn.Module, optimizers: list, facts: dict[str, Any]) -> None:
    """Write folder/step<step>/ : one file a rank, then COMPLETE; keep the last two (collective)."""
    state, file = state_of(model, optimizers, Tensor.cpu), io.BytesIO()
    if dist.get_rank():  # parameters are the same on all ranks, buffers need not be
        state["model"] = {name: state["model"][name] for name, _ in model.named_buffers()}
    torch.save({**state, "step": step, "facts": facts}, file)
    everyones: list = [None] * dist.get_world_size()  # bytes: gather_object fails on uint16 (torch 2.13)
    dist.gather_object(file.getvalue(), everyones if dist.get_rank() == 0 else None)
    if dist.get_rank() == 0:
        files = {f"rank{rank}.pt": data for rank, data in enumerate(everyones)}
        marker = json.dumps({name: sha256(data) for name, data in files.items()}).encode()
        for name, data in [*files.items(), ("COMPLETE", marker)]:
            write_atomically(folder / f"step{step:06d}" / name, data)
        for old in steps_in(folder)[:-KEPT]:
            if (old / "COMPLETE").exists():  # a whole one, ours
                shutil.rmtree(old)
    dist.barrier()


def steps_in(folder: Path) -> list[Path]:
    """Return the checkpoints of a folder, oldest first; a folder of another name is none."""
    found = [path for path in folder.iterdir() if re.fullmatch(r"step\d{6,}", path.name)]
    return sorted(found, key=lambda path: int(path.name[4:]))


def load(folder: Path, tokens: int) -> list[dict[str, Any]]:
    """Return what each rank saved in a run of so many tokens; raises whatever shows where it is not whole."""
    everyones = []
    for name, expected in json.loads((folder / "COMPLETE").read_text()).items():
        file = (folder / name).read_bytes()
        if (found := sha256(file)) != expected:
            raise ValueError(f"{name}: sha256 {found[:16]}..., COMPLETE says {expected[:16]}...")
        everyones.append(torch.load(io.BytesIO(file), map_location="cpu", weights_only=True))
    step, facts = everyones[0]["step"], everyones[0]["facts"]
    taken, time_ns = facts["taken"], facts["train_time_ns"]
    if {*map(type, (step, taken, time_ns))} != {int} or step < 1 or not 0 < taken <= tokens or time_ns < 0:
        raise ValueError(f"step {step!r:.30} after {taken!r:.30} tokens and {time_ns!r:.30} ns cannot be")
    return everyones


def restore(everyones: list[dict[str, Any]], model: nn.Module, optimizers: list) -> None:
    """Put a checkpoint into model, optimizers and random state, uncast.

    As many ranks as then have each its own again. For any other number, what ranks hold of torch's optimizers
    is joined, of the lowest rank where several hold it; a subclass's load_state_dict may drop what its rank
    lacks need of. Raises ValueError where the checkpoint is of another model or other optimizers.
    """
    lowest = everyones[0]
    saved, here = (state["trained"] + [(name, tensor.dtype, tensor.shape) for name, (_, tensor) in
                   state["model"].items()] for state in (lowest, state_of(model, optimizers, Tensor.detach)))
    if saved != here:
        raise ValueError("it is of another model, or of optimizers of other parameters")
    if len(everyones) == dist.get_world_size():
        own = everyones[dist.get_rank()]
        return put_state({**own, "model": lowest["model"] | own["model"]}, model, optimizers)
    put_state({**lowest, "optimizers": []}, model, [])
    parameters = dict(model.named_parameters())
    for i, optimizer in enumerate(optimizers):
        if not isinstance(optimizer, Optimizer):
            raise CheckpointError(f"each of {len(everyones)} ranks had its {type(optimizer).__name__}, which "
                                  f"is none of torch's: resume with as many ranks")
        state = {k: v for rank in everyones[::-1] for k, v in rank["optimizers"][i]["state"].items()}
        put({"state": state, "param_groups": lowest["optimizers"][i]["param_groups"]},
            {"state": optimizer.state, "param_groups": optimizer.param_groups}, parameters)
        optimizer.load_state_dict(optimizer.state_dict())
        kept = {key: value for key, value in state.items() if parameters[key[1]] in optimizer.state}
        put(kept, optimizer.state, parameters)  # again: load_state_dict casts to the parameter's dtype


def resume(folder: Path, identity: dict[str, str], stop: int, tokens: int, model: nn.Module,
           optimizers: list) -> dict[str, Any]:
    """Restore the newest whole checkpoint of a folder; return its facts, among them step and resumed_from.

    A checkpoint's own folder may be given too. Raises CheckpointError where there is none, where it belongs
    to a run of another identity, or where it stands at the step stop or later.
    """
    refused = []
    for path in [folder] if (folder / "COMPLETE").exists() else steps_in(folder)[::-1]:
        try:
            everyones = load(path, tokens)
            facts, step = everyones[0]["facts"], everyones[0]["step"]
            if differ := [f"{k} {facts[k]}, not {v}" for k, v in identity.items() if facts[k] != v]:
                raise CheckpointError(f"a checkpoint of another run: {'; '.join(differ)}")
            if step >= stop:
                raise CheckpointError(f"{path.name} stands at step {step}, the run is to stop at {stop}")
            restore(everyones, model, optimizers)
            return {**facts, "step": step, "resumed_from": {"checkpoint": path.name, "refused": refused,
                                                            "step": step, "run_id": facts["run_id"]}}
        except CheckpointError:
            raise
        except Exception as error:  # whatever is broken in it, the one before may be whole
            reason = error if isinstance(error, (OSError, ValueError)) else type(error).__name__
            refused.append(f"{path.name} is not whole ({reason})")
    raise CheckpointError(f"{folder}: no whole checkpoint; {'; '.join(refused) or 'it holds none'}")
