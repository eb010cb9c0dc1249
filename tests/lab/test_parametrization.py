"""Parametrization: the table's numbers, its refusals, and that at base width both kinds are the same run."""
import contextlib
import io
import math

import pytest
import torch

from lab.models.build import build_model
from lab.parametrization import check, lines, multipliers, replaced, role_of, table
from lab.recipe.load import make_recipe, replace
from lab.train import build_optimizers, train_recipe

HIDDEN = ("attention", "attention_out", "ffn_in", "ffn_out")


def recipe_of(kind="mup", d=128, base=32, **overrides):
    """Return a small recipe: width d, 4 d in the MLP, base widths base and 4 base."""
    values = {"model": {"n_layer": 2, "n_head": 2, "n_embd": d, "vocab_size": 61, "tied": False},
              "parametrization": {"kind": kind, "mup_base_hidden_size": base,
                                  "mup_base_filter_size": 4 * base},
              "optimizer": {"lr": 1e-2, "eps": 1e-8, "weight_decay": .1}, "data": {"seq_len": 16},
              "duration": {"steps": 3}}
    return make_recipe(values, {key.replace("__", "."): value for key, value in overrides.items()})


def test_mup_has_the_tables_factors():
    s, m, deep = .02, 4, math.sqrt(2 * 2)
    rows = table(recipe_of())
    expected = {"embedding": (1, s, 1, 1, 1), "position": (1, s, 1, 1, 1),
                "attention": (128, s / math.sqrt(m), 1 / m, m, 1 / m),
                "attention_out": (128, s / math.sqrt(m) / deep, 1 / m, m, 1 / m),
                "ffn_in": (128, s / math.sqrt(m), 1 / m, m, 1 / m),
                "ffn_out": (512, s / math.sqrt(m) / deep, 1 / m, m, 1 / m),
                "readout": (128, s, 1, 1, 1), "vector": (1, None, 1, 0, 1)}
    assert list(rows) == list(expected)
    for role, (fan_in, std, lr, decay, eps) in expected.items():
        row = rows[role]
        assert (row.fan_in, row.lr, row.weight_decay, row.eps) == (fan_in, lr, decay, eps), role
        assert std is None or row.std == pytest.approx(std, rel=1e-12), role


@pytest.mark.parametrize("overrides, column, expected", [
    ({"model__filter_size": 256, "parametrization__mup_base_filter_size": 32}, "width",
     {"ffn_in": 4, "ffn_out": 8}),
    ({"model__filter_size": 256, "parametrization__mup_base_filter_size": 32}, "lr",
     {"ffn_in": 1 / 4, "ffn_out": 1 / 8}),
    ({"parametrization__weight_decay": "unscaled"}, "weight_decay", {"attention": 1, "vector": 0}),
    ({"parametrization__scale_eps": False}, "eps", {"attention": 1, "ffn_out": 1}),
    ({"optimizer__name": "muon"}, "lr", dict.fromkeys((*HIDDEN, "embedding", "readout"), 1)),
    ({"optimizer__name": "muon"}, "weight_decay", dict.fromkeys(HIDDEN, 1)),
    ({"optimizer__name": "muon"}, "std", {"attention": .01, "attention_out": .005, "embedding": .02}),
    ({"optimizer__lr_factor": {"attention": .5, "readout": 3.0}}, "lr",
     {"attention": 1 / 8, "attention_out": 1 / 4, "readout": 3}),
    ({"model__residual_init": "scaled"}, "std", {"attention_out": .005, "ffn_out": .005, "attention": .01}),
    ({"model__residual_init": "plain"}, "std", {"attention_out": .01, "ffn_out": .01, "attention": .01}),
    ({"model__residual_init": "zero"}, "std", {"attention_out": 0, "ffn_out": 0, "attention": .01})])
