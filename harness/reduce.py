"""From micro-batches to the mean gradient over the global batch, the same at every world size."""
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from harness.endings import BadInput

LossSum = Callable[[nn.Module, Tensor, Tensor], Tensor]


class ExactReducer:
    """Sum micro-batch gradients in a fixed binary tree over their global index; divide once, at the root.

    m * 2^k micro-batches, m odd: each m in a row are summed from left to right, and the sums pairwise. A
    power of two of ranks that divides them cuts the tree between its pairs, so the bits do not depend on it
    (where each pass gives the same bits on each rank: CPU with one thread, or deterministic kernels). The
    gradients are views of one flat float32 buffer, whose last elements are the loss and the tokens, counted
    without rounding up to 2^24.
    """

    def __init__(self, model: nn.Module, net: nn.Module):
        self.net = net
        self.params = [p for p in model.parameters() if p.requires_grad]
        if wrong := {p.dtype for p in self.params} - {torch.float32}:
            raise BadInput(f"exact reduction takes float32 parameters, found {wrong}")
        self.sizes = [p.numel() for p in self.params]
        self.world_size = dist.get_world_size()
        self.length = -(-(sum(self.sizes) + 2) // self.world_size) * self.world_size
        self.sums: list[tuple[Tensor, Tensor, list[Tensor]]] = []  # buffers of the tree, and views of each

    def _gradients_in(self, i: int) -> tuple[Tensor, Tensor]:
        """Let every .grad lie in the i-th buffer; return it, and of it the loss and the tokens."""
        if i == len(self.sums):
            flat = torch.zeros(self.length, device=self.params[0].device)
            *views, facts, _ = flat.split([*self.sizes, 2, self.length - sum(self.sizes) - 2])
            self.sums.append((flat, facts, [view.view_as(p) for p, view in zip(self.params, views)]))
        flat, facts, views = self.sums[i]
        for p, view in zip(self.params, views):
            p.grad = view
        return flat, facts

    def __call__(self, loss_sum: LossSum, passes: list[tuple[Tensor, Tensor]], tokens: int | None = None,
                 reduce: bool = True) -> Tensor:
        """Set every .grad to the mean over the step's tokens; return the mean loss, a scalar (collective).

        tokens: of this rank that count; None: all, as many as on the other ranks. Not reduce, where no rank
        waits for another: this rank's part of the mean gradient, and the mean loss of its own tokens.
        """
        row, waiting = len(passes) // (len(passes) & -len(passes)), 0
        for i, (x, y) in enumerate(passes):
            if i % row == 0:
                flat, facts = self._gradients_in(waiting)
                flat.zero_()
            loss = loss_sum(self.net, x, y)
            loss.backward()
            facts[0].add_(loss.detach())
            if (i + 1) % row == 0:  # buffers wait as the digits of a binary counter do
                n = (i + 1) // row
                while n % 2 == 0:
                    self.sums[waiting - 1][0].add_(self.sums[waiting][0])
                    n, waiting = n // 2, waiting - 1
                waiting += 1
        assert waiting == 1, "every sum has met its neighbour"
        flat, facts = self._gradients_in(0)
        facts[1] = count = sum(y.numel() for _, y in passes) if tokens is None else tokens
        if reduce:
            self._over_ranks(flat)
            flat.div_(facts[1].clone())
            return facts[0].clone()
        flat.div_(count * self.world_size)
        return facts[0] * self.world_size

    def _over_ranks(self, flat: Tensor) -> None:
        """Put the tree's sum over ranks in place: each sums a share of the elements and sends it to all."""
        shares = torch.empty_like(flat)
        dist.all_to_all_single(shares, flat)
        level = list(shares.chunk(self.world_size))
        while len(level) > 1:
            level = [low.add_(high) for low, high in zip(level[::2], level[1::2])]
        # not all_gather: gloo's takes 1.5 times as long (6 MB on two ranks), twice with few elements
        dist.all_to_all_single(flat, level[0].repeat(self.world_size))


class _WithFacts(nn.Module):
    """A net, and a parameter whose gradient is the loss and the tokens: they ride in a bucket of others."""

    def __init__(self, net: nn.Module, like: Tensor):
        super().__init__()
        dtype = torch.promote_types(like.dtype, torch.float32)
        self.net, self.facts = net, nn.Parameter(torch.zeros(2, dtype=dtype, device=like.device))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.net(*args, **kwargs)


class FastReducer:
    """torch's DistributedDataParallel: reduces buckets during the backward pass; equal up to rounding.

    Nothing is sent to another rank but gradients: what ranks start with is theirs, and so are buffers.
    """

    def __init__(self, model: nn.Module, net: nn.Module):
        device = (like := next(model.parameters())).device
        self.net = DistributedDataParallel(_WithFacts(net, like), init_sync=False,
                                           device_ids=[device.index] if device.type == "cuda" else None,
                                           gradient_as_bucket_view=True)
        self.net.broadcast_buffers = False  # as an argument it warns from torch 2.13 on
        self.model, self.facts = model, self.net.module.facts

    def __call__(self, loss_sum: LossSum, passes: list[tuple[Tensor, Tensor]], tokens: int | None = None,
                 reduce: bool = True) -> Tensor:
        """Do what ExactReducer does."""
        self.net.zero_grad(set_to_none=True)
        n = sum(y.numel() for _, y in passes)
        scale = 1 / n if reduce else 1 / (n * dist.get_world_size())  # DDP divides by the world size
        for i, (x, y) in enumerate(passes, start=1):
            with nullcontext() if reduce and i == len(passes) else self.net.no_sync():
                loss = loss_sum(self.net, x, y) * scale
                counted = y.numel() if tokens is None else tokens / len(passes)
                facts = torch.full_like(self.facts, counted)  # its dtype: a loss's may not hold the number
                facts[0] = loss.detach()
                (loss + self.facts @ facts).backward()
        loss, counted = self.facts.grad
        if not reduce:
            return loss * dist.get_world_size()
        if tokens is not None:
            for p in self.model.parameters():
                if p.grad is not None:
                    p.grad.mul_(n / counted)
            loss = loss * (n / counted)
        return loss.clone()


REDUCERS = {"exact": ExactReducer, "fast": FastReducer}
