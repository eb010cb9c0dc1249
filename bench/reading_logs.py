"""How long a verifier waits: verify of one log and of 20, and a history as large as the public one listed."""
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.rounds import ROOT, Result, Row

FILES, BYTES = 1549, 240_000_000  # the public speedrun's logs in 2026-11


def seconds(*words: str) -> float:
    """Return how long `python -m records` takes with some words, whatever its verdict."""
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-m", "records", *words], cwd=ROOT, stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL)
    return time.perf_counter() - begin


def write_history(folder: Path, files: int, size: int) -> None:
    """Write logs as the public speedrun has most of them: code, environment, 1,500 timed steps."""
    rule = "=" * 100
    steps = "".join(f"step:{i}/1500 train_time:{i * 57}ms step_avg:57.00ms\n" for i in range(1, 1501))
    body = f"step:0/1500 val_loss:10.8258 train_time:0ms step_avg:nanms\n{steps}"
    source = (ROOT / "train_gpt2.py").read_text()
    for i in range(files):
        last = f"step:1500/1500 val_loss:3.{2700 + i % 100} train_time:85500ms step_avg:57.00ms\n"
        rest = f"# {i}\n{rule}\nRunning Python 3.12.7\nRunning PyTorch 2.6.0\n{rule}\n{body}{last}"
        copies = max(1, (size - len(rest)) // len(source))
        (folder / f"{i:04d}.txt").write_text(source * copies + rest)


def measure(quick: bool) -> Result:
    """Return the seconds of each command, a new process each time."""
    rounds = 1 if quick else 7
    logs = sorted((ROOT / "records" / "sample").glob("*/logs/*.txt"))
    with tempfile.TemporaryDirectory(prefix="bench_logs_") as aside:
        history, twenty = Path(aside, "history"), Path(aside, "twenty")
        history.mkdir()
        twenty.mkdir()
        write_history(history, 20 if quick else FILES, BYTES // FILES)
        for i in range(20):
            shutil.copy(logs[0], twenty / f"{i}.txt")
        rows = [Row("verify one log",
                    [seconds("verify", str(logs[0])) for _ in range(rounds)], "s", "<= 0.5"),
                Row("verify a record: 4 logs, a race of 10 runs, record.json and page rebuilt",
                    [seconds("verify", str(logs[0].parent.parent)) for _ in range(rounds)], "s", "<= 3"),
                Row("verify 20 logs",
                    [seconds("verify", *map(str, twenty.iterdir())) for _ in range(rounds)], "s", "<= 3"),
                Row("list --json of 1,549 logs, 240 MB",
                    [seconds("list", "--json", str(history)) for _ in range(min(rounds, 5))], "s", "<= 20")]
    how = ("A new `python -m records` process each time, files in the page cache. The 20 logs are copies of "
           "one (verify says so; it checks each all the same). The history is synthetic, in the layout that "
           "1,285 of the public logs have: the same number of files and bytes.")
    return Result(rows, how, {"bytes_of_the_log": logs[0].stat().st_size})
