"""python -m records plot: what is drawn is what the logs say."""
import json
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")
from small_logs import write_log

from records.tools.read.logs import load_runs
from records.tools.read.run import Point, Run
from records.tools.show import plot
from records.tools.show.figure import figure_for
from records.tools.show.group import Group, between, groups_of, kind

RULE = "=" * 100


def write_public(folder: Path, name: str, shift: float = 0.0, code: str = "lr = 1") -> Path:
    """Write a small log of the public speedrun's kind and return its path."""
    lines = [code, RULE, "Running PyTorch 2.6.0 compiled for CUDA 12.4", RULE]
    for step in range(5):
        average = f"{100:.2f}" if step else "nan"
        if step:
            lines.append(f"step:{step}/4 train_time:{100 * step + step % 2}ms step_avg:{average}ms")
        if step % 2 == 0:
            loss = 6 - step / 2 + shift
            lines.append(f"step:{step}/4 val_loss:{loss:.4f} train_time:{100 * step}ms step_avg:{average}ms")
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.txt"
    path.write_text("\n".join(lines) + "\n")
    return path


def group(*runs: Run) -> Group:
    """Return a group by hand."""
    return Group(runs[0].name, list(runs))


def test_a_group_is_drawn_as_mean_and_range_over_its_runs(tmp_path):
    logs = [load_runs(write_log(tmp_path, f"r{last}", (6.0, last)))[0] for last in (5.0, 4.0, 4.5)]
    val, train = plot.curve(group(*logs), "steps"), plot.curve(group(*logs), "steps", True)
    assert (val.x, val.mean, val.low, val.high) == ([0, 2], [6.0, 4.5], [6.0, 4.0], [6.0, 5.0])
    assert (train.x, train.mean) == ([2], [4.5])
    for x, at in (("tokens", [0, 512]), ("time", [0, 0.02])):
        assert plot.curve(group(*logs), x).x == [0, *plot.curve(group(*logs), x, True).x] == at


def test_runs_of_unequal_length_are_compared_where_all_of_them_were_measured(tmp_path):
    [a] = load_runs(write_log(tmp_path, "a", (6.0, 5.0, 4.0)))
    [b] = load_runs(write_log(tmp_path, "b", (7.0, 6.0), end=None))
    val = plot.curve(group(a, b), "steps")
    assert (val.x, val.mean) == ([0, 2], [6.5, 5.5])
    assert plot.label(group(a, b), set()).endswith("2 runs: mean, lowest and highest (1 incomplete)")


def test_tokens_between_two_validations_lie_on_a_straight_line():
    found = [between([(0, 0), (10, 1000), (20, 4000)], step) for step in (0, 5, 10, 15, 20)]
    assert found == [0, 500, 1000, 2500, 4000] and between([(0, 0)], 3) == 0


def test_target_and_ladder_come_from_the_log(tmp_path):
    [run] = load_runs(write_log(tmp_path))
    assert plot.facts(run, ladder=True) == {"unigram": 5.5, "target": 5.0}
    assert plot.facts(run, ladder=False) == {"target": 5.0}
    del run.log.manifest["track_row"]
    assert plot.facts(run, ladder=True) == {}


@pytest.mark.parametrize("suffix, magic", [("png", b"\x89PNG"), ("svg", b"<?xml")])
@pytest.mark.parametrize("words", [["--steps"],
                                   *(["--x", x, "--ladder"] for x in plot.LABELS)])
def test_the_same_logs_and_records_give_the_same_figure(tmp_path, suffix, magic, words, call):
    sources = [write_log(tmp_path, "$\\frac", (6.0, 5.0)), write_log(tmp_path, "b", (6.0, 4.0))]
    if words == ["--steps"]:
        sources = [write_public(tmp_path, "a")]
    files = [tmp_path / f"{i}.{suffix}" for i in range(2)]
    for file in files:
        call("plot", *sources, "-o", file, *words)
    first, second = (file.read_bytes() for file in files)
    assert first == second and first.startswith(magic)


