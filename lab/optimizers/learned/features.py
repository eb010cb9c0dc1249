"""What a learned optimizer sees of a tensor: accumulators, and 28 or 30 features of each entry.

Features, their order and their normalisation are those of Metz et al. 2022 (https://arxiv.org/abs/2203.11860)
as PyLO has them (https://arxiv.org/abs/2506.10315). Accumulators are float32; the first axis of m, row, col
and w are their three decays. Of two axes, d0 is the largest and d1 the second: row is what is left of the
squared gradient averaged over d0, col over d1. A tensor without two axes keeps it in full, as w.
"""
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

TILE = 1024  # columns of a product; of fewer, or with others left over, MKL or oneDNN rounds in another order


class Kind(NamedTuple):
    """The decays of momenta, squared gradient, its rows and columns; and whether all is as VeLO has it.

    VeLO sees two more features (the gradient clipped to 0.1, and over its RMS), takes the first axis of a
    square matrix for the largest, as weights are (in, out) there, and adds nothing to w below m.
    """

    m: Sequence[float | Tensor]
    v: float | Tensor
    factors: Sequence[float | Tensor]
    velo: bool
    batch: int = 0  # leading axes, over tensors: decays broadcast against them


def factored_axes(shape: Sequence[int], kind: Kind) -> tuple[int, int] | None:
    """Return (d1, d0), counted from the last, or None where a tensor keeps its squared gradient in full."""
    if len(shape := shape[kind.batch:]) < 2:
        return None
    d1, d0 = sorted(range(-len(shape), 0), key=shape.__getitem__)[-2:]
    return (d0, d1) if kind.velo and shape[d0] == shape[d1] else (d1, d0)


def accumulate(state: dict[str, Tensor], g: Tensor, kind: Kind) -> None:
    """Add a gradient to a tensor's accumulators; an empty state is filled first."""
    axes, squares = factored_axes(g.shape, kind), g.square().add_(1e-30)
    means = {"w": squares} if axes is None else {"row": squares.mean(axes[1]), "col": squares.mean(axes[0])}
    if "m" not in state:
        state |= {"m": g.new_zeros(3, *g.shape), "v": torch.zeros_like(g)}
        state |= {name: mean.new_zeros(3, *mean.shape) for name, mean in means.items()}
    state["v"].lerp_(squares, 1 - kind.v)
    for name, new, decays in (("m", g, kind.m), *((*mean, kind.factors) for mean in means.items())):
        for accumulator, decay in zip(state[name], decays):
            accumulator.lerp_(new, 1 - decay)


def features(p: Tensor, g: Tensor, state: dict[str, Tensor], kind: Kind) -> Callable[[slice], Tensor]:
    """Return a function from some rows of a tensor to their features, (28 or 30, entries), not normalised."""
    axes = factored_axes(p.shape, kind)
    if axes is None:
        row = col = state["w"]
        over_g, over_m = [safe_rsqrt(row + 1e-9)], [(row + (0.0 if kind.velo else 1e-6)).rsqrt()]
    else:
        row, col = state["row"].unsqueeze(axes[1]), state["col"].unsqueeze(axes[0])
        over_g = over_m = [safe_rsqrt(row / (row.mean(axes[0], keepdim=True) + 1e-9)), safe_rsqrt(col)]
    shown = row, col, (row + 1e-8).rsqrt(), (col + 1e-8).rsqrt()

    def of(rows: slice) -> Tensor:
        def cut(x: Tensor) -> Tensor:
            return x.expand(3, *p.shape)[:, rows]

        def scaled(x: Tensor, factors: list[Tensor]) -> Tensor:
            for factor in factors:
                x = x * cut(factor)
            return x

        P, G, M, V = p[None, rows], g[None, rows], state["m"][:, rows], state["v"][None, rows]
        over = (V + 1e-6).rsqrt()
        clipped, normed = ([G.clamp(-0.1, 0.1)], [G * over]) if kind.velo else ([], [])
        return torch.cat([G, *clipped, P, M, V, M * over, over, scaled(G, over_g), *normed, *map(cut, shown),
                          scaled(M, over_m)]).flatten(1)
    return of


def safe_rsqrt(x: Tensor) -> Tensor:
    """Return 1 / sqrt(x), of what is below 1e-9 as if it were that."""
    return x.clamp(min=1e-9).rsqrt()


def move(p: Tensor, g: Tensor, state: dict[str, Tensor], kind: Kind, layers: Sequence[tuple[Tensor, Tensor]],
         scale: float | Tensor, chunk: int) -> None:
    """Take one step in place: p -= scale * dir * exp(0.001 * mag), where dir, mag, ... = MLP(features).

    Features are divided by their RMS over the whole tensor, which takes a pass of its own; both passes go
    over rows of about chunk entries, whose number changes no bit.
    """
    of, n = features(p, g, state, kind), p[0].numel()
    size = max(1, chunk // n)
    rows = [slice(begin, begin + size) for begin in range(0, len(p), size)]
    squares = torch.cat([of(part).square_().unflatten(1, (-1, n)).sum(2) for part in rows], 1)
    rms = squares.sum(1, dtype=torch.float64).div_(p.numel()).add_(1e-5).sqrt_().float()
    (first, bias), *rest = layers
    for part in rows:
        x = of(part)
        entries = x.size(1)
        x = torch.addmm(bias[:, None], first / rms, F.pad(x, (0, -entries % TILE)))
        for weight, b in rest:
            x = torch.addmm(b[:, None], weight, x.relu_())
        p[part] -= (scale * x[0, :entries] * x[1, :entries].mul(0.001).exp_()).view_as(p[part])
