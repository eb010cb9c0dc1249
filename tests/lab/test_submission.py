"""The model kind `submission`: whatever GPT(hp) stands in train_gpt2.py, asked for by a recipe alone."""
import sys

import pytest
import torch
from tiny import record_script

from lab.models import submission
from lab.models.build import build_model
from lab.recipe.load import load_recipe
from lab.train import train_recipe

SMALL = {"model.n_embd": 32, "data.seq_len": 16, "data.batch_tokens": 256, "duration.steps": 2,
         "validations": 1}


@pytest.fixture
def script(tmp_path, monkeypatch):
    """A place for the script; the module is forgotten afterwards, as another process would."""
    monkeypatch.setattr(submission, "SCRIPT", tmp_path / "train_gpt2.py")
    yield submission.SCRIPT
    sys.modules.pop("train_gpt2", None)


def test_it_starts_as_the_submission_does_and_trains(script, capsys):
    script.write_text(record_script())
    recipe = load_recipe("submission", SMALL)
    torch.manual_seed(3)
    model = build_model(recipe)
    own = sys.modules["train_gpt2"]
    torch.manual_seed(3)
    theirs = own.GPT(own.Hyperparameters(vocab_size=4096, n_layer=2, n_head=1, n_embd=32, dtype="float32",
                                         seq_len=16))
    for (name, p), (_, q) in zip(model.named_parameters(), theirs.named_parameters(), strict=True):
        assert torch.equal(p, q), name
    assert train_recipe(recipe).val_loss < 8.3178, "it learns"


@pytest.mark.parametrize("text, words", [
    (None, "there is no train_gpt2.py"), ("x = 1\n", "AttributeError.*RECIPES"),
    ("1 / 0\n", "ZeroDivisionError"),
    ("from dataclasses import dataclass\n\n@dataclass\nclass Hp:\n    a: int = 1\n\nRECIPES = {'x': Hp()}\n",
     "has no attribute 'GPT'")])
def test_what_is_no_submission_is_said_in_one_line(script, text, words):
    if text:
        script.write_text(text)
    with pytest.raises(ValueError, match=f"model.kind submission: .*{words}"):
        build_model(load_recipe("submission", SMALL))


def test_its_parametrization_is_the_standard_one(script):
    script.write_text(record_script())
    with pytest.raises(ValueError, match="it starts as it likes"):
        build_model(load_recipe("submission", {**SMALL, "parametrization.mup_base_hidden_size": 16,
                                               "parametrization.mup_base_filter_size": 64}))
