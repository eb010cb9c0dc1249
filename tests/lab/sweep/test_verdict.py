"""Verdicts: known answers of the intervals, and of both commands on sweeps whose logs are written here."""
import itertools
import math
import random
from pathlib import Path

import pytest
from sweeps import swept

from lab.__main__ import main
from lab.sweep.verdict import better, Interval, interval, optimum, plus_minus, shift, tuned, verdict
from lab.sweep.results import Run

INF = math.inf
RATES = [0.001, 0.002, 0.004, 0.008]


@pytest.mark.parametrize("low, high, least, most, said", [
    (0.1, 0.2, 0.0, INF, "supported"), (-0.2, -0.1, 0.0, INF, "not supported"),
    (-0.1, 0.1, 0.0, INF, "undecided at this noise"), (-0.3, 0.4, -0.5, 0.5, "supported"),
    (0.6, 0.9, -0.5, 0.5, "not supported"), (-INF, INF, 0.0, INF, "undecided at this noise"),
    (-INF, -0.1, -INF, 0.0, "supported"), (-INF, -0.1, -0.5, 0.5, "undecided at this noise")])
def test_a_claim_is_decided_by_where_its_interval_lies(low, high, least, most, said):
    assert verdict(Interval(0.0, low, high), least, most) == said


def test_intervals_are_students_and_a_difference_is_taken_seed_by_seed():
    """t(0.975, 2) = 4.302653: the textbook's interval of three values."""
    _, low, high = interval([1.0, 2.0, 3.0])
    half = 4.302653 / math.sqrt(3)
    assert (low, high) == pytest.approx((2 - half, 2 + half), abs=1e-6)
    assert interval([11.0, 52.0, 93.0], [10.0, 50.0, 90.0])[1:] == pytest.approx((low, high))
    assert interval([1.0])[1:] == (-INF, INF) == interval([1.0, INF])[1:] == interval([1.0, 1.0])[1:]


def test_an_interval_without_an_end_says_which_one_it_has():
    assert plus_minus(Interval(-1.0, -1.5, -0.5), "nats") == "-1.0000 ± 0.5000 nats"
    assert plus_minus(Interval(-1.0, -INF, -0.5), "octaves") == "-1.0000 octaves, at most -0.5000"
    assert plus_minus(Interval(1.0, 0.5, INF)) == "+1.0000, at least +0.5000"
    assert plus_minus(Interval(1.0, -INF, INF)) == "+1.0000, no interval"


def test_what_is_tuned_is_chosen_by_the_other_seeds():
    assert tuned({"a": [1.0, 3.0, 3.0], "b": [2.0, 2.0, 2.0]}) == [2.0, 3.0, 3.0]
    assert tuned({"a": [1.0], "b": [2.0]}) == [1.0], "one seed has no others"


def test_the_best_value_is_the_vertex_of_a_parabola():
    by_octave = {o: (o - 0.25)**2 + 3 for o in range(-3, 4)}
    assert optimum(by_octave) == pytest.approx((0.25, 0.25, 0.25))
    uneven = {o: (o - 0.25)**2 + 3 for o in (-3.0, -0.5, 1.0, 3.0)}
    assert optimum(uneven)[0] == pytest.approx(0.25), "steps need not be equal"
    assert optimum({0: INF, 1: 2.0, 2: 3.0}) == (1, 1, 1), "a diverged neighbour bends nothing"


def test_beyond_an_end_of_the_grid_the_best_value_has_no_bound():
    assert optimum({0: 1.0, 1: 2.0, 2: 3.0}) == (0, -INF, 0)
    assert optimum({0: 3.0, 1: 2.0, 2: 1.0}) == (2, 2, INF)
    assert optimum({0: INF, 1: INF, 2: INF})[1:] == (-INF, INF), "nothing is known"


def bowl(best: float) -> dict:
    return {o: [(o - best - 0.01 * seed)**2 + seed for seed in range(3)] for o in range(-4, 3)}


