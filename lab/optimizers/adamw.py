"""AdamW on everything."""
from collections.abc import Callable

import torch
from torch import Tensor

from lab.recipe.schema import Optimizer


class AdamW(torch.optim.AdamW):
    """Adam with decoupled weight decay (https://arxiv.org/abs/1711.05101)."""

    def step(self, loss: Tensor) -> None:
        """Update all parameters from their gradients."""
        super().step()


def build(groups: list[dict], config: Optimizer, compile: Callable) -> list[torch.optim.Optimizer]:
    """Return AdamW on all groups."""
    return [AdamW(groups, betas=config.betas, fused=True)]
