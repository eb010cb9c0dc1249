"""What the launcher settles before ranks start."""
import ast
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny import environment
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher import api

from harness.front import launch
from harness.front.launch import choose_ranks, number
from harness.front.recipes import finish_reading, start_reading
from harness.runlog import ROOT
from harness.track import load_tracks
from records.tools.read.log import read_log

RECIPES = {"fineweb": dict(seq_len=1024, batch_tokens=524_288, micro_batch=64),
           "sample": dict(seq_len=256, batch_tokens=2048, micro_batch=2)}


def plan(track, rows=None, **changes):
    hp = SimpleNamespace(**{**RECIPES[track], **changes})
    return SimpleNamespace(hp=hp, track=load_tracks()[track], rows=rows or hp.micro_batch)


def test_it_takes_as_many_ranks_as_there_are_places_and_says_when_a_step_does_not_divide(capsys):
    assert [choose_ranks(plan("fineweb"), places, 1) for places in (1, 2, 4, 8)] == [1, 2, 4, 8]
    assert capsys.readouterr().out == ""
    assert choose_ranks(plan("fineweb"), 6, 1) == 4
    assert "4 ranks for 6 GPUs or cores" in capsys.readouterr().out
    assert choose_ranks(plan("sample"), 8, 1) == 4  # four micro-batches a step


def test_nodes_share_a_step_evenly():
    assert choose_ranks(plan("fineweb"), 4, 2) == 4
    assert choose_ranks(plan("fineweb", rows=32), 8, 2) == 8
    assert choose_ranks(plan("fineweb", rows=4), 8, 16) == 8  # once never more than 64 in all
    with pytest.raises(ValueError, match="divides over no ranks on 3 nodes"):
        choose_ranks(plan("fineweb"), 8, 3)


@pytest.mark.parametrize("text", ["0", "two", "-1", "1.5", ""])
def test_a_count_is_a_whole_number_of_at_least_1(text):
    with pytest.raises(ValueError, match=f"--nnodes {text}: expected a whole number of at least 1"):
        number("nnodes", text)


@pytest.mark.parametrize("ends, code", [
    ([], 0), ([3, 3], 3), ([-9, 4], 4), ([5, -15], 5), ([-11], 139),
    ([-15, -9], 137), ([-15, -15], 143),
    (SignalException("", signal.SIGTERM), 143)])
def test_the_exit_code_is_the_one_that_ranks_agree_on(monkeypatch, ends, code):
    """That of a rank which left by itself; where all were killed, 128 and the first one's signal."""
    def run(*command):
        signal.signal(signal.SIGTERM, lambda *_: None)
        if isinstance(ends, SignalException):
            raise ends
        if ends:
            raise ChildFailedError("run", {i: ProcessFailure(i, 1, end, "") for i, end in enumerate(ends)})

    monkeypatch.setattr(api, "elastic_launch", lambda config, python: run)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    before = signal.getsignal(signal.SIGTERM)
    assert launch.start(["x.py"], 2, 1, None, None) == code
    assert signal.getsignal(signal.SIGTERM) is before  # the agent's would raise later


def test_ctrl_c_while_a_run_is_judged_is_left_to_the_judge(monkeypatch):
    """The launcher said that no rank had been started, and killed a judge that had not cleared up."""
    judged, handler = [], signal.signal(signal.SIGINT, signal.default_int_handler)
    monkeypatch.setattr(subprocess, "run", lambda command, **_: (
        os.kill(os.getpid(), signal.SIGINT), judged.append(command[-1])))
    try:
        launch.judge_run(Path("x.txt"), True, True, "shards", False)
    finally:
        signal.signal(signal.SIGINT, handler)
    assert judged == ["--data=shards"]  # the user's own were not handed on


def test_a_program_leaves_with_the_exit_code_of_its_run(project):
    done = subprocess.run(project.command(1, "--seq_len=48"), cwd=project.folder, env=environment())
    assert done.returncode == 2


