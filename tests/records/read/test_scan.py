"""The static scan: what a reviewer must read is listed, the shipped submissions list nothing."""
import hashlib
from pathlib import Path

import pytest

from records.tools.read.scan import scan

ROOT = Path(__file__).resolve().parents[3]


def found(source: str) -> list[tuple[int, str]]:
    return [(f.line, f.what) for f in scan(source.encode(), "a.py")]


def test_the_shipped_submissions_and_the_scripts_of_records_give_no_finding():
    shipped = (ROOT / "train_gpt2.py", *ROOT.glob("submissions/*.py"))
    sources = {path.name: path.read_bytes() for path in shipped}
    for path in ROOT.glob("records/*/*/*/*.txt"):
        script = path.read_bytes().partition(b"=" * 100 + b"\n")[0]
        sources[hashlib.sha256(script).hexdigest()] = script
    assert len(sources) > 5
    assert [finding for name, source in sources.items() for finding in scan(source, name)] == []


FOUND = {  # what is said -> of which lines
    "threads or processes": ["from os import execv as e", "import os as o\no.system('x')",
                             "import os\nf = os.fork", "import torch.multiprocessing as mp",
                             "from torch.utils.data import DataLoader", "import torch\ntorch.jit.fork(f)"],
    "native code": ["from torch.utils import cpp_extension", "import torch\ntorch.ops.a.b"],
    "builds or loads code": ["exec('x')", "e = eval", "compile('x', 'y', 'exec')", "__import__('os')",
                             "from torch.hub import load"],
    "files": ["open('x')", "import os\nos.remove('x')", "import numpy as np\nnp.load('x')",
              "def f(x=open):\n    return x", "p.read_bytes()", "p.open()", "np.fromfile(p)", "x.tofile(p)",
              "x.from_file(p)", "np.memmap(p)", "m.load(p)"],
    "loads or saves objects": ["import torch\ntorch.load('x')"],
    "environment": ["import os\nos.environ['A']", "from os import getenv"],
    "hooks into Python": ["import sys\nsys.modules['harness.clock'] = 1", "import sys\nsys.settrace(f)"],
    **{f"imports {name}, which few submissions need": [f"import {name}.x", f"from {name} import y"]
       for name in ("threading", "ctypes", "importlib", "pathlib", "pickle", "urllib", "socket", "gc",
                    "inspect", "traceback", "operator", "mock", "my_helper")},
    "settings of torch's tracer": ["import torch\ntorch._dynamo.config.x = 1"],
    "settings of torch's compiler": ["import torch._inductor.config as c",
                                     "import torch\ntorch.compile(f, mode='max-autotune')",
                                     "from torch import compile as c\nc(f, **k)"],
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
    "reaches into the harness": [
        "def f(run: Run):\n    return run._clock", "from harness.shards import read_shard",
        "from harness.run import time", "import harness.run as r\nr.dist.barrier"],
    "a private name of others": ["x._y", "r = run\nr._log", "import torch._C", "f(x)._y", "torch.a._b",
                                   "match x:\n    case object(_y=z): pass"],
    "names something private": ["getattr(x, '_clock')", "f('__torch_function__')"],
    "looks up names by an expression": [
        "getattr(x, 'a' + 'b')", "getattr(x, f'{y}')", "g = getattr",
        "getattr(x, y)", "getattr(x, y.z)", "getattr(*x)"],
    "builds a class": ["type('X', (Y,), {})"],
    "runs before the harness is imported": [
        "x = 1\nfrom harness.run import Run", "import time, harness.run", "if f():\n    import harness",
        "try:\n    from harness.run import Run\nfinally:\n    pass"],
    "reads frames": [
        "import sys\nsys._getframe(1)", "e.__traceback__", "t.tb_frame", "g.gi_frame", "f.f_back.f_locals",
        "import sys\nsys.exc_info()"],
    "changes what torch's functions do": [
        "from torch.overrides import TorchFunctionMode", "import torch\ntorch.overrides.TorchFunctionMode",
        "def __torch_function__(f):\n    pass", "__torch_dispatch__ = f",
        "import torch\ntorch.library.Library('a', 'IMPL')",
        "from torch import Tensor\nclass A(Tensor):\n    pass",
        "from torch import nn\nclass A(nn.Parameter):\n    pass"],
    "tells training from validation": [
        "self.training", "import torch\ntorch.is_grad_enabled()",
        "class A:\n    def eval(self):\n        pass"],
    "a large constant": [
        f"x = '{'a' * 1001}'", f"x = {list(range(301))}", f"x = {10 ** 3000}",
        f"f(b'{'a' * 600}' + b'{'b' * 600}')", f"def f(x='{'a' * 1001}'):\n    pass"],
}


@pytest.mark.parametrize("what, source", [(what, source) for what, all in FOUND.items() for source in all])
def test_each_of_these_is_found_on_its_last_line_that_matters(what, source):
    lines = [line for line, word in found(source) if word == what]
    assert lines and (max(lines) == source.count("\n") + 1 or "def " in source or "class " in source
                      or "before" in what)


@pytest.mark.parametrize("source", [
    "import torch\nf = torch.compile(g)", "m.compile()", "def f(compile):\n    return compile(g)",
    "import math, dataclasses, itertools\nself.x = math.pi", "from os.path import join",
    "import torch\nd = getattr(torch, hp.dtype)", "x.load_state_dict(s)", "self._x = 1", "p.grad = None",
    "super()._apply(f)", "import triton.language as tl\ntl.load(p)", "torch.compile(f, fullgraph=True)",
    "x = '__main__'", "def forward(self, idx, targets=None):\n    return self.net(idx)", "x = [0.5] * 1000",
    "net.train()\nnet.eval()", "from harness.run import Run, open_run\nimport time\nrun.take(4)",
    f'"""{"a" * 2000}"""\nimport math', "def f():\n    from torch.nn.attention.varlen import varlen_attn",
])
def test_ordinary_code_gives_no_finding(source):
    assert found(source) == []


def test_what_is_split_up_is_large_too_and_a_file_of_the_log_may_be_imported():
    table = "".join(f"x{i} = '{'a' * 900}'\n" for i in range(12))
    assert found(table) == [(1, "large constants")]
    assert scan(b"from my.model import GPT\n", "a.py", ["a.py", "my/model.py"]) == []
    [finding] = scan(b"import torch2\n", "a.py", ["torch/x.py"])
    assert finding.what == "imports torch2, which few submissions need"


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
    "def train(run):\n    mine = run\n    mine.track = x",
])
def test_another_name_hides_no_assignment(source):
    assert any("assign" in what or "patch" in what or "harness" in what for _, what in found(source))
