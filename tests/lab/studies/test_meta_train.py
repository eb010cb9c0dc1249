"""Meta-training: a batched population moves as small_fc does, and what has no gradient stays."""
import math

import pytest
import torch
import torch.nn.functional as F

from lab.optimizers import small_fc
from lab.optimizers.learned import weights
from lab.recipe.load import replace
from lab.recipe.schedule import factor
from lab.recipe.schema import Curve
from lab.studies import meta_train
from lab.studies.population import Population, Task
from lab.train import build_optimizers

TINY = {"n_layer": 1, "n_head": 2, "n_embd": 8, "vocab_size": 16}
SPEEDRUN = {**TINY, "kind": "speedrun", "activation": "squared_relu"}


def odd(places):
    """Return odd weights far from the start, so that every number counts."""
    draw, size = torch.Generator().manual_seed(0), sum(map(math.prod, meta_train.PIECES.values()))
    return meta_train.odd(torch.randn(places, size, generator=draw) / 4)


@pytest.mark.parametrize("task", [Task("gpt", {**TINY, "bias": True}, 2, 8), Task("mlp", TINY, 2, 8, False),
                                  Task("speedrun", SPEEDRUN, 2, 8)], ids=lambda task: task.name)
def test_each_place_of_a_population_moves_as_small_fc_of_its_weights(alone, tmp_path, task):
    """Of its own, with the rates and the schedule of the task's recipe, to rounding."""
    text, nets, curve = torch.arange(1000) % 16, odd(2), Curve(kind="cosine", warmup_frac=.25)
    both = Population(task, text, [3, 3], 4, curve)
    for _ in range(4):
        both.step(nets)
    for place in (0, 1):
        weights.save(tmp_path / "one", {name: tensor[place] for name, tensor in nets.items()})
        one = Population(task, text, [3], 4, curve)
        params = dict(one.net.named_parameters())
        before = {name: p.detach().clone() for name, p in params.items()}
        recipe = replace(task.recipe(), optimizer__weights=str(tmp_path / "one"))
        [optimizer] = build_optimizers(recipe, one.net)
        for taken in range(4):
            [idx] = one.batch()
            loss = F.cross_entropy(one.net(idx[:, :-1]).flatten(0, 1), idx[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            for group in optimizer.param_groups:
                group["lr"] = group["peak_lr"] * factor(curve, taken, 4)
            optimizer.step(loss)
        for names, stack in zip(both.names.values(), both.stacks):
            for i, name in enumerate(names):
                moved = (params[name] - before[name]).abs().max()
                if not name.endswith("c_k.bias"):  # whose gradient is rounding: a softmax has no use for it
                    assert (stack[place, i] - params[name]).abs().max() < 1e-3 * moved and moved > 1e-4, name


def test_what_has_no_gradient_does_not_move(alone, tmp_path):
    """A prototype moved parameters of RMS .25 by .17 in 100 steps after five minutes of training, and by 6.8
    at its end: biases and times add up. 1 % of the RMS is the bound; rounding is what is left."""
    nets = odd(1)
    weights.save(tmp_path / "one", {name: tensor[0] for name, tensor in nets.items()})
    draw = torch.Generator().manual_seed(0)
    still, table = (torch.nn.Parameter(torch.randn(16, 12, generator=draw) / 4) for _ in range(2))
    groups = [{"params": [still, table], "names": ["still", "table"], "lr": 1.0}]
    [optimizer] = small_fc.build(groups, small_fc.Fields(weights=str(tmp_path / "one")), 100, None)
    before, some = table.detach().clone(), torch.zeros(16, 12)
    start = still.detach().clone()
    for _ in range(100):
        some[:8] = torch.randn(8, 12, generator=draw)
        still.grad, table.grad = torch.zeros(16, 12), some.clone()
        optimizer.step(torch.tensor(1.0))
    drift = torch.cat([still - start, (table - before)[8:]]).square().mean().sqrt()
    assert drift < .01 * .25 / 100 and (table - before)[:8].square().mean().sqrt() > .05
