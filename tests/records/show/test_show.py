"""python -m records show: one run whole."""
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from small_logs import FIXTURES, write_log
from synthetic import resealed


def run(folder: Path, **changes: object) -> Path:
    """Write a log that says all that is shown, and return its path."""
    facts = {"sys": {"cpu": "Host", "settings": []}, "data": {"train": [{"file": "a.bin"}]}, **changes}
    wall = {"step": 4, "weights_sha256": "e" * 64, "wall_ns": 6 * 10**9, "timed_ns": 3 * 10**9}
    return write_log(folder, losses=(5.5, 5.0, 4.75), ms=3, ended=wall, **facts)


@pytest.fixture
def shown(call) -> Callable:
    """Return shown(*words) -> what the command prints."""
    return lambda *words: call("show", *words).out


def test_a_run_is_shown_whole(tmp_path, shown):
    text = shown(run(tmp_path, overrides={"lr": 0.1}))
    for words in ("status ok", "track tiny", "target 5.0", "val_loss 4.75 ", "train_time_ms 12.0",
                  "harness/tracks.toml", "lr 0.1", "a.bin", "Host", "two lines", "1024",
                  "lr 2 times, first 0.5, last 0.25, lowest 0.25, highest 0.5",
                  "grad_norm 2 times, first inf", "weights_sha256 eeee", "wall 6.000 s 100.0 %",
                  "timed 3.000 s 50.0 %", "1 hyperparameters were overridden"):
        assert words in " ".join(text.split()), words


def test_json_holds_every_validation(tmp_path, shown):
    found = json.loads(shown(run(tmp_path), "--json"), parse_constant=pytest.fail)
    assert found["vals"][1] == {"step": 2, "val_loss": 5.0, "tokens": 512, "train_time_ms": 6.0}
    assert len(found["vals"]) == 3 and found["warnings"] == [] and found["hyperparameters"] == {"lr": 0.1}


@pytest.mark.parametrize("change, words", [
    ({"end": None}, "incomplete: there is no end line"), ({"end": "failed"}, "status failed"),
    ({"losses": (5.5, math.nan), "end": "nonfinite"}, "the last loss is nan"),
    ({"losses": (), "end": None}, "no validation"), ({}, "step 2, the run was to take 4"),
])
def test_what_is_wrong_with_a_run_is_said(change, words, tmp_path, shown):
    assert words in shown(write_log(tmp_path, **change)).split("warnings")[1]


def test_late_files_and_tripwires_are_said(tmp_path, shown):
    ended = {"type": "Tripwire", "message": "weights changed", "traceback": "line\n\x1b[31mred"}
    log = write_log(tmp_path, end="failed", ended=ended, resumed_from={"step": 1},
                    sys={"settings": ["inductor.x=1"]})
    resealed(log, b"> two\n", b'> two\n#:late {"path":"lab/evil.py"}\n')
    text = shown(log)
    for words in ("late: lab/evil.py was loaded after the start", "tripwire: weights changed", "resumed",
                  "inductor.x=1", "    \\x1b[31mred"):
        assert words in text


def test_public_logs_are_shown_trial_by_trial(call, shown, refused):
    for path in FIXTURES.iterdir():
        assert "validations" in shown(path) and path.name in shown(path)
    several = FIXTURES / "layout_d_trials.txt"
    assert "val_loss                  3.3\n" in shown(several, "--trial", 2)
    assert "run 0 of 3" in call("show", several).err
    for run in (3, -1):
        assert "expected one of 0 to 2" in refused("show", several, "--trial", run)
