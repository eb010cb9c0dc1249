"""PyLO: the commands of its language-model page load as typed, and are recipes that ship."""
import json
import math
import shlex

import pytest
import torch
from networks import write_all

from lab.__main__ import main
from lab.models.build import build_model
from lab.recipe import costs
from lab.recipe.load import load_recipe, make_recipe, replace
from lab.train import parse_overrides, train_recipe

COMMANDS = {  # a recipe that ships: a command of the page behind `train.py`, its lines joined
    "pylo_410m_velo": """--config 'config' --override optimizer_name VeLO
        model_name gpt2_410m_w1024_d24_h16 init_lr 1.0 compile True gas 8 batch_size 8
        suffix "_10B_tokens_FINAL_qkv" iters_max 19073 use_lr_scheduler False use_mixed_precision True
        OPTIM.max_grad_norm 1.0 MODEL.GPT2.attn_type 'separate_kqv' seed 1""",
    "pylo_410m_mulo": """--config 'config' --override optimizer_name MuLO_cuda
        model_name gpt2_410m_w1024_d24_h16 init_lr 1.0 compile True gas 8 batch_size 8
        suffix "_10B_tokens_FINAL_qkv" iters_max 19073 use_lr_scheduler False use_mixed_precision True
        OPTIM.max_grad_norm 1.0 MODEL.GPT2.attn_type 'separate_kqv' seed 1""",
    "pylo_410m_adamw_schedule_decay": """--config 'config' --override optimizer_name AdamW
        model_name gpt2_410m_w1024_d24_h16 init_lr 0.001 compile True gas 8 batch_size 8
        suffix "_10B_tokens_adamw_cosine_FINAL_qkv" iters_max 19073 use_lr_scheduler True warmup_ratio 0.02
        use_mixed_precision True MODEL.GPT2.attn_type 'separate_kqv' seed 1""",
    # headed VeLO + schedule, but its words are those of muLO without one
    "pylo_124m_mulo": """--config 'config' --override optimizer_name MuLO_cuda
        model_name gpt2_small init_lr 1.0 compile True gas 2 batch_size 32
        suffix "_10B_tokens_FINAL_qkv_sched_wd_0.0001" iters_max 19073 use_lr_scheduler False
        use_mixed_precision True MODEL.GPT2.attn_type 'separate_kqv' OPTIM.max_grad_norm 1.0 seed 42""",
    "pylo_124m_mulo_schedule_decay": """--config 'config' --override optimizer_name MuLO_cuda
        model_name gpt2_small init_lr 1.0 compile True gas 2 batch_size 32
        suffix "_10B_tokens_FINAL_qkv_sched_wd_0.0001" iters_max 19073 use_lr_scheduler True
        use_mixed_precision True MODEL.GPT2.attn_type 'separate_kqv' OPTIM.weight_decay 0.0001
        OPTIM.max_grad_norm 1.0 seed 42"""}
VELO_JOB = """optimizer_name VeLO model_name gpt2_small init_lr 1.0 compile True gas 2 batch_size 8
    suffix "_10B_tokens_FINAL_qkv_sched" iters_max 19073 use_lr_scheduler True use_mixed_precision True
    OPTIM.max_grad_norm 1.0 MODEL.GPT2.attn_type 'separate_kqv' seed 1"""
SIZES = {"124m": "iters_max 19073 model_name gpt2_small gas 2 batch_size 32",
         "410m": "iters_max 19073 model_name gpt2_medium gas 8 batch_size 8"}
KINDS = {"adamw": "optimizer_name AdamW init_lr 0.001 warmup_ratio 0.02 OPTIM.AdamW.weight_decay",
         "mulo": "optimizer_name MuLO_naive init_lr 1.0 OPTIM.max_grad_norm 1.0 OPTIM.weight_decay",
         "velo": "optimizer_name VeLO init_lr 1.0 OPTIM.max_grad_norm 1.0 OPTIM.weight_decay"}


