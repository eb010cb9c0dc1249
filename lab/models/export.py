"""Writes a lab model of kind gpt2 as transformers' GPT2LMHeadModel reads it; the log's code is not run.

    python -m lab.models.export WEIGHTS DIR < RECIPE                        a recipe in JSON, as a log has it
"""
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from harness.front.cell import shown
from harness.front.judge import UNREADABLE
from harness.front.judged import take
from harness.shards import write_atomically
from harness.weights import DTYPES, serialized
from lab.models.build import build_model
from lab.models.gpt2 import GPT2
from lab.recipe import costs
from lab.recipe.load import make_recipe
from lab.recipe.schema import Recipe

ACTIVATIONS = {"gelu": "gelu_new", "relu": "relu", "squared_relu": "relu2"}


def config_of(recipe: Recipe, model: GPT2) -> dict[str, Any]:
    """Return the config.json of a model."""
    words, (V, d), end = recipe.model, model.wte.weight.shape, costs.track_of(recipe).vocab_size - 1
    return {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "vocab_size": V, "n_embd": d,
            "n_positions": recipe.data.seq_len, "n_layer": words.n_layer, "n_head": words.heads,
            "n_inner": words.d_ff, "activation_function": ACTIVATIONS[words.activation],
            "layer_norm_epsilon": model.ln_f.eps, "tie_word_embeddings": tied(model), "dtype": "float32",
            "bos_token_id": end, "eos_token_id": end,
            **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)}


def tied(model: GPT2) -> bool:
    """Tell whether one tensor can be embedding and head: the factors of both, which go into it, must be 1."""
    return model.lm_head.weight is model.wte.weight and model.embedding_scale == model.output_scale == 1


@torch.no_grad()
def state_of(model: GPT2) -> dict[str, Tensor]:
    """Return the tensors of transformers' model: factors of the forward pass go in, missing biases are 0."""
    d, found = model.wte.embedding_dim, {"ln_f": [model.ln_f]}
    for i, block in enumerate(model.blocks):
        attn, mlp = block.attn, block.mlp
        found |= {f"h.{i}.{name}": layers for name, layers in {
            "ln_1": [block.ln_1], "attn.c_attn": [attn.c_q, attn.c_k, attn.c_v], "attn.c_proj": [attn.c_proj],
            "ln_2": [block.ln_2], "mlp.c_fc": [mlp.c_fc], "mlp.c_proj": [mlp.c_proj]}.items()}
    state = {f"{name}.weight": getattr(model, name).weight * model.embedding_scale for name in ("wte", "wpe")}
    for name, layers in found.items():
        weight = torch.cat([layer.weight for layer in layers])
        bias = torch.cat([layer.weight.new_zeros(len(layer.weight)) if layer.bias is None else layer.bias
                          for layer in layers])
        if len(layers) == 3:  # transformers' scale is 1 / sqrt(head_dim)
            for tensor in (weight, bias):
                tensor[:d] *= attn.scale * (d / attn.n_head) ** 0.5
        state |= {f"{name}.weight": weight.t(), f"{name}.bias": bias}
    head = {} if tied(model) else {"lm_head.weight": model.lm_head.weight * model.output_scale}
    return {f"transformer.{name}": tensor for name, tensor in state.items()} | head


def main(weights: str, folder: str) -> None:
    """Write config.json, model.safetensors and model.py into a folder."""
    recipe = make_recipe(json.load(sys.stdin))
    with open(weights, "rb") as f:
        n, size = len(json.loads(f.read(int.from_bytes(f.read(8), "little")))), os.path.getsize(weights)
    if n < (layers := recipe.model.n_layer) or size < costs.parameter_bytes(recipe):  # before it takes memory
        raise ValueError(f"{n} tensors in {size} bytes of weights, expected those of the recipe's {layers} "
                         f"layers, {costs.parameters(recipe).total} parameters")
    model = build_model(recipe)
    take(model, Path(weights), {word: dtype for dtype, word in DTYPES.items()})
    head, *parts = serialized(SimpleNamespace(state_dict=lambda: state_of(model)))
    header = json.dumps({"__metadata__": {"format": "pt"}, **json.loads(head[8:])}).encode()
    header += b" " * (-len(header) % 8)
    write_atomically(Path(folder) / "model.safetensors", len(header).to_bytes(8, "little"), header, *parts)
    write_atomically(Path(folder) / "config.json", json.dumps(config_of(recipe, model), indent=1).encode())


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except UNREADABLE as error:
        sys.exit(f"lab.models.export: {shown(error)}")
