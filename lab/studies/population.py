"""A population of small language models, each moved by a small_fc of its own, all in one batched step."""
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from harness.shards import read_shard
from harness.track import ROOT
from lab.models.build import build_model
from lab.optimizers import small_fc
from lab.optimizers.learned.features import accumulate, features, Kind
from lab.parametrization import role_of, table
from lab.recipe import costs
from lab.recipe.load import load_recipe
from lab.recipe.schedule import factor
from lab.recipe.schema import Curve, Recipe


class Task(NamedTuple):
    """A language model and its text: that of the embedded sample, without all but the commonest ids."""

    name: str
    model: dict  # fields of a recipe's model
    sequences: int = 8  # of a step
    seq_len: int = 32
    attention: bool = True  # False: blocks are MLPs alone

    def recipe(self) -> Recipe:
        """Return the task as a recipe, which is gpt_held_out's but for its size."""
        own = {f"model.{key}": value for key, value in self.model.items()}
        return load_recipe("gpt_held_out", {
            "model.embedding_initializer.std": self.model["n_embd"]**-0.5, **own,
            "parametrization.scale_qk_dot_by_d": self.model.get("kind") != "speedrun",  # its are unit
            "data.seq_len": self.seq_len, "data.batch_tokens": self.sequences * self.seq_len})

    def tokens(self, split: str) -> Tensor:
        """Return the ids of the sample's train or val shards, its commonest vocab_size, by frequency."""
        track = costs.track_of(self.recipe())
        ids = {name: np.concatenate([read_shard(path) for path in sorted((ROOT / track.data).glob(files))])
               for name, files in (("train", track.train_files), ("val", track.val_files))}
        place = np.argsort(np.argsort(-np.bincount(ids["train"], minlength=track.vocab_size), kind="stable"))
        found = place[ids[split]]
        return torch.from_numpy(found[found < self.model["vocab_size"]])


GPT = {"n_layer": 1, "n_head": 2, "n_embd": 16}
TASKS = (  # in each process every second one; neighbours take about as long
    Task("gpt 16, 256 ids", {**GPT, "vocab_size": 256}),
    Task("gpt 16, two blocks with biases, 64 ids", {**GPT, "n_layer": 2, "vocab_size": 64, "bias": True}),
    Task("gpt 16, 512 ids", {**GPT, "vocab_size": 512}),
    Task("speedrun 32, 128 ids", {**GPT, "kind": "speedrun", "activation": "squared_relu", "n_embd": 32,
                                  "vocab_size": 128}),
    Task("gpt 64, 64 ids", {**GPT, "n_embd": 64, "filter_size": 64, "vocab_size": 64}, 4),
    Task("mlp 32, 256 ids", {**GPT, "n_embd": 32, "vocab_size": 256}, attention=False))
HELD_OUT = Task("gpt 32, two blocks, 512 ids", {**GPT, "n_embd": 32, "n_layer": 2, "vocab_size": 512})


