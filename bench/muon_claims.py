"""The reference's claims for Muon: about 1.5 times faster, less state than Adam, under 2 % overhead."""
import dataclasses

from bench.counts import GPT2_124M, newton_schulz_flops, state_bytes, step_flops
from bench.gemm_share import TINY as TINY_MODEL
from bench.project import TINY, Project, crossing
from bench.ranks import training_ranks
from bench.rounds import Result, Row
from bench.submission import load
from bench.time_to_loss import DEFAULT, default_curve

LRS = (0.003, 0.006, 0.012)


def tuned(project: Project, steps: int, quick: bool) -> tuple[float, dict[float, float]]:
    """Return AdamW's best learning rate and all final losses, from runs of a third of the steps.

    Where the best one lies at the edge of those tried, the next one beyond is tried too, once.
    """
    losses: dict[float, float] = {}
    n = 2 if quick else steps // 3
    flags = [*(TINY if quick else []), f"--num_iterations={n}", f"--cooldown_iters={n}", f"--val_every={n}"]

    def attempt(lr: float) -> None:
        losses[lr] = project.run(script(project), f"--matrix_lr={lr}", *flags).curve()[-1][1]

    for lr in LRS[:2] if quick else LRS:
        attempt(lr)
    best = min(losses, key=losses.get)
    if not quick and best in (min(losses), max(losses)):
        attempt(best / 2 if best == min(losses) else best * 2)
    return min(losses, key=losses.get), losses


def script(project: Project) -> str:
    """Return the flag that runs the variant."""
    return f"--script={project.folder / 'submissions' / 'adamw_matrices.py'}"


def measure(quick: bool) -> Result:
    """Return Muon's gain in steps and in time, its state, its overhead."""
    laptop = load("RECIPES", "Muon").RECIPES["sample"]
    with Project() as project:
        muon = default_curve(project, quick)
        lr, losses = tuned(project, laptop.num_iterations, quick)
        flags = [*TINY, "--cooldown_iters=4"] if quick else DEFAULT
        adamw = project.run(script(project), f"--matrix_lr={lr}", *flags).curve()
    crossed = crossing(muon, adamw[-1][1])
    gains = (adamw[-1][2] / crossed[1], adamw[-1][0] / crossed[0]) if crossed else (0.0, 0.0)
    state, overhead = state_bytes(GPT2_124M), newton_schulz_flops(GPT2_124M) / step_flops(GPT2_124M)
    with training_ranks(2, TINY_MODEL if quick else {}) as ranks:
        ranks.ask("steps", 3)
        answers = [ranks.ask("steps", 2 if quick else 10)[0] for _ in range(2 if quick else 5)]
    rows = [Row("Muon against AdamW: steps to AdamW's final loss", [gains[0]], "x fewer", ">= 1.5"),
            Row("Muon against AdamW: time to AdamW's final loss", [gains[1]], "x less", ">= 1.5"),
            Row("final loss: Muon", [muon[-1][1]], "nats"),
            Row(f"final loss: AdamW, matrix learning rate {lr}", [adamw[-1][1]], "nats"),
            Row("state of the matrices, Muon over Adam (counted)", [state["muon"] / state["adam"]], "",
                "<= 0.99"),
            Row("Newton-Schulz, share of a step's operations at 124M and 524,288 tokens (counted)",
                [100 * overhead], "%", "<= 2"),
            Row("... at laptop size (counted)", [100 * newton_schulz_flops(laptop) / step_flops(laptop)], "%",
                "<= 2"),
            Row("Muon's share of the step's time at laptop size, two ranks",
                [100 * answer["Muon"] / answer["ns"] for answer in answers], "%", "<= 2")]
    how = ("The model and schedule of `sample`, once with Muon and once with AdamW (betas "
           f"{laptop.adam_betas}, no decay) for the blocks' matrices, through the same harness, one seed; "
           f"AdamW's learning rate was taken from {', '.join(f'{k}: {v:.4f}' for k, v in losses.items())} "
           "nats in runs of a third of the length; embedding and head keep their own Adam. Both then run in "
           "full, and Muon's curve is read where it meets AdamW's final loss. State: one float32 buffer a "
           "weight against two. Operations: 5 x (4 m^2 n + 2 m^3) for each m x n matrix over the model's "
           "of a step. Muon's time includes what it waits for the other rank.")
    return Result(rows, how, {"muon": muon, "adamw": adamw, "tuning": {str(k): v for k, v in losses.items()},
                              "parts_ns": answers, "state_bytes_124m": state,
                              "recipe": dataclasses.asdict(laptop)})
