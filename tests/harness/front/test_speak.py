"""What a run makes of ids: the judge's child gives the logits, and what is drawn from them is the model's."""
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import HP, Project, submission

from harness import weights
from harness.front import judge as judges
from harness.front import speak
from harness.front.judged import take
from harness.runlog import sha256
from harness.shards import read_shard, write_shard


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project with a run and its weights."""
    project = Project(tmp_path_factory.mktemp("text") / "the project")
    project.run(1, "--n_head=2")
    return project


@pytest.fixture
def asked(project: Project, monkeypatch: pytest.MonkeyPatch) -> Callable:
    """Return asked(shard, *flags) -> the exit code of that run's text."""
    monkeypatch.setattr(judges, "ROOT", project.folder)

    def asked(shard: Path, *flags: str) -> int:
        words = [*project.logs(), shard, project.folder / "data" / "tiny" / "vocab.bpe", *flags]
        monkeypatch.setattr(sys, "argv", ["speak", *map(str, words)])
        return speak.main()
    return asked


def test_the_tracks_validation_costs_what_the_log_says(asked, project, capsys):
    """An end of text costs nats and is no byte: bits per byte are the harness's too."""
    shard, end = project.folder / "data" / "tiny" / "tiny_val_000000.bin", project.end()
    assert asked(shard, "--tokens=512", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["tokens"] == 512 and found["nats_per_token"] == pytest.approx(end["val_loss"], abs=2e-6)
    assert found["bytes"] == sum(read_shard(shard)[1:513] < 256)


def test_what_follows_is_the_models_own_choice_also_beyond_its_window(asked, project, tmp_path, monkeypatch):
    model = submission().GPT(submission().Hyperparameters(**HP))
    dtypes = {word: dtype for dtype, word in weights.DTYPES.items()}
    take(model, project.logs()[0].with_suffix(".safetensors"), dtypes)
    ids = [256, 7, 8, 9]
    with torch.no_grad():
        for _ in range(20):
            ids.append(int(model(torch.tensor([ids[-16:]]))[0, -1].argmax()))
    write_shard(tmp_path / "prompt", np.array(ids[:4]))
    found = []
    monkeypatch.setattr(speak, "write", lambda new, table: found.extend(new))
    assert asked(tmp_path / "prompt", "--tokens=20", "--temperature=0") == 0
    assert found == ids[1:] and 256 not in ids[4:]


def test_without_weights_one_line_says_how_to_keep_them(asked, project, tmp_path, capsys):
    write_shard(tmp_path / "prompt", np.array([256]))
    assert asked(tmp_path / "prompt", f"--weights={tmp_path / 'none'}") == 2
    err = capsys.readouterr().err
    assert err.endswith("none: no such file; train with --weights true, or give --weights FILE\n")


def test_ids_are_drawn_from_the_softmax_of_the_top_k():
    logits, generator = np.log(np.array([0.1, 0.2, 0.7], "f4")), np.random.default_rng(0)
    drawn = [speak.drawn(logits, 1.0, 2, generator) for _ in range(3000)]
    share = drawn.count(1) / 3000
    assert 0 not in drawn and abs(share - 2 / 9) < 4 * (2 / 9 * 7 / 9 / 3000) ** 0.5  # 4 sd
    assert {speak.drawn(logits, 1e-300, None, generator) for _ in range(50)} == {2}
    with pytest.raises(ValueError, match="not finite"):
        speak.drawn(logits * np.nan, 0, None, generator)


def test_a_letter_of_several_tokens_is_written_whole_and_no_terminal_obeys_a_model(capsys):
    speak.write(iter(range(6)), [b"\xc3", b"\xa9", b"\n", b"\x1b[2J", "ü".encode(), b"\xf0"])
    assert capsys.readouterr().out == "é\n\ufffd[2Jü\ufffd\n"


def test_a_log_that_says_nonsense_gets_one_line(project, tmp_path, monkeypatch, capsys):
    """A list of hyperparameters was a traceback here, one line of the judge."""
    above, _, end = project.logs()[0].read_bytes().rpartition(b"#:end ")
    above = re.sub(rb'"hyperparameters":{[^{}]*}', b'"hyperparameters":[]', above)
    end = json.loads(end) | {"sha256": sha256(above)}
    (tmp_path / "odd.txt").write_bytes(above + b"#:end " + json.dumps(end).encode() + b"\n")
    monkeypatch.setattr(judges, "ROOT", project.folder)
    monkeypatch.setattr(sys, "argv", ["speak", str(tmp_path / "odd.txt"), "none", "none"])
    assert speak.main() == 2
    assert capsys.readouterr().err == "odd: 'list' object has no attribute 'get'\n"
