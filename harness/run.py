"""A run, from the referee's side: open it, take its tokens, let it reduce gradients and yield the steps.

    with open_run(__file__, RECIPES) as run:
        for step in run.steps(model, optimizers):
            tokens = run.take(hp.batch_tokens)
            run.accumulate(loss_sum, tokens[:-1].view(-1, hp.seq_len), tokens[1:].view(-1, hp.seq_len))
"""
import contextlib
import hashlib
import inspect
import math
import os
import shlex
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from harness import checkpoint, environment, weights
from harness.checkpoint import Snapshot
from harness.clock import Clock, host_clocks
from harness.endings import BadInput, Endings, NonFinite, refuse
from harness.parameters import count
from harness.plan import Plan, make_plan, stages
from harness.reduce import REDUCERS, LossSum
from harness.report import Report
from harness.runlog import loaded_files, read_source
from harness.shards import write_atomically
from harness.tokens import TokenStream
from harness.tripwires import HarnessWatch, Tripwire, WatchedEnvironment
from harness.validate import Validation

WARMUP_STEPS = 2


class Run:
    """One training run. Its public attributes and methods are all that a submission needs of the harness."""

    def __init__(self, plan: Plan, script: Path, argv: list[str], process: dict[str, int]):
        self.hp, self.track, self.seed = plan.hp, plan.track, plan.options.seed
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        local_rank = int(os.environ.get("LOCAL_RANK", 0))
        self.device = torch.device("cuda", local_rank) if plan.device == "cuda" else torch.device("cpu")
        self.status, self.log_path = "stopped", None
        self._plan, self._opened = plan, (plan, script, argv, self.device, process)
        self._clock, self._log, self._report = Clock(self.device), None, None
        self._opening = threading.Lock()  # a signal may end the run while its log is opened
        self._watch = HarnessWatch([m for name, m in sys.modules.items() if name.startswith("harness.")])
        self.result: dict[str, Any] = {}  # of the last validation; the end line has it
        self._first_step, self._taken, self._warming, self._scalars, self._reduced = 0, 0, False, {}, True
        self._generator = torch.Generator().manual_seed(int.from_bytes(os.urandom(7), "little"))

    # what a submission calls

    def compile(self, function: Callable, fullgraph: bool = False,
                recompile_limit: int | None = None) -> Callable:
        """Return torch.compile(function), or the function itself where the run does not compile.

        recompile_limit: how many graphs it may have; torch's is 8, what follows runs uncompiled, or fails
        with fullgraph. It is this function's own: the setting of that name stays as it is, as a record must.
        """
        asked = self._plan.options.compile
        self._compiles = self.device.type == "cuda" if asked is None else asked
        if not self._compiles:
            return function
        limit = {} if recompile_limit is None else {"recompile_limit": recompile_limit}
        if limit.keys() - inspect.signature(torch.compile).parameters.keys():
            raise BadInput(f"recompile_limit={recompile_limit}: torch {torch.__version__} has none for one "
                           f"function; install torch 2.13, or make fewer graphs")
        return torch.compile(function, dynamic=False, fullgraph=fullgraph, **limit)

    def generator(self, step: int) -> torch.Generator:
        """Return a step's random numbers, on the device: by seed and step alone, the same on all ranks."""
        digest = hashlib.sha256(f"{self.seed} {step}".encode()).digest()
        return torch.Generator(self.device).manual_seed(int.from_bytes(digest[:7]))

    def batch_tokens(self, step: int) -> int:
        """Return the tokens of a step: hp.batch_tokens, or those of its stage in hp.batch_stages."""
        return max(stage for stage in stages(self.hp) if stage[0] <= step)[1]

    @property
    def tokens_left(self) -> int:
        """The tokens that the run has yet to take."""
        return self._plan.tokens - self._taken

    def take(self, n: int, device: str | None = None) -> Tensor:
        """Return this rank's contiguous share of the stream's next n tokens, and the token that follows it.

        int64, shape (n / world_size + 1,), on the run's device or another, as "cpu". Every rank must call it
        with the same n. In the warm-up the tokens are random and nothing is taken.
        """
        if self._warming:
            n_share = n // self.world_size + 1
            share = torch.randint(self.track.vocab_size, (n_share,), generator=self._generator)
        else:
            if not 0 <= n <= self.tokens_left:
                raise Tripwire(f"tokens: {self._taken} + {n} taken, the recipe says {self._plan.tokens}; "
                               f"give Hyperparameters a train_tokens if a step does not take batch_tokens")
            share = self._stream.take_share(n, self.rank, self.world_size)
            self._taken += n
        onto = torch.device(device or self.device)
        pinned = share.is_pinned() and onto.type == "cpu"  # what stays there goes to the GPU from there
        return torch.empty_like(share, device=onto, pin_memory=pinned).copy_(share, non_blocking=True)

    def accumulate(self, loss_sum: LossSum, x: Tensor, y: Tensor, plain: bool = True,
                   tokens: int | None = None, reduce: bool = True) -> Tensor:
        """Set every parameter's .grad to the mean gradient over the tokens of all ranks (collective).

        loss_sum(net, x, y) returns the loss summed over tokens; it is called on one micro-batch of rows after
        the other. Returns their mean, a scalar on the device, which is logged as train_loss. plain: whether
        that is the cross-entropy of the tokens and nothing else; where it is not, no tool compares it with
        another run's. tokens: how many of this rank's y count in loss_sum; all ranks then say so.
        reduce=False leaves it to the submission to sum over ranks, without any collective: .grad is this
        rank's part of the mean, what is returned the mean over its own tokens; the log gets all ranks' at
        the segment's end.
        """
        if tokens is not None and not reduce:
            raise ValueError("run.accumulate: tokens with reduce=False, but only a reduction adds up the "
                             "tokens of all ranks; leave one of them out")
        rows = self._plan.rows
        passes = list(zip(x.split(rows), y.split(rows)))
        try:
            loss = self._reducer(loss_sum, passes, tokens, reduce)
        except torch.OutOfMemoryError as error:
            if not self._warming or rows == 1:
                raise
            flag = "micro_batch" if self.track.reduction == "exact" else "device_batch_size"
            fits = max(n for n in range(1, rows) if rows % n == 0)
            raise BadInput(f"out of memory with {rows} sequences a pass; use --{flag} {fits} "
                           f"({str(error).splitlines()[0]})") from None
        self._scalars["train_loss"] = loss
        self._reduced = reduce
        if not plain and not self._warming:
            self._report.objective(self._step)
        return loss

    def log(self, **scalars: float | Tensor) -> None:
        """Log numbers of this step. Tensors are read one step later, so that nothing waits for the device.

        Raises ValueError for other types and for the names of what the harness measures; train_loss is one of
        them after accumulate().
        """
        own = {"step", "seq", "step_avg"} | {"train_loss"} & self._scalars.keys()
        if reserved := [n for n in scalars if n in own or n.startswith(("train_time", "val_loss"))]:
            raise ValueError(f"run.log: {', '.join(reserved)} is the harness's own; choose another name")
        for name, value in scalars.items():
            if type(value) not in (int, float, Tensor):  # another's __float__ would run when the clock stands
                raise ValueError(f"run.log: {name} is {type(value).__name__}, expected int, float or Tensor")
        self._scalars |= scalars

    def print(self, *words: object) -> None:
        """Show words and log them, each line marked as the submission's own; not in the warm-up."""
        if not self._warming:
            self._report.say(" ".join(map(str, words)))

    def steps(self, model: nn.Module, optimizers: list, warmup: Iterable[int] | None = None) -> Iterator[int]:
        """Yield the number of each step to take; validate, time and log between them.

        The first ones are the warm-up, on random tokens: all that they change in model, optimizers and random
        state is put back before the clock starts. warmup: the steps whose shapes, and whose validation's, it
        goes through (one a stage of batch, length or window; the model may have as many graphs as that
        takes); default: the first step, twice. A recipe with ends_on_tokens = True ends with the step that
        takes the last of its tokens, and num_iterations is a bound.
        """
        if self._report:
            raise Tripwire("steps: a second training in one run; open another run for it")
        warmed = None if warmup is None else list(warmup)
        if wrong := [step for step in warmed or () if not 0 <= step < self.hp.num_iterations]:
            raise BadInput(f"run.steps: warmup has {wrong}, expected steps below num_iterations = "
                           f"{self.hp.num_iterations}")
        # the submission's part of the set-up: on the CPU what it computes, a busy host lets it wait besides
        wall, cpu = self._clock.account()["wall_ns"], time.process_time_ns() - self._opened[-1]["cpu_ns"]
        self._clock.lengths_ns["setup"].append(wall if self.device.type == "cuda" else min(wall, cpu))
        self._prepare(model, optimizers, graphs=2 * len(warmed or ()))  # of training and validation, a stage
        self._report.line(f"{'compiling and ' * self._compiles}warming up")
        with self._clock.spending("warmup"):
            snapshot = Snapshot(model, optimizers)
            self._warming = True
            for step, same in groupby([self._first_step] * WARMUP_STEPS if warmed is None else warmed):
                for _ in same:
                    begin = time.monotonic_ns()
                    yield step
                    self._clock.synchronize()
                    self._clock.lengths_ns["warmup_step"].append(time.monotonic_ns() - begin)
                self._validation.logits(self._validation.inputs.clone().fill_(0))
            self._warming, self._scalars, self._reduced = False, {}, True
            snapshot.put_back()
            del snapshot
        yield from self._timed_steps()

    # the loop

    def _timed_steps(self) -> Iterator[int]:
        every, last = self._plan.options.checkpoint_every, self.hp.num_iterations
        begun, stop = self._first_step, min(last, self._plan.options.stop_at_step or last)
        for step in range(self._first_step, stop + 1):
            if getattr(self.hp, "ends_on_tokens", False) and not self.tokens_left:
                stop = last = step
            validates = step % self.hp.val_every == 0 or step == stop
            saves = every and step % every == 0 and step > self._first_step
            if self._clock.running and (validates or saves):
                self._clock.stop(step - begun)
                self._report.flush()
            if validates:
                self._validate(step, last)
            if saves:
                self._save(step)
            if step == stop:
                break
            if not self._clock.running:
                self._clock.start()
                begun = step
            self._step = step + 1  # of which logs speak: it is done when the loop comes back
            yield step
            self._report.trained(self._step, self._scalars, self._clock.train_time_ns, self._taken,
                                 self._reduced)
            self._scalars, self._reduced = {}, True
        self._check_tripwires(final=stop == last)
        dist.barrier()  # no rank says ok before all have looked
        if self.rank == 0:
            self._keep_weights()
        self.status = "ok" if stop == last else "stopped"

    def _prepare(self, model: nn.Module, optimizers: list, graphs: int) -> None:
        parameters = count(model, optimizers, self.track)
        self._model, self._optimizers = model, optimizers
        try:
            init_sha256 = None if self._plan.options.resume else weights.digest(weights.serialized(model))
        except ValueError as error:
            raise BadInput(str(error)) from None
        resumed = self._resume()
        self._stream = TokenStream(self._plan.data.train, self.hp.epochs, self._taken,
                                   pin=self.device.type == "cuda")
        self._streams = TokenStream.opened
        net = self.compile(model, recompile_limit=graphs if graphs > 8 else None)
        self._validation = Validation(self.track, self._plan.data.val, self.hp, model, net, self.device)
        self._clock.lengths_ns["piece"] = self._validation.piece_ns
        self._reducer = REDUCERS[self.track.reduction](model, net)
        self._open_log(parameters, resumed, init_sha256)
        self._report = Report(self._plan, self._log, self.rank)
        self._clock.spent_ns["setup"] = self._clock.account()["wall_ns"]

    def _open_log(self, *facts: Any) -> None:
        with self._opening:
            if not self._log:
                self._log, self._known = environment.open_log(*self._opened, *facts)
                self.log_path = self._log.path and str(self._log.path)

    # between the timed segments

    def _validate(self, step: int, last: int) -> None:
        """Validate on the track's tokens, off the clock, and look at the tripwires."""
        with self._clock.spending("validation"):
            loss, digest = self._validation.measure(self._generator, probe=step > 0)
            self._check_tripwires()
            facts = {"step": step, "val_loss": loss, "train_time_ns": self._clock.train_time_ns,
                     "tokens": self._taken, "weights": digest}
            if self.track.val_bytes:
                facts["bits_per_byte"] = loss * self.track.val_tokens / math.log(2) / self.track.val_bytes
            if self.device.type == "cuda":
                facts["peak_memory_mib"] = torch.cuda.max_memory_allocated(self.device) >> 20
            self.result = facts
            self._report.validated(facts)
            if not math.isfinite(loss):
                dist.barrier()  # rank 0 has its result before another rank leaves
                raise NonFinite(f"val_loss is {loss} at step {step}")
            tenth = -(-self.hp.num_iterations // 10)
            if step in (0, last) or 0 <= step - tenth < self.hp.val_every:
                self._report.sample(lambda ids: self._validation.logits(ids, compiled=False), self.hp.seq_len,
                                    self.device)

    def _check_tripwires(self, final: bool = False) -> None:
        self._watch.check()
        if TokenStream.opened != self._streams:
            raise Tripwire("tokens: another stream was opened; a run reads its tokens once, through run.take")
        if (position := self._stream.position) != self._taken:
            raise Tripwire(f"tokens: the stream stands at {position}, the run took {self._taken}")
        if final and self._taken != self._plan.tokens:
            raise Tripwire(f"tokens: {self._taken} taken, the recipe says {self._plan.tokens}")
        for path, file in loaded_files().items():
            if path not in self._known:
                self._known[path] = file
                self._log.event("late", path=path)
                if not path.startswith("harness/"):  # of those the log holds every one
                    self._log.file(path, read_source(file))

    def _keep_weights(self) -> None:
        """Write the weights beside the log, where that is asked for, and their digest into the end line."""
        state, asked = list(weights.serialized(self._model)), self._plan.options.weights
        if self.track.target is not None if asked is None else asked:
            write_atomically(self._log.path.with_suffix(".safetensors"), *state)
        self.result["state_sha256"] = weights.digest(state)

    def _save(self, step: int) -> None:
        with self._clock.spending("checkpoint"):
            checkpoint.save(self._checkpoints(), step, self._model, self._optimizers, {
                **self._identity(), "run_id": self._log.run_id, "taken": self._taken,
                "train_time_ns": self._clock.train_time_ns})

    def _checkpoints(self) -> Path:
        return Path(self.log_path or "unused").with_suffix(".checkpoints")

    def _identity(self) -> dict[str, str]:
        """Return what a resumed run must share with the one before."""
        return {"track": self.track.name, "seed": str(self.seed), "hyperparameters": repr(self.hp)}

    def _resume(self) -> dict | None:
        """Return what the manifest says of the checkpoint that the run goes on from, if it does."""
        if not (folder := self._plan.options.resume):
            return None
        stop = self._plan.options.stop_at_step or self.hp.num_iterations
        try:
            facts = checkpoint.resume(Path(folder), self._identity(), stop, self._plan.tokens, self._model,
                                      self._optimizers)
        except ValueError as error:
            raise BadInput(f"--resume {folder}: {error}") from None
        self._first_step, self._taken = facts["step"], facts["taken"]
        self._clock.resumed_ns = facts["train_time_ns"]
        return facts["resumed_from"]

    def say_result(self) -> None:
        """Show, at the very end, the loss, the training time and where the log lies."""
        if "val_loss" not in self.result:
            sys.exit("the submission took no step: nothing was measured" if self.rank == 0 else 1)
        self._report.bar.close()
        step, loss, seconds = (self.result[k] for k in ("step", "val_loss", "train_time_ns"))
        self._report.line(f"{self.status}: val_loss {loss:.4f} after {step} steps and {seconds / 1e9:.1f} s "
                          f"of training; log: {self.log_path}")

    def farewell(self, status: str) -> str:
        """Return the last words on a run in trouble: where its log lies and, where it helps, how to go on."""
        words, folder = f"log: {self.log_path}\n" if self.log_path else "", self._checkpoints()
        command = os.environ.get("SPEEDRUN_COMMAND", "the same command")  # the launcher's
        if not words or status not in ("interrupted", "rank_lost", "disk_full"):
            return words * (status != "refused")  # of which one line says all
        if any(folder.glob("step*/COMPLETE")):
            flag = shlex.quote(f"--resume={os.path.relpath(folder)}")
            return f"{words}to go on from the last checkpoint: {command} {flag}\n"
        return f"{words}there is no checkpoint (--checkpoint_every); to start again: {command}\n"

    def close(self) -> None:
        """End what runs beside the training."""
        if self._report:
            self._stream.close()
            self._report.bar.close()

    def end(self, status: str, **fields: Any) -> dict[str, Any]:
        """Write the end line, from whichever thread of rank 0 learns of the end; return its fields.

        A run that ends before its first step, and was not refused, leaves a log too: it was an attempt.
        """
        status = self.status if status == "ok" else status
        if status not in ("refused", "disk_full"):
            with contextlib.suppress(Exception):  # what cannot be logged: the end counts, whatever it was
                self._open_log(None, None, None)
        if status == "ok":
            self._clock.finish()
        fields = {**self.result, "clocks": host_clocks(), **self._clock.account(),
                  **{name: environment.without_paths(value) for name, value in fields.items()}}
        return self._log.end(status, **fields) if self._log else {"status": status, **fields}


@contextlib.contextmanager
def open_run(script: str, recipes: dict[str, Any], argv: list[str] | None = None) -> Iterator[Run]:
    """Open a run of a script on the recipe that its track names, and end it whatever happens (collective).

    argv: flags instead of the command line's. Leaves the process with exit code 2 on input that cannot be
    run; with another code, the end line's, where a run of several ranks fails.
    """
    process = environment.process_facts()
    argv, path = sys.argv[1:] if argv is None else argv, Path(script).resolve()
    launched = int(os.environ.get("WORLD_SIZE", 1)) if "RANK" in os.environ else 1
    world_size = dist.get_world_size() if dist.is_initialized() else launched
    first = os.environ.get("LOCAL_RANK", "0") == "0"  # of this host: it hashes the shards
    try:
        read_source(path, script=True)
        plan = make_plan(recipes, argv, world_size, torch.cuda.is_available(), rehash=first)
    except (ValueError, OSError) as error:
        refuse(error)
    with environment.process_group(plan.device, plan.options.timeout):
        run = Run(plan, path, argv, process)
        endings, environ_class = Endings(run.end, run.farewell), type(os.environ)
        try:
            with endings:
                os.environ.__class__ = WatchedEnvironment
                yield run
            if not endings.code:
                run.say_result()
        finally:
            os.environ.__class__ = environ_class
            run.close()
            if endings.code:
                sys.exit(endings.code)
