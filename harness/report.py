"""What a run says: the public speedrun's step lines and events in the log, a bar or lines on the terminal."""
import contextlib
import math
import shutil
import sys
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor
from tqdm import tqdm

from harness.plan import Plan
from harness.runlog import RunLog
from harness.validate import write_text
from harness.vocabulary import decode, token_bytes

MEASURED_STEPS = 10  # the first, from which a run's cost on its host is told
BAR_COLUMNS = 48  # but for what is said of the last step
LINES = 30  # of train and val losses, about, where there is no bar; ten more say other things


class Report:
    """Writes each line to the log and shows it; on ranks other than 0 nothing is written or shown."""

    def __init__(self, plan: Plan, log: RunLog, rank: int):
        self.track, self.vocabulary, self.against = plan.track, plan.vocabulary, plan.against
        self.log, self.steps, self.rank = log, plan.hp.num_iterations, rank
        self.stop = min(self.steps, plan.options.stop_at_step or self.steps)
        self.best = math.inf
        self._said: set[str] = set()
        self._plain = True
        self._pending: list[tuple] = []
        self._first: tuple[int, int] | None = None  # step and time from which the cost is measured
        words = "{desc}{percentage:3.0f}%|{bar}| {n}/{total} {elapsed}<{remaining}{postfix}"
        self.bar = tqdm(total=self.stop, dynamic_ncols=True, smoothing=0.05, bar_format=words,
                        disable=rank != 0 or not sys.stderr.isatty())
        self.every = plan.options.log_every
        if self.every is None and self.bar.disable:
            between = self.stop / max(LINES // 3, LINES - self.stop // plan.hp.val_every)
            self.every = int(float(f"{between:.0e}")) or 1  # a round number

    def line(self, text: str) -> None:
        """Show a line above the bar."""
        if self.rank == 0:
            with contextlib.suppress(OSError):  # a terminal that was closed ends no run
                print(text, flush=True) if self.bar.disable else tqdm.write(text, file=sys.stdout)

    def trained(self, step: int, scalars: dict, train_time_ns: int, tokens: int,
                reduced: bool = True) -> None:
        """Take a step's numbers, and log those of the step before: the device goes on meanwhile.

        tokens: taken so far, in train_time_ns. Where train_loss is not reduced over the ranks, it and what
        follows it wait for flush.
        """
        arriving = {k: v.detach().to("cpu", non_blocking=True) if isinstance(v, Tensor) and (
            reduced or k != "train_loss") else v for k, v in scalars.items()}
        arrival = torch.cuda.Event() if torch.cuda.is_initialized() else None
        if arrival:
            arrival.record()
        if reduced and all(waiting[-1] for waiting in self._pending):
            self.flush()
        self._pending.append((arrival, step, arriving, train_time_ns, tokens, reduced))

    def flush(self) -> None:
        """Log the steps whose numbers wait: train_loss as in the public logs, others as events.

        Collective where losses are not reduced: all of them at once.
        """
        pending, self._pending = self._pending, []
        if local := [scalars for _, _, scalars, _, _, reduced in pending if not reduced]:
            losses = torch.stack([scalars["train_loss"] for scalars in local]).double()
            dist.all_reduce(losses)
            for scalars, loss in zip(local, (losses / dist.get_world_size()).tolist()):
                scalars["train_loss"] = loss
        for arrival, step, scalars, train_time_ns, tokens, _ in pending:
            if arrival:
                arrival.synchronize()
            self._log_step(step, scalars, train_time_ns, tokens)

    def _log_step(self, step: int, scalars: dict, train_time_ns: int, tokens: int) -> None:
        values = {name: float(value) for name, value in scalars.items()}
        loss = values.pop("train_loss", math.nan)
        text = f"step:{step}/{self.steps} train_loss:{loss:.4f} {self._times(step, train_time_ns)}"
        self.log.line(text)
        if values:
            self.log.event("scalar", step=step, **values)
        if self.every and (step % self.every == 0 or step == 1):
            self.line(text)
        words = self._plain and self.against and self.against.trained(step, train_time_ns / 1e6, loss)
        self._say_cost(step, train_time_ns)
        if not self.bar.disable:
            shown = [f"loss {loss:.4f}", f"{train_time_ns / 1e6 / step:.1f} ms/step",
                     f"{tokens / train_time_ns * 1e6:.1f}k tokens/s", *filter(None, [words])]
            while len(", ".join(shown)) > shutil.get_terminal_size().columns - BAR_COLUMNS and len(shown) > 1:
                shown.pop()
            self.bar.set_postfix_str(", ".join(shown), refresh=False)
            self.bar.update(step - self.bar.n)

    def _say_cost(self, step: int, train_time_ns: int) -> None:
        """Tell, once, what the first steps say of the time to come."""
        if self._first is None:
            self._first = step, train_time_ns
            self.bar.reset()  # its time left is that of the steps, not of the start
            self.bar.n = self.bar.last_print_n = self.bar.initial = step
        first_step, first_ns = self._first
        if step - first_step == MEASURED_STEPS:
            step_ms = (train_time_ns - first_ns) / 1e6 / MEASURED_STEPS
            seconds = (self.stop - step) * step_ms / 1e3
            self.line(f"{step_ms:.1f} ms a step here: training to step {self.stop} takes about "
                      f"{tqdm.format_interval(seconds)} more")

    def validated(self, facts: dict) -> None:
        """Log a validation, and say when the model has passed an n-gram baseline or the track's target."""
        step, loss, train_time_ns = (facts[name] for name in ("step", "val_loss", "train_time_ns"))
        text = f"step:{step}/{self.steps} val_loss:{loss:.4f} {self._times(step, train_time_ns)}"
        self.log.line(text)
        self.log.event("val", **facts)
        self.line(text)
        if self.against:
            words = self.against.validated(step, train_time_ns / 1e6, loss)
            self.line(f"against {self.against.path.name}: {words or 'it has no loss here'}")
        self.best = min(self.best, loss)
        self.bar.set_description_str(f"best {self.best:.4f} ", refresh=False)
        reached = [f"passed the {name} baseline ({baseline:.4f} nats)"
                   for name, baseline in self.track.baselines.items() if loss < baseline]
        if self.track.target is not None and loss <= self.track.target:
            reached.append(f"target {self.track.target:g} reached")
        for words in reached:
            if words not in self._said:
                self._said.add(words)
                self.say(f"{words} at step {step} after {train_time_ns / 1e9:.1f} s")

    def objective(self, step: int) -> None:
        """Log, once, that from a step on train_loss is not the plain cross-entropy: no curve to compare."""
        if self._plain:
            self._plain = False
            self.log.event("objective", plain=False, step=step)

    def say(self, text: str) -> None:
        """Log and show words that are no measurement."""
        self.log.text(text)
        self.line(text)

    def sample(self, logits_of: Callable[[Tensor], Tensor], seq_len: int, device: torch.device) -> None:
        """Show what the model writes; rank 0 only, the others go on."""
        if self.rank == 0:
            table = token_bytes(self.vocabulary)
            ids = write_text(logits_of, self.track.vocab_size - 1, self.track.vocab_size, seq_len, device)
            words = " ".join(decode(ids, table).split())
            self.say(f"the model writes: {''.join(c if c.isprintable() else '?' for c in words)}")

    def _times(self, step: int, train_time_ns: int) -> str:
        milliseconds = train_time_ns / 1e6
        average = milliseconds / step if step else math.nan
        return f"train_time:{milliseconds:.0f}ms step_avg:{average:.2f}ms"
