"""The lab's curves: those of tests/golden for its speedrun model and Muon, and those of two recipes."""
import math

import pytest
import torch
from curves import Loop, load, tokens
from tiny import events

from lab.models.speedrun import Speedrun
from lab.recipe import costs
from lab.recipe.load import load_recipe, smoke
from lab.train import build_optimizers, train, train_recipe

FINEWEB = {"model.vocab_size": 50304, "model.n_layer": 4, "data.seq_len": 64, "data.batch_tokens": 128,
           "optimizer.lr_factor": {"embedding": 15, "readout": 0.1}, "optimizer.betas": [0.9, 0.95],
           "schedule.cooldown_frac": 11 / 40, "duration.steps": 40}
SMOKE = {"gpt_tiny": [8.328303657326614, 8.268141990090953, 8.212679272692185],
         "speedrun": [8.317766189575195, 8.047538239246933, 7.890434159518918]}


class Scalars(Loop):
    """A loop of a recipe, whose scalars are kept, the last of each name."""

    def __init__(self, recipe, *loop):
        super().__init__(*loop)
        self.total = costs.total_tokens(recipe)

    @property
    def tokens_left(self):
        """Tokens that the recipe has yet to take."""
        return self.total - self.position

    def log(self, **scalars):
        """Keep some scalars."""
        self.scalars = getattr(self, "scalars", {}) | scalars


@pytest.mark.parametrize("name, overrides, steps", [
    ("sample", {}, 8), ("fineweb", FINEWEB, 10), pytest.param("sample", {}, 50, marks=pytest.mark.slow),
    pytest.param("sample", {}, 200, marks=pytest.mark.long),
    pytest.param("fineweb", FINEWEB, 40, marks=pytest.mark.slow)])
def test_the_speedrun_model_and_muon_follow_a_golden_curve(name, overrides, steps, alone, monkeypatch):
    """To 1e-9, as tests/test_golden.py argues; weights are drawn as the submission draws its own."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    recipe = load_recipe("speedrun", {**overrides, "model.dtype": "float64",
                                      "optimizer.newton_schulz_dtype": "float64"})
    torch.manual_seed(0)
    model = Speedrun(recipe)
    for key, p in model.named_parameters():
        if "c_proj" in key or "lm_head" in key:
            torch.nn.init.zeros_(p)
    model.double()
    golden, loop = load(name), Scalars(recipe, tokens(name), 2, steps)
    train(recipe, model, build_optimizers(recipe, model), loop)
    assert loop.train_loss == pytest.approx(golden["train_loss"][:steps], rel=1e-9)
    assert loop.grad_norm == pytest.approx(golden["grad_norm"][:steps], rel=1e-9)
    assert loop.scalars["grad_norm"].item() == pytest.approx(loop.grad_norm[-1], rel=1e-12)


@pytest.mark.parametrize("name", SMOKE)
def test_smoke_runs_repeat_the_losses_of_when_the_studies_ran(name, capsys):
    """In float32 to 2e-5, as tests/test_golden.py argues: 8 steps, between makes of CPU. Here bit for bit."""
    log = train_recipe(smoke(load_recipe(name))).log
    vals = [val["val_loss"] for val in events(log, "val")]
    log.unlink()
    assert all(math.isclose(a, b, rel_tol=2e-5) for a, b in zip(vals, SMOKE[name], strict=True))
