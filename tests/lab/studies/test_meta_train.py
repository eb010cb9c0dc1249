"""Meta-training: a batched population moves as small_fc does, and what has no gradient stays."""
import json
import math
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from harness.runlog import ROOT
from lab.optimizers import small_fc
from lab.optimizers.learned import weights
from lab.recipe.load import replace
from lab.recipe.schedule import factor
from lab.recipe.schema import Curve
from lab.studies import meta_train
from lab.studies.population import Population, Task
from lab.train import build_optimizers

SHIPPED = ROOT / "lab" / "optimizers" / "learned" / "small_fc.safetensors"
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


@pytest.mark.parametrize("shipped", [False, True])
def test_what_has_no_gradient_does_not_move(alone, tmp_path, shipped):
    """A prototype moved parameters of RMS .25 by .17 in 100 steps after five minutes of training, and by 6.8
    at its end: biases and times add up. 1 % of the RMS is the bound; rounding is what is left."""
    weights.save(tmp_path / "one", {name: tensor[0] for name, tensor in odd(1).items()})
    config = small_fc.Fields(weights=str(SHIPPED if shipped else tmp_path / "one"))
    draw = torch.Generator().manual_seed(0)
    still, table = (torch.nn.Parameter(torch.randn(16, 12, generator=draw) / 4) for _ in range(2))
    groups = [{"params": [still, table], "names": ["still", "table"], "lr": 1.0}]
    [optimizer] = small_fc.build(groups, config, 100, None)
    before, some = table.detach().clone(), torch.zeros(16, 12)
    start = still.detach().clone()
    for _ in range(100):
        some[:8] = torch.randn(8, 12, generator=draw)
        still.grad, table.grad = torch.zeros(16, 12), some.clone()
        optimizer.step(torch.tensor(1.0))
    drift = torch.cat([still - start, (table - before)[8:]]).square().mean().sqrt()
    assert drift < .01 * .25 / 100 and (table - before)[:8].square().mean().sqrt() > .05


def test_a_step_changes_sign_with_the_gradients(alone, tmp_path):
    """Whatever the numbers: their tie makes the network odd."""
    weights.save(tmp_path / "one", {name: tensor[0] for name, tensor in odd(1).items()})
    draw, moved = torch.Generator().manual_seed(0), []
    start, g = torch.randn(6, 4, generator=draw), torch.randn(6, 4, generator=draw)
    for sign in (1, -1):
        p = torch.nn.Parameter(start.clone())
        [optimizer] = small_fc.build([{"params": [p], "lr": 1.0}],
                                     small_fc.Fields(weights=str(tmp_path / "one")), 1, None)
        p.grad = sign * g
        optimizer.step(torch.tensor(1.0))
        moved.append(p.detach() - start)
    assert torch.allclose(moved[0], -moved[1], atol=2e-7) and moved[0].abs().max() > 1e-3


def test_a_killed_training_goes_on_from_its_last_round_and_keeps_the_best(tmp_path, monkeypatch):
    """Adam and the means too: where gradients are a function of the shift, to the same bits."""
    held_out, asked = iter([3.0, 1.0, 2.0]), []

    def ask(pipes, requests):
        asked.append(requests)
        if len(asked) == 6:  # an update in the second round
            raise KeyboardInterrupt
        if requests[0][0] == "held_out":
            return [next(held_out)] * 2
        return [(shift - 1 + torch.arange(len(shift)) % 7, 2.5) for _, shift, _ in requests]
    monkeypatch.setattr(meta_train, "crew", lambda seed, size: [])
    monkeypatch.setattr(meta_train, "ask", ask)
    with pytest.raises(KeyboardInterrupt):
        meta_train.meta_train(tmp_path / "killed", 0, meta_train.QUICK)
    rows = meta_train.meta_train(tmp_path / "killed", 0, meta_train.QUICK)
    held_out = iter([3.0, 1.0, 2.0])
    assert rows == meta_train.meta_train(tmp_path / "whole", 0, meta_train.QUICK)
    killed, whole = (torch.load(tmp_path / name / "checkpoint.pt") for name in ("killed", "whole"))
    assert all(torch.equal(killed[key], whole[key]) for key in ("shift", "mean")) and whole["shift"].any()
    found, sha256 = small_fc.check(small_fc.Fields(weights=str(tmp_path / "whole" / "small_fc")))
    made = json.loads((tmp_path / "whole" / "small_fc.json").read_text())
    assert (made["sha256"], made["updates"], len(made["log"])) == (sha256, 3, 2)
    assert not torch.equal(found["rms_decays"], meta_train.odd(whole["mean"])["rms_decays"])
    with pytest.raises(ValueError, match="found the training of .*--seed 0.*give another --out"):
        meta_train.meta_train(tmp_path / "whole", 1, meta_train.QUICK)
    (tmp_path / "whole" / "checkpoint.pt").write_text("cut")
    with pytest.raises(ValueError, match="no checkpoint that can be read; delete it"):
        meta_train.meta_train(tmp_path / "whole", 0, meta_train.QUICK)


def test_the_weights_that_ship_are_those_that_their_log_says():
    made = json.loads(SHIPPED.with_suffix(".json").read_text())
    assert made["sha256"] == small_fc.check(small_fc.Fields(weights=str(SHIPPED)))[1]
    assert made["log"][-1]["updates"] == made["updates"]
    assert sum(made["log"][-1]["held_out"]) == min(sum(row["held_out"]) for row in made["log"])


@pytest.mark.slow
def test_meta_train_as_its_help_says_makes_weights_that_load(tmp_path):
    words = [sys.executable, "-m", "lab", "meta-train", "--quick", "--out", str(tmp_path)]
    done = subprocess.run(words, text=True, capture_output=True, cwd=ROOT, check=True)
    assert "held out, 6 steps: " in done.stdout
    small_fc.check(small_fc.Fields(weights=str(tmp_path / "small_fc")))
