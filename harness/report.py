"""What a run says: the public speedrun's step lines and events in the log, a bar or lines on the terminal."""
import contextlib
import math
import sys
from collections.abc import Callable

import torch
from torch import Tensor
from tqdm import tqdm

from harness.plan import Plan
from harness.runlog import RunLog
from harness.validate import write_text
from harness.vocabulary import decode, token_bytes


class Report:
    """Writes each line to the log and shows it; on ranks other than 0 nothing is written or shown."""

    def __init__(self, plan: Plan, log: RunLog, rank: int):
        self.track, self.vocabulary, self.against = plan.track, plan.vocabulary, plan.against
        self.log, self.steps, self.rank = log, plan.hp.num_iterations, rank
        self._passed: set[str] = set()
        self._pending: tuple | None = None
        self.bar = tqdm(total=self.steps, unit="step", dynamic_ncols=True, smoothing=0.05,
                         disable=rank != 0 or not sys.stderr.isatty())

    def line(self, text: str) -> None:
        """Show a line above the bar."""
        if self.rank == 0:
            with contextlib.suppress(OSError):  # a terminal that was closed ends no run
                print(text, flush=True) if self.bar.disable else tqdm.write(text, file=sys.stdout)

    def trained(self, step: int, scalars: dict, train_time_ns: int) -> None:
        """Take a step's numbers, and log those of the step before: the device goes on meanwhile."""
        arriving = {k: v.detach().to("cpu", non_blocking=True) if isinstance(v, Tensor) else v
                    for k, v in scalars.items()}
        arrival = torch.cuda.Event() if torch.cuda.is_initialized() else None
        if arrival:
            arrival.record()
        self.flush()
        self._pending = arrival, step, arriving, train_time_ns

    def flush(self) -> None:
        """Log the step whose numbers were taken last: train_loss as in the public logs, others as events."""
        if self._pending is None:
            return
        (arrival, step, scalars, train_time_ns), self._pending = self._pending, None
        if arrival:
            arrival.synchronize()
        values = {name: float(value) for name, value in scalars.items()}
        loss = values.pop("train_loss", math.nan)
        text = f"step:{step}/{self.steps} train_loss:{loss:.4f} {self._times(step, train_time_ns)}"
        self.log.line(text)
        if values:
            self.log.event("scalar", step=step, **values)
        if self.bar.disable:
            self.line(text)
        self.bar.update(step - self.bar.n)
        shown = f"loss {loss:.4f}, {train_time_ns / 1e6 / step:.1f} ms/step"
        if self.against and (words := self.against.trained(step, train_time_ns / 1e6, loss)):
            shown += f", {words}"
        self.bar.set_postfix_str(shown, refresh=False)

    def validated(self, facts: dict) -> None:
        """Log a validation, and say which n-gram baselines the model has passed."""
        times = self._times(facts["step"], facts["train_time_ns"])
        text = f"step:{facts['step']}/{self.steps} val_loss:{facts['val_loss']:.4f} {times}"
        self.log.line(text)
        self.log.event("val", **facts)
        self.line(text)
        if self.bar.n == 0:
            self.bar.reset()  # the time left is that of the steps, not of the start
        if self.against:
            words = self.against.validated(facts["step"], facts["train_time_ns"] / 1e6, facts["val_loss"])
            self.line(f"against {self.against.path.name}: {words or 'it has no loss here'}")
        for name, loss in self.track.baselines.items():
            if facts["val_loss"] < loss and name not in self._passed:
                self._passed.add(name)
                seconds = facts["train_time_ns"] / 1e9
                self.say(f"passed the {name} baseline ({loss:.4f} nats) after {seconds:.1f} s")

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
