"""AdamW on everything."""
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lab.types import Below1, Positive

STATE, FLOPS, MUP = 2, (14, 0), (-1, 0)


@dataclass(frozen=True, kw_only=True)
class Fields:
    """Its part of a recipe."""

    betas: tuple[Below1, Below1] = (0.9, 0.95)
    eps: Positive = 1e-8


class AdamW(torch.optim.AdamW):
    """Adam with decoupled weight decay (https://arxiv.org/abs/1711.05101)."""

    def step(self, loss: Tensor) -> None:
        """Update all parameters from their gradients."""
        super().step()


def build(groups: list[dict], config: Fields, steps: int, compile: Callable) -> list:
    """Return AdamW on all groups."""
    return [AdamW(groups, betas=config.betas, fused=True)]
