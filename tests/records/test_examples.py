"""The example that ends the help of each command parses, and those that show logs run."""
import importlib
import json
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from small_logs import write_log

from records.__main__ import COMMANDS, main
from records.tools.read import tracks


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_each_command_ends_in_an_example_that_parses(name, capsys, monkeypatch, tmp_path):
    _, example, room = COMMANDS[name]
    with pytest.raises(SystemExit):
        main([name, "--help"])
    assert capsys.readouterr().out.strip().splitlines()[-1] == f"example: {example}"
    if example.startswith("python -m records "):
        seen = []
        for log in "ab":
            write_log(tmp_path / "records" / "runs", log)
        monkeypatch.setattr(tracks, "ROOT", tmp_path)
        monkeypatch.setattr(importlib.import_module(f"records.tools.{room}"), "main", seen.append)
        main(shlex.split(example)[3:])
        assert seen


@pytest.mark.parametrize("name, logs, right", [
    ("list", ["r"], lambda out: len(json.loads(out)) == 1), ("show", ["a"], lambda out: "val_loss" in out),
    ("diff", ["a", "b"], lambda out: out.startswith("no difference in what both sides tell")),
    ("plan", [], lambda out: "runs                 25\n" in out and "by run 32         0.89684" in out),
    ("stats", ["a", "b"], lambda out: "REFUTED: mean 4.9995" in out),
    ("plot", ["a", "b"], lambda out: Path("losses.png").read_bytes().startswith(b"\x89PNG"))])
def test_the_example_of_what_shows_runs(name: str, logs: list[str], right: Callable, root, monkeypatch, call):
    if name == "plot":
        pytest.importorskip("matplotlib")
    monkeypatch.chdir(root)
    for i, log in enumerate(logs):
        losses = (6.0, 5.0 - i * (name != "diff") / 1000)
        write_log(root / "records" / "runs", log, losses, last=2, seed=i * (name == "stats"))
    words = COMMANDS[name][1].split()[3:]
    files = [one for word in words for one in (Path().glob(word) if "*" in word else [word])]
    assert right(call(*files, code=int(name == "stats")).out)
