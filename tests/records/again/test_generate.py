"""python -m records generate and evaluate: a prompt, or a file of text, goes to the checkout's own child."""
import json
import math
import shutil
from pathlib import Path

import pytest
from synthetic import campaign, runnable, setting
from tiny import ROOT, Project

from records.__main__ import main
from records.tools.again import launch as launches


@pytest.fixture
def log(project: Project, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The log of a run that lies where this checkout's do, its weights beside it."""
    for name in ("bpe.py", "ids.py"):
        shutil.copy(ROOT / "data" / name, project.folder / "data")
    project.run(1)
    monkeypatch.setattr(launches, "ROOT", project.folder)
    return project.logs()[0]


@pytest.mark.slow
def test_a_newcomers_run_goes_on_with_a_prompt_and_tells_what_a_text_costs(log, capfd, tmp_path):
    """Without a question, as its code has run here; in a vocabulary of bytes a token is one."""
    assert main(["generate", str(log), "--prompt", "Call me é", "--tokens", "8"]) == 0
    said = capfd.readouterr()
    assert said.out.startswith("Call me é") and 10 < len(said.out) <= 18 and not said.err
    text = tmp_path / "text.md"
    text.write_text("Call me Ishmael. " * 20)
    assert main(["evaluate", str(log), str(text), "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert found["tokens"] == found["bytes"] == 340
    assert found["bits_per_byte"] == pytest.approx(found["nats_per_token"] / math.log(2))


def test_a_strangers_run_wants_a_yes_and_words_that_make_no_sense_are_refused(tmp_path, monkeypatch, refused,
                                                                              call):
    monkeypatch.setattr(launches, "ROOT", runnable(tmp_path / "checkout"))
    monkeypatch.setattr("sys.stdin", open("/dev/null"))
    [log] = campaign(tmp_path / "theirs", 1, setting(script=b"from harness.run import open_run\nexec('x')\n"))
    for words in (("generate", log), ("evaluate", log, log)):
        err = call(*words, code=2).err
        assert "builds or loads code: exec('x')" in err and "give --yes" in err
    assert "--temperature -1.0: expected 0 to 1000" in refused("generate", log, "--temperature", "-1")
    assert "--tokens 0: expected at least 1" in refused("evaluate", log, log, "--tokens", "0")
    (tmp_path / "checkout" / "data" / "tiny" / "vocab.bpe").unlink()
    assert "no such vocabulary" in call("generate", log, "--yes", code=2).err
