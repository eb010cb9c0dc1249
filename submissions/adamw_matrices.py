"""The modern architecture with AdamW for the blocks' matrices, the control that Muon is measured against.

The script of the record 2026-11-22_ModernArchitecture at the length of train_gpt2.py's recipes; 3.97 nats on
track `sample` (one seed; docs/performance.md has the conditions).
./run.sh --script submissions/adamw_matrices.py --matrix_lr 0.003 runs it.
Shape suffixes: B sequences, T tokens, C channels, H heads, D head dimension, V vocabulary.
"""
from harness.run import Run, open_run  # first: the referee binds its clock and its loss

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Hyperparameters:
    """Everything that shapes the loss curve. The defaults are the fineweb record's."""

    # model
    vocab_size: int = 50304  # GPT-2's 50257, padded to a multiple of 128
    n_layer: int = 12  # blocks
    n_head: int = 6  # attention heads
    n_embd: int = 768  # width of the residual stream
    dtype: str = "bfloat16"  # of matrix products; weights, residual stream and logits are float32
    # data
    seq_len: int = 1024  # tokens
    batch_tokens: int = 524_288  # tokens a step, over all ranks
    micro_batch: int = 64  # sequences; the fixed unit of gradient accumulation
    epochs: int = 1  # passes over the data
    # schedule
    num_iterations: int = 4578  # steps
    cooldown_iters: int = 1308  # last steps, in which the learning rates fall linearly to 0
    val_every: int = 125  # steps between validations
    # optimizers
    embed_lr: float = 0.3  # learning rate of Adam, embedding
    head_lr: float = 0.002  # learning rate of Adam, head
    adam_betas: tuple[float, float] = (0.9, 0.95)  # decay of Adam's two moments
    matrix_lr: float = 0.006  # learning rate of Adam, matrices of the blocks


RECIPES = {
    "fineweb": Hyperparameters(),
    "sample": Hyperparameters(
        vocab_size=4096, n_layer=2, n_head=1, n_embd=128, dtype="float32",
        seq_len=256, batch_tokens=2048, micro_batch=2, epochs=2,
        num_iterations=1400, cooldown_iters=1400, val_every=140,
        embed_lr=0.2, head_lr=0.016, adam_betas=(0.8, 0.95)),
}

# ---------------------------------------------------------------------------------------------------
# GPT


