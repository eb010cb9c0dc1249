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


def trained(folder: Path, name: str, *losses: float) -> Run:
    """Return a run validated every second step, with a training loss at each that falls by 0.1."""
    [run] = load_runs(write_log(folder, name, losses))
    run.train = [Point(step, 7 - step / 10, 10 * step) for step in range(1, 32)]
    return run


def test_a_group_is_drawn_as_mean_and_range_over_its_runs(tmp_path):
    """From the first validation after step 0 on: the line to it from step 0 showed a fall that was none."""
    runs = [trained(tmp_path, f"r{last}", 8.0, 6.0, last) for last in (5.0, 4.0, 4.5)]
    val, train = plot.curve(group(*runs), "steps"), plot.curve(group(*runs), "steps", True)
    assert (val.x, val.mean, val.low, val.high) == ([2, 4], [6.0, 4.5], [6.0, 4.0], [6.0, 5.0])
    assert train.x == list(range(11, 22)) and train.mean == pytest.approx([7 - x / 10 for x in train.x])
    for x, at, first in (("tokens", [512, 1024], 2816), ("time", [0.02, 0.04], 0.11)):
        assert plot.curve(group(*runs), x).x == at
        assert plot.curve(group(*runs), x, True).x[0] == pytest.approx(first)


def test_runs_of_unequal_length_are_compared_where_all_of_them_were_measured(tmp_path):
    [a] = load_runs(write_log(tmp_path, "a", (6.0, 5.0, 4.0)))
    [b] = load_runs(write_log(tmp_path, "b", (7.0, 6.0), end=None))
    val = plot.curve(group(a, b), "steps")
    assert (val.x, val.mean) == ([2], [5.5])
    assert plot.label(group(a, b), set()) == "code dddddddd (2 runs: mean, lowest and highest) (1 incomplete)"


def test_the_legend_has_names_overrides_and_seeds(tmp_path):
    [run] = load_runs(write_log(tmp_path))
    manifest = run.log.manifest
    manifest |= {"overrides": {"lr": 0.2, "n": 3}, "launch": {"name": "wider", "note": "why"}}
    assert plot.label(group(run), {"n=3"}) == "wider lr=0.2 (seed 3)"
    manifest |= {"overrides": {}, "launch": {}}
    (tmp_path / "2026-01-01_A" / "logs").mkdir(parents=True)
    run.path = tmp_path / "2026-01-01_A" / "logs" / "r.txt"
    assert plot.label(group(run), set()) == "code dddddddd (seed 3)"
    (tmp_path / "2026-01-01_A" / "record.json").write_text("{}")
    assert plot.label(group(run), set()) == "2026-01-01_A (seed 3)"


def test_tokens_between_two_validations_lie_on_a_straight_line():
    found = [between([(0, 0), (10, 1000), (20, 4000)], step) for step in (0, 5, 10, 15, 20)]
    assert found == [0, 500, 1000, 2500, 4000] and between([(0, 0)], 3) == 0


def test_target_and_ladder_come_from_the_log(tmp_path):
    [run] = load_runs(write_log(tmp_path))
    assert plot.facts(run, ladder=True) == {"unigram": 5.5, "target": 5.0}
    assert plot.facts(run, ladder=False) == {"target": 5.0}
    del run.log.manifest["track_row"]
    assert plot.facts(run, ladder=True) == {}


def test_the_name_of_a_line_stands_at_its_line(tmp_path):
    """That of a line below all losses stood where the figure ended before the line was drawn."""
    [run] = load_runs(write_log(tmp_path, losses=(9.0, 8.0, 7.0)))
    with figure_for(tmp_path / "a.png") as figure:
        axes = figure.subplots()
        plot.draw_losses(axes, [group(run)], set(), "steps", ladder=True)
    assert {note.get_text(): note.xy[1] for note in axes.texts} == {"unigram 5.5": 5.5, "target 5": 5.0}


@pytest.mark.parametrize("suffix, magic", [("png", b"\x89PNG"), ("svg", b"<?xml")])
@pytest.mark.parametrize("words", [["--x", x, "--ladder"] for x in plot.LABELS])
def test_the_same_logs_and_records_give_the_same_figure(tmp_path, suffix, magic, words, call):
    sources = [write_log(tmp_path, "$\\frac", (6.0, 5.0)), write_log(tmp_path, "b", (6.0, 4.0))]
    files = [tmp_path / f"{i}.{suffix}" for i in range(2)]
    for file in files:
        call("plot", *sources, "-o", file, *words)
    first, second = (file.read_bytes() for file in files)
    assert first == second and first.startswith(magic)


def test_what_cannot_be_drawn_is_refused_in_one_line(tmp_path, refused):
    log, other = write_log(tmp_path), write_log(tmp_path, "other", track="huge")
    nan = write_log(tmp_path, "nan", (5.0, float("nan")), end="nonfinite")
    for words in ([nan, "-o", "a.png"], [log, "-o", "a.pdf"], [log, other, "-o", "a.png"],
                  ["none.txt", "-o", "a.png"], [log, "-o", tmp_path / "no" / "a.png"]):
        refused("plot", *words)


def test_public_logs_of_one_code_share_a_line(tmp_path, call):
    a, b = (load_runs(write_public(tmp_path / "logs", *words))[0] for words in (("a",), ("b", 0.5)))
    write_public(tmp_path / "logs", "c", code="lr = 2")
    (tmp_path / "logs" / "requirements.txt").write_text("no log\n")
    (tmp_path / "logs" / "cut.txt").write_text("#:val {}\n")
    out, err = call("plot", tmp_path / "logs", "-o", tmp_path / "a.png", "--x", "time")
    assert out.endswith("a.png: 3 runs, 2 groups\n")
    assert "passed over cut.txt" in err and err.count("\n") == 1
    assert kind(a) == kind(b) and plot.curve(group(a, b), "time").mean == [5.25, 4.25]
    words = f"script {a.script_sha256[:8]} (2 runs: mean, lowest and highest)"
    assert plot.label(group(a, b), set()) == words


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
    untimed = Run(Path("a"), 0, "llm.c", vals=[Point(2, 5.0, None)])
    with pytest.raises(plot.ReadError, match="does not tell its time"):
        plot.curve(group(untimed), "time")


def test_runs_without_code_are_no_seeds_of_one_another():
    a, b = (Run(Path(name), 0, "public F") for name in "ab")
    assert kind(a) != kind(b) and plot.label(group(a), set()) == "a"
