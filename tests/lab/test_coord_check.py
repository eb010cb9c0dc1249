"""The coordinate check tells a parametrization that scales from one that does not."""
import json

import pytest

from lab.__main__ import main
from lab.coord_check import FLAT, slope

SMALL = ("--override model.head_dim 16 model.n_embd 32 parametrization.mup_base_hidden_size 32 "
         "parametrization.mup_base_filter_size 128 data.seq_len 32 data.batch_tokens 256").split()


@pytest.mark.parametrize("config, moves", [
    ("transfer_proxy", "logits"), pytest.param("transfer_proxy_muon", "attn0", marks=pytest.mark.slow)])
def test_it_fails_for_sp_and_passes_for_mup(config, moves, capsys, tmp_path):
    command = ["coord-check", "--config", config, "--widths", "32", "128", "--seeds", "1", *SMALL]
    assert main([*command, "--kinds", "sp", "mup", "--json", "-o", str(tmp_path / "coord.png")]) == 1
    found = json.loads(capsys.readouterr().out)
    assert moves in found["sp"]["moving"] and found["sp"]["slopes"][moves] > FLAT
    assert found["mup"]["moving"] == [] and len(found["mup"]["slopes"]) == 5
    assert (tmp_path / "coord.png").stat().st_size > 10_000
    assert found["sp"]["changes"]["logits"][0] == found["mup"]["changes"]["logits"][0], "equal at base width"


def test_a_slope_is_that_of_logarithms():
    assert slope([64, 128, 256], [3.0, 6.0, 12.0]) == pytest.approx(1.0)
    assert slope([64, 128, 256], [5.0, 5.0, 5.0]) == pytest.approx(0.0)


@pytest.mark.parametrize("words, said", [
    (["--widths", "64"], "two widths or more"), (["--widths", "64", "100"], "not a multiple of head_dim"),
    (["--steps", "0"], "one step or more")])
def test_bad_input_is_one_line_and_exit_code_2(words, said, capsys):
    assert main(["coord-check", "--config", "transfer_proxy", *words]) == 2
    [line] = [line for line in capsys.readouterr().err.splitlines() if "lab coord-check" in line]
    assert said in line
