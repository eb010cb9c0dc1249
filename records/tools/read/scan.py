"""Reads a submission's code without running it and lists what a person must look at before trusting it."""
import ast
import re
import sys
import warnings
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from records.tools.read.values import shown

# what a submission may import: modules that run no code, read no files and talk to nobody, but for NAMES
WANTED = {"__future__", "abc", "bisect", "collections", "contextlib", "copy", "dataclasses", "einops", "enum",
          "fractions", "functools", "harness", "hashlib", "heapq", "itertools", "json", "math", "numbers",
          "numpy", "os", "random", "re", "statistics", "string", "struct", "sys", "textwrap", "time", "torch",
          "triton", "types", "typing", "typing_extensions", "warnings"}
COMPILER = "settings of torch's compiler"  # what the public rules ban
REFEREE = {"harness", "harness.run", "harness.run.Run", "harness.run.open_run"}
# dotted names of these, as the imports of a file resolve them -> why they matter
NAMES = [(re.compile(rf"(?:{pattern})(?:\.|$)"), what) for pattern, what in (
    (r"torch\.(?:multiprocessing|utils\.data|jit\.\w*fork|distributed\.(?:rpc|elastic|run|launch\w*))"
     r"|os\.(?:fork\w*|system|exec\w*|spawn\w*|popen|posix_spawn\w*|kill\w*|_exit|abort)",
     "threads or processes"),
    (r"torch\.(?:ops|utils\.cpp_extension|classes|cuda\._compile_kernel)", "native code"),
    (r"__builtins__|types\.(?:CodeType|FunctionType)|torch\.(?:hub|package)", "builds or loads code"),
    (r"torch\.(?:load|save|jit\.load|from_file|serialization)", "loads or saves objects"),
    (r"os\.(?:environb?|getenvb?|putenv|unsetenv)", "environment"),
    (r"numpy\.(?:load|save|memmap|fromfile|lib)\w*"
     r"|os\.(?:f?open|f?write|read|remove|unlink|rename|replace|link|symlink|mkdir|makedirs|rmdir|removedirs"
     r"|chmod|chown|truncate|ftruncate|scandir|listdir|walk|chdir|dup2?|pipe|mkfifo|utime|access)", "files"),
    (r"sys\.(?:settrace|setprofile|modules|meta_path|path_hooks|path|monitoring|addaudithook|exitfunc"
     r"|excepthook|setswitchinterval)|time\.(?:sleep|clock_settime)", "hooks into Python"),
    (r"sys\.(?:_getframe\w*|_current\w+|exc_info|exception|last_\w+)", "reads frames"),
    (r"torch\.(?:library|overrides|utils\._python_dispatch|nn\.modules\.module\.register\w*)",
     "changes what torch's functions do"),
    (r"torch\.is_(?:grad|inference)\w*", "tells training from validation"),
    (r"torch\._inductor", COMPILER), (r"torch\.(?:_dynamo|compiler)", "settings of torch's tracer"),
)]
BUILTINS = {
    **dict.fromkeys(("exec", "eval", "compile", "__import__", "__loader__"), "builds or loads code"),
    **dict.fromkeys(("open", "input"), "files"),
    "getattr": "looks up names by an expression",  # where it is not called
    **dict.fromkeys(("setattr", "delattr", "globals", "locals", "vars", "breakpoint"), "patches names")}
DUNDERS = re.compile(r"__(?:dict|globals|builtins|code|class|subclasses|bases|mro|getattribute|setattr"
                     r"|wrapped|closure|defaults|self|func|loader|spec|file|doc|kwdefaults|init_subclass)__")
# names of attributes, whatever they are of
ATTRIBUTES = [(re.compile(pattern), what) for pattern, what in (
    (r"__traceback__|__context__|__cause__|tb_\w+|f_(?:back|code|globals|locals|builtins|lineno)"
     r"|(?:gi|cr|ag)_(?:frame|code|await|yieldfrom)", "reads frames"),
    (r"(?:read|write)_(?:bytes|text)|open|tofile|from_?file|memmap|load(?:txt)?|genfromtxt|save(?:txt|z\w*)?",
     "files"),
    (r"__torch_\w+__|Torch(?:Function|Dispatch)Mode|register_module_\w+|as_subclass",
     "changes what torch's functions do"),
    (r"initial_seed|[gs]et_rng_state|fork_rng|default_generator", "looks at the seed"),
    (r"training", "tells training from validation"))]