def test_the_words_of_a_recipe_change_their_own_column(overrides, column, expected):
    rows = table(recipe_of(**overrides))
    assert {role: getattr(rows[role], column) for role in expected} == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("words, factor, expected", [
    ({}, "attention", math.sqrt(16) / 64),  # two heads at any width: 16 channels in the base, 64 here
    ({"model__head_dim": 64}, "attention", 1 / math.sqrt(64)),
    ({"parametrization__mup_base_head_dim": 16}, "attention", 4 / 64),
    ({"parametrization__scale_qk_dot_by_d": True}, "attention", 1 / 64),
    # alpha = sqrt(base head_dim) makes the guide's literal reading equal to ours
    ({"parametrization__scale_qk_dot_by_d": True, "parametrization__attention_logits_alpha": 4.0},
     "attention", 4 / 64),
    ({}, "output", 1 / 4), ({"parametrization__output_logits_alpha": 2.0}, "output", .5),
    ({"parametrization__scale_output_logits_by_d": False}, "output", .5),
    ({}, "embedding", 1), ({"parametrization__embeddings_scale": 10.0}, "embedding", 10)])
def test_factors_of_the_forward_pass(words, factor, expected):
    assert getattr(multipliers(recipe_of(**words)), factor) == expected


def test_standard_parametrization_is_the_table_with_ones():
    for d in (32, 128):
        rows = table(recipe_of("sp", d))
        assert {(row.width, row.lr, row.eps) for row in rows.values()} == {(1, 1, 1)}
        assert {row.std for row in rows.values()} == {.02, .02 / 2}
        assert multipliers(recipe_of("sp", d)) == (1, (d / 2) ** -.5, 1)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_lr_times_weight_decay_is_constant_in_width(name):
    products = [{role: row.lr * row.weight_decay for role, row in
                 table(recipe_of(d=d, optimizer__name=name)).items()} for d in (32, 64, 256, 1024)]
    assert all(product == products[0] for product in products)
    assert products[0]["attention"] == 1 and products[0]["vector"] == 0


def test_the_drawn_weights_have_the_tables_std_and_bounds():
    recipe = recipe_of(model__initializer={"name": "truncated_normal", "std": .08},
                       model__embedding_initializer={"std": .5})
    torch.manual_seed(1)
    model, rows = build_model(recipe), table(recipe)
    for name, p in model.named_parameters():
        row = rows[role_of(name)]
        if row.role == "vector":
            assert set(p.unique().tolist()) == ({1.0} if name.endswith("weight") else {0.0}), name
        elif row.role in ("embedding", "position"):
            assert p.std().item() == pytest.approx(.5, rel=.06)
        else:  # cut at two std, a normal's is .88 of what it was
            assert p.abs().max() <= 2 * row.std * (1 + 1e-6), name
            assert p.std().item() == pytest.approx(.8796 * row.std, rel=.04), name


@pytest.mark.parametrize("words, said", [
    *(({"kind": kind, word: 64}, "give both or neither") for kind in ("sp", "mup")
      for word in ("mup_base_hidden_size", "mup_base_filter_size")),
    ({"kind": "mup"}, "mup needs mup_base_hidden_size and mup_base_filter_size"),
    *(({word: value}, f"{word} without base sizes") for word, value in (
        ("embeddings_scale", 10.0), ("output_logits_alpha", 1.0), ("scale_output_logits_by_d", False),
        ("scale_qk_dot_by_d", True), ("attention_logits_alpha", 2.0),
        ("adjust_learning_rate", {"embedding": 1.0}))),
    ({"mup_base_hidden_size": 16, "mup_base_filter_size": 64, "adjust_learning_rate": {"decoder_kernel": .1}},
     "no group 'decoder_kernel'; there are embedding, decoder_attention")])
def test_words_that_cannot_go_together_are_refused(words, said):
    for use in (check, table, multipliers):
        with pytest.raises(ValueError, match=said):
            use(make_recipe({"parametrization": words}))


