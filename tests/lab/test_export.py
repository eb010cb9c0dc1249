"""lab/models/export.py and exported.py: the lab's GPT-2 under transformers' names has the same logits."""
import io
import json
import runpy
import sys

import pytest
import torch

from data import bpe
from harness.track import ROOT
from harness.weights import serialized
from lab.models import export, exported
from lab.models.build import build_model
from lab.recipe.load import as_dict, load_recipe

VOCABULARY = ROOT / "data" / "sample" / "vocab.bpe"
MUP = {"parametrization.kind": "mup", "parametrization.mup_base_hidden_size": 16,
       "parametrization.mup_base_filter_size": 64, "parametrization.embeddings_scale": 4.0,
       "parametrization.output_logits_alpha": 2.0, "parametrization.scale_qk_dot_by_d": True}
CASES = {
    "tied, without biases": ("gpt_tiny", {}),
    "mup, every factor": ("gpt_tiny", MUP),
    "untied, biases, squared ReLU": ("gpt_tiny", {
        "model.tied": False, "model.bias": True, "model.filter_size": 48,
        "model.activation": "squared_relu"}),
}


def model_of(case: str):
    """Return a case's recipe and its model, no entry of which is 0."""
    name, overrides = CASES[case]
    recipe = load_recipe(name, overrides)
    torch.manual_seed(0)
    model = build_model(recipe)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p), alpha=0.1)
    return recipe, model


@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_the_lab(case):
    """Within 1e-5 of logits of about 1 to 30: factors are applied in another order."""
    recipe, model = model_of(case)
    config = export.config_of(recipe, model)
    plain = exported.GPT(config)
    plain.load_state_dict(export.state_of(model), strict=not config["tie_word_embeddings"])
    assert config["tie_word_embeddings"] == (case == "tied, without biases")
    ids = torch.randint(4096, (2, recipe.data.seq_len))
    with torch.no_grad():
        torch.testing.assert_close(plain(ids), model(ids), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_the_tokenizer_of_transformers_gives_the_same_ids(tmp_path):
    transformers = pytest.importorskip("transformers", reason="python -m pip install transformers")
    bpe.main(str(VOCABULARY), str(tmp_path))
    text = "Call me Ishmael.\n\n  Some years ago - never mind how long é 😀 12,345"
    theirs = transformers.GPT2Tokenizer.from_pretrained(tmp_path)
    assert theirs(text)["input_ids"] == bpe.encoder(VOCABULARY)(text)
    assert theirs.eos_token_id == 4095 == len(theirs) - 1


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_the_stock_class_of_transformers_has_the_same_logits(case, tmp_path, monkeypatch):
    """Skipped where the package is missing: python -m pip install transformers."""
    transformers = pytest.importorskip("transformers", reason="python -m pip install transformers")
    recipe, model = model_of(case)
    weights = tmp_path / "weights"
    weights.write_bytes(b"".join(serialized(model)))
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(as_dict(recipe))))
    export.main(str(weights), str(tmp_path))
    theirs, said = transformers.GPT2LMHeadModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(said.values())
    ids = torch.randint(4096, (2, recipe.data.seq_len))
    with torch.no_grad():
        torch.testing.assert_close(theirs.eval()(ids).logits, model(ids), rtol=1e-5, atol=1e-5)


def test_a_recipe_larger_than_its_weights_is_refused_before_it_is_built(tmp_path, monkeypatch):
    """A log with a million layers filled the memory."""
    recipe, model = model_of("tied, without biases")
    weights = tmp_path / "weights"
    weights.write_bytes(b"".join(serialized(model)))
    words = as_dict(recipe)
    monkeypatch.setattr(export, "build_model", lambda recipe: pytest.fail("it was built"))
    for name in ("n_layer", "n_embd"):
        odd = {**words, "model": {**words["model"], name: 1 << 20}}
        monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(odd)))
        with pytest.raises(ValueError, match="bytes of weights, expected those of the recipe's"):
            export.main(str(weights), str(tmp_path / "out"))


def test_a_recipe_that_is_none_gets_one_line(tmp_path, monkeypatch):
    """It was a traceback."""
    monkeypatch.setattr("sys.stdin", io.StringIO('{"model.kind": 1}'))
    monkeypatch.setattr("sys.argv", ["export", str(tmp_path / "none"), str(tmp_path)])
    monkeypatch.delitem(sys.modules, "lab.models.export")
    with pytest.raises(SystemExit, match="^lab.models.export: recipe: model.kind"):
        runpy.run_module("lab.models.export", run_name="__main__")
