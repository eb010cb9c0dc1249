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


@pytest.mark.parametrize("source, what", [
    ("import threading", "threads or processes"),
    ("from concurrent.futures import ThreadPoolExecutor", "threads or processes"),
    ("import os as o\no.system('x')", "threads or processes"),
    ("import os\nf = os.fork", "threads or processes"),
    ("from os import execv as e", "threads or processes"),
    ("import torch.multiprocessing as mp", "threads or processes"),
    ("import ctypes", "native code"),
    ("from torch.utils import cpp_extension", "native code"),
    ("exec('x')", "builds or loads code"),
    ("e = eval", "builds or loads code"),
    ("compile('x', 'y', 'exec')", "builds or loads code"),
    ("__import__('os')", "builds or loads code"),
    ("from importlib import reload", "builds or loads code"),
    ("open('x')", "files"),
    ("from pathlib import Path", "files"),
    ("import os\nos.remove('x')", "files"),
    ("import numpy as np\nnp.load('x')", "files"),
    ("import pickle", "loads or saves objects"),
    ("import torch\ntorch.load('x')", "loads or saves objects"),
    ("import urllib.request", "network"),
    ("import socket", "network"),
    ("import os\nos.environ['A']", "environment"),
    ("from os import getenv", "environment"),
    ("import gc", "hooks into Python"),
    ("import atexit", "hooks into Python"),
    ("import sys\nsys.modules['harness.clock'] = 1", "hooks into Python"),
    ("import sys\nsys.settrace(f)", "hooks into Python"),
    ("import torch._inductor.config as c", "settings of torch's compiler"),
    ("import torch\ntorch._dynamo.config.x = 1", "settings of torch's compiler"),
    ("import time\ntime.monotonic_ns = f", "assigns into time"),
    ("import harness.clock\nharness.clock.Clock = f", "assigns into harness"),
    ("from harness.run import Run\nRun.take = f", "assigns into harness.run.Run"),
    ("import torch.nn.functional as F\nF.cross_entropy = f", "assigns into torch.nn.functional"),
    ("import torch\ndel torch.add", "assigns into torch"),
    ("import torch\ntorch.x += 1", "assigns into torch"),
    ("setattr(a, 'b', c)", "patches names"),
    ("import os\ngetattr(os, 'sys' + 'tem')", "looks up a module's names by string"),
    ("def f():\n    import math", "imports late, inside a function"),
    ("from math import *", "imports names that cannot be followed"),
    ("f.__globals__['x'] = 1", "reaches into Python"),
    ("from harness.run import open_run\nwith open_run() as r:\n    r.take = f",
     "assigns into the harness's run"),
    ("def f(run: Run):\n    return run._clock", "reaches into the harness"),
    ("def f(x=open):\n    return x", "files"),
    ("async def f():\n    import math", "imports late, inside a function"),
])
def test_each_of_these_is_found_on_its_last_line_that_matters(source, what):
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
def test_a_file_that_takes_the_place_of_a_module_is_found(path):
    [finding] = scan(b"x = 1\n", path)
    assert finding.what == f"takes the place of the module {path.split('/')[0].removesuffix('.py')}"


@pytest.mark.parametrize("source", [
    b"(" * 1000, b"-" * 100_000 + b"1", b"a" + b".b" * 20_000, b"1" + b"+1" * 100_000, b"x" + b"()" * 20_000,
    b"\0", b"\xff", b"# coding: nonsense\n", b"if 1:\n", b"def", b"x = '\n", b"[" * 400 + b"]" * 400,
], ids=range(12))
def test_what_cannot_be_parsed_is_one_finding_and_no_exception(source):
    [finding] = scan(source, "a.py")
    assert finding.what.startswith("cannot be parsed")
    assert finding.text.isprintable() and len(finding.text) < 100


def test_the_text_of_a_finding_is_fit_for_a_terminal():
    [finding] = scan(b"exec('\x1b[2J\xe2\x80\xae')\n", "a.py")
    assert finding.text == r"exec('\x1b[2J\u202e')"


@pytest.mark.parametrize("source", [
    "import torch\nd = torch.distributed\nd.all_reduce = f",
    "from harness.run import open_run\nrun = open_run()\nrun.take = f",
    "def train(hp, model, optimizers, run):\n    run.log_path = None",
])
def test_another_name_hides_no_assignment(source):
    assert any("assign" in what or "patch" in what or "harness" in what for _, what in found(source))
