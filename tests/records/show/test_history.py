"""The figure of a track's records: ratios to the first one, the attempts beside the stairs."""
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")
from synthetic import write_record

from records.tools.show import history
from records.tools.show.figure import figure_for


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A track's folder with two records and, between them, two attempts of which one was raced."""
    write_record(tmp_path / "tiny", "One")
    write_record(tmp_path / "tiny", "Slower", "One", 5.0)
    write_record(tmp_path / "tiny", "Unraced")
    write_record(tmp_path / "tiny", "$Two", "One")
    return tmp_path / "tiny"


@pytest.mark.parametrize("suffix, magic", [("png", b"\x89PNG"), ("svg", b"<?xml")])
def test_the_same_records_give_the_same_figure(suffix, magic, folder, tmp_path, call):
    write_record(folder, "GPU", device="8 x H100")
    files = [tmp_path / f"{i}.{suffix}" for i in range(2)]
    for file in files:
        assert call("plot", "--history", folder, "-o", file).out == f"{file}: 3 records, 1 attempts\n"
    first, second = (file.read_bytes() for file in files)
    assert first == second and first.startswith(magic)


def test_an_attempt_is_no_step_and_times_are_ratios_over_the_records_numbers(folder, tmp_path):
    """A day was the axis, a slower record a step, and seconds of different sittings were joined."""
    records = history.read_records(folder)
    with figure_for(tmp_path / "a.png") as figure:
        axes = figure.subplots()
        history.draw_class(axes, records)
        [stairs] = [line for line in axes.lines if line.get_drawstyle() == "steps-post"]
        names = [text.get_text() for text in axes.get_xticklabels()]
    one, slower, two = (each.ratio.value for each in records)
    assert list(stairs.get_xdata())[:2] == [1, 2] and list(stairs.get_ydata()) == [1.0, two, two]
    assert names == ["1\nOne", "\n\nSlower", "2\n$Two"] and two < one < slower
    assert list(axes.get_xticks()) == [1, 1.5, 2]


def test_what_cannot_be_drawn_is_refused_in_one_line(folder, tmp_path, refused):
    words = "plot", "--history", "-o", tmp_path / "a.png"
    assert "0 */record.json in it" in refused(*words, tmp_path)
    write_record(tmp_path / "weak", "Weak", significance={"word": "PROMISING"})
    assert "1 */record.json in it, none of them PROVEN" in refused(*words, tmp_path / "weak")
    write_record(tmp_path / "other", "Three", track="other")
    assert "draw one track" in refused(*words, folder, tmp_path / "other")
    write_record(folder, "Bad").write_bytes(b"\xff{")
    refused(*words, folder)
