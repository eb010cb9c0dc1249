"""Muon for the matrices of the blocks, AdamW for all else."""
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from lab.optimizers import adamw
from lab.types import HIDDEN, Below1

# sqrt(max(1, rows / columns)) is what the spectral condition asks for (https://arxiv.org/abs/2310.17813): no
# factor is added under mup; Newton-Schulz takes five times 6 d
STATE, FLOPS, MUP = 1, (0, 30), (0, 0)


@dataclass(frozen=True, kw_only=True)
class Fields:
    """Its part of a recipe."""

    momentum: Below1 = 0.95
    newton_schulz_dtype: str = "float32"


def symmetric(A: Tensor, B: Tensor, C: Tensor | None = None, beta: float = 1.0, alpha: float = 1.0) -> Tensor:
    """Return the batch A B, or beta C + alpha A B, of which each matrix is known to be symmetric.

    Large ones come in bands of 256 rows from the diagonal on; what is below it is copied, not computed.
    """
    def band(i: int, j: int) -> Tensor:
        a, b = A[:, i:j], B[:, :, i:]
        return a @ b if C is None else torch.baddbmm(C[:, i:j, i:], a, b, beta=beta, alpha=alpha)
    n = A.size(-2)
    if n < 512:
        return band(0, n)
    D = A.new_empty(len(A), n, n)
    for i in range(0, n, 256):  # narrower bands multiply slower
        D[:, i:i + 256, i:] = band(i, i + 256)
        D[:, i + 256:, i:i + 256] = D[:, i:i + 256, i + 256:].mT
    return D


def newton_schulz(G: Tensor, steps: int = 5) -> Tensor:
    """Return roughly U V^T, where G = U S V^T, for a batch of matrices (n, short side, long side).

    Five steps of a quintic whose coefficients maximise the slope at 0 send the singular values into about
    [0.7, 1.2] rather than to 1, which serves as well (https://kellerjordan.github.io/posts/muon).
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    X = G / (G.norm(dim=(-2, -1), keepdim=True) + 1e-7)  # the spectral norm is at most the Frobenius norm
    if 2 * X.size(-2) > X.size(-1):
        for _ in range(steps):
            A = symmetric(X, X.mT)
            X = torch.baddbmm(X, symmetric(A, A, A, b, c), X, beta=a)  # a X + (b A + c A A) X
        return X
    # wide: the factors of the steps are polynomials in X X^T, small squares that commute, and their product Q
    # meets X once. What is small beside the largest singular value loses digits: Q of more than three steps
    # diverges in bfloat16, and is off by 2e-4 in float32 where singular values fall over six decades
    for span in (3, steps - 3) if X.dtype is torch.bfloat16 and steps > 3 else (steps,):
        A, Q = symmetric(X, X.mT), None
        for left in reversed(range(span)):
            P = symmetric(A, A, A, b, c)
            P.diagonal(dim1=-2, dim2=-1).add_(a)
            Q = P if Q is None else symmetric(P, Q)
            A = symmetric(P, symmetric(P, A)) if left else A
        X = Q @ X
    return X


def muon_update(grads: list[Tensor], buffers: list[Tensor], momentum: float, dtype: torch.dtype) -> Tensor:
    """Return the orthogonalised Nesterov momentum of n gradients of one shape, (n, short side, long side).

    Updates the momentum buffers; dtype is that of the Newton-Schulz iteration and of the result.
    """
    for grad, buffer in zip(grads, buffers):
        buffer.mul_(momentum).add_(grad)
    G = torch.stack([grad.add(buffer, alpha=momentum) for grad, buffer in zip(grads, buffers)])
    return newton_schulz((G if G.size(-2) <= G.size(-1) else G.mT).to(dtype))


class Muon(torch.optim.Optimizer):
    """Momentum orthogonalised by Newton-Schulz; one rank updates a matrix and alone has its momentum.

    Matrices of one shape are dealt to the ranks in turn; while one batch is gathered the next is computed.
    step() holds collectives: every rank must call it, with gradients already reduced. Weight decay is
    decoupled.
    """

    def __init__(self, params, lr: float = 0.02, momentum: float = 0.95, dtype: torch.dtype = torch.bfloat16,
                 compile: Callable = lambda function: function):
        super().__init__(params, dict(lr=lr, momentum=momentum, dtype=dtype, weight_decay=0.0))
        self.update = compile(muon_update)
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        self.batches: list[tuple[int, int, list[Tensor]]] = []
        first = 0  # the deal goes on from batch to batch: no rank gets the odd matrix of every one
        for index, group in enumerate(self.param_groups):
            by_shape: dict[torch.Size, list[Tensor]] = {}
            for p in group["params"]:
                if p.ndim != 2:
                    raise ValueError(f"Muon takes matrices, found shape {tuple(p.shape)}; give it to Adam")
                by_shape.setdefault(p.shape, []).append(p)
            for params in by_shape.values():
                self.batches.append((first, index, params))
                first += len(params)

    def owned(self, first: int, params: list[Tensor]) -> list[Tensor]:
        """Return this rank's share of a batch whose first matrix falls to rank first % world_size."""
        return params[(self.rank - first) % self.world_size::self.world_size]

    @torch.no_grad()
    def step(self, loss: Tensor) -> None:
        """Update all matrices from their gradients: p -= lr * sqrt(max(1, rows / columns)) * update."""
        for group in self.param_groups:
            for p in group["params"] if group["weight_decay"] else ():
                p.mul_(1 - group["lr"] * group["weight_decay"])
        gathers = []
        for first, index, params in self.batches:
            group, owned = self.param_groups[index], self.owned(first, params)
            slots = -(-len(params) // self.world_size)
            update = params[0].new_zeros(slots, *sorted(params[0].shape), dtype=group["dtype"])
            for p in owned:
                if p not in self.state:
                    self.state[p]["momentum_buffer"] = torch.zeros_like(p)
            if owned:
                buffers = [self.state[p]["momentum_buffer"] for p in owned]
                grads = [p.grad for p in owned]
                update[:len(owned)] = self.update(grads, buffers, group["momentum"], group["dtype"])
            updates = update.new_empty(self.world_size * slots, *update.shape[1:])
            work = dist.all_gather(list(updates.chunk(self.world_size)), update, async_op=True)
            gathers.append((updates, work))
        for (first, index, params), (updates, work) in zip(self.batches, gathers):
            work.wait()
            lr, slots = self.param_groups[index]["lr"], len(updates) // self.world_size
            for i, p in enumerate(params):
                update = updates[(first + i) % self.world_size * slots + i // self.world_size]
                scale = max(1, p.size(0) / p.size(1)) ** 0.5
                p.add_(update if p.size(0) <= p.size(1) else update.mT, alpha=-lr * scale)

    def load_state_dict(self, state_dict: dict) -> None:
        """Take over the momenta of the matrices that this rank updates; those of the others are dropped."""
        super().load_state_dict(state_dict)
        mine = {p for first, _, params in self.batches for p in self.owned(first, params)}
        for p in set(self.state) - mine:
            del self.state[p]


def build(groups: list[dict], config: Fields, steps: int, compile: Callable) -> list:
    """Return AdamW on embeddings, head and vectors, and Muon on the matrices of the blocks."""
    hidden = [g for g in groups if g["role"] in HIDDEN]
    others = [g for g in groups if g["role"] not in HIDDEN]
    dtype = getattr(torch, config.newton_schulz_dtype)
    return [*adamw.build(others, config, steps, compile),
            Muon(hidden, config.lr, config.momentum, dtype, compile)]
