"""hlb-gpt's one number: the table of its sizes, and what a recipe may keep from it."""
import math

import pytest
import torch

from lab.__main__ import main
from harness.endings import BadInput
from lab.models.build import build_model
from lab.recipe import costs, hlb
from lab.recipe.load import as_dict, load_recipe, make_recipe, replace
from lab.recipe.schedule import accumulation, factor, stairs
from lab.recipe.schema import Accumulation, Curve
from lab.sweep.space import make_space
from lab.train import build_optimizers, rounded

TABLE = [  # scale, width, layers, parameters, their unit, capacity, batch at 32 and 1024, rate, base, power
    (0.5, 256, 5, 27.8e6, 1e5, 64234, 2007, 62, 1.244e-3, 8.109, -.3835),
    (1, 384, 8, 46_009_736, 1, 57236, 1788, 55, 9.641e-4, 7.222, -.3813),
    (2, 640, 13, 97.7e6, 1e5, 47733, 1491, 46, 6.675e-4, 6.111, -.3781),
    (8, 1216, 25, 353.4e6, 1e5, 25689, 802, 25, 3.683e-4, 4.664, -.3731),
    (26, 1856, 38, 1.005e9, 1e6, 11791, 368, 11, 2.336e-4, 3.792, -.3692),
    (148, 2752, 58, 3.022e9, 1e6, 2957, 92, 2, 1.481e-4, 3.083, -.3654)]
GPT2_IDS = {"data": {"track": "lab_wikitext"}, "duration": {"tokens": 1e8}}


