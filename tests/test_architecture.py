"""The house rules that a program can check: imports, nothing happens at import, sizes, flags, names."""
import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TRACKED = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT,
                         text=True, capture_output=True, check=True).stdout.split("\n")
PYTHON = sorted(ROOT / name for name in TRACKED if name.endswith(".py") and (ROOT / name).exists())
MAY_IMPORT = {  # folder or file -> what of ours it may import
    "harness": {"harness"},
    "train_gpt2.py": {"harness"},
    "submissions": {"harness"},
    "data": {"harness.shards", "harness.vocabulary", "data"},
    "records": {"records"},
    "bench": {"harness", "train_gpt2", "bench", "data"},
    "lab": {"harness", "train_gpt2", "records", "lab"},
    "tests": {"harness", "train_gpt2", "bench", "data", "records", "lab"},
}
OURS = {"harness", "train_gpt2", "data", "records", "bench", "lab"}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imported(path: Path) -> set[str]:
    """Return the dotted names that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", PYTHON, ids=name_of)
def test_imports_point_one_way(path):
    allowed = MAY_IMPORT[path.relative_to(ROOT).parts[0]]
    for name in imported(path):
        if name.split(".")[0] in OURS:
            fine = any(name == a or name.startswith(f"{a}.") for a in allowed)
            assert fine, f"{name_of(path)} imports {name}"


@pytest.mark.parametrize("module", ["harness.shards", "harness.vocabulary", "data.bpe", "records.tools.read.log"])
def test_what_needs_no_torch_loads_none(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


@pytest.mark.parametrize("path", PYTHON, ids=name_of)
def test_sizes(path):
    lines = path.read_text().split("\n")
    limit = 500 if path.name == "train_gpt2.py" else 300
    assert len(lines) - 1 <= limit, f"{len(lines) - 1} lines, at most {limit}"
    long = [f"{i}: {len(line)} columns" for i, line in enumerate(lines, 1) if len(line) > 110]
    assert not long, f"lines over 110 columns: {long}"
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = node.end_lineno - node.lineno + 1
            assert length <= 60 or path.name == "tests", f"{node.name}: {length} lines, at most 60"


@pytest.mark.parametrize("path", [p for p in PYTHON if name_of(p).split("/")[0] != "tests"], ids=name_of)
def test_nothing_happens_at_import(path):
    """No loop, no call for its effect, no environment, no argv at module level, the script's guard apart."""
    for node in ast.parse(path.read_text()).body:
        assert not isinstance(node, (ast.For, ast.While, ast.With, ast.Try)), f"line {node.lineno}"
        if isinstance(node, ast.If):
            assert "__name__" in ast.unparse(node.test), f"line {node.lineno}: {ast.unparse(node.test)}"
            continue
        if isinstance(node, ast.Expr):
            assert isinstance(node.value, ast.Constant), f"line {node.lineno}: {ast.unparse(node)}"
        if isinstance(node, (ast.Assign, ast.AnnAssign)):
            text = ast.unparse(node)
            assert not re.search(r"os\.environ|sys\.argv|cuda\.is_available|device_count", text), text


@pytest.mark.parametrize("path", [p for p in PYTHON
                                  if name_of(p).split("/")[0] in ("harness", "lab", "records")], ids=name_of)
def test_public_functions_have_type_hints_and_docstrings(path):
    for node in ast.parse(path.read_text()).body:
        functions = [node] if isinstance(node, ast.FunctionDef) else []
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{node.name} has no docstring"
            functions = [f for f in node.body if isinstance(f, ast.FunctionDef)]
        for function in functions:
            if not function.name.startswith("_"):
                assert ast.get_docstring(function), f"{function.name} has no docstring"
                arguments = [a for a in function.args.args if a.arg not in ("self", "cls")]
                bare = [a.arg for a in arguments if not a.annotation]
                assert not bare, f"{function.name}: no hint on {bare}"
                assert function.returns is not None, f"{function.name}: no hint on its result"


def test_no_file_is_called_utils_and_nothing_is_left_to_do():
    assert not [name for name in TRACKED if re.search(r"(^|/)(utils|helpers|common)\.py$", name)]
    marks = re.compile("TO" + "DO|FIX" + "ME|X" + "XX")
    assert not [name_of(path) for path in PYTHON if marks.search(path.read_text())]


def test_the_set_of_flags_is_frozen():
    """A new flag changes this test."""
    from harness.front.launch import OWN_FLAGS
    from harness.plan import Options
    assert set(OWN_FLAGS) == {"script", "nproc_per_node", "nnodes", "rdzv_endpoint", "rdzv_id"}
    assert set(Options.__dataclass_fields__) == {
        "track", "device", "device_batch_size", "compile", "data", "resume", "checkpoint_every", "seed",
        "stop_at_step", "against"}


def test_text_files_name_no_machine_and_no_registry():
    """Paths of a developer's machine and hosts of package registries have no place in the repository."""
    pattern = re.compile(r"/(wo" r"rk|fa" r"rm)/|/ro" r"ot/[.]|p[y]pi[.]o" r"rg|python[h]osted[.]"
                         r"|registry[.]n[p]mjs")
    for name in TRACKED:
        path = ROOT / name
        suffixes = (".py", ".md", ".toml", ".sh", ".txt", ".json", ".ini", "")
        if name and path.is_file() and path.suffix in suffixes:
            found = pattern.search(path.read_text(errors="replace"))
            assert not found, f"{name}: {found[0]}"
