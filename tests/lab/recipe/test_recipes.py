"""Shipped recipes: on the meta device against closed forms and published numbers; its smoke size trains."""
import dataclasses
import functools
import json
import math

import pytest
import torch
from networks import write_all
from tiny import submission

from lab.models.build import build_model
from lab.parametrization import lines, multipliers, role_of, table
from lab.recipe import costs
from lab.recipe.load import as_dict, load_recipe, make_recipe, replace, shipped, smoke
from lab.recipe.schedule import factor
from lab.train import build_optimizers, train_recipe

OWN_MODELS = [name for name in shipped() if name != "submission"]  # that one is tested in test_submission

PUBLISHED = {  # parameters, the unit to which they are published, steps: those of the model zoo's configs
    "cerebras_111m": (111e6, 1e6, 9037), "cerebras_256m": (256e6, 1e6, 9468),
    "cerebras_590m": (590e6, 1e6, 21836), "cerebras_1.3b": (1316e6, 1e6, 24334),
    "cerebras_2.7b": (2652e6, 1e6, 49041), "gpt2_124m": (124_439_808, 1, 19_073),
    "gpt2_350m": (354_823_168, 1, 19_073),  # of the published weights, ten billion tokens
    "gpt2_410m": (406_286_336, 1, 19_073),  # medium's and 50257 x 1024 of its head
    **{f"pylo_{size}_{of}{more}": (parameters, 1, 19_073) for of in ("adamw", "mulo", "velo")
       for size, parameters in (("124m", 124_439_808 + 50257 * 768), ("410m", 406_286_336))
       for more in ("", "_schedule", "_schedule_decay")},
    "gpt2_1.5b": (1_557_611_200, 1, 19_073)}
WIDTHS = {"cerebras_40m": 1, "cerebras_111m": 3, "cerebras_256m": 4.25, "cerebras_590m": 6,
          "cerebras_1.3b": 8, "cerebras_2.7b": 10}  # over their base


@functools.cache
def on_meta(name):
    """Return a shipped recipe and its model, without memory for the weights."""
    recipe = load_recipe(name)
    with torch.device("meta"):
        return recipe, build_model(recipe)


