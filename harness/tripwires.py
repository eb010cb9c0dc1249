"""Tripwires around a submission, for honest mistakes. Not a sandbox: in one process nothing can be.

The proof of a claim is its judge, who knows only the log and the weights; these speak early.
"""
import itertools
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from harness.runlog import ROOT, is_ours

WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
# What rounding may move a logit by, as a share of its row's largest: 2 steps of bfloat16 there. The same
# shapes run the same kernels, so an honest model moves by 0 (`sample` in bfloat16, CPU), or by a step where
# they are not deterministic. Without its mask `sample` moved by 0.95 to 1.25 at its first validation, at step
# 140 (10 cuts), and by 0.017 and 0.039 as early as steps 25 and 50.
ROUNDING = 2 * 2**-7


class Tripwire(RuntimeError):
    """The submission did what a record may not do."""


@torch.no_grad()
def check_causality(logits_of: Callable[[Tensor], Tensor], inputs: Tensor,
                    generator: torch.Generator) -> None:
    """Raise Tripwire where logits depend on later tokens: a missing mask must not wait for the judge.

    inputs: a real validation piece, int64 (B, T). From one random cut on each row gets other tokens of the
    piece; the logits before it may move by rounding only.
    """
    cut = 1 + int(torch.randint(max(1, inputs.shape[1] - 1), (), generator=generator))
    others = torch.cat([inputs[:, :cut], inputs.flatten().flip(0).view_as(inputs)[:, cut:]], dim=1)
    for before, after in zip(logits_of(inputs)[:, :cut], logits_of(others)[:, :cut]):
        before, after = before.float(), after.float()
        change = float((after - before).abs().masked_fill(after == before, 0).max())  # -inf stays -inf
        most = ROUNDING * float(before.abs().nan_to_num(posinf=0).max())
        if not change <= most:
            raise Tripwire(f"causality: other tokens from position {cut} on moved earlier logits by "
                           f"{change:.3g}, rounding explains {most:.3g}; the model sees what it has to "
                           f"predict")


def tensors_of(model: nn.Module, optimizers: list) -> list[tuple[str, Tensor]]:
    """Return names and tensors of all that model and optimizers hold, plain attributes too, in fixed order.

    The model's parameters come first. An optimizer is any object with tensors among its attributes.
    """
    holders = dict(model.named_modules()) | {f"optimizer{i}": o for i, o in enumerate(optimizers)}
    inside = (_inside(prefix, vars(holder)) for prefix, holder in holders.items())
    found: dict[int, tuple[str, Tensor]] = {}
    for name, tensor in itertools.chain(model.named_parameters(), *inside):
        found.setdefault(id(tensor), (name, tensor))
    return [*found.values()]


def _inside(name: str, value: Any, depth: int = 5) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors in a value and in the containers that it holds."""
    value = vars(value) if isinstance(value, torch.optim.Optimizer) else value
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, (dict, list, tuple)) and depth:
        for i, (key, inner) in enumerate(value.items() if isinstance(value, dict) else enumerate(value)):
            yield from _inside(f"{name}.{key if isinstance(key, str) else i}", inner, depth - 1)


@torch.no_grad()
def state_digest(model: nn.Module, optimizers: list) -> dict[str, int]:
    """Return an integer a tensor, computed on its device: the sum of words times places, mod 2^64."""
    digests = {}
    for name, tensor in tensors_of(model, optimizers):
        flat = tensor.detach().contiguous().flatten()
        words = flat.view(WORDS.get(flat.element_size(), torch.uint8)).to(torch.int64)
        digests[name] = (words * torch.arange(1, len(words) + 1, device=words.device)).sum()
    return {name: int(digest) for name, digest in digests.items()}


class HarnessWatch:
    """Compares the harness in memory with its source on disk, and with itself when the run was opened."""

    def __init__(self, modules: list[ModuleType]):
        self._held = {module: dict(vars(module)) for module in modules}
        self._code = {}
        for module in modules:
            whole = compile(Path(module.__file__).read_bytes(), module.__file__, "exec")
            self._code[module] = {c.co_qualname: c for c in _codes(whole) if "<" not in c.co_qualname}

    def check(self) -> None:
        """Raise Tripwire naming the first thing of the harness that is not what its source says."""
        for module, codes in self._code.items():
            for name, value in self._held[module].items():
                if vars(module).get(name) is not value:
                    raise Tripwire(f"harness: {module.__name__}.{name} was replaced")
            for qualname, code in codes.items():
                found = _resolve(module, qualname)
                if not isinstance(found, type) and getattr(found, "__code__", None) != code:
                    raise Tripwire(f"harness: {module.__name__}.{qualname} does not do what its source says")


def _codes(code: CodeType) -> Iterator[CodeType]:
    """Yield the code of everything that is defined inside."""
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield inner
            yield from _codes(inner)


def _resolve(module: ModuleType, qualname: str) -> Any:
    """Return what a module holds under a qualified name, without its decorators."""
    found: Any = module
    for part in qualname.split("."):
        found = vars(found).get(part)
    for layer in ("fget", "__func__", "__wrapped__"):
        found = getattr(found, layer, found)
    return found


class WatchedEnvironment(os._Environ):
    """os.environ while a run is open: a project file outside the harness that reads it trips."""

    def __getitem__(self, key: str) -> str:
        frame = sys._getframe(1)
        while frame and frame.f_globals.get("__name__") in ("os", "_collections_abc", "collections.abc"):
            frame = frame.f_back
        where = Path(frame.f_code.co_filename) if frame else ROOT / "harness"
        if is_ours(where) and not where.is_relative_to(ROOT / "harness"):
            raise Tripwire(f"environment: {where.name}:{frame.f_lineno} reads {key}; a submission reads "
                           f"nothing from the environment: make it a field of Hyperparameters")
        return super().__getitem__(key)
