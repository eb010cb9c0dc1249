"""The submission that the repository ships, for the tests of its recipe alone.

They are skipped, with a line that says so, where another script stands in train_gpt2.py.
"""
import hashlib
import importlib
from types import ModuleType

import pytest
from tiny import ROOT

SHA256 = "411ec3b6d2217b4a7e2116f0117d6280e12d5497e7072431b227bdc4b29a6029"


def difference() -> str | None:
    """Return the line that says which script stands in train_gpt2.py, where it is not the shipped one."""
    found = hashlib.sha256((ROOT / "train_gpt2.py").read_bytes()).hexdigest()
    if found == SHA256:
        return None
    return (f"tests of the shipped recipe are skipped: train_gpt2.py has sha256 {found[:12]}..., the shipped "
            f"one {SHA256[:12]}...; where the recipe itself was changed on purpose, put {found} into "
            f"tests/shipped.py, and `python tests/curves.py` where the golden curves are to change too")


def shipped() -> ModuleType:
    """Return train_gpt2 as a module; skip the test module that asks where another script stands there."""
    if line := difference():
        pytest.skip(line, allow_module_level=True)
    return importlib.import_module("train_gpt2")
