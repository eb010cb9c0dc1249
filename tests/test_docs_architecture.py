"""Every name on docs/architecture.md is there, and each of its "how to add" works as it stands."""
import ast
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_any_submission import checkout
from tiny import ROOT, environment, record_script

from bench.architecture_figure import ways

PAGE = (ROOT / "docs" / "architecture.md").read_text()
RECIPES = dict(re.findall(r"^## How to add (.+)\n\n((?:(?!## ).*\n)+)", PAGE, re.MULTILINE))
BLOCK = re.compile(r"(?:(Write|Append to|(?:Add to|Above) `([^`]+)` in) `([^`]+)`:\n\n)?```(\w*)\n(.*?)```\n",
                   re.DOTALL)
SHOWS = {"a track": "val_loss", "a check": "not_huge: all below 8 MiB", "a command": "runs, ",
         "an optimizer": "val_loss", "a study": "layers"}


def defined(path: Path) -> set[str]:
    """Return the names that a module defines, methods behind their class's."""
    names: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        targets = node.targets if isinstance(node, ast.Assign) else [node]
        names |= {getattr(target, "name", getattr(target, "id", "")) for target in targets}
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{inner.name}" for inner in node.body
                      if isinstance(inner, ast.FunctionDef)}
    return names


def test_every_path_and_symbol_that_the_page_names_is_there():
    words = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", PAGE, flags=re.DOTALL))
    places = [word.split(":") for word in words
              if re.fullmatch(r"[\w/]+(/|\.(py|md|sh|toml))(:[\w.]+)?", word)]
    assert len(places) > 30
    made = {path for _, _, path, _, _ in BLOCK.findall(PAGE)}
    for path, *symbol in places:
        assert (ROOT / path).exists() or path in made, path
        assert not symbol or symbol[0] in defined(ROOT / path), f"{path}:{symbol[0]}"
    for path in re.findall(r"\]\(([^)#]+)\)", PAGE):
        assert (ROOT / "docs" / path).exists(), path


def test_the_drawing_has_three_ways():
    assert [len(steps) > 5 for steps in ways(PAGE).values()] == [True, True, True]


def apply(folder: Path, recipe: str) -> str:
    """Do what a section says, block by block, in a checkout; return what its commands print."""
    said = ""
    for how, name, path, language, text in BLOCK.findall(recipe):
        file = folder / path
        if how == "Write":
            file.write_text(text)
        elif how == "Append to":
            file.write_text(f"{file.read_text().rstrip()}\n\n\n{text}")
        elif how:
            source, above = file.read_text(), how.startswith("Above")
            end = "" if above else r" = [({[]"
            [start] = re.findall(rf"^{re.escape(name)}{end}", source, re.MULTILINE)
            file.write_text(source.replace(start, text + start if above else f"{start}{text.strip()} ", 1))
        else:
            for line in text.splitlines():
                words = shlex.split(line)
                words[:1] = {"python": [sys.executable],
                             "./run.sh": ["bash", "run.sh", "--python", sys.executable]}[words[0]]
                done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=200,
                                      env=environment())
                said += done.stdout + done.stderr
                assert done.returncode == 0, said[-5000:]
    return said


@pytest.mark.slow
@pytest.mark.parametrize("what", RECIPES)
def test_what_the_page_tells_to_add_can_be_added_as_it_says(what, tmp_path):
    folder = checkout(tmp_path, record_script())
    (folder / "my_texts").mkdir()
    shutil.copy(ROOT / "docs" / "rules.md", folder / "my_texts" / "rules.txt")
    assert SHOWS[what] in apply(folder, RECIPES[what])
