"""Guide: the muP guide's own YAML becomes a recipe whose table has the guide's numbers."""
import copy

import pytest
import yaml

from lab.parametrization import lines, multipliers, table
from lab.recipe import costs
from lab.recipe.guide import from_guide
from lab.recipe.load import load_recipe, replace

INITIALIZER = {"name": "truncated_normal", "mean": 0.0, "std": .08, "a": -.16, "b": .16}
GUIDE = {"trainer": {  # keys and numbers of Cerebras-GPT 2.7B by muP
    "init": {
        "backend": {"backend_type": "CSX"},
        "model": {
            "name": "gpt3", "hidden_size": 2560, "num_hidden_layers": 32, "num_heads": 32,
            "filter_size": 10240, "vocab_size": 50257, "max_position_embeddings": 2048,
            "position_embedding_type": "learned", "share_embedding_weights": True, "dropout_rate": 0.0,
            "attention_dropout_rate": 0.0,
            "layer_norm_epsilon": 1e-5, "attention_type": "scaled_dot_product", "nonlinearity": "gelu",
            "use_projection_bias_in_attention": True, "use_ffn_bias_in_attention": True, "use_ffn_bias": True,
            "use_bias_in_output": False, "loss_scaling": "num_tokens", "loss_weight": 1.0,
            "embedding_initializer": INITIALIZER, "initializer": INITIALIZER,
            "output_layer_initializer": INITIALIZER, "mup_base_hidden_size": 256,
            "mup_base_filter_size": 1024, "embeddings_scale": 10, "output_logits_alpha": 1.0,
            "scale_qk_dot_by_d": True},
        "optimizer": {"AdamW": {"betas": [.9, .95], "eps": 1e-8, "weight_decay": .1, "correct_bias": True}},
        "schedulers": [{"SequentialLR": {"schedulers": [
            {"LinearLR": {"initial_learning_rate": 0.0, "end_learning_rate": .006, "total_iters": 346}},
            {"CosineDecayLR": {"initial_learning_rate": .006, "end_learning_rate": .0006,
                               "total_iters": 48695}}]}}],
        "precision": {"enabled": True, "fp16_type": "bfloat16", "max_gradient_norm": 1.0},
        "loop": {"max_steps": 49041, "eval_frequency": 2000},
        "checkpoint": {"steps": 2000}, "logging": {"log_steps": 1}, "callbacks": [{"ComputeNorm": {}}]},
    "fit": {"train_dataloader": {"data_processor": "GptHDF5DataProcessor", "batch_size": 528,
                                 "num_workers": 1},
            "val_dataloader": {"batch_size": 66}},
    "validate": {"val_dataloader": {"batch_size": 66}}}}


def flat():
    """Return the same in the layout before `trainer`, with its older spellings."""
    init, fit = copy.deepcopy(GUIDE["trainer"]["init"]), GUIDE["trainer"]["fit"]
    model = {**init["model"], "mixed_precision": True, "fp16_type": "bfloat16"}
    del model["name"]
    return {"train_input": fit["train_dataloader"], "eval_input": fit["val_dataloader"], "model": model,
            "optimizer": {"optimizer_type": "AdamW", "beta1": .9, "beta2": .95, "eps": 1e-8,
                          "max_gradient_norm": 1.0, "weight_decay_rate": .1, "learning_rate": [
                              {"scheduler": "Linear", "initial_learning_rate": 0.0, "end_learning_rate": .006,
                               "steps": 346},
                              {"scheduler": "CosineDecay", "initial_learning_rate": .006,
                               "end_learning_rate": .0006, "total_iters": 48695}]},
            "runconfig": {"max_steps": 49041, "log_steps": 1}}


def load(tmp_path, values):
    (path := tmp_path / "cerebras_2.7b.yaml").write_text(yaml.safe_dump(values))
    return load_recipe(str(path))


def changed(path, value, base=GUIDE):
    """Return the guide's config with one key changed, removed (None) or added."""
    values = copy.deepcopy(base)
    *above, last = path.split(".")
    place = values
    for word in above:
        place = place[word]
    place[last] = value
    if value is None:
        del place[last]
    return values


