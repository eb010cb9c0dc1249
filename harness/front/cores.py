"""How many ranks a host has cores for. Needs neither torch nor numpy."""
import os
from pathlib import Path


def physical_cores() -> int:
    """Return the number of cores this process may use, hyperthreads counted once."""
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    cores = set()
    for cpu in usable:
        try:
            cores.add(Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text())
        except OSError:
            cores.add(cpu)
    return len(cores)
