"""The run that a new one is held against while it trains: differences at equal step and at equal time."""
import math
import re
from pathlib import Path

import numpy as np

LINE = re.compile(r"^step:(\d{1,12})/\d{1,12} (train|val)_loss:(\d{1,9}(?:\.\d{1,30})?)"
                  r"(?: [a-z_]{1,40}_loss:\S{1,30}){0,20} "
                  r"train_time:(\d{1,15}(?:\.\d+)?)(ms|s) ", re.M)
OBJECTIVE = '\n#:objective {"plain":false'  # its training losses are of something else
SMOOTHING = 0.95  # of training losses: those of single batches differ by far more than two runs do


class Against:
    """Losses of an earlier run, ours or one of the public speedrun, from its `step:` lines."""

    def __init__(self, path: Path):
        self.path, self._smooth = path, math.nan
        if not path.is_file():
            raise ValueError(f"--against {path}: no such file; name the log of a run")
        text = path.read_text(encoding="utf-8", errors="replace")
        train, val = [], []  # step, ms, loss: of training smoothed
        for step, kind, loss, time, unit in LINE.findall(text):
            curve = val if kind == "val" else train
            last_step, _, last = curve[-1] if curve else (0, 0, math.nan)
            if int(step) < last_step:
                break  # a second trial in the same file
            loss = float(loss) if kind == "val" else smoothed(last, float(loss))
            curve.append((int(step), float(time) * (1000 if unit == "s" else 1), loss))
        if not val:
            raise ValueError(f"--against {path}: no line step:... val_loss:... in it; name the log of a run")
        self._train, self._val = np.array([] if OBJECTIVE in text else train).T, np.array(val).T
        self.final = val[-1][0], val[-1][2]

    def trained(self, step: int, time_ms: float, loss: float) -> str:
        """Take a step's training loss; return the differences of the smoothed losses in a few words."""
        self._smooth = smoothed(self._smooth, loss)
        return self._words(self._train, step, time_ms, self._smooth)

    def validated(self, step: int, time_ms: float, loss: float) -> str:
        """Return the differences of a validation loss to the other run's, in a few words."""
        return self._words(self._val, step, time_ms, loss)

    def _words(self, curve: np.ndarray, step: int, time_ms: float, loss: float) -> str:
        at_step, at_time = at(curve, 0, step, loss), at(curve, 1, time_ms, loss)
        words = [f"{round(difference, 4) + 0:+.4f} at equal {name}" for name, difference in
                 (("step", at_step), ("time", at_time)) if difference is not None]
        if at_step is not None and step:
            words.append(f"projected final loss {self.final[1] + at_step:.4f}")
        return ", ".join(words)


def smoothed(before: float, loss: float) -> float:
    """Return the exponential mean of the losses so far, from the one before."""
    return loss if math.isnan(before) else SMOOTHING * before + (1 - SMOOTHING) * loss


def at(curve: np.ndarray, axis: int, x: float, loss: float) -> float | None:
    """Return a loss less the curve's at x (axis 0: step, 1: ms), linear between points; None outside.

    Nothing lies between step 0 and the next point: a loss falls too steeply there for a line.
    """
    if curve.size and curve[0, 0] == 0 and x > curve[axis, 0]:
        curve = curve[:, 1:]
    if not curve.size or not curve[axis, 0] <= x <= curve[axis, -1]:
        return None
    return loss - float(np.interp(x, curve[axis], curve[2]))
