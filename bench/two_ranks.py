"""What a second rank brings: tokens a second of two ranks of one thread over one rank of one thread."""
from bench.gemm_share import SHAPES, TINY
from bench.ranks import Ranks, sample_recipe, training_ranks
from bench.rounds import Result, Row, interleaved, ratios


def measure(quick: bool) -> Result:
    """Return the gain of two ranks in a step, and in a product of matrices without any communication."""
    rounds, k, seconds = (2, 2, 0.01) if quick else (7, 8, 0.2)
    overrides = TINY if quick else {}
    tokens = sample_recipe(overrides).batch_tokens
    with training_ranks(1, overrides) as one, training_ranks(2, overrides) as two:

        cpu: dict[Ranks, list[tuple[float, ...]]] = {one: [], two: []}

        def tokens_per_s(ranks: Ranks) -> float:
            answers = ranks.ask("steps", k)
            cpu[ranks].append(tuple(max(answer[name] for answer in answers) / k / 1e6
                                    for name in ("cpu", "over_ranks_cpu", "step_cpu")))
            return tokens * k * 1e9 / max(answer["ns"] for answer in answers)

        def gflops(ranks: Ranks) -> float:
            answers = ranks.ask("gemm", SHAPES[:1] + SHAPES[3:4], None, seconds)
            return sum(max(rank.values()) for rank in answers)

        for ranks in (one, two):
            ranks.ask("steps", 3)
        found = interleaved({"one": lambda: tokens_per_s(one), "two": lambda: tokens_per_s(two),
                             "gemm_one": lambda: gflops(one), "gemm_two": lambda: gflops(two)}, rounds)
    rows = [Row("two ranks over one, tokens/s", ratios(found["two"], found["one"]), "x", ">= 1.9"),
            Row("... the same for matrix products alone: the hardware's ceiling",
                ratios(found["gemm_two"], found["gemm_one"]), "x"),
            Row("tokens/s, one rank", found["one"], ""), Row("tokens/s, two ranks", found["two"], ""),
            Row("CPU time of one rank over that of each of two: the gain if none waited",
                ratios([a[0] for a in cpu[one]], [b[0] for b in cpu[two]]), "x")]
    for name, i in (("CPU time of a step", 0), ("... of it summing gradients over ranks", 1),
                    ("... of it the optimizers, gathers included", 2)):
        rows += [Row(f"{name}, one rank", [a[i] for a in cpu[one]], "ms"),
                 Row(f"{name}, each of two", [b[i] for b in cpu[two]], "ms")]
    how = (f"A group of one rank and a group of two, all of one thread, take turns: {k} steps each a "
           "round, in changing order; the group that waits sleeps. The ceiling is two processes "
           "multiplying 512x512 and 1024x128x512 matrices at once, over one: two virtual CPUs that share "
           "a core stay far below 2. CPU time is the slower rank's, gloo's threads included; it says what "
           "stands in the way of 2, also where other work keeps the ranks waiting: what both do in full "
           "(half of Muon's matrices each, but all updates) and the sockets of gloo, through which every "
           "gradient goes; torch has no shared memory for it.")
    return Result(rows, how, found)
