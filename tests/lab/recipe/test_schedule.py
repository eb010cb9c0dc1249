"""Schedules: known answers, and the same tokens seen give the same rates however a step is cut."""

import pytest

from lab.recipe import costs
from lab.recipe.load import make_recipe, replace
from lab.recipe.schedule import cosine, factor, share, stairs
from lab.recipe.schema import Curve
from lab.train import hyperparameters, set_rates

TAU = 57236.0


@pytest.mark.parametrize("kind", ["constant", "linear", "cosine", "trapezoid", "power"])
@pytest.mark.parametrize("W", [0, 1e6])
def test_a_warm_up_is_linear_and_reaches_one_at_its_end(kind, W):
    curve = Curve(kind=kind, warmup_tokens=W, start=.02, timescale_tokens=TAU)
    assert factor(curve, W, 1e8) == 1
    if W:
        assert factor(curve, 0, 1e8) == .02
        assert factor(curve, W / 2, 1e8) == pytest.approx(.51, rel=1e-12)
    if kind == "power":
        assert factor(curve, W + TAU, 1e8) == pytest.approx(2 ** -.08, rel=1e-12)


@pytest.mark.parametrize("words, total, expected", [
    ({"kind": "cosine", "warmup_frac": .1}, 1000, {0: 0, 50: .5, 100: 1, 550: .5, 1000: 0}),
    ({"kind": "cosine", "warmup_tokens": 100}, 1000, {0: 0, 50: .5, 100: 1, 550: .5, 1000: 0}),
    ({"kind": "linear", "final": .1}, 1000, {500: .55, 1000: .1}),
    *(({"kind": kind, "final": .1, "end_tokens": 1000}, 2000, {1000: .1, 1500: .1, 2000: .1})
      for kind in ("linear", "cosine", "trapezoid")),
    *(({"kind": kind, "warmup_frac": 1.0}, 1000, {999: .999, 1000: 0})
      for kind in ("linear", "cosine", "trapezoid")),  # nothing is divided by zero
    ({"kind": "trapezoid", "cooldown_frac": .25}, 1000, {0: 1, 749: 1, 750: 1, 875: .5}),
    # a warm-up that is longer than the plateau goes down from one
    ({"kind": "trapezoid", "warmup_tokens": 800, "cooldown_frac": .5}, 1000, {400: .5, 800: 1, 900: .5}),
    # counted in bare tokens instead of time scales, .416 were left one step after the peak
    ({"kind": "power", "timescale_tokens": TAU}, 1e8, {TAU: 2 ** -.08, TAU * (2 ** 12.5 - 1): .5}),
    ({"kind": "power", "warmup_tokens": 3e6, "timescale_tokens": TAU}, 1e9,
     {3e6 + TAU * (2 ** 12.5 - 1): .5})])
def test_a_curve_passes_through_known_points(words, total, expected):
    found = {u: factor(Curve(**words), u, total) for u in expected}
    assert found == pytest.approx(expected, rel=1e-12, abs=1e-15)


def test_the_cosine_of_the_homework():
    rates = [cosine(t, 1e-4, 5e-4, 10, 2000) for t in (0, 5, 10, 1005, 2000, 3000)]
    assert rates == pytest.approx([0, 2.5e-4, 5e-4, 3e-4, 1e-4, 1e-4], rel=1e-12, abs=0)
    assert cosine(0, 1e-4, 5e-4, 0, 2000) == 5e-4, "without warm-up it begins at its maximum"


def test_gpt_tinys_schedule_is_the_homeworks_cosine():
    recipe = make_recipe({"schedule": {"kind": "cosine", "warmup_tokens": 10 * 4096, "final": .2},
                          "data": {"batch_tokens": 4096}, "duration": {"steps": 2000}})
    for t in (0, 5, 10, 1005, 1999, 2000):
        found = 5e-4 * factor(recipe.schedule, t * 4096, 2000 * 4096)
        assert found == pytest.approx(cosine(t, 1e-4, 5e-4, 10, 2000), rel=1e-12, abs=0)


