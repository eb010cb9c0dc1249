"""small_fc: one MLP of 2,402 numbers moves every parameter; under mup with base sizes 1 it is muLO.

Metz et al. 2022 (https://arxiv.org/abs/2203.11860); Therien et al. 2024 (https://arxiv.org/abs/2406.00153).
"""
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lab.optimizers.learned import weights
from lab.optimizers.learned.dealt import Learned, Network
from lab.optimizers.learned.features import Kind

STATE, FLOPS, MUP = 4, (4100, 0), (-1, 0)
LAYERS = {"network.input": (32, 39), "network.linear_0": (32, 32), "network.output": (2, 32)}
SHAPES = {**{f"{name}.weight": shape for name, shape in LAYERS.items()},
          **{f"{name}.bias": shape[:1] for name, shape in LAYERS.items()},
          "momentum_decays": (3,), "rms_decays": (1,), "adafactor_decays": (3,)}
SHIFTS = {  # of the decays, learned with the published weights; in PyLO they are defaults of these names
    "momentum_decays": (.15216392, .14245212, .06812963), "rms_decays": (.01079706,),
    "adafactor_decays": (.18621896, -.10864615, -.06185547)}
BASES = dict(zip(SHIFTS, ((.9, .99, .999), (.999,), (.9, .99, .999))))
TIMES = (1, 3, 10, 30, 100, 300, 1000, 3000, 10_000, 30_000, 100_000)


@dataclass(frozen=True, kw_only=True)
class Fields:
    """Its part of a recipe. lr is a factor on the steps that the network proposes: 1 as trained."""

    weights: str | None = None  # a file or folder of safetensors, or a repository of the hub


class SmallFC(Learned):
    """p -= lr * 0.01 * dir * exp(0.001 * mag), then p -= lr * weight_decay * p."""

    def __init__(self, groups: list[dict], tensors: dict[str, Tensor], sha256: str):
        m, v, factors = (decay.tolist() for decay in decays(tensors))
        super().__init__(groups, Kind(m, v[0], factors, velo=False), sha256)
        tensors = {name: tensor.to(self.params[0].device) for name, tensor in tensors.items()}
        self.layers = [(tensors[f"{name}.weight"], tensors[f"{name}.bias"]) for name in LAYERS]

    def networks(self, loss: Tensor) -> dict[Tensor, Network]:
        """Return one network for all: the time is the same everywhere, so it is a part of the bias."""
        (first, bias), *rest = self.layers
        time = (self.param_groups[0]["step"] / first.new_tensor(TIMES) - 1).tanh_()
        layers = [(first[:, :-len(TIMES)], bias + first[:, -len(TIMES):] @ time), *rest]
        return dict.fromkeys(self.owned, (layers, 0.01))


def decays(tensors: dict[str, Tensor]) -> list[Tensor]:
    """Return the decays of momenta, squares and factors that weights ask for, float64, (..., 3 or 1)."""
    return [1 - (1 - torch.tensor(bases, dtype=torch.float64)) * (10 * tensors[name].double()).exp()
            for name, bases in BASES.items()]


def check(config: Fields) -> tuple[dict[str, Tensor], str]:
    """Return the weights and their sha256. Raises ValueError where they are not there."""
    shifts = {name: torch.tensor(values) for name, values in SHIFTS.items()}
    return weights.load(config.weights, "", "btherien/mulo", SHAPES, shifts)


def build(groups: list[dict], config: Fields, steps: int, compile: Callable) -> list:
    """Return small_fc on all groups."""
    return [SmallFC(groups, *check(config))]
