"""The rows of tracks.toml: complete, and they accept the harness that is here."""
import dataclasses

import pytest

from harness.environment import code_facts
from harness.track import load_tracks


def test_every_track_accepts_the_harness_that_is_here():
    """A change of harness/*.py adds its digest and its commit to the rows of tracks.toml."""
    digest = code_facts(b"", {})["harness"]
    for track in load_tracks().values():
        assert digest in track.harness, f"track {track.name}: add {digest} and its commit to `harness`"


def test_a_row_that_lacks_a_field_or_has_one_too_many_is_told(tmp_path):
    rows = tmp_path / "tracks.toml"
    rows.write_text('[mine]\nrecipe = "sample"\ncolour = "red"\n')
    with pytest.raises(ValueError, match=r"track mine lacks the fields \['data', .* unknown \['colour'\]"):
        load_tracks(rows)


def test_the_digest_of_a_row_does_not_depend_on_the_accepted_harnesses(tmp_path):
    track = load_tracks()["sample"]
    assert dataclasses.replace(track, harness={"x": "y"}).digest == track.digest
    assert dataclasses.replace(track, target=1.0).digest != track.digest
