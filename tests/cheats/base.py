"""A tiny honest submission: the cheats of this folder each change some of its lines."""
from harness.run import open_run

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn


@dataclass(frozen=True, kw_only=True)
class Hyperparameters:
    vocab_size: int = 257
    n_embd: int = 32
    dtype: str = "float32"
    seq_len: int = 32
    batch_tokens: int = 256
    micro_batch: int = 4
    epochs: int = 1
    num_iterations: int = 8
    val_every: int = 8
    lr: float = 0.01


RECIPES = {"tiny": Hyperparameters()}


class GPT(nn.Module):
    def __init__(self, hp):
        super().__init__()
        self.wte = nn.Embedding(hp.vocab_size, hp.n_embd)
        self.lm_head = nn.Linear(hp.n_embd, hp.vocab_size, bias=False)
        nn.init.zeros_(self.lm_head.weight)

    def forward(self, idx_BT):
        logits_BTV = self.lm_head(self.wte(idx_BT))
        return logits_BTV


def loss_sum(model, x_BT, y_BT):
    return F.cross_entropy(model(x_BT).flatten(0, 1), y_BT.flatten(), reduction="sum")


def main():
    with open_run(__file__, RECIPES) as run:
        torch.manual_seed(run.seed)
        model = GPT(run.hp).to(run.device)
        optimizer = torch.optim.Adam(model.parameters(), lr=run.hp.lr)
        for step in run.steps(model, [optimizer]):
            tokens = run.take(run.hp.batch_tokens)
            x_BT, y_BT = tokens[:-1].view(-1, run.hp.seq_len), tokens[1:].view(-1, run.hp.seq_len)
            run.accumulate(loss_sum, x_BT, y_BT)
            optimizer.step()


if __name__ == "__main__":
    main()
