"""What the tests of records share: a checkout, a record in it, and the commands called in this process."""
from collections.abc import Callable
from pathlib import Path

import pytest
from synthetic import Judge, campaign, checkout

from records.__main__ import main
from records.tools.again import judge as judging
from records.tools.read import tracks


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout that the commands take for their own."""
    root = checkout(tmp_path / "checkout")
    monkeypatch.setattr(tracks, "ROOT", root)
    return root


@pytest.fixture
def call(capsys: pytest.CaptureFixture) -> Callable:
    """Return call(*words, code=0) -> the out and err of a command whose exit code is that one."""
    def call(*words: object, code: int = 0):
        capsys.readouterr()
        assert main([*map(str, words)]) == code
        return capsys.readouterr()
    return call


@pytest.fixture
def refused(call: Callable) -> Callable:
    """Return refused(*words) -> the one line in which a command refuses its input."""
    def refused(*words: object) -> str:
        out, err = call(*words, code=2)
        assert not out or words[0] == "list"  # which has listed the others
        assert err.count("\n") == 1 and err[:-1].isprintable() and len(err) < 500
        return err
    return refused


@pytest.fixture
def record(root: Path, call: Callable) -> Path:
    """The folder of a sound record of four runs in that checkout."""
    call("submit", *campaign(root), "--name", "A_b-1", "--to", root / "records")
    return root / "records" / "tiny" / "2026-01-01_A_b-1"


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> Judge:
    """Take the place of the judge of the checkout."""
    judge = Judge()
    monkeypatch.setattr(judging, "judge", judge.judge)
    return judge
