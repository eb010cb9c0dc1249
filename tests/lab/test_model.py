"""Model: GPT-2 with its forward factors against ten lines of float64; causality; the submission's GPT."""
import math

import pytest
import torch
import torch.nn.functional as F
from tiny import submission

from lab.models.build import build_model
from lab.models.speedrun import Speedrun
from lab.parametrization import multipliers, role_of
from lab.recipe.load import make_recipe
from lab.types import ROLES

MODEL = {"n_layer": 2, "n_head": 4, "n_embd": 32, "vocab_size": 50}
MUP = {"kind": "mup", "mup_base_hidden_size": 16, "mup_base_filter_size": 64, "mup_base_head_dim": 4,
       "embeddings_scale": 10.0, "output_logits_alpha": 3.0, "attention_logits_alpha": 1.5}
LATENT = {"kind": "latent", "tied": False, "bias": False, **MODEL}
SPEEDRUN = {"kind": "speedrun", "tied": False, "bias": False, "activation": "squared_relu", **MODEL}


def built(parametrization=None, **model):
    """Return a recipe and its model in float64, with norms and biases that are not 1 and 0."""
    recipe = make_recipe({"model": {**MODEL, "initializer": {"std": .3}, **model}, "data": {"seq_len": 12},
                          "parametrization": parametrization or {}})
    torch.manual_seed(0)
    net = build_model(recipe).double()
    with torch.no_grad():
        for p in net.parameters():
            if p.ndim == 1:
                p.add_(torch.randn_like(p) / 5)
    return recipe, net


def reference(recipe, net, idx_BT, act):
    """Return GPT-2's logits by its definition, with plain matrix products and an explicit softmax."""
    w, factors, H = dict(net.named_parameters()), multipliers(recipe), recipe.model.n_head
    T = idx_BT.size(1)

    def linear(x, name):
        return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0)

    def norm(x, name):
        return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w.get(f"{name}.bias"))

    x = factors.embedding * (w["wte.weight"][idx_BT] + w["wpe.weight"][:T])
    mask = torch.full((T, T), -math.inf, dtype=torch.float64).triu(1)
    for i in range(recipe.model.n_layer):
        b, h = f"blocks.{i}", norm(x, f"blocks.{i}.ln_1")
        q, k, v = (linear(h, f"{b}.attn.c_{c}").unflatten(-1, (H, -1)).transpose(1, 2) for c in "qkv")
        y = ((q @ k.mT) * factors.attention + mask).softmax(-1) @ v
        x = x + linear(y.transpose(1, 2).flatten(2), f"{b}.attn.c_proj")
        x = x + linear(act(linear(norm(x, f"{b}.ln_2"), f"{b}.mlp.c_fc")), f"{b}.mlp.c_proj")
    head = w.get("lm_head.weight", w["wte.weight"])
    return factors.output * norm(x, "ln_f") @ head.T


ACTIVATIONS = {"gelu": lambda x: .5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + .044715 * x**3))),
               "relu": lambda x: x.clamp(min=0), "squared_relu": lambda x: x.clamp(min=0) ** 2}


@pytest.mark.parametrize("parametrization", [{}, MUP, {**MUP, "scale_qk_dot_by_d": True}],
                         ids=["sp", "mup", "literal"])
@pytest.mark.parametrize("changes", [{}, {"tied": False, "filter_size": 40}, {"bias": False},
                                     {"activation": "relu"}, {"activation": "squared_relu"}], ids=str)
def test_gpt2_with_its_factors_is_the_reference(parametrization, changes):
    recipe, net = built(parametrization, **changes)
    idx_BT = torch.randint(50, (3, 12))
    expected = reference(recipe, net, idx_BT, ACTIVATIONS[recipe.model.activation])
    most = 1e-12 * float(expected.detach().abs().max())
    assert torch.allclose(net(idx_BT), expected, rtol=0, atol=most)
    assert torch.allclose(net(idx_BT[:, :5]), expected[:, :5], rtol=0, atol=most), "a shorter sequence"


@pytest.mark.parametrize("model", [{}, SPEEDRUN, LATENT], ids=["gpt2", "speedrun", "latent"])
def test_later_tokens_never_change_earlier_logits(model):
    _, net = built(**model)
    for p in net.buffers():
        p.data = p.data.double()
    idx_BT = torch.randint(50, (2, 12))
    with torch.no_grad():
        before = net(idx_BT)
        for j in (1, 6, 11):
            changed = idx_BT.clone()
            changed[:, j] = (changed[:, j] + 1) % 50
            after = net(changed)
            assert torch.equal(after[:, :j], before[:, :j])
            assert not torch.equal(after[:, j:], before[:, j:])


