"""Where a run takes place: its process group, and the head of its log: code, versions, hardware, settings."""
import contextlib
import dataclasses
import functools
import itertools
import os
import platform
import re
import statistics
import subprocess
import sys
import sysconfig
import time
import warnings
from collections.abc import Iterator
from datetime import timedelta
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from harness.clock import host_clocks
from harness.endings import BadInput, refuse
from harness.plan import Plan
from harness.runlog import ROOT, RunLog, canonical, is_ours, loaded_files, new_run_id, read_source, sha256

UNKNOWN = "unavailable"
_runs = itertools.count()


def command(*words: str) -> str:
    """Return what a command prints, or 'unavailable' where it is missing, fails or takes over 5 seconds."""
    try:
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return UNKNOWN
    return done.stdout.rstrip("\n") if done.returncode == 0 else UNKNOWN


def open_log(plan: Plan, script: Path, argv: list[str], device: torch.device, process: dict[str, int],
             parameters: dict[str, int] | None, resumed: dict | None,
             init_sha256: str | None) -> tuple[RunLog, dict[str, Path]]:
    """Open the log of a run and write its head; return it and the project's files that are loaded.

    process: what it was when the run was opened. parameters None: the run ended before it had a model that
    fits; nothing is asked of the device then. On ranks other than 0 the log writes nothing. Raises BadInput
    where a file or the folder is unfit.
    """
    loaded = loaded_files()
    if dist.get_rank():
        return RunLog(None, ""), loaded
    harness = [*(ROOT / "harness").rglob("*.py"), ROOT / "harness" / "tracks.toml"]
    try:
        source = read_source(script, script=True)
        files = {path: read_source(file) for path, file in loaded.items() if file != script}
        code = code_facts(source, files)
        files |= {file.relative_to(ROOT).as_posix(): read_source(file) for file in harness}
    except ValueError as error:
        raise BadInput(str(error)) from None
    dirty = {"": False, UNKNOWN: UNKNOWN}.get(command("git", "status", "--porcelain"), True)
    manifest = {**run_facts(plan, script, argv, dist.get_world_size()), "code": code,
                "parameters": parameters, "resumed_from": resumed, "sys": system_facts(device),
                "init_sha256": init_sha256,
                "git": {"commit": command("git", "rev-parse", "HEAD"), "dirty": dirty},
                "process": {**process, "modules": foreign_modules()},
                "calibration": parameters and calibrate(device), "clocks": host_clocks(), "format": 1}
    folder = ROOT / "records" / "runs"
    try:
        log = RunLog(folder, new_run_id(code["digest"]))
    except OSError as error:
        raise BadInput(f"{folder}: cannot write a log there ({error.strerror})") from None
    log.sources(source, {**manifest, "run_id": log.run_id}, files, environment_lines(device))
    return log, loaded


def code_facts(script: bytes, files: dict[str, bytes]) -> dict:
    """Return the digests of a run's code: script, harness (harness/*.py), other loaded files, all of it.

    Among the others is a file of harness/front, which no rank should load: verify refuses it.
    """
    referee = sorted(Path(__file__).parent.glob("*.py"))
    harness = {path.name: sha256(read_source(path)) for path in referee}
    others = {path: sha256(source) for path, source in files.items()
              if not path.startswith("harness/") or path.startswith("harness/front/")}
    parts = {"script": sha256(script), "harness": sha256(canonical(harness).encode()), "others": others}
    return {**parts, "digest": sha256(canonical(parts).encode())}


