"""The report of synthetic sweeps: tables, what was not tested, refusals, figures."""
import argparse
import itertools
import json
import math
import re
from pathlib import Path

import pytest
from sweeps import swept

from lab.sweep import report
from lab.__main__ import main as lab
from lab.sweep.report import draw_lr, marginal, ranked
from lab.sweep.results import load_results

WIDTHS = {"model.n_embd": [32, 64], "optimizer.lr": [0.001, 0.002, 0.004], "seed": [0, 1]}


def widths(folder: Path, **spoil) -> Path:
    """A full grid: the best rate is 0.002 at 32 and 0.001 at 64, where the largest one diverges."""
    runs = []
    for n, lr, seed in itertools.product(*WIDTHS.values()):
        best = 0.002 if n == 32 else 0.001
        loss = 4 - n / 100 + 0.1 * abs(math.log2(lr / best)) + 0.01 * seed
        run = {"point": {"model.n_embd": n, "optimizer.lr": lr, "seed": seed}, "loss": loss}
        if (n, lr) == (64, 0.004):
            run |= {"status": "diverged", "cut": 4}
        runs.append(run)
    runs[0] |= spoil
    return swept(folder, WIDTHS, runs)


def reported(capsys, *words: str | Path) -> tuple[int, str, str]:
    code = lab(["report", *map(str, words)])
    return code, *capsys.readouterr()


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The full grid's folder, which no test changes."""
    return widths(tmp_path_factory.mktemp("whole") / "s")


def found_in(capsys, folder: Path) -> dict:
    """Return what the report says of a folder, as data."""
    code, out, _ = reported(capsys, folder, "--json")
    assert code == 0
    return json.loads(out)


def test_the_best_points_are_ranked_by_their_mean_over_seeds(whole, capsys):
    found = found_in(capsys, whole)
    best = found["best"][0]
    assert best["point"] == {"model.n_embd": 64, "optimizer.lr": 0.001}
    assert best["mean"] == pytest.approx(3.365) and best["sd"] == pytest.approx(0.01 / math.sqrt(2))
    assert best["ppl"] == pytest.approx(math.exp(3.365)) and best["n"] == 2 and best["tokens"] == 2048
    assert found["best"][-1]["mean"] == "inf" and found["best"][-1]["statuses"] == "2 diverged"
    assert (found["runs"], found["planned"], found["points"]) == (12, 12, 6)
    assert found["statuses"] == "10 ok, 2 diverged" and found["compared"] == "at 2048 tokens"


def test_the_noise_between_seeds_says_how_many_points_are_not_told_from_the_best(whole, capsys):
    assert found_in(capsys, whole)["noise"] == {
        "sd": pytest.approx(0.01 / math.sqrt(2)), "df": 5, "not_told_from_the_best": 0}
    assert "sd between seeds 0.0071 nats, pooled, 5 degrees of freedom" in reported(capsys, whole)[1]


def test_marginals_have_mean_spread_and_counts_and_a_diverged_run_makes_the_mean_infinite(whole, capsys):
    found = found_in(capsys, whole)["axes"]["model.n_embd"]
    narrow, wide = found["values"]
    assert found["not_tested"] is None and found["balanced"]
    assert (narrow["combinations"], narrow["admissible"], narrow["tested"], narrow["n"]) == (6, 6, 6, 6)
    assert narrow["mean"] == pytest.approx(3.68 + 0.2 / 3 + 0.005) and narrow["sd"] > 0
    assert (wide["mean"], wide["sd"], wide["statuses"]) == ("inf", None, "4 ok, 2 diverged")
    assert wide["median"] == pytest.approx(3.465)


def test_figures_are_drawn_into_the_folder_that_was_asked_for(whole, tmp_path, capsys):
    code, out, _ = reported(capsys, whole, "-o", tmp_path / "img", "--json")
    names = ["curves.png", "lr.png"]
    assert code == 0 and sorted(path.name for path in (tmp_path / "img").iterdir()) == names
    assert sorted(json.loads(out)["figures"]) == [str(tmp_path / "img" / name) for name in names]


def test_spikes_and_gradient_norms_of_the_worst_seed_stand_beside_a_point(tmp_path, capsys):
    axes = {"optimizer.lr": [0.001], "duration.steps": [120], "seed": [0, 1]}
    seeds = [{"point": {"optimizer.lr": 0.001, "duration.steps": 120, "seed": seed}} for seed in (0, 1)]
    seeds[0] |= {"spike_at": 80, "grad_norm": 7.0}
    best = found_in(capsys, swept(tmp_path, axes, seeds))["best"][0]
    assert (best["spikes"], best["max_grad_norm"]) == (1, 7.0)


def homework(folder: Path) -> Path:
    """As in the homework: the bounds on the size leave one width, so the runs tell nothing of widths."""
    axes = {"model.n_embd": [32, 64, 128], "model.n_layer": [1, 2]}
    runs = [{"point": {"model.n_embd": 64, "model.n_layer": n}, "loss": 5 - n / 10} for n in (1, 2)]
    return swept(folder, axes, runs, constraints={"parameters": [300_000, 450_000]})