def test_factors_of_the_user_replace_the_automatic_ones_with_one_line_each(capfd):
    recipe = recipe_of(parametrization__adjust_learning_rate={"decoder_attention": .5, "embedding": 2.0})
    rows = table(recipe)
    assert [rows[role].lr for role in ("embedding", "position", *HIDDEN)] == [2, 2, .5, .5, 1 / 4, 1 / 4]
    assert rows["readout"].lr == 1
    said = ["adjust_learning_rate: decoder_attention 0.5 replaces the automatic 0.25",
            "adjust_learning_rate: embedding 2 replaces the automatic 1"]
    assert replaced(recipe) == said and lines(recipe)[-2:] == said
    assert replaced(recipe_of()) == []
    result = train_recipe(replace(recipe, model__vocab_size=None, data__batch_tokens=64, validations=1))
    result.log.unlink()
    printed = capfd.readouterr().out
    assert all(printed.count(line) == 1 for line in said)


@pytest.mark.parametrize("key, value", [
    ("model.tied", True), ("model.bias", True), ("model.activation", "gelu"), ("model.filter_size", 100),
    ("parametrization.embeddings_scale", 2.0), ("parametrization.attention_logits_alpha", 2.0)])
def test_what_the_submissions_model_does_not_have_is_refused(key, value):
    values = {"model": {"kind": "speedrun", "tied": False, "bias": False, "activation": "squared_relu"},
              "parametrization": {"kind": "mup", "mup_base_hidden_size": 32, "mup_base_filter_size": 128}}
    table(make_recipe(values))
    with pytest.raises(ValueError, match=f"{key.split('.')[1]}: found .*; the speedrun's model has"):
        table(make_recipe(values, {key: value}))


def after_three_steps(recipe):
    """Return all weights after three steps on random tokens, from seed 7."""
    torch.manual_seed(7)
    model = build_model(recipe)
    optimizers = build_optimizers(recipe, model)
    for _ in range(3):
        idx_BT = torch.randint(61, (4, 17))
        logits = model(idx_BT[:, :-1])
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), idx_BT[:, 1:].flatten())
        model.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step(loss.detach())
    return {name: p.detach() for name, p in model.named_parameters()}


@pytest.mark.parametrize("name", ["adamw", "muon"])
@pytest.mark.parametrize("d, changes", [
    (32, {}), (32, {"model__tied": True}),
    (32, {"model__initializer": {"name": "truncated_normal", "std": .08}}),
    (32, {"model__kind": "speedrun", "model__bias": False, "model__activation": "squared_relu",
          "model__residual_init": "zero", "model__readout_init": "zero"}),
    (32, {"model__kind": "latent", "model__bias": False, "parametrization__mup_base_filter_size": 64}),
    (64, {})], ids=["plain", "tied", "truncated", "speedrun", "latent", "wide"])
def test_at_base_width_and_nowhere_else_sp_and_mup_are_the_same_run_bit_for_bit(alone, name, d, changes):
    sp, mup = (after_three_steps(recipe_of(kind, d, optimizer__name=name, **changes))
               for kind in ("sp", "mup"))
    assert sp.keys() == mup.keys()
    keys = [key for key in sp if d == 32 or key.endswith("c_q.weight")]
    assert {torch.equal(sp[key], mup[key]) for key in keys} == {d == 32}


def test_at_base_width_the_whole_training_is_the_same_bit_for_bit():
    """The same through the harness: equal losses and equal weights, schedule, clipping and decay included.

    Muon's recipe has AdamW too.
    """
    runs = []
    for kind in ("sp", "mup"):
        recipe = recipe_of(kind, 32, optimizer__name="muon", optimizer__max_grad_norm=1.0,
                           model__vocab_size=None, schedule__kind="cosine", schedule__warmup_frac=.3,
                           data__batch_tokens=64)
        with contextlib.redirect_stdout(io.StringIO()):
            runs.append(train_recipe(replace(recipe, validations=1)))
        runs[-1].log.unlink()
    assert runs[0].val_loss == runs[1].val_loss
    assert all(torch.equal(a, b) for a, b in zip(runs[0].model.parameters(), runs[1].model.parameters()))
