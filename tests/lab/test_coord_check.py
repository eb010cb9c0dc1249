"""The coordinate check tells a parametrization that scales from one that does not."""
import json

import pytest

from lab import coord_check
from lab.__main__ import main
from lab.coord_check import FLAT, slope

SMALL = ("--override model.head_dim 16 model.n_embd 32 parametrization.mup_base_hidden_size 32 "
         "parametrization.mup_base_filter_size 128 data.seq_len 32 data.batch_tokens 256").split()


@pytest.mark.parametrize("config, moves", [
    ("transfer_proxy", "logits"), pytest.param("transfer_proxy_muon", "attn0", marks=pytest.mark.slow)])
def test_it_moves_under_sp_and_is_flat_under_mup_each_judged_apart(config, moves, capsys, tmp_path):
    """It once left with 1 wherever sp moved, and said nothing of mup."""
    command = ["coord-check", "--config", config, "--widths", "32", "128", "--seeds", "1", *SMALL]
    assert main([*command, "--kinds", "sp", "mup", "--json", "-o", str(tmp_path / "coord.png")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert moves in found["sp"]["moving"] and found["sp"]["slopes"][moves] > FLAT
    assert found["mup"]["moving"] == [] and len(found["mup"]["slopes"]) == 5
    assert (tmp_path / "coord.png").stat().st_size > 10_000
    assert found["sp"]["changes"]["logits"][0] == found["mup"]["changes"]["logits"][0], "equal at base width"


@pytest.mark.parametrize("kinds, expect, code", [
    ("sp mup", "", 0), ("sp mup", "sp=moves", 0), ("sp mup", "sp=flat", 1), ("sp mup", "mup=moves", 1),
    ("sp", "", 1), ("sp", "sp=moves", 0), ("mup", "", 0), ("mup", "mup=moves", 1)])
def test_the_exit_code_says_whether_each_kind_does_what_is_expected(kinds, expect, code, monkeypatch, capsys):
    changes = {"sp": {"logits": [1.0, 4.0]}, "mup": {"logits": [1.0, 1.1]}}
    monkeypatch.setattr(coord_check, "coord_check", lambda recipe, *_: changes[recipe.parametrization.kind])
    words = ["--expect", *expect.split()] if expect else []
    command = ["coord-check", "--config", "transfer_proxy", "--widths", "48", "96", "--kinds"]
    assert main([*command, *kinds.split(), *words]) == code
    out = capsys.readouterr().out
    assert ("sp: moves with width: logits" in out) == ("sp" in kinds)
    assert ("mup: flat" in out) == ("mup" in kinds)


def test_a_slope_is_that_of_logarithms():
    assert slope([64, 128, 256], [3.0, 6.0, 12.0]) == pytest.approx(1.0)
    assert slope([64, 128, 256], [5.0, 5.0, 5.0]) == pytest.approx(0.0)


@pytest.mark.parametrize("words, said", [
    (["--widths", "64"], "two widths or more"), (["--widths", "64", "100"], "not a multiple of head_dim"),
    (["--steps", "0"], "one step or more"),
    (["--expect", "sp=moves"], "found sp and moves, expected one of mup"),
    (["--expect", "mup"], "found mup and nothing, expected one of mup, and flat or moves")])
def test_bad_input_is_one_line_and_exit_code_2(words, said, capsys):
    assert main(["coord-check", "--config", "transfer_proxy", *words]) == 2
    [line] = [line for line in capsys.readouterr().err.splitlines() if "lab coord-check" in line]
    assert said in line
