"""The figure of a track's records: ratios to the first one, the attempts beside the stairs."""
import json
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")
from small_logs import FIXTURES, manifest, write_log, write_public
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


@pytest.fixture
def public(tmp_path: Path) -> Path:
    """Two public records, one with its baseline, one with a copied and a cut log; and one of track 3."""
    folder = tmp_path / "public"
    for name, code, ms, n in (("2026-01-02_First", "a", 60, 4), ("2026-02-03_Second/baseline", "a", 59, 4),
                              ("2026-02-03_Second/this_pr", "b", 50, 5)):
        for i in range(n):
            write_public(folder / name / f"{i}.txt", {0: 11, 90: 3.3, 100: 3.278 + i / 1e4}, code=code,
                         ms=ms + i)
    copy = (folder / "2026-01-02_First" / "0.txt").read_bytes()
    (folder / "2026-01-02_First" / "copy.txt").write_bytes(copy)
    (folder / "2026-01-02_First" / "cut.txt").write_bytes(copy.rpartition(b"step:100")[0])
    write_public(folder / "20260304_third.txt", {0: 11, 80: 3.27}, seconds=True, gpus=1)
    (folder / "README.md").write_text(
        "| # | Record time | Description | Log |\n| - | - | - | - |\n"
        "7 | 0.1 minutes | One | [log](2026-01-02_First/3.txt), [PR](https://x.org/1) |\n"
        "| 8 | 0.09 minutes | Two | [log](2026-02-03_Second/baseline) |\n"
        "9 | 1 minute | gone | [log](gone.txt)\n")
    return folder


def test_the_public_history_is_written_from_logs_alone(public, call):
    """It took 30 lines on top of `list --json`."""
    first, second, third = json.loads(call("history", public, "--json").out)
    assert [(row["number"], row["date"], row["record"]) for row in (first, second, third)] == [
        (1, "2026-01-02", "2026-01-02_First"), (2, "2026-02-03", "2026-02-03_Second"),
        (1, "2026-03-04", "20260304_third.txt")]
    assert first["n"] == 4 and first["time_s"] == pytest.approx(6.15) and first["readme"] is None
    assert second["n"] == 5 and second["time_s"] == pytest.approx(5.2)  # the faster of its two scripts
    assert second["val_loss"] == pytest.approx(3.2782) and second["sd"] == pytest.approx(1.5811e-4, rel=1e-3)
    assert third["track"] == "track_3_optimization" and third["steps"] == 80 and third["device"][0] == "1"


def test_what_a_readme_says_stands_beside_what_its_logs_do(public, call):
    out = call("history", public, "--readme", public / "README.md").out
    lines = [line.split(" | ") for line in out.splitlines() if "2026-0" in line or "2026\\" in line]
    assert [line[0] for line in lines[:2]] == ["| 7", "| 8"] and lines[0][9] == "0.1 minutes"
    assert lines[0][10].startswith("-0.2 s") and lines[1][6] == "6.050"  # the script that is linked
    assert "gone" not in out


def test_history_writes_a_page_and_a_figure_a_track_the_same_each_time(public, tmp_path, call):
    files = []
    for name in ("a", "b"):
        out = call("history", public, "-o", tmp_path / name).out
        files.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
    assert files[0] == files[1] and files[0].pop("history.md").decode() == out
    assert {name: data[:4] for name, data in files[0].items()} == dict.fromkeys(
        ("fineweb.png", "track_3_optimization.png"), b"\x89PNG")


def test_what_a_strangers_folder_holds_stays_in_the_page(tmp_path, call, refused):
    """A track named like a path would name the figure's file; a log that is cut is passed over."""
    assert "no log there" in refused("history", FIXTURES.parent / "show")
    for i, track in enumerate(("../../x", "tiny")):
        write_log(tmp_path / "in", f"run{i}", track=track, later_ms=i)
    (tmp_path / "in" / "cut.txt").write_text("#:val {}\n")
    found = call("history", tmp_path / "in", FIXTURES / "llmc.log", "-o", tmp_path / "out" / "b")
    assert "## ../../x" in found.out and found.err.startswith("records history: passed over cut.txt")
    assert sorted(path.name for path in (tmp_path / "out").rglob("*")) == [
        "______x.png", "b", "history.md", "tiny.png"]


def test_odd_numbers_in_a_log_or_a_readme_are_no_crash(public, tmp_path, call):
    """Each of a loss of 1e308, a digest of another type and a time of 1.2.3 minutes was a traceback."""
    folder = tmp_path / "20260405_odd"
    for i, loss in enumerate((1.7e308, -1.7e308, 1.7e308)):
        write_log(folder, f"r{i}", (6.0, loss), seed=i, last=2, ms=9 + i,
                  code={**manifest()["code"], "digest": 5})
    [row] = json.loads(call("history", folder, "--json").out)
    assert row["n"] == 3 and row["code"] == "5" and row["sd"] == "inf"
    readme = public / "README.md"
    readme.write_text(readme.read_text().replace("0.1 minutes", "1.2.3 minutes"))
    assert "| 1.2.3 minutes | - |" in call("history", public, "--readme", readme).out
