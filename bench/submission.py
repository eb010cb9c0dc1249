"""The submission, whatever stands in train_gpt2.py: loaded by its path, and only when a benchmark runs."""
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from bench.rounds import ROOT

SCRIPT = ROOT / "train_gpt2.py"


class SubmissionError(ValueError):
    """What stands in train_gpt2.py is not what a benchmark can measure."""


def load(*needed: str, script: Path = SCRIPT) -> ModuleType:
    """Return a submission as a module; a second call loads it anew.

    Raises SubmissionError, in one line, where it cannot be loaded or lacks one of the names that are needed.
    """
    spec = importlib.util.spec_from_file_location("submission", script)
    module = sys.modules["submission"] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever a stranger's script raises, say it in one line
        raise SubmissionError(f"{script.name}: {type(error).__name__}: {error}") from error
    if missing := [name for name in needed if not hasattr(module, name)]:
        raise SubmissionError(f"{script.name} has no {', '.join(missing)}; this benchmark needs "
                              f"{', '.join(needed)} of the submission, as the shipped one has them")
    return module