def test_the_launcher_names_only_what_every_published_runs_harness_has():
    """`rerun` puts it before the harness of a log, which may be older than this one."""
    wanted = {(node.module, alias.name) for path in Path(launch.__file__).parent.glob("*.py")
              if path.name not in ("judge.py", "cell.py")  # which judge from their own checkout
              for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)
              for alias in node.names if (node.module or "").startswith("harness.")
              and not node.module.startswith("harness.front")}
    assert len(wanted) >= 7
    logs = map(read_log, ROOT.glob("records/*/*/logs/*.txt"))
    for log in {log.manifest["code"]["harness"]: log for log in logs}.values():
        for module, name in wanted:
            body = ast.parse(log.files[f"{module.replace('.', '/')}.py"].source).body
            found = {getattr(node, "name", None) for node in body} | {
                n.id for node in body if isinstance(node, ast.Assign) for n in ast.walk(node)
                if isinstance(n, ast.Name)}
            assert name in found, f"{log.path.name}: its {module} has no {name}"


RECIPE = """
import dataclasses
from harness.run import open_run
print("loaded")
{line}
@dataclasses.dataclass(frozen=True, kw_only=True)
class Hyperparameters:
    betas: tuple = (0.9, (1, 2))
    stages: list = dataclasses.field(default_factory=lambda: [(1, "a"), None, True])
    lr: float = 1e-3
RECIPES = {{"sample": Hyperparameters(), "other": Hyperparameters(lr=2)}}
"""


def test_recipes_come_out_of_a_process_of_their_own_with_their_types(tmp_path, capfd):
    """The launcher ran the submission's module in its own process."""
    script = tmp_path / "mine.py"
    script.write_text(RECIPE.format(line="import os; os.environ['LEFT'] = 'x'\nclass GPT: pass"))
    recipes, contract = finish_reading(start_reading(script), script.name)
    assert contract and "LEFT" not in os.environ and capfd.readouterr().out == ""
    hp = recipes["sample"]
    assert (hp.betas, hp.stages, hp.lr) == ((0.9, (1, 2)), [(1, "a"), None, True], 1e-3)
    assert type(recipes["other"].lr) is int


@pytest.mark.parametrize("line, says", [
    ("raise KeyError('why')", "--script mine.py: KeyError: 'why'"),
    ("import sys; sys.exit(3)", "SystemExit: 3"),
    ("import os; os._exit(7)", "its import ended with exit code 7")])
def test_a_script_that_cannot_be_read_is_refused_in_one_line(line, says, tmp_path):
    script = tmp_path / "mine.py"
    script.write_text(RECIPE.format(line=line))
    with pytest.raises(ValueError, match=re.escape(says)):
        finish_reading(start_reading(script), script.name)


def test_a_signal_before_the_ranks_ends_the_launcher_with_a_word_and_its_code(tmp_path):
    """SIGTERM ended it without a word, and left the process that read the script."""
    script = tmp_path / "mine.py"
    script.write_text("from harness.run import open_run\nimport os, signal\nos.write(2, b'reading\\n')\n"
                      "signal.pause()\n")
    process = subprocess.Popen([sys.executable, "-m", "harness.front.launch", f"--script={script}"], cwd=ROOT,
                               stderr=subprocess.PIPE, text=True, env=environment())
    assert process.stderr.readline() == "reading\n"
    process.terminate()
    _, errors = process.communicate(timeout=30)  # until the reader has closed it too
    assert "run.sh: interrupted by SIGTERM while no rank ran" in errors and process.returncode == 143


@pytest.mark.slow
@pytest.mark.parametrize("flags, says", [
    ([], "to have it judged: python3 -m records judge "), (["--judge=true"], "judge: holds; loss ")])
def test_a_run_is_judged_at_once_or_the_command_is_named(flags, says, project):
    done = subprocess.run(project.command(1, *flags), cwd=project.folder, env=environment(), text=True,
                          capture_output=True)
    assert done.returncode == 0 and says in done.stdout, done.stderr
    assert len(list((project.folder / "records" / "runs").glob("*.judge.json"))) == len(flags)
