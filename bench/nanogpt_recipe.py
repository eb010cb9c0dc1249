"""nanoGPT's published recipe for a CPU, written anew in plain eager PyTorch: the peer of track `sample`.

4 layers, 128 wide, 4 heads, context 64, batch 12, no dropout, AdamW 1e-3 to 1e-4 along a cosine, warm-up 100
steps (README and config/train_shakespeare_char.py of https://github.com/karpathy/nanoGPT). The cosine ends
with the time given, which serves it better than the published 2000 iterations. One process, all cores.
Shape suffixes: B sequences, T tokens, C channels, H heads, D head dimension.
Example: python bench/nanogpt_recipe.py 180
"""
import json
import math
import os
import sys
import time
from pathlib import Path

if __name__ == "__main__":  # run as a file, python puts bench/ on the path, not the repository
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from harness.shards import read_shard  # noqa: E402
from harness.track import ROOT, load_tracks  # noqa: E402

N_LAYER, N_HEAD, N_EMBD, CONTEXT, BATCH = 4, 4, 128, 64, 12
LR, MIN_LR, WARMUP, BETAS, WEIGHT_DECAY, GRAD_CLIP = 1e-3, 1e-4, 100, (0.9, 0.99), 0.1, 1.0


class Block(nn.Module):
    """Attention and a GELU layer, each behind a LayerNorm without bias."""

    def __init__(self):
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(N_EMBD, bias=False), nn.LayerNorm(N_EMBD, bias=False)
        self.c_attn = nn.Linear(N_EMBD, 3 * N_EMBD, bias=False)
        self.attn_proj = nn.Linear(N_EMBD, N_EMBD, bias=False)
        self.c_fc = nn.Linear(N_EMBD, 4 * N_EMBD, bias=False)
        self.mlp_proj = nn.Linear(4 * N_EMBD, N_EMBD, bias=False)

    def forward(self, x_BTC: Tensor) -> Tensor:
        B, T, C = x_BTC.shape
        q_BHTD, k_BHTD, v_BHTD = (part.view(B, T, N_HEAD, -1).transpose(1, 2)
                                  for part in self.c_attn(self.ln_1(x_BTC)).split(N_EMBD, dim=2))
        y_BHTD = F.scaled_dot_product_attention(q_BHTD, k_BHTD, v_BHTD, is_causal=True)
        x_BTC = x_BTC + self.attn_proj(y_BHTD.transpose(1, 2).reshape(B, T, C))
        return x_BTC + self.mlp_proj(F.gelu(self.c_fc(self.ln_2(x_BTC))))


class GPT(nn.Module):
    """GPT-2 with learned positions and a tied head: token ids (B, T) to logits (B, T, V)."""

    def __init__(self, vocab_size: int):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocab_size, N_EMBD), nn.Embedding(CONTEXT, N_EMBD)
        self.blocks = nn.ModuleList(Block() for _ in range(N_LAYER))
        self.ln_f = nn.LayerNorm(N_EMBD, bias=False)
        for name, p in self.named_parameters():
            if p.ndim == 2:
                nn.init.normal_(p, std=0.02 / math.sqrt(2 * N_LAYER) if "_proj" in name else 0.02)

    def forward(self, idx_BT: Tensor) -> Tensor:
        x_BTC = self.wte(idx_BT) + self.wpe.weight[:idx_BT.size(1)]
        for block in self.blocks:
            x_BTC = block(x_BTC)
        return F.linear(self.ln_f(x_BTC), self.wte.weight)


@torch.no_grad()
def validation_loss(model: GPT, tokens: Tensor) -> float:
    """Return the mean loss in nats of tokens[1:], in sequences of the model's own context."""
    x, y = tokens[:-1].view(-1, CONTEXT), tokens[1:].view(-1, CONTEXT)
    total = sum(float(F.cross_entropy(model(a).flatten(0, 1), b.flatten(), reduction="sum").double())
                for a, b in zip(x.split(64), y.split(64)))
    return total / y.numel()


def learning_rate(step: int, done: float) -> float:
    """Return the learning rate after a fraction of the time: warm-up by steps, then a cosine by time."""
    warm = min(1.0, (step + 1) / (WARMUP + 1))
    return warm * (MIN_LR + (LR - MIN_LR) * (1 + math.cos(math.pi * min(done, 1.0))) / 2)


def train(seconds: float, val_tokens: int | None = None, seed: int = 0) -> list[dict[str, float]]:
    """Train for some seconds, validations not counted; return seconds, steps and loss of nine validations."""
    track = load_tracks()["sample"]
    [train_shard] = (ROOT / track.data).glob(track.train_files)
    [val_shard] = (ROOT / track.data).glob(track.val_files)
    tokens = torch.from_numpy(read_shard(train_shard).astype("int64"))
    val = torch.from_numpy(read_shard(val_shard)[:(val_tokens or track.val_tokens) + 1].astype("int64"))
    torch.manual_seed(seed)
    model = GPT(track.vocab_size)
    matrices, gains = ([p for p in model.parameters() if (p.ndim == 2) == wanted] for wanted in (True, False))
    optimizer = torch.optim.AdamW([dict(params=matrices, weight_decay=WEIGHT_DECAY),
                                   dict(params=gains, weight_decay=0)],
                                  lr=LR, betas=BETAS)
    curve, step, spent = [], 0, 0.0
    for mark in [seconds * i / 9 for i in range(1, 10)]:
        begin, already = time.monotonic(), spent
        while spent < mark:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, spent / seconds)
            starts = torch.randint(len(tokens) - CONTEXT, (BATCH,))
            rows = torch.stack([tokens[start:start + CONTEXT + 1] for start in starts])
            loss = F.cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), GRAD_CLIP)
            optimizer.step()
            step, spent = step + 1, already + time.monotonic() - begin
        curve.append({"seconds": spent, "steps": step, "val_loss": validation_loss(model, val)})
        print(json.dumps(curve[-1]), flush=True)
    return curve


if __name__ == "__main__":
    torch.set_num_threads(os.cpu_count())
    train(float(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else None)
