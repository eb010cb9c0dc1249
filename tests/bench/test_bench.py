"""The benchmarks: their arithmetic, their page, and that each of them runs (tiny: measures nothing)."""
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench.counts import GPT2_124M, block_shapes, newton_schulz_flops, state_bytes, step_flops
from bench.page import page
from bench.project import crossing
from bench.rounds import Result, Row, interleaved, ratios
from bench.run import NAMES, finite
from bench.submission import SubmissionError, load

ROOT = Path(__file__).resolve().parent.parent.parent


def run(script: str, *flags: str) -> str:
    """Run a script of bench/ and return its stdout."""
    done = subprocess.run([sys.executable, str(ROOT / "bench" / script), *flags], capture_output=True,
                          text=True, timeout=300, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_rounds_alternate_their_order():
    order = []
    found = interleaved({"a": lambda: order.append("a") or 1, "b": lambda: order.append("b") or 2}, 3)
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert found == {"a": [1, 1, 1], "b": [2, 2, 2]}
    assert ratios(found["b"], found["a"]) == [2, 2, 2]


@pytest.mark.parametrize("values, goal, verdict", [
    ([1.0, 2.0, 9.0], ">= 1.9", "pass"), ([1.0, 1.8, 9.0], ">= 1.9", "miss"), ([0.2], "<= 0.1", "miss"),
    ([float("inf")], "<= 0.1", "miss"), ([1.0], None, "")])
def test_a_verdict_follows_the_median_and_the_direction_of_the_goal(values, goal, verdict):
    assert Row("speed", values, "x", *filter(None, [goal])).verdict() == verdict


def test_a_crossing_lies_between_two_validations():
    curve = [(0.0, 8.0, 0), (10.0, 6.0, 100), (20.0, 5.0, 200)]
    assert crossing(curve, 5.5) == (15.0, 150.0)
    assert crossing(curve, 4.0) is None


def test_a_steps_operations_are_those_of_its_matrices_and_attention():
    """Against the parameters of a model of these sizes, and the published 123,568,128 active ones."""
    shipped = load("GPT", "RECIPES", script=ROOT / "submissions" / "adamw_matrices.py")
    hp = shipped.RECIPES["fineweb"]
    with torch.device("meta"):
        model = shipped.GPT(hp)
    active = sum(p.numel() for p in model.parameters()) - model.wte.weight.numel()
    attention = 3 * 2 * 2 * (hp.seq_len / 2) * hp.n_embd * hp.n_layer  # 2 products, forward + 2 backward
    assert active == 123_568_128
    assert step_flops(hp) == step_flops(GPT2_124M) == hp.batch_tokens * (6 * active + attention)
    assert sorted(block_shapes(hp)) == sorted(tuple(p.shape) for p in model.blocks.parameters())


def test_newton_schulz_is_counted_as_the_reference_says():
    """The reference's bound: 5 steps of 6 n m^2 at most, against 6 n m B for the gradient: 5 m / B."""
    bound = 5 * GPT2_124M.n_embd / GPT2_124M.batch_tokens
    assert 0.003 < newton_schulz_flops(GPT2_124M) / step_flops(GPT2_124M) < bound
    assert state_bytes(GPT2_124M) == {"muon": 4 * 84_934_656, "adam": 8 * 84_934_656}


def test_a_submission_that_lacks_what_a_benchmark_needs_is_one_line(tmp_path):
    (script := tmp_path / "other.py").write_text("RECIPES = {}\n")
    with pytest.raises(SubmissionError, match="^other.py has no GPT, train; .* needs RECIPES, GPT, train of"):
        load("RECIPES", "GPT", "train", script=script)
    script.write_text("import nothing_of_this_name\n")
    with pytest.raises(SubmissionError, match="^other.py: ModuleNotFoundError: No module named"):
        load("RECIPES", script=script)


def test_the_page_shows_a_miss_and_warns_of_a_busy_machine():
    result = {"name": "two_ranks", "quick": False, "seconds": 1.0, "foreign_load": [0.0, 1.5], "how": "So.",
              "raw": {}, "conditions": {"cpu": "C", "cpus": 2, "memory_gib": 8, "gpu": None, "platform": "L",
                                        "python": "3", "torch": "2", "date": "today", "load": [1.5, 1, 1]},
              "rows": [{**Row("gain", [1.2], "x", ">= 1.9")._asdict(), "measured": "1.2 x",
                        "verdict": "miss"}]}
    text = page([result], "python bench/run.py")
    assert "| gain | 1.2 x | >= 1.9 | miss |" in text and "Others used 1.5 cores" in text
    assert "not measured (--quick)" in page([{**result, "quick": True}], "python bench/run.py")
    assert "Others used" not in page([{**result, "foreign_load": [0.0, None]}], "python bench/run.py")


def test_results_without_a_number_are_valid_json():
    text = json.dumps(finite({1: [float("inf"), (1.5, float("nan"))]}), allow_nan=False)
    assert json.loads(text) == {"1": ["inf", [1.5, "nan"]]}
    assert Result([], "", {}).raw == {}


def test_the_stream_benchmark_runs_and_prints_its_page(tmp_path):
    run("run.py", "--quick", "--only", "stream_rate", "-o", str(tmp_path / "page.md"))
    assert "| stream read rate, world size 1 |" in (tmp_path / "page.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.long] * (name == "muon_claims"))
                                  for name in NAMES if name != "stream_rate"])
def test_each_benchmark_runs(name):
    assert "## How each was measured" in run("run.py", "--quick", "--only", name)


@pytest.mark.slow
def test_the_gpu_benchmarks_run_on_a_cpu():
    text = run("gpu.py", "--device", "cpu", "--quick", "--data", str(ROOT / "data" / "sample"))
    assert "same bits (exact, deterministic kernels) | 1 (1: yes)" in text
    assert "| val_loss after step 3 |" in text
    assert "| frontier: ms a step |" in text and "| tokens/s, frontier over 2024 |" in text
