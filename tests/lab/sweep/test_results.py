"""Results of sweeps whose logs are written here, right in every hash, and the refusals."""
import json
import math
import random
import re
from pathlib import Path
from typing import Any

import pytest
from sweeps import swept

from lab.recipe import costs
from lab.sweep.results import (comparable, group, load_results, matched, max_grad_norm, perplexity,
                         spikes)
from lab.sweep.space import make_space, recipe_of

RATES = {"optimizer.lr": [0.001, 0.002], "seed": [0, 1]}


def at(lr: float, seed: int = 0, **more: Any) -> dict[str, Any]:
    return {"point": {"optimizer.lr": lr, "seed": seed}, **more}


def test_numbers_come_from_the_logs_and_the_index_only_names_them(tmp_path):
    folder = swept(tmp_path, RATES, [at(0.001, loss=4.5, val_loss=1.0, tokens=3, flops=1.0, grad_norm=2.5),
                                     at(0.002, 1, loss=4.25)])
    first, second = load_results(folder).runs
    assert (first.point, first.seed, second.seed) == ({"optimizer.lr": 0.001}, 0, 1)
    assert (first.val_loss, first.tokens, second.val_loss) == (4.5, 8 * 256, 4.25)
    assert [(v.tokens, v.val_loss) for v in first.val][0] == (0, 8.0) and first.val[-1].tokens == 2048
    assert [step for step, _ in first.train] == list(range(1, 9))
    assert first.scalars["lr"] == [(step, 0.001) for step in range(1, 9)]
    assert first.data == (("a" * 64,), "b" * 64, 512) and first.parameters == 120
    assert max_grad_norm(first) == 2.5


def test_flops_are_those_of_the_closed_form(tmp_path):
    folder = swept(tmp_path, RATES, [at(0.001)])
    made = make_space(json.loads((folder / "sweep.json").read_text()))
    assert load_results(folder).runs[0].flops == costs.total_flops(recipe_of(made, {"optimizer.lr": 0.001}))


def test_runs_without_a_result_stay_with_their_reason(tmp_path):
    folder = swept(tmp_path, RATES, [at(0.001, status="oom", message="out of memory", tokens=9),
                                     at(0.002, status="diverged", cut=4), at(0.002, 1, status="failed")])
    oom, diverged, failed = load_results(folder).runs
    assert (oom.val_loss, oom.message, oom.log, oom.tokens) == (None, "out of memory", None, 9)
    assert diverged.val_loss == math.inf and max_grad_norm(diverged) == math.inf
    assert failed.val_loss is None and failed.log.exists()


def broken(folder: Path, old: str, new: str) -> Path:
    path = folder / "results.jsonl"
    path.write_text(path.read_text().replace(old, new, 1))
    return folder


@pytest.mark.parametrize("old, new, words", [
    ('"status":"ok"', '"status":"fine"', "status 'fine', expected one of ok, diverged, oom, failed"),
    ('"seed":0', '"seed":7', "_000000.txt: seed 0, the index says 7"),
    ('"status":"ok"', '"status":"diverged"', "_000000.txt: its run ok, the index says diverged"),
    ('"point":{', '"point":[{', "line 1: not JSON"),
    ("_000000.txt", "_00000f.txt", "_00000f.txt: cannot be read"),
    ('"seed":1', '"seed":0', "_000001.txt: seed 1, the index says 0"),
])
def test_an_index_that_is_wrong_is_refused_in_a_line_that_names_it(tmp_path, old, new, words):
    folder = broken(swept(tmp_path, RATES, [at(0.001), at(0.001, 1)]), old, new)
    with pytest.raises(ValueError, match=re.escape(words)) as error:
        load_results(folder)
    assert "\n" not in str(error.value) and "results.jsonl, line" in str(error.value)


def test_a_run_that_stands_twice_in_the_index_is_refused(tmp_path):
    folder = swept(tmp_path, RATES, [at(0.001)])
    path = folder / "results.jsonl"
    path.write_text(2 * path.read_text())
    with pytest.raises(ValueError, match="line 2: run 0 stands there twice"):
        load_results(folder)


def test_a_damaged_log_is_named(tmp_path):
    folder = swept(tmp_path, RATES, [at(0.001)])
    log = next((folder / "logs").glob("*.txt"))
    log.write_bytes(log.read_bytes().replace(b'"val_loss":5.0', b'"val_loss":4.0'))
    with pytest.raises(ValueError, match=f"{log.name}.*sha256"):
        load_results(folder)


def test_a_log_that_is_cut_off_is_named(tmp_path):
    folder = swept(tmp_path, RATES, [at(0.001)])
    log = next((folder / "logs").glob("*.txt"))
    log.write_bytes(log.read_bytes()[:-20])
    with pytest.raises(ValueError, match=f"{log.name}: its run incomplete, the index says ok"):
        load_results(folder)


def test_a_last_line_that_a_kill_cut_off_does_not_count_and_is_told(tmp_path, capsys):
    folder = swept(tmp_path, RATES, [at(0.001), at(0.002)])
    path = folder / "results.jsonl"
    path.write_text(path.read_text()[:-9])
    assert len(load_results(folder).runs) == 1
    assert "its last line has no end" in capsys.readouterr().err


def test_a_folder_that_is_no_sweep_is_refused(tmp_path):
    with pytest.raises(ValueError, match="sweep.json: No such file.*lab sweep"):
        load_results(tmp_path)


