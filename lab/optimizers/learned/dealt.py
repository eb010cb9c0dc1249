"""A learned optimizer's step: tensors dealt to the ranks, each moved by its owner, who alone keeps state."""
import torch
import torch.distributed as dist
from torch import Tensor

from lab.optimizers.learned.features import Kind, accumulate, move

Network = tuple[list[tuple[Tensor, Tensor]], float | Tensor]  # layers of an MLP, and the size of its steps


class Learned(torch.optim.Optimizer):
    """Moves every tensor by an MLP of its features; a subclass says by which one, in networks().

    step() holds collectives: every rank must call it, with gradients already reduced. Weight decay is
    decoupled. The groups hold the number of steps taken and the sha256 of the weights.
    """

    def __init__(self, groups: list[dict], kind: Kind, sha256: str):
        super().__init__(groups, {"weight_decay": 0.0, "step": 0, "weights_sha256": sha256})
        self.kind, self.sha256 = kind, sha256
        self.params = [p for group in self.param_groups for p in group["params"]]
        self.chunk = 2**14 if self.params[0].device.type == "cpu" else 2**22
        self.owners, loads = {}, [0] * dist.get_world_size()
        for p in sorted(self.params, key=Tensor.numel, reverse=True):  # the largest first
            self.owners[p] = owner = loads.index(min(loads))
            loads[owner] += p.numel()
        self.owned = [p for p in self.params if self.owners[p] == dist.get_rank()]

    def networks(self, loss: Tensor) -> dict[Tensor, Network]:
        """Return the network of each owned tensor for this step (collective)."""
        raise NotImplementedError

    @torch.no_grad()
    def step(self, loss: Tensor) -> None:
        """Update all parameters from their gradients and the mean loss of the step."""
        networks = self.networks(loss.float())
        for group in self.param_groups:
            for p in filter(networks.__contains__, group["params"]):
                (layers, scale), whole, g = networks[p], at_least_1d(p), at_least_1d(p.grad).float()
                if self.kind.velo:
                    g = g.clamp(-1000, 1000)
                accumulate(self.state[p], g, self.kind)
                move(whole, g, self.state[p], self.kind, layers, scale * group["lr"], self.chunk)
                p.mul_(1 - group["lr"] * group["weight_decay"])
            group["step"] += 1
        for work in [dist.broadcast(p.detach(), owner, async_op=True) for p, owner in self.owners.items()]:
            work.wait()

    def load_state_dict(self, state_dict: dict) -> None:
        """Take over the state of the tensors that this rank moves; that of the others is dropped.

        Raises ValueError where the state was made by other weights.
        """
        super().load_state_dict(state_dict)
        if (found := self.param_groups[0]["weights_sha256"]) != self.sha256:
            raise ValueError(f"optimizer.weights: the checkpoint was made with sha256 {found[:16]}..., these "
                             f"are {self.sha256[:16]}...; resume with the same weights")
        for p in set(self.state) - set(self.owned):
            del self.state[p]


def at_least_1d(x: Tensor) -> Tensor:
    """Return a view with an axis, also of a scalar parameter."""
    return x.detach().view(-1) if x.ndim == 0 else x.detach()
