"""The study of optimizers: what it would train, and its page on losses that are made here."""
import math

import pytest
from sweeps import swept

from lab.__main__ import main
from lab.recipe import costs
from lab.studies import optimizers
from lab.studies.optimizers import ARMS, FULL, QUICK, SHRINK, VARIANTS, space
from lab.sweep.results import load_results
from lab.sweep.space import make_space, points, recipe_of
from lab.sweep.verdict import CLAIMS
from lab.train import memory_bytes

FINAL = {"AdamW": 5.0, "AdamW at 1e-3": 6.0, "Muon": 5.0, "small_fc": 4.9, "VeLO": 5.0}  # at the best rate


def test_the_same_command_takes_124m_parameters_on_fineweb(monkeypatch, tmp_path):
    """A dry run: all that would be trained is made as recipes, none is trained, and no data is here."""
    counts = []

    def sweep(folders, name, values):
        made = make_space(values)
        recipe = recipe_of(made, points(made)[-1])
        assert recipe.data.track == "lab_fineweb" and memory_bytes(recipe) > 2e9
        assert (costs.parameters(recipe).total, costs.total_tokens(recipe)) == (124_439_808, 9_999_745_024)
        counts.append((name, len(points(made)), folders.sweeps))
        return []

    def stop(runs):
        raise KeyboardInterrupt
    monkeypatch.setattr(optimizers.study, "sweep", sweep)
    monkeypatch.setattr(optimizers, "comparable", stop)
    words = "optimizers --config gpt2_124m --track lab_fineweb --small_fc made --velo made --out"
    assert main([*words.split(), str(tmp_path)]) == 130
    assert counts == [(name, n, tmp_path) for name, n in (
        ("adamw", 36), ("adamw_at_1e-3", 9), ("muon", 36), ("small_fc", 9), ("velo", 9))]


def test_an_override_of_what_each_optimizer_has_of_its_own_is_refused(capsys):
    """It was dropped without a word, and stood on the page."""
    assert main(["optimizers", "--override", "optimizer.lr", "1e-2"]) == 2
    assert "--override optimizer.lr: each optimizer has its own here" in capsys.readouterr().err


def test_what_is_compared_starts_alike_and_decays_alike():
    small, octaves, seeds = FULL
    overrides = {"schedule": {"final": 0.1}, **small}
    starts, decays = set(), set()
    for name in ("AdamW", "Muon", "small_fc"):
        made = make_space(space(name, octaves, seeds, "gpt_tiny", overrides, None))
        recipes = [recipe_of(made, point) for point in points(made)]
        starts |= {str([recipe.model, recipe.parametrization.scale_qk_dot_by_d, recipe.duration])
                   for recipe in recipes}
        decays |= {round(recipe.optimizer.lr * recipe.optimizer.weight_decay * 200, 9) for recipe in recipes}
        assert {(recipe.schedule.kind, recipe.schedule.warmup_frac) for recipe in recipes} == {
            ("constant", 0), ("cosine", .05)}
    assert len(starts) == 1 and decays == {0.0, SHRINK}


@pytest.fixture
def page(tmp_path, monkeypatch, capsys):
    """Return call(*flags) -> the page of a study whose runs end as FINAL says, with noise of the seeds."""
    def sweep(folders, name, values):
        [arm] = [arm for arm in ARMS if arm.lower().replace(" ", "_") == name]
        made = []
        for i, point in enumerate(values["points"]):
            rate, kind = point["optimizer.lr"] / ARMS[arm][1], point["schedule.kind"]
            loss = FINAL[arm] + abs(math.log2(rate)) / 10 + (kind == "constant") / 20 + point["seed"]
            made.append({"point": dict(point), "loss": loss + math.sin(i * len(name)) / 1e4})
        folder = swept(tmp_path / name, dict.fromkeys(values["points"][0]), made, method="list",
                       points=values["points"], overrides=values["overrides"])
        return load_results(folder).runs
    monkeypatch.setattr(optimizers.study, "sweep", sweep)
    monkeypatch.setattr(optimizers, "QUICK", (*QUICK[:2], (0, 1, 2)))

    def call(*flags: str) -> str:
        assert main(["optimizers", "--quick", "--out", str(tmp_path), *flags]) == 0
        assert (tmp_path / "optimizers.png").stat().st_size > 10_000
        return capsys.readouterr().out
    return call


def test_the_page_has_each_loss_and_the_verdicts_that_follow_from_them(page):
    text = page("--small_fc", "made", "--override", "model.n_layer", "1")
    assert "Written by `python -m lab optimizers --override model.n_layer 1`" in text
    assert "\nWeights of small_fc: made.\n" in text
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    said = {row[0]: row[2] for row in rows if len(row) == len(CLAIMS)}
    assert said["small_fc better than AdamW, each at its best"] == "supported"
    assert said["AdamW at 1e-3 better than AdamW, plain"] == "not supported"
    assert said["Muon better than AdamW, schedule"] == "undecided at this noise"
    assert said["Muon: schedule better than plain"] == "supported"
    assert said["small_fc: schedule + decay better than schedule"] == "undecided at this noise"
    assert said["small_fc better than Muon, each at its best"] == "supported"
    assert len(said) == 2 + 6 + 3 * 3 + 4 * 2, "head, pairs, AdamW in each variant, two steps of each"
    losses = {(row[0], row[1]): row for row in rows if row[1] in VARIANTS}
    assert len(losses) == 4 * 3
    assert losses["AdamW", "schedule"][2] == "0.3"
    assert losses["AdamW", "schedule"][7].startswith("6.0000 (")
    assert losses["AdamW", "plain"][7].startswith("6.0500") and losses["small_fc", "plain"][8] == "4"
    assert ["VeLO", "not run: no weights"] == next(row for row in rows if row[0] == "VeLO")[:2]


def test_velo_is_run_where_its_weights_are_named_and_small_fc_is_not_without(page):
    text = page("--small_fc", "", "--velo", "made")
    assert "VeLO better than AdamW, plain" in text and "| small_fc | not run: no weights |" in text
