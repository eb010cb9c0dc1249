"""Logs of the public speedrun and of llm.c, one synthetic fixture a layout, and what may vary in them."""
import math
from pathlib import Path

import pytest
from small_logs import FIXTURES

from records.tools.read import public
from records.tools.read.public import read_public
from records.tools.read.logs import load_runs
from records.tools.read.run import Run
from records.tools.read.values import ReadError

RULE = b"=" * 100 + b"\n"
VAL = b"step:1/2 val_loss:3.2800 train_time:30ms step_avg:30.00ms\n"
H100, H200 = "8 x NVIDIA H100 80GB HBM3", "8 x NVIDIA H200"
EXPECTED = {  # format, step, steps, loss, ms, decimals, device, world size, seed, torch, MiB, script
    "layout_a.txt": ("public A", 20, 20, 5.5, 2010, 4, H100, None, None, "2.4.1+cu121", 30001,
                     b'import synthetic\nlogfile.write("=" * 100)  # "step:{n}/{of} val_loss:{loss}"\n'),
    "layout_b.txt": ("public B", 4, 4, math.nan, 402, 4, H100, None, None, "2.6.0.dev20241119+cu124", None,
                     b"import synthetic_b\n"),
    "layout_c.txt": ("public C", 8, 8, 6.1234, 803, 4, "1 x NVIDIA H100 80GB HBM3", None, None, "2.6.0",
                     20002, b"import synthetic_c\n"),
    "layout_d.txt": ("public D", 1490, 1490, 3.2788, 47400, 4, H200, None, None, "2.10.0+cu128", 30003,
                     b"import synthetic_d\nx = 1\n"),
    "layout_d_track_3.txt": ("public D", 3125, 3148, 3.27946, 615172, 5, H200, 8, 7, "2.11.0+cu130", None,
                             b"import synthetic_optimizer\n"),
    "layout_e.txt": ("public E", 40, 40, 3.265432, 42250, 6, None, None, None, None, None,
                     b"import synthetic_e\n"),
    "layout_f.stdout": ("public F", 30, 30, 3.27, 30125, 5, None, None, 3, None, None, None),
    "llmc.log": ("llm.c", 3, None, 10.25, None, 4, None, None, None, None, None, None),
}


def read(data: bytes) -> Run:
    """Return the one run of some bytes."""
    [run] = read_public(Path("a.txt"), data)
    return run


@pytest.mark.parametrize("name", EXPECTED)
def test_each_layout_is_read(name):
    [run] = load_runs(FIXTURES / name)
    last = run.last
    found = (run.format, last.step, run.steps, last.loss, last.time_ms, run.val_decimals, run.device,
             run.world_size, run.seed, run.versions.get("torch"), run.peak_memory_mib, run.code)
    assert repr(found) == repr((*EXPECTED[name][:4], last.time_ms, *EXPECTED[name][5:]))  # repr: nan
    assert last.time_ms == EXPECTED[name][4]
    assert run.status is None and run.log is None
    assert run.track == ("track_3_optimization" if name[7:8] in "ef" or "track_3" in name else None)


def test_helper_files_and_versions_are_apart_from_the_script():
    [run] = load_runs(FIXTURES / "layout_d.txt")
    assert run.files == {"triton_kernels.py": b"def kernel():\n    pass\n", "other.py": b"y = 2\n"}
    assert run.versions == {"python": "3.12.7", "torch": "2.10.0+cu128", "cuda": "12.8", "triton": "3.6.0",
                            "driver": "500.10.01"}
    assert [(p.step, p.loss) for p in run.train] == [(1, None)]


def test_training_lines_are_points_with_their_loss():
    [run] = load_runs(FIXTURES / "layout_a.txt")
    points = [(1, 10.9001, 500), (10, 6.5, 1000), (20, 5.6, 2000)]
    assert [(p.step, p.loss, p.time_ms) for p in run.train] == points
    [run] = load_runs(FIXTURES / "llmc.log")
    assert [(p.step, p.loss) for p in run.train] == [(0, 11.0091), (1, 10.9598), (2, 10.4)]
    assert [(p.step, p.loss) for p in run.vals] == [(0, 11.0092), (2, 10.5), (3, 10.25)]


