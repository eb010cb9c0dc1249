"""The house rules that a program can check; ruff and import-linter check theirs by pyproject.toml."""
import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement

from harness.front.launch import Place
from harness.plan import Options

ROOT = Path(__file__).resolve().parent.parent
TRACKED = [ROOT / name for name in subprocess.run(
    ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, text=True, check=True,
    stdout=subprocess.PIPE).stdout.splitlines() if (ROOT / name).is_file()]
TREES = {path: ast.parse(path.read_text()) for path in TRACKED if path.suffix == ".py"}
# what a module may call while it is imported: it makes a constant, and reads nothing but where the file lies
CONSTANT = re.compile(
    r"(DataSet|restricted_number_type|re\.compile|Path|Path\(__file__\)\.resolve|(struct\.)?Struct"
    r"|(datetime\.)?timedelta|itertools\.count"
    r"|type|bytes|dict|dict\.fromkeys|frozenset|len|map|range|set|sorted|str|sum|tuple|zip|(dataclasses\.)?field"
    r"|''\.join|namedtuple|TypeVar|contextmanager|(functools\.)?(cache|wraps|lru_cache)|(dataclasses\.)?dataclass"
    r"|(torch\.)?(no_grad|inference_mode|compiler\.disable)|\w+\.(items|values|keys))")


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0]


def fails(*words: str) -> str:
    """Run Python with some words in the repository; return what it said, or nothing where it was content."""
    done = subprocess.run([sys.executable, *words], cwd=ROOT, text=True, capture_output=True)
    return done.stdout + done.stderr if done.returncode else ""


def test_imports_point_one_way_without_circles():
    """Floors, arrows and circles are the contracts in pyproject.toml."""
    code = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    assert not fails("-c", code, "--no-cache")


def test_ruff_finds_nothing():
    """Nor what is left to do, nor a public name without docstring, nor a test that sleeps."""
    assert not fails("-m", "ruff", "check", "--no-cache", "--output-format", "concise")


def test_only_its_own_tests_import_what_stands_in_train_gpt2():
    own = {"tests/test_train_gpt2.py", "tests/test_golden.py"}
    assert {name_of(path) for path in TREES
            if re.search(r"^ *(from|import) train_gpt2\b", path.read_text(), re.M)} <= own


def test_what_needs_no_torch_loads_none():
    modules = ["harness.shards", "harness.vocabulary", "data.bpe", "data.fineweb", "records.__main__"]
    assert not fails("-c", f"import sys, {', '.join(modules)}; sys.exit('torch' in sys.modules and 'torch')")


def test_sizes():
    """Columns are ruff's."""
    limits = [(name_of(path), len(path.read_text().splitlines()),
               500 if room_of(path) in ("train_gpt2.py", "submissions") else 400) for path in TREES]
    limits += [(f"{name_of(path)}: {node.name}", node.end_lineno - node.lineno + 1, 60)
               for path, tree in TREES.items() for node in ast.walk(tree)
               if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    assert not [f"{what}: {lines} lines, at most {most}" for what, lines, most in limits if lines > most]


def at_import(tree: ast.Module) -> Iterator[ast.AST]:
    """Yield what runs when a module is imported: all but the bodies of functions, and the script's guard."""
    nodes = list(tree.body)
    for node in nodes:
        if isinstance(node, ast.If) and "__name__" in ast.unparse(node.test):
            continue
        yield node
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            nodes += [*node.decorator_list, *node.args.defaults, *filter(None, node.args.kw_defaults)]
        elif not isinstance(node, ast.Lambda):
            nodes += ast.iter_child_nodes(node)


def test_nothing_happens_at_import():
    """No loop, no branch, no environment, no call but of what makes a constant, wherever it stands."""
    found = []
    for path, tree in TREES.items():
        ours = {node.name for node in tree.body if isinstance(node, ast.ClassDef)
                and (node.decorator_list or "NamedTuple" in map(ast.unparse, node.bases))}  # plain records
        for node in at_import(tree) if room_of(path) != "tests" else ():
            words = ast.unparse(node.func if isinstance(node, ast.Call) else node)
            if (isinstance(node, (ast.For, ast.While, ast.With, ast.Try, ast.If))
                    or isinstance(node, ast.Attribute) and words in ("os.environ", "sys.argv", "sys.modules")
                    or isinstance(node, ast.Call) and words not in ours and not CONSTANT.fullmatch(words)):
                found.append(f"{name_of(path)}:{node.lineno}: {words[:60]}")
    assert not found, "\n".join(found)


def test_arguments_of_public_functions_have_type_hints():
    """Docstrings and hints of results are ruff's."""
    found = []
    for path, tree in TREES.items():
        classes = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name[0] != "_"]
        for node in [*tree.body, *(method for cls in classes for method in cls.body)]:
            if (room_of(path) in ("harness", "lab", "records") and isinstance(node, ast.FunctionDef)
                    and node.name[0] != "_"):
                bare = [a.arg for a in node.args.args if a.arg not in ("self", "cls") and not a.annotation]
                found += [f"{name_of(path)}: {node.name}: no hint on {bare}"] * bool(bare)
    assert not found, "\n".join(found)


def test_names_say_what_a_file_is_about():
    pattern = re.compile(r"(^|/)((utils|helpers|common)|\w+_(text|page|figures))\.py$")
    assert not [name_of(path) for path in TREES if pattern.search(name_of(path))]


def test_the_set_of_flags_is_frozen():
    """A new flag changes this test."""
    assert set(Place._fields) == {"script", "nproc_per_node", "nnodes", "rdzv_endpoint", "rdzv_id", "judge"}
    assert set(Options.__dataclass_fields__) == {
        "track", "device", "device_batch_size", "compile", "data", "resume", "checkpoint_every", "seed",
        "stop_at_step", "timeout", "log_every", "against", "weights", "name", "note"}


def test_text_files_name_no_machine_and_no_registry():
    """Paths of a developer's machine and hosts of package registries have no place in the repository."""
    pattern = re.compile(r"/(wo" r"rk|fa" r"rm)/|/ro" r"ot/[.]|p[y]pi[.]o" r"rg|python[h]osted[.]"
                         r"|registry[.]n[p]mjs")
    text = (".py", ".md", ".toml", ".sh", ".txt", ".json", ".ini", ".lock", "")
    found = [(name_of(path), pattern.search(path.read_text(errors="replace")))
             for path in TRACKED if path.suffix in text]
    assert not [f"{name}: {match[0]}" for name, match in found if match]


def test_the_lock_has_every_requirement_but_torch_with_hashes_and_names_no_index():
    lock = re.sub(r"^#.*\n", "", (ROOT / "requirements.lock").read_text(), flags=re.M)
    pins = dict(re.findall(r"^([\w.-]+)==(\S+) \\\n    --hash=sha256:", lock, re.M))
    assert len(re.findall(r"^\S", lock, re.M)) == len(pins) > 40
    for path in [ROOT / "requirements.txt", *ROOT.glob("*/requirements.txt")]:
        for line in filter(None, re.sub("#.*", "", path.read_text()).splitlines()):
            need = Requirement(line)
            name = need.name.lower().replace("_", "-")
            assert name == "torch" or pins[name] in need.specifier, f"{name_of(path)}: {line}; see the lock"


def test_the_extras_are_the_requirements_files():
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    extras = tools["setuptools"]["dynamic"]["optional-dependencies"]
    assert set(extras) == {path.parent.name for path in ROOT.glob("*/requirements.txt")}
