"""lab meta-train: weights for small_fc by evolution strategies, on tiny language models.

Antithetic pairs, one noise for a whole trajectory (NRES, Li et al. 2023, https://arxiv.org/abs/2304.12180).
The network is odd: its step changes sign with the gradient and its momenta, so what has no gradient does not
move. That is a tie between the numbers of an ordinary file: hidden units come in pairs, of which the second
sees these features with the other sign.
"""
import argparse
import contextlib
import hashlib
import io
import json
import math
import multiprocessing
import pickle
import os
import statistics
import sys
from collections.abc import Generator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from harness.runlog import ROOT
from lab.optimizers import small_fc
from lab.optimizers.learned import features, weights
from lab.recipe.schedule import cosine
from lab.recipe.schema import Curve
from lab.studies import population
from lab.studies.population import HELD_OUT, Population, Task, TASKS
from lab.sweep.worker import from_root
from records.tools.read.values import write_whole

HORIZONS = ((80, 400), (200, 1000))  # steps of a training, in the first and second half of the updates
PROCESSES, SIGMA, RATE, AVERAGE = 2, 0.02, 0.003, 0.98
SIGNED = (0, 2, 3, 4, 6, 7, 8, 10, 11, 12, 25, 26, 27)  # features that change sign with the gradient
PIECES = {"first": (16, 39), "bias": (16,), "same": (16, 16), "other": (16, 16), "hidden": (16,),
          "last": (16,), "decays": (7,)}
SCALES = {"last": 5.0, "decays": 0.5}


class Size(NamedTuple):
    """What a training is made of."""

    rounds: int  # a checkpoint after each; at full size a minute or two on two cores
    updates: int  # in a round, each from an unroll in every process
    pairs: int
    unroll: int  # steps
    lengths: dict[int, int]  # of held-out runs, one in each process: steps -> seeds


FULL, QUICK = Size(24, 50, 8, 20, {200: 3, 600: 1}), Size(2, 3, 1, 2, {4: 1, 6: 1})


def start() -> dict[str, Tensor]:
    """Return the pieces of dir = 5 (m / rms + m / rms of rows and columns) / 2, normalised.

    The other hidden units are random, and not used.
    """
    draw = torch.Generator().manual_seed(0)
    pieces = {name: torch.zeros(shape) for name, shape in PIECES.items()}
    for name, fan_in in (("first", 39), ("same", 32), ("other", 32)):
        pieces[name] = torch.randn(PIECES[name], generator=draw) / math.sqrt(fan_in)
        pieces[name][:2] = 0
    pieces["first"][[0, 1], [6, 25]] = pieces["same"][[0, 1], [0, 1]] = 1
    pieces["last"][:2] = 2.5
    return pieces


def odd(shift: Tensor) -> dict[str, Tensor]:
    """Return weights of small_fc, (..., *shape), from shifts of the start's pieces, (..., numbers)."""
    parts = shift.split([math.prod(shape) for shape in PIECES.values()], -1)
    first, bias, same, other, hidden, last, decays = (
        begin + SCALES.get(name, 1.0) * part.unflatten(-1, begin.shape)
        for (name, begin), part in zip(start().items(), parts))
    sign = torch.ones(39)
    sign[list(SIGNED)] = -1
    rows = torch.cat([same, other], -1), torch.cat([other, same], -1)
    step = torch.cat([last, -last], -1)
    momentum, rms, factors = decays.clamp(-0.07, 0.15).split([3, 1, 3], -1)  # of 0.999 at most 0.9995
    return {"network.input.weight": torch.cat([first, first * sign], -2),
            "network.input.bias": torch.cat([bias, bias], -1),
            "network.linear_0.weight": torch.cat(rows, -2),
            "network.linear_0.bias": torch.cat([hidden, hidden], -1),
            "network.output.weight": torch.stack([step, torch.zeros_like(step)], -2),
            "network.output.bias": torch.zeros_like(step[..., :2]),
            "momentum_decays": momentum, "rms_decays": rms, "adafactor_decays": factors}