def run_facts(plan: Plan, script: Path, argv: list[str], world_size: int) -> dict:
    """Return what was asked of a run: script, track, flags, seed, how the batch divides, which data."""
    hp, scans = plan.hp, plan.data.scans
    shards = [{"file": path.name, "tokens": scans[path].tokens, "sha256": scans[path].sha256}
              for path in (*plan.data.train, plan.data.val)]
    launch = {k: without_paths(v) for k, v in dataclasses.asdict(plan.options).items() if v is not None}
    return {
        "script": script.relative_to(ROOT).as_posix() if script.is_relative_to(ROOT) else script.name,
        "track": plan.track.name, "track_digest": plan.track.digest,
        "track_row": dataclasses.asdict(plan.track),
        "seed": plan.options.seed,
        "argv": [without_paths(word) for word in argv], "launch": launch,
        "overrides": plan.overrides, "hyperparameters": dataclasses.asdict(hp), "world_size": world_size,
        "nodes": int(os.environ.get("GROUP_WORLD_SIZE", 1)), "reduction": plan.track.reduction,
        "rows": plan.rows, "accumulation": hp.batch_tokens // (plan.rows * hp.seq_len * world_size),
        "data": {"train": shards[:-1], "val": shards[-1], "tokens": plan.tokens, "epochs": hp.epochs},
    }


def process_facts() -> dict[str, int]:
    """Return what a process did before it opens a run: runs, CPU time. To be asked once a run."""
    return {"runs_before": next(_runs), "cpu_ns": time.process_time_ns()}


@functools.cache
def torch_stack() -> frozenset[str]:
    """Return the top-level modules of torch, numpy and tqdm, and of what those need."""
    names, found, modules = ["torch", "numpy", "tqdm"], set(), set()
    while names:
        name = re.match(r"[\w.-]*", names.pop())[0]
        if name in found:
            continue
        found.add(name)
        with contextlib.suppress(metadata.PackageNotFoundError):
            package = metadata.distribution(name)
            names += [line for line in package.requires or () if "extra ==" not in line or name == "torch"]
            told = package.read_text("top_level.txt")
            files = told.split() if told else [file.parts[0] for file in package.files or ()]
            modules |= {file.removesuffix(".py") for file in files}
    return frozenset(modules)


def foreign_modules() -> dict[str, dict[str, str]]:
    """Return version and digest of what is loaded and neither Python's own, torch's stack nor the project's.

    By top-level name; the digest is over name and sha256 of its loaded files. A stack's name counts as such
    beside torch only.
    """
    python, beside = Path(sysconfig.get_path("stdlib")), Path(torch.__file__).resolve().parents[1]
    known: dict[str, bool] = {"__main__": True, "__mp_main__": True}  # the script, by both names
    foreign: dict[str, dict[str, str]] = {}
    for name, module in sorted(sys.modules.items()):
        if not (file := getattr(module, "__file__", None)):
            continue
        if (top := name.partition(".")[0]) not in known:
            given = Path(getattr(sys.modules.get(top), "__file__", None) or file)
            home = given.resolve()  # a system's Python may link a file of its own to elsewhere
            known[top] = (top in torch_stack() and home.is_relative_to(beside) or is_ours(home)
                          or (given.is_relative_to(python) or home.is_relative_to(python.resolve()))
                          and not {"site-packages", "dist-packages"} & {*given.parts})
        if not known[top]:
            source = Path(file).read_bytes() if Path(file).is_file() else b""
            foreign.setdefault(top, {})[name] = sha256(source)
    packages = metadata.packages_distributions() if foreign else {}
    return {top: {"version": ", ".join(map(metadata.version, packages.get(top, ()))) or UNKNOWN,
                  "sha256": sha256(canonical(files).encode())} for top, files in foreign.items()}


def without_paths(value: Any) -> Any:
    """Return text without the folders of this host and its user: a log names neither."""
    if not isinstance(value, str):
        return value
    for folder, name in ((str(ROOT), "."), (sys.prefix, "<python>"), (str(Path.home()), "~")):
        value = value.replace(folder, name) if folder != "/" else value
    return value


def cpu_name() -> str:
    """Return the processor's model name."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return command("sysctl", "-n", "machdep.cpu.brand_string")  # macOS


def changed_settings() -> list[str]:
    """Return inductor and dynamo settings that differ from torch's defaults, as statements."""
    configs = [sys.modules.get(name) for name in ("torch._inductor.config", "torch._dynamo.config")]
    with warnings.catch_warnings(action="ignore"):  # deprecated settings warn when they are read
        return [line for config in configs if config for line in config.codegen_config().splitlines()]


