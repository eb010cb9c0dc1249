"""Reads a submission's code without running it and lists what a person must look at before trusting it."""
import ast
import re
import sys
import warnings
from typing import NamedTuple

from records.tools.read.values import shown

# dotted names, as the imports of a file resolve them -> why they matter
NAMES = [(re.compile(rf"(?:{pattern})(?:\.|$)"), what) for pattern, what in (
    (r"threading|_thread|multiprocessing|concurrent|subprocess|asyncio|pty|torch\.multiprocessing"
     r"|os\.(?:fork\w*|system|exec\w*|spawn\w*|popen|posix_spawn\w*|kill\w*|_exit|abort)",
     "threads or processes"),
    (r"ctypes|_ctypes|cffi|_cffi_backend|cython|numba|torch\.(?:ops|utils\.cpp_extension|classes)"
     r"|torch\.cuda\._compile_kernel", "native code"),
    (r"importlib|imp|runpy|code|codeop|zipimport|pkgutil|builtins|__builtins__"
     r"|types\.(?:CodeType|FunctionType)|torch\.hub|torch\.package", "builds or loads code"),
    (r"pickle|_pickle|marshal|shelve|dill|cloudpickle|joblib|torch\.(?:load|save|jit\.load|from_file)",
     "loads or saves objects"),
    (r"socket|_socket|ssl|urllib\d?|requests|http|httpx|aiohttp|ftplib|smtplib|huggingface_hub|wandb",
     "network"),
    (r"os\.(?:environb?|getenvb?|putenv|unsetenv)", "environment"),
    (r"pathlib|shutil|tempfile|io|_io|mmap|glob|fileinput|sqlite3|codecs\.open"
     r"|numpy\.(?:load|save|memmap|fromfile)\w*"
     r"|os\.(?:f?open|f?write|read|remove|unlink|rename|replace|link|symlink|mkdir|makedirs|rmdir|removedirs"
     r"|chmod|chown|truncate|ftruncate|scandir|listdir|walk|chdir|dup2?|pipe|mkfifo|utime|access)", "files"),
    (r"gc|atexit|signal|faulthandler|inspect|sys\.(?:settrace|setprofile|modules|meta_path|path_hooks|path"
     r"|_getframe|_current_frames|monitoring|addaudithook|exitfunc|excepthook|setswitchinterval)"
     r"|time\.(?:sleep|clock_settime)", "hooks into Python"),
    (r"torch\.(?:_inductor|_dynamo|compiler)", "settings of torch's compiler"),
)]
BUILTINS = {
    **dict.fromkeys(("exec", "eval", "compile", "__import__", "__loader__"), "builds or loads code"),
    **dict.fromkeys(("open", "input"), "files"),
    **dict.fromkeys(("setattr", "delattr", "globals", "locals", "vars", "breakpoint"), "patches names")}
DUNDERS = re.compile(r"__(?:dict|globals|builtins|code|class|subclasses|bases|mro|getattribute|setattr"
                     r"|wrapped|closure|defaults|self|func|loader|spec|file)__")
HIDING = sys.stdlib_module_names | {"torch", "numpy", "sitecustomize", "usercustomize", "harness"}


class Finding(NamedTuple):
    """A place in a submission that a reviewer must read."""

    path: str
    line: int  # from 1
    what: str
    text: str  # of the line, fit for a terminal


def scan(source: bytes, path: str) -> list[Finding]:
    """Return what stands out in a source file, by line; a file that cannot be parsed is one finding.

    It is a list for a reader, no proof: code can hide what it does. torch.compile is no finding.
    """
    lines = source.split(b"\n")

    def finding(line: int, what: str) -> Finding:
        text = lines[line - 1].decode(errors="replace").strip() if 0 < line <= len(lines) else ""
        return Finding(path, line, what, shown(text))

    visitor = _Visitor()
    try:
        with warnings.catch_warnings(action="ignore"):
            visitor.visit(ast.parse(source))
    except (SyntaxError, ValueError, MemoryError, RecursionError, LookupError) as error:
        reason = f"cannot be parsed, so it was not scanned ({type(error).__name__})"
        return [finding(getattr(error, "lineno", None) or 1, reason)]
    if (top := path.split("/")[0].removesuffix(".py")) in HIDING:
        visitor.found.add((1, f"takes the place of the module {top}"))
    return [finding(line, what) for line, what in sorted(visitor.found)]