def trajectories(task: Task, seed: int, size: Size) -> Generator:
    """Yield the gradient of a task's loss by the shift, an estimate, and the loss, after each unroll.

    Send it shift and progress. A step's loss counts 2 t / horizon. Each horizon has new noise and models.
    """
    text, draw = task.tokens("train"), torch.Generator().manual_seed(seed)
    worst = 2 * math.log(task.model["vocab_size"])
    shift, progress = yield
    while True:
        least, most = HORIZONS[progress >= 0.5]
        a, b = torch.rand(2, generator=draw).tolist()
        horizon = round(least * (most / least)**a)
        curve = Curve(kind="cosine" if b < 0.6 else "constant", warmup_frac=0.05, final=0.1)
        noise = torch.randn(size.pairs, len(shift), generator=draw)
        seeds = torch.randint(2**31, (size.pairs,), generator=draw).tolist()
        models = Population(task, text, seeds * 2, horizon, curve)
        while models.taken < horizon:
            net, total = odd(shift + SIGMA * torch.cat([noise, -noise])), torch.zeros(2 * size.pairs)
            for _ in range(min(size.unroll, horizon - models.taken)):
                losses = models.step(net).nan_to_num(worst).clamp(max=worst)
                total += losses * 2 * models.taken / horizon / size.unroll
            difference = (total[:size.pairs] - total[size.pairs:]) / (2 * SIGMA * size.pairs)
            shift, progress = yield difference @ noise, losses.mean().item()


def held_out(shift: Tensor, steps: int, seeds: int) -> float:
    """Return the held-out task's loss on unseen documents after some steps, a mean over seeds."""
    curve = Curve(kind="cosine", warmup_frac=0.05, final=0.1)
    models = Population(HELD_OUT, HELD_OUT.tokens("train"), range(seeds), steps, curve)
    net, length = odd(shift.expand(seeds, -1)), HELD_OUT.seq_len + 1
    for _ in range(steps):
        models.step(net)
    with torch.no_grad():
        text = HELD_OUT.tokens("val")[:512 * length].view(1, -1, length)
        return models.losses(text.expand(seeds, -1, -1)).mean().item()


def work(pipe: Connection, seed: int, size: Size) -> None:
    """Answer requests until nobody holds the other end: (place of a task, shift, progress), or held_out's."""
    os.setsid()  # Ctrl-C is for the one that asks
    torch.set_num_threads(1)
    running: dict[int, Generator] = {}
    with contextlib.suppress(EOFError, BrokenPipeError):  # it is gone
        while True:
            what, *rest = pipe.recv()
            if what == "held_out":
                pipe.send(held_out(*rest))
                continue
            if what not in running:
                running[what] = trajectories(TASKS[what], seed + what, size)
                next(running[what])
            pipe.send(running[what].send(rest))


def ask(pipes: Sequence[Connection], requests: Sequence[tuple]) -> list:
    """Return the answers to a request for each process. Raises OSError where one has died."""
    try:
        for pipe, request in zip(pipes, requests, strict=True):
            pipe.send(request)
        return [pipe.recv() for pipe in pipes]
    except (EOFError, ConnectionError):
        raise OSError("a process of the training died, it says above of what; the same command goes on from "
                      "the last checkpoint") from None


def crew(seed: int, size: Size) -> list[Connection]:
    """Start the processes, which end with this one; return the pipes to them."""
    pipes, context = [], multiprocessing.get_context("spawn")
    for _ in range(PROCESSES):
        ours, theirs = context.Pipe()
        context.Process(target=work, args=(theirs, seed, size), daemon=True).start()
        theirs.close()
        pipes.append(ours)
    return pipes