def test_an_axis_of_which_one_value_is_admissible_is_not_tested_instead_of_a_trend(tmp_path, capsys):
    folder = homework(tmp_path / "s")
    found = found_in(capsys, folder)["axes"]
    width = found["model.n_embd"]
    assert width["not_tested"] == "of 3 values only 64 is admissible"
    assert [(row["combinations"], row["admissible"], row["tested"]) for row in width["values"]] == [
        (2, 0, 0), (2, 2, 2), (2, 0, 0)]
    assert {row[name] for row in width["values"] for name in ("mean", "sd", "median")} == {None}
    assert found["model.n_layer"]["not_tested"] is None
    text = reported(capsys, folder)[1]
    assert "model.n_embd: not tested: of 3 values only 64 is admissible" in text
    assert re.search(r"^ +64 +2 +2 +2 +2 +- +- +-  2 ok$", text, re.MULTILINE)
    assert re.search(r"^ +128 +2 +0 +0 +0 +- +- +-  not admissible$", text, re.MULTILINE)
    names = sorted(path.name for path in folder.glob("*.png"))
    assert names == ["curves.png"], "no figure of rates without rates among the axes"


def test_an_axis_of_which_one_value_was_run_is_not_tested_either(tmp_path):
    axes = {"model.n_layer": [1, 2]}
    runs = load_results(swept(tmp_path, axes, [{"point": {"model.n_layer": 1}},
                                               {"point": {"model.n_layer": 2}, "status": "oom"}])).runs
    assert marginal("model.n_layer", [(1, 1, 1), (2, 1, 1)], runs)["not_tested"] == (
        "of 2 values only 1 is run to a loss")


def test_values_that_met_other_partners_are_called_unbalanced(tmp_path, capsys):
    axes = {"model.n_layer": [1, 2], "optimizer.lr": [0.001, 0.002]}
    points = [dict(zip(axes, values)) for values in ((1, 0.001), (1, 0.002), (2, 0.002))]
    folder = swept(tmp_path / "s", axes, [{"point": point} for point in points])
    code, text, _ = reported(capsys, folder)
    assert code == 0 and "unbalanced: its values met different values of the other axes" in text
    assert "3 of 4 runs, 3 points: 3 ok" in text
    assert "one seed a point: no difference between points has an error bar" in text


@pytest.mark.parametrize("spoil, words", [
    ({"cut": 6}, "took 1536 tokens, run 1"), ({"train_sha256": "c" * 64}, "differ in their data, train")])
def test_runs_that_do_not_compare_are_not_ranked(tmp_path, capsys, spoil, words):
    code, out, err = reported(capsys, widths(tmp_path / "s", **spoil))
    assert (code, out, err.count("\n")) == (2, "", 1) and words in err
    assert not list((tmp_path / "s").glob("*.png"))


def test_a_sweep_in_which_no_run_ended_ok_exits_with_1_and_says_how_they_ended(tmp_path, capsys):
    folder = swept(tmp_path / "s", {"optimizer.lr": [0.001, 9.0]}, [
        {"point": {"optimizer.lr": 0.001}, "status": "oom"},
        {"point": {"optimizer.lr": 9.0}, "status": "diverged"}])
    assert reported(capsys, folder) == (1, "", "lab report: no run ended ok: 1 oom, 1 diverged\n")


def test_points_of_which_each_has_a_diverged_seed_are_reported_without_a_finite_mean(tmp_path, capsys):
    folder = swept(tmp_path / "s", {"optimizer.lr": [0.001], "seed": [0, 1]}, [
        {"point": {"optimizer.lr": 0.001, "seed": 0}},
        {"point": {"optimizer.lr": 0.001, "seed": 1}, "status": "diverged", "cut": 2}])
    best = found_in(capsys, folder)["best"][0]
    assert (best["mean"], best["ppl"], best["sd"], best["n"]) == ("inf", "inf", None, 2)


def test_a_length_that_varies_is_told_because_each_run_validates_at_its_own(tmp_path, capsys):
    runs = [{"point": {"data.seq_len": n}} for n in (32, 64)]
    folder = swept(tmp_path / "s", {"data.seq_len": [32, 64]}, runs)
    assert "at 2048 tokens; each validated at its own data.seq_len\n" in reported(capsys, folder)[1]


def test_bad_input_is_one_line_and_exit_code_2(tmp_path, capsys):
    code, out, err = reported(capsys, tmp_path / "nothing here")
    assert (code, out, err.count("\n")) == (2, "", 1) and "sweep.json: No such file" in err


def test_with_too_many_lines_the_figure_of_rates_shows_the_best_over_the_other_axes(tmp_path, monkeypatch):
    axes = {"model.n_embd": [32, 64], "optimizer.lr": [0.001, 0.002], "optimizer.weight_decay": [
        i / 10 for i in range(8)]}
    runs = [{"point": dict(zip(axes, values)), "loss": 4 + values[2]}
            for values in itertools.product(*axes.values())]
    drawn = {}

    def draw_line(axes, name, line, index):
        axes.plot([], label=name)
        drawn[name] = line
    monkeypatch.setattr("lab.sweep.report._draw_line", draw_line)
    draw_lr(ranked(load_results(swept(tmp_path, axes, runs)).runs), "title", tmp_path / "lr.png")
    assert list(drawn) == ["n_embd 32", "n_embd 64"]
    assert {g.point["optimizer.weight_decay"] for line in drawn.values() for g in line} == {0.0}


def test_the_example_of_the_help_runs(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    widths(tmp_path / "lab" / "sweeps" / "example")
    parser = argparse.ArgumentParser()
    report.add_arguments(parser)
    words = parser.epilog.partition("example: python -m lab ")[2].split()
    assert lab(words) == 0 and (tmp_path / "img" / "lr.png").exists()
