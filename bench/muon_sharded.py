"""The Muon step at 124M shapes: the lab's, sharded over ranks against torch.optim.Muon in one process."""
import time
from functools import partial
from multiprocessing.connection import Connection

import torch
import torch.distributed as dist

from bench.counts import GPT2_124M, block_shapes
from bench.ranks import Ranks
from bench.rounds import Result, Row, interleaved, ratios
from lab.optimizers.muon import Muon


def step_on_order(orders: Connection, kind: str, shapes: list[tuple[int, int]]) -> None:
    """Take optimizer steps on random matrices as ordered; answer with nanoseconds and bytes of state."""
    torch.manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    for p in params:
        p.grad = torch.randn(p.shape)
    if kind == "torch":
        optimizer = torch.optim.Muon(params, lr=0.02, momentum=0.95, weight_decay=0.0, nesterov=True)
        step = optimizer.step
    else:
        optimizer = Muon(params, lr=0.02, momentum=0.95, dtype=getattr(torch, kind))
        step = partial(optimizer.step, torch.zeros(()))  # a loss, which it leaves unread
    while orders.recv():
        dist.barrier()
        begin = time.monotonic_ns()
        step()
        dist.barrier()
        ns = time.monotonic_ns() - begin
        buffers = [t for entry in optimizer.state.values() for t in entry.values()]
        orders.send({"ns": ns, "state_bytes": sum(t.numel() * t.element_size() for t in buffers)})


def measure(quick: bool) -> Result:
    """Return times of a step and what each rank holds."""
    size = GPT2_124M._replace(n_layer=2, n_embd=64) if quick else GPT2_124M
    shapes = block_shapes(size)
    rounds = 2 if quick else 5
    groups = {"torch, 1 thread": Ranks(1, step_on_order, "torch", shapes),
              "torch, 2 threads": Ranks(1, step_on_order, "torch", shapes, threads=2),
              "bfloat16, 1 rank": Ranks(1, step_on_order, "bfloat16", shapes),
              "bfloat16, 2 ranks": Ranks(2, step_on_order, "bfloat16", shapes),
              "float32, 2 ranks": Ranks(2, step_on_order, "float32", shapes)}
    try:
        answers = {name: ranks.ask("step") for name, ranks in groups.items()}  # the first one allocates
        state = {name: max(rank["state_bytes"] for rank in ranks) for name, ranks in answers.items()}
        found = interleaved({name: lambda ranks=ranks: max(a["ns"] for a in ranks.ask("step")) / 1e9
                             for name, ranks in groups.items()}, rounds)
    finally:
        for ranks in groups.values():
            ranks.__exit__()
    one, two = found["torch, 1 thread"], found["torch, 2 threads"]
    rows = [Row("sharded Muon, 2 ranks, against torch.optim.Muon on the same 2 cores",
                ratios(two, found["bfloat16, 2 ranks"]), "x less time", ">= 4"),
            Row("... against torch.optim.Muon on one core", ratios(one, found["bfloat16, 2 ranks"]),
                "x less time"),
            Row("... one rank against torch.optim.Muon on one core", ratios(one, found["bfloat16, 1 rank"]),
                "x less time"),
            Row("... float32 Newton-Schulz, 2 ranks, against torch.optim.Muon (bfloat16) on 2 cores",
                ratios(two, found["float32, 2 ranks"]), "x less time"),
            Row("momentum held by each of 2 ranks, over torch.optim.Muon's",
                [state["bfloat16, 2 ranks"] / state["torch, 1 thread"]], "", "<= 0.51"),
            *[Row(f"seconds a step: {name}", times, "s") for name, times in found.items()]]
    how = (f"{len(shapes)} matrices of a {size.n_layer}-layer model {size.n_embd} wide, random gradients; "
           "all wait asleep while one group steps. torch.optim.Muon always iterates in bfloat16 and "
           "each process does all matrices; ours deals them to the ranks, which then gather the updates. "
           "With R ranks the arithmetic alone gives R at most on R cores, whatever the goal says.")
    return Result(rows, how, {"seconds": found, "state_bytes": state})