@pytest.mark.parametrize("name", OWN_MODELS)
def test_the_closed_forms_are_those_of_the_built_model(name):
    recipe, model = on_meta(name)
    matrices = sum(p.numel() for p in model.parameters() if p.ndim == 2)
    everything = sum(p.numel() for p in model.parameters())
    found = costs.parameters(recipe)
    assert (found.matrices, found.total) == (matrices, everything)
    T, L, d = recipe.data.seq_len, recipe.model.n_layer, recipe.model.n_embd
    attention = 12 * L * d * T if recipe.model.kind != "latent" else 6 * L * (d // 8 + d) * T
    assert costs.flops_per_token(recipe) == 6 * matrices + attention
    tokens = sum(step.tokens for step in costs.steps(recipe))
    assert tokens == costs.total_tokens(recipe)
    assert recipe.duration.steps or tokens <= costs.asked_tokens(recipe) < tokens + recipe.data.batch_tokens
    if not recipe.schedule.seq_len:
        assert costs.total_flops(recipe) == tokens * (6 * matrices + attention)


@pytest.mark.parametrize("name", OWN_MODELS)
def test_shapes_roles_and_factors_of_the_built_model(name):
    recipe, model = on_meta(name)
    factors = multipliers(recipe)
    d, V = recipe.model.n_embd, costs.vocab_size(recipe)
    f = recipe.model.d_ff
    shapes = {"embedding": (V, d), "position": (recipe.data.seq_len, d), "readout": (V, d),
              "attention": (d, d), "attention_out": (d, d), "ffn_in": (f, d), "ffn_out": (d, f)}
    if recipe.model.kind == "latent":
        assert f == 2 * d
        shapes["ffn_in"] = (17 * d // 4, d)
    found = {}
    for key, p in model.named_parameters():
        found.setdefault(role_of(key), set()).add(tuple(p.shape))
    assert set(found) - {"vector"} == set(table(recipe)) - {"vector"}
    for role in set(found) - {"vector"}:
        assert found[role] == {shapes[role]}
    for row in table(recipe).values():
        assert row.fan_in == (1 if row.role in ("embedding", "position", "vector") else shapes[row.role][1])
    assert model.output_scale == factors.output
    if recipe.model.kind != "speedrun":
        assert model.embedding_scale == factors.embedding
        assert {block.attn.scale for block in model.blocks} == {factors.attention}
    assert len(lines(recipe)) >= len(table(recipe)) + 2


@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes_have_their_published_parameters_and_steps(name):
    recipe, (published, unit, steps) = load_recipe(name), PUBLISHED[name]
    assert abs(costs.parameters(recipe).total - published) <= unit / 2
    assert len(costs.steps(recipe)) == steps
    assert "cerebras" in name or recipe.data.batch_tokens == 524_288


def test_the_proxy_of_cerebras_has_the_guides_steps():
    recipe = load_recipe("cerebras_40m")
    assert (len(costs.steps(recipe)), recipe.schedule.warmup_tokens) == (1525, 152 * 524_288)


def test_the_table_of_2_7b_from_base_256_is_that_of_the_guide():
    """Learning rates x 0.1, hidden std .0253, output std .00316: the example of the guide."""
    rows = table(recipe := load_recipe("cerebras_2.7b"))
    hidden = ("attention", "attention_out", "ffn_in", "ffn_out")
    for role, std in zip(hidden, (.08 / math.sqrt(10), .08 / math.sqrt(10 * 64)) * 2):
        assert rows[role].std == pytest.approx(std, rel=1e-12)
        assert rows[role].lr == pytest.approx(.1, rel=1e-12)
    assert (round(rows["attention"].std, 4), round(rows["ffn_out"].std, 5)) == (.0253, .00316)
    for role in ("embedding", "position"):
        assert (rows[role].std, rows[role].lr) == (.08, 1)
    assert {row.weight_decay for row in rows.values() if row.role != "vector"} == {1.0}
    assert {row.eps for row in rows.values()} == {1.0}
    factors = multipliers(recipe)
    assert factors == (10, pytest.approx(1 / 80), pytest.approx(.1))


@pytest.mark.parametrize("name, m", WIDTHS.items())
def test_widths_of_cerebras_over_their_base(name, m):
    recipe = load_recipe(name)
    assert {table(recipe)[role].width for role in ("attention", "ffn_in", "ffn_out")} == {m}
    assert multipliers(recipe).attention == recipe.model.n_head / recipe.model.n_embd  # 1 / head_dim


@pytest.mark.parametrize("name, flops, steps_of_1e17, megabytes", [
    ("gpt_full", 9.95e16, 126_482, 64.1), ("gpt_full_large", 9.62e16, 13_084, 76.7)])
def test_the_two_final_runs_of_the_homework_are_and_cost_what_it_says(name, flops, steps_of_1e17, megabytes):
    """They had 4 heads and a fifth of its rates."""
    recipe = load_recipe(name)
    assert recipe.model.n_head == 8
    rates = [recipe.optimizer.lr * factor(recipe.schedule, at, 1000) for at in (100, 1000)]
    assert rates == pytest.approx([5e-3, 5e-4])
    passes = 4 if name == "gpt_full_large" else 1
    assert (recipe.data.batch_sequences, recipe.data.micro_batch) == (passes * 256, 256)
    assert costs.total_flops(recipe) == pytest.approx(flops, rel=1e-3)
    assert len(costs.steps(replace(recipe, duration__flops=1e17))) == steps_of_1e17
    assert round(costs.parameter_bytes(recipe) / 1e6, 1) == megabytes


def test_the_homeworks_gpt_tiny_on_gpt2s_vocabulary():
    recipe = load_recipe("gpt_tiny", {"model.vocab_size": 50257})
    assert round(costs.parameters(recipe).total / 1e6, 2) == 1.64
    assert sum(step.tokens for step in costs.steps(recipe)) == 8_192_000
    assert costs.total_flops(recipe) == pytest.approx(8.1e13, rel=5e-3)


def test_speedrun_has_the_numbers_of_a_shipped_record_but_its_length(alone):
    script = submission()
    recipe = load_recipe("speedrun")
    hp = dataclasses.replace(script.RECIPES["sample"], num_iterations=1400, cooldown_iters=1400)
    for word in ("n_layer", "n_head", "n_embd"):
        assert getattr(recipe.model, word) == getattr(hp, word)
    assert (recipe.data.seq_len, recipe.data.batch_tokens) == (hp.seq_len, hp.batch_tokens)
    assert (recipe.data.micro_batch, len(costs.steps(recipe))) == (hp.micro_batch, hp.num_iterations)
    torch.manual_seed(0)
    adamw, muon = build_optimizers(recipe, build_model(recipe))
    rates = {group["role"]: group["lr"] for group in (*adamw.param_groups, *muon.param_groups)}
    assert rates == pytest.approx({"embedding": hp.embed_lr, "readout": hp.head_lr, "attention": hp.muon_lr,
                                   "attention_out": hp.muon_lr, "ffn_in": hp.muon_lr, "ffn_out": hp.muon_lr})
    for group in adamw.param_groups:
        assert (group["betas"], group["eps"], group["weight_decay"]) == (hp.adam_betas, 1e-8, 0)
    for step in (0, 1, 700, 1399):
        now = factor(recipe.schedule, step * hp.batch_tokens, hp.num_iterations * hp.batch_tokens)
        assert now == pytest.approx(script.lr_factor(step, hp), rel=1e-12)


@functools.cache
def trained(recipe_json):
    """Return the run of a recipe: several sizes of one family shrink to the same."""
    result = train_recipe(make_recipe(json.loads(recipe_json)))
    result.log.unlink()
    return result


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    return write_all(tmp_path_factory.mktemp("weights") / "made")


ONE_OF_A_KIND = ("gpt_tiny", "speedrun", "cerebras_2.7b")


@pytest.mark.parametrize("name", [
    name if name in ONE_OF_A_KIND else pytest.param(name, marks=pytest.mark.slow) for name in OWN_MODELS])
def test_the_smoke_size_of_every_recipe_trains(name, capfd, weights):
    kept = load_recipe(name)
    recipe = replace(smoke(kept), name="smoke", validations=1,
                     optimizer__weights=kept.optimizer.weights and weights)
    result = trained(json.dumps(as_dict(recipe)))
    capfd.readouterr()
    assert result.steps == len(costs.steps(recipe)) == 8
    assert result.tokens == sum(step.tokens for step in costs.steps(recipe))
    assert math.isfinite(result.val_loss) and result.val_loss < 1.3 * math.log(4096)
    assert sum(p.numel() for p in result.model.parameters()) == costs.parameters(recipe).total
    for word in ("kind", "tied", "bias", "activation", "residual_init", "readout_init"):
        assert getattr(recipe.model, word) == getattr(kept.model, word)
    assert recipe.optimizer.name == kept.optimizer.name
    assert recipe.parametrization.kind == kept.parametrization.kind
    wider, expected = ({row.width > 1 for row in table(r).values()} for r in (recipe, kept))
    assert wider == expected