class Population:
    """Models of one task, each trained by the small_fc of its place, from an init and batches of its own.

    Places that share a seed share both: differences are of the optimizers alone. Parameters of one shape are
    one tensor (places, of a model, *shape).
    """

    def __init__(self, task: Task, tokens: Tensor, seeds: Sequence[int], steps: int, curve: Curve):
        self.task, self.text, self.steps, self.curve, self.taken = task, tokens, steps, curve, 0
        recipe, started = task.recipe(), {}
        for seed in dict.fromkeys(seeds):
            torch.manual_seed(seed)
            self.net = build_model(recipe)
            if not task.attention:
                for block in self.net.blocks:
                    block.ln_1 = block.attn = nn.Identity()
            started[seed] = {name: p.detach() for name, p in self.net.named_parameters()}
        self.seeds, self.draws = seeds, {seed: torch.Generator().manual_seed(seed) for seed in started}
        self.names, rows = {}, table(recipe)
        for name, p in started[seeds[0]].items():
            self.names.setdefault(p.shape, []).append(name)
        self.stacks = [torch.stack([torch.stack([started[seed][name] for name in names]) for seed in seeds])
                       .requires_grad_() for names in self.names.values()]
        self.rates = [torch.tensor([rows[role_of(name)].lr for name in names]).repeat(len(seeds))
                      for names in self.names.values()]
        self.states: list[dict[str, Tensor]] = [{} for _ in self.stacks]

    def losses(self, tokens: Tensor) -> Tensor:
        """Return the mean loss of each place's model on its tokens, (places, sequences, seq_len + 1)."""
        params = {name: stack[:, i] for names, stack in zip(self.names.values(), self.stacks)
                  for i, name in enumerate(names)}

        def loss(params: dict[str, Tensor], idx_BT: Tensor) -> Tensor:
            logits = torch.func.functional_call(self.net, params, (idx_BT[:, :-1],))
            return F.cross_entropy(logits.flatten(0, 1), idx_BT[:, 1:].flatten())
        with sdpa_kernel(SDPBackend.MATH):  # the others have no rule for vmap
            return torch.vmap(loss)(params, tokens)

    def batch(self) -> Tensor:
        """Return the next tokens of each place, (places, sequences, seq_len + 1), adjacent as in a run."""
        length, count = self.task.seq_len, self.task.sequences
        starts = {seed: torch.randint(len(self.text) - count * length, (1, 1), generator=draw)
                  for seed, draw in self.draws.items()}
        places = length * torch.arange(count)[:, None] + torch.arange(length + 1)
        return self.text[torch.stack([starts[seed] for seed in self.seeds]) + places]

    def step(self, weights: dict[str, Tensor]) -> Tensor:
        """Take a step of each place's model by its place's weights; return the losses before it."""
        losses = self.losses(self.batch())
        rate = factor(self.curve, self.taken, self.steps)
        for stack, g, state, rates in zip(self.stacks, torch.autograd.grad(losses.sum(), self.stacks),
                                          self.states, self.rates):
            move_all(stack.detach().flatten(0, 1), g.flatten(0, 1), state, weights, rate * rates,
                     stack.size(1), self.taken)
        self.taken += 1
        return losses.detach()


def move_all(p: Tensor, g: Tensor, state: dict[str, Tensor], weights: dict[str, Tensor], rates: Tensor,
             repeats: int, step: int) -> None:
    """Move tensors (places * repeats, *shape) as small_fc would, each by its place's weights and its rate."""
    def each(x: Tensor, *axes: int) -> Tensor:
        return x.float().repeat_interleave(repeats, 0).view(-1, *axes)
    m, v, factors = small_fc.decays(weights)
    ones = [1] * (p.ndim - 1)
    kind = Kind([each(x, *ones) for x in m.unbind(1)], each(v[:, 0], *ones),
                [each(x, 1) for x in factors.unbind(1)], velo=False, batch=1)
    accumulate(state, g, kind)
    x = features(p, g, state, kind)(slice(None)).unflatten(1, (len(p), -1)).transpose(0, 1)
    time = (step / p.new_tensor(small_fc.TIMES) - 1).tanh_()
    first = weights["network.input.weight"]
    bias = weights["network.input.bias"] + first[:, :, -len(time):] @ time
    first = each(first[:, :, :-len(time)], 32, 28) * (x.square().mean(2) + 1e-5).rsqrt_()[:, None]
    x = torch.baddbmm(each(bias, 32, 1), first, x)
    for name, size in (("network.linear_0", 32), ("network.output", 2)):
        x = torch.baddbmm(each(weights[f"{name}.bias"], size, 1), each(weights[f"{name}.weight"], size, 32),
                          x.relu_())
    p -= (0.01 * rates[:, None] * x[:, 0] * x[:, 1].mul(0.001).exp_()).view_as(p)
