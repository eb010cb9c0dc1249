"""What ./run.sh --help prints, read out of the sources: nothing is imported or run, Python 3.11 is enough."""
import argparse
import ast
import io
import sys
import tokenize
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    """Print the help for the command line's --script; return the exit code, 2 where that cannot be read."""
    words = [word for argument in sys.argv[1:] for word in argument.split("=", 1)]
    script = Path(words[words.index("--script") + 1]) if "--script" in words[:-1] else ROOT / "train_gpt2.py"
    try:
        print(usage(script), end="")
    except (ValueError, OSError, SyntaxError) as error:
        print(f"run.sh: --script {script}: {error}", file=sys.stderr)
        return 2
    return 0


def usage(script: Path) -> str:
    """Return the help text: commands, flags of a run, hyperparameters of a script."""
    head = [line[4:] for line in (ROOT / "run.sh").read_text().splitlines() if line.startswith("#   ")]
    parser = argparse.ArgumentParser(
        prog="./run.sh", usage="./run.sh [--name value ...]", add_help=False, description="\n".join(head),
        epilog="example: ./run.sh --seed 1", formatter_class=argparse.RawDescriptionHelpFormatter)
    for title, path, owner in (
            ("what runs, and where", ROOT / "harness" / "front" / "launch.py", "Place"),
            ("launch options, which leave the training as it is", ROOT / "harness" / "plan.py", "Options"),
            (f"hyperparameters of {script.name}; an override is logged, and such a run is no record",
             script, "Hyperparameters")):
        group = parser.add_argument_group(title)
        for name, kind, default, meaning in fields_of(path.read_text(encoding="utf-8"), owner):
            meaning += f" (default: {default})" * (default not in ("", "None"))
            group.add_argument(f"--{name}", metavar=kind.removesuffix(" | None"),
                               help=meaning.strip().replace("%", "%%"))
    return parser.format_help()


def fields_of(source: str, owner: str) -> list[tuple[str, str, str, str]]:
    """Return name, type, default and meaning of a class's fields; the comment beside one is its meaning.

    Where the source has RECIPES, a default that differs between them is given for each.
    """
    body, recipes, fields = ast.parse(source).body, {}, []
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {token.start[0]: token.string[2:] for token in tokens if token.type == tokenize.COMMENT}
    for node in body:
        if isinstance(node, ast.Assign) and ast.unparse(node).startswith("RECIPES = {"):
            recipes = {ast.literal_eval(key): {word.arg: ast.unparse(word.value) for word in call.keywords}
                       for key, call in zip(node.value.keys, node.value.values) if isinstance(call, ast.Call)}
    for node in next((n.body for n in body if isinstance(n, ast.ClassDef) and n.name == owner), ()):
        if isinstance(node, ast.AnnAssign):
            name, default = ast.unparse(node.target), ast.unparse(node.value) if node.value else ""
            values = {recipe: given.get(name, default) for recipe, given in recipes.items()}
            each = [f"{recipe} {value}" for recipe, value in values.items()]
            default = ", ".join(each if len(set(values.values())) > 1 else [*values.values(), default][:1])
            fields.append((name, ast.unparse(node.annotation), default, comments.get(node.end_lineno, "")))
    if not fields:
        raise ValueError(f"no class {owner} with fields in it")
    return fields


if __name__ == "__main__":
    sys.exit(main())
