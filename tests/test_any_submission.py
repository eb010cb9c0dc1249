"""Any script may stand in train_gpt2.py: tests collect, commands answer, records and lab pass their tests."""
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import ROOT, environment, record_script

from bench.mutate import copy_checkout

SCRIPTS = {path.parent.name: record_script(path.parent)
           for path in sorted((ROOT / "records").glob("*/*/record.json"))}
SCRIPTS |= {path.stem: path.read_text() for path in sorted((ROOT / "submissions").glob("*.py"))}
ONCE = {text: name for name, text in SCRIPTS.items()}.values()  # records are made again with the same script
HELP = """
import sys
from importlib import import_module
for package in ("records", "lab"):
    module = import_module(f"{package}.__main__")
    for name in module.COMMANDS:
        try:
            code = module.main([name, "--help"])
        except SystemExit as left:
            code = left.code
        assert code == 0, (package, name)
"""


def checkout(folder: Path, script: str) -> Path:
    """Make a copy of this checkout, with a commit, in which a script stands in train_gpt2.py."""
    copy_checkout(folder)
    (folder / "train_gpt2.py").write_text(script)
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "all"]):
        subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@t", *words], cwd=folder, check=True)
    return folder


def python(folder: Path, *words: str, timeout: float) -> str:
    """Run Python in a checkout; return what it prints. It must succeed."""
    done = subprocess.run([sys.executable, *words], cwd=folder, capture_output=True, text=True,
                          timeout=timeout, env=environment())
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", ONCE)
def test_with_any_script_all_tests_collect_and_every_command_answers(name, tmp_path):
    folder = checkout(tmp_path, SCRIPTS[name])
    collected = python(folder, "-m", "pytest", "--collect-only", timeout=120)
    assert "tests of the shipped recipe are skipped: train_gpt2.py has sha256" in collected
    python(folder, "-c", HELP, timeout=120)


@pytest.mark.long
@pytest.mark.parametrize("part", ["records", "lab"])
def test_with_a_records_script_the_tests_of_records_and_lab_pass(part, tmp_path):
    folder = checkout(tmp_path, SCRIPTS["2026-11-22_BigramTable"])
    python(folder, "-m", "pytest", "-x", "-p", "no:cacheprovider", f"tests/{part}", timeout=600)
