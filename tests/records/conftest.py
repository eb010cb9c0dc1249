"""What the tests of records share: a checkout."""
from pathlib import Path

import pytest
from synthetic import checkout

from records.tools.read import tracks


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout that the commands take for their own."""
    root = checkout(tmp_path / "checkout")
    monkeypatch.setattr(tracks, "ROOT", root)
    return root
