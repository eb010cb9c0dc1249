"""Golden curves: the first losses and gradient norms of a recipe, and the loop that measures them again.

tests/test_golden.py says what the files of tests/golden hold and how near a curve must come. This loop is no
harness: one process, no clock, no log. `python tests/curves.py` writes the files again; the commit says why.
"""
import importlib
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)] * (str(ROOT) not in sys.path)
from data.bpe import encoding  # noqa: E402
from harness.shards import read_shard  # noqa: E402
from harness.vocabulary import decode, token_bytes  # noqa: E402

GOLDEN = ROOT / "tests" / "golden"
LENGTHS = {"sample": 200, "fineweb": 40}
SMALL = dict(n_layer=4, n_head=1, n_embd=128, seq_len=64, batch_tokens=128, micro_batch=2, num_iterations=40,
             cooldown_iters=11)  # the recipe's shape and trapezoid, at a cost that a test may have


class Loop:
    """What train() wants of a run: the steps, their tokens, the gradients; it keeps losses and norms."""

    def __init__(self, tokens: Tensor, rows: int, steps: int):
        self.tokens, self.rows, self.length = tokens, rows, steps
        self.train_loss: list[float] = []
        self.grad_norm: list[float] = []  # of all parameters together, before the optimizers see them

    def compile(self, function: Callable) -> Callable:
        """Return the function as it is."""
        return function

    def steps(self, model: nn.Module, optimizers: list) -> Iterator[int]:
        """Yield the numbers of the steps, from 0."""
        self.model, self.position = model, 0
        yield from range(self.length)

    def take(self, n: int) -> Tensor:
        """Return the next n tokens and one more, the last one's target."""
        self.position += n
        return self.tokens[self.position - n:self.position + 1]

    def accumulate(self, loss_sum: Callable, x_BT: Tensor, y_BT: Tensor) -> Tensor:
        """Give every parameter the gradient of the mean loss, micro-batch by micro-batch; return the loss."""
        self.model.zero_grad()
        total = 0.0
        for x, y in zip(x_BT.split(self.rows), y_BT.split(self.rows)):
            loss = loss_sum(self.model, x, y) / y_BT.numel()
            loss.backward()
            total += loss.item()
        norms = [p.grad.double().norm() for p in self.model.parameters()]
        self.train_loss.append(total)
        self.grad_norm.append(float(torch.stack(norms).norm()))
        return torch.tensor(total)


def load(name: str) -> dict[str, Any]:
    """Return a golden curve, as tests/test_golden.py describes it."""
    return json.loads((GOLDEN / f"{name}.json").read_text())


@cache
def tokens(name: str) -> Tensor:
    """Return the tokens of a curve: the sample track's own, or their text in GPT-2's vocabulary."""
    [shard] = (ROOT / "data" / "sample").glob("sample_train_*.bin")
    ids = torch.from_numpy(read_shard(shard).astype("int64"))
    if name == "sample":
        return ids
    text = decode(ids[:20_000].tolist(), token_bytes(ROOT / "data" / "sample" / "vocab.bpe"))
    return torch.tensor(encoding(ROOT / "data" / "gpt2" / "vocab.bpe").encode_ordinary(text))


def measure(script: Any, golden: dict[str, Any], dtype: str, steps: int) -> Loop:
    """Return the loop after some steps of a script's training with a golden curve's recipe and overrides.

    The weights are drawn in float32, then taken to dtype, so that all dtypes start at the same ones. Needs a
    process group; for float64, loss functions that round to float32 must not.
    """
    hp = replace(script.RECIPES[golden["recipe"]], **golden["overrides"], dtype=dtype,
                 newton_schulz_dtype=dtype)
    torch.manual_seed(golden["seed"])
    model = script.GPT(hp).to(getattr(torch, dtype))
    loop = Loop(tokens(golden["recipe"]), hp.micro_batch, steps)
    script.train(hp, model, script.build_optimizers(model, hp), loop)
    return loop


def main() -> None:
    """Write the losses and norms of every golden curve again, in float64."""
    train_gpt2 = importlib.import_module("train_gpt2")
    torch.set_num_threads(1)
    torch.Tensor.float = torch.Tensor.double
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    for name, overrides in {"sample": {}, "fineweb": SMALL}.items():
        golden = {"recipe": name, "overrides": overrides, "seed": 0}
        loop = measure(train_gpt2, golden, "float64", LENGTHS[name])
        golden |= {"train_loss": loop.train_loss, "grad_norm": loop.grad_norm}
        if "val_loss" in (before := load(name)):
            golden["val_loss"] = before["val_loss"]  # a run of the harness has it, not this loop
        (GOLDEN / f"{name}.json").write_text(json.dumps(golden, indent=1) + "\n")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