@pytest.mark.parametrize("values", [GUIDE, flat()], ids=["trainer", "flat"])
def test_both_layouts_are_the_shipped_recipe_but_for_its_validations(tmp_path, values):
    found, shipped = load(tmp_path, values), load_recipe("cerebras_2.7b")
    assert found.schedule.final == pytest.approx(shipped.schedule.final)
    assert found == replace(shipped, data__micro_batch=None, model__initializer=INITIALIZER,
                            model__embedding_initializer=INITIALIZER, duration__steps=49041,
                            schedule__final=found.schedule.final)
    assert costs.total_tokens(found) == costs.total_tokens(shipped)
    assert found.schedule.end_tokens is None  # 346 + 48,695 are all the steps


def test_the_table_printed_for_it_has_the_guides_numbers(tmp_path):
    recipe = load(tmp_path, GUIDE)
    rows = table(recipe)
    for role in ("attention", "attention_out", "ffn_in", "ffn_out"):
        assert rows[role].lr == pytest.approx(.1) and rows[role].width == 10
    printed = [line.split() for line in lines(recipe)]
    assert printed[1:8] == [
        ["embedding", "1", "1", "0.08", "1", "1", "1"], ["position", "1", "1", "0.08", "1", "1", "1"],
        ["attention", "2560", "10", "0.0253", "0.1", "1", "1"],
        ["attention_out", "2560", "10", "0.003162", "0.1", "1", "1"],
        ["ffn_in", "2560", "10", "0.0253", "0.1", "1", "1"],
        ["ffn_out", "10240", "10", "0.003162", "0.1", "1", "1"],
        ["vector", "1", "1", "1", "or", "0", "1", "0", "1"]]
    assert " ".join(printed[8]) == "forward: embedding x 10, q.k x 0.0125, logits x 0.1"


@pytest.mark.parametrize("place", ["before", "after", "inside", "flat"])
def test_rate_factors_of_groups_count_wherever_they_stand(tmp_path, place):
    """Behind AdamW they were once lost in silence; before it, where the guide has them, refused."""
    factors, values = {"decoder_attention": .3, "embedding": .5}, copy.deepcopy(GUIDE)
    init = values["trainer"]["init"]
    if place == "inside":
        init["optimizer"]["AdamW"]["adjust_learning_rate"] = factors
    else:
        pair = [("adjust_learning_rate", factors), *init["optimizer"].items()]
        init["optimizer"] = dict(pair if place == "before" else pair[::-1])
    if place == "flat":
        values = flat()
        values["optimizer"]["adjust_learning_rate"] = factors
    rows = table(load(tmp_path, values))
    assert [rows[role].lr for role in ("attention", "attention_out", "embedding", "position", "ffn_in")] == [
        .3, .3, .5, .5, pytest.approx(.1)]


def test_what_stands_beside_the_guides_optimizer_is_read_or_refused(tmp_path):
    for beside, words in (({"beta3": .9}, "key optimizer.beta3"), ({"eps": 1e-6}, "eps stands inside"),
                          ({"SGD": {}}, "key optimizer.SGD")):
        values = copy.deepcopy(GUIDE)
        values["trainer"]["init"]["optimizer"].update(beside)
        with pytest.raises(ValueError, match=words):
            load(tmp_path, values)


def test_keys_about_the_host_are_ignored_in_one_line(tmp_path, capsys):
    load(tmp_path, GUIDE)
    out, err = capsys.readouterr()
    assert not out and err.count("\n") == 1
    assert err.startswith("cerebras_2.7b.yaml: ignored, about the host: ")
    for word in ("backend", "checkpoint", "logging", "num_workers", "eval_frequency", "validate"):
        assert word in err
    assert "hidden_size" not in err


