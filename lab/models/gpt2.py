"""GPT-2 as the literature has it: learned positions, LayerNorm, a tied head if the recipe says so.

Shape suffixes: B sequences, T tokens, C channels, H heads, D head dimension, V vocabulary.
"""
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lab.parametrization import Multipliers
from lab.recipe import costs
from lab.recipe.schema import Recipe

ACTIVATIONS = {"gelu": lambda x: F.gelu(x, approximate="tanh"), "relu": F.relu,
               "squared_relu": lambda x: F.relu(x).square()}


class Attention(nn.Module):
    """Causal self-attention; q, k and v are tensors of their own, for optimizers that look at one each."""

    def __init__(self, n_embd: int, n_head: int, bias: bool):
        super().__init__()
        self.n_head, self.scale = n_head, (n_embd // n_head) ** -0.5
        self.c_q = nn.Linear(n_embd, n_embd, bias=bias)
        self.c_k = nn.Linear(n_embd, n_embd, bias=bias)
        self.c_v = nn.Linear(n_embd, n_embd, bias=bias)
        self.c_proj = nn.Linear(n_embd, n_embd, bias=bias)

    def forward(self, x_BTC: Tensor) -> Tensor:
        """Return the heads' sum, (B, T, C)."""
        B, T, C = x_BTC.shape
        q_BHTD, k_BHTD, v_BHTD = (c(x_BTC).view(B, T, self.n_head, -1).transpose(1, 2)
                                  for c in (self.c_q, self.c_k, self.c_v))
        y_BHTD = F.scaled_dot_product_attention(q_BHTD, k_BHTD, v_BHTD, is_causal=True, scale=self.scale)
        return self.c_proj(y_BHTD.transpose(1, 2).reshape(B, T, C))


class MLP(nn.Module):
    """Two layers with an activation between."""

    def __init__(self, n_embd: int, filter_size: int, activation: str, bias: bool):
        super().__init__()
        self.activation = ACTIVATIONS[activation]
        self.c_fc = nn.Linear(n_embd, filter_size, bias=bias)
        self.c_proj = nn.Linear(filter_size, n_embd, bias=bias)

    def forward(self, x_BTC: Tensor) -> Tensor:
        """Return (B, T, C)."""
        return self.c_proj(self.activation(self.c_fc(x_BTC)))


class Block(nn.Module):
    """Attention and MLP, each on the normalised residual stream (pre-norm)."""

    def __init__(self, n_embd: int, n_head: int, filter_size: int, activation: str, bias: bool):
        super().__init__()
        self.ln_1 = nn.LayerNorm(n_embd, bias=bias)
        self.attn = Attention(n_embd, n_head, bias)
        self.ln_2 = nn.LayerNorm(n_embd, bias=bias)
        self.mlp = MLP(n_embd, filter_size, activation, bias)

    def forward(self, x_BTC: Tensor) -> Tensor:
        """Return the residual stream, (B, T, C)."""
        x_BTC = x_BTC + self.attn(self.ln_1(x_BTC))
        return x_BTC + self.mlp(self.ln_2(x_BTC))


class GPT2(nn.Module):
    """GPT-2 with learned positions and LayerNorm: token ids (B, T) to logits (B, T, V)."""

    def __init__(self, recipe: Recipe):
        super().__init__()
        model = recipe.model
        d, self.dtype = model.n_embd, getattr(torch, model.dtype)
        self.embedding_scale, self.output_scale = 1.0, 1.0
        self.wte = nn.Embedding(costs.vocab_size(recipe), d)
        self.wpe = nn.Embedding(recipe.data.seq_len, d)
        self.blocks = nn.ModuleList(Block(d, model.heads, model.d_ff, model.activation, model.bias)
                                    for _ in range(model.n_layer))
        self.ln_f = nn.LayerNorm(d, bias=model.bias)
        self.lm_head = nn.Linear(d, self.wte.num_embeddings, bias=False)
        if model.tied:
            self.lm_head.weight = self.wte.weight

    def forward(self, idx_BT: Tensor) -> Tensor:
        """Return the logits."""
        with torch.autocast(idx_BT.device.type, torch.bfloat16, enabled=self.dtype is torch.bfloat16):
            x_BTC = self.embedding_scale * self.embed(idx_BT)
            for block in self.blocks:
                x_BTC = block(x_BTC)
            return self.output_scale * self.lm_head(self.ln_f(x_BTC))

    def embed(self, idx_BT: Tensor) -> Tensor:
        """Return the sum of tokens' and positions' embeddings."""
        return self.wte(idx_BT) + self.wpe(torch.arange(idx_BT.size(1), device=idx_BT.device))

    def scale_forward(self, factors: Multipliers) -> None:
        """Set the forward factors."""
        self.embedding_scale, self.output_scale = factors.embedding, factors.output
        for block in self.blocks:
            block.attn.scale = factors.attention
