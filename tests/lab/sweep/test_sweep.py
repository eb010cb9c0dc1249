"""Sweeps with a stand-in for the trainer, in real processes: how runs end, and how a sweep goes on."""
import importlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lab.sweep.space import make_space
from lab.sweep.sweep import run_sweep
from lab.sweep.worker import ending

ROOT = Path(__file__).resolve().parents[3]
STAND_IN = '''
import os, signal
from pathlib import Path
from types import SimpleNamespace

class Lost(Exception):
    status = "nonfinite"

def train(recipe, seed=0):
    Path("pid").write_text(str(os.getpid()))
    lr = recipe.optimizer.lr
    if lr == 2: raise Lost("val_loss is nan")
    if lr == 3: raise RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate")
    if lr == 4: raise KeyError("no such thing")
    if lr == 5: os.kill(os.getpid(), signal.SIGKILL)
    if lr == 6: os._exit(7)
    if lr == 7:
        try: raise ValueError("refused by the harness")
        except ValueError: raise SystemExit(2)
    if lr == 8 and not Path("go").exists(): signal.pause()
    return SimpleNamespace(log=None, val_loss=5.0 + lr + seed, steps=4, tokens=2048)
'''
PARENT = """
import json, sys
from pathlib import Path
from lab.sweep.space import make_space
from lab.sweep.sweep import run_sweep
from stand_in import train
run_sweep(make_space(json.loads(sys.argv[1])), Path("out"), 1, train)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "stand_in.py").write_text(STAND_IN)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "stand_in", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "out"


def values(rates=(0.5,), **changes):
    return {"recipe": "gpt_tiny", "axes": {"optimizer.lr": list(rates)},
            "overrides": {"data.seq_len": 64, "data.batch_tokens": 512, "duration.steps": 4}, **changes}


def sweep(folder, rates=(0.5,), jobs=1, **changes):
    train = importlib.import_module("stand_in").train
    return run_sweep(make_space(values(rates, **changes)), folder, jobs, train)


def signalled(rates, line, number):
    """Signal a sweep of its own when it has said a line; return what else it said and its exit code."""
    # a shell's background jobs, tests among them, start with SIGINT ignored
    program = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)" + PARENT
    with subprocess.Popen([sys.executable, "-c", program, json.dumps(values(rates))], stderr=subprocess.PIPE,
                          text=True) as parent:
        next(said for said in parent.stderr if said.startswith(line))
        parent.send_signal(number)
        rest = parent.stderr.read()
    return rest, parent.returncode


def lines(folder):
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def test_every_way_to_end_is_a_result_and_the_sweep_goes_on(folder, capfd):
    rows = sweep(folder, [2, 3, 4, 5, 6, 7, 0.5], jobs=2)
    assert [row["status"] for row in rows] == ["diverged", "oom", "failed", "oom", "failed", "failed", "ok"]
    for row, words in zip(rows, ["Lost: val_loss is nan", "not enough memory", "KeyError: 'no such thing'",
                                 "SIGKILL", "exit code 7", "ValueError: refused by the harness"]):
        assert words in row["message"] and row["val_loss"] is None and row["steps"] == 4
    ok = rows[-1]
    assert (ok["val_loss"], ok["steps"], ok["tokens"], ok["point"], ok["seed"]) == (
        5.5, 4, 2048, {"optimizer.lr": 0.5}, 0)
    assert ok["flops"] > 0 and ok["parameters"] > 0
    assert sorted(lines(folder), key=lambda row: row["index"]) == rows
    assert "7/7 " in capfd.readouterr().err


def test_a_sweep_goes_on_with_more_samples_and_with_what_failed(folder, capfd):
    few = sweep(folder, [0.5, 2, 4], method="random", samples=2)
    many = sweep(folder, [0.5, 2, 4], method="random", samples=3)
    assert {row["status"] for row in many} == {"ok", "diverged", "failed"} and len(lines(folder)) == 3
    assert [row for row in many[:2] if row["status"] != "failed"] == [
        row for row in few if row["status"] != "failed"], "what has a result is not run again"
    assert json.loads((folder / "sweep.json").read_text())["samples"] == 3
    capfd.readouterr()
    sweep(folder, [0.5, 2, 4], method="random", samples=3)
    assert "3 runs, 2 of them done" in (said := capfd.readouterr().err)
    assert "1 runs that failed or lost their log are run again" in said


def test_a_sweep_that_was_killed_goes_on_and_its_worker_ends_with_it(folder, capfd):
    signalled([0.1, 0.2, 8, 0.3], "2/4", signal.SIGKILL)
    with open(folder / "results.jsonl", "a") as file:
        file.write('{"index": 2, "poi')
    before = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()[:-1]]
    Path("go").touch()
    rows = sweep(folder, [0.1, 0.2, 8, 0.3])  # the worker, which hung in its run, no longer holds anything
    assert [row["status"] for row in rows] == ["ok"] * 4 and rows[:2] == before
    assert lines(folder) == rows
    assert "half a line" in capfd.readouterr().err


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, -signal.SIGINT)])
def test_a_signal_ends_sweep_and_workers_and_says_how_to_go_on(folder, number, code):
    """KeyboardInterrupt goes on to the caller, so that a bare script dies of SIGINT; the command says 130."""
    rest, returned = signalled([0.1, 8], "1/2", number)
    assert "stopped with 1 of 2 runs done; the same command goes on" in rest
    assert returned == code
    with pytest.raises(ProcessLookupError):
        os.kill(int(Path("pid").read_text()), 0)


def test_another_spaces_folder_is_refused_and_left_alone(folder):
    sweep(folder, [0.5])
    before = (folder / "sweep.json").read_text()
    with pytest.raises(ValueError, match="has other axes; give --out another folder"):
        sweep(folder, [0.6])
    assert (folder / "sweep.json").read_text() == before and len(lines(folder)) == 1
    (folder / "sweep.json").unlink()
    with pytest.raises(ValueError, match="results.jsonl without sweep.json"):
        sweep(folder, [0.5])


def test_axes_in_another_order_keep_their_results_under_their_new_numbers(folder):
    axes = {"optimizer.lr": [0.1, 0.2], "seed": [0, 1]}
    sweep(folder, axes=axes)
    rows = sweep(folder, axes=dict(reversed(axes.items())))
    assert [(row["index"], row["seed"]) for row in rows] == [(0, 0), (1, 0), (2, 1), (3, 1)]
    assert sorted(lines(folder), key=lambda row: row["index"]) == rows


def test_a_space_that_admits_nothing_says_why(folder):
    with pytest.raises(ValueError, match="none of 1 combinations may be run; the first: parameters: "):
        sweep(folder, constraints={"parameters": 10})
    assert not folder.exists()


@pytest.mark.parametrize("error, status", [
    (MemoryError(), "oom"), (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "oom"),
    (RuntimeError("shapes differ"), "failed"), (SystemExit(2), "failed")])
def test_an_exception_has_its_status(error, status):
    assert ending(error)["status"] == status
