"""Recipe: typed, one duration, errors of one line that name the closest; a dict gives it back."""
import dataclasses
import json

import pytest

from lab.__main__ import main
from lab.recipe.load import as_dict, load_recipe, make_recipe, replace, shipped, smoke
from lab.train import parse_overrides

FULL = {"name": "full", "model": {"kind": "gpt2", "tied": False, "embedding_initializer": {"std": .1}},
        "parametrization": {"kind": "mup", "mup_base_hidden_size": 32, "mup_base_filter_size": 128,
                            "adjust_learning_rate": {"embedding": 2.0}},
        "optimizer": {"name": "muon", "betas": [.8, .9], "lr_factor": {"readout": .5}},
        "schedule": {"kind": "cosine", "warmup_frac": .1, "roles": {"readout": {"kind": "constant"}},
                     "weight_decay": {"kind": "linear"}, "batch_tokens": [[0, 1024], [4096, 2048]],
                     "seq_len": [[0, 32]]}, "duration": {"tokens": 1e5}}


def wrong(values, overrides=None):
    """Return the one line that a recipe is refused with."""
    with pytest.raises(ValueError) as caught:
        make_recipe(values, overrides, "my.yaml")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", shipped())
def test_a_recipe_becomes_a_dict_and_comes_back(name):
    recipe = load_recipe(name)
    assert make_recipe(as_dict(recipe)) == recipe
    assert recipe.name == name


def test_a_recipe_with_everything_becomes_a_dict_and_comes_back():
    recipe = make_recipe(FULL)
    assert make_recipe(as_dict(recipe)) == recipe
    assert recipe.optimizer.betas == (.8, .9)
    assert recipe.schedule.roles["readout"].kind == "constant"
    assert make_recipe(as_dict(smoke(recipe))) == smoke(recipe)
    small = smoke(load_recipe("cerebras_2.7b"))  # what it does not shrink stays
    assert small.parametrization.embeddings_scale == 10
    assert small.model.initializer.name == "truncated_normal"
    assert small.model.n_embd / small.parametrization.mup_base_hidden_size == 2


def test_overrides_are_pairs():
    words = ["optimizer.lr", "3e-3", "schedule.warmup_tokens", "1.5e+6", "model.tied", "false",
             "data.micro_batch", "none", "optimizer.betas", "[0.8, 0.9]", "data.track", "lab"]
    overrides = {"optimizer.lr": "3e-3", "schedule.warmup_tokens": 1.5e6, "model.tied": False,
                 "data.micro_batch": None, "optimizer.betas": [.8, .9], "data.track": "lab"}
    assert parse_overrides(words) == overrides
    assert make_recipe({}, overrides).optimizer.lr == .003, "what YAML takes for text is a number here"
    with pytest.raises(ValueError, match="--override optimizer.lr has no value"):
        parse_overrides(["model.tied", "true", "optimizer.lr"])


def test_overrides_win_over_the_file():
    recipe = load_recipe("gpt_tiny", {"optimizer.lr": 3e-3, "schedule.warmup_tokens": 1e6})
    assert (recipe.optimizer.lr, recipe.schedule.warmup_tokens, recipe.model.n_layer) == (3e-3, 1e6, 2)
    assert recipe.optimizer.weight_decay == load_recipe("gpt_tiny").optimizer.weight_decay


@pytest.mark.parametrize("duration, value", [("tokens", 1e6), ("tokens_per_param", 20), ("flops", 1e12),
                                             ("epochs", .5), ("steps", 7)])
def test_a_duration_that_is_overridden_replaces_the_files(duration, value):
    found = load_recipe("gpt_tiny", {f"duration.{duration}": value}).duration
    assert {k: v for k, v in dataclasses.asdict(found).items() if v is not None} == {duration: value}


@pytest.mark.parametrize("duration", ["tokens", "tokens_per_param", "flops", "epochs"])
def test_a_file_may_say_any_duration(duration):
    """The default's steps once stayed beside what the file says, and every such file was refused."""
    found = make_recipe({"duration": {duration: 3}}).duration
    assert getattr(found, duration) == 3 and found.steps is None


SEQUENCES = {"data": {"batch_sequences": 8, "seq_len": 32}}


@pytest.mark.parametrize("overrides, batch", [
    ({}, (256, 8)), ({"data.seq_len": 64}, (512, 8)), ({"data.batch_sequences": 4}, (128, 4)),
    ({"data.batch_tokens": 512}, (512, None)), ({"data.batch_tokens": 512, "data.seq_len": 64}, (512, None)),
    ({"data.batch_sequences": 4, "data.seq_len": 16}, (64, 4))], ids=str)
def test_a_batch_of_sequences_is_so_many_tokens_until_tokens_are_overridden(overrides, batch):
    for values in (SEQUENCES, as_dict(make_recipe(SEQUENCES))):
        found = make_recipe(values, overrides)
        assert (found.data.batch_tokens, found.data.batch_sequences) == batch
        assert make_recipe(as_dict(found)) == found
    assert make_recipe({"data": {"batch_tokens": 512}}, {"data.batch_sequences": 2}).data.batch_tokens == 256
    assert smoke(make_recipe(SEQUENCES)).data.batch_sequences is None


