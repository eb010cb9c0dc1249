"""The static scan: what a reviewer must read is listed, the shipped submissions list nothing."""
from pathlib import Path

import pytest

from records.tools.read.scan import scan

ROOT = Path(__file__).resolve().parents[3]


def found(source: str) -> list[tuple[int, str]]:
    return [(f.line, f.what) for f in scan(source.encode(), "a.py")]


@pytest.mark.parametrize("name", ["train_gpt2.py", "submissions/gpt2_adamw.py"])
def test_the_shipped_submissions_give_no_finding(name):
    assert scan((ROOT / name).read_bytes(), name) == []


FOUND = {  # what is said -> of which lines
    "threads or processes": [
        "import threading", "from concurrent.futures import ThreadPoolExecutor", "from os import execv as e",
        "import os as o\no.system('x')", "import os\nf = os.fork", "import torch.multiprocessing as mp"],
    "native code": ["import ctypes", "from torch.utils import cpp_extension"],
    "builds or loads code": ["exec('x')", "e = eval", "compile('x', 'y', 'exec')", "__import__('os')",
                             "from importlib import reload"],
    "files": ["open('x')", "from pathlib import Path", "import os\nos.remove('x')",
              "import numpy as np\nnp.load('x')", "def f(x=open):\n    return x"],
    "loads or saves objects": ["import pickle", "import torch\ntorch.load('x')"],
    "network": ["import urllib.request", "import socket"],
    "environment": ["import os\nos.environ['A']", "from os import getenv"],
    "hooks into Python": ["import gc", "import atexit", "import sys\nsys.modules['harness.clock'] = 1",
                          "import sys\nsys.settrace(f)"],
    "settings of torch's compiler": ["import torch._inductor.config as c",
                                     "import torch\ntorch._dynamo.config.x = 1"],
    "assigns into time": ["import time\ntime.monotonic_ns = f"],
    "assigns into harness": ["import harness.clock\nharness.clock.Clock = f"],
    "assigns into harness.run.Run": ["from harness.run import Run\nRun.take = f"],
    "assigns into torch.nn.functional": ["import torch.nn.functional as F\nF.cross_entropy = f"],
    "assigns into torch": ["import torch\ndel torch.add", "import torch\ntorch.x += 1"],
    "patches names": ["setattr(a, 'b', c)"],
    "looks up a module's names by string": ["import os\ngetattr(os, 'sys' + 'tem')"],
    "imports late, inside a function": ["def f():\n    import math", "async def f():\n    import math"],
    "imports names that cannot be followed": ["from math import *"],
    "reaches into Python": ["f.__globals__['x'] = 1"],
    "assigns into the harness's run": [
        "from harness.run import open_run\nwith open_run() as r:\n    r.take = f"],
    "reaches into the harness": ["def f(run: Run):\n    return run._clock"],
}


@pytest.mark.parametrize("what, source", [(what, source) for what, all in FOUND.items() for source in all])
def test_each_of_these_is_found_on_its_last_line_that_matters(what, source):
    lines = [line for line, word in found(source) if word == what]
    assert lines and max(lines) == source.count("\n") + 1 or (lines and "f(x" in source)


@pytest.mark.parametrize("source", [
    "import torch\nf = torch.compile(g)", "m.compile()", "def f(compile):\n    return compile(g)",
    "import math, dataclasses, itertools\nself.x = math.pi", "from os.path import join",
    "import torch\nd = getattr(torch, hp.dtype)", "x.load_state_dict(s)", "self._x = 1", "p.grad = None",
])
def test_ordinary_code_gives_no_finding(source):
    assert found(source) == []


@pytest.mark.parametrize("path", ["torch.py", "json/__init__.py", "sitecustomize.py"])
def test_a_file_that_takes_the_place_of_a_module_is_found_and_its_text_fit_for_a_terminal(path):
    [finding] = scan(b"x = 1\n", path)
    assert finding.what == f"takes the place of the module {path.split('/')[0].removesuffix('.py')}"
    [finding] = scan(b"exec('\x1b[2J\xe2\x80\xae')\n", "a.py")
    assert finding.text == r"exec('\x1b[2J\u202e')"


@pytest.mark.parametrize("source", [
    b"(" * 1000, b"-" * 100_000 + b"1", b"a" + b".b" * 20_000, b"1" + b"+1" * 100_000, b"x" + b"()" * 20_000,
    b"\0", b"\xff", b"# coding: nonsense\n", b"if 1:\n", b"def", b"x = '\n", b"[" * 400 + b"]" * 400,
], ids=range(12))
def test_what_cannot_be_parsed_is_one_finding_and_no_exception(source):
    [finding] = scan(source, "a.py")
    assert finding.what.startswith("cannot be parsed")
    assert finding.text.isprintable() and len(finding.text) < 100


@pytest.mark.parametrize("source", [
    "import torch\nd = torch.distributed\nd.all_reduce = f",
    "from harness.run import open_run\nrun = open_run()\nrun.take = f",
    "def train(hp, model, optimizers, run):\n    run.log_path = None",
])
def test_another_name_hides_no_assignment(source):
    assert any("assign" in what or "patch" in what or "harness" in what for _, what in found(source))
