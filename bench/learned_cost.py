"""What an update costs, learned against AdamW and Muon: a twelfth of the 124M model, its matrices whole."""
import os
import time
from multiprocessing.connection import Connection

import torch
import torch.distributed as dist

from bench.counts import GPT2_124M, Size, block_shapes
from bench.ranks import Ranks
from bench.rounds import Result, Row, interleaved, ratios
from lab.optimizers import adamw, muon, section, small_fc, velo


def random_weights(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """Return weights of some network: what they are changes no time."""
    return {name: torch.randn(shape) / 10 for name, shape in shapes.items()}


def step_on_order(orders: Connection, name: str, size: Size) -> None:
    """Take optimizer steps on random tensors as ordered; answer with nanoseconds and bytes of state."""
    torch.manual_seed(0)
    roles = {"embedding": [(size.vocab_size, size.n_embd)], "ffn_in": block_shapes(size)}
    groups = [dict(params=[torch.nn.Parameter(torch.randn(shape) / 50) for shape in shapes], role=role,
                   lr=1e-3, eps=1e-8, weight_decay=0.0) for role, shapes in roles.items()]
    params = [p for group in groups for p in group["params"]]
    for p in params:
        p.grad = torch.randn(p.shape) / 100
    match name:
        case "small_fc":
            shifts = {key: torch.tensor(values) for key, values in small_fc.SHIFTS.items()}
            optimizers = [small_fc.SmallFC(groups, random_weights(small_fc.SHAPES) | shifts, "made")]
        case "velo":
            networks = map(random_weights, (velo.RNN_SHAPES, velo.MLP_SHAPES))
            optimizers = [velo.VeLO(groups, *networks, "made", 1000)]
        case _:
            module = {"adamw": adamw, "muon": muon}[name]
            optimizers = module.build(groups, section()(), 1000, lambda function: function)
    loss = torch.tensor(3.0)
    while orders.recv():
        dist.barrier()
        begin = time.monotonic_ns()
        for optimizer in optimizers:
            optimizer.step(loss)
        ns = time.monotonic_ns() - begin
        state = sum(t.numel() * t.element_size() for optimizer in optimizers
                    for entry in optimizer.state.values() for t in entry.values())
        orders.send({"ns": ns, "state": state / sum(p.numel() for p in params) / 4})


def measure(quick: bool) -> Result:
    """Return times of a step against AdamW's and Muon's, and the state of each."""
    size = GPT2_124M._replace(n_layer=1, vocab_size=GPT2_124M.vocab_size // GPT2_124M.n_layer)
    if quick:
        size = size._replace(n_embd=64, vocab_size=256)
    names, rounds = ("adamw", "muon", "small_fc", "velo"), 2 if quick else 5
    groups = {name: Ranks(1, step_on_order, name, size) for name in names}
    try:
        first = {name: ranks.ask("step")[0] for name, ranks in groups.items()}  # fills the states
        found = interleaved({name: lambda ranks=ranks: ranks.ask("step")[0]["ns"] / 1e9
                             for name, ranks in groups.items()}, rounds)
    finally:
        for ranks in groups.values():
            ranks.__exit__()
    rows = [Row(f"an update by {name}, over {peer}'s", ratios(found[name], found[peer]), "x the time")
            for name in ("small_fc", "velo") for peer in ("adamw", "muon")]
    rows += [Row(f"state of {name}", [first[name]["state"]], "numbers a parameter") for name in names]
    rows += [Row(f"seconds a step: {name}", times, "s") for name, times in found.items()]
    how = (f"A twelfth of the 124M model: the matrices of one layer, {size.n_embd} wide, and "
           f"{size.vocab_size} rows of the embedding; random weights and gradients, float32, one core of "
           f"{os.cpu_count()}, the others asleep. Muon iterates in float32 on the layer's matrices, the "
           "embedding is AdamW's. The learned ones are torch's own operations on chunks of rows, no kernel.")
    return Result(rows, how, {"seconds": found})
