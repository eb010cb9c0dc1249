"""The process group: always one, also of a single process; torch's collectives over NCCL or gloo."""
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist

from harness.environment import keep_float32_fast

TIMEOUT = timedelta(minutes=10)


@contextmanager
def process_group(device: str) -> Iterator[None]:
    """Join the group that the launcher describes, or make one of this process alone; one that exists is kept.

    On CPU a rank has one thread unless OMP_NUM_THREADS says otherwise: the number of threads may change the
    bits.
    """
    if device == "cpu":
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 1)))
        keep_float32_fast()
    if dist.is_initialized():
        yield
        return
    backend, device_id = "gloo", None
    if device == "cuda":
        backend, device_id = "nccl", torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(device_id)
    if "RANK" in os.environ:
        dist.init_process_group(backend, timeout=TIMEOUT, device_id=device_id)
    else:
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1, device_id=device_id)
    try:
        yield
    finally:
        dist.destroy_process_group()
