"""From micro-batches to the mean gradient over the global batch, the same at every world size."""
from collections.abc import Callable
from contextlib import nullcontext

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

LossSum = Callable[[nn.Module, Tensor, Tensor], Tensor]


class ExactReducer:
    """Sum micro-batch gradients pairwise in a binary tree over their global index; divide once, at the root.

    The tree does not depend on how the micro-batches are spread over a power of two of ranks, so neither do
    the bits (where each pass gives the same bits on each rank: CPU with one thread, or deterministic
    kernels). The gradients are views of one flat float32 buffer, whose last element is the loss.
    """

    def __init__(self, model: nn.Module, net: nn.Module):
        self.net = net
        self.params = [p for p in model.parameters() if p.requires_grad]
        if wrong := {p.dtype for p in self.params} - {torch.float32}:
            raise ValueError(f"exact reduction takes float32 parameters, found {wrong}")
        self.sizes = [p.numel() for p in self.params]
        self.world_size = dist.get_world_size()
        length = -(-(sum(self.sizes) + 1) // self.world_size) * self.world_size
        self.flat = torch.zeros(length, device=self.params[0].device)

    def __call__(self, loss_sum: LossSum, passes: list[tuple[Tensor, Tensor]], tokens: int) -> Tensor:
        """Set every .grad to the mean over the step's tokens; return the mean loss, a scalar (collective)."""
        *views, loss_view = self.flat[:sum(self.sizes) + 1].split([*self.sizes, 1])
        for p, view in zip(self.params, views):
            p.grad = view.view_as(p)
        sums: list[Tensor] = []  # of 2^k micro-batches each, k falling: the digits of a binary counter
        for i, (x, y) in enumerate(passes, start=1):
            self.flat.zero_()
            loss = loss_sum(self.net, x, y)
            loss.backward()
            loss_view.copy_(loss.detach())
            carried = self.flat
            while i % 2 == 0:
                carried, i = sums.pop().add_(carried), i // 2
            sums.append(carried.clone() if carried is self.flat else carried)
        assert len(sums) == 1, "a rank's micro-batches are a power of two"
        self.flat.copy_(self._over_ranks(sums[0])).div_(tokens)
        return loss_view.detach().clone().squeeze()

    def _over_ranks(self, mine: Tensor) -> Tensor:
        """Return the tree's sum over ranks: each sums a share of the elements, then all gather the shares."""
        shares = torch.empty_like(mine)
        dist.all_to_all_single(shares, mine)
        level = list(shares.chunk(self.world_size))
        while len(level) > 1:
            level = [low + high for low, high in zip(level[::2], level[1::2])]
        dist.all_gather(list(mine.chunk(self.world_size)), level[0])
        return mine


class FastReducer:
    """torch's DistributedDataParallel: reduces buckets during the backward pass; equal up to rounding."""

    def __init__(self, model: nn.Module, net: nn.Module):
        device = next(model.parameters()).device
        self.net = DistributedDataParallel(net, device_ids=[device.index] if device.type == "cuda" else None,
                                           gradient_as_bucket_view=True)
        self.model = model

    def __call__(self, loss_sum: LossSum, passes: list[tuple[Tensor, Tensor]], tokens: int) -> Tensor:
        """Set every .grad to the mean over the step's tokens; return the mean loss, a scalar (collective)."""
        self.model.zero_grad(set_to_none=True)
        total = 0.0
        for i, (x, y) in enumerate(passes, start=1):
            with nullcontext() if i == len(passes) else self.net.no_sync():
                loss = loss_sum(self.net, x, y)
                (loss * (dist.get_world_size() / tokens)).backward()  # DDP divides by the world size
            total = total + loss.detach()
        dist.all_reduce(total)
        return total / tokens


REDUCERS = {"exact": ExactReducer, "fast": FastReducer}
