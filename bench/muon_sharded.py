"""The Muon step at 124M shapes: train_gpt2.py's, sharded over ranks, against torch.optim.Muon in one process.

Both iterate in bfloat16 where the processor multiplies it, else both in float32.
"""
import time
from multiprocessing.connection import Connection

import torch
import torch.distributed as dist

from bench.counts import GPT2_124M, block_shapes
from bench.ranks import Ranks
from bench.rounds import Result, Row, interleaved, ratios
from bench.submission import load

LAYERS = 4  # of 12: all have the same six shapes


def dtype_of_products() -> str:
    """Return bfloat16 where the processor multiplies it, else float32: emulation is slow."""
    capabilities = torch.cpu.get_capabilities()
    return "bfloat16" if capabilities.get("amx_bf16") or capabilities.get("avx512_bf16") else "float32"


def step_on_order(orders: Connection, kind: str, dtype: str, shapes: list[tuple[int, int]]) -> None:
    """Take optimizer steps on random matrices as ordered; answer with nanoseconds and bytes of state."""
    torch.manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    for p in params:
        p.grad = torch.randn(p.shape)
    if kind == "torch":
        optimizer = torch.optim.Muon(params, lr=0.02, momentum=0.95, weight_decay=0.0, nesterov=True)
        if dtype == "float32":
            torch.Tensor.bfloat16 = torch.Tensor.float  # the cast that its iteration begins with
    else:
        optimizer = load("Muon").Muon(params, lr=0.02, momentum=0.95, dtype=getattr(torch, dtype))
    while orders.recv():
        dist.barrier()
        begin = time.monotonic_ns()
        optimizer.step()
        dist.barrier()
        ns = time.monotonic_ns() - begin
        buffers = [t for entry in optimizer.state.values() for t in entry.values()]
        orders.send({"ns": ns, "state_bytes": sum(t.numel() * t.element_size() for t in buffers)})


def measure(quick: bool) -> Result:
    """Return times of a step and what each rank holds."""
    size = GPT2_124M._replace(n_layer=2, n_embd=64) if quick else GPT2_124M._replace(n_layer=LAYERS)
    shapes, rounds, dtype = block_shapes(size), 2 if quick else 5, dtype_of_products()
    groups = {"torch, 1 thread": Ranks(1, step_on_order, "torch", dtype, shapes),
              "torch, 2 threads": Ranks(1, step_on_order, "torch", dtype, shapes, threads=2),
              "1 rank": Ranks(1, step_on_order, "ours", dtype, shapes),
              "2 ranks": Ranks(2, step_on_order, "ours", dtype, shapes)}
    try:
        answers = {name: ranks.ask("step") for name, ranks in groups.items()}  # the first one allocates
        state = {name: max(rank["state_bytes"] for rank in ranks) for name, ranks in answers.items()}
        found = interleaved({name: lambda ranks=ranks: max(a["ns"] for a in ranks.ask("step")) / 1e9
                             for name, ranks in groups.items()}, rounds)
    finally:
        for ranks in groups.values():
            ranks.__exit__()
    one, two = found["torch, 1 thread"], found["torch, 2 threads"]
    rows = [Row(f"sharded Muon ({dtype}), 2 ranks, against torch.optim.Muon on the same 2 cores",
                ratios(two, found["2 ranks"]), "x less time", ">= 1.5"),
            Row("... one rank against torch.optim.Muon on one core", ratios(one, found["1 rank"]),
                "x less time"),
            Row("... two ranks over one", ratios(found["1 rank"], found["2 ranks"]), "x less time", ">= 1.9"),
            Row("momentum held by each of 2 ranks, over torch.optim.Muon's",
                [state["2 ranks"] / state["torch, 1 thread"]], "", "<= 0.51"),
            *[Row(f"seconds a step: {name}", times, "s") for name, times in found.items()]]
    how = (f"{len(shapes)} matrices of {size.n_layer} layers {size.n_embd} wide, random gradients; all wait "
           f"asleep while one group steps. Both iterate in {dtype}. torch.optim.Muon casts to bfloat16, "
           "which a processor without instructions for it emulates: there its cast is made float32. Each "
           "process of it does all matrices; ours deals them to the ranks, which then gather the updates. "
           "Fewer operations: wide matrices multiply as small squares, large products known to be symmetric "
           "are computed once (docs/recipe.md).")
    return Result(rows, how, {"seconds": found, "state_bytes": state})
