"""Tripwires around a submission. Not a sandbox: in one process nothing can be.

The proof of a claim is to run it again and to read its diff; these catch mistakes and the obvious.
"""
import ast
import copy
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
    """Compares the harness in memory with its source on disk, from when the run is opened.

    What a source binds without a call (imports, aliases such as clock._now_ns, constants) is bound anew to
    compare with, so that a replacement made between import and here is found too.
    """

    def __init__(self, modules: list[ModuleType]):
        self._held, self._code = {}, {}
        for module in modules:
            tree = ast.parse(Path(module.__file__).read_bytes())
            whole = compile(tree, module.__file__, "exec")
            self._code[module] = {c.co_qualname: c for c in _codes(whole) if "<" not in c.co_qualname}
            plain = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom, ast.Assign))]
            tree.body = [node for node in plain if not any(isinstance(n, ast.Call) for n in ast.walk(node))]
            self._held[module] = dict(vars(module))
            exec(compile(tree, module.__file__, "exec"), self._held[module])

    def check(self) -> None:
        """Raise Tripwire naming the first thing of the harness that is not what its source says."""
        for module, held in self._held.items():
            for name, value in held.items():
                found = vars(module).get(name)
                if found is not value and found != value:
                    raise Tripwire(f"harness: {module.__name__}.{name} was replaced, or what it stands for")
        for module, codes in self._code.items():
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


class Snapshot:
    """Copies of all that training changes; put_back() restores it in place."""

    def __init__(self, model: nn.Module, optimizers: list):
        self.model, self.optimizers = model, optimizers
        self._digest = state_digest(model, optimizers)
        self._tensors = {name: tensor.detach().clone() for name, tensor in self._named().items()}
        self._states = [copy.deepcopy(optimizer.state_dict()) for optimizer in optimizers]
        self._cpu_rng = torch.get_rng_state()
        self._cuda_rng = torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None

    def _named(self) -> dict[str, Tensor]:
        return dict(self.model.named_parameters()) | dict(self.model.named_buffers())

    @torch.no_grad()
    def put_back(self) -> None:
        """Restore everything. Raises Tripwire where model or optimizers still differ from what they were."""
        for name, tensor in self._named().items():
            if name in self._tensors:
                tensor.copy_(self._tensors[name])
        self.model.zero_grad(set_to_none=True)
        for optimizer, saved in zip(self.optimizers, self._states):
            optimizer.state.clear()
            if saved["state"]:
                optimizer.load_state_dict(saved)
            for group, old in zip(optimizer.param_groups, saved["param_groups"]):
                params = group["params"]
                group.clear()
                group.update(old, params=params)
        torch.set_rng_state(self._cpu_rng)
        if self._cuda_rng is not None:
            torch.cuda.set_rng_state(self._cuda_rng)
        after = state_digest(self.model, self.optimizers)
        names = self._digest.keys() | after.keys()
        if changed := sorted(name for name in names if self._digest.get(name) != after.get(name)):
            raise Tripwire(f"warmup: {', '.join(changed[:5])} kept what the warm-up did; state belongs in "
                           f"parameters, buffers and the optimizers' state")
