"""Measure the 124M recipes on one GPU and write docs/performance_gpu.md. Start it with ./bench/gpu.sh.

Full batch by accumulation, compiled. --device cpu --quick shows that it runs and measures nothing.
"""
import argparse
import functools
import gc
import json
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if __name__ == "__main__":  # run as a file, python puts bench/ on the path, not the repository
    sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from torch.nn.attention import SDPBackend, sdpa_kernel  # noqa: E402

from bench.counts import GPT2_124M, step_flops  # noqa: E402
from bench.gpu_steps import Steps, wait  # noqa: E402
from bench.page import page  # noqa: E402
from bench.project import Project  # noqa: E402
from bench.rounds import Result, Row, interleaved, ratios  # noqa: E402
from bench.run import run_one  # noqa: E402
from bench.submission import load  # noqa: E402
from harness.checkpoint import Snapshot  # noqa: E402
from harness.environment import process_group  # noqa: E402
from harness.parameters import active_parameters  # noqa: E402
from harness.shards import check_shard  # noqa: E402
from harness.vocabulary import token_bytes  # noqa: E402

PEAK_TFLOPS = 989  # H100 and H200 SXM, bfloat16 without sparsity, by NVIDIA's data sheet
BACKENDS = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION,
            "efficient": SDPBackend.EFFICIENT_ATTENTION}
STATE_STEPS = 20
ROW = """
[bench]
recipe = "{recipe}"
data = "data/none"
train_files = "*train*.bin"
val_files = "*val*.bin"
vocabulary = "data/gpt2/vocab.bpe"
vocab_size = {vocab_size}
val_tokens = {val_tokens}
val_piece = {val_piece}
target = 3.28
max_active_parameters = 124000000
reduction = "fast"
fetch = "false"
download = "nothing"
cost = "minutes"
"""


def timed(work: Callable, device: torch.device, repeats: int) -> float:
    """Return the seconds of one call, over several in a row."""
    wait(device)
    begin = time.perf_counter()
    for _ in range(repeats):
        work()
    wait(device)
    return (time.perf_counter() - begin) / repeats


def attention(data: Path, device: torch.device, quick: bool) -> Result:
    """Return milliseconds of causal attention, forward and backward, by torch's backends."""
    B, H, T, D = (1, 1, 64, 32) if quick else (64, 6, 1024, 128)
    q, k, v = (torch.randn(B, T, H, D, device=device, dtype=torch.bfloat16).transpose(1, 2).requires_grad_()
               for _ in range(3))
    gradient = torch.randn_like(q)

    def work(backend: SDPBackend) -> None:
        with sdpa_kernel(backend):
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        torch.autograd.grad(y, (q, k, v), gradient)

    works, refused = {}, {}
    for name, backend in BACKENDS.items():
        try:
            work(backend)
            works[name] = functools.partial(timed, functools.partial(work, backend), device,
                                            2 if quick else 20)
        except RuntimeError as error:
            refused[name] = str(error).split("\n")[0]
    found = interleaved(works, 2 if quick else 7)
    rows = [Row(f"attention forward and backward: {name}", [1e3 * s for s in times], "ms") for name, times in
            found.items()]
    how = (f"F.scaled_dot_product_attention, causal, bfloat16, {B} sequences, {H} heads, {T} tokens, head "
           f"dimension {D}, one layer, not compiled. Not available: {', '.join(refused) or 'none'}.")
    return Result(rows, how, {"seconds": found, "refused": refused})


def free(device: torch.device) -> None:
    """Give back the memory of what is no longer used, also after an error."""
    gc.collect()
    torch.compiler.reset()
    if device.type == "cuda":
        torch.cuda.empty_cache()


@contextmanager
def only_backend(name: str | None):
    """Allow one attention backend for the whole process; None: torch's own choice."""
    switches = {"flash": torch.backends.cuda.enable_flash_sdp, "cudnn": torch.backends.cuda.enable_cudnn_sdp,
                "efficient": torch.backends.cuda.enable_mem_efficient_sdp,
                "math": torch.backends.cuda.enable_math_sdp}
    for key, switch in switches.items():
        switch(name is None or key == name)
    try:
        yield
    finally:
        for switch in switches.values():
            switch(True)


