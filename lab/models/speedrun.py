"""The model of the public speedrun of 2024-11-03: rotary positions, QK-norm, squared ReLU, an untied head.

Shape suffixes: B sequences, T tokens, C channels, H heads, D head dimension, V vocabulary.
"""
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lab.models import gpt2
from lab.parametrization import Multipliers
from lab.recipe import costs
from lab.recipe.schema import Recipe


class Attention(gpt2.Attention):
    """Causal self-attention with rotary positions and normalised queries and keys."""

    def forward(self, x_BTC: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        """Return the heads' sum, (B, T, C)."""
        B, T, C = x_BTC.shape
        q_BTHD, k_BTHD, v_BTHD = (c(x_BTC).view(B, T, self.n_head, -1)
                                  for c in (self.c_q, self.c_k, self.c_v))
        q_BTHD, k_BTHD = rotate(norm(q_BTHD), *rotary), rotate(norm(k_BTHD), *rotary)
        y_BHTD = F.scaled_dot_product_attention(q_BTHD.transpose(1, 2), k_BTHD.transpose(1, 2),
                                                v_BTHD.transpose(1, 2), is_causal=True)
        return self.c_proj(y_BHTD.transpose(1, 2).reshape(B, T, C))


class Block(nn.Module):
    """Attention and MLP with squared ReLU (So et al. 2021, https://arxiv.org/abs/2109.08668), each on the
    normalised residual stream."""

    def __init__(self, n_embd: int, n_head: int):
        super().__init__()
        self.attn = Attention(n_embd, n_head, bias=False)
        self.mlp = gpt2.MLP(n_embd, 4 * n_embd, "squared_relu", bias=False)

    def forward(self, x_BTC: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        """Return the residual stream, (B, T, C)."""
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


class Speedrun(nn.Module):
    """GPT-2 with rotary positions, RMSNorm, an untied head: token ids (B, T) to logits (B, T, V) of dtype."""

    def __init__(self, recipe: Recipe):
        super().__init__()
        model, self.output_scale = recipe.model, 1.0
        self.dtype = getattr(torch, model.dtype)
        self.wte = nn.Embedding(costs.vocab_size(recipe), model.n_embd)
        self.blocks = nn.ModuleList(Block(model.n_embd, model.heads) for _ in range(model.n_layer))
        self.lm_head = nn.Linear(model.n_embd, self.wte.num_embeddings, bias=False)
        head_dim = model.head_size
        frequency_D = 10000 ** (-torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
        angle_T1D = (torch.arange(recipe.data.seq_len, dtype=torch.float32)[:, None] * frequency_D)[:, None]
        self.register_buffer("cos_T1D", angle_T1D.cos().to(self.dtype), persistent=False)
        self.register_buffer("sin_T1D", angle_T1D.sin().to(self.dtype), persistent=False)

    def forward(self, idx_BT: Tensor) -> Tensor:
        """Return the logits."""
        T = idx_BT.size(1)
        with torch.autocast(idx_BT.device.type, torch.bfloat16, enabled=self.dtype is torch.bfloat16):
            x_BTC = norm(self.wte(idx_BT))
            for block in self.blocks:
                x_BTC = block(x_BTC, (self.cos_T1D[:T], self.sin_T1D[:T]))
            return self.output_scale * self.lm_head(norm(x_BTC))

    def scale_forward(self, factors: Multipliers) -> None:
        """Set the forward factor; embedding, queries and keys are normalised."""
        self.output_scale = factors.output
