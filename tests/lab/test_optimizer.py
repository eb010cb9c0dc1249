"""Optimizers: groups by the table, one signature; accumulated micro-batches are one big batch; clipping."""
import pickle
import sys

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F

from harness.reduce import FastReducer
from lab.models.build import build_model
from lab import optimizers as folder
from lab.optimizers import optimizers, section
from lab.parametrization import role_of, table
from lab.recipe.costs import parameters
from lab.recipe.load import make_recipe, replace
from lab.show import cost_of
from lab.train import build_optimizers, clip, memory_bytes

RECIPE = make_recipe({
    "model": {"n_layer": 2, "n_head": 2, "n_embd": 32, "vocab_size": 61, "tied": False},
    "parametrization": {"kind": "mup", "mup_base_hidden_size": 16, "mup_base_filter_size": 64},
    "optimizer": {"lr": 1e-2, "betas": [.8, .95], "eps": 1e-6, "weight_decay": .1}, "data": {"seq_len": 8}})


def loss_sum(net, x, y):
    return F.cross_entropy(net(x).flatten(0, 1), y.flatten(), reduction="sum")


def accumulated(micro_batch):
    """Return mean loss and gradients of one step of 16 sequences, in float64, by this rank's FastReducer."""
    torch.manual_seed(3)
    model = build_model(RECIPE).double()
    tokens = torch.randint(61, (16, 9))
    mine = tokens.chunk(dist.get_world_size())[dist.get_rank()]
    passes = [(part[:, :-1], part[:, 1:]) for part in mine.split(micro_batch)]
    loss = FastReducer(model, model)(loss_sum, passes)
    return torch.cat([loss.reshape(1), *(p.grad.flatten() for p in model.parameters())]).numpy()


def test_k_micro_batches_on_one_and_two_ranks_are_one_big_batch(ranks):
    """To 1e-12: in float64 only the order of the sums differs."""
    [one] = ranks(1, accumulated, 16)
    for n, micro_batch in ((1, 8), (1, 1), (2, 2)):
        for other in ranks(n, accumulated, micro_batch):
            assert abs(other - one).max() < 1e-12


@pytest.mark.parametrize("name", ["adamw", "muon", "sgd"])
def test_every_parameter_is_in_one_group_with_the_tables_numbers(alone, name):
    recipe = replace(RECIPE, optimizer__name=name)
    model, rows = build_model(recipe), table(recipe)
    names = {p: key for key, p in model.named_parameters()}
    groups = [group for optimizer in build_optimizers(recipe, model) for group in optimizer.param_groups]
    assert sorted(names[p] for group in groups for p in group["params"]) == sorted(names.values())
    for group in groups:
        row = rows[group["role"]]
        assert {role_of(names[p]) for p in group["params"]} == {row.role}
        assert group["lr"] == group["peak_lr"] == 1e-2 * row.lr
        assert group["weight_decay"] == group["peak_weight_decay"] == .1 * row.weight_decay
        if "eps" in group:
            assert group["eps"] == 1e-6 * row.eps


def test_muon_takes_the_matrices_of_the_blocks_and_adamw_all_else(alone):
    recipe = replace(RECIPE, optimizer__name="muon", optimizer__momentum=.9)
    adamw, muon = build_optimizers(recipe, build_model(recipe))
    assert {g["role"] for g in muon.param_groups} == {"attention", "attention_out", "ffn_in", "ffn_out"}
    decay = {g["role"]: g["weight_decay"] for g in adamw.param_groups}
    assert decay == {"embedding": .1, "position": .1, "readout": .1, "vector": 0}, "vectors do not decay"
    assert {g["momentum"] for g in muon.param_groups} == {.9}
    assert {g["betas"] for g in adamw.param_groups} == {(.8, .95)}


def backward(model):
    torch.manual_seed(4)
    tokens = torch.randint(61, (4, 9))
    loss = loss_sum(model, tokens[:, :-1], tokens[:, 1:]) / 32
    model.zero_grad()
    loss.backward()
    return loss.detach()


@pytest.mark.parametrize("name", ["adamw", "muon", "sgd"])
def test_every_optimizer_steps_with_the_loss_and_moves_every_parameter(alone, name):
    recipe = replace(RECIPE, optimizer__name=name)
    model = build_model(recipe)
    built = build_optimizers(recipe, model)
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    first = backward(model)
    for _ in range(5):
        loss = backward(model)
        for optimizer in built:
            optimizer.step(loss)
    assert all(not torch.equal(before[key], p) for key, p in model.named_parameters())
    assert backward(model) < first


def test_adamw_is_the_textbooks(alone):
    """Three steps of one group by the paper's formulas, in float64."""
    model = build_model(RECIPE).double()
    [optimizer] = build_optimizers(RECIPE, model)
    key, p = next((key, p) for key, p in model.named_parameters() if key.endswith("c_fc.weight"))
    lr, decay, eps, m, v, w = 1e-2 / 2, .1 * 2, 1e-6 / 2, 0, 0, p.detach().clone()
    for t in (1, 2, 3):
        loss = backward(model)
        m, v = .8 * m + .2 * p.grad, .95 * v + .05 * p.grad**2
        w = w - lr * decay * w - lr * m / (1 - .8**t) / ((v / (1 - .95**t)).sqrt() + eps)
        optimizer.step(loss)
    assert torch.allclose(p, w, rtol=0, atol=1e-12), key