def step(data: Path, device: torch.device, quick: bool) -> Result:
    """Return time, MFU, memory and Muon's share of the recipe's full step, by attention and rows a pass."""
    size, rounds = (64, 2) if quick else (8192, 7)
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    rows, raw = [], {}
    for name, passed in ((None, 64), ("cudnn", 64), ("flash", 64), (None, 32), (None, 16)):
        label = f"{passed} sequences a pass, attention {name or 'of torch'}"
        with only_backend(name if device.type == "cuda" else None):
            try:
                if device.type == "cuda":
                    torch.cuda.reset_peak_memory_stats(device)
                steps = Steps(data, device, quick, rows=passed)
                begin = time.perf_counter()
                steps.run(3)
                warmup = time.perf_counter() - begin
                found = interleaved({"step": lambda: steps.run(2) / 2,
                                     "gemm": lambda: timed(lambda: a @ b, device, 20)},
                                    rounds)
                muon = steps.optimizers[1]
                muon_ms = [1e3 * timed(muon.step, device, 5) for _ in range(rounds)]
            except RuntimeError as error:  # a backend or a batch that this GPU does not take is a result too
                raw[label], steps = {"error": f"{type(error).__name__}: {error}".split("\n")[0]}, None
            if steps:
                steps.close()
        free(device)
        if not steps:
            continue
        hp = steps.hp
        flops = step_flops(hp)
        mfu = [flops / seconds / PEAK_TFLOPS / 1e12 for seconds in found["step"]]
        gemm = [2 * size**3 / seconds for seconds in found["gemm"]]
        memory = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else 0.0
        rows += [Row(f"MFU ({label})", mfu, f"of {PEAK_TFLOPS} TFLOP/s", ">= 0.60" if not rows else ""),
                 Row("... of the GEMM peak in the same rounds",
                     ratios([flops / s for s in found["step"]], gemm), ""),
                 Row("... ms a step", [1e3 * s for s in found["step"]], "ms"),
                 Row("... tokens/s", [hp.batch_tokens / s for s in found["step"]], ""),
                 Row("... Muon, share of the step", [100 * m / 1e3 / s for m,
                                                     s in zip(muon_ms, found["step"])], "%",
                     "<= 2"),
                 Row("... most memory allocated", [memory], "GiB"),
                 Row("... first three steps, compiling", [warmup], "s")]
        raw[label] = {**found, "muon_ms": muon_ms, "gemm_flops": gemm, "memory_gib": memory,
                      "warmup_s": warmup}
    how = (f"The `fineweb` recipe on one GPU, {step_flops(GPT2_124M):.4g} operations a step: 6 a "
           "matrix weight and token (embedding not counted), 6 * seq_len * n_embd a layer and token for "
           f"causal attention. Two steps a round, the device waited for; bfloat16 products of {size} x "
           f"{size} in the same rounds. Muon is timed alone. Refused: "
           f"{', '.join(label for label, facts in raw.items() if 'error' in facts) or 'none'}.")
    return Result(rows, how, raw)


