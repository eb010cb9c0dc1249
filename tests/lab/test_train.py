"""lab train: a recipe runs as a submission of its own, and its log gives the run back."""
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import environment, forked, result

from harness.front.judge import judge
from harness.track import ROOT
from lab.__main__ import COMMANDS, main
from lab.environment import VARIABLES
from lab.recipe.load import load_recipe, make_recipe, replace, smoke
from lab.train import hyperparameters, script_text, train_recipe
from records.tools.read.log import read_log

TINY = {"data.seq_len": 32, "data.batch_tokens": 256, "data.micro_batch": 2, "model.n_embd": 32,
        "model.head_dim": 16, "duration.steps": 3, "validations": 1,
        "parametrization.mup_base_hidden_size": 16, "parametrization.mup_base_filter_size": 64}


def test_a_log_starts_with_its_recipe_and_what_is_ripped_repeats_it_on_two_ranks(tmp_path, capsys):
    recipe = replace(load_recipe("transfer_proxy_muon", TINY), optimizer__weight_decay=0.1)
    log = train_recipe(recipe, seed=3).log
    logged = read_log(log)
    assert make_recipe(logged.manifest["hyperparameters"]["recipe"]) == recipe
    assert logged.script.decode() == script_text(recipe)
    assert "lab/train.py" in logged.files and "train_gpt2.py" not in logged.files
    scalars = [event.fields for event in logged.events if event.kind == "scalar"]
    assert [set(s) for s in scalars] == [{"step", "seq", "lr", "grad_norm"}] * 3
    ripped = tmp_path / "ripped.py"
    ripped.write_bytes(logged.script)
    done = subprocess.run([sys.executable, "-m", "harness.front.launch", f"--script={ripped}", "--track=lab",
                           "--nproc_per_node=2", "--seed=3"], capture_output=True, text=True,
                          env=environment(), cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr
    repeated = result(ROOT / done.stdout.rsplit("log: ", 1)[1].splitlines()[0])
    assert repeated["state_sha256"] == result(log)["state_sha256"]


@pytest.mark.slow
def test_a_recipes_run_is_judged_by_its_log_and_weights(capsys):
    """Its script asks for tracks and shards, of which the judge's child sees names and lengths."""
    override = [str(word) for pair in TINY.items() for word in pair]
    main(["train", "--config", "transfer_proxy", "--seed", "2", "--keep_weights", "--override", *override])
    verdict = judge(Path(re.search(r"log: (\S+\.txt)", capsys.readouterr().out)[1]))
    assert verdict["ok"] is True and verdict["init"] == "same", verdict["refused"]


def test_gradients_are_clipped_globally_and_logged_before(capsys):
    recipe = load_recipe("transfer_proxy", {**TINY, "optimizer.max_grad_norm": 1e-3})
    free = train_recipe(replace(recipe, optimizer__max_grad_norm=None))
    clipped = train_recipe(recipe)
    norms = [[event.fields["grad_norm"] for event in read_log(run.log).events if event.kind == "scalar"]
             for run in (free, clipped)]
    assert norms[0][0] == norms[1][0] > 1e-3
    assert free.val_loss != clipped.val_loss, "Adam's eps sees the scale"


def test_batch_and_length_change_with_the_tokens_seen(capsys):
    recipe = load_recipe("transfer_proxy", {
        **TINY, "duration.steps": 6, "schedule.seq_len": [[0, 16], [512, 32]],
        "schedule.batch_tokens": [[768, 512]]})
    run = train_recipe(recipe)
    assert (run.steps, run.tokens) == (6, 3 * 256 + 3 * 512) == (6, hyperparameters(recipe).train_tokens)


def scalars(log, name):
    """Return what a log says of one number, step by step."""
    return [event.fields[name] for event in read_log(log).events if event.kind == "scalar"]


def test_steps_that_follow_the_gradient_are_the_same_on_any_ranks_and_after_a_resume(tmp_path, capsys):
    """Sizes known only when they come, a draw included; decay by the loss; lengths that grow inside a row."""
    recipe = load_recipe("hlb_1", {
        "data.track": "lab", "model.vocab_size": 4096, "model.n_embd": 32, "model.n_layer": 1,
        "model.dtype": "float32", "data.seq_len": 32, "data.batch_tokens": 128, "data.micro_batch": 1,
        "duration.tokens": 4000, "validations": 1, "schedule.seq_len": [[0, 16], [512, 32]],
        "schedule.accumulation": {"every": 1, "most": 3}})
    run = train_recipe(recipe, seed=1)
    passes = [int(n) for n in scalars(run.log, "passes")]
    assert passes[0] == 1 and set(passes[:-1]) == {1, 2, 3} and run.steps == len(passes) < 31
    assert run.tokens == 128 * sum(passes) == 31 * 128 == hyperparameters(recipe).train_tokens
    losses = [line.train_loss for line in read_log(run.log).steps if line.train_loss]
    decays = [16 / recipe.schedule.weight_decay_loss_base**loss for loss in losses]
    assert scalars(run.log, "weight_decay") == pytest.approx(decays, rel=2e-3)  # of losses in 4 digits
    script = tmp_path / "recipe.py"
    script.write_text(script_text(recipe))
    logs = []
    for flags in ([], ["--checkpoint_every=9", "--stop_at_step=9"]):
        assert not forked(240, ranks=2, cases=[(str(script), ["--track=lab", "--seed=1", *flags])],
                          folder=str(ROOT), answers=str(tmp_path), environ=environment())
        logs.append(Path(json.loads((tmp_path / "0.json").read_text())["log"]))
    whole, stopped = logs
    kept = stopped.with_suffix(".checkpoints")
    resumed = train_recipe(recipe, seed=1, flags=[f"--resume={kept}"]).log
    shutil.rmtree(kept)
    assert len({result(log)["state_sha256"] for log in (run.log, whole, resumed)}) == 1
    assert scalars(whole, "passes") == passes == scalars(stopped, "passes") + scalars(resumed, "passes")


@pytest.mark.parametrize("override, words", [
    ("optimizer.lrr 1", "unknown key optimizer.lrr; the closest is optimizer.lr"),
    ("optimizer.lr", "has no value"), ("data.micro_batch 3", "not a multiple"),
    ("data.track speedway", "no track 'speedway'"), ("duration.tokens 10", "less than one step"),
    ("schedule.seq_len [[0,256]]", "a divisor of data.seq_len"), ("model.n_head 3", "not a multiple"),
    ("data.track lab_fineweb", "no shards"), ("model.vocab_size 100", "need at least 4096"),
    ("optimizer.newton_schulz_dtype foo", "expected float32 or bfloat16"),
    ("parametrization.kind mup", "mup needs"), ("model.n_embd 1000000", "GB of memory, there are"),
    ("duration.steps 3 duration.tokens 9e9", "expected exactly one of")])
def test_bad_input_is_one_line_and_exit_code_2(override, words, capsys):
    if "lab_fineweb" in override and any((ROOT / "data" / "fineweb10B").glob("*.bin")):
        pytest.skip("the shards are here")
    assert main(["train", "--config", "gpt_tiny", "--override", *override.split()]) == 2
    out, err = capsys.readouterr()
    assert words in err and len(err.splitlines()) == 1 and not out


def test_a_run_whose_loss_is_no_number_says_so_and_leaves_with_3(capfd):
    words = [word for key, value in {**TINY, "optimizer.lr": 1e38}.items() for word in (key, str(value))]
    with pytest.raises(SystemExit) as left:
        main(["train", "--config", "transfer_proxy", "--override", *words])
    assert left.value.code == 3 and "nonfinite" in capfd.readouterr().err


def test_a_recipe_is_written_as_a_submission_and_over_no_file(tmp_path, capsys):
    script = tmp_path / "mine.py"
    assert main(["train", "--config", "gpt_tiny", "--smoke", "--write", str(script)]) == 0
    assert f"./run.sh --track lab --script {script}" in capsys.readouterr().out
    assert script.read_text() == script_text(smoke(load_recipe("gpt_tiny")))
    script.write_text("precious")
    assert main(["train", "--config", "gpt_tiny", "--write", str(script)]) == 2
    assert "name a new one" in capsys.readouterr().err and script.read_text() == "precious"


def test_the_variables_are_those_of_run_sh():
    exported = [line for line in (ROOT / "run.sh").read_text().splitlines() if line.startswith("export ")]
    for name, value in VARIABLES.items():
        assert any(f'{name}="${{{name}:-{value}}}"' in line or f"{name}={value}" in line.split()
                   for line in exported), name


@pytest.mark.parametrize("command", COMMANDS)
def test_each_help_ends_with_an_example(command, capsys):
    with pytest.raises(SystemExit) as left:
        main([command, "--help"])
    assert left.value.code == 0
    last = capsys.readouterr().out.rstrip().splitlines()[-1]
    assert f"example: python -m lab {command}" in last


def test_a_missing_library_is_named_with_what_to_do():
    code = ("import sys; sys.modules['jsonargparse'] = None\nfrom lab.__main__ import main\n"
            "sys.exit(main(['train', '--config', 'gpt_tiny']))")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "jsonargparse is missing" in done.stderr and "lab/requirements.txt" in done.stderr
