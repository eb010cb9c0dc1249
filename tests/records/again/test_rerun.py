"""python -m records rerun: bit-equal on the same host, close elsewhere, and a tampered log is found out."""
import json
import subprocess
import sys
from pathlib import Path

import pytest
from synthetic import change, ending, resealed, sound, write
from tiny import ROOT, Project, environment

from records.tools.again import launch as launches
from records.__main__ import main
from records.tools.read.log import read_log
from records.tools.again.rerun import compare

CPU = {"cpu": "Tiny CPU", "gpus": [], "torch": "2.13.0", "settings": []}


def judged(tmp_path: Path, *changes, old=(), **compared) -> tuple[str, str, str]:
    """Return what comes out for a sound log against one with changes."""
    logs = []
    for name, made in (("old", old), ("new", changes)):
        run = sound(1)
        for apply in made:
            apply(run)
        logs.append(read_log(write(tmp_path / name, run)))
    found = compare(*logs, **compared)
    return found["verdict"], found["reason"], found["rule"]


def loss(index: int, value: float):
    def apply(run):
        run.vals[index][1] = value
    return apply


def test_the_same_numbers_are_reproduced_and_times_do_not_count(tmp_path):
    def slower(run):
        for val in run.vals:
            val[2] *= 2
    verdict, reason, rule = judged(tmp_path, slower)
    assert verdict == "reproduced" and rule.startswith("bit-equal") and "3 validations" in reason


@pytest.mark.parametrize("break_it, words", [
    (loss(1, 5.210000000000001), "step 4 is the first that differs: val_loss 5.21 before"),
    (loss(2, 4.9), "step 8 is the first that differs"),
    (ending(weights_sha256="f" * 64), "the end differs: weights_sha256"),
    (ending(state_sha256="f" * 64), "the end differs: state_sha256"),
    (ending(status="failed"), "the end differs: status"),
    (lambda run: run.vals.pop(), "step 5 is the first that differs: train_loss 5.39 before, none now"),
])
def test_one_bit_that_differs_is_not_reproduced_and_named(break_it, words, tmp_path):
    verdict, reason, _ = judged(tmp_path, break_it)
    assert verdict == "not reproduced" and words in reason


def test_a_changed_weight_digest_is_found(tmp_path):
    old = write(tmp_path / "old", sound(1))
    new = write(tmp_path / "new", sound(1))
    resealed(new, b'"weights":"0000', b'"weights":"0001')
    assert "step 0 is the first that differs: weights" in compare(read_log(old), read_log(new))["reason"]


def test_on_another_processor_losses_must_be_close_and_the_rule_is_named(tmp_path):
    elsewhere = change("sys.cpu", "Another CPU")
    verdict, _, rule = judged(tmp_path / "1", elsewhere, loss(2, 4.901 + 0.0055))
    assert verdict == "reproduced" and "3 x 0.0013 x sqrt(2)" in rule and "differ in cpu" in rule
    assert judged(tmp_path / "2", elsewhere, loss(2, 4.901 + 0.0056))[0] == "not reproduced"
    verdict, _, rule = judged(tmp_path / "3", elsewhere, loss(2, 4.95), tolerance=0.1)
    assert verdict == "reproduced" and "the track's tolerance" in rule
    atop = judged(tmp_path / "4", elsewhere, loss(2, 4.95), tolerance=4.95 - 4.901)
    assert atop[0] == "reproduced", "the tolerance itself is within it"


@pytest.mark.parametrize("name, value", [("sys.torch", "2.12.0"), ("sys.threads", 4), ("reduction", "fast"),
                                         ("sys.gpus", ["H100"])])
def test_bits_are_compared_on_equal_terms_only(name, value, tmp_path):
    assert judged(tmp_path, change(name, value))[2].startswith("final losses within")


@pytest.mark.parametrize("break_it, words", [
    (change("seed", 2), "differ in seed"), (change("hyperparameters.batch_tokens", 128), "hyperparameters"),
    (change("data.val.sha256", "0" * 64), "data"), (lambda run: run.files.update({"a.py": b""}), "code"),
    (ending(status="interrupted"), "ended interrupted"), (ending(status="rank_lost"), "ended rank_lost"),
])
def test_runs_that_are_not_the_same_experiment_cannot_tell(break_it, words, tmp_path):
    verdict, reason, _ = judged(tmp_path, break_it)
    assert verdict == "could not tell" and words in reason


def test_of_an_interrupted_run_the_validations_that_it_has_are_compared(tmp_path):
    old = (ending(status="interrupted"), lambda run: run.vals.pop())
    assert judged(tmp_path / "1", old=old)[:2] == (
        "reproduced", "all 2 validations that the log has are bit-equal")
    assert judged(tmp_path / "2", loss(1, 5.3), old=old)[0] == "not reproduced"


def test_the_code_is_run_again_and_a_tampered_log_is_found_out(tmp_path, monkeypatch, capsys):
    """Two tiny runs: the log's, and one again in a place of its own, to which the forged log is held too."""
    project = Project(tmp_path / "the project")
    project.add_records()
    project.run(1, "--seed=3")
    [log] = project.logs()

    def rerun(*words: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "records", "rerun", str(log), *words]
        return subprocess.run(command, cwd=project.folder, capture_output=True, text=True, env=environment(),
                              stdin=subprocess.DEVNULL)
    refused = rerun()
    assert refused.returncode == 2 and "give --yes" in refused.stderr.strip().split("\n")[-1]
    done = rerun("--yes", "--json", "--to", str(tmp_path / "to"))
    found = json.loads(done.stdout)
    assert done.returncode == 0 and found["verdict"] == "reproduced" and found["rule"].startswith("bit-equal")
    assert found["judge"]["ok"] is True and found["judge"]["judged_by"] == "rerun"
    [new] = (tmp_path / "to").glob("*.txt")
    assert Path(found["new"]) == new and str(tmp_path).encode() not in new.read_bytes()
    assert project.logs() == [log] and "the run had overrides" in done.stderr

    value = repr(read_log(log).vals[1].val_loss)
    forged = tmp_path / "forged.txt"
    forged.write_bytes(log.read_bytes())
    other = f"{value[:-1]}{(int(value[-1]) + 1) % 10}"
    resealed(forged, f'"val_loss":{value}'.encode(), f'"val_loss":{other}'.encode())
    monkeypatch.setattr(launches, "ROOT", project.folder)
    monkeypatch.setattr(launches, "run", lambda *_: new)
    assert main(["rerun", str(log), "--yes"]) == 0
    assert main(["rerun", str(forged), "--yes"]) == 1
    assert "step 3 is the first that differs" in capsys.readouterr().out


def test_a_public_log_says_why_it_cannot_be_run(tmp_path, refused):
    (tmp_path / "x.txt").write_text("step:1/2 val_loss:3.2\n")
    assert "no log of format 1" in refused("rerun", tmp_path / "x.txt", "--yes")
    assert "nothing to compare a run with" in refused("rerun", ROOT, "--yes")