def test_a_shift_is_found_for_each_seed_and_its_interval_ends_where_the_grid_does():
    assert shift(bowl(0), bowl(-2)).middle == pytest.approx(-2)
    a = {value: [loss + 1e-3 * math.sin(9 * value + i) for i, loss in enumerate(losses)]
         for value, losses in bowl(0).items()}
    middle, low, high = shift(a, bowl(-1.5))
    assert middle == pytest.approx(-1.5, abs=0.01) and -1.6 < low < -1.5 < high < -1.4
    middle, low, high = shift(a, bowl(-9))
    assert low == -INF and high < -3.9, "it falls by four octaves or more"
    assert verdict(Interval(middle, low, high), most=0.0) == "supported"
    assert shift(bowl(-9), a)[2] == INF and shift(bowl(-9), bowl(-9))[1:] == (-INF, INF)


def test_noise_alone_is_seldom_better():
    """Each arm is tuned over five rates, which chosen on the same seeds would be supported far more often."""
    chance, counts = random.Random(0), 0
    for _ in range(400):
        wide, one = [Run(0, {"lr": lr}, seed, "ok", chance.gauss(5, 0.01), 9, 9.0, 9)
                     for lr in range(5) for seed in range(3)], [
            Run(0, {"lr": 9}, seed, "ok", chance.gauss(5, 0.01), 9, 9.0, 9) for seed in range(3)]
        counts += better("ab", wide, one).verdict == "supported"
    assert counts / 400 < 0.05, counts  # 2.5 %


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Two optimizers over width, rate and seed: muon is better by 0.1; sgd's best rate falls."""
    axes = {"optimizer.name": ["muon", "sgd"], "model.n_embd": [32, 64], "optimizer.lr": RATES,
            "seed": [0, 1, 2]}
    runs = []
    for name, n, lr, seed in itertools.product(*axes.values()):
        best = 0.002 if name == "muon" else 0.004 * 32 / n
        loss = 4.0 + 0.1 * (name == "sgd") + math.log2(lr / best)**2 / 10 + seed
        runs.append({"point": {"optimizer.name": name, "model.n_embd": n, "optimizer.lr": lr, "seed": seed},
                     "loss": loss + math.sin(9 * n + 7e4 * lr + seed) / 1e3})
    return swept(tmp_path_factory.mktemp("s") / "s", axes, runs)


def said(capsys, *words: str | Path) -> tuple[int, str, str]:
    code = main([*map(str, words)])
    return code, *capsys.readouterr()


def test_an_arm_of_a_sweep_is_better_by_its_losses_at_what_the_other_seeds_chose(folder, capsys):
    slow = "optimizer.name=sgd,optimizer.lr=1e-3"
    code, out, _ = said(capsys, "better", folder, "--arms", "muon", slow)
    [compared, muon, sgd, claimed] = out.splitlines()
    assert code == 0 and compared == "losses compare at 2048 tokens"
    assert muon == "muon: 1 x n_embd 32 lr 0.002, 2 x n_embd 64 lr 0.002: mean 5.0008, n 3"
    assert sgd == f"{slow}: 3 x n_embd 64: mean 5.1999, n 3"
    assert claimed.startswith(f"muon better than {slow}: -0.1991") and claimed.endswith(" nats: supported")
    alike = [f"model.n_embd={n},optimizer.name=muon" for n in (32, 64)]
    for arms, word in ((("sgd", "muon"), "not supported"), (alike, "undecided at this noise")):
        assert said(capsys, "better", folder, "--arms", *arms)[1].splitlines()[-1].endswith(f": {word}")


@pytest.mark.parametrize("arms, words", [
    (("muon", "adam"), "found adam, a value of no axis; expected"), (("muon", "lr=1"), "lr"),
    (("muon", "optimizer.lr=0.5"), "which no run has"), (("optimizer.lr", "muon"), "a value of no axis")])
def test_an_arm_that_is_not_there_is_refused_in_a_line(folder, capsys, arms, words):
    code, out, err = said(capsys, "better", folder, "--arms", *arms)
    assert (code, out, err.count("\n")) == (2, "", 1) and words in err


