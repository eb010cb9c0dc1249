"""The recipes' curves, held to the numbers in tests/golden/NAME.json.

Fields of a file:
    recipe      key of the script's RECIPES; the training tokens are those of curves.tokens(recipe): the
                sample track's shard, or the text of its first tokens in GPT-2's vocabulary
    overrides   hyperparameters that differ from the recipe's; dtype and newton_schulz_dtype are the test's
    seed        of torch.manual_seed, right before GPT(hp) is built in float32 and taken to the test's dtype
    train_loss  mean loss in nats of the batch of step 0, 1, ..., before that step's update
    grad_norm   Euclidean norm of the gradient of all parameters together, at the same place
    val_loss    step -> loss on the sample track's validation tokens, from a run of the harness in float32

Losses and norms were measured in float64, on one rank. Whatever trains the same model with the same
optimizers can be held to them, on the terms of `near`.

In float64 a curve repeats to 1e-9: sums in another order differ by 1e-16, which 200 steps raise to 1e-12. In
float32 it comes within 2e-5: along the sample's 200 steps the losses are off by at most 5e-6, and so are the
norms of the first 50, where another make of CPU ends a record 7e-6 nats off. Later norms grow past it (4e-5
before step 200), and those of the fineweb recipe at once: with 128 tokens a batch Adam's steps of 0.3 turn
rounding in gradients near zero into whole steps (5e-5 at step 3; the losses stay within 4e-6 for 12 steps).
"""
import math
import subprocess
import sys

import pytest
import torch
from curves import Loop, load, measure
from shipped import shipped
from tiny import ROOT, environment, events

from records.tools.read.log import read_log

script = shipped()


def near(found: list[float], golden: list[float], tolerance: float) -> bool:
    """Tell whether each number is within tolerance, relative, of the golden one of its step."""
    return all(math.isclose(a, b, rel_tol=tolerance) for a, b in zip(found, golden))


def measured(name: str, dtype: str, steps: int, monkeypatch: pytest.MonkeyPatch) -> Loop:
    """Return the loop after some steps of the shipped script; no loss is rounded to less than dtype.

    Its products are MKL's, as those of the golden curve: a run in this process may have left oneDNN's.
    """
    if dtype == "float64":
        monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    loop = measure(script, load(name), dtype, steps)
    torch.set_float32_matmul_precision(before)
    assert len(loop.train_loss) == len(loop.grad_norm) == steps
    return loop


@pytest.mark.parametrize("name, steps", [
    ("sample", 8), ("fineweb", 10),
    pytest.param("sample", 200, marks=pytest.mark.slow), pytest.param("fineweb", 40, marks=pytest.mark.slow)])
def test_in_float64_a_recipe_repeats_its_golden_curve(name, steps, alone, monkeypatch):
    golden, loop = load(name), measured(name, "float64", steps, monkeypatch)
    assert near(loop.train_loss, golden["train_loss"], 1e-9)
    assert near(loop.grad_norm, golden["grad_norm"], 1e-9)


@pytest.mark.parametrize("name, steps, norms", [
    ("sample", 12, 12), ("fineweb", 4, 2), pytest.param("sample", 200, 50, marks=pytest.mark.slow)])
def test_in_float32_a_recipe_stays_near_its_golden_curve(name, steps, norms, alone, monkeypatch):
    golden, loop = load(name), measured(name, "float32", steps, monkeypatch)
    assert near(loop.train_loss, golden["train_loss"], 2e-5)
    assert near(loop.grad_norm[:norms], golden["grad_norm"], 2e-5)


@pytest.mark.slow
def test_the_harness_trains_and_validates_along_the_samples_golden_curve():
    """The checkout's own run, 200 steps; train losses are those before the update, as the loop takes them."""
    flags = ["--track=sample", "--seed=0", "--stop_at_step=200"]
    command = [sys.executable, "-m", "harness.front.launch", *flags]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True,
                          stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    log = ROOT / done.stdout.rsplit("log: ", 1)[1].splitlines()[0]
    golden, run = load("sample"), read_log(log)
    vals = {str(val["step"]): val["val_loss"] for val in events(log, "val")}
    log.unlink()
    found = [step.train_loss for step in run.steps if step.train_loss is not None]
    assert len(found) == 200 and set(vals) >= set(golden["val_loss"])
    half = 5e-5  # of the last of the four decimals that the log prints
    assert all(abs(a - b) < half + 2e-5 * b for a, b in zip(found, golden["train_loss"]))
    assert near([vals[step] for step in golden["val_loss"]], list(golden["val_loss"].values()), 2e-5)
