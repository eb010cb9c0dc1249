"""docs/sources.md says what works: each of its commands is run, or parsed, and prints what the row says."""
import argparse
import functools
import importlib
import re
import shlex
import subprocess
import sys

import pytest
from tiny import ROOT, environment

from lab.__main__ import COMMANDS, main

PAGE = (ROOT / "docs" / "sources.md").read_text()
WORDS = ("works", "differs", "left out", "refused", "not run")
LINES = [[cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
         for line in PAGE.splitlines() if line.startswith("| ")]
ROWS = [row for row in LINES if row[0] != "the source names"]
TYPED = [(said, shlex.split(command.strip("`"))) for _, said, command in ROWS if command]
RECIPES = [(said, words) for said, words in TYPED if words[:4] == ["python", "-m", "lab", "recipe"]]
SMOKE = sorted({shlex.join(words[3:]) for _, words in TYPED
                if words[:3] == ["python", "-m", "lab"] and {"--smoke", "coord-check"} & {*words}})


@pytest.fixture
def guide(tmp_path, monkeypatch):
    """Stand in a folder that has the page's guide.yaml."""
    (tmp_path / "guide.yaml").write_text(re.search(r"```yaml\n(.*?)```", PAGE, re.DOTALL)[1])
    monkeypatch.chdir(tmp_path)


def test_each_row_says_first_whether_it_works_and_has_a_command_where_it_does():
    assert len(ROWS) > 120
    for row in ROWS:
        assert len(row) == 3 and row[0], row
        assert row[1].startswith(WORDS), row
        assert row[2] == "" or re.fullmatch(r"`[^`]+`", row[2]), row


def test_each_recipe_command_prints_what_its_row_says(guide, capsys):
    """What a row says in code is in the output, so a key that is renamed or a number that moves fails it."""
    @functools.cache
    def printed(*words: str) -> tuple[int, str]:
        status = main([*words])
        return status, " ".join("".join(capsys.readouterr()).split())
    assert len(RECIPES) > 90
    for said, words in RECIPES:
        status, text = printed(*words[3:])
        assert status == (2 if said.startswith("refused") else 0), (words, text[-500:])
        for expected in re.findall(r"`([^`]+)`", said):
            assert expected in text, (words, expected)


def test_each_command_is_one_that_the_tool_takes():
    for _, words in TYPED:
        if words[:3] == ["python", "-m", "lab"]:
            module = importlib.import_module(f"lab.{COMMANDS[words[3]][0]}")
            module.add_arguments(parser := argparse.ArgumentParser())
            parser.parse_args(words[4:])
        elif words[0] != "hf":
            assert flags(*words[:4]) >= {word for word in words if word.startswith("--")}, words


@functools.cache
def flags(tool: str, *words: str) -> set[str]:
    """Return the flags of a program that is not of the lab."""
    launch = {"python": [sys.executable, *(words if words[0] == "-m" else words[:1])],
              "./run.sh": ["bash", "run.sh", "--python", sys.executable]}[tool]
    text = subprocess.run([*launch, "--help"], cwd=ROOT, capture_output=True, text=True, timeout=100,
                          env=environment()).stdout
    return set(re.findall(r"--\w+", text))


@pytest.mark.slow
@pytest.mark.parametrize("command", SMOKE)
def test_each_small_training_ends_well(command):
    assert main(shlex.split(command)) == 0


def test_links_of_the_page_lead_to_pages():
    for path in re.findall(r"\]\((?!https)([^)#]+)", PAGE):
        assert (ROOT / "docs" / path).exists(), path