def test_seeds_that_one_arm_lacks_are_refused_because_a_comparison_is_of_pairs(tmp_path, capsys):
    axes = {"optimizer.lr": RATES[:2], "seed": [0, 1]}
    points = [{"optimizer.lr": 0.001, "seed": 0}, {"optimizer.lr": 0.001, "seed": 1},
              {"optimizer.lr": 0.002, "seed": 1}]
    folder = swept(tmp_path, axes, [{"point": point} for point in points])
    code, _, err = said(capsys, "better", folder, "--arms", "0.001", "0.002")
    assert code == 2 and "0.001 has seeds [0, 1], 0.002 [1], expected the same" in err
    code, _, err = said(capsys, "better", folder, "--arms", "seed=1", "seed=0")
    assert code == 2 and "seeds [1], seed=0 [0]" in err


def test_a_diverged_seed_decides_nothing_and_a_run_without_a_loss_is_named(tmp_path, capsys):
    axes = {"optimizer.lr": RATES[:2], "seed": [0, 1]}
    points = [{"optimizer.lr": lr, "seed": seed} for lr in RATES[:2] for seed in (0, 1)]
    runs = [{"point": dict(point), "loss": 4.0 + i} for i, point in enumerate(points)]
    runs[-1] |= {"status": "diverged", "cut": 4}
    out = said(capsys, "better", swept(tmp_path / "a", axes, runs), "--arms", "0.001", "0.002")[1]
    assert out.endswith("-inf nats, no interval: undecided at this noise\n")
    runs = [{"point": point, **({"status": "oom"} if i == 3 else {})} for i, point in enumerate(points)]
    code, _, err = said(capsys, "better", swept(tmp_path / "b", axes, runs), "--arms", "0.001", "0.002")
    assert code == 2 and "run 3 has no loss (oom)" in err


def test_the_best_rate_of_a_sweep_stays_or_moves_along_another_axis(folder, capsys):
    code, out, _ = said(capsys, "shift", folder, "--axis", "optimizer.lr", "--over", "model.n_embd")
    assert code == 0
    muon, sgd = out.splitlines()[:4], out.splitlines()[4:]
    assert muon[0].startswith("optimizer.name muon: model.n_embd 32: best optimizer.lr 0.00")
    ends = "model.n_embd 32 to model.n_embd 64"
    assert muon[2].startswith(f"optimizer.name muon: it stays within 0.5 octaves, {ends}: ")
    assert muon[2].endswith("octaves: supported") and muon[3].endswith("undecided at this noise")
    assert sgd[2].endswith(": not supported") and sgd[3].startswith("optimizer.name sgd: it falls")
    assert sgd[3].endswith(": supported")
    words = ("--axis", "optimizer.lr", "--over", "model.n_embd", "--within", "2")
    line = said(capsys, "shift", folder, *words)[1].splitlines()[6]
    assert "it stays within 2 octaves" in line and line.endswith(": supported")


@pytest.mark.parametrize("axis, over, words", [
    ("optimizer.name", "model.n_embd", "the first one's numbers"),
    ("optimizer.lr", "optimizer.lr", "expected two axes"),
    ("optimizer.rl", "model.n_embd", "the closest is optimizer.lr")])
def test_axes_that_have_no_shift_are_refused_in_a_line(folder, capsys, axis, over, words):
    code, out, err = said(capsys, "shift", folder, "--axis", axis, "--over", over)
    assert (code, out, err.count("\n")) == (2, "", 1) and words in err


def test_an_axis_that_has_a_null_among_its_numbers_has_no_shift(tmp_path, capsys):
    axes = {"optimizer.max_grad_norm": [None, 0.5, 1.0], "model.n_embd": [32, 64]}
    runs = [{"point": {"optimizer.max_grad_norm": a, "model.n_embd": b}}
            for a in (None, 0.5, 1.0) for b in (32, 64)]
    code, _, err = said(capsys, "shift", swept(tmp_path, axes, runs), "--axis", "optimizer.max_grad_norm",
                        "--over", "model.n_embd")
    assert code == 2 and "the first one's numbers" in err
