"""run.sh as a person types it: any folder, no terminal, twice at once, no hub, the wrong Python."""
import os
import re
import shutil
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tiny import ROOT, TINY, environment, events, result, submission

from harness.front.launch import Place
from harness.plan import Options
from harness.runlog import sha256

ODD = """raise SystemExit

class Hyperparameters:
    width: tuple[int, int] = (1, 2)  # 100% of it
    depth: int

RECIPES = {"a": Hyperparameters(depth=3), "b": Hyperparameters(depth=4)}
"""
PYTHONS = ("python3", "python3.14", "python3.13", "python3.12", "python3.11", "python")
TRAIN = ["--track", "tiny", "--nproc_per_node", "1", *TINY]


def shell(project, *words, code=0, cwd=None, **variables):
    """Run ./run.sh of a project with this test's Python in front of the PATH."""
    variables = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", **variables}
    done = subprocess.run(["bash", str(project.folder / "run.sh"), *words], capture_output=True, text=True,
                          cwd=cwd, timeout=120, env={**environment(), **variables}, stdin=subprocess.DEVNULL)
    assert done.returncode == code, f"exit code {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done


def stand_in(file, *lines):
    """Write a shell script that stands for a program; return a PATH with its folder in front."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(["#!/bin/sh", *lines]) + "\n")
    file.chmod(0o755)
    return f"{file.parent}:/usr/bin:/bin"


def test_it_runs_from_another_folder_prints_its_command_and_ends_with_loss_time_and_log(project, tmp_path):
    """The project's path has a space in it."""
    assert " " in str(project.folder)
    done = shell(project, *TRAIN, cwd=tmp_path)
    last, told, hint = done.stdout.strip().split("\n")[-3:]
    assert last.startswith("ok: val_loss ") and " s of training; log: " in last
    assert told == f"log sha256 {sha256(project.logs()[0].read_bytes())}  {project.logs()[0]}"
    assert hint.startswith("to have it judged: python3 -m records judge ")
    assert Path(last.split("log: ")[1]) == project.logs()[0]
    assert done.stderr == "" and done.stdout.startswith("loading torch\nchecking the data\ntrack tiny: ")
    assert "\nstarting 1 rank; each loads torch\nwarming up\nstep:0/6" in done.stdout
    [command] = re.findall(r"^\+ (.* -m torch.distributed.run .*)$", done.stdout, re.M)
    subprocess.run(["bash", "-c", command], cwd=tmp_path, env=environment(), check=True, capture_output=True,
                   timeout=120)
    first, second = map(result, project.logs())
    assert first["state_sha256"] == second["state_sha256"]


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
    assert result(first)["state_sha256"] == result(second)["state_sha256"]
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


def test_help_gives_meaning_type_and_default_of_every_flag_with_plain_python_and_makes_nothing(project):
    """Before any environment is made, and without a line of the script executed."""
    path = stand_in(project.folder / "bin" / "python3", f'exec {sys.executable} -S "$@"')
    (project.folder / "odd.py").write_text(ODD)
    before = sorted(project.folder.glob("*"))
    said = " ".join(shell(project, "--help", PATH=path).stdout.split())
    fields = [*Options.__dataclass_fields__, *submission().Hyperparameters.__dataclass_fields__]
    assert [name for name in (*Place._fields, *fields) if f" --{name} " not in said] == []
    for words in ("--seed int of the weights, and of whatever a submission draws (default: 0) --stop",
                  "--compile bool compile the model; default: on a GPU --data",
                  "--seq_len int tokens (default: 256) --batch_tokens int tokens a step",
                  "--nnodes int hosts; start the command on each (default: 1) --rdzv_endpoint",
                  "./run.sh --seeds auto|N [flags]", "example: ./run.sh --seed 1"):
        assert words in said, words
    said = " ".join(shell(project, "--script=odd.py", "--help", PATH=path, cwd=project.folder).stdout.split())
    assert "--width tuple[int, int] 100% of it (default: (1, 2)) --depth int (default: a 3, b 4)" in said
    assert sorted(project.folder.glob("*")) == before
    for text, words in (("def (", "invalid syntax"), ("x = 1", "no class Hyperparameters")):
        (project.folder / "odd.py").write_text(text)
        done = shell(project, "--help", "--script", "odd.py", PATH=path, cwd=project.folder, code=2)
        assert words in done.stderr and done.stderr.count("\n") == 1


def test_version_is_that_of_pyproject_with_the_commit_where_git_tells_it(project):
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    shutil.copy(ROOT / "pyproject.toml", project.folder)
    assert shell(project, "--version").stdout == f"gpt2-speedrun {version}\n"
    project.add_records()
    commit = subprocess.check_output(["git", "rev-parse", "--short", "HEAD"], cwd=project.folder, text=True)
    assert shell(project, "--version").stdout == f"gpt2-speedrun {version}, commit {commit}"