def test_muon_decays_a_matrix_by_lr_times_weight_decay(alone):
    recipe = replace(RECIPE, optimizer__name="muon")
    stepped = []
    for decay in (0.0, .1):
        torch.manual_seed(0)
        model = build_model(r := replace(recipe, optimizer__weight_decay=decay))
        before = model.blocks[0].mlp.c_fc.weight.detach().clone()
        _, muon = build_optimizers(r, model)
        muon.step(backward(model))
        stepped.append(model.blocks[0].mlp.c_fc.weight.detach())
    assert torch.allclose(stepped[0] - stepped[1], 1e-2 * .1 * before, rtol=0, atol=1e-7)


def test_clipping_is_global_and_returns_the_norm_before():
    model = build_model(RECIPE)
    backward(model)
    grads = {p: p.grad.clone() for p in model.parameters()}
    norm = sum(g.double().square().sum() for g in grads.values()).sqrt().item()
    for limit, rest in ((None, 1), (2 * norm, 1), (norm / 4, 1 / 4)):
        assert clip(model, limit).item() == pytest.approx(norm, rel=1e-6)
        for p, g in grads.items():
            assert torch.allclose(p.grad, g * rest, rtol=0 if rest == 1 else 1e-4, atol=0)


def test_sgd_is_torchs_with_decay_apart(alone):
    """Three steps of one group: sp's and mup's rates of a block's matrix are the same."""
    recipe = replace(RECIPE, optimizer__name="sgd", optimizer__momentum=.9)
    model = build_model(recipe).double()
    [optimizer] = build_optimizers(recipe, model)
    p = model.blocks[0].mlp.c_fc.weight
    w = torch.nn.Parameter(p.detach().clone())
    torchs = torch.optim.SGD([w], lr=1e-2, momentum=.9)
    for _ in range(3):
        loss = backward(model)
        w.data.mul_(1 - 1e-2 * .1)
        w.grad = p.grad.clone()
        torchs.step()
        optimizer.step(loss)
    assert torch.allclose(p, w, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name, hidden, others", [
    ("adamw", 1 / 4, 1), ("muon", 1, 1), ("sgd", 1, 4), ("small_fc", 1 / 4, 1), ("velo", 1 / 2, 1)])
def test_each_has_its_own_rule_under_mup(name, hidden, others):
    """SGD once had Adam's 1/m for the matrices of the blocks, in silence."""
    recipe = replace(RECIPE, optimizer__name=name, model__n_embd=64)
    rates = {row.role: row.lr for row in table(recipe).values()}
    blocks = ("attention", "attention_out", "ffn_in", "ffn_out")
    assert rates == {role: hidden if role in blocks else others for role in rates}


SIGN = """
from dataclasses import dataclass
import torch
STATE, FLOPS, MUP = 0, (3, 0), (-.5, 0)

@dataclass(frozen=True, kw_only=True)
class Fields:
    boldness: float = 2.0

class Sign(torch.optim.Optimizer):
    @torch.no_grad()
    def step(self, loss):
        for group in self.param_groups:
            for p in group["params"]:
                p.sub_(group["lr"] * group["boldness"] * p.grad.sign())

def build(groups, config, steps, compile):
    return [Sign(groups, {"boldness": config.boldness})]

"""


@pytest.fixture
def sign(tmp_path, monkeypatch):
    """A file more in the folder of optimizers."""
    def forget():
        optimizers.cache_clear(), section.cache_clear(), sys.modules.pop("lab.optimizers.sign", None)
    monkeypatch.setattr(folder, "__path__", [*folder.__path__, str(tmp_path)])
    forget()
    (tmp_path / "sign.py").write_text(SIGN)
    yield tmp_path / "sign.py"
    forget()


@pytest.mark.parametrize("kind", ["sp", "mup"])
def test_another_optimizer_is_one_file(alone, sign, kind):
    """Its name, fields, rule, state and costs are known, an override of its field is typed, and it trains."""
    recipe = replace(RECIPE, optimizer__name="sign", parametrization__kind=kind, optimizer__boldness="3e-1")
    assert pickle.loads(pickle.dumps(recipe)) == recipe, "a sweep hands it to its workers"
    model, other = build_model(recipe), replace(recipe, optimizer__name="adamw")
    [optimizer] = build_optimizers(recipe, model)
    before = model.blocks[0].attn.c_q.weight.detach().clone()
    optimizer.step(backward(model))
    lr = 1e-2 * (2**-.5 if kind == "mup" else 1)
    moved = (before - model.blocks[0].attn.c_q.weight).abs()
    assert moved[moved > 0].tolist() == pytest.approx([lr * .3] * int((moved > 0).sum()), rel=1e-4)
    assert memory_bytes(other) - memory_bytes(recipe) == 8 * parameters(recipe).total, "AdamW's two moments"
    assert cost_of(recipe)["optimizer_flops"] == 3 * parameters(recipe).total
    with pytest.raises(ValueError, match="optimizer.boldness: found 'much', expected a number"):
        make_recipe({"optimizer": {"name": "sign", "boldness": "much"}})


def test_a_file_without_a_rule_is_refused_under_mup_alone_and_fields_must_agree(alone, sign):
    sign.write_text(SIGN.replace("MUP", "NO_RULE"))
    with pytest.raises(ValueError, match="sign.py has no rule under mup; give it MUP"):
        table(replace(RECIPE, optimizer__name="sign"))
    table(replace(RECIPE, optimizer__name="sign", parametrization__kind="sp"))
    sys.modules.pop("lab.optimizers.sign"), optimizers.cache_clear(), section.cache_clear()
    sign.write_text(SIGN.replace("boldness: float = 2.0", "momentum: float = 2.0"))
    with pytest.raises(ValueError, match="field momentum is .* = 0.95 in one file, .* = 2.0 in another"):
        section()