def meta_train(folder: Path, seed: int, size: Size) -> list[dict]:
    """Train from the folder's checkpoint on, which each round replaces; return a row for each round.

    Of the shifts' running means the best on the held-out task, over all lengths, is small_fc.safetensors, and
    small_fc.json says what made it. Rate and horizons follow from the number of rounds, to which more may be
    added. Raises ValueError for a folder that has another training.
    """
    path, shift = folder / "checkpoint.pt", torch.zeros(sum(map(math.prod, PIECES.values())))
    shift.requires_grad_()
    adam, mean, rows = torch.optim.Adam([shift], betas=(0.9, 0.99)), shift.detach().clone(), []
    made = {"command": f"python -m lab meta-train --seed {seed}", "size": list(size[1:])}
    if path.is_file():
        try:
            kept = torch.load(path)
        except (pickle.UnpicklingError, RuntimeError, EOFError):
            raise ValueError(f"{path}: no checkpoint that can be read; delete it to begin anew") from None
        if kept["made"] != made:
            raise ValueError(f"{folder}: found the training of {kept['made']}, expected {made}; give another "
                             f"--out")
        shift.data, mean, rows = kept["shift"], kept["mean"], kept["rows"]
        adam.load_state_dict(kept["adam"])
    total = size.rounds * size.updates
    pipes = crew(10**6 * seed + 1000 * len(rows), size)  # trajectories of a resumed training are new
    bar = tqdm(total=total, initial=max(0, len(rows) - 1) * size.updates, unit="update")
    for done in range(len(rows), size.rounds + 1):
        losses: dict[str, list[float]] = {}
        for update in range((done - 1) * size.updates, done * size.updates) if done else ():
            places = [(update * PROCESSES + i) % len(TASKS) for i in range(PROCESSES)]
            answers = ask(pipes, [(place, shift.detach(), update / total) for place in places])
            for place, (_, loss) in zip(places, answers):
                losses.setdefault(TASKS[place].name, []).append(loss)
            shift.grad = sum(gradient for gradient, _ in answers) / PROCESSES
            adam.param_groups[0]["lr"] = cosine(update, 0.0, RATE, 0, total)
            adam.step()
            mean.lerp_(shift.detach(), 1 - AVERAGE)
            bar.update()
        scores = ask(pipes, [("held_out", mean, steps, seeds) for steps, seeds in size.lengths.items()])
        rows.append({"updates": done * size.updates, "of": total,
                     "held_out": [round(loss, 4) for loss in scores],
                     "decays": [[round(x, 6) for x in one.tolist()] for one in small_fc.decays(odd(mean))],
                     "losses": {name: round(statistics.fmean(found), 4) for name, found in losses.items()}})
        bar.set_postfix_str("held out " + " ".join(f"{loss:.4f}" for loss in scores))
        if rows[-1] is min(rows, key=lambda row: sum(row["held_out"])):
            keep(folder, odd(mean), {**made, "rounds": size.rounds, "updates": done * size.updates}, rows)
        buffer = io.BytesIO()
        torch.save({"made": made, "shift": shift.detach(), "mean": mean, "rows": rows,
                    "adam": adam.state_dict()}, buffer)
        write_whole(path, buffer.getvalue())
    return rows


def keep(folder: Path, tensors: dict[str, Tensor], made: dict, rows: list[dict]) -> None:
    """Write the weights, and beside them what made them."""
    sources = [Path(module.__file__) for module in (sys.modules[__name__], population, small_fc, features)]
    lines = {"sha256": weights.save(folder / "small_fc.safetensors", tensors), **made,
             "torch": torch.__version__, "tasks": [task._asdict() for task in TASKS],
             "held_out": HELD_OUT._asdict(), "horizons": HORIZONS, "processes": PROCESSES, "sigma": SIGMA,
             "rate": RATE, "average": AVERAGE, "sources": {
                 from_root(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in sources}}
    head = ",\n".join(f" {json.dumps(key)}: {json.dumps(value)}" for key, value in lines.items())
    log = ",\n".join(f"  {json.dumps(row)}" for row in rows)
    write_whole(folder / "small_fc.json", f'{{\n{head},\n "log": [\n{log}\n ]\n}}\n')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of lab meta-train."""
    parser.add_argument("--seed", type=int, default=0, help="of noise, models and batches")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: lab/sweeps/meta_train; a training "
                        "that is there goes on")
    parser.add_argument("--rounds", type=int, metavar="N", help=f"of {FULL.updates} updates, a "
                        f"minute or two on two cores; default: {FULL.rounds}, with --quick {QUICK.rounds}")
    parser.add_argument("--quick", action="store_true", help="at a toy size: the weights mean nothing")
    parser.epilog = "example: python -m lab meta-train --quick"


def main(arguments: argparse.Namespace) -> int:
    """Train, or what is left of it; print the best round's losses and where its weights lie."""
    size = QUICK if arguments.quick else FULL
    size = size if arguments.rounds is None else size._replace(rounds=arguments.rounds)
    if size.rounds < 1:
        raise ValueError(f"--rounds {arguments.rounds}: expected at least 1")
    folder = arguments.out or ROOT / "lab" / "sweeps" / f"{'quick_' * arguments.quick}meta_train"
    rows = meta_train(folder, arguments.seed, size)
    best = min(rows, key=lambda row: sum(row["held_out"]))
    for steps, first, loss in zip(size.lengths, rows[0]["held_out"], best["held_out"]):
        print(f"held out, {steps} steps: {first:.4f} at the start, {loss:.4f} after {best['updates']}")
    print(f"+ --override optimizer.weights {from_root(folder / 'small_fc')}")
    return 0
