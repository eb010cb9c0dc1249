"""The variables that must precede `import torch` in a process that trains: those that run.sh exports."""
import os
import sys

VARIABLES = {  # waiting threads sleep, freed memory is kept: four times as fast at laptop size
    "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "MALLOC_MMAP_THRESHOLD_": "1073741824",
    "MALLOC_TRIM_THRESHOLD_": "8589934592", "MALLOC_TOP_PAD_": "67108864"}


def restart_with_variables(module: str, argv: list[str]) -> None:
    """Start this process anew, as `python -m module argv`, where it lacks a variable; else do nothing."""
    if VARIABLES.keys() - os.environ.keys():
        sys.stdout.flush()
        os.execve(sys.executable, [sys.executable, "-m", module, *argv], {**VARIABLES, **os.environ})