def same_bits(data: Path, device: torch.device, quick: bool) -> Result:
    """Return whether 20 steps give the same weights again: from the restored state, and behind a warm-up."""
    n = 3 if quick else STATE_STEPS
    rows, raw = [], {}
    for reduction in ("fast", "exact"):
        for deterministic in (False, True):
            label = f"{reduction}, {'deterministic' if deterministic else 'default'} kernels"
            torch.use_deterministic_algorithms(deterministic)
            try:
                raw[label] = digests(Steps(data, device, quick, reduction, 32, 131_072), n)
                first, again, warmed = raw[label]["digests"]
                rows += [Row(f"20 steps twice, same bits ({label})", [float(first == again)], "(1: yes)"),
                         Row("... behind warm-up and restoration, against the fresh start",
                             [float(first == warmed)],
                             "(1: yes)"),
                         Row("... largest difference of the losses", [raw[label]["largest"]], "nats"),
                         Row("... ms a step", [1e3 * raw[label]["seconds"] / n], "ms")]
            except RuntimeError as error:  # an operation without a deterministic kernel
                raw[label] = {"error": f"{type(error).__name__}: {error}".split("\n")[0]}
            finally:
                torch.use_deterministic_algorithms(False)
            free(device)
    errors = "; ".join(f"{label}: {facts['error']}" for label, facts in raw.items() if "error" in facts)
    how = (f"{n} steps of 131,072 tokens in passes of 32 sequences, compiled: from a fresh start; again "
           "after the harness's Snapshot put everything back; and after two steps on random tokens and "
           f"another restoration. Compared is the sha256 of all weights. Failed: {errors or 'none'}.")
    return Result(rows, how, raw)


def digests(steps: Steps, n: int) -> dict:
    """Return the weights' digests after n steps (fresh, restored, behind a warm-up), and the losses."""
    snapshot = Snapshot(steps.model, steps.optimizers)
    found, losses = [], []
    for warmup in (0, 0, 2):
        if found:
            steps.run(warmup, random=True)
            snapshot.put_back()
            steps.rewind()
        begin, curve = time.perf_counter(), []
        for _ in range(n):
            steps.run(1)
            curve.append(float(steps.loss))
        seconds = time.perf_counter() - begin
        found.append(steps.digest())
        losses.append(curve)
    steps.close()
    largest = max(abs(a - b) for curve in losses[1:] for a, b in zip(losses[0], curve))
    return {"digests": found, "losses": losses, "largest": largest, "seconds": seconds}


def add_row(project: Project, data: Path, piece: int, most: int, recipe: str = "fineweb") -> tuple[Path, int]:
    """Give the project a track on a folder's shards; return its validation shard and how many tokens."""
    [val, *_] = sorted(data.glob("*val*.bin"))
    val_tokens, own = min(most, check_shard(val) - 1) // piece * piece, data / "vocab.bpe"
    with open(project.folder / "harness" / "tracks.toml", "a") as f:
        f.write(ROW.format(recipe=recipe, val_tokens=val_tokens, val_piece=piece,
                           vocab_size=len(token_bytes(own)) if own.is_file() else 50257))
    return val, val_tokens


def on_one(data: Path, device: torch.device) -> list[str]:
    """Return the flags of a run of one rank on that track, however few its shards."""
    return ["--track=bench", f"--data={data}", f"--device={device.type}", "--nproc_per_node=1",
            "--epochs=1000"]


def curve(data: Path, device: torch.device, quick: bool) -> Result:
    """Return a real run through ./run.sh on the data given, in a copy of the project with a row for it."""
    n = 3 if quick else 400
    small = ["--n_layer=1", "--n_embd=64", "--n_head=1", "--seq_len=64", "--batch_tokens=512",
             "--micro_batch=2"]
    with Project() as project:
        val, val_tokens = add_row(project, data, *((64, 256) if quick else (16384, 10_485_760)))
        launch = project.run(*on_one(data, device), f"--num_iterations={n}",
                             f"--cooldown_iters={max(1, n // 4)}", f"--val_every={max(1, n // 16)}",
                             *(small if quick else []))
    found = launch.curve()
    rows = [Row(f"val_loss after step {at}", [loss], "nats") for _, loss, at in found]
    rows += [Row("training time of these steps", [found[-1][0]], "s"),
             Row("warm-up before them, untimed", [launch.end["warmup_ns"] / 1e9], "s")]
    how = (f"./run.sh with the recipe cut to {n} steps on the training shards of {data.name}, validated on "
           f"{val_tokens} tokens of {val.name}. Other text than FineWeb has other losses.")
    return Result(rows, how, {"curve": found, "end": launch.end})


