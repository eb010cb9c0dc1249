"""SGD with momentum on everything."""
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lab.types import Below1

STATE, FLOPS, MUP = 1, (5, 0), (0, 1)


@dataclass(frozen=True, kw_only=True)
class Fields:
    """Its part of a recipe."""

    momentum: Below1 = 0.95


class SGD(torch.optim.Optimizer):
    """Heavy-ball momentum; weight decay is decoupled, as everywhere in the lab."""

    @torch.no_grad()
    def step(self, loss: Tensor) -> None:
        """Update all parameters from their gradients."""
        for group in self.param_groups:
            for p in group["params"]:
                if p not in self.state:
                    self.state[p]["momentum_buffer"] = torch.zeros_like(p)
                buffer = self.state[p]["momentum_buffer"].mul_(group["momentum"]).add_(p.grad)
                p.mul_(1 - group["lr"] * group["weight_decay"]).sub_(buffer, alpha=group["lr"])


def build(groups: list[dict], config: Fields, steps: int, compile: Callable) -> list:
    """Return SGD on all groups."""
    return [SGD(groups, {"momentum": config.momentum})]
