"""The optimizers of a recipe, by their name: each is a module whose build() takes parameter groups.

A learned optimizer drops in as one more module: it finds role, lr, weight_decay and eps in each group, keeps
its state in self.state, and gets the mean loss in step(loss).
"""
from collections.abc import Callable

from torch import Tensor, nn

from lab.models.build import role_of
from lab.optimizers import adamw, muon
from lab.parametrization import table
from lab.recipe.schema import Recipe

OPTIMIZERS = {"adamw": adamw, "muon": muon}


def build_optimizers(recipe: Recipe, model: nn.Module, compile: Callable = lambda f: f) -> list:
    """Return the optimizers of a recipe, with one group a role: its lr, weight decay and eps by the table."""
    config, rows = recipe.optimizer, table(recipe)
    by_role: dict[str, list[Tensor]] = {}
    for name, p in model.named_parameters():
        by_role.setdefault(role_of(name), []).append(p)
    groups = [dict(params=params, role=role, lr=config.lr * rows[role].lr, eps=config.eps * rows[role].eps,
                   weight_decay=config.weight_decay * rows[role].weight_decay)
              for role, params in by_role.items()]
    for group in groups:
        group["peak_lr"], group["peak_weight_decay"] = group["lr"], group["weight_decay"]
    return OPTIMIZERS[config.name].build(groups, config, compile)


def clip(model: nn.Module, max_norm: float | None) -> Tensor:
    """Scale all gradients to a global norm of at most max_norm; return the norm before, a scalar."""
    return nn.utils.clip_grad_norm_(model.parameters(), float("inf") if max_norm is None else max_norm)
