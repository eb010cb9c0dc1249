"""Tripwires around a submission. Not a sandbox: in one process nothing can be.

The proof of a claim is to run it again and to read its diff; these catch mistakes and the obvious.
"""
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from harness.runlog import is_ours

WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
HARNESS = Path(__file__).resolve().parent
# what rounding alone may move a logit by: the same shapes run the same kernels, so it is mostly 0
CAUSALITY_TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1, "float16": 0.02}


class Tripwire(RuntimeError):
    """The submission did what a record may not do."""


@torch.no_grad()
def check_causality(logits_of: Callable[[Tensor], Tensor], inputs: Tensor, end_of_text: int,
                    tolerance: float, generator: torch.Generator, cuts: int = 2) -> None:
    """Raise Tripwire where logits depend on later tokens, of their own sequence or of those below it.

    inputs: a real validation piece, int64 (B, T). What follows a random cut is replaced by random tokens of
    the same piece (end-of-text positions are kept); the logits before it may move by rounding only.
    """
    flat = inputs.flatten()
    before = logits_of(inputs).flatten(0, 1)
    for _ in range(cuts):
        cut = int(torch.randint(1, len(flat), (), generator=generator))
        others = flat[torch.randint(len(flat), (len(flat),), generator=generator).to(flat.device)]
        keep = (flat == end_of_text) | (others == end_of_text)
        keep[:cut] = True
        after = logits_of(torch.where(keep, flat, others).view_as(inputs)).flatten(0, 1)
        change = float(torch.sub(after[:cut], before[:cut]).abs_().max())
        if not change <= tolerance:
            raise Tripwire(f"causality: other tokens from position {cut} on moved earlier logits by "
                           f"{change:.3g}, rounding explains {tolerance:g}; the model sees what it has to "
                           f"predict")


def tensors_of(model: nn.Module, optimizers: list) -> Iterator[tuple[str, Tensor]]:
    """Yield names and tensors of all that model and optimizers hold, plain attributes too, in fixed order."""
    seen: set[int] = set()
    holders = dict(model.named_modules()) | {f"optimizer{i}": o for i, o in enumerate(optimizers)}
    for prefix, holder in holders.items():
        for name, tensor in _inside(prefix, vars(holder)):
            if id(tensor) not in seen:
                seen.add(id(tensor))
                yield name, tensor


def _inside(name: str, value: Any, depth: int = 5) -> Iterator[tuple[str, Tensor]]:
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


def combined(digests: dict[str, int]) -> str:
    """Return 16 hexadecimal digits for the digests of all tensors, in order."""
    total = 0
    for digest in digests.values():
        total = (total * 1_000_003 + digest) % 2**64
    return f"{total:016x}"


class HarnessWatch:
    """Compares the harness in memory with its source and with what its modules held at import."""

    def __init__(self, modules: list[ModuleType]):
        self._bound = {(m, k): v for m in modules for k, v in vars(m).items() if callable(v)}
        self._code = {m: {c.co_qualname: c for c in _codes(m) if "<" not in c.co_qualname} for m in modules}

    def check(self) -> None:
        """Raise Tripwire naming the first function of the harness that is not what its source says."""
        for (module, name), value in self._bound.items():
            if vars(module).get(name) is not value:
                raise Tripwire(f"harness: {module.__name__}.{name} was replaced")
        for module, codes in self._code.items():
            for qualname, code in codes.items():
                found = _resolve(module, qualname)
                if not isinstance(found, type) and getattr(found, "__code__", None) != code:
                    raise Tripwire(f"harness: {module.__name__}.{qualname} does not do what its source says")


def _codes(module: ModuleType) -> Iterator[CodeType]:
    """Yield the code of everything that a module's source defines."""
    codes = [compile(Path(module.__file__).read_bytes(), module.__file__, "exec")]
    for code in codes:
        inside = [constant for constant in code.co_consts if isinstance(constant, CodeType)]
        codes += inside
        yield from inside


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
        if frame and is_ours(where := Path(frame.f_code.co_filename)):
            if not where.is_relative_to(HARNESS):
                raise Tripwire(f"environment: {where.name}:{frame.f_lineno} reads {key}; a submission reads "
                               f"nothing from the environment: make it a field of Hyperparameters")
        return super().__getitem__(key)
