"""The four words of the study of widths, on differences whose answer is known; its pages at toy size."""
import math
import random

import pytest

from lab.__main__ import main
from lab.studies import scale

WIDTHS = (64, 96, 128, 256)


def differences(size: float, slope: float, noise: float = 1e-3, seeds: int = 3) -> dict:
    """Return differences that are size at width 128 and change by slope an octave."""
    chance = random.Random(0)
    return {width: [size + slope * math.log2(width / 128) + chance.gauss(0, noise) for _ in range(seeds)]
            for width in WIDTHS}


@pytest.mark.parametrize("size, slope, word", [
    (-0.1, -0.02, "grows"), (0.1, 0.02, "grows"), (-0.1, 0.02, "fades"), (0.1, -0.02, "fades"),
    (-0.1, 0.0, "holds"), (0.1, 0.0, "holds"), (0.0, 0.0, scale.UNDECIDED)])
def test_a_difference_grows_holds_or_fades_by_its_size_whatever_its_sign(size, slope, word):
    assert scale.word(differences(size, slope)) == word


def test_noise_one_seed_and_a_run_that_diverged_leave_it_undecided():
    assert scale.word(differences(-0.1, 0.0, noise=0.1)) == scale.UNDECIDED
    assert scale.word(differences(-0.1, -0.05, seeds=1)) == scale.UNDECIDED
    assert scale.word({**differences(-0.1, -0.05), 256: [math.inf, -0.2, -0.2]}) == scale.UNDECIDED


def test_slopes_are_those_of_least_squares():
    assert scale.slopes(differences(0.3, 0.07, noise=0)) == pytest.approx([0.07] * 3, abs=1e-12)
    assert scale.slopes({64: [1.0], 128: [2.0], 256: [6.0]}) == pytest.approx([2.5])


@pytest.mark.parametrize("words, error", [
    (["train_gpt2.py"], "found 1 arms, expected two or none"), (["--widths", "64"], "at least two --widths"),
    ([scale.FRONTIER, f"{scale.FRONTIER} --batch_tokens=4096"], "the arms take [2048, 4096] tokens a step"),
    (["--track", "nosuch"], "track nosuch is not in this checkout")])
def test_what_cannot_be_compared_is_refused(words, error, capsys):
    assert main(["scale", *words]) == 2 and error in capsys.readouterr().err


@pytest.mark.slow
def test_two_arms_are_compared_on_the_terminal_and_the_study_writes_its_page(tmp_path, capsys):
    arms = [scale.FRONTIER, f"{scale.FRONTIER} --pair_rows=64"]
    assert main(["scale", *arms, "--quick", "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "A against B" in out and out.count("| 16 |") == 1 and not (tmp_path / "scale.md").exists()
    assert main(["scale", "--quick", "--seeds", "1", "--out", str(tmp_path)]) == 0
    page = (tmp_path / "scale.md").read_text()
    assert all(f"## {name[0].upper()}{name[1:]}" in page for name in scale.ASKED)
    assert (tmp_path / "scale.png").stat().st_size > 10_000
