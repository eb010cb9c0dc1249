"""python -m records export: what a folder holds, and that it needs nothing but torch."""
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from small_logs import write_log
from tiny import HP, ROOT, environment, submission

from harness.front.judged import take
from harness.runlog import sha256
from harness.weights import DTYPES
from records.tools.again import export
from records.tools.again import launch as launches
from records.tools.read.logs import load_runs
from records.tools.read.values import ReadError, cell

SCRIPT = b'''"""Words."""
from harness.run import open_run
import torch

# why this width
WIDTH, other = 4, 5


class Muon:
    pass


class GPT(torch.nn.Module):
    size = WIDTH


RECIPES = {}
torch.manual_seed(0)
Muon.x = 1
if __name__ == "__main__":
    Muon()
'''


def log_of(script: bytes) -> SimpleNamespace:
    """Return what export asks of a log."""
    return SimpleNamespace(script=script, path=Path("x.txt"), files={"harness/run.py": b"", "layers.py": b""})


def test_of_a_script_stays_what_its_model_needs():
    kept = SCRIPT.split(b"\n\n\nclass Muon:\n    pass")[0].replace(b"from harness.run import open_run\n", b"")
    rest = SCRIPT.partition(b"    pass\n")[2].partition(b"Muon.x")[0]
    assert export.model_code(log_of(SCRIPT)) == kept + b"\n" + rest
    own = export.model_code(log_of((ROOT / "train_gpt2.py").read_bytes())).decode()
    assert "harness." not in own and "Muon" not in own.partition("class Hyper")[0] and "class GPT" in own


@pytest.mark.parametrize("line, words", [
    ("from layers import Base as torch", "its model needs from layers import Base as torch; expected"),
    ("import harness.run as torch", "its model needs import harness.run as torch"),
    ("from . import torch", "its model needs from . import torch"),
    ("def", "a script of another Python")])
def test_a_model_that_needs_another_file_is_refused(line, words):
    with pytest.raises(ReadError, match=re.escape(words)):
        export.model_code(log_of(SCRIPT.replace(b"import torch\n", line.encode() + b"\n", 1)))


def test_a_script_without_the_contract_is_refused():
    with pytest.raises(ReadError, match="its script has no GPT"):
        export.model_code(log_of(SCRIPT.replace(b"class GPT", b"class Other")))


def exported(tmp_path: Path, **changes) -> tuple[Path, Path]:
    """Return a log whose weights are there, and a folder to export it to."""
    log = write_log(tmp_path, "run", track="lab", ended={"state_sha256": sha256(b"weights")},
                    hyperparameters={"recipe": {"model": {"kind": "gpt2"}}}, **changes)
    log.with_suffix(".safetensors").write_bytes(b"weights")
    return log, tmp_path / "exported"


def test_an_export_that_fails_leaves_nothing_and_can_be_repeated(tmp_path, monkeypatch, call, refused):
    """The folder was half full, and the same command said that it was not empty."""
    def fails(module: str, *words: object, text: str = "") -> None:
        raise ReadError(f"{module} ended with exit code 1; its words stand above")
    log, folder = exported(tmp_path)
    monkeypatch.setattr(export, "finish", fails)
    for _ in range(2):
        assert "its words stand above" in refused("export", log, folder)
    assert not list(folder.iterdir())
    monkeypatch.setattr(export, "finish", lambda *words, text="": None)
    call("export", log, folder)
    assert {path.name for path in folder.iterdir()} == {"gpt.py", "model.py", "data", "harness", "README.md"}


def test_a_strangers_words_are_no_markup_in_the_readme(tmp_path):
    log, _ = exported(tmp_path, sys={"cpu": "x | <img src=http://e/x> [a](http://b)"}, world_size=1,
                      run_id="x](http://b) <img src=y>")
    text = export.readme(load_runs(log)[0], "script")
    assert "<img" not in text and "[a]" not in text and "http://" not in text and "x]" not in text


def test_no_terminal_obeys_an_exported_model(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gpt", ModuleType("gpt"))
    model = {"__name__": "model", "__file__": "model.py"}
    exec(export.MODEL, model)
    model |= {"load": lambda: (None, {"n_positions": 1}), "token_bytes": lambda path: [b"\x1b[2Ja\n", b""],
              "encoder": lambda path: lambda prompt: [0]}
    model["main"]("", tokens=0)
    assert capsys.readouterr().out == "\ufffd[2Ja\n\n"


@pytest.mark.slow
def test_the_folder_runs_with_torch_alone_and_has_the_runs_logits(project, monkeypatch, tmp_path, call,
                                                                  refused):
    monkeypatch.setattr(launches, "ROOT", project.folder)
    shutil.copy(ROOT / "data" / "bpe.py", project.folder / "data")
    project.run(1, "--n_head=2")
    [log], folder = project.logs(), tmp_path / "exported"
    assert f"wrote {folder}" in call("export", log, folder).out
    assert "not empty" in refused("export", log, folder)
    done = subprocess.run([sys.executable, folder / "model.py", "Call me"], cwd=tmp_path, text=True,
                          capture_output=True, env=environment())
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Call me") and len(done.stdout) > 20
    assert cell(log.stem) in (folder / "README.md").read_text()
    model = submission().GPT(submission().Hyperparameters(**HP))
    weights = log.with_suffix(".safetensors")
    take(model, weights, {word: dtype for dtype, word in DTYPES.items()})
    ids = torch.arange(16)[None]
    torch.save({"ids": ids, "logits": model(ids).detach()}, tmp_path / "expected")
    code = ("import sys; sys.modules['numpy'] = None; sys.path.insert(0, '.'); import model, torch; "
            f"expected = torch.load({str(tmp_path / 'expected')!r}); "
            "assert torch.equal(model.load()[0](expected['ids']), expected['logits'])")
    done = subprocess.run([sys.executable, "-I", "-c", code], cwd=folder, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    weights.write_bytes(weights.read_bytes()[:-1])
    assert "the log names" in refused("export", log, tmp_path / "other")
    weights.unlink()
    assert "(lab train: --keep_weights)" in refused("export", log, tmp_path / "other")
