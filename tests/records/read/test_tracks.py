"""What tracks.toml and a data folder say: rows, accepted harnesses, pinned shards."""
import pytest
from synthetic import HARNESS, OLD, ROW, digest

from harness.runlog import sha256
from records.tools.read.logs import load_runs
from records.tools.read.run import Run
from records.tools.read.tracks import (ROOT, load_harnesses, load_rows, own_row, pinned_hashes,
    row_of)
from records.tools.read.values import ReadError


def test_the_table_of_harnesses_is_no_track(root):
    assert load_rows() == {"tiny": ROW} and list(load_harnesses().accepted) == [digest(HARNESS), OLD]
    with pytest.raises(ReadError, match="track harness is not in this checkout's .* it has tiny"):
        own_row("harness")


def test_every_log_that_the_repository_carries_is_of_the_current_harness_or_listed():
    harnesses, lines = load_harnesses(), {}
    for path in sorted((ROOT / "records").glob("*/*/*/*.txt")):
        [run] = load_runs(path)
        if harnesses.standing(run) not in ("current", "listed"):
            lines.setdefault(run.at("code", "harness"), set()).add(f'"{run.sha256[:16]}"')
    assert not lines, "list them in harness/tracks.toml, below [harness.closed]:\n" + "\n".join(
        f"{digest} = [{', '.join(sorted(listed))}]" for digest, listed in lines.items())


def test_runs_of_one_known_track_have_its_row(root):
    runs = {name: Run(root, 0, "1", track=name) for name in ("tiny", "other", None)}
    assert row_of([runs["tiny"], runs["tiny"]]) == ROW
    for others in ([runs["other"]], [runs[None]], [runs["tiny"], runs["other"]], []):
        assert row_of(others) == {}


def test_shards_are_pinned_by_the_manifest_of_the_tracks_data(root):
    assert pinned_hashes(ROW) == {name: sha256(name.encode()) for name in ("t_0.bin", "v_0.bin")}
    assert pinned_hashes({"data": "nowhere"}) == {}
    (root / "data" / "tiny" / "manifest.json").write_text('{"files": 3}')
    with pytest.raises(ReadError, match="manifest.json: no manifest of shards; fetch the data again"):
        pinned_hashes(ROW)