def test_pip_says_what_it_loads_in_few_lines_and_the_echoed_command_can_be_pasted(project):
    """A stand-in for the environment's Python has no packages, and a pip that says a line of each kind."""
    path = stand_in(project.folder / "bin" / "python3", 'case "$*" in *ensurepip*) exit 0;; esac', "exit 1")
    stand_in(project.folder / ".venv" / "bin" / "python", 'case "$*" in "-m pip --version") exit 0;;', *(
        '*install*) [ "$*" = "$(cat asked 2>/dev/null)" ] && echo pasted; printf "%s" "$*" >asked',
        "printf '%s\\n' 'Collecting torch' '  Downloading torch.whl (9 MB)' 'Successfully installed x' ;;",
        "*) exit 1;; esac"))
    done = shell(project, "--environment", PATH=path, cwd=project.folder)
    assert done.stdout == f"{project.folder}/.venv/bin/python\n" and "Collecting" not in done.stderr
    assert "  Downloading torch.whl (9 MB)\nSuccessfully installed x\n" in done.stderr
    command = re.findall(r"^\+ (.*)$", done.stderr, re.M)[-1]
    assert subprocess.check_output(["bash", "-c", command], cwd=project.folder).startswith(b"pasted\n")


@pytest.mark.parametrize("cuda, cure", [
    ("11.4", "update the driver to R525 or later (see docs/machines.md), or name"),
    ("13.0", "-m pip install --force-reinstall 'torch>=2.11' (see docs/machines.md), or name"),
    ("12.4", "--force-reinstall 'torch>=2.11' --index-url https://download.pytorch.org/whl/cu126 (see")])
def test_a_driver_with_gpus_that_torch_does_not_see_is_refused_with_what_mends_it(project, cuda, cure):
    """A silent run of the laptop's track would be no favour; who names track or device wants it."""
    path = stand_in(project.folder / "bin" / "nvidia-smi",
                    'case "$1" in -L) echo "GPU 0: H100 (UUID: GPU-1)"; echo "GPU 1: H100 (UUID: GPU-2)";;',
                    f'*) echo "| NVIDIA-SMI 550 Driver Version: 550 CUDA Version: {cuda} |";; esac')
    path = f"{Path(sys.executable).parent}:{path}"
    said = shell(project, "--nproc_per_node=1", *TINY, code=2, PATH=path).stderr
    assert "the driver lists 2 GPUs, torch" in said and " sees 0; " in said and said.count("\n") == 1
    assert cure in said and project.logs() == []
    shell(project, *TRAIN, "--stop_at_step=1", PATH=path)
    assert len(project.logs()) == 1


@pytest.mark.parametrize("words, message", [
    (["--python"], "--python has no value"),
    (["--from"], "--from has no value"), (["--from", "", "--seed=1"], "--from has no value"),
    (["--python="], "--python has no value"),
    (["--from", "a_record", "--seeds", "auto"], "--from together with --seeds"),
    (["--yes"], "--yes goes with --from"), (["--seeds", "2", "--yes"], "--yes goes with --from"),
    (["--python", "/no/such/python"], "not a Python of 3.11 or later with torch 2.11"),
    (["--nproc_per_node", "two"], "--nproc_per_node two: expected a whole number"),
    (["--track", "tiny", "--nproc_per_node", "0"], "expected a whole number of at least 1"),
])
def test_wrong_words_get_one_line_and_exit_code_2(project, words, message):
    done = shell(project, *words, code=2)
    assert message in done.stderr and done.stderr.count("\n") == 1


def test_a_package_older_than_asked_for_counts_as_missing(project, tmp_path):
    """An old hub client was taken as it was, and the download ended in a traceback."""
    (tmp_path / "huggingface_hub-0.36.0.dist-info").mkdir()
    (tmp_path / "huggingface_hub-0.36.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: huggingface_hub\nVersion: 0.36.0\n")
    words = ["--python", sys.executable, "--environment"]
    assert shell(project, *words).stdout == f"{sys.executable}\n"
    said = shell(project, *words, code=2, PYTHONPATH=str(tmp_path)).stderr
    assert "not a Python of 3.11 or later with" in said and said.count("\n") == 1


def test_without_any_fitting_python_it_says_so(project, tmp_path):
    for name in PYTHONS:
        path = stand_in(tmp_path / "bin" / name, "exit 1")
    done = shell(project, code=2, PATH=path)
    assert "found no Python of 3.11 or later" in done.stderr
    assert "./run.sh --from RECORD|LOG [flags]" in shell(project, "--help", PATH=path).stdout
    assert not (project.folder / ".venv").exists() and not (project.folder / ".venv.lock").exists()