def words(text):
    return parse_overrides(shlex.split(text))


def same(recipe, name):
    """Is it the shipped recipe, but for its name?"""
    return replace(recipe, name=name) == load_recipe(name)


@pytest.mark.parametrize("name, typed", COMMANDS.items())
def test_each_command_of_the_page_is_shown_as_typed_and_is_a_recipe_that_ships(name, typed, capsys):
    assert main(["recipe", "--json", *shlex.split(typed)]) == 0
    out, err = capsys.readouterr()
    recipe = make_recipe(json.loads(out)["recipe"])
    assert same(recipe, name)
    assert recipe.data.batch_tokens == 524_288 and recipe.data.track == "lab_fineweb_edu"
    with torch.device("meta"):
        model = build_model(recipe)
    assert sum(p.numel() for p in model.parameters()) == costs.parameters(recipe).total
    for word, value in words(typed.partition("--override")[2]).items():
        assert f"--config config: {word} {value} -> " in err
    errs = "the suffix says otherwise than the words, which count: 1e+10 tokens, weight decay 0.0, rate con"
    assert (errs in err) == (name == "pylo_124m_mulo")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_words_of_size_optimizer_schedule_and_decay_are_the_recipes_that_ship(size, kind, capsys):
    for more, curve, decay in (("", False, 0.0), ("_schedule", True, 0.0),
                               ("_schedule_decay", True, .01 if kind == "adamw" else 1e-4)):
        given = words(f"{KINDS[kind]} {decay} {SIZES[size]} use_lr_scheduler {curve}")
        assert same(load_recipe("config", given), f"pylo_{size}_{kind}{more}")
    assert "always so" not in capsys.readouterr().err


def test_the_pages_job_for_velo_at_124m_says_that_it_takes_a_quarter_of_its_tokens(capsys):
    recipe = load_recipe("config", words(VELO_JOB))
    assert recipe.data.batch_tokens == 131_072
    assert same(replace(recipe, data__batch_tokens=524_288, data__micro_batch=32), "pylo_124m_velo_schedule")
    assert "the suffix says otherwise than the words, which count: 2.5e+09 tokens" in capsys.readouterr().err


def test_adamw_has_its_own_decay_there_and_hears_the_other_word_too_here():
    decays = [load_recipe("config", words(f"optimizer_name AdamW {more}")).optimizer.weight_decay
              for more in ("", "OPTIM.AdamW.weight_decay 0.1", "OPTIM.weight_decay 1e-4")]
    assert decays == [.01, .1, 1e-4]


def test_mulo_starts_biases_with_variance_1_and_embeddings_and_matrices_with_1_over_their_width():
    small = {"n_layer": 1, "n_embd": 256, "n_head": 4, "vocab_size": 512, "embedding_initializer.std": 1 / 16}
    recipe = load_recipe("pylo_124m_mulo", {f"model.{key}": value for key, value in small.items()})
    torch.manual_seed(0)
    stds = {name: p.std().item() for name, p in build_model(recipe).named_parameters()}
    block = {"attn.c_q.bias": 1, "attn.c_proj.bias": 1, "mlp.c_fc.bias": 1, "mlp.c_proj.bias": 1,
             "attn.c_k.weight": 1 / 16, "attn.c_proj.weight": 1 / 16, "mlp.c_fc.weight": 1 / 16,
             "mlp.c_proj.weight": 1 / 32, "ln_1.bias": 0}
    for name, std in {**{f"blocks.0.{name}": std for name, std in block.items()},
                      "wte.weight": 1 / 16, "wpe.weight": 1 / 16, "lm_head.weight": 0}.items():
        assert stds[name] == pytest.approx(std, rel=.15), name