def test_a_recipe_from_another_gives_its_batch_in_either_way(tmp_path):
    for parent, batch, expected in (("gpt_full", "batch_tokens: 512", (512, None)),
                                    ("gpt_tiny", "batch_sequences: 2", (256, 2))):
        (path := tmp_path / "mine.yaml").write_text(f"from: {parent}\ndata: {{{batch}}}\n")
        data = load_recipe(str(path)).data
        assert (data.batch_tokens, data.batch_sequences) == expected


@pytest.mark.parametrize("overrides, words", [
    ({"optimizer.lrr": 1.0}, "--override: unknown key optimizer.lrr; the closest is optimizer.lr"),
    ({"optimiser.lr": 1.0}, "--override: unknown key optimiser; the closest is optimizer"),
    ({"warmup_tokens": 1.0}, "--override: unknown key warmup_tokens; the closest is schedule.warmup_tokens"),
    ({"model.nlayer": 1}, "--override: unknown key model.nlayer; the closest is model.n_layer")])
def test_an_unknown_override_names_the_closest_key(overrides, words):
    assert wrong({}, overrides).startswith(words)


@pytest.mark.parametrize("key, value, expected", [
    ("optimizer.lr", "fast", "a number above 0"), ("model.n_layer", 2.5, "a whole number above 0"),
    ("schedule.kind", "wavy", "one of constant, linear"),
    ("optimizer.lr_factor", {"embedding": "big"}, "names"),
    ("model.initializer.name", "uniform", "one of normal, truncated_normal"),
    ("model.tied", "perhaps", "true or false"), ("model.vocab_size", 2.5, "a whole number above 0"),
    ("model.kind", "gpt5", "one of gpt2, speedrun, latent, submission"),
    ("optimizer.betas", [.9], "[a number from 0 to below"),
    ("schedule.batch_tokens", [[0]], "[[a number, a whole number above 0], ...]"),
    ("schedule.roles", 3, "names, each with keys of its own"), ("validations", "x", "a whole")])
def test_a_wrong_value_is_named_with_what_was_found_and_expected(key, value, expected):
    words = f": {key}: found {value!r}, expected {expected}"
    assert f"--override{words}" in wrong({}, {key: value})
    *above, last = key.split(".")
    values = {last: value}
    for word in reversed(above):
        values = {word: values}
    assert f"my.yaml{words}" in wrong(values)


def test_numbers_are_plain_whatever_the_schemas_types_and_whole_ones_may_be_written_as_1e6():
    """Types of the parser's own end up in an optimizer's state, which no checkpoint may hold."""
    recipe = make_recipe(FULL, {"duration.steps": 1e6, "optimizer.lr": "3e-3"})
    assert (recipe.duration.steps, recipe.optimizer.lr) == (1_000_000, .003)
    values = [recipe.duration.steps, recipe.optimizer.lr, *recipe.optimizer.betas,
              *recipe.optimizer.lr_factor.values(), *recipe.schedule.batch_tokens[0]]
    assert {type(value) for value in values} == {int, float}
    assert type(replace(recipe, optimizer__momentum=.5).optimizer.momentum) is float


