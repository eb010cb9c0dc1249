"""The tables of tracks.toml: complete, with the digests that published logs name; the harness accepted."""
import dataclasses
import datetime
import tomllib

import pytest

from harness import plan
from harness.environment import code_facts
from harness.track import ROOT, TRACKS, load_tracks
from records.tools.read.log import read_log
from tiny import submission


def test_the_harness_that_is_here_is_accepted():
    digest = code_facts(b"", {})["harness"]
    line = f'{digest} = "{datetime.date.today()} what is new"'
    assert digest == tomllib.loads(TRACKS.read_text())["harness"]["current"], (
        f"harness/*.py changed. Accept it with this command, once an issue, as its last change:\n"
        f"perl -pi -e 's/^(current = ).*/$1\"{digest}\"/; s/^\\[harness.accepted\\]\\n/$&{line}\\n/' "
        f"harness/tracks.toml")


def test_a_row_that_lacks_a_field_or_has_one_too_many_is_told(tmp_path):
    rows = tmp_path / "tracks.toml"
    for row, said in (('recipe = "sample"', "missing 12 required .*: 'data', 'train_files', "),
                      ('colour = "red"', "unexpected keyword argument 'colour'"), ('name = "a"', "'name'")):
        rows.write_text(f"[mine]\n{row}\n")
        with pytest.raises(ValueError, match=f"tracks.toml: track mine: .* {said}"):
            load_tracks(rows)


def test_rows_have_the_digests_that_published_logs_name():
    logs = sorted((ROOT / "records").glob("*/*/logs/*.txt"))
    named = {(log.manifest["track"], log.manifest["track_digest"]) for log in map(read_log, logs)}
    assert ("sample", load_tracks()["sample"].digest) in named


def test_the_digest_of_a_row_depends_neither_on_the_accepted_harnesses_nor_on_the_judges_gap(tmp_path):
    rows = tmp_path / "tracks.toml"
    rows.write_text(TRACKS.read_text().replace("[harness]\n", '[harness]\nabc = "later"\n'))
    assert load_tracks(rows) == load_tracks() and "harness" not in load_tracks()
    track = load_tracks()["sample"]
    assert dataclasses.replace(track, target=1.0).digest != track.digest
    assert dataclasses.replace(track, gap={"mean": 1.0, "sd": 0.1}).digest == track.digest


def test_a_run_that_may_be_a_record_hashes_its_shards_again_and_experiments_believe_the_cache(monkeypatch):
    """One process of a host does so, where there is a target and no setting is changed."""
    asked = []
    monkeypatch.setattr(plan, "find_data", lambda *words: asked.append(words[-1]))
    recipes = submission().RECIPES
    for flags, rehash in ((["--seed=1"], True), (["--n_layer=2"], True), ([], False)):
        plan.make_plan(recipes, ["--track=sample", *flags], 1, False, rehash)
    monkeypatch.setattr(plan, "load_tracks", lambda: {"lab": load_tracks()["lab"]})
    plan.make_plan({"lab": recipes["sample"]}, ["--track=lab"], 1, False, True)
    assert asked == [True, False, False, False]


def test_a_track_without_a_contest_has_no_target():
    assert load_tracks()["lab"].target is None and load_tracks()["sample"].target == 4.365