def test_the_words_of_ours_go_with_pylos_and_its_seed_reaches_the_launch(tmp_path, capsys):
    path = tmp_path / "mine.py"
    assert main(["train", "--write", str(path), *shlex.split(COMMANDS["pylo_410m_velo"]),
                 "optimizer.weights", "mine/velo", "validations", "3"]) == 0
    assert capsys.readouterr().out.endswith(f"--track lab_fineweb_edu --script {path} --seed 1\n")
    assert "'weights': 'mine/velo'" in path.read_text() and "'validations': 3" in path.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("name, typed", COMMANDS.items())
def test_each_command_trains_at_smoke_size(name, typed, tmp_path, capfd):
    made = [] if "adamw" in name else ["optimizer.weights", write_all(tmp_path / "made")]
    assert main(["recipe", "--json", "--smoke", *shlex.split(typed), *made]) == 0
    result = train_recipe(make_recipe(json.loads(capfd.readouterr().out)["recipe"]))
    result.log.unlink()
    assert result.steps == 8 and result.val_loss < math.log(4096)


@pytest.mark.parametrize("given, said", [
    ("optimizer_nam VeLO", "unknown word optimizer_nam; the closest is optimizer_name"),
    ("optimizer_name Lion", "found 'Lion', expected AdamW or MuLO_naive or MuLO_cuda or VeLO"),
    ("gas 8", "optimizer_name: found 'Adam', expected AdamW or"),
    ("optimizer_name [VeLO]", "found ['VeLO'], expected AdamW or"),
    ("optimizer_name VeLO model_name gpt3", "model_name: found 'gpt3', expected gpt2_tiny or"),
    ("optimizer_name VeLO gas 1.5", "gas: found 1.5, expected such as 4"),
    ("optimizer_name VeLO init_lr fast", "optimizer.lr: found 'fast', expected a number above 0"),
    ("optimizer_name VeLO use_lr_scheduler 1", "use_lr_scheduler: found 1, expected such as False"),
    ("optimizer_name VeLO MODEL.GPT2.attn_type fused", "found 'fused', expected separate_kqv"),
    ("optimizer_name VeLO MODEL.GPT2.attn_pdrop 0.1", "found 0.1, expected 0"),
    ("optimizer_name VeLO OPTIM.max_grad_norm x", "optimizer.max_grad_norm: found 'x', expected a number"),
    ("optimizer_name VeLO suffix wd_1 OPTIM.weight_decay null", "found None, expected a number"),
    ("optimizer_name VeLO model.n_layr 3", "unknown key model.n_layr; the closest is model.n_layer")])
def test_what_is_unknown_of_another_type_or_not_the_labs_is_refused_in_one_line(given, said):
    with pytest.raises(ValueError) as caught:
        load_recipe("config", words(given))
    assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("given, ours", [
    ("gas 8", "data.batch_tokens"), ("batch_size 8", "data.micro_batch"), ("init_lr 1.0", "optimizer.lr"),
    ("OPTIM.max_grad_norm 1.0", "optimizer.max_grad_norm"), ("seed 1", "--seed"),
    ("iters_max 3", "duration.steps")])
def test_a_word_of_pylos_on_another_recipe_names_ours(given, ours):
    """`gas` was told that the closest key is model.bias."""
    with pytest.raises(ValueError, match=f"{given.split()[0]} is PyLO's, here .*{ours}; .*--config config"):
        load_recipe("gpt_tiny", words(given))


def test_a_recipe_from_another_has_its_values_key_by_key_and_a_duration_of_its_own(tmp_path):
    (path := tmp_path / "mine.yaml").write_text(
        "from: pylo_124m_velo\nmodel: {n_layer: 3}\nduration: {tokens: 1e9}\noptimizer.lr: 2\n")
    recipe, base = load_recipe(str(path)), load_recipe("pylo_124m_velo")
    assert recipe == replace(base, name="mine", model__n_layer=3, optimizer__lr=2, duration__tokens=1e9)
    path.write_text("from: pylo_124m_vello\n")
    with pytest.raises(ValueError, match="from: unknown recipe pylo_124m_vello; the closest is pylo_124m_ve"):
        load_recipe(str(path))
