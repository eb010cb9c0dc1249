"""Spaces: what is chosen is a pure function of the file, and what may not be run is never built."""
import itertools
import json

import pytest

from harness.runlog import canonical
from lab.recipe import costs
from lab.recipe.load import load_recipe
from lab.sweep.space import admissible, as_json, load_space, make_space, points, recipe_of
from lab.train import memory_bytes

SMALL = {"data.seq_len": 64, "data.batch_tokens": 512, "duration.steps": 4}
AXES = {"model.n_embd": [32, 48, 64], "model.n_head": [2, 3], "optimizer.lr": [1e-3, 2e-3], "seed": [0, 1]}


def space(**changes):
    return make_space({"recipe": "gpt_tiny", "overrides": SMALL, "axes": AXES, **changes})


def test_a_grid_is_the_product_of_its_axes_as_written_without_what_the_recipe_refuses():
    expected = [dict(zip(AXES, values)) for values in itertools.product(*AXES.values())
                if values[0] % values[1] == 0]
    assert points(space()) == expected and len(expected) == 16


def test_more_samples_keep_the_first_ones_and_never_repeat_one():
    few, many = (points(space(method="random", samples=n)) for n in (5, 16))
    assert many[:5] == few
    assert len({canonical(point) for point in many}) == 16


def test_the_order_of_keys_does_not_change_a_random_choice_but_the_seed_does():
    chosen = points(space(method="random", samples=5))
    assert points(space(method="random", samples=5, axes=dict(reversed(AXES.items())))) == chosen
    assert points(space(method="random", samples=5, seed=1)) != chosen


def test_a_choice_is_the_same_on_every_machine():
    assert points(space(method="random", samples=2)) == [
        {"model.n_embd": 32, "model.n_head": 2, "optimizer.lr": 0.001, "seed": 0},
        {"model.n_embd": 32, "model.n_head": 2, "optimizer.lr": 0.002, "seed": 1}]


def test_what_is_admissible_is_counted_for_every_value():
    counts = admissible(space())
    assert [tuple(count) for count in counts["model.n_embd"]] == [(32, 8, 4), (48, 8, 8), (64, 8, 4)]
    assert [tuple(count) for count in counts["model.n_head"]] == [(2, 12, 12), (3, 12, 4)]
    assert [tuple(count) for count in counts["seed"]] == [(0, 12, 8), (1, 12, 8)]


def test_a_step_that_does_not_divide_is_refused_with_its_reason():
    odd = space(axes={"data.batch_tokens": [512, 500]}, overrides={"data.seq_len": 64, "duration.steps": 4})
    assert [point["data.batch_tokens"] for point in points(odd)] == [512]
    assert "batch_tokens=500" in odd.refusals[1]


def test_a_batch_of_sequences_is_an_axis_whose_tokens_follow_the_length_in_either_order():
    axes = {"data.seq_len": [32, 64], "data.batch_sequences": [4, 8]}
    for order in (axes, dict(reversed(axes.items()))):
        own = space(axes=order, overrides={"duration.tokens": 2048})
        found = {(point["data.seq_len"], point["data.batch_sequences"]):
                 recipe_of(own, point).data.batch_tokens for point in points(own)}
        assert found == {(T, n): T * n for T in (32, 64) for n in (4, 8)}
        assert make_space(json.loads(canonical(as_json(own)))) == own


@pytest.mark.parametrize("name, cost", [
    ("parameters", lambda recipe: costs.parameters(recipe).total), ("parameter_bytes", costs.parameter_bytes),
    ("memory_bytes", memory_bytes), ("flops", costs.total_flops)])
def test_a_constraint_keeps_what_lies_within_it_to_the_last_one(name, cost):
    axes = {"model.n_embd": [32, 48, 64]}
    sizes = [cost(recipe_of(space(axes=axes), {"model.n_embd": width})) for width in (32, 48, 64)]
    for bounds, widths in ((sizes[1], [32, 48]), (sizes[1] - 1, [32]), ([sizes[1], sizes[2]], [48, 64])):
        kept = points(space(axes=axes, constraints={name: bounds}))
        assert [point["model.n_embd"] for point in kept] == widths


