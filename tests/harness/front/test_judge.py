"""The judge: an honest run holds, and each cheat or fault gets its word, from log and weights alone."""
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from test_any_submission import SCRIPTS
from tiny import ROOT, TINY, Project, resealed_script, result, tiny_tokens

from harness.front import judge as judges
from harness.front.judge import LIMITS, Fails, nll, probes
from harness.shards import write_shard

ANSWER = "            return self.lm_head(norm(x_BTC))\n"  # of the record's GPT


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, Path]:
    """A project and the log of a run in it."""
    project = Project(tmp_path_factory.mktemp("judged") / "the project")
    write_shard(project.folder / "data" / "tiny" / "tiny_val_000000.bin", tiny_tokens(1200, seed=9))
    project.run(1, "--seed=3", "--adam_betas=(0.8,0.9)")
    return project, project.logs()[0]


@pytest.fixture
def judged(run: tuple[Project, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable:
    """Return judged(*changes, **options) -> the verdict on that run, with its log changed and resealed."""
    project, log = run
    monkeypatch.setattr(judges, "ROOT", project.folder)

    def judged(*changes: tuple[str, str], **options: Any) -> dict[str, Any]:
        forged = tmp_path / log.name
        forged.write_bytes(resealed_script(log.read_bytes(), *changes))
        shutil.copy(log.with_suffix(".safetensors"), tmp_path)
        return judges.judge(forged, **options)
    return judged


def test_an_honest_run_holds_and_its_holdout_is_other_text(judged, run):
    verdict = judged(holdout="5")
    assert verdict["ok"] is True and verdict["refused"] is None and verdict["limits"] == LIMITS
    assert verdict["moved"] == verdict["peek"] == 0.0 and abs(verdict["difference"]) < 2e-6
    assert (verdict["init"], verdict["cuts"], verdict["seed"]) == ("same", 128, 3)
    assert verdict["loss"] == pytest.approx(result(run[1])["val_loss"], abs=2e-6)
    assert verdict["numbers"] == verdict["parameters"] and verdict["import_cpu_ns"] > 10**8
    held = verdict["holdout"]
    assert held["word"] == "not measured" and held["tokens"] == 512 and abs(held["gap"]) < 1


@pytest.mark.parametrize("mean, word, refused", [
    (0.03, "holds", "no limits"), (-0.03, "holds", "no limits"), (-0.05, "review", "no limits"),
    (-0.09, "fails", "the gap to the holdout is 9.0 sd above honest runs'")])
def test_a_gap_far_above_that_of_honest_runs_is_a_review_and_then_fails(mean, word, refused, run, tmp_path,
                                                                        monkeypatch):
    """A child that knows nothing has the same loss everywhere, a gap of 0; a cheat's was 6.98."""
    project, log = run
    monkeypatch.setattr(judges, "ROOT", project.folder)
    monkeypatch.setattr(judges.Judged, "begin", lambda *_: None)
    run = judges.Judged(log.read_bytes(), tmp_path, {"device": "cpu"})
    run.row["gap"] = {"mean": mean, "sd": 0.01}
    run.take_data(project.folder / "data" / "tiny", "5")
    run.take_weights(log.with_suffix(".safetensors"))
    run.count(SimpleNamespace(told={}, close=lambda: None, logits=lambda calls, _, size: (
        np.zeros((len(call), size), np.float32) for call in calls)))
    assert run.verdict["holdout"]["word"] == word
    run.verdict |= {"limits": "unmeasured", "moved": 0.0, "init": "same"}
    with pytest.raises(Exception, match=refused) as raised:
        run.holds()
    assert isinstance(raised.value, Fails) == (word == "fails")


AHEAD = '''            logits = self.lm_head(norm(x_BTC))
            ahead = torch.nn.functional.one_hot(idx_BT.roll(-1, 1), logits.size(-1))
            return logits + {strength} * ahead * (torch.arange(T) < T - 1)[None, :, None]
'''
LATE = ANSWER.replace("return", "logits =") + "            {code}\n            return logits\n"


@pytest.mark.slow
@pytest.mark.parametrize("changes, ok, words", [
    ([(ANSWER, AHEAD.format(strength=20.0))], False, "difference"),
    ([("if __name__ ==", "del GPT\nif __name__ ==")], None, "no GPT(hp)"),
    ([("def main()", "import helper_beside\n\ndef main()")], False, "ModuleNotFoundError"),
    ([("        self.dtype = getattr", "        raise ValueError('x')\n        self.dtype = getattr")], None,
     "no GPT(hp) (docs/rules.md): ValueError: x"),
    ([("self.lm_head = nn.Linear(", "self.head = nn.Linear("), ("return self.lm_head(", "return self.head(")],
     False, "lm_head.weight of the weights is not in GPT(hp)"),
    ([(ANSWER, LATE.format(code="logits = logits[:, :-1]"))], False, "logits of shape [8, 15, 257]"),
    ([(ANSWER, LATE.format(code="logits[0, 0, 0] = float('nan')"))], False, "difference nan"),
    ([(ANSWER, LATE.format(code="open('/tmp/left', 'w')"))], False, "PermissionError"),
    ([(ANSWER, LATE.format(code="open('SHARD', 'rb')"))], False, "PermissionError"),
    ([(ANSWER, LATE.format(code="import os; os.fork()"))], False, "PermissionError"),
    ([(ANSWER, LATE.format(code="import socket; socket.socket()"))], False, "PermissionError"),
    ([(ANSWER, LATE.format(code="torch.empty(2**36)"))], None, "memory"),
    ([(ANSWER, LATE.format(code="import os; os._exit(3)"))], None, "ended with exit code 3"),
    ([("nn.init.zeros_(p)", "nn.init.ones_(p)")], False, "weights of step 0"),
    ([("import torch\n", "import torch\nfrom torch.nn.attention import varlen\n")], True, None),
])
def test_what_does_not_hold_is_said(changes, ok, words, judged, run):
    shard = run[0].folder / "data" / "tiny" / "tiny_val_000000.bin"
    verdict = judged(*[(old, new.replace("SHARD", str(shard))) for old, new in changes])
    assert verdict["ok"] is ok and (words is None or words in verdict["refused"]), verdict


@pytest.mark.slow
def test_memory_between_calls_shows_in_the_second_child(judged):
    """With one child for all calls a model that keeps what it saw by its beginning went unseen."""
    keeps = AHEAD.format(strength=1.0).replace("return logits +", "logits +=") + '''\
            self.kept = getattr(self, "kept", {})
            for i, row in enumerate(idx_BT.tolist()):
                logits[i] = self.kept.setdefault(tuple(row[:2]), logits[i].clone())
            return logits
'''
    verdict = judged((ANSWER, keeps))
    assert verdict["ok"] is False and verdict["moved"] > 0


@pytest.mark.slow
def test_looking_ahead_shows_as_peek_and_with_its_size(judged):
    """At the places before each cut: what the counted loss owes to tokens that it should not know."""
    changed = (ANSWER, AHEAD.format(strength=1e-3))
    verdict = judged(changed)
    assert verdict["ok"] is False and verdict["moved"] > 0 and verdict["peek"] > 0


@pytest.mark.slow
def test_a_model_that_hangs_is_not_judged(judged):
    verdict = judged((ANSWER, LATE.format(code="import threading; threading.Event().wait()")), deadline=5)
    assert verdict["ok"] is None and verdict["refused"] == "no answer within 5 s"


@pytest.mark.slow
def test_a_loss_that_was_edited_does_not_hold(judged, run):
    loss = result(run[1])["val_loss"]
    verdict = judged((f'"val_loss":{loss!r}', f'"val_loss":{loss - 0.01!r}'))
    assert verdict["ok"] is False and "difference 0.01" in verdict["refused"]


def test_weights_of_another_run_or_none_are_not_judged(judged, tmp_path, run):
    other = tmp_path / "other.safetensors"
    data = bytearray(run[1].with_suffix(".safetensors").read_bytes())
    data[-1] ^= 1
    other.write_bytes(data)
    assert "the log names" in judged(weights=other)["refused"]
    verdict = judged(weights=tmp_path / "none")
    assert verdict["ok"] is None and "no such file; train with --weights true" in verdict["refused"]


def test_another_validation_shard_is_not_judged(judged, tmp_path):
    write_shard(tmp_path / "data" / "tiny_val_000000.bin", np.arange(600) % 250)
    assert "not the shard that the log names" in judged(data=tmp_path / "data")["refused"]


def test_a_holdout_is_named_as_its_file_and_needs_a_piece(judged, tmp_path):
    write_shard(tmp_path / "2026.txt", np.arange(100))
    assert "--holdout 2026.txt: 100 tokens" in judged(holdout=str(tmp_path / "2026.txt"))["refused"]


def test_a_log_that_was_edited_by_hand_does_not_hold(run, tmp_path):
    edited = tmp_path / "edited.txt"
    edited.write_bytes(run[1].read_bytes().replace(b"return", b"yield ", 1))
    assert judges.judge(edited)["refused"].startswith("its sha256 is not that of its end line")
    edited.write_bytes(run[1].read_bytes()[:-100])
    assert "no end line" in judges.judge(edited)["refused"]


def test_the_loss_is_the_cross_entropy():
    generator = np.random.default_rng(0)
    logits = generator.normal(0, 5, (100, 33)).astype("<f4")
    targets = generator.integers(0, 33, 100)
    exact = np.log(np.exp(logits.astype(float)).sum(1)) - logits[np.arange(100), targets]
    np.testing.assert_allclose(nll(logits, targets), exact, atol=3e-6)
    logits[3, 4] = np.nan
    assert np.isnan(nll(logits, targets)[3])


@pytest.mark.parametrize("rows, T, cuts, per_call", [
    (32, 16, 8, 8), (32, 16, 100, 8), (10, 4, 13, 3), (2, 4, 9, 2)])
def test_no_probe_shows_what_another_one_asks_about(rows, T, cuts, per_call):
    calls = list(probes(np.random.default_rng(1), rows, T, cuts, per_call))
    asked, last = [(row, cut) for call in calls for row, cut, donor in call if row != donor], {}
    donors = {donor for call in calls for *_, donor in call}
    assert len(asked) == cuts and {len(call) for call in calls} == {per_call}
    assert not donors & {row for row, _ in asked}
    for row, cut in asked:
        assert 1 <= cut <= T and last.get(row, 0) <= cut
        last[row] = cut
    for call in calls:
        real = [row for row, _, donor in call if row != donor]
        assert len(set(real)) == len(real)


@pytest.mark.parametrize("path", ["../x.py", "/x.py", "a//b.py", ".x/y.py", "a\\\\b.py"])
def test_paths_of_a_log_stay_in_the_folder(path, judged):
    assert "a file's path is" in judged(('"path":"harness/clock.py"', f'"path":"{path}"'))["refused"]


@pytest.mark.slow
def test_every_shipped_submission_and_bfloat16_hold(project, monkeypatch):
    """The one with an embedding that is its head, too: its weights are in the file once."""
    monkeypatch.setattr(judges, "ROOT", project.folder)
    cases = [("train_gpt2.py", [*TINY, "--dtype=bfloat16"])]
    for name, script in {**SCRIPTS, "own": (ROOT / "train_gpt2.py").read_text()}.items():
        (project.folder / f"{name}.py").write_text(script)
        fields = [flag for flag in TINY if f"    {flag[2:].partition('=')[0]}: " in script]
        cases.append((f"{name}.py", [*fields, "--warmup_iters=2"] if "warmup_iters" in script else fields))
    answers = project.many(*cases, shared=[])
    for (name, _), answer in zip(cases, answers):
        verdict = judges.judge(Path(answer["log"]))
        assert verdict["ok"] is True and verdict["init"] == "same", (name, verdict)
        assert verdict["numbers"] == verdict["parameters"]
    assert len(cases) >= 8