class _Visitor(ast.NodeVisitor):
    """Collects (line, what) while it follows imported names."""

    def __init__(self):
        self.found: set[tuple[int, str]] = set()
        self.modules: dict[str, str] = {}  # name in the file -> dotted name it was imported as
        self.runs: set[str] = set()  # names of the harness's Run
        self.parameters: list[set[str]] = []  # of the functions around

    def add(self, node: ast.AST, what: str) -> None:
        self.found.add((getattr(node, "lineno", 1), what))

    def check(self, node: ast.AST, dotted: str) -> None:
        for pattern, what in NAMES:
            if pattern.match(dotted):
                self.add(node, what)

    def dotted(self, node: ast.AST) -> str | None:
        """Return the dotted name of an expression whose root was imported, else None."""
        parts: list[str] = []
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        if not isinstance(node, ast.Name) or node.id not in self.modules:
            return None
        return ".".join([self.modules[node.id], *reversed(parts)])

    # what is imported

    def imports(self, node: ast.Import | ast.ImportFrom, names: list[tuple[str, str]]) -> None:
        for name, dotted in names:
            self.modules[name] = dotted
            self.check(node, dotted)
        if self.parameters:
            self.add(node, "imports late, inside a function")

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self.check(node, alias.name)
        self.imports(node, [(a.asname, a.name) if a.asname else (a.name.split(".")[0],) * 2
                            for a in node.names])

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        if any(alias.name == "*" for alias in node.names):
            self.add(node, "imports names that cannot be followed")
        module = "." * node.level + (node.module or "")
        self.imports(node, [(alias.asname or alias.name, f"{module}.{alias.name}") for alias in node.names])

    # scopes, and what is called a run

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> None:
        children = list(ast.iter_child_nodes(node.args))
        parameters = [child for child in children if isinstance(child, ast.arg)]
        for parameter in parameters:
            if parameter.arg == "run" or parameter.annotation and "Run" in ast.unparse(parameter.annotation):
                self.runs.add(parameter.arg)
        for outside in (*getattr(node, "decorator_list", ()), *children):
            if outside not in parameters:  # a decorator, or a parameter's default
                self.visit(outside)
        self.parameters.append({parameter.arg for parameter in parameters})
        for inside in node.body if isinstance(node.body, list) else [node.body]:
            self.visit(inside)
        self.parameters.pop()

    visit_AsyncFunctionDef = visit_Lambda = visit_FunctionDef

    def visit_withitem(self, node: ast.withitem) -> None:
        if isinstance(node.context_expr, ast.Call) and isinstance(node.optional_vars, ast.Name) \
                and (self.dotted(node.context_expr.func) or "").startswith("harness"):
            self.runs.add(node.optional_vars.id)
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        call = isinstance(node.value, ast.Call)
        dotted = self.dotted(node.value.func if call else node.value) or ""
        for name in (target.id for target in node.targets if isinstance(target, ast.Name)):
            if dotted and not call:
                self.modules[name] = dotted  # another name of the same thing
            elif dotted.startswith("harness"):
                self.runs.add(name)
        self.generic_visit(node)

    # what is used

    def visit_Name(self, node: ast.Name) -> None:
        if node.id in self.modules:
            self.check(node, self.modules[node.id])
        elif node.id in BUILTINS and not any(node.id in names for names in self.parameters):
            self.add(node, BUILTINS[node.id])
        elif node.id in ("__builtins__", "__spec__"):
            self.add(node, "reaches into Python")

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if dotted := self.dotted(node):
            self.check(node, dotted)
        if DUNDERS.fullmatch(node.attr):
            self.add(node, "reaches into Python")
        elif node.attr.startswith("_") and isinstance(node.value, ast.Name) \
                and (node.value.id in self.runs or (dotted or "").startswith("harness")):
            self.add(node, "reaches into the harness")
        if isinstance(node.ctx, (ast.Store, ast.Del)):
            self.patches(node)
        self.generic_visit(node)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        if isinstance(node.ctx, (ast.Store, ast.Del)):
            self.patches(node.value)
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Name) and node.func.id == "getattr" and node.args \
                and self.dotted(node.args[0]):
            name = node.args[1] if len(node.args) > 1 else None
            if not (isinstance(name, ast.Attribute) and name.attr.endswith("dtype")):  # torch.float32 by name
                self.add(node, "looks up a module's names by string")
        self.generic_visit(node)

    def patches(self, target: ast.AST) -> None:
        """Note an assignment into something that was imported, or into the harness's run."""
        root = target
        while isinstance(root, (ast.Attribute, ast.Subscript)):
            root = root.value
        if isinstance(root, ast.Name) and root.id in self.modules:
            self.add(target, f"assigns into {shown(self.modules[root.id], 40)}")
        elif isinstance(root, ast.Name) and root.id in self.runs:
            self.add(target, "assigns into the harness's run")
