"""python -m records plot: what is drawn is what the logs say."""

import pytest

pytest.importorskip("matplotlib")
from records import plot  # noqa: E402
from records.__main__ import main  # noqa: E402
from records.reader import read_log  # noqa: E402
from test_reader import write_log  # noqa: E402


def test_a_group_is_drawn_as_mean_and_range_over_its_runs(tmp_path):
    logs = [
        read_log(write_log(tmp_path, f"r{i}", losses))
        for i, losses in enumerate([(6.0, 5.0), (6.0, 4.0), (6.0, 4.5)])
    ]
    val, train = plot.val_curve(logs, "steps"), plot.train_curve(logs, "steps")
    assert (val.x, val.mean, val.low, val.high) == ([0, 2], [6.0, 4.5], [6.0, 4.0], [6.0, 5.0])
    assert (train.x, train.mean) == ([2], [4.5])
    assert plot.val_curve(logs, "tokens").x == [0, 512] and plot.train_curve(logs, "tokens").x == [512]
    assert plot.val_curve(logs, "time").x == [0, 0.02] == [0, *plot.train_curve(logs, "time").x]


def test_runs_of_unequal_length_are_compared_where_all_of_them_were_measured(tmp_path):
    logs = [
        read_log(write_log(tmp_path, "a", (6.0, 5.0, 4.0))),
        read_log(write_log(tmp_path, "b", (7.0, 6.0), end=None)),
    ]
    val = plot.val_curve(logs, "steps")
    assert (val.x, val.mean) == ([0, 2], [6.5, 5.5])
    assert plot.label(logs, set()).endswith("2 runs: mean, lowest and highest (1 incomplete)")


def test_tokens_between_two_validations_lie_on_a_straight_line():
    assert [plot.between([(0, 0), (10, 1000), (20, 4000)], step) for step in (0, 5, 10, 15, 20)] == [
        0,
        500,
        1000,
        2500,
        4000,
    ]
    assert plot.between([(0, 0)], 3) == 0


def test_target_and_ladder_come_from_the_log(tmp_path):
    log = read_log(write_log(tmp_path))
    assert plot.facts(log, ladder=True) == {"unigram": 5.5, "target": 5.0}
    assert plot.facts(log, ladder=False) == {"target": 5.0}
    del log.manifest["track_row"]
    assert plot.facts(log, ladder=True) == {}


@pytest.mark.parametrize("suffix, magic", [("png", b"\x89PNG"), ("svg", b"<?xml")])
@pytest.mark.parametrize("x", list(plot.LABELS))
def test_the_same_logs_give_the_same_figure(tmp_path, suffix, magic, x):
    logs = [
        str(write_log(tmp_path, name, losses))
        for name, losses in (("$\\frac", (6.0, 5.0)), ("b", (6.0, 4.0)))
    ]
    files = [tmp_path / f"{i}.{suffix}" for i in range(2)]
    for file in files:
        assert main(["plot", *logs, "-o", str(file), "--x", x, "--ladder"]) == 0
    first, second = (file.read_bytes() for file in files)
    assert first == second and first.startswith(magic)


def test_what_cannot_be_drawn_is_refused_in_one_line(tmp_path, capsys):
    log, other = write_log(tmp_path), write_log(tmp_path, "other")
    nan = write_log(tmp_path, "nan", (float("nan"),), end="nonfinite")
    other.write_bytes(
        other.read_bytes().replace(b'"track":"tiny"', b'"track":"huge"').rpartition(b"#:end")[0]
    )
    for words in (
        [str(nan), "-o", "a.png"],
        [str(log), "-o", "a.pdf"],
        [str(log), str(other), "-o", "a.png"],
        ["none.txt", "-o", "a.png"],
        [str(log), "-o", str(tmp_path / "no" / "a.png")],
    ):
        assert main(["plot", *words]) == 2
        assert capsys.readouterr().err.count("\n") == 1
