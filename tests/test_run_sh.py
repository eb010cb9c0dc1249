"""run.sh as a person types it: any folder, no terminal, twice at once, no hub, the wrong Python."""
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tiny import ROOT, TINY, environment, events, result

TRAIN = ["--track", "tiny", "--nproc_per_node", "1", *TINY]


def shell(project, *words, code=0, cwd=None, **variables):
    """Run ./run.sh of a project with this test's Python in front of the PATH."""
    variables = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", **variables}
    done = subprocess.run(["bash", str(project.folder / "run.sh"), *words], capture_output=True, text=True,
                          cwd=cwd, timeout=120, env={**environment(), **variables}, stdin=subprocess.DEVNULL)
    assert done.returncode == code, f"exit code {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done


def test_it_runs_from_another_folder_prints_its_command_and_ends_with_loss_time_and_log(project, tmp_path):
    """The project's path has a space in it."""
    assert " " in str(project.folder)
    done = shell(project, *TRAIN, cwd=tmp_path)
    assert "+ python -m torch.distributed.run --standalone --nproc_per_node=1" in done.stdout
    last = done.stdout.strip().split("\n")[-1]
    assert last.startswith("ok: val_loss ") and " s of training; log: " in last
    assert Path(last.split("log: ")[1]) == project.logs()[0]
    assert done.stderr == ""


def test_two_at_once_write_two_logs(project):
    with ThreadPoolExecutor(2) as both:
        list(both.map(lambda _: shell(project, *TRAIN), range(2)))
    assert len(project.logs()) == 2


def test_from_a_log_its_script_is_trained_and_no_file_of_the_tree_is_touched(project):
    """train_gpt2.py is broken meanwhile; a stranger's code wants a yes; flags given here win."""
    project.add_records()
    project.run(1)
    [log] = project.logs()
    (project.folder / "train_gpt2.py").write_text("broken")
    words = ["--from", str(log), "--nproc_per_node", "1", "--val_every=6"]
    assert "give --yes" in shell(project, *words, code=2).stderr
    done = shell(project, *words, "--yes")
    assert "places to read before it runs" in done.stderr
    first, second = sorted(project.logs(), key=lambda path: path != log)
    assert [val["step"] for val in events(second, "val")] == [0, 6]
    assert result(first)["weights_sha256"] == result(second)["weights_sha256"]
    rip = [path.read_text().partition("=" * 100)[0] for path in (first, second)]
    assert rip[0] == rip[1] and (project.folder / "train_gpt2.py").read_text() == "broken"


def test_without_a_hub_it_says_how_to_fetch_later_and_offers_the_sample(project):
    for path in (ROOT / "data").glob("*.py"):
        shutil.copy(path, project.folder / "data" / path.name)
    project.submission("train_gpt2.py", ("RECIPES = {\n", 'RECIPES = {\n    "fineweb": Hyperparameters(),\n'))
    done = shell(project, "--track", "fineweb", code=2, HF_ENDPOINT="http://127.0.0.1:9")
    last = done.stderr.strip().split("\n")[-1]
    assert "`python data/cached_fineweb10B.py 25`" in last and "./run.sh --track sample" in last
    assert "Traceback" not in done.stderr
    assert "5.2 GB" in done.stdout


def test_help_names_every_launch_option(project):
    from harness.plan import Options
    text = shell(project, "--help").stdout
    assert all(f"--{name}" in text for name in Options.__dataclass_fields__)
    assert "example: ./run.sh --seed 1" in text


@pytest.mark.parametrize("words, message", [
    (["--python"], "--python has no value"),
    (["--from"], "--from has no value"),
    (["--from", "a_record", "--seeds", "auto"], "--from together with --seeds"),
    (["--yes"], "--yes has no value"),
    (["--python", "/no/such/python"], "not a Python of 3.11 or later with torch 2.11"),
    (["--nproc_per_node", "two"], "--nproc_per_node two: expected a whole number"),
    (["--track", "tiny", "--nproc_per_node", "0"], "expected a whole number of at least 1"),
])
def test_wrong_words_get_one_line_and_exit_code_2(project, words, message):
    done = shell(project, *words, code=2)
    assert message in done.stderr and done.stderr.count("\n") == 1


def test_without_any_fitting_python_it_says_so(project, tmp_path):
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("python3", "python3.14", "python3.13", "python3.12", "python3.11", "python"):
        (folder / name).write_text("#!/bin/sh\nexit 1\n")
        (folder / name).chmod(0o755)
    done = shell(project, code=2, PATH=f"{folder}:/usr/bin:/bin")
    assert "found no Python of 3.11 or later" in done.stderr
    assert not (project.folder / ".venv").exists() and not (project.folder / ".venv.lock").exists()
