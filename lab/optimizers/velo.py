"""VeLO: an LSTM looks at each tensor and at the loss, and mixes the small MLP that moves the tensor.

Metz et al. 2022 (https://arxiv.org/abs/2211.09760), as PyLO has it (https://arxiv.org/abs/2506.10315).
"""
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from lab.optimizers.learned import weights
from lab.optimizers.learned.dealt import Learned, Network, at_least_1d
from lab.optimizers.learned.features import Kind
from lab.types import NotNegative

# under mup Adam's 1/m, of which RMS(p), the unit of a step, has 1/sqrt(m) already
STATE, FLOPS, MUP = 4, (460, 0), (-0.5, 0)
BANK = 256
RNN = {"mix_layer2": (512, 30), "final_mix_layer": (512, 30), "lstm.linear": (2048, 1024),
       "rnn_to_controls": (BANK, 512), "step_size": (1, 512)}
RNN_SHAPES = {**{f"{name}.weight": shape for name, shape in RNN.items()},
              **{f"{name}.bias": shape[:1] for name, shape in RNN.items()},
              "lstm_init_state.0": (1, 512), "lstm_init_state.1": (1, 512)}
MLP_SHAPES = {"input_weights_": (BANK, 4, 30), "input_bias_": (BANK, 4), "hidden_weights_.0": (BANK, 4, 4),
              "hidden_bias_.0": (BANK, 4), "output_weights_": (BANK, 3, 4), "output_bias_": (BANK, 3)}
FRACTIONS = (.03, .1, .2, .4, .6, .8, .9, 1.0, 1.1)


@dataclass(frozen=True, kw_only=True)
class Fields:
    """Its part of a recipe. lr is a factor on the steps that the networks propose: 1 as trained."""

    weights: str | None = None  # a file or folder of safetensors, or a repository of the hub
    zero_std: NotNegative = 0.0  # tensors that start at zero are drawn with it; 0: they are refused


class VeLO(Learned):
    """p -= lr * lr_mult * RMS(p) * 0.001 * dir * exp(0.001 * mag), then p -= lr * weight_decay * p."""

    def __init__(self, groups: list[dict], rnn: dict[str, Tensor], mlp: dict[str, Tensor], sha256: str,
                 steps: int):
        super().__init__(groups, Kind((0.9, 0.99, 0.999), 0.999, (0.9, 0.99, 0.999), velo=True), sha256)
        device, self.steps = self.params[0].device, steps
        self.rnn = {name: tensor.to(device) for name, tensor in rnn.items()}
        self.bank = [mlp[name].to(device) for name in MLP_SHAPES]

    def networks(self, loss: Tensor) -> dict[Tensor, Network]:
        """Return the MLP that each tensor's LSTM mixes now, and the size of its steps (collective)."""
        group, seen = self.param_groups[0], loss.new_zeros(len(self.params), 30)
        group["losses"], shown = loss_features(group.get("losses"), loss, group["step"], self.steps)
        fraction = (10 * (group["step"] / self.steps - loss.new_tensor(FRACTIONS))).tanh_()
        places = {p: i for i, p in enumerate(self.params)}
        for p in self.owned:
            seen[places[p]] = tensor_features(at_least_1d(p), self.state[p], fraction, shown)
        dist.all_reduce(seen)  # a row is of one rank; the others add zeros
        mixed = self.linear("final_mix_layer", seen) + self.linear("mix_layer2", seen).relu_().amax(0)
        return {p: self.network(p, mixed[places[p]]) for p in self.owned}

    def network(self, p: Tensor, x: Tensor) -> Network:
        """Return the network of one tensor after a step of its LSTM."""
        state = self.state[p]
        if "h" not in state:
            state |= {key: self.rnn[f"lstm_init_state.{i}"][0].clone() for i, key in enumerate("hc")}
        i, g, f, o = self.linear("lstm.linear", torch.cat([x, state["h"]])).chunk(4)
        state["c"] = (f + 1).sigmoid() * state["c"] + i.sigmoid() * g.tanh()
        state["h"] = o.sigmoid() * state["c"].tanh()
        control = self.linear("rnn_to_controls", state["h"]) * (100 / BANK)
        mixed = [torch.tensordot(control, part, 1) for part in self.bank]
        rms = (p.detach().float().square().mean() + 1e-9).sqrt()
        return list(zip(mixed[::2], mixed[1::2])), 0.001 * self.linear("step_size", state["h"])[0] * rms

    def linear(self, name: str, x: Tensor) -> Tensor:
        """Return a layer's output."""
        return F.linear(x, self.rnn[f"{name}.weight"], self.rnn[f"{name}.bias"])