def test_latent_attention_is_its_six_products_and_a_softmax_with_a_slope():
    """q, k, and of each half of the latent what is gated and its gate: six matrices in the model's one."""
    _, net = built(**LATENT)
    attn, T = net.blocks[0].attn, 12
    x = torch.randn(2, T, 32, dtype=torch.float64)
    parts = attn.expand.weight.split([8, 8, 32, 32, 32, 32])
    assert len(parts) == 6 and attn.project.weight.shape == (32, 64)
    q, k, local, value, local_gate, value_gate = (x @ part.T for part in parts)
    local, value = (a * .5 * g * (1 + torch.erf(g / math.sqrt(2)))
                    for a, g in ((local, local_gate), (value, value_gate)))
    distance = (torch.arange(T)[:, None] - torch.arange(T)).double()
    slope = math.log(1 + math.exp(1 + attn.position_slope.item()))
    logits = (q @ k.mT / math.sqrt(8) - slope * distance).masked_fill(distance < 0, -math.inf)
    expected = torch.cat([local, logits.softmax(-1) @ value], -1) @ attn.project.weight.T
    assert torch.allclose(attn(x), expected, rtol=0, atol=1e-12)


def test_a_steep_slope_leaves_the_own_value_and_none_plain_causal_attention():
    _, net = built(**LATENT)
    attn, x = net.blocks[0].attn, torch.randn(2, 12, 32, dtype=torch.float64)
    q, k, linear, gate = attn.expand(x).split(attn.sizes, -1)
    local, value = (linear * F.gelu(gate)).chunk(2, -1)
    plain = F.scaled_dot_product_attention(q, k, value, is_causal=True)
    with torch.no_grad():
        for slope, y in ((1e4, value), (-1e4, plain)):
            attn.position_slope.fill_(slope)
            assert torch.allclose(attn(x), attn.project(torch.cat((local, y), -1)), rtol=0, atol=1e-12)


def test_forward_factors_are_plain_fields():
    recipe, net = built(MUP)
    assert net.lm_head.weight is net.wte.weight, "a tied head"
    assert (net.embedding_scale, net.output_scale) == (10, 1.5)
    assert {block.attn.scale for block in net.blocks} == {1.5 * 2 / 8}
    idx_BT = torch.randint(50, (2, 12))
    before = net(idx_BT)
    net.output_scale *= 2
    assert torch.equal(net(idx_BT), 2 * before)


@pytest.mark.parametrize("model", [{"tied": False}, SPEEDRUN, LATENT], ids=["gpt2", "speedrun", "latent"])
def test_every_parameter_has_a_role(model):
    _, net = built(**model)
    roles = {role_of(name) for name, _ in net.named_parameters()}
    assert roles <= set(ROLES)
    assert {"embedding", "ffn_in", "ffn_out", "readout"} <= roles
    assert ({"attention", "attention_out"} <= roles) == (model is not LATENT)
    for name, p in net.named_parameters():
        assert (role_of(name) == "vector") == (p.ndim == 1), name


def test_the_speedrun_model_is_that_of_a_shipped_record():
    recipe = make_recipe({"model": {**SPEEDRUN, "residual_init": "zero", "readout_init": "zero",
                                    "embedding_initializer": {"std": 1.0}}, "data": {"seq_len": 16}})
    torch.manual_seed(3)
    ours = build_model(recipe)
    script = submission()
    theirs = script.GPT(script.Hyperparameters(vocab_size=50, n_layer=2, n_head=4, n_embd=32, dtype="float32",
                                               seq_len=16))
    theirs.load_state_dict(ours.state_dict())
    with torch.no_grad():
        theirs.lm_head.weight.normal_()
        ours.lm_head.weight.copy_(theirs.lm_head.weight)
        ours.output_scale = .5
    idx_BT = torch.randint(50, (2, 16))
    assert torch.equal(ours(idx_BT), .5 * theirs(idx_BT))
    assert isinstance(ours, Speedrun)


def test_in_bfloat16_the_weights_stay_float32_and_the_logits_are_close():
    recipe = make_recipe({"model": MODEL, "data": {"seq_len": 12}}, {"model.dtype": "bfloat16"})
    torch.manual_seed(0)
    net = build_model(recipe)
    assert {p.dtype for p in net.parameters()} == {torch.float32}
    idx_BT = torch.randint(50, (2, 12))
    low = net(idx_BT).float()
    net.dtype = torch.float32
    high = net(idx_BT)
    assert (low - high).abs().max() < .05 * high.abs().max()  # 8 bits of mantissa through two layers


def test_the_same_seed_gives_the_same_model_and_another_another():
    recipe = make_recipe({"model": MODEL})
    models = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        models.append(build_model(recipe))
    a, b, c = (torch.cat([p.flatten() for p in model.parameters()]) for model in models)
    assert torch.equal(a, b) and not torch.equal(a, c)
