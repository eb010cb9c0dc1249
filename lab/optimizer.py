"""Optimizer: a named factory on parameter groups; every one takes its step from gradients and the mean loss.

A learned optimizer drops in as one more factory: it finds role, lr, weight_decay and eps in each group, keeps
its state in self.state, and gets the loss in step(loss).
"""
from collections.abc import Callable

import torch
from torch import Tensor, nn

import train_gpt2
from lab.model import role_of
from lab.parametrization import HIDDEN, table
from lab.recipe.schema import Optimizer, Recipe


class AdamW(torch.optim.AdamW):
    """Adam with decoupled weight decay (https://arxiv.org/abs/1711.05101)."""

    def step(self, loss: Tensor) -> None:
        """Update all parameters from their gradients."""
        super().step()


class Muon(train_gpt2.Muon):
    """The submission's Muon with decoupled weight decay."""

    @torch.no_grad()
    def step(self, loss: Tensor) -> None:
        """Update all matrices from their gradients (collective)."""
        for group in self.param_groups:
            for p in group["params"] if group["weight_decay"] else ():
                p.mul_(1 - group["lr"] * group["weight_decay"])
        super().step()


def adamw(groups: list[dict], config: Optimizer, compile: Callable) -> list[torch.optim.Optimizer]:
    """Return AdamW on all groups."""
    return [AdamW(groups, betas=config.betas, fused=True)]


def muon(groups: list[dict], config: Optimizer, compile: Callable) -> list[torch.optim.Optimizer]:
    """Return AdamW on embeddings, head and vectors, and Muon on the matrices of the blocks."""
    hidden = [g for g in groups if g["role"] in HIDDEN]
    others = [g for g in groups if g["role"] not in HIDDEN]
    dtype = getattr(torch, config.newton_schulz_dtype)
    return [*adamw(others, config, compile), Muon(hidden, config.lr, config.momentum, dtype, compile)]


FACTORIES = {"adamw": adamw, "muon": muon}


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
    return FACTORIES[config.name](groups, config, compile)


def clip(model: nn.Module, max_norm: float | None) -> Tensor:
    """Scale all gradients to a global norm of at most max_norm; return the norm before, a scalar."""
    return nn.utils.clip_grad_norm_(model.parameters(), float("inf") if max_norm is None else max_norm)