def loss_features(buffer: Tensor | None, loss: Tensor, step: int, steps: int) -> tuple[Tensor, Tensor]:
    """Return means and their minima, (2, 10), with a loss added, and what the LSTM is shown of them, (9,).

    The means are over 10 to `steps` steps. The loss counts with at most twice the largest mean, whose
    correction is of one step too many, as in the original.
    """
    decays = (-1 / torch.logspace(1, math.log10(steps), 10, device=loss.device)).exp()
    empty = loss.new_tensor([[0.0] * 10, [999999999999.0] * 10])
    means, minima = empty if buffer is None else buffer.to(empty)
    correction = 1 - decays ** (step + 1)
    if step:
        loss = torch.minimum(loss, 2 * (means / correction).max().abs())
    means = means * decays + loss * (1 - decays)
    now = means / correction
    minima = torch.minimum(minima, now)
    shown = ((now[:-1] - minima[:-1]) / (now[1:] - minima[:-1]).clamp(min=1e-8) - 1).clamp(-1, 1)
    return torch.stack([means, minima]), shown if step >= 2 else torch.zeros_like(shown)


def tensor_features(p: Tensor, state: dict[str, Tensor], fraction: Tensor, losses: Tensor) -> Tensor:
    """Return what the LSTM is shown of a tensor, (30,), before the step's gradient is accumulated."""
    scale, axes = p.float().square().mean().clamp(min=1e-9).rsqrt(), [*range(1, p.ndim + 1)]
    m, v = (state[key] * scale if key in state else p.new_zeros(3, *p.shape) for key in "mv")
    mean = m.mean(axes, keepdim=True)
    spread = (m - mean).square().mean(axes), (v - mean).square().mean(axes)  # v about m's mean: as VeLO does
    log_m, log_v, log_mean = ((10 * x).abs().add(1e-8).log().clamp(-5, 5) / 2
                              for x in (*spread, v.mean().view(1)))
    rank = F.one_hot(torch.tensor(sum(n > 1 for n in p.shape), device=p.device), 5)
    return torch.cat([fraction, losses, log_mean, rank, log_m, log_v])


def check(config: Fields) -> tuple[dict[str, Tensor], dict[str, Tensor], str]:
    """Return the weights of both networks, and their sha256. Raises ValueError where they are not there."""
    (rnn, one), (mlp, two) = (weights.load(config.weights, part, "Pauljanson002/VeLO", shapes, {})
                              for part, shapes in (("_RNN", RNN_SHAPES), ("_MLP", MLP_SHAPES)))
    return rnn, mlp, f"{one} {two}"


@torch.no_grad()
def build(groups: list[dict], config: Fields, steps: int, compile: Callable) -> list:
    """Return VeLO on all groups; its steps are in units of a tensor's RMS, which must not be 0.

    Draws the tensors that start at zero from torch's random state where zero_std says so. Raises ValueError,
    with their names, where it does not.
    """
    zeros = {name: p for group in groups for name, p in zip(group["names"], group["params"])
             if not (p.is_meta or p.any())}  # what has no data is counted, never trained
    if zeros and not config.zero_std:
        raise ValueError(f"optimizer velo: {', '.join(zeros)}: all zeros, which it hardly moves; give "
                         f"optimizer.zero_std, of what they are drawn from instead, or another init")
    for p in zeros.values():
        p.normal_(0, config.zero_std)
    return [VeLO(groups, *check(config), steps)]