CHARACTERS, NUMBERS = 1000, 300  # of the constants of a statement; ten times as many in a file
HIDING = sys.stdlib_module_names | {"torch", "numpy", "sitecustomize", "usercustomize", "harness"}


class Finding(NamedTuple):
    """A place in a submission that a reviewer must read."""

    path: str
    line: int  # from 1
    what: str
    text: str  # of the line, fit for a terminal


def scan(source: bytes, path: str, files: Iterable[str] = ()) -> list[Finding]:
    """Return what stands out in a source file, by line; a file that cannot be parsed is one finding.

    files: paths of the files that its log carries, which it may import. It is a list for a reader, no proof:
    code can hide what it does. torch.compile is no finding, its settings are.
    """
    lines = source.split(b"\n")

    def finding(line: int, what: str) -> Finding:
        text = lines[line - 1].decode(errors="replace").strip() if 0 < line <= len(lines) else ""
        return Finding(path, line, what, shown(text))

    visitor = _Visitor({part.removesuffix(".py") for file in files for part in file.split("/")} - HIDING)
    try:
        with warnings.catch_warnings(action="ignore"):
            tree = ast.parse(source)
        visitor.above_the_harness(tree)
        visitor.constants(tree)
        visitor.visit(tree)
    except (SyntaxError, ValueError, MemoryError, RecursionError, LookupError) as error:
        reason = f"cannot be parsed, so it was not scanned ({type(error).__name__})"
        return [finding(getattr(error, "lineno", None) or 1, reason)]
    if (top := path.split("/")[0].removesuffix(".py")) in HIDING:
        visitor.found.add((1, f"takes the place of the module {top}"))
    return [finding(line, what) for line, what in sorted(visitor.found)]


