"""How long the default run takes to the loss that nanoGPT's CPU recipe reaches in 180 s on the same text."""
import json
import os
import subprocess
import sys

from bench.project import TINY, Project, crossing
from bench.rounds import ROOT, Result, Row

DEFAULT = ["--val_every=50"]  # off the clock
_curves: dict[bool, list] = {}


def default_curve(project: Project, quick: bool) -> list[tuple[float, float, int]]:
    """Return the validation curve of the default run, made once a process."""
    if quick not in _curves:
        _curves[quick] = project.run(*(TINY + ["--cooldown_iters=4"] if quick else DEFAULT)).curve()
    return _curves[quick]


def nanogpt_curve(seconds: float, val_tokens: int | None) -> list[dict[str, float]]:
    """Return what nanogpt_recipe.py prints, run on its own with torch's defaults."""
    command = [sys.executable, str(ROOT / "bench" / "nanogpt_recipe.py"), str(seconds)]
    command += [str(val_tokens)] if val_tokens else []
    print(f"+ {' '.join(command[1:])}", file=sys.stderr, flush=True)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "MALLOC_"))}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return [json.loads(line) for line in done.stdout.splitlines()]


def measure(quick: bool) -> Result:
    """Return the share of nanoGPT's time after which our loss is below its final one."""
    seconds, val_tokens = (2.0, 4096) if quick else (180.0, None)
    with Project() as project:
        ours = default_curve(project, quick)
        peer = nanogpt_curve(seconds, val_tokens)
        target, needed = peer[-1]["val_loss"], peer[-1]["seconds"]
        crossed = crossing(ours, target)
        raw = {"nanogpt": peer, "default": ours}
        share = crossed[0] / needed if crossed else float("inf")
        rows = [Row("time to nanoGPT's loss after 180 s, as a share of its time", [share], "", "<= 0.1"),
                Row("nanoGPT's loss after that time", [target], "nats"),
                Row("... its steps", [peer[-1]["steps"]], "")]
        if crossed:
            rows.append(Row("the default run's training time to that loss", [crossed[0]], "s"))
        short = [] if quick or not crossed else shorter_schedules(project, crossed[1], target)
        if short:
            best = min(short, key=lambda run: run["seconds"] if run["val_loss"] <= target else float("inf"))
            if best["val_loss"] <= target:
                rows.append(Row(f"... with the schedule cut to {best['steps']} steps, as a share",
                                [best["seconds"] / needed],
                                "", "<= 0.1"))
    how = ("Both on all cores of this machine, one after the other, one seed each: nanoGPT's recipe (one "
           f"process, float32, eager, its cosine ending with the {seconds:.0f} s; "
           "bench/nanogpt_recipe.py), evaluated at its own context of 64, and `./run.sh "
           f"{' '.join(DEFAULT)}`. The same training text, vocabulary and validation tokens; validation "
           "counts for neither. The loss between two validations is taken as linear. Also tried: the same "
           "recipe with fewer steps, so that its learning rate is already down when it meets that loss.")
    return Result(rows, how, {**raw, "shorter": short})


def shorter_schedules(project: Project, steps: float, target: float) -> list[dict[str, float]]:
    """Return final loss and time of the recipe cut to fewer and fewer of the steps that met the target."""
    found = []
    for part in (0.8, 0.65, 0.5):
        n = max(1, round(steps * part / 5) * 5)
        seconds, loss, _ = project.run(f"--num_iterations={n}", f"--cooldown_iters={n}",
                                       f"--val_every={n}").curve()[-1]
        found.append({"steps": n, "seconds": seconds, "val_loss": loss})
        if loss > target:
            break
    return found
