"""The baseline: GPT-2 of 2019, trained with AdamW as in llm.c and nanoGPT, at the cost of recipe `sample`.

./run.sh --script submissions/gpt2_adamw.py runs it; the mean of its final losses is the target of `sample`.
Shape suffixes: B sequences, T tokens, C channels, H heads, D head dimension, V vocabulary.
"""
from harness.run import Run, open_run  # first: the referee binds its clock and its loss

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Hyperparameters:
    """Everything that shapes the loss curve."""

    # model
    vocab_size: int
    n_layer: int  # blocks
    n_head: int  # attention heads
    n_embd: int  # width of the residual stream
    dtype: str = "float32"
    init_std: float = 0.05  # GPT-2 has 0.02 at 768 wide
    # data
    seq_len: int  # tokens
    batch_tokens: int  # tokens a step, over all ranks
    micro_batch: int  # sequences; the fixed unit of gradient accumulation
    epochs: int = 1  # passes over the data
    # schedule
    num_iterations: int  # steps
    warmup_iters: int  # first steps, in which the learning rate rises linearly
    val_every: int  # steps between validations
    # optimizer
    lr: float  # learning rate of AdamW, all parameters
    adam_betas: tuple[float, float] = (0.8, 0.95)  # decay of Adam's two moments
    weight_decay: float = 0.1  # of AdamW, on matrices
    grad_clip: float = 1.0  # largest norm of the gradient


RECIPES = {
    "sample": Hyperparameters(
        vocab_size=4096, n_layer=2, n_head=2, n_embd=128,
        seq_len=256, batch_tokens=2048, micro_batch=2, epochs=2,
        num_iterations=1680, warmup_iters=150, val_every=140, lr=8e-3),
}


class Attention(nn.Module):
    """Causal self-attention."""

    def __init__(self, n_embd: int, n_head: int):
        super().__init__()
        self.n_head = n_head
        self.c_attn = nn.Linear(n_embd, 3 * n_embd)
        self.c_proj = nn.Linear(n_embd, n_embd)

    def forward(self, x_BTC: Tensor) -> Tensor:
        B, T, C = x_BTC.shape
        q_BHTD, k_BHTD, v_BHTD = (part.view(B, T, self.n_head, -1).transpose(1, 2)
                                  for part in self.c_attn(x_BTC).chunk(3, dim=-1))
        y_BHTD = F.scaled_dot_product_attention(q_BHTD, k_BHTD, v_BHTD, is_causal=True)
        return self.c_proj(y_BHTD.transpose(1, 2).reshape(B, T, C))


class MLP(nn.Module):
    """Two layers with GELU between, in GPT-2's approximation."""

    def __init__(self, n_embd: int):
        super().__init__()
        self.c_fc = nn.Linear(n_embd, 4 * n_embd)
        self.c_proj = nn.Linear(4 * n_embd, n_embd)

    def forward(self, x_BTC: Tensor) -> Tensor:
        return self.c_proj(F.gelu(self.c_fc(x_BTC), approximate="tanh"))


class Block(nn.Module):
    """Attention and MLP, each behind a LayerNorm."""

    def __init__(self, n_embd: int, n_head: int):
        super().__init__()
        self.ln_1, self.attn = nn.LayerNorm(n_embd), Attention(n_embd, n_head)
        self.ln_2, self.mlp = nn.LayerNorm(n_embd), MLP(n_embd)

    def forward(self, x_BTC: Tensor) -> Tensor:
        x_BTC = x_BTC + self.attn(self.ln_1(x_BTC))
        return x_BTC + self.mlp(self.ln_2(x_BTC))


class GPT(nn.Module):
    """GPT-2 without dropout, its head tied to its embedding: token ids (B, T) to logits (B, T, V)."""

    def __init__(self, hp: Hyperparameters):
        super().__init__()
        self.wte = nn.Embedding(hp.vocab_size, hp.n_embd)
        self.wpe = nn.Embedding(hp.seq_len, hp.n_embd)
        self.blocks = nn.ModuleList(Block(hp.n_embd, hp.n_head) for _ in range(hp.n_layer))
        self.ln_f = nn.LayerNorm(hp.n_embd)
        self.lm_head = nn.Linear(hp.n_embd, hp.vocab_size, bias=False)
        self.lm_head.weight = self.wte.weight
        for name, p in self.named_parameters():
            if p.ndim == 2:
                nn.init.normal_(p, std=hp.init_std / (math.sqrt(2 * hp.n_layer) if "c_proj" in name else 1))
            elif name.endswith("bias"):
                nn.init.zeros_(p)

    def forward(self, idx_BT: Tensor) -> Tensor:
        x_BTC = self.wte(idx_BT) + self.wpe.weight[:idx_BT.size(1)]
        for block in self.blocks:
            x_BTC = block(x_BTC)
        return self.lm_head(self.ln_f(x_BTC))


def build_optimizer(model: GPT, hp: Hyperparameters) -> torch.optim.Optimizer:
    """Return AdamW, which decays matrices and embeddings, not gains and biases."""
    matrices = [p for p in model.parameters() if p.ndim == 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    return torch.optim.AdamW([dict(params=matrices, weight_decay=hp.weight_decay),
                              dict(params=vectors, weight_decay=0.0)],
                             lr=hp.lr, betas=hp.adam_betas, eps=1e-8, fused=True)


def lr_factor(step: int, hp: Hyperparameters) -> float:
    """Return the factor on the learning rate: linearly up over warmup_iters steps, then a cosine to 0."""
    if step < hp.warmup_iters:
        return (step + 1) / hp.warmup_iters
    done = (step - hp.warmup_iters) / (hp.num_iterations - hp.warmup_iters)
    return (1 + math.cos(math.pi * done)) / 2


def loss_sum(net: nn.Module, x_BT: Tensor, y_BT: Tensor) -> Tensor:
    """Return the cross-entropy summed over tokens; the harness divides it once by the global token count."""
    return F.cross_entropy(net(x_BT).flatten(0, 1), y_BT.flatten(), reduction="sum")


def train(hp: Hyperparameters, model: nn.Module, optimizer: torch.optim.Optimizer, run: Run) -> None:
    """Train the model in place; the run yields the steps and validates, times and logs between them."""
    for step in run.steps(model, [optimizer]):
        for group in optimizer.param_groups:
            group["lr"] = hp.lr * lr_factor(step, hp)
        tokens = run.take(hp.batch_tokens)
        run.accumulate(loss_sum, tokens[:-1].view(-1, hp.seq_len), tokens[1:].view(-1, hp.seq_len))
        nn.utils.clip_grad_norm_(model.parameters(), hp.grad_clip)
        optimizer.step()


def main() -> None:
    with open_run(__file__, RECIPES) as run:
        torch.manual_seed(run.seed)
        model = GPT(run.hp).to(run.device)
        train(run.hp, model, build_optimizer(model, run.hp), run)


if __name__ == "__main__":
    main()
