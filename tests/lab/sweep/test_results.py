"""Results of sweeps whose logs are written here, right in every hash, and the refusals."""
import json
import math
import random
import re
from typing import Any

import pytest
from sweeps import swept

from lab.recipe import costs
from lab.sweep.results import comparable, group, load_results, perplexity, spikes
from lab.sweep.space import make_space, recipe_of

RATES = {"optimizer.lr": [0.001, 0.002], "seed": [0, 1]}


def at(lr: float, seed: int = 0, **more: Any) -> dict[str, Any]:
    return {"point": {"optimizer.lr": lr, "seed": seed}, **more}


@pytest.fixture
def runs_of(tmp_path):
    """Return call(runs, axes) -> the runs as results give them back from their logs."""
    def call(runs, axes=RATES, **space):
        return load_results(swept(tmp_path, axes, runs, **space)).runs
    return call


def test_numbers_come_from_the_logs_and_the_index_only_names_them(tmp_path, runs_of):
    first, second = runs_of([at(0.001, loss=4.5, val_loss=1.0, tokens=3, flops=1.0, grad_norm=2.5),
                             at(0.002, 1, loss=4.25)])
    assert (first.point, first.seed, second.seed) == ({"optimizer.lr": 0.001}, 0, 1)
    assert (first.val_loss, first.tokens, second.val_loss) == (4.5, 8 * 256, 4.25)
    assert [(v.tokens, v.val_loss) for v in first.val][0] == (0, 8.0) and first.val[-1].tokens == 2048
    assert [step for step, _ in first.train] == list(range(1, 9))
    assert first.scalars["lr"] == [(step, 0.001) for step in range(1, 9)]
    assert first.data == (("a" * 64,), "b" * 64, 512) and first.parameters == 120
    assert (first.largest("grad_norm"), first.largest("lr"), first.largest("x")) == (2.5, 0.001, None)
    made = make_space(json.loads((tmp_path / "sweep.json").read_text()))
    assert first.flops == costs.total_flops(recipe_of(made, {"optimizer.lr": 0.001}))


def test_runs_without_a_result_stay_with_their_reason(runs_of):
    oom, diverged, failed = runs_of([at(0.001, status="oom", message="out of memory", tokens=9),
                                     at(0.002, status="diverged", cut=4), at(0.002, 1, status="failed")])
    assert (oom.val_loss, oom.message, oom.log, oom.tokens) == (None, "out of memory", None, 9)
    assert diverged.val_loss == math.inf and diverged.largest("grad_norm") == math.inf
    assert failed.val_loss is None and failed.log.exists()


@pytest.mark.parametrize("file, old, new, words", [
    ("results.jsonl", '"status":"ok"', '"status":"fine"', "status 'fine', expected one of ok, diverged, oom"),
    ("results.jsonl", '"seed":0', '"seed":7', "_000000.txt: seed 0, the index says 7"),
    ("results.jsonl", '"status":"ok"', '"status":"diverged"', "0.txt: its run ok, the index says diverged"),
    ("results.jsonl", '"point":{', '"point":[{', "line 1: not JSON"),
    ("results.jsonl", "_000000.txt", "_00000f.txt", "_00000f.txt: cannot be read"),
    ("results.jsonl", '"seed":1', '"seed":0', "_000001.txt: seed 1, the index says 0"),
    ("results.jsonl", r"(?s)^(.*?\n).*", r"\1\1", "line 2: run 0 stands there twice"),
    ("logs/*_000000.txt", '"val_loss":5.0', '"val_loss":4.0', "sha256"),
    ("logs/*_000000.txt", r"(?s).{20}\Z", "", "_000000.txt: its run incomplete, the index says ok"),
    ("sweep.json", "(?s).+", "[]", "sweep.json: not a sweep's")])
def test_what_is_wrong_or_damaged_is_refused_in_a_line_that_names_it(tmp_path, file, old, new, words):
    folder = swept(tmp_path, RATES, [at(0.001), at(0.001, 1)])
    [path] = folder.glob(file)
    path.write_text(re.sub(old, new, path.read_text(), count=1))
    with pytest.raises(ValueError) as error:
        load_results(folder)
    assert words in str(error.value) and "\n" not in str(error.value)
    assert file == "sweep.json" or "results.jsonl, line" in str(error.value)


def test_a_last_line_that_a_kill_cut_off_does_not_count_and_is_told(tmp_path, capsys):
    path = swept(tmp_path, RATES, [at(0.001), at(0.002)]) / "results.jsonl"
    path.write_text(path.read_text()[:-9])
    assert len(load_results(tmp_path).runs) == 1
    assert "its last line has no end" in capsys.readouterr().err


