"""AdamW on everything."""
from collections.abc import Callable

import torch
from torch import Tensor

from lab.recipe.schema import Optimizer

STATE = 2  # float32 numbers that it keeps for a parameter, at least


class AdamW(torch.optim.AdamW):
    """Adam with decoupled weight decay (https://arxiv.org/abs/1711.05101)."""

    def step(self, loss: Tensor) -> None:
        """Update all parameters from their gradients."""
        super().step()


def build(groups: list[dict], config: Optimizer, compile: Callable) -> list[torch.optim.Optimizer]:
    """Return AdamW on all groups."""
    return [AdamW(groups, betas=config.betas, fused=True)]


def mup_lr(role: str, m: float) -> float:
    """Return the factor on a role's learning rate at m times the base fan-in."""
    return 1 / m