def recipes(data: Path, device: torch.device, quick: bool) -> Result:
    """Return the speed of submissions/frontier.py, in its first stage, and of the 2024 recipe, in turns."""
    scripts = {"2024": "train_gpt2.py", "frontier": "submissions/frontier.py"}
    key, first, last, rounds = ("sample", 2, 4, 1) if quick else ("fineweb", 20, 60, 3)
    flags = [*on_one(data, device), f"--stop_at_step={last}", f"--val_every={first}"]
    with Project() as project:
        add_row(project, data, *((256, 1024) if quick else (16384, 65_536)), recipe=key)
        found = interleaved({name: lambda file=file: project.run(f"--script={project.folder / file}", *flags)
                             for name, file in scripts.items()}, rounds)
    rows, speed = [], {}
    for name, launches in found.items():
        script = load("GPT", "RECIPES", script=ROOT / scripts[name])
        with torch.device("meta"):
            active = active_parameters(script.GPT(script.RECIPES[key]))
        spans = [[next(val for val in launch.vals if val["step"] == at) for at in (first, last)]
                 for launch in launches]
        seconds = [(end["train_time_ns"] - begin["train_time_ns"]) / 1e9 for begin, end in spans]
        speed[name] = [(end["tokens"] - begin["tokens"]) / s for (begin, end), s in zip(spans, seconds)]
        memory = [launch.end.get("peak_memory_mib", 0) / 1024 for launch in launches]
        mfu = [6 * active * rate / PEAK_TFLOPS / 1e12 for rate in speed[name]]
        rows += [Row(f"{name}: ms a step", [1e3 * s / (last - first) for s in seconds], "ms"),
                 Row("... tokens/s", speed[name], ""),
                 Row("... MFU, products of weights alone", mfu, f"of {PEAK_TFLOPS} TFLOP/s"),
                 Row("... most memory allocated", memory, "GiB"),
                 Row("... warm-up, compiling", [launch.end["warmup_ns"] / 1e9 for launch in launches], "s")]
    rows.append(Row("tokens/s, frontier over 2024", ratios(speed["frontier"], speed["2024"]), "x"))
    how = (f"./run.sh, recipe `{key}` of both scripts, one rank, runs in turns that stop at step {last}, "
           f"measured from the validation at step {first} on. The frontier's first stage has batches of "
           "131,072 tokens, the 2024 recipe's have 524,288. Operations are 6 a token and active "
           "parameter, attention left out.")
    return Result(rows, how, {"tokens_per_s": speed})


PARTS = {"gpu_recipes": recipes, "gpu_attention": attention, "gpu_step": step, "gpu_same_bits": same_bits,
         "gpu_curve": curve}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter,
                                     epilog="example: ./bench/gpu.sh --device cpu --quick --data data/sample")
    parser.add_argument("--data", type=Path, default=ROOT / "data" / "fineweb10B",
                        help="folder of *train*.bin, *val*.bin")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="NAME",
                        help=", ".join(PARTS))
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that it runs")
    parser.add_argument("--results", type=Path, default=ROOT / "bench" / "results",
                        help="folder of the numbers")
    parser.add_argument("-o", "--output", type=Path, help="page to write; default docs/performance_gpu.md")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch finds no CUDA device; --device cpu --quick only shows that the script runs")
    output = options.output or (None if options.quick else ROOT / "docs" / "performance_gpu.md")
    with tempfile.TemporaryDirectory(prefix="bench_results_") as aside, process_group(options.device):
        results = Path(aside) if options.quick else options.results
        results.mkdir(parents=True, exist_ok=True)
        device = torch.device(options.device, 0 if options.device == "cuda" else None)
        for name in options.only:
            measure = functools.partial(PARTS[name], options.data.resolve(), device)
            (results / f"{name}.json").write_text(json.dumps(run_one(name, measure, options.quick),
                                                             indent=1) + "\n")
        files = [results / f"{name}.json" for name in PARTS]
        found = [json.loads(file.read_text()) for file in files if file.exists()]
    text = page(found, f"./bench/gpu.sh --data {options.data.name}")
    output.write_text(text) if output else print(text)


if __name__ == "__main__":
    main()