def test_several_trials_in_a_file_are_told_apart_where_the_step_falls():
    runs = load_runs(FIXTURES / "layout_d_trials.txt")
    told = [(0, 41, 3.1, 2), (1, 42, 3.2, 2), (2, 43, 3.3, 2)]
    assert [(t.index, t.seed, t.last.loss, len(t.vals)) for t in runs] == told
    assert {t.device for t in runs} == {"2 x NVIDIA A40"} and {t.world_size for t in runs} == {2}
    assert len({t.script_sha256 for t in runs}) == 1


def test_a_seed_that_stands_behind_a_trial_is_given_to_none():
    """Which run it is of cannot be told, and a wrong seed would hide a repeat."""
    runs = read_public(Path("a.txt"), VAL + b"trial:1/2 seed:5\n" + VAL.replace(b":1/", b":0/") +
                         b"trial:2/2 seed:6\n")
    assert [t.seed for t in runs] == [None, None]
    assert read(VAL + b"seed:5\n").seed == 5


def test_code_is_kept_as_it_is_and_a_seed_in_it_is_not_stated():
    """It need not parse, and a script without a last newline comes out without."""
    assert read(b"seed=1\n" + RULE + VAL).seed is None
    assert read(b"def broken(:\n\n" + RULE + VAL).code == b"def broken(:\n"
    assert read(b"x = 1\n" + RULE + VAL).code == b"x = 1"
    assert read(RULE + b"x = 1\n" + RULE + b"env\n" + RULE + VAL).code == b"x = 1\n"


@pytest.mark.parametrize("line, loss, decimals", [
    (b"step:1/2 val_loss:nan train_time:30ms step_avg:nanms", math.nan, None),
    (b"step:1/2 val_loss:inf train_time:30ms step_avg:nanms", math.inf, None),
    (b"step:1/2 val_loss:-1.5e3 train_time:30ms step_avg:1ms", -1500.0, 1),
    (b"step:1/2 val_loss:1e400 train_time:1e400s step_avg:1ms", math.inf, 0),
    (b"step:1/2 val_loss:3 train_time:30ms step_avg:30ms  \r", 3.0, 0),
])
def test_numbers_that_are_not_plain_are_read(line, loss, decimals):
    run = read(line + b"\n")
    assert repr(run.last.loss) == repr(loss) and run.val_decimals == decimals


def test_fewest_digits_of_all_validations_count_and_an_extra_loss_is_none_of_them():
    assert read(VAL + b"step:2/2 val_loss:3.2 train_time:30ms step_avg:30.00ms\n").val_decimals == 1
    assert read(VAL + b"step:2/2 val_ema_loss:3.1 train_time:60ms step_avg:30.00ms\n").last.loss == 3.28


@pytest.mark.parametrize("line", [
    b"step:1/2 is written here", b" " + VAL.strip(), b"step:1/2 val_loss:one train_time:30ms step_avg:30ms",
    b"step:1 val_loss:3.2 train_time:30ms step_avg:30.00ms", b"step:1/2 val_loss:3.2 train_time:30ms",
    VAL.strip() + b" and more words", VAL.strip().replace(b":1/", b":99999999999999999999/"),
    b"", b"s:1 tel:", b"step:1/2 train_time:30ms step_avg:30.00ms",
    VAL.strip().replace(b"1", "١".encode()),
])
def test_what_has_no_validation_line_is_no_log(line):
    with pytest.raises(ReadError, match="a.txt: no log of a run: no validation line"):
        read(line + b"\n")


def test_a_last_line_without_a_newline_counts_where_it_is_whole():
    assert read(VAL + VAL.replace(b":1/", b":2/").rstrip()).last.step == 2
    assert read(VAL + VAL.replace(b":1/", b":2/").rstrip()[:-1]).last.step == 1
    llmc = b"s:1 tel:3.2812\ns:2 tel:3.2789"
    assert read(llmc).last.loss == 3.2789 and read(llmc[:-1]).last.loss == 3.2812


def test_more_steps_than_any_run_has_and_helpers_of_one_name_are_refused(monkeypatch):
    monkeypatch.setattr(public, "POINTS", 5000)
    helper = b"\n" + b"-" * 40 + b"\n# a.py\n" + b"-" * 40 + b"\n"
    for data, words in ((b"s:1 tel:1\n" * 5001, "more than 5000 lines of steps"),
                        ((VAL + VAL.replace(b":1/", b":0/")) * 2000, "runs"),
                        (b"x = 1\n" + helper + b"1\n" + helper + b"2\n" + RULE + VAL, "one name")):
        with pytest.raises(ReadError, match=words):
            read(data)
