"""What a submission says of itself, read in a process of its own: the launcher executes no line of it.

    python -m harness.front.recipes SCRIPT

prints JSON: {"recipes": {name: {field: its value in Python}}, "contract": whether there is a GPT}, or what is
wrong: {"error": ...}.
"""
import ast
import dataclasses
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

from harness.runlog import ROOT


def start_reading(script: Path) -> subprocess.Popen:
    """Start the process that reads a script; Ctrl-C is the launcher's."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.Popen([sys.executable, "-P", "-m", "harness.front.recipes", str(script)], text=True,
                            env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE,
                            start_new_session=True)


def finish_reading(process: subprocess.Popen, name: str) -> tuple[dict[str, Any], bool]:
    """Return RECIPES, made of their fields, and whether there is a GPT. Raises ValueError."""
    said = process.communicate()[0]
    found = json.loads(said) if said else {"error": f"its import ended with exit code {process.returncode}"}
    if "error" in found:
        raise ValueError(f"--script {name}: {found['error']}")
    recipes = {}
    for recipe, fields in found["recipes"].items():
        values = {field: ast.literal_eval(text) for field, text in fields.items()}
        recipes[recipe] = dataclasses.make_dataclass("Hyperparameters", values, frozen=True)(**values)
    return recipes, found["contract"]


def main() -> None:
    """Print what the command line's script says."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the script prints
    try:
        sys.path.insert(0, str(Path(sys.argv[1]).resolve().parent))  # as for a program
        names = runpy.run_path(sys.argv[1], run_name="submission")
        recipes = {name: {field.name: repr(getattr(hp, field.name)) for field in dataclasses.fields(hp)}
                   for name, hp in names["RECIPES"].items()}
        for text in (text for fields in recipes.values() for text in fields.values()):
            ast.literal_eval(text)  # a log could not hold another
        found = {"recipes": recipes, "contract": "GPT" in names}
    except (Exception, SystemExit) as error:  # whatever a stranger's script raises, say it in one line
        found = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(found), file=out, flush=True)


if __name__ == "__main__":
    main()
