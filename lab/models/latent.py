"""hlb-gpt's model (https://github.com/tysam-code/hlb-gpt): blocks of one latent attention, no heads, no MLP.

Shape suffixes: B sequences, T tokens, C channels, D channels of a query, F of the latent, V vocabulary.
"""
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lab.models import gpt2
from lab.recipe import costs
from lab.recipe.schema import Recipe


class LatentAttention(nn.Module):
    """One matrix in, one out: half of a gated latent stays where it is, the other half is attended to.

    The one head's logits fall with distance by a slope that each layer learns (ALiBi's,
    https://arxiv.org/abs/2108.12409, is fixed).
    """

    def __init__(self, n_embd: int, query_size: int, filter_size: int):
        super().__init__()
        self.sizes, self.scale = (query_size, query_size, filter_size, filter_size), query_size ** -0.5
        self.expand = nn.Linear(n_embd, sum(self.sizes), bias=False)
        self.project = nn.Linear(filter_size, n_embd, bias=False)
        self.position_slope = nn.Parameter(torch.zeros(1))

    def forward(self, x_BTC: Tensor) -> Tensor:
        """Return (B, T, C)."""
        q_BTD, k_BTD, linear_BTF, gate_BTF = self.expand(x_BTC).split(self.sizes, dim=-1)
        local, value = (linear_BTF * F.gelu(gate_BTF)).chunk(2, dim=-1)
        bias_TT = self.bias(x_BTC.size(1)).to(q_BTD.dtype)  # rounded as a product: distances are exact
        y = F.scaled_dot_product_attention(q_BTD, k_BTD, value, attn_mask=bias_TT, scale=self.scale)
        return self.project(torch.cat((local, y), dim=-1))

    def bias(self, T: int) -> Tensor:
        """Return what is added to the logits of T queries and keys: -slope x distance, -inf ahead."""
        at_T = torch.arange(T, device=self.position_slope.device)
        ahead_TT = at_T - at_T[:, None]  # of the query
        slope = F.softplus(1 + self.position_slope)  # above 0; hlb-gpt's starts at softplus(1)
        return (slope * ahead_TT).masked_fill(ahead_TT > 0, float("-inf"))


class Block(nn.Module):
    """Latent attention on the normalised residual stream."""

    def __init__(self, n_embd: int, query_size: int, filter_size: int):
        super().__init__()
        self.ln_1 = nn.LayerNorm(n_embd, bias=False)
        self.attn = LatentAttention(n_embd, query_size, filter_size)

    def forward(self, x_BTC: Tensor) -> Tensor:
        """Return the residual stream, (B, T, C)."""
        return x_BTC + self.attn(self.ln_1(x_BTC))


class Latent(gpt2.GPT2):
    """hlb-gpt: token ids (B, T) to logits (B, T, V)."""

    def __init__(self, recipe: Recipe):
        nn.Module.__init__(self)  # all parts are its own
        model, d = recipe.model, recipe.model.n_embd
        self.dtype, self.embedding_scale, self.output_scale = getattr(torch, model.dtype), 1.0, 1.0
        self.wte = nn.Embedding(costs.vocab_size(recipe), d)
        self.blocks = nn.ModuleList(Block(d, model.head_size, model.d_ff) for _ in range(model.n_layer))
        self.ln_f = nn.LayerNorm(d, bias=False)
        self.lm_head = nn.Linear(d, self.wte.num_embeddings, bias=False)

    def embed(self, idx_BT: Tensor) -> Tensor:
        """Return the tokens' embeddings: attention alone knows positions."""
        return self.wte(idx_BT)
