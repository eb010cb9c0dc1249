"""The five commands of docs/maintainers.md, on a pull request made here."""
import re
from pathlib import Path

import pytest
from small_logs import write_public

from harness.runlog import ROOT

SAYS = {"verify": "PROMISING: mean 3.2780", "diff": "lr", "stats": "; time -0.", "plan": "steps for 16 seeds",
        "history": "| 42 | 2026-07-17 |"}


def test_a_pull_request_goes_through_the_five_commands_of_the_page(tmp_path: Path, monkeypatch, call):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    for side, ms in (("this_pr", 59), ("baseline", 60)):
        for i, loss in enumerate((3.2771, 3.2782, 3.2789, 3.2778, 3.2781)):
            write_public(tmp_path / "records" / "2026-07-17_Faster" / side / f"{i}.txt",
                         {0: 11, 90: loss + 0.05, 100: loss}, ms=ms + i / 100, code=f"lr = {ms}")
    Path("README.md").write_text("42 | 0.1 minutes | Faster | [log](records/2026-07-17_Faster/this_pr)\n")
    folder = {"NEW": "records/2026-07-17_Faster/this_pr", "OLD": "records/2026-07-17_Faster/baseline",
              "RECORDS": "records"}
    page = (ROOT / "docs" / "maintainers.md").read_text()
    commands = re.findall(r"^```\npython3 -m records (.*)\n```$", page, re.MULTILINE)
    assert [command.split()[0] for command in commands] == [*SAYS]
    for command in commands:
        name, *words = (folder.get(word, word) for word in command.split())
        assert SAYS[name] in call(name, *words).out, command
    assert Path("history/history.md").is_file() and Path("history/fineweb.png").is_file()
