"""Closed forms of what a recipe costs, on cases small enough to count by hand."""
import pytest
import torch

from harness.track import load_tracks
from lab.models.build import build_model
from lab.recipe import costs
from lab.recipe.load import make_recipe, replace
from lab.train import memory_bytes

SHAPE = {"model": {"n_layer": 2, "n_head": 2, "n_embd": 16, "vocab_size": 100}, "data": {"seq_len": 8,
         "batch_tokens": 64}, "duration": {"steps": 5}}


@pytest.mark.parametrize("values", [
    {}, {"model.tied": False}, {"model.bias": False}, {"model.filter_size": 24}, {"model.vocab_size": None},
    {"model.tied": False, "model.bias": False, "model.filter_size": 40, "model.n_layer": 3},
    {"model.tied": False, "model.bias": False, "model.kind": "speedrun", "model.activation": "squared_relu"}])
def test_parameters_are_those_of_the_built_model(values):
    recipe = make_recipe(SHAPE, values)
    with torch.device("meta"):
        model = build_model(recipe)
    assert costs.parameters(recipe).total == sum(p.numel() for p in model.parameters())
    assert costs.parameters(recipe).vectors == sum(p.numel() for p in model.parameters() if p.ndim == 1)


def test_parameters_and_flops_counted_by_hand():
    recipe = make_recipe(SHAPE)
    matrices = 100 * 16 + 8 * 16 + 2 * (4 * 16 * 16 + 2 * 16 * 64)
    assert costs.parameters(recipe) == (matrices, 5 * 2 * 16 + 2 * (5 * 16 + 64))
    assert costs.flops_per_token(recipe) == 6 * matrices + 12 * 2 * 16 * 8
    assert costs.total_flops(recipe) == 5 * 64 * costs.flops_per_token(recipe)
    assert costs.parameter_bytes(recipe) == 4 * costs.parameters(recipe).total


@pytest.mark.parametrize("duration, steps", [
    ({"steps": 7}, 7), ({"tokens": 448}, 7), ({"tokens": 511.9}, 7), ({"tokens_per_param": 20}, None),
    ({"flops": 1e9}, None), ({"epochs": .001}, None)], ids=str)
def test_each_duration_becomes_the_whole_steps_that_fit(duration, steps):
    recipe = make_recipe({**SHAPE, "duration": duration})
    total = {"tokens_per_param": 20 * costs.parameters(recipe).total,
             "flops": 1e9 / costs.flops_per_token(recipe),
             "epochs": .001 * costs.dataset_tokens(load_tracks()["lab"])}.get(*duration)
    assert len(costs.steps(recipe)) == (steps or total // 64)


def test_a_growing_batch_and_length_are_counted_step_by_step():
    recipe = make_recipe(SHAPE, {"schedule.batch_tokens": [[0, 64], [128, 128]],
                                 "schedule.seq_len": [[0, 4], [256, 8]], "duration.tokens": 512})
    assert costs.stretches(recipe) == [(0, 2, 64, 4), (128, 1, 128, 4), (256, 2, 128, 8)]
    assert costs.steps(recipe) == [(0, 1, 64, 4), (64, 1, 64, 4), (128, 1, 128, 4), (256, 1, 128, 8),
                                   (384, 1, 128, 8)]
    short, long = (costs.flops_per_token(recipe, T) for T in (4, 8))
    assert costs.total_flops(recipe) == 256 * short + 256 * long


@pytest.mark.parametrize("values, words", [
    ({"duration": {"tokens": 63}}, "63 tokens are less than one step of 64"),
    ({"data": {"track": "moon"}}, "data.track: no track 'moon'; there are .*lab")])
def test_what_makes_no_run_is_refused(values, words):
    with pytest.raises(ValueError, match=words):
        costs.total_flops(make_recipe({**SHAPE, "model": {}, **values}))


def test_memory_grows_with_width_and_with_the_sequences_of_a_pass():
    recipe = make_recipe(SHAPE, {"data.micro_batch": 2})
    assert memory_bytes(recipe) < memory_bytes(replace(recipe, data__micro_batch=4))
    assert memory_bytes(recipe) < memory_bytes(replace(recipe, model__n_embd=32))
    assert memory_bytes(recipe) > 16 * costs.parameters(recipe).total  # weights, gradients, two moments


def test_a_pass_has_a_number_of_sequences_that_divides_the_step():
    for batch, seq_len in ((4096, 128), (96, 8), (2**16, 64), (1000, 8)):
        rows = costs.micro_batch(make_recipe({"data": {"batch_tokens": batch, "seq_len": seq_len}}))
        assert batch % (rows * seq_len) == 0
    assert costs.micro_batch(make_recipe(SHAPE, {"data.micro_batch": 4})) == 4
