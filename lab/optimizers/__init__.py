"""Optimizers, a file each: NAME.py is all that the lab knows of optimizer NAME. It holds

Fields         its part of the section `optimizer` of a recipe, a frozen dataclass
build          (groups, config, steps, compile) -> optimizers, whose step(loss) gets the mean loss over ranks;
               a group is a role's: params, names, role, lr, eps and weight_decay
STATE, FLOPS   float32 numbers kept for a parameter, at least; operations of a step for one: a + b n_embd
MUP            powers of m, the factors on rates under mup: for a matrix of a block, m times the base fan-in;
               for all else, at m times the base width (Yang et al. 2022, table 8, https://arxiv.org/abs/2203.03466)
check          where needed: (config), raises ValueError for what would stop a build

What optimizers keep is in self.state and their groups, which the harness saves, restores and watches.
"""
import dataclasses
import importlib
import pkgutil
from dataclasses import dataclass, field
from functools import cache
from types import ModuleType

from lab.types import NotNegative, Positive


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """What every optimizer has; section() adds the fields of each."""

    name: str = "adamw"  # a file of lab/optimizers
    lr: Positive = 1e-3
    lr_factor: dict[str, NotNegative] = field(default_factory=dict)  # by role, on top of lr
    weight_decay: NotNegative = 0.0  # decoupled; matrices only, as lr * weight_decay
    max_grad_norm: Positive | None = None  # global

    def __reduce__(self) -> tuple:  # the class of section() has no name by which a sweep's worker finds it
        return made, (vars(self),)


@cache
def optimizers() -> dict[str, ModuleType]:
    """Return the modules of this folder by name, an optimizer each; what they share is in folders."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.ispkg)
    return {name: importlib.import_module(f"{__name__}.{name}") for name in names}


@cache
def section() -> type[Optimizer]:
    """Return the type of a recipe's section `optimizer`: a recipe may name another one and keep its values.

    Raises ValueError where two files give one field different types or defaults.
    """
    kinds = [Optimizer, *(module.Fields for module in optimizers().values())]
    found: dict[str, dataclasses.Field] = {}
    for one in (one for kind in kinds for one in dataclasses.fields(kind)):
        first = found.setdefault(one.name, one)
        if (first.type, first.default) != (one.type, one.default):
            raise ValueError(f"lab/optimizers: field {one.name} is {first.type} = {first.default} in one "
                             f"file, {one.type} = {one.default} in another; rename one of them")
    return dataclasses.make_dataclass("Optimizer", [], bases=tuple(dict.fromkeys(kinds)), frozen=True,
                                      kw_only=True)


def made(values: dict) -> Optimizer:
    """Return a section from all its values."""
    return section()(**values)


def optimizer_of(config: Optimizer) -> ModuleType:
    """Return the module of a recipe's optimizer. Raises ValueError where there is no such file."""
    if config.name not in optimizers():
        raise ValueError(f"optimizer.name: found {config.name!r}, expected one of {', '.join(optimizers())}")
    return optimizers()[config.name]
