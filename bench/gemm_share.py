"""Which share of the machine's float32 matrix product the default run's step reaches."""
from bench.counts import step_flops
from bench.ranks import sample_recipe, training_ranks
from bench.rounds import Result, Row, interleaved, ratios
from harness.front.cores import physical_cores

# squares that fit the caches and do not, and the model's own tall ones
SHAPES = [(512, 512, 512), (1024, 1024, 1024), (2048, 2048, 2048), (1024, 128, 512), (1024, 512, 128),
          (2048, 128, 512)]
TINY = {"n_layer": 1, "n_embd": 32, "vocab_size": 257, "seq_len": 16, "batch_tokens": 256}


def measure(quick: bool) -> Result:
    """Return the share of the GEMM peak of the same ranks in the same rounds."""
    rounds, k, seconds, shapes = (2, 2, 0.01, SHAPES[:1]) if quick else (7, 10, 0.15, SHAPES)
    overrides = TINY if quick else {}
    flops = step_flops(sample_recipe(overrides))
    n = 1 << (min(8, physical_cores()).bit_length() - 1)

    def peak(precision: str | None) -> tuple[float, str]:
        by_rank = ranks.ask("gemm", shapes, precision, seconds)
        return max((sum(rank[shape] for rank in by_rank), shape) for shape in by_rank[0])

    with training_ranks(n, overrides) as ranks:
        ranks.ask("steps", 3)
        found = interleaved({
            "step": lambda: flops * k / max(answer["ns"] for answer in ranks.ask("steps", k)),
            "peak": lambda: peak(None), "onednn": lambda: peak("medium"),
            "mkl": lambda: peak("highest")}, rounds)
    best = {name: [gflops for gflops, _ in found[name]] for name in ("peak", "onednn", "mkl")}
    rows = [Row("share of the float32 GEMM peak, default step", ratios(found["step"], best["peak"]), "",
                ">= 0.60"),
            Row("model GFLOP/s of the default step", found["step"], "GFLOP/s"),
            Row("float32 GEMM peak, the route the run takes", best["peak"], "GFLOP/s"),
            Row("... torch's route 'highest' (MKL)", best["mkl"], "GFLOP/s"),
            Row("... torch's route 'medium' (oneDNN; bfloat16 products where the CPU has AMX)",
                best["onednn"], "GFLOP/s")]
    how = (f"{n} ranks of one thread train the `sample` recipe by its own loop, {k} steps a round, and "
           f"multiply matrices in the same rounds, all ranks at once. Operations of a step: {flops:.4g}, "
           "that is 6 a matrix weight and token (embedding not counted) and 6 * seq_len * n_embd a layer "
           "and token for causal attention; Newton-Schulz is not counted. Peak: the best shape of "
           f"{', '.join('x'.join(map(str, shape)) for shape in shapes)}, best repetition, summed over "
           "ranks.")
    return Result(rows, how, {"ranks": n, "flops": flops, "steps_a_round": k, **found})