def system_facts(device: torch.device) -> dict:
    """Return versions, processor, GPUs, threads. No host name, no user name."""
    count = torch.cuda.device_count() if device.type == "cuda" else 0
    gpus = [torch.cuda.get_device_name(i) for i in range(count)]
    return {
        "python": platform.python_version(), "torch": torch.__version__, "cuda": torch.version.cuda,
        "platform": f"{platform.system()} {platform.machine()}", "cpu": cpu_name(), "cpus": os.cpu_count(),
        "load": list(os.getloadavg()) if hasattr(os, "getloadavg") else UNKNOWN, "gpus": gpus,
        "device": gpus[device.index or 0] if gpus else cpu_name(), "threads": torch.get_num_threads(),
        "float32_matmul_precision": torch.get_float32_matmul_precision(), "settings": changed_settings(),
    }


def environment_lines(device: torch.device) -> list[str]:
    """Return the lines that people's tools for the public logs look for."""
    lines = [f"Running Python {platform.python_version()}",
             f"Running PyTorch {torch.__version__} compiled for CUDA {torch.version.cuda}"]
    if device.type == "cuda" and (table := command("nvidia-smi")) != UNKNOWN:
        lines += [line.rstrip() or " " for line in table.splitlines()]
    return lines


def calibrate(device: torch.device) -> dict[str, float]:
    """Return what this rank's device does: float32 GEMM in GFLOP/s, copy in GB/s (reads and writes)."""
    size = 4096 if device.type == "cuda" else 512
    a, b, source = (torch.ones(size, n * size, device=device) for n in (1, 1, 4))
    rates = {}
    for name, amount, work in (("gemm_gflops", 2 * size**3, lambda: a @ b),
                               ("copy_gbs", 2 * source.nbytes, source.clone)):
        times = []
        for _ in range(6):
            begin = time.monotonic_ns()
            work()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            times.append(time.monotonic_ns() - begin)
        rates[name] = amount / statistics.median(times[1:])
    return rates


@contextlib.contextmanager
def process_group(device: str, timeout_s: int = 600) -> Iterator[None]:
    """Join the group that the launcher describes, or make one of this process alone; one that exists is kept.

    timeout_s: how long a collective waits for a rank.

    On CPU a rank has one thread unless OMP_NUM_THREADS says otherwise: the number of threads may change the
    bits.
    """
    if device == "cpu":
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 1)))
        keep_float32_fast()
    if dist.is_initialized():
        yield
        return
    alone = {} if "RANK" in os.environ else dict(store=dist.HashStore(), rank=0, world_size=1)
    backend, device_id = "gloo", None
    if device == "cuda":
        backend, device_id = "nccl", torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(device_id)
    try:
        dist.init_process_group(backend, timeout=timedelta(seconds=timeout_s), device_id=device_id, **alone)
    except dist.DistError as error:
        refuse(ValueError(f"the ranks found no group ({str(error).splitlines()[0]}); is the launcher gone?"))
    try:
        yield
    finally:
        dist.destroy_process_group()


def keep_float32_fast() -> None:
    """Take oneDNN's float32 matrix product where it keeps float32.

    torch calls that route 'medium'. It is over twice as fast as MKL on AMD processors, with float32's
    rounding; on those with AMX it rounds inputs to bfloat16, and MKL is as fast as the hardware: there it is
    'highest'.
    """
    a, b = torch.rand(256, 256, generator=torch.Generator().manual_seed(0)).sub(0.5).split(128)
    exact = a.double() @ b.double().mT
    torch.set_float32_matmul_precision("medium")
    if float(((a @ b.mT).double() - exact).abs().max()) > 1e-5:  # float32: 1e-6; bfloat16: 1e-2
        torch.set_float32_matmul_precision("highest")
