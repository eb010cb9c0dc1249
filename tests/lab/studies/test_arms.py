"""An arm's words, what follows from its steps and width, and its runs at toy size."""
import math

import pytest

from lab.studies import arms

FRONTIER = "submissions/frontier.py"


def test_an_arm_is_a_script_with_flags_as_run_sh_takes_them():
    arm = arms.parse_arm(f"{FRONTIER} --stage_candidates=(None,) --pair_rows 0 --dtype=bfloat16 "
                         "--smear=false --tail=none")
    assert arm.script.name == "frontier.py"
    assert arm.overrides == {"stage_candidates": (None,), "pair_rows": 0, "dtype": "bfloat16", "smear": False,
                             "tail": None}


@pytest.mark.parametrize("words, error", [
    ("", "no such file"), ("submissions/none.py", "no such file"),
    (f"{FRONTIER} --pair_row=0", "unknown flag --pair_row; the closest is --pair_rows"),
    (f"{FRONTIER} pair_rows=0", "where a flag was expected"), (f"{FRONTIER} --n_head=three", "expected int"),
    (f"{FRONTIER} --softcap=some", "--softcap some: expected"), ("README.md", "no script README.md"),
    ("bench/rounds.py", "no recipe 'sample' in its RECIPES")])
def test_an_arm_that_cannot_be_run_is_refused_in_one_line(words, error):
    with pytest.raises(ValueError, match=error):
        arms.parse_arm(words)


def test_what_counts_steps_keeps_its_share_of_the_run():
    arm = arms.parse_arm(f"{FRONTIER} --momentum=(0.85,0.95,150,50) --tail=(200,0.1,0.5) --untie_step=150 "
                         "--batch_stages=((30,4096),) --two_speed=(60,0.85,0.98,0.4)")
    hp = arms.recipe_of(arm, 64, 30)  # the recipe has 300
    assert (hp.num_iterations, hp.val_every, hp.n_embd, hp.n_head) == (30, 30, 64, 1)
    assert hp.momentum == (0.85, 0.95, 15, 5) and hp.tail == (20, 0.1, 0.5) and hp.untie_step == 15
    assert hp.batch_stages == ((3, 4096),) and hp.two_speed == (6, 0.85, 0.98, 0.4)
    assert hp.extension == 0, "what is off stays off"
    assert arms.recipe_of(arms.parse_arm("train_gpt2.py"), steps=7).cooldown_iters == 7
    assert arms.recipe_of(arms.parse_arm("submissions/gpt2_adamw.py"), steps=5).warmup_iters == 1, "at least"


def test_active_parameters_are_those_of_products():
    assert arms.active(arms.parse_arm(FRONTIER), 64) == 4096 * 64 + 2 * 12 * 64**2, "no table"


def test_a_runs_log_has_a_name_of_its_own_for_whatever_decides_its_losses(tmp_path):
    one, other = arms.parse_arm(FRONTIER), arms.parse_arm(f"{FRONTIER} --pair_rows=0")
    plans = [(one, 1, "lab", tmp_path), (one, 2, "lab", tmp_path), (one, 1, "sample", tmp_path),
             (other, 1, "lab", tmp_path), (one, 1, "lab", tmp_path, 64), (one, 1, "lab", tmp_path, 128, 9)]
    assert len({arms.plan(*plan).log for plan in plans}) == len(plans)
    assert arms.plan(one, 1, "lab", tmp_path) == arms.plan(one, 1, "lab", tmp_path, 128, 300)


@pytest.mark.slow
def test_runs_are_made_once_and_one_that_failed_is_named(tmp_path, capsys):
    """The loss is that of a run by itself, whatever the process trained before."""
    arm = arms.parse_arm(f"{FRONTIER} --pair_rows=64")
    planned = {seed: arms.plan(arm, seed, "lab", tmp_path, 16, 2) for seed in (1, 2)}
    found = arms.losses(planned, 1)
    assert all(8 < loss < 8.4 for loss in found.values()) and found[1] != found[2]
    assert "2 to make" in capsys.readouterr().err
    assert arms.losses(planned, 1) == found and "to make" not in capsys.readouterr().err, "nothing runs twice"
    planned[2].log.unlink()
    assert arms.losses(planned, 1) == found, "alone, to the last bit"
    broken = {0: arms.plan(arms.parse_arm(f"{FRONTIER} --seq_len=1000"), 1, "lab", tmp_path, 16, 2)}
    with pytest.raises(ValueError, match=r"no result; what the run said is in .*\.out"):
        arms.losses(broken, 1)
    assert "1000" in broken[0].log.with_suffix(".out").read_text()
    diverged = {0: arms.plan(arms.parse_arm(f"{FRONTIER} --head=(3e38,0.0,(0.7,0.95))"), 1, "lab", tmp_path,
                             16, 2)}
    assert arms.losses(diverged, 1) == {0: math.inf}


@pytest.mark.slow
def test_steps_are_timed_in_turns():
    two = [arms.parse_arm(f"{FRONTIER} --n_embd={width}") for width in (16, 128)]
    small, large = arms.step_ms(two, steps=10, rounds=2, each=1)
    assert len(small) == len(large) == 2 and min(large) > max(small) > 0