@pytest.mark.parametrize("scale, d, L, n, digit, cap, short, long, base_lr, base, power", TABLE)
def test_a_scale_gives_hlb_gpts_sizes_rates_and_capacity(
        scale, d, L, n, digit, cap, short, long, base_lr, base, power):
    recipe = make_recipe({**GPT2_IDS, "model": {"scale": scale}})
    assert (recipe.model.n_embd, recipe.model.n_layer, recipe.model.head_size) == (d, L, d // 8)
    assert abs(costs.parameters(recipe).total - n) <= (digit > 1) * digit / 2
    assert (tokens := hlb.capacity(scale, 40)) == cap and (tokens // 32, tokens // 1024) == (short, long)
    assert recipe.data.batch_tokens == long * 1024 and recipe.data.micro_batch == long
    assert recipe.optimizer.lr / 2.62 == pytest.approx(base_lr, rel=6e-4)
    assert recipe.schedule.weight_decay_loss_base == pytest.approx(base, abs=6e-4)
    assert recipe.schedule.accumulation.exponent == pytest.approx(power, abs=6e-5)


def test_the_drawn_model_starts_as_hlb_gpt_does():
    recipe = make_recipe({**GPT2_IDS, "model": {"scale": .1, "vocab_size": 50304}})
    d, L = recipe.model.n_embd, recipe.model.n_layer
    model = dict(build_model(recipe).named_parameters())
    stds = {"wte": .25 / math.sqrt(d), "lm_head": .5 / math.sqrt(d),
            "blocks.0.attn.expand": .25 / math.sqrt(d), "blocks.0.attn.project": .5 / math.sqrt(d) / L}
    for name, std in stds.items():
        assert model[f"{name}.weight"].std().item() == pytest.approx(std, rel=.05), name
    assert model["blocks.0.attn.position_slope"].item() == 0 and model["ln_f.weight"].unique().item() == 1


def test_a_devices_memory_scales_the_capacity_and_a_cpu_has_its_own():
    assert hlb.capacity(1, 80) == 2 * 57236 + 1, "57236.6 twice"
    assert hlb.capacity(1, 0) == hlb.capacity(8, 0) == 4096
    cpu = make_recipe({**GPT2_IDS, "model": {"scale": .1}}, {"data.memory_gb": 0})
    assert (cpu.data.batch_tokens, cpu.data.micro_batch) == (4096, None)
    with pytest.raises(ValueError, match="739 tokens a pass in 10 GB are less than data.seq_len = 1024"):
        make_recipe({**GPT2_IDS, "model": {"scale": 148}, "data.memory_gb": 10})


def test_what_a_user_sets_stays_and_the_rest_follows_from_it():
    recipe = load_recipe("hlb_1", {"model.n_layer": 4, "optimizer.lr": 1.0, "data.batch_tokens": 2048,
                                   "data.micro_batch": 2, "schedule.warmup_frac": .5})
    assert (recipe.model.n_layer, recipe.optimizer.lr) == (4, 1.0) and recipe.model.n_embd == 384
    n = costs.parameters(recipe).total
    assert n < 46_009_736 and recipe.schedule.weight_decay_loss_base == .007 * (.01 * math.log(n))**-4
    assert recipe.schedule.seq_len[1] == (80 * 2048, 64) and recipe.schedule.warmup_tokens is None
    said = "\n".join(hlb.lines(recipe))
    assert "n_embd 384" in said and "n_layer" not in said and " lr " not in said and "position_slope" in said
    assert make_recipe(as_dict(recipe)) == recipe, "it is filled once"
    assert load_recipe("hlb_1", {"model.scale": 2}).model.n_embd == 640


def test_under_mup_numbers_are_those_of_the_base_width():
    base = {"parametrization.mup_base_hidden_size": 192, "parametrization.mup_base_filter_size": 384}
    wide = load_recipe("hlb_1", {"parametrization.kind": "mup", **base})
    narrow = load_recipe("hlb_1", {"model.n_embd": 192})
    assert wide.model.n_embd == 384 and wide.optimizer == narrow.optimizer
    assert wide.model.initializer == narrow.model.initializer and wide.schedule == narrow.schedule
    assert wide.optimizer.lr > load_recipe("hlb_1").optimizer.lr


@pytest.mark.parametrize("use, words", [
    (lambda: replace(load_recipe("hlb_1"), model__scale=2.0), "finds nothing to fill"),
    (lambda: make_space({"recipe": "hlb_1", "axes": {"model.scale": [1, 2]}}), "settled as a recipe is"),
    (lambda: load_recipe("hlb_1", {"model.kind": "gpt2"}), "found kind gpt2, expected latent"),
    (lambda: load_recipe("hlb_1", {"duration.steps": 9}), "a step's tokens are known when it comes"),
    (lambda: load_recipe("hlb_1", {"duration.flops": 1e12}), "a step's tokens are known when it comes"),
    (lambda: load_recipe("hlb_1", {"groups": [{"pattern": "("}]}), "is no regular expression"),
    (lambda: load_recipe("hlb_1", {"groups": [{"patern": "x"}]}), "unknown key groups.0.patern"),
    (lambda: load_recipe("hlb_1", {"groups": "x"}), "groups: found 'x'")])
def test_what_a_scale_cannot_do_is_refused_in_one_line(use, words):
    with pytest.raises(ValueError, match=words) as refused:
        use()
    assert "\n" not in str(refused.value)


def test_rates_follow_hlb_gpts_steps():
    """100 steps from .02, then powers of the steps since; the slope's rate falls by .995 a step."""
    recipe = load_recipe("hlb_1")
    body, (slope, _, head), step = recipe.schedule, recipe.groups, recipe.data.batch_tokens
    for curve, t, expected in ((body, 0, .02), (body, 50, .51), (body, 100, 1), (body, 163, 64**-.08),
                               (slope.schedule, 0, 1), (slope.schedule, 400, .995**400),
                               (head.schedule, 0, 1), (head.schedule, 31, .5)):
        assert factor(curve, t * step, 1e8) == pytest.approx(expected, rel=1e-12)
    assert factor(Curve(kind="exponential", exponent=1, timescale_tokens=5, warmup_tokens=10), 15, 99) == (
        pytest.approx(1 / math.e))


def test_a_sequence_doubles_every_80_steps_and_a_step_stays_within_one_of_the_capacity():
    recipe = load_recipe("hlb_1")
    tokens, schedule = recipe.data.batch_tokens, recipe.schedule
    lengths = [stairs(t * tokens, schedule.seq_len, 1024) for t in (0, 79, 80, 160, 240, 320, 400, 9999)]
    assert lengths == [32, 32, 64, 128, 256, 512, 1024, 1024]
    assert 0 <= hlb.capacity(1, 40) - tokens < 1024
    assert {step.tokens for step in costs.stretches(recipe)} == {tokens}


def test_passes_follow_the_norm_of_the_gradient_up_to_their_cap():
    n, plan = 46_009_736, Accumulation()
    target = (100.01 * n * math.log(n)) ** (-.677 * math.log(n)**-.2) * math.sqrt(n)
    assert accumulation(3.0, 100, target, n, plan) == pytest.approx(3.0)
    assert accumulation(3.0, 100, 2 * target, n, plan) == pytest.approx(4.5)
    assert accumulation(3.0, 100, 0.0, n, plan) == pytest.approx(1.5)
    assert accumulation(0.0, 0, target, n, plan) == accumulation(0.1, 100, 0.0, n, plan) == 0.1
    assert accumulation(12.0, 100, 9 * target, n, plan) == 16.0
    assert accumulation(3.0, 100, 1.0, n, Accumulation(exponent=0)) == pytest.approx(1.5 + 1.5 / math.sqrt(n))


def test_passes_are_whole_and_their_mean_is_what_was_wanted():
    generator = torch.Generator().manual_seed(0)
    found = [rounded(2.3, generator) for _ in range(4000)]
    assert set(found) == {2, 3} and sum(found) / 4000 == pytest.approx(2.3, abs=.03)  # 4 standard errors
    assert {rounded(wanted, generator) for wanted in (0.0, .1, .9, 1.0) for _ in range(9)} == {1}


def test_groups_take_parameters_by_name_with_factors_betas_and_curves_of_their_own():
    recipe = load_recipe("hlb_1", {"data.track": "lab", "model.n_embd": 32, "model.n_layer": 1})
    [optimizer] = build_optimizers(recipe, build_model(recipe))
    lr = recipe.optimizer.lr
    found = {name: (g["lr"] / lr, g["weight_decay"], g["betas"], g["eps"]) for g in optimizer.param_groups
             for name in g["names"]}
    assert found == {
        "wte.weight": (32, 0, (.9, .95), 1e-9), "blocks.0.ln_1.weight": (32, 0, (.9, .95), 1e-9),
        "ln_f.weight": (32, 0, (.9, .95), 1e-9), "lm_head.weight": (2, 0, (.6, .95), 1e-9),
        "blocks.0.attn.position_slope": (100, 0, (.9, .95), 1e-9),
        "blocks.0.attn.expand.weight": (1, 16, (.9, .95), 1e-9),
        "blocks.0.attn.project.weight": (1, 16, (.9, .95), 1e-9)}


@pytest.mark.parametrize("groups, optimizer, words", [
    ([{"pattern": "wpe"}], "adamw", "no parameter is left for 'wpe'; there are .*wte.weight"),
    ([{"pattern": ""}, {"pattern": "wte"}], "adamw", "no parameter is left for 'wte'"),
    ([{"pattern": "expand", "betas": [.5, .9]}], "muon", "found betas, .*expand.weight is Muon's, which")])
def test_a_group_that_would_do_nothing_is_refused(groups, optimizer, words, alone):
    recipe = load_recipe("hlb_1", {"data.track": "lab", "model.n_embd": 32, "model.n_layer": 1,
                                   "groups": groups, "optimizer.name": optimizer})
    with pytest.raises(BadInput, match=words):  # which ends a run with exit code 2
        build_optimizers(recipe, build_model(recipe))


def test_a_recipe_in_full_shows_what_its_scale_filled_in(capsys):
    assert main(["recipe", "--config", "hlb_1"]) == 0
    out = capsys.readouterr().out
    assert "46,009,736" in out and "model.scale 1 gives model: kind latent, n_embd 384" in out
    assert "steps       at most 1,775" in out
