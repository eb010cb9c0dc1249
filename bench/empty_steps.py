"""A submission whose model is one number: what is left of a step is the harness. For bench/harness_cost.py.

Blocks of steps alternate: taken through the run, and the same arithmetic in a plain loop without it.
"""
from harness.run import open_run  # first: the referee binds its clock and its loss

import time
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Hyperparameters:
    """Batch and length of the `sample` recipe."""

    vocab_size: int = 4096
    seq_len: int = 256
    batch_tokens: int = 2048
    micro_batch: int = 2
    epochs: int = 2
    num_iterations: int = 1000
    val_every: int = 1000
    block: int = 100  # steps


RECIPES = {"sample": Hyperparameters()}


class Number(nn.Module):
    """Logits that are all the same number."""

    def __init__(self, vocab_size: int):
        super().__init__()
        self.vocab_size = vocab_size
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, idx_BT: Tensor) -> Tensor:
        return self.weight.expand(*idx_BT.shape, self.vocab_size)


def loss_sum(net: nn.Module, x_BT: Tensor, y_BT: Tensor) -> Tensor:
    """Return a loss that costs next to nothing."""
    return net.weight.sum()


def plain_steps(model: Number, batch: Tensor, n: int, passes: int) -> None:
    """Take n steps without the harness: a batch from memory, gradients summed, one all_reduce."""
    for _ in range(n):
        tokens = batch.clone()
        x_BT, y_BT = tokens[:-1], tokens[1:]
        model.weight.grad = None
        for _ in range(passes):
            loss_sum(model, x_BT, y_BT).backward()
        dist.all_reduce(model.weight.grad)
        model.weight.grad /= len(batch)


def clocks() -> tuple[int, int]:
    """Return two clocks in ns: the wall's, and that of the CPU time of all threads of this process."""
    return time.perf_counter_ns(), time.process_time_ns()


def main() -> None:
    with open_run(__file__, RECIPES) as run:
        hp = run.hp
        model = Number(hp.vocab_size)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        batch = torch.zeros(hp.batch_tokens // run.world_size + 1, dtype=torch.int64)
        passes = hp.batch_tokens // hp.seq_len // hp.micro_batch // run.world_size
        with_harness, plain, begin = [], [], (0, 0)

        def passed() -> tuple[float, float]:  # microseconds a step, on the wall's clock and of CPU time
            return tuple((now - then) / hp.block / 1e3 for now, then in zip(clocks(), begin))

        for step in run.steps(model, [optimizer]):
            if step % hp.block == 0:
                if step:
                    with_harness.append(passed())
                begin = clocks()
                plain_steps(model, batch, hp.block, passes)
                plain.append(passed())
                dist.barrier()
                begin = clocks()
            tokens = run.take(hp.batch_tokens)
            run.accumulate(loss_sum, tokens[:-1].view(-1, hp.seq_len), tokens[1:].view(-1, hp.seq_len))
        rounds = len(with_harness) - 1  # the first block is not counted; a plain block follows each
        run.print(f"microseconds a step: {with_harness[1:]} with the harness, {plain[-rounds:]} without")


if __name__ == "__main__":
    main()