def test_seeds_of_a_point_are_grouped_and_a_diverged_one_makes_the_mean_infinite(runs_of):
    good, bad = group(runs_of([
        at(0.001, 0, loss=5.0), at(0.001, 1, loss=5.2), at(0.001, 2, status="oom"),
        at(0.002, 0, loss=4.0), at(0.002, 1, status="diverged")], {**RATES, "seed": [0, 1, 2]}))
    assert (good.point, good.n, good.diverged, len(good.runs)) == ({"optimizer.lr": 0.001}, 2, 0, 3)
    assert good.mean == pytest.approx(5.1) and good.sd == pytest.approx(math.sqrt(0.02))
    assert (bad.n, bad.diverged, bad.mean, bad.sd) == (2, 1, math.inf, None)


def test_grouping_by_some_axes_pools_the_others(runs_of):
    axes = {"optimizer.lr": [0.001, 0.002], "model.n_layer": [1, 2]}
    points = [{"optimizer.lr": lr, "model.n_layer": n} for lr in (0.001, 0.002) for n in (1, 2)]
    runs = runs_of([{"point": point, "loss": 4.0 + i} for i, point in enumerate(points)], axes)
    assert [(g.point, g.mean) for g in group(runs, ["model.n_layer"])] == [
        ({"model.n_layer": 1}, 5.0), ({"model.n_layer": 2}, 6.0)]


@pytest.mark.parametrize("change, words", [
    ({"cut": 6}, r"run 0 \(.*_000000.txt\) took 2048 tokens, run 1 \(.*\) 1536: "),
    ({"train_sha256": "c" * 64}, r'run 0 .* and run 1 .*data, train \["aaa'),
    ({"val_tokens": 256}, "run 0 .* and run 1 .*data, val_tokens 512 and 256")])
def test_runs_of_other_tokens_or_other_data_are_refused_by_name(runs_of, change, words):
    with pytest.raises(ValueError, match=words):
        comparable(runs_of([at(0.001), at(0.002, **change)]))


def test_a_diverged_run_compares_after_fewer_tokens(runs_of):
    assert comparable(runs_of([at(0.001), at(0.002, status="diverged", cut=4)])) == "at 2048 tokens"


def test_under_a_budget_of_flops_runs_compare_at_equal_flops_to_the_step(tmp_path):
    def runs(small=None):
        sizes = [{"point": {"model.n_embd": 32}, "cut": small}, {"point": {"model.n_embd": 64}}]
        budget = {"duration.steps": None, "duration.flops": 2e10}
        folder = swept(tmp_path / str(small), {"model.n_embd": [32, 64]}, sizes, overrides=budget)
        return load_results(folder).runs
    whole = runs()
    assert whole[0].tokens > 1.5 * whole[1].tokens
    assert re.fullmatch(r"at \S+ training FLOPs, within one step; tokens \d+ to \d+", comparable(whole))
    with pytest.raises(ValueError, match=r"run 1 .* took \S+ FLOPs, run 0 .* a step of .* apart"):
        comparable(runs(small=whole[0].val[-1].step - 2))


def test_perplexity_is_exp_of_the_loss():
    assert perplexity(math.log(41.2)) == pytest.approx(41.2, rel=1e-15)
    assert perplexity(math.inf) == perplexity(1e4) == math.inf


def curve(seed: int, noise: float, changes: dict[int, float] = {}) -> list[float]:
    """Return 600 losses that fall, with noise, and some raised."""
    chance = random.Random(seed)
    return [3 + 5 * math.exp(-i / 60) + chance.gauss(0, noise) + changes.get(i, 0.0) for i in range(600)]


@pytest.mark.parametrize("noise", [0.0, 0.02, 0.1, 0.3])
def test_noise_around_a_falling_curve_is_no_spike_and_rises_that_come_down_are_counted_each_once(noise):
    assert [spikes(curve(seed, noise)) for seed in range(5)] == [0] * 5
    rises = {start + i: height * (1 - i / (2 * width)) for start, width, height in (
        (200, 1, 1.5), (300, 12, 2.0), (450, 5, 3.0)) for i in range(width)}
    assert noise == 0.3 or spikes(curve(1, noise, rises)) == 3


@pytest.mark.parametrize("noise, changes, count", [
    (0.0, {400: 0.15}, 0), (0.0, {400: 0.25}, 1),
    (0.02, {300: math.nan, 301: math.inf, 302: math.nan, 400: 2.0}, 2)])
def test_a_spike_has_a_least_height_and_no_number_is_one_that_does_not_spoil_what_is_usual(
        noise, changes, count):
    assert spikes(curve(1, noise, changes)) == count
