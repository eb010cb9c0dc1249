"""How a command of the lab ends where its reader or its user has seen enough."""
import importlib
import subprocess
import sys

import pytest
from tiny import ROOT

from lab.__main__ import main


@pytest.mark.parametrize("raised, code, words", [
    (KeyboardInterrupt(), 130, "lab recipe: interrupted\n"),
    (ModuleNotFoundError("no", name="scipy.stats"), 2,
     "lab: scipy is missing; python -m pip install -r lab/requirements.txt\n"),
    (ValueError("no such thing"), 2, "lab recipe: no such thing\n")])
def test_what_ends_a_command_before_its_module_is_there_is_one_line(monkeypatch, capsys, raised, code, words):
    """Ctrl-C while torch was imported showed Python's traceback."""
    def load(name):
        raise raised
    monkeypatch.setattr(importlib, "import_module", load)
    assert main(["recipe"]) == code
    assert capsys.readouterr().err == words


def test_a_reader_that_leaves_gets_no_traceback():
    """`lab recipe | head` printed [Errno 32] Broken pipe."""
    command = [sys.executable, "-m", "lab", "recipe", "--config", "transfer_proxy"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 2