def test_stairs_take_the_last_step_that_has_begun():
    steps = [(0, 32), (2048, 64), (4096, 128)]
    assert [stairs(u, steps, 7) for u in (0, 2047, 2048, 9999)] == [32, 32, 64, 128]
    assert stairs(5, [(10, 32)], 7) == 7
    assert share(5, 5, 5) == 1


BASE = make_recipe({"model": {"n_embd": 32, "n_layer": 1}, "optimizer": {"lr": 3e-3, "weight_decay": .1},
                    "schedule": {"kind": "cosine", "warmup_tokens": 2048, "final": .1,
                                 "roles": {"readout": {"kind": "power"}}, "weight_decay": {"kind": "linear"}},
                    "data": {"seq_len": 64, "batch_tokens": 1024, "micro_batch": 16},
                    "duration": {"tokens": 16384}})


def rates_of(recipe):
    """Return {tokens seen: (rate logged, rate and decay of each group)} in the order of the steps."""
    rates, seen = {}, 0
    groups = [dict(role=role, place=-1, peak_lr=lr, peak_weight_decay=.1, lr=None, weight_decay=None)
              for role, lr in (("embedding", 3e-3), ("readout", 1e-3))]
    optimizer = type("Optimizer", (), {"param_groups": groups})()
    for step in costs.steps(recipe):
        assert step.seen == seen and step.tokens % step.seq_len == 0
        logged = set_rates(recipe, [optimizer], seen, costs.curve_tokens(recipe))
        rates[seen] = (logged, *((g["lr"], g["weight_decay"]) for g in groups))
        seen += step.tokens
    assert seen == hyperparameters(recipe).train_tokens
    return rates


@pytest.mark.parametrize("changes", [
    {"data__micro_batch": 8}, {"data__micro_batch": 2}, {"data__batch_tokens": 2048},
    {"data__batch_tokens": 8192}, {"schedule__seq_len": [[0, 16], [4096, 32], [8192, 64]]},
    {"schedule__batch_tokens": [[0, 1024], [8192, 2048]]},
    {"duration__tokens": 15_000, "data__batch_tokens": 4096}],
    ids=lambda changes: " ".join(f"{k} {v}" for k, v in changes.items()))
def test_the_same_tokens_seen_give_the_same_rates(changes):
    """Accumulation 1, 2 and 8, twice and eight times the batch, growing length, growing batch; a budget that
    the batch does not divide, with which the curve ends, not with the last whole step."""
    budget = changes.get("duration__tokens", 16384)
    reference, other = rates_of(replace(BASE, duration__tokens=budget)), rates_of(replace(BASE, **changes))
    common = reference.keys() & other.keys()
    assert len(common) == len(other) >= 2
    assert all(reference[u] == other[u] for u in common)


def test_roles_and_weight_decay_have_curves_of_their_own():
    rates = rates_of(BASE)
    logged, (embedding, decay), (readout, _) = rates[8192]
    assert logged == embedding == 3e-3 * factor(BASE.schedule, 8192, 16384)
    assert readout == 1e-3 * factor(BASE.schedule.roles["readout"], 8192, 16384)
    assert decay == pytest.approx(.05)


def test_a_length_schedule_gives_the_steps_their_length():
    recipe = replace(BASE, schedule__seq_len=[[0, 16], [4096, 64]])
    planned = costs.steps(recipe)
    assert [planned[i][2:] for i in (0, 3, 4)] == [(1024, 16), (1024, 16), (1024, 64)]


def test_a_length_above_the_models_is_refused():
    with pytest.raises(ValueError, match="schedule.seq_len: 128.*data.seq_len.* 64"):
        hyperparameters(replace(BASE, schedule__seq_len=[[0, 128]], data__micro_batch=8))
