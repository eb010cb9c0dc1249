"""Arms: a submission with some hyperparameters changed, run over seeds and widths through the harness.

An arm is written as a command: "submissions/frontier.py --pair_rows=0 --stage_candidates=(None,)"; beyond
what ./run.sh takes, a tuple may have another length.
"""
import ast
import dataclasses
import difflib
import math
import multiprocessing
import os
import shlex
import statistics
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from harness.environment import process_group
from harness.front.cores import physical_cores
from harness.parameters import active_parameters
from harness.plan import parse_flags, typed
from harness.reduce import ExactReducer
from harness.run import open_run
from harness.runlog import canonical, ROOT, sha256
from lab.models.submission import load
from lab.sweep.worker import from_root
from records.tools.read.log import Log, read_log
from records.tools.read.tracks import own_row

RECIPE = "sample"  # of a submission, by the name in its RECIPES
STEPS = ("extension", "untie_step", "cooldown_iters", "warmup_iters")  # fields that count steps
PLACES = {"momentum": (2, 3), "two_speed": (0,), "tail": (0,)}  # fields of which some places do
MADE = ("ok", "nonfinite")  # how a run ends that has a result


class Arm(NamedTuple):
    """A submission's script and what is changed of its recipe."""

    script: Path
    overrides: dict[str, Any]


class Planned(NamedTuple):
    """A run to be made: what a process needs for it, and where its log goes."""

    script: Path
    hp: dict[str, Any]
    seed: int
    track: str
    log: Path


def parse_arm(text: str) -> Arm:
    """Return the arm of its words. Raises ValueError where there is no such script or hyperparameter."""
    script, *flags = shlex.split(text) or [""]
    if not (path := ROOT / script).is_file():
        raise ValueError(f"{script!r}: no such file; an arm is a script and its flags, in one pair of quotes")
    recipe = getattr(loaded(path), "RECIPES", {}).get(RECIPE)
    if not dataclasses.is_dataclass(recipe):
        raise ValueError(f"{script}: no recipe {RECIPE!r} in its RECIPES; an arm is a submission")
    kinds = {field.name: str(field.type) for field in dataclasses.fields(recipe)}
    overrides = parse_flags(flags)
    for name in overrides.keys() - kinds.keys():
        close = difflib.get_close_matches(name, list(kinds), 1, 0)
        raise ValueError(f"{script}: unknown flag --{name}; the closest is --{close[0]}")
    return Arm(path, {name: value_of(name, text, getattr(recipe, name), kinds[name])
                      for name, text in overrides.items()})


def value_of(name: str, text: str, like: Any, kind: str) -> Any:
    """Return a flag's value as ./run.sh does, a tuple of any length or None where the recipe has one."""
    if like is not None and not isinstance(like, tuple):
        return typed(name, text, like, kind)
    try:
        return ast.literal_eval(text.capitalize() if text.lower() in ("true", "false", "none") else text)
    except (ValueError, SyntaxError):
        raise ValueError(f"--{name} {text}: expected {kind}") from None


@cache
def loaded(script: Path) -> ModuleType:
    """Return a submission as a module, the same each time."""
    return load(script)


def recipe_of(arm: Arm, width: int | None = None, steps: int | None = None) -> Any:
    """Return an arm's hyperparameters, at another width and for so many steps where these are given.

    Heads stay as many as the recipe has, so their size grows with the width; learning rates stay. What counts
    steps keeps its share of the run. One validation, at the end.
    """
    hp = dataclasses.replace(loaded(arm.script).RECIPES[RECIPE], **arm.overrides)
    steps = hp.num_iterations if steps is None else steps

    def at(step: int) -> int:
        return step and max(1, round(step * steps / hp.num_iterations))
    moved = {name: at(getattr(hp, name)) for name in STEPS if hasattr(hp, name)}
    for name, places in PLACES.items():
        if value := getattr(hp, name, None):
            moved[name] = tuple(at(one) if i in places else one for i, one in enumerate(value))
    if stages := getattr(hp, "batch_stages", None):
        moved["batch_stages"] = tuple((at(first), tokens) for first, tokens in stages)
    width = hp.n_embd if width is None else width
    return dataclasses.replace(hp, n_embd=width, num_iterations=steps, val_every=steps, **moved)


def active(arm: Arm, width: int) -> int:
    """Return how many parameters of an arm's model take part in products."""
    return active_parameters(loaded(arm.script).GPT(recipe_of(arm, width)))


def study_command(name: str, words: Sequence[str], asked: Mapping[str, Any]) -> str:
    """Return the command of a study with the words and flags that it was given."""
    flags = {key: value if isinstance(value, (list, tuple)) else [value] for key, value in asked.items()}
    return shlex.join(["python", "-m", "lab", name, *words, *(str(word) for key, values in flags.items()
                                                              for word in (f"--{key}", *values))])


# ---------------------------------------------------------------------------------------------------
# runs


def plan(arm: Arm, seed: int, track: str, folder: Path, width: int | None = None,
         steps: int | None = None) -> Planned:
    """Return the run of an arm; its log's name follows from script, recipe, seed and track."""
    hp = dataclasses.asdict(recipe_of(arm, width, steps))
    what = {"script": sha256(arm.script.read_bytes()), "hp": hp, "seed": seed, "track": track}
    name = f"{arm.script.stem}_{sha256(canonical(what).encode())[:16]}.txt"
    return Planned(arm.script, hp, seed, track, folder / name)