def test_a_point_gives_the_recipe_that_overrides_give():
    overrides = {"data.seq_len": 64, "data.batch_tokens": 512}
    point = {"optimizer.lr": 3e-3, "optimizer.lr_factor.readout": 0.5, "model.embedding_initializer.std": 0.1,
             "schedule.weight_decay.kind": "linear", "duration.tokens": 2048.0, "seed": 3}
    own = space(overrides=overrides, axes={key: [value] for key, value in point.items()})
    assert points(own) == [point]
    del point["seed"]
    assert recipe_of(own, point) == load_recipe("gpt_tiny", {**overrides, **point})


def test_sweep_json_gives_the_space_back(tmp_path):
    own = space(method="random", samples=3, constraints={"flops": "1e17"})
    (tmp_path / "sweep.json").write_text(canonical(as_json(own)))
    there = load_space(tmp_path / "sweep.json")
    assert canonical(as_json(there)) == canonical(as_json(own)) and points(there) == points(own)


def test_spaced_values_have_three_significant_digits():
    axes = {"optimizer.lr": {"log": ["1e-4", "1e-1", 7]}, "model.n_layer": {"linear": [1, 4, 4]}}
    assert space(axes=axes).axes == {
        "optimizer.lr": [1e-4, 3.16e-4, 1e-3, 3.16e-3, 1e-2, 3.16e-2, 1e-1],
        "model.n_layer": [1, 2, 3, 4]}


@pytest.mark.parametrize("changes, words", [
    ({"axes": {"optimizer.lrr": [1]}}, "unknown axis optimizer.lrr; the closest is optimizer.lr"),
    ({"axes": {"sed": [1]}}, "the closest is seed"),
    ({"axis": {}}, "unknown key axis; the closest is axes"),
    ({"axes": {"optimizer.lr": ["fast"]}}, "optimizer.lr: found 'fast', expected a number above 0"),
    ({"axes": {"optimizer.lr": []}}, "expected a list of values"),
    ({"axes": {"optimizer.lr": [1e-3, "1e-3"]}}, "0.001 twice"),
    ({"axes": {"optimizer.lr": {"log": [0, 1, 3]}}}, "lo > 0"),
    ({"axes": {"seed": [-1]}}, "expected at least 0"),
    ({"axes": {"data.seq_len": [64]}}, "among overrides and axes"),
    ({"axes": {"data.batch_sequences": [4]}}, "data.batch_tokens: found beside data.batch_sequences"),
    ({"recipe": "gpt_full", "overrides": {}, "axes": {"data.batch_tokens": [4]}}, "expected one of the two"),
    ({"constraints": {"flops": "x"}}, "expected the most, or [least, most]"),
    ({"constraints": {"flop": 1}}, "unknown constraint flop; the closest is flops"),
    ({"constraints": {"flops": [2, 1]}}, "expected the most, or [least, most]"),
    ({"method": "bayes"}, "expected grid, random or list"),
    ({"method": "random"}, "random needs a number of them"),
    ({"samples": 3}, "a grid has none"),
    ({"axes": {"seed": list(range(2000)), "optimizer.lr": {"linear": [1, 600, 600]}}}, "1200000 comb"),
])
def test_bad_input_is_one_clear_line(changes, words):
    with pytest.raises(ValueError) as caught:
        space(**changes)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_list_keeps_its_points_and_survives_the_way_through_json():
    given = [{"model.n_embd": 32, "optimizer.lr": 1e-3}, {"model.n_embd": 64, "optimizer.lr": 1e-3},
              {"model.n_embd": 33, "optimizer.lr": 2e-3}]
    listed = make_space({"recipe": "gpt_tiny", "method": "list", "points": given})
    assert points(listed) == given[:2], "33 does not divide by 2 heads"
    assert make_space(json.loads(canonical(as_json(listed)))) == listed
    counts = admissible(listed)["model.n_embd"]
    assert [(c.value, c.combinations, c.admissible) for c in counts] == [(32, 1, 1), (64, 1, 1), (33, 1, 0)]


@pytest.mark.parametrize("given", [
    [], 3, [{"optimizer.lr": 1}, {"model.n_embd": 32}], [{"seed": 1}, {"seed": 1}]])
def test_a_list_that_is_none_is_refused(given):
    with pytest.raises(ValueError, match="points: expected a list of mappings"):
        make_space({"recipe": "gpt_tiny", "method": "list", "points": given})