def test_what_cannot_be_drawn_is_refused_in_one_line(tmp_path, refused):
    log, other = write_log(tmp_path), write_log(tmp_path, "other")
    nan = write_log(tmp_path, "nan", (float("nan"),), end="nonfinite")
    data = other.read_bytes().replace(b'"track":"tiny"', b'"track":"huge"')
    other.write_bytes(data.rpartition(b"#:end")[0])
    for words in ([nan, "-o", "a.png"], [log, "-o", "a.pdf"], [log, other, "-o", "a.png"],
                  ["none.txt", "-o", "a.png"], [log, "-o", tmp_path / "no" / "a.png"]):
        refused("plot", *words)


def test_public_logs_of_one_code_share_a_line(tmp_path, call):
    a, b = (load_runs(write_public(tmp_path / "logs", *words))[0] for words in (("a",), ("b", 0.5)))
    write_public(tmp_path / "logs", "c", code="lr = 2")
    (tmp_path / "logs" / "notes.txt").write_text("no log\n")
    out, err = call("plot", tmp_path / "logs", "-o", tmp_path / "a.png", "--x", "time")
    assert out.endswith("a.png: 3 runs in 2 groups\n") and "passed over notes.txt" in err
    assert kind(a) == kind(b) and plot.curve(group(a, b), "time").mean == [6.25, 5.25, 4.25]
    assert plot.label(group(a, b), set()) == f"{a.code_sha256[:8]}, 2 runs: mean, lowest and highest"


def test_plot_pools_what_stats_pools(tmp_path, call):
    """Public scripts that differ in their seed alone are one code; plot drew a line for each."""
    for seed in (1, 2, 3):
        write_public(tmp_path, str(seed), seed / 100, code=f"seed = {seed}")
    write_public(tmp_path, "other", 0.5, code="seed = 1; lr = 2")
    runs = [run for path in sorted(tmp_path.glob("*.txt")) for run in load_runs(path)]
    assert [len(group.runs) for group in groups_of(runs)] == [3, 1]
    assert json.loads(call("plot", tmp_path, "-o", tmp_path / "a.svg", "--json").out)["groups"] == 2
    err = call("stats", tmp_path, "--target", "4", code=2).err
    assert "2 kinds that differ in code (3 like 1.txt; 1 like other.txt)" in err


def test_an_axis_that_a_log_does_not_tell_is_refused(tmp_path, refused):
    words = ("plot", write_public(tmp_path, "a"), "-o", tmp_path / "a.png", "--x", "tokens")
    assert "does not tell its tokens" in refused(*words)
    untimed = Run(Path("a"), 0, "llm.c", vals=[Point(0, 5.0, None)])
    with pytest.raises(plot.ReadError, match="does not tell its time"):
        plot.curve(group(untimed), "time")


def test_runs_without_code_are_no_seeds_of_one_another():
    a, b = (Run(Path(name), 0, "public F") for name in "ab")
    assert kind(a) != kind(b) and plot.label(group(a), set()) == "a"


def test_step_times_need_steps_in_a_row(tmp_path, refused):
    words = ("--steps", "-o", tmp_path / "a.png")
    said = refused("plot", write_log(tmp_path, "every second"), *words)
    assert "no two training steps in a row" in said
    endless = write_public(tmp_path, "endless")
    endless.write_text(endless.read_text().replace("train_time:200ms", "train_time:20000000000000000000ms"))
    refused("plot", endless, *words)


def test_step_times_name_their_median_and_p99(tmp_path, call):
    call("plot", write_public(tmp_path, "a"), "--steps", "-o", tmp_path / "a.svg")
    with figure_for(tmp_path / "b.svg") as figure:
        figure.text(0, 0, "median 99 ms, p99 101 ms, 3 steps")  # 101, 200, 301, 400 ms: 99, 101, 99

    def shapes(name: str) -> list[str]:
        return [word.partition(" -->")[0] for word in (tmp_path / name).read_text().split("<!-- ")[1:]]
    [text] = [word for word in shapes("a.svg") if "median" in word and "p99" in word]
    assert text.endswith(shapes("b.svg")[0])
    assert [plot.p99(list(range(1, n + 1))) for n in (1, 99, 100, 200)] == [1, 99, 99, 198]