def losses(planned: Mapping[Any, Planned], jobs: int | None) -> dict[Any, float]:
    """Make the runs that have no log with a result yet; return final losses by key, inf where one diverged.

    Raises ValueError where there is no such track, or a run failed: a study with holes would choose by what
    happened to work.
    """
    for track in {run.track for run in planned.values()}:
        own_row(track)
    waiting = list({run.log: run for run in planned.values() if not made(run.log)}.values())
    if waiting:
        print(f"{len(planned)} runs, {len(waiting)} to make", file=sys.stderr)
        waiting[0].log.parent.mkdir(parents=True, exist_ok=True)
        with ProcessPoolExecutor(jobs or physical_cores(), multiprocessing.get_context("forkserver"),
                                 start_worker) as pool:
            try:
                for run, words in zip(waiting, pool.map(train, waiting)):
                    print(f"{from_root(run.log)}: {words}", file=sys.stderr, flush=True)
            except BrokenProcessPool:
                raise ValueError("a run's process died, as without memory; take fewer --jobs") from None
            except BaseException:  # Ctrl-C too: without this the pool would make all runs first
                pool.shutdown(wait=False, cancel_futures=True)
                for worker in multiprocessing.active_children():
                    worker.terminate()
                raise
    return {key: final(run.log) for key, run in planned.items()}


def made(path: Path) -> Log | None:
    """Return the log of a run that has a result: a loss, or that it was no number; else None."""
    log = read_log(path) if path.is_file() else None
    return log if log and log.status in MADE else None


def final(path: Path) -> float:
    """Return a run's final val loss, inf where it diverged. Raises ValueError where it has none."""
    if not (log := made(path)):
        raise ValueError(f"{from_root(path)}: no result; what the run said is in "
                         f"{from_root(path.with_suffix('.out'))}; mend that and start again")
    return log.vals[-1].val_loss if log.status == "ok" else math.inf


def train(planned: Planned) -> str:
    """Make one run in this process; put its log in place; return its loss in words."""
    flags = [f"--track={planned.track}", f"--seed={planned.seed}", "--device=cpu", "--weights=false",
             "--note=an arm of a study: its recipe is not the script's own"]
    runs: list[Any] = []
    with open(planned.log.with_suffix(".out"), "w", buffering=1) as out, redirect_stdout(out), \
            redirect_stderr(out):
        module = loaded(planned.script)
        recipes = dict.fromkeys((RECIPE, "lab"), type(module.RECIPES[RECIPE])(**planned.hp))

        @contextmanager
        def opened(script: str, _: Any) -> Iterator[Any]:
            with open_run(script, recipes, flags) as run:
                runs.append(run)
                yield run
        module.open_run = opened
        try:
            module.main()
        except (Exception, SystemExit):  # a stranger's script may raise anything
            traceback.print_exc(file=out)
    if not runs or not runs[0].log_path:
        return "no log"
    os.replace(runs[0].log_path, planned.log)
    return f"{runs[0].result.get('val_loss', math.nan):.4f}"


def start_worker() -> None:
    """Let this process hear no Ctrl-C, and leave when the one that wants its runs is gone."""
    def wait() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)
    os.setsid()
    threading.Thread(target=wait, daemon=True).start()


# ---------------------------------------------------------------------------------------------------
# times


class Timed:
    """What a submission's main() asks of a run, for the time of its steps: random tokens, nothing logged."""

    def __init__(self, hp: Any, steps: int):
        import torch
        self.torch, self.hp, self.count, self.cpu_ns = torch, hp, steps, []
        self.rank, self.world_size, self.seed, self.device = 0, 1, 0, torch.device("cpu")

    def steps(self, model: Any, optimizers: list, warmup: Any = None) -> Iterator[int]:
        """Yield the first steps, of which the very first is not timed; the track's exact reduction is in."""
        self.reducer = ExactReducer(model, model)
        for step in range(self.count + 1):
            begin = time.process_time_ns()
            yield step
            self.cpu_ns += [time.process_time_ns() - begin] * (step > 0)

    def take(self, n: int) -> Any:
        """Return n random tokens and the one that follows."""
        return self.torch.randint(self.hp.vocab_size, (n + 1,))

    def batch_tokens(self, step: int) -> int:
        """Return the tokens of a step."""
        return self.hp.batch_tokens

    def generator(self, step: int) -> Any:
        """Return a step's random numbers."""
        return self.torch.Generator().manual_seed(step)

    def accumulate(self, loss_sum: Callable, x: Any, y: Any, plain: bool = True,
                   tokens: int | None = None, reduce: bool = True) -> Any:
        """Set every gradient, as the harness does."""
        rows = self.hp.micro_batch
        return self.reducer(loss_sum, list(zip(x.split(rows), y.split(rows))), tokens, reduce)

    def compile(self, function: Callable, **_: Any) -> Callable:
        """Return the function itself."""
        return function

    def log(self, **_: Any) -> None:
        """Log nothing."""


def step_ms(arms: Sequence[Arm], steps: int, rounds: int = 5, each: int = 4) -> list[list[float]]:
    """Return each arm's processor time of a step in each round, in ms: rounds of all arms in turns.

    steps: of the runs that are meant. The median over a round's steps, on one thread of this process.
    """
    found: list[list[float]] = [[] for _ in arms]
    with process_group("cpu"):
        for _ in range(rounds):
            for arm, times in zip(arms, found):
                timed, module = Timed(recipe_of(arm, None, steps), each), loaded(arm.script)
                module.open_run = lambda *_, timed=timed: nullcontext(timed)
                module.main()
                times.append(statistics.median(timed.cpu_ns) / 1e6)
    return found