@pytest.mark.parametrize("key, value, words", [
    ("init.model.hidden_sise", 3, "unknown key model.hidden_sise; the closest is model.hidden_size"),
    ("init.model.output_logits_scale", .1, "output_logits_scale; the closest is model.output_logits_alpha"),
    ("init.optimizer.AdamW.beta3", .9, "unknown key optimizer.beta3; the closest is optimizer.beta"),
    ("init.modell", {}, "unknown key trainer.init.modell; the closest is trainer.init.model"),
    ("init.precision.max_grad_norm", 1.0, "max_grad_norm; the closest is precision.max_gradient_norm"),
    ("init.loop.max_step", 5, "unknown key loop.max_step; the closest is loop.max_steps"),
    ("init.model.position_embedding_type", "alibi", "found 'alibi', the lab's GPT-2 and AdamW have"),
    ("init.model.dropout_rate", .1, "dropout_rate: found 0.1"),
    ("init.model.use_ffn_bias", False, "use_ffn_bias: found False"),
    ("init.model.hidden_size", None, "model.hidden_size: found None, expected a whole"),
    ("init.loop.max_steps", None, "loop.max_steps: found None, expected a whole"),
    ("fit.train_dataloader.batch_size", "many", "data.batch_size: found 'many', expected a whole number"),
    ("init.model.nonlinearity", "swiglu", "activation"),
    ("init.optimizer", {"SGD": {"momentum": .9}}, "optimizer: found SGD, the lab takes the guide's AdamW"),
    ("init.schedulers", [{"PiecewiseConstantLR": {}}], "found PiecewiseConstantLR; expected one of"),
    ("init.schedulers", None, "schedulers: found nothing"),
    ("init.model.initializer", "xavier_uniform", "initializer: found 'xavier_uniform', expected name, mean"),
    ("init.model.output_layer_initializer", {**INITIALIZER, "std": .003}, "std 0.003, expected 0.08"),
    ("init.model.mup_base_filter_size", None, "give both or neither"),
    ("init.optimizer.AdamW.adjust_learning_rate", {"decoder_kernel": .1}, "no group 'decoder_kernel'")])
def test_what_is_unknown_or_not_the_labs_is_refused_in_one_line(tmp_path, key, value, words):
    with pytest.raises(ValueError) as caught:
        table(load(tmp_path, changed(f"trainer.{key}", value)))
    assert words in str(caught.value) and "\n" not in str(caught.value)


def places(values, path=()):
    """Yield the path of every mapping, list and value inside."""
    for key, value in values.items() if isinstance(values, dict) else enumerate(values):
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from places(value, (*path, key))


@pytest.mark.parametrize("junk", [None, 5, -1.5, 0, "x", True, [], {}, [3], {"x": 3}], ids=str)
@pytest.mark.parametrize("values", [GUIDE, flat()], ids=["trainer", "flat"])
def test_whatever_stands_where_it_is_read_or_refused_in_one_line(values, junk):
    for path in places(values):
        broken = copy.deepcopy(values)
        place = broken
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = junk
        try:
            from_guide(broken, "x.yaml")
        except ValueError as error:
            assert "\n" not in str(error), path


def test_learning_rate_factors_of_the_user_reach_the_table(tmp_path):
    adjusted = {"decoder_attention": .5, "embedding": 2.0}
    recipe = load(tmp_path, changed("trainer.init.optimizer.AdamW.adjust_learning_rate", adjusted))
    rows = table(recipe)
    assert [rows[role].lr for role in ("embedding", "attention", "ffn_in")] == [2, .5, pytest.approx(.1)]
    assert len([line for line in lines(recipe) if "replaces the automatic" in line]) == 2


def test_attention_is_divided_by_d_under_mup_also_where_the_file_is_silent(tmp_path):
    recipe = load(tmp_path, changed("trainer.init.model.scale_qk_dot_by_d", None))
    assert multipliers(recipe).attention == 1 / 80
    assert load_recipe(str(tmp_path / "cerebras_2.7b.yaml"), {"model.n_layer": 2}).model.n_layer == 2


def test_without_base_sizes_it_is_standard_parametrization(tmp_path):
    """output_layer_initializer is literal then: divided by sqrt(2 L) already, or plain."""
    values = copy.deepcopy(GUIDE)
    model = values["trainer"]["init"]["model"]
    for word in ("mup_base_hidden_size", "mup_base_filter_size", "embeddings_scale", "output_logits_alpha",
                 "scale_qk_dot_by_d"):
        del model[word]
    assert load(tmp_path, values).model.residual_init == "plain"
    model["output_layer_initializer"] = {**INITIALIZER, "std": .01}
    recipe = load(tmp_path, values)
    assert (recipe.parametrization.kind, recipe.model.residual_init) == ("sp", "scaled")
    assert table(recipe)["ffn_out"].std == pytest.approx(.01)
    assert multipliers(recipe) == (1, pytest.approx(80 ** -.5), 1)