class Attention(nn.Module):
    """Causal self-attention with rotary positions and normalised queries and keys."""

    def __init__(self, n_embd: int, n_head: int):
        super().__init__()
        self.n_head = n_head
        self.c_q = nn.Linear(n_embd, n_embd, bias=False)
        self.c_k = nn.Linear(n_embd, n_embd, bias=False)
        self.c_v = nn.Linear(n_embd, n_embd, bias=False)
        self.c_proj = nn.Linear(n_embd, n_embd, bias=False)

    def forward(self, x_BTC: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        B, T, C = x_BTC.shape
        q_BTHD, k_BTHD, v_BTHD = (project(x_BTC).view(B, T, self.n_head, -1)
                                  for project in (self.c_q, self.c_k, self.c_v))
        q_BTHD, k_BTHD = rotate(norm(q_BTHD), *rotary), rotate(norm(k_BTHD), *rotary)
        y_BHTD = F.scaled_dot_product_attention(q_BTHD.transpose(1, 2), k_BTHD.transpose(1, 2),
                                                v_BTHD.transpose(1, 2), is_causal=True)
        return self.c_proj(y_BHTD.transpose(1, 2).reshape(B, T, C))


class MLP(nn.Module):
    """Two layers with squared ReLU between (So et al. 2021, https://arxiv.org/abs/2109.08668)."""

    def __init__(self, n_embd: int):
        super().__init__()
        self.c_fc = nn.Linear(n_embd, 4 * n_embd, bias=False)
        self.c_proj = nn.Linear(4 * n_embd, n_embd, bias=False)

    def forward(self, x_BTC: Tensor) -> Tensor:
        return self.c_proj(F.relu(self.c_fc(x_BTC)).square())


class Block(nn.Module):
    """Attention and MLP, each on the normalised residual stream."""

    def __init__(self, n_embd: int, n_head: int):
        super().__init__()
        self.attn = Attention(n_embd, n_head)
        self.mlp = MLP(n_embd)

    def forward(self, x_BTC: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        x_BTC = x_BTC + self.attn(norm(x_BTC), rotary)
        return x_BTC + self.mlp(norm(x_BTC))


def norm(x: Tensor) -> Tensor:
    """RMSNorm over the last dimension, without gain, in the dtype of x.

    torch's default eps depends on version and dtype; so does what autocast makes of the result.
    """
    return F.rms_norm(x, (x.size(-1),), eps=torch.finfo(torch.float32).eps).type_as(x)


def rotate(x_BTHD: Tensor, cos_T1D: Tensor, sin_T1D: Tensor) -> Tensor:
    """Rotate the halves of each head by the position's angles (Su 2021, https://arxiv.org/abs/2104.09864)."""
    x1, x2 = x_BTHD.chunk(2, dim=-1)
    return torch.cat((x1 * cos_T1D + x2 * sin_T1D, x2 * cos_T1D - x1 * sin_T1D), dim=-1).type_as(x_BTHD)


class GPT(nn.Module):
    """GPT-2 with rotary positions, RMSNorm, an untied head: token ids (B, T) to logits (B, T, V) of dtype."""

    def __init__(self, hp: Hyperparameters):
        super().__init__()
        self.dtype = getattr(torch, hp.dtype)
        self.wte = nn.Embedding(hp.vocab_size, hp.n_embd)
        self.blocks = nn.ModuleList(Block(hp.n_embd, hp.n_head) for _ in range(hp.n_layer))
        self.lm_head = nn.Linear(hp.n_embd, hp.vocab_size, bias=False)
        # zero projections: each block starts as the identity, and the first loss is exactly ln(vocab_size)
        for name, p in self.named_parameters():
            if "c_proj" in name or "lm_head" in name:
                nn.init.zeros_(p)
        head_dim = hp.n_embd // hp.n_head
        frequency_D = 10000 ** (-torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
        angle_T1D = (torch.arange(hp.seq_len, dtype=torch.float32)[:, None] * frequency_D)[:, None]
        self.register_buffer("cos_T1D", angle_T1D.cos().to(self.dtype), persistent=False)
        self.register_buffer("sin_T1D", angle_T1D.sin().to(self.dtype), persistent=False)

    def forward(self, idx_BT: Tensor) -> Tensor:
        T = idx_BT.size(1)
        with torch.autocast(idx_BT.device.type, torch.bfloat16, enabled=self.dtype is torch.bfloat16):
            x_BTC = norm(self.wte(idx_BT))
            for block in self.blocks:
                x_BTC = block(x_BTC, (self.cos_T1D[:T], self.sin_T1D[:T]))
            return self.lm_head(norm(x_BTC))


# ---------------------------------------------------------------------------------------------------
# training


def build_optimizers(model: GPT, hp: Hyperparameters) -> list:
    """Return Adam for embedding and head and AdamW for the matrices of the blocks."""
    adam = torch.optim.Adam([dict(params=[model.wte.weight], lr=hp.embed_lr),
                             dict(params=[model.lm_head.weight], lr=hp.head_lr)],
                            betas=hp.adam_betas, eps=1e-8, fused=True)
    adamw = torch.optim.AdamW(model.blocks.parameters(), lr=hp.matrix_lr, betas=hp.adam_betas,
                              weight_decay=0.0, fused=True)
    return [adam, adamw]


def lr_factor(step: int, hp: Hyperparameters) -> float:
    """Return the factor on every learning rate: 1, then linearly to 0 over the last cooldown_iters steps."""
    return min(1.0, (hp.num_iterations - step) / hp.cooldown_iters)


def loss_sum(logits_BTV: Tensor, y_BT: Tensor) -> Tensor:
    """Return the float32 cross-entropy, summed: the harness divides it once, by the global token count."""
    return F.cross_entropy(logits_BTV.flatten(0, 1).float(), y_BT.flatten(), reduction="sum")


def train(hp: Hyperparameters, model: nn.Module, optimizers: list, run: Run) -> None:
    """Train the model in place; the run yields the steps and validates, times and logs between them."""
    loss_of = run.compile(loss_sum)  # fused: float32 logits of a pass would take 13 GB
    for step in run.steps(model, optimizers):
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = group.setdefault("initial_lr", group["lr"]) * lr_factor(step, hp)
        tokens = run.take(hp.batch_tokens)
        x_BT, y_BT = tokens[:-1].view(-1, hp.seq_len), tokens[1:].view(-1, hp.seq_len)
        run.accumulate(lambda net, x, y: loss_of(net(x), y), x_BT, y_BT)
        for optimizer in optimizers:
            optimizer.step()


def main() -> None:
    with open_run(__file__, RECIPES) as run:
        torch.manual_seed(run.seed)
        model = GPT(run.hp).to(run.device)
        train(run.hp, model, build_optimizers(model, run.hp), run)


if __name__ == "__main__":
    main()