def test_seeds_of_a_point_are_grouped_and_a_diverged_one_makes_the_mean_infinite(tmp_path):
    folder = swept(tmp_path, {**RATES, "seed": [0, 1, 2]}, [
        at(0.001, 0, loss=5.0), at(0.001, 1, loss=5.2), at(0.001, 2, status="oom"),
        at(0.002, 0, loss=4.0), at(0.002, 1, status="diverged")])
    good, bad = group(load_results(folder).runs)
    assert (good.point, good.n, good.diverged, len(good.runs)) == ({"optimizer.lr": 0.001}, 2, 0, 3)
    assert good.mean == pytest.approx(5.1) and good.sd == pytest.approx(math.sqrt(0.02))
    assert (bad.n, bad.diverged, bad.mean, bad.sd) == (2, 1, math.inf, None)


def test_grouping_by_some_axes_pools_the_others(tmp_path):
    axes = {"optimizer.lr": [0.001, 0.002], "model.n_layer": [1, 2]}
    points = [{"optimizer.lr": lr, "model.n_layer": n} for lr in (0.001, 0.002) for n in (1, 2)]
    folder = swept(tmp_path, axes, [{"point": point, "loss": 4.0 + i} for i, point in enumerate(points)])
    assert [(g.point, g.mean) for g in group(load_results(folder).runs, ["model.n_layer"])] == [
        ({"model.n_layer": 1}, 5.0), ({"model.n_layer": 2}, 6.0)]


def test_runs_of_other_tokens_are_refused_by_name(tmp_path):
    runs = load_results(swept(tmp_path, RATES, [at(0.001), at(0.001, 1), at(0.002, cut=6)])).runs
    with pytest.raises(ValueError, match=r"run 0 \(.*_000000.txt\) took 2048 tokens, run 2 \(.*\) 1536: "):
        matched(runs)
    matched(runs[:2])


@pytest.mark.parametrize("change, words", [
    ({"train_sha256": "c" * 64}, 'data, train ["aaa'), ({"val_tokens": 256}, "data, val_tokens 512 and 256")])
def test_runs_of_other_data_are_refused_by_name(tmp_path, change, words):
    runs = load_results(swept(tmp_path, RATES, [at(0.001), at(0.002, **change)])).runs
    with pytest.raises(ValueError, match=rf"run 0 .* and run 1 .*{re.escape(words)}"):
        matched(runs)


def test_a_diverged_run_compares_after_fewer_tokens(tmp_path):
    runs = load_results(swept(tmp_path, RATES, [at(0.001), at(0.002, status="diverged", cut=4)])).runs
    matched(runs)


def budget(folder: Path, small: int | None = None) -> list:
    axes, overrides = {"model.n_embd": [32, 64]}, {"duration.steps": None, "duration.flops": 2e10}
    runs = [{"point": {"model.n_embd": 32}, "cut": small}, {"point": {"model.n_embd": 64}}]
    return load_results(swept(folder, axes, runs, overrides=overrides)).runs


def test_under_a_budget_of_flops_runs_compare_at_equal_flops_instead_of_tokens(tmp_path):
    runs = budget(tmp_path)
    assert runs[0].tokens > 1.5 * runs[1].tokens
    assert re.fullmatch(r"at \S+ training FLOPs, within one step; tokens \d+ to \d+", comparable(runs))
    with pytest.raises(ValueError, match="tokens"):
        matched(runs)


def test_under_a_budget_of_flops_a_run_that_stopped_a_step_too_early_is_refused(tmp_path):
    whole = budget(tmp_path / "whole")[0].val[-1].step
    with pytest.raises(ValueError, match=r"run 1 .* took \S+ FLOPs, run 0 .* a step of .* apart"):
        comparable(budget(tmp_path / "short", small=whole - 2))


def test_equal_flops_do_not_excuse_other_tokens_where_the_duration_is_no_budget(tmp_path):
    runs = load_results(swept(tmp_path, RATES, [at(0.001), at(0.002, cut=7)])).runs
    with pytest.raises(ValueError, match="2048 tokens"):
        comparable(runs)


def test_perplexity_is_exp_of_the_loss():
    assert perplexity(math.log(41.2)) == pytest.approx(41.2, rel=1e-15)
    assert perplexity(math.inf) == perplexity(1e4) == math.inf


def curve(seed: int, noise: float, n: int = 600) -> list[float]:
    chance = random.Random(seed)
    return [3 + 5 * math.exp(-i / 60) + chance.gauss(0, noise) for i in range(n)]


@pytest.mark.parametrize("noise", [0.0, 0.02, 0.1, 0.3])
def test_noise_around_a_falling_curve_is_no_spike(noise):
    assert [spikes(curve(seed, noise)) for seed in range(5)] == [0] * 5


@pytest.mark.parametrize("noise", [0.0, 0.02, 0.1])
def test_rises_that_come_down_again_are_counted_each_once(noise):
    losses = curve(1, noise)
    for start, width, height in ((200, 1, 1.5), (300, 12, 2.0), (450, 5, 3.0)):
        for i in range(width):
            losses[start + i] += height * (1 - i / (2 * width))
    assert spikes(losses) == 3


def test_a_rise_below_the_least_nats_is_no_spike_however_smooth_the_curve():
    losses = curve(1, 0.0)
    losses[400] += 0.15
    assert spikes(losses) == 0
    losses[400] += 0.1
    assert spikes(losses) == 1


def test_a_loss_that_is_no_number_is_a_spike_and_does_not_spoil_what_is_usual():
    losses = curve(1, 0.02)
    losses[300:303] = [math.nan, math.inf, math.nan]
    losses[400] += 2
    assert spikes(losses) == 2
