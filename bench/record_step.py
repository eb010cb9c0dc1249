"""Where a step of the laptop record goes, and what it takes of a step of the record before it."""
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from bench.gemm_share import SHAPES
from bench.ranks import LOOP, Orders, Ranks, gemm_gflops
from bench.rounds import ROOT, Result, Row, interleaved, ratios
from bench.submission import load
from harness.reduce import REDUCERS

SCRIPT = ROOT / "submissions" / "sampled_pairs.py"
BEFORE = ROOT / "records" / "sample" / "2026-11-22_BigramTable"
TINY = {"n_layer": 1, "n_embd": 32, "seq_len": 16, "batch_tokens": 128}
PRODUCTS = ("mm", "bmm", "addmm", "baddbmm", "baddbmm_")
KINDS = {  # names of torch's operations; what is in none of them is "all else"
    "matrix products": tuple(f"aten::{name}" for name in PRODUCTS),
    "attention in one operation": ("aten::_scaled_dot_product_flash_attention_for_cpu",
                                   "aten::_scaled_dot_product_flash_attention_for_cpu_backward"),
    "softmax": ("aten::_softmax", "aten::logsumexp", "aten::exp_", "aten::exp", "aten::sub", "aten::amax"),
    "lookups and their gradients": (
        "aten::index", "aten::index_select", "aten::_index_put_impl_", "aten::embedding_dense_backward",
        "aten::_unique2", "aten::sort", "aten::topk", "aten::gather", "aten::scatter_add_"),
    "Adam in one operation": ("aten::_fused_adam_", "aten::_fused_adamw_"),
    "sums and gathers over ranks": ("c10d::alltoall_base_", "c10d::allreduce_", "c10d::allgather_",
                                    "gloo:all_to_all", "gloo:all_reduce", "gloo:all_gather")}


class ProfiledOrders(Orders):
    """What train() takes for its run: it answers how long steps took, or what they were spent on."""

    device = "cpu"

    def generator(self, step: int) -> torch.Generator:
        """Return a step's random numbers, the same on all ranks."""
        return torch.Generator().manual_seed(step)

    def accumulate(self, loss_sum: Callable, x: Tensor, y: Tensor, plain: bool = True) -> None:
        """Set the gradients, as Run.accumulate does."""
        super().accumulate(loss_sum, x, y)

    def steps(self, model: nn.Module, optimizers: list) -> Iterator[int]:
        """Yield steps as ordered: ("steps", k), ("profile", k), or ("gemm", ...) for products alone."""
        self.reducer, step = REDUCERS[self.reduction](model, model), 0
        while order := self.orders.recv():
            if order[0] == "gemm":
                self.orders.send(gemm_gflops(*order[1:]))
                continue
            seen = None
            if order[0] == "profile":
                seen = profile(activities=[ProfilerActivity.CPU], with_flops=True)
            dist.barrier()
            begin, cpu = time.monotonic_ns(), time.process_time_ns()
            with seen or nullcontext():
                for _ in range(order[1]):
                    yield step % self.hp.num_iterations
                    step += 1
            cpu = time.process_time_ns() - cpu
            dist.barrier()
            operations = {} if seen is None else {
                e.key: (e.self_cpu_time_total, e.flops) for e in seen.key_averages()}
            self.orders.send({"ns": time.monotonic_ns() - begin, "cpu": cpu, "operations": operations})
        self.stream.close()


def train_on_order(orders: Connection, script: Path, overrides: dict[str, Any]) -> None:
    """Train a script's `sample` recipe with its own loop; the steps come when they are ordered."""
    submission = load(*LOOP, script=script)
    hp = replace(submission.RECIPES["sample"], **overrides)
    torch.manual_seed(0)
    model = submission.GPT(hp)
    submission.train(hp, model, submission.build_optimizers(model, hp), ProfiledOrders(orders, hp, "exact"))


def shares(operations: dict[str, tuple[float, int]]) -> dict[str, float]:
    """Return the share of each kind in the time of all operations, in percent."""
    whole = sum(us for us, _ in operations.values())
    found = {kind: 100 * sum(operations.get(name, (0, 0))[0] for name in names) / whole
             for kind, names in KINDS.items()}
    return {**found, "all else": 100 - sum(found.values())}


def measure(quick: bool) -> Result:
    """Return both steps' times side by side, their shares, and what of the GEMM peak the products reach."""
    rounds, k, seconds, overrides = (2, 2, 0.01, TINY) if quick else (9, 5, 0.15, {})
    with tempfile.TemporaryDirectory(prefix="bench_record_") as folder:
        before = Path(folder) / "before.py"
        before.write_text(min((BEFORE / "logs").glob("*.txt")).read_text().partition("=" * 100 + "\n")[0])
        with (Ranks(2, train_on_order, SCRIPT, overrides) as new, Ranks(2, train_on_order, before, overrides)
              as old):
            for ranks in (new, old):
                ranks.ask("steps", 3)
            found = interleaved({
                "new": lambda: step_ms(new, k), "old": lambda: step_ms(old, k),
                "peak": lambda: sum(max(rank.values()) for rank in new.ask("gemm", SHAPES, None, seconds))},
                rounds)
            operations = {name: ranks.ask("profile", k)[0]["operations"]
                          for name, ranks in (("record", new), ("before", old))}
    wall, cpu = ([[pair[i] for pair in found[name]] for name in ("new", "old")] for i in (0, 1))
    rows = [Row("a step of sampled_pairs.py over one of BigramTable's", ratios(*wall), ""),
            Row("... of CPU time", ratios(*cpu), ""),
            Row("a step of sampled_pairs.py", wall[0], "ms"), Row("a step of BigramTable's", wall[1], "ms")]
    for name, seen in operations.items():
        words = {"record": "sampled_pairs.py", "before": "BigramTable"}[name]
        rows += [Row(f"{words}: {kind}", [share], "% of a step") for kind, share in shares(seen).items()]
        counted = [seen[f"aten::{op}"] for op in PRODUCTS if seen.get(f"aten::{op}", (0, 0))[1]]
        us, flops = map(sum, zip(*counted))  # the profiler counts no operations of baddbmm_
        rows.append(Row(f"{words}: matrix products over the GEMM peak of the same ranks",
                        [2 * flops / us / 1e3 / peak for peak in found["peak"]], ""))
    how = (f"Two groups of two ranks of one thread train `submissions/sampled_pairs.py` and the script of "
           f"{BEFORE.name} by their own loops, {k} steps a round, in turns; the group that waits sleeps. "
           f"Shares: torch.profiler on rank 0, self time of {k} steps more. Peak: the best shape of "
           f"{', '.join('x'.join(map(str, shape)) for shape in SHAPES)}, summed over ranks, which multiply "
           "at once.")
    return Result(rows, how, {"steps_a_round": k, **found})


def step_ms(ranks: Ranks, k: int) -> tuple[float, float]:
    """Return a step's wall and CPU time in ms, those of the slowest rank."""
    answers = ranks.ask("steps", k)
    wall, cpu = (max(answer[name] for answer in answers) / k / 1e6 for name in ("ns", "cpu"))
    return wall, cpu
