"""What judges and shows claims runs on plain Python, without a package; figures say what they lack."""
import os
import subprocess
import sys
from pathlib import Path

import pytest
from small_logs import write_log

ROOT = Path(__file__).resolve().parents[3]
RECORD = ROOT / "records" / "sample" / "2026-11-22_Muon"
# a real use: words, exit codes, what it says; a checkout whose harness is being changed does
# not accept the record's yet, and submit would write into the checkout
REAL = {"verify": ("{record}", (0, 1), "4 runs, p 0.00683"),
        "submit": ("toy.txt --name Muon", (2,), "track tiny"),
        "leaderboard": ("--check", (0,), ""), "stats": ("{record}/logs", (0,), "PROMISING: mean"),
        "plan": ("--buffer 0.001", (0,), "one test runs                 25"),
        "list": ("{record}", (0,), "4.34088"), "show": ("{log}", (0,), "val_loss"),
        "diff": ("{log} {log}", (0,), "one run against one run"), "extract": ("{log} out", (0,), "out")}


def plainly(folder: Path, *words: str) -> subprocess.CompletedProcess:
    """Run a command of records with the modules of Python and of this repository alone."""
    code = ("import sys; sys.path.insert(0, sys.argv.pop(1)); from records.__main__ import main; "
            "sys.exit(main())")
    return subprocess.run([sys.executable, "-I", "-S", "-c", code, str(ROOT), *words], cwd=folder,
                          capture_output=True, text=True, env={"PATH": os.environ["PATH"]})


@pytest.mark.parametrize("command", REAL)
def test_a_command_needs_no_package(tmp_path, command):
    write_log(tmp_path, "toy", (6.0, 5.0))
    words, codes, says = REAL[command]
    log = min((RECORD / "logs").glob("*.txt"))
    done = plainly(tmp_path, command, *words.format(record=RECORD, log=log).split())
    assert says in done.stdout + done.stderr and done.returncode in codes, done


@pytest.mark.parametrize("words", ["A.txt", "A.txt --x time", "records --history"])
def test_a_figure_says_in_one_line_that_it_wants_matplotlib(tmp_path, words):
    write_log(tmp_path, "A")
    (tmp_path / "records").symlink_to(ROOT / "records" / "sample")
    done = plainly(tmp_path, "plot", *words.split(), "-o", "a.png")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("records plot: matplotlib is missing; pip install -r ")
