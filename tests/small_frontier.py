"""A small model of the frontier submission with all its techniques, and losses of it."""
import dataclasses

import torch

from submissions import frontier as script

FINEWEB = script.RECIPES["fineweb"]
SMALL = dataclasses.replace(
    FINEWEB, n_embd=48, vocab_size=300, end_of_text=256, dtype="float32", pair_rows=500, pair_signs=64,
    seq_len=64, batch_tokens=128, batch_stages=((423, 256), (847, 384), (1270, 384)), gate_hidden=8,
    stage_windows=((8, 16), (16, 24), (24, 40), (24, 48), (24, 56)), stage_max_doc=(24, 32, 32, 32, None),
    stage_candidates=(290,) * 4)


def numbers(*shape, seed=0, std=1.0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * std


def model_of(hp, seed=0):
    """Return a model whose weights are large enough for each technique to show."""
    torch.manual_seed(seed)
    gpt = script.GPT(hp)
    with torch.no_grad():
        for name, p in gpt.named_parameters():
            p.add_(torch.randn_like(p) * (0.3 if p.ndim < 3 else 0.1))
    return gpt


def loss_of(gpt, x, y, stage=0, seed=3):
    mtp = torch.tensor([start for start, _ in gpt.hp.stage_mtp[stage]])
    noise = torch.rand(len(x), gpt.hp.vocab_size, generator=torch.Generator().manual_seed(seed))
    return gpt(x, y, mtp, noise, stage)
