"""GPT-2 in the names and shapes of transformers' GPT2LMHeadModel, with torch alone: an export's model.py."""
import torch
import torch.nn.functional as F
from torch import Tensor, nn

ACTIVATIONS = {"gelu_new": lambda x: F.gelu(x, approximate="tanh"), "relu": F.relu,
               "relu2": lambda x: F.relu(x).square()}


class Conv1D(nn.Module):
    """A linear layer whose weight is (in, out)."""

    def __init__(self, n_in: int, n_out: int):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.empty(n_in, n_out)), nn.Parameter(torch.empty(n_out))

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., out)."""
        return x @ self.weight + self.bias


class Block(nn.Module):
    """Attention and MLP, each on the normalised residual stream."""

    def __init__(self, config: dict):
        super().__init__()
        d, f, self.n_head = config["n_embd"], config["n_inner"], config["n_head"]
        self.activation = ACTIVATIONS[config["activation_function"]]
        self.ln_1, self.ln_2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.attn = nn.ModuleDict({"c_attn": Conv1D(d, 3 * d), "c_proj": Conv1D(d, d)})
        self.mlp = nn.ModuleDict({"c_fc": Conv1D(d, f), "c_proj": Conv1D(f, d)})

    def forward(self, x_BTC: Tensor) -> Tensor:
        """Return the residual stream, (B, T, C)."""
        q, k, v = (part.unflatten(2, (self.n_head, -1)).transpose(1, 2)
                   for part in self.attn.c_attn(self.ln_1(x_BTC)).chunk(3, dim=2))
        y_BHTD = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x_BTC = x_BTC + self.attn.c_proj(y_BHTD.transpose(1, 2).flatten(2))
        return x_BTC + self.mlp.c_proj(self.activation(self.mlp.c_fc(self.ln_2(x_BTC))))


class GPT(nn.Module):
    """Token ids (B, T) to logits (B, T, V)."""

    def __init__(self, config: dict):
        super().__init__()
        d, V = config["n_embd"], config["vocab_size"]
        self.transformer = nn.ModuleDict({
            "wte": nn.Embedding(V, d), "wpe": nn.Embedding(config["n_positions"], d),
            "h": nn.ModuleList(Block(config) for _ in range(config["n_layer"])), "ln_f": nn.LayerNorm(d)})
        self.lm_head = nn.Linear(d, V, bias=False)
        if config["tie_word_embeddings"]:
            self.lm_head.weight = self.transformer.wte.weight

    def forward(self, idx_BT: Tensor) -> Tensor:
        """Return the logits."""
        net = self.transformer
        x_BTC = net.wte(idx_BT) + net.wpe(torch.arange(idx_BT.size(1), device=idx_BT.device))
        for block in net.h:
            x_BTC = block(x_BTC)
        return self.lm_head(net.ln_f(x_BTC))