@pytest.mark.parametrize("values, words", [
    ({"model": {"n_embed": 3}}, "my.yaml: unknown key model.n_embed; the closest is model.n_embd"),
    ({"schedule": {"kindd": 3}}, "my.yaml: unknown key schedule.kindd; the closest is schedule.kind"),
    ({"model": 3}, "model: found 3, expected keys of its own"),
    ({"duration": {"steps": 5, "tokens": 10}}, "found steps and tokens, expected exactly one"),
    ({"duration": {"steps": 0}}, "duration.steps: found 0, expected"),
    ({"duration": {"flops": -1.0}}, "duration.flops: found -1.0, expected"),
    ({"duration": {"steps": None}},
     "found nothing, expected exactly one of steps, tokens, tokens_per_param, flops"),
    ({"model": {"n_embd": 65, "n_head": 2}}, "65 is not a multiple of n_head = 2"),
    ({"model": {"n_layer": 0}}, "my.yaml: model.n_layer: found 0, expected a whole number above 0"),
    ({"model": {"head_dim": -16}}, "model.head_dim: found -16"),
    ({"data": {"seq_len": 0}}, "seq_len: found 0"),
    ({"optimizer": {"lr": float("inf")}}, "lr: found inf"), ({"validations": -3}, "validations: found -3"),
    ({"duration": {"flops": float("inf")}}, "duration.flops: found inf"),
    ({"schedule": {"timescale_tokens": 0}}, "timescale_tokens: found 0"),
    ({"schedule": {"warmup_frac": 2}}, "warmup_frac: found 2"),
    ({"schedule": {"warmup_tokens": -1}}, "warmup_tokens: found -1"),
    ({"optimizer": {"betas": [0.9, 1.0]}}, "betas: found [0.9, 1.0], expected [a number from 0 to below 1"),
    ({"optimizer": {"eps": -1}}, "eps: found -1"),
    ({"optimizer": {"lr_factor": {"embedding": -2}}},
     "lr_factor: found {'embedding': -2}, expected names, each with a number of at least 0"),
    ({"schedule": {"roles": {"readout": {"cooldown_frac": 2}}}},
     "my.yaml: schedule.roles.readout.cooldown_frac: found 2, expected a number from 0 to 1"),
    ({"duration": None}, "duration: found None, expected keys"),
    ({"schedule": {"seq_len": [[2048, 64], [0, 32]]}}, "expected [[tokens seen, value], ...]"),
    ({"schedule": {"seq_len": [[0, 32]]}, "duration": {"flops": 1e9}}, "duration.flops with a schedule"),
    ({"data": {"batch_sequences": 8, "batch_tokens": 512}},
     "my.yaml: data: found batch_tokens 512 and 8 batch_sequences of 128 tokens, expected one of the two"),
    ({**SEQUENCES, "schedule": {"seq_len": [[0, 16]]}}, "data.batch_sequences: a schedule changes"),
    ({**SEQUENCES, "schedule": {"batch_tokens": [[0, 64]]}}, "data.batch_sequences: a schedule changes"),
    ({"optimizer": {"lr_factor": {"head": 2.0}}}, "optimizer.lr_factor: no role 'head'; there are embedding"),
    ({"schedule": {"roles": {"head": {}}}}, "schedule.roles: no role 'head'"),
    ({"schedule": {"warmup_tokens": 5, "warmup_frac": .1}}, "found warmup_tokens and warmup_frac"),
    ({"schedule": {"roles": {"readout": {"warmup_tokens": 5, "warmup_frac": .1}}}}, "at most one")])
def test_what_is_unknown_out_of_range_or_cannot_go_together_is_refused(values, words):
    assert words in wrong(values)


def test_replace_writes_a_dot_as_two_underscores():
    recipe = load_recipe("gpt_tiny")
    other = replace(recipe, optimizer__lr=.5, duration__tokens=1e5)
    assert (other.optimizer.lr, other.duration.steps, other.duration.tokens) == (.5, None, 1e5)
    assert replace(other, optimizer__lr=recipe.optimizer.lr, duration__steps=2000) == recipe


@pytest.mark.parametrize("text, words", [
    ("a: [", "not YAML"), ("- 1", "found list, expected `key: value` lines"), ("", "found NoneType"),
    ("\x00", "not YAML"), ("model: {n_layer: 1, n_layer: 2}", "n_layer stands twice"),
    ("[" * 5000, "not YAML"), ("3", "found int")],
    ids=["open bracket", "list", "empty", "zero byte", "twice", "deep", "number"])
def test_a_file_that_is_no_recipe_is_refused_in_one_line(tmp_path, text, words):
    (path := tmp_path / "x.yaml").write_text(text)
    with pytest.raises(ValueError) as caught:
        load_recipe(str(path))
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_of_ones_own_is_a_recipe_by_its_path(tmp_path):
    (path := tmp_path / "mine.yaml").write_text("model: {n_layer: 3}\nduration: {tokens: 5e4}\n")
    recipe = load_recipe(str(path))
    assert (recipe.name, recipe.model.n_layer, recipe.duration.tokens) == ("mine", 3, 5e4)


def test_the_command_shows_recipe_costs_and_table(capsys):
    assert main(["recipe", "--config", "cerebras_111m", "--override", "duration.steps", "10"]) == 0
    shown = capsys.readouterr().out
    for words in ("n_embd: 768", "duration: {steps: 10}", "parameters  111,050,496 (444.2 MB)",
                  "steps       10", "forward: embedding x 10, q.k x 0.01562, logits x 0.3333"):
        assert words in shown, words
    assert "None" not in shown and "null" not in shown


def test_the_command_shows_the_same_as_json(capsys):
    assert main(["recipe", "--config", "gpt_tiny", "--smoke", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert make_recipe(shown["recipe"]) == smoke(load_recipe("gpt_tiny"))
    assert shown["costs"]["steps"] == 8
    assert [row["role"] for row in shown["table"]][:2] == ["embedding", "position"]


@pytest.mark.parametrize("words", [
    "gpt_tinny", "gpt_tiny --override modell.x 1", "no/such.yaml", "gpt_tiny --override optimizer.lr",
    "gpt_tiny --override duration.tokens 5"])
def test_bad_input_is_one_line_and_exit_code_2(capsys, words):
    assert main(["recipe", "--config", *words.split()]) == 2
    out, err = capsys.readouterr()
    assert not out and err.startswith("lab recipe: ") and err.count("\n") == 1
    assert words != "gpt_tinny" or "unknown recipe or file gpt_tinny; the closest is gpt_tiny\n" in err