class _Visitor(ast.NodeVisitor):
    """Collects (line, what) while it follows imported names."""

    def __init__(self, beside: set[str]):
        self.wanted = WANTED | beside
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
        top, *below = dotted.split(".")
        if top == "harness" and dotted not in REFEREE:
            self.add(node, "reaches into the harness")
        if any(name[:1] == "_" for name in below):
            self.add(node, "a private name of others")

    def dotted(self, node: ast.AST) -> str | None:
        """Return the dotted name of an expression whose root was imported, else None."""
        parts: list[str] = []
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        if not isinstance(node, ast.Name) or node.id not in self.modules or self.shadowed(node.id):
            return None
        return ".".join([self.modules[node.id], *reversed(parts)])

    def shadowed(self, name: str) -> bool:
        """Tell whether a parameter, such as config, has the name of something whose import was noted."""
        noted = any(pattern.match(self.modules[name]) for pattern, _ in NAMES)
        return noted and any(name in names for names in self.parameters)

    # the file as a whole

    def above_the_harness(self, tree: ast.Module) -> None:
        """Note what a script that imports the harness does before, at whatever depth the import stands."""
        def imported(node: ast.AST) -> list[str]:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else (
                [node.module or ""] if isinstance(node, ast.ImportFrom) else [])
            return [name.split(".")[0] for name in names]
        last = next((i for i, node in enumerate(tree.body)
                     if any("harness" in imported(inside) for inside in ast.walk(node))), -1)
        for node in tree.body[:last + 1]:
            told = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            if not told and imported(node)[:1] not in (["harness"], ["__future__"]):
                self.add(node, "runs before the harness is imported")

    def constants(self, tree: ast.Module) -> None:
        """Note statements, and a file, that hold as much as a text or a table does."""
        def within(node: ast.AST) -> Iterator[ast.AST]:
            for child in ast.iter_child_nodes(node):
                if not isinstance(child, ast.stmt):
                    yield child
                    yield from within(child)
        sizes, counts = 0, 0
        for node in ast.walk(tree):
            docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            if not isinstance(node, ast.stmt) or docstring:
                continue
            values = [c.value for c in within(node) if isinstance(c, ast.Constant)]
            size = sum(len(v) for v in values if isinstance(v, (str, bytes)))
            size += sum(v.bit_length() // 8 for v in values if isinstance(v, int))
            if size > CHARACTERS or len(values) > NUMBERS:
                self.add(node, "a large constant")
            sizes, counts = sizes + size, counts + len(values)
        if sizes > 10 * CHARACTERS or counts > 10 * NUMBERS:
            self.found.add((1, "large constants"))

    # what is imported

    def imports(self, node: ast.Import | ast.ImportFrom, names: list[tuple[str, str]]) -> None:
        for name, dotted in names:
            self.modules[name] = dotted
            self.check(node, dotted)
            if (top := dotted.split(".")[0]) and top not in self.wanted:
                self.add(node, f"imports {shown(top, 40)}, which few submissions need")
        if self.parameters and any(not dotted.startswith("torch.nn.") for _, dotted in names):
            self.add(node, "imports late, inside a function")  # torch's own may be heavy

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

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        if any(re.fullmatch(r"torch\.(Tensor|nn\.(parameter\.)?Parameter)", self.dotted(base) or "")
               for base in node.bases):
            self.add(node, "changes what torch's functions do")
        for inside in node.body:
            if isinstance(inside, ast.FunctionDef) and inside.name in ("train", "eval"):
                self.add(inside, "tells training from validation")
        self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> None:
        if getattr(node, "name", "").startswith("__torch_"):
            self.attribute(node, node.name)
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
            elif dotted.startswith("harness") or getattr(node.value, "id", None) in self.runs:
                self.runs.add(name)
        self.generic_visit(node)

    # what is used

    def visit_Name(self, node: ast.Name) -> None:
        if node.id in self.modules and not self.shadowed(node.id):
            self.check(node, self.modules[node.id])
        elif node.id in BUILTINS and not any(node.id in names for names in self.parameters):
            self.add(node, BUILTINS[node.id])
        elif node.id in ("__builtins__", "__spec__", "__doc__"):
            self.add(node, "reaches into Python")
        elif node.id.startswith("__torch_"):
            self.attribute(node, node.id)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if dotted := self.dotted(node):
            self.check(node, dotted)
        if DUNDERS.fullmatch(node.attr):
            self.add(node, "reaches into Python")
        if not (dotted or "").startswith("triton."):  # tl.load reads memory
            self.attribute(node, node.attr)
        root = node.value.func if isinstance(node.value, ast.Call) else node.value  # super() is a call
        if node.attr[:1] == "_" and node.attr[-2:] != "__" \
                and not (isinstance(root, ast.Name) and root.id in ("self", "cls", "super")):
            held = isinstance(root, ast.Name) and root.id in self.runs
            self.add(node, "reaches into the harness" if held else "a private name of others")
        if isinstance(node.ctx, (ast.Store, ast.Del)):
            self.patches(node)
        self.generic_visit(node)

    def visit_MatchClass(self, node: ast.MatchClass) -> None:
        for name in node.kwd_attrs:  # `case object(_clock=x)` reads an attribute
            self.visit_Attribute(ast.copy_location(ast.Attribute(node.cls, name, ast.Load()), node))
        self.generic_visit(node)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        if isinstance(node.ctx, (ast.Store, ast.Del)):
            self.patches(node.value)
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        called, name = self.dotted(node.func) or "", node.args[1] if len(node.args) > 1 else None
        if isinstance(node.func, ast.Name) and node.func.id == "getattr":
            module = node.args and self.dotted(node.args[0])
            dtype = module and isinstance(name, ast.Attribute) and name.attr.endswith("dtype")  # of torch
            if module and not dtype:
                self.add(node, "looks up a module's names by string")
            if not dtype and not isinstance(name, ast.Constant):
                self.add(node, "looks up names by an expression")
        elif isinstance(node.func, ast.Name) and node.func.id == "type" and len(node.args) > 1:
            self.add(node, "builds a class")
        if called == "torch.compile" and any(k.arg not in ("fullgraph", "dynamic") for k in node.keywords):
            self.add(node, COMPILER)
        for inside in ast.iter_child_nodes(node):
            if inside is not node.func or not isinstance(inside, ast.Name) or inside.id != "getattr":
                self.visit(inside)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, str) and re.fullmatch(r"__?[A-Za-z]\w+", node.value) \
                and node.value != "__main__":
            self.add(node, "names something private")

    def attribute(self, node: ast.AST, name: str) -> None:
        for pattern, what in ATTRIBUTES:
            if pattern.fullmatch(name):
                self.add(node, what)

    def patches(self, target: ast.AST) -> None:
        """Note an assignment into something that was imported, or into the harness's run."""
        root = target
        while isinstance(root, (ast.Attribute, ast.Subscript)):
            root = root.value
        if isinstance(root, ast.Name) and root.id in self.modules:
            self.add(target, f"assigns into {shown(self.modules[root.id], 40)}")
        elif isinstance(root, ast.Name) and root.id in self.runs:
            self.add(target, "assigns into the harness's run")
