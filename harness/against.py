"""The run that a new one is held against while it trains: differences at equal step and at equal time."""
import bisect
import math
import re
from pathlib import Path

LINE = re.compile(r"step:(\d{1,12})/\d{1,12} (train|val)_loss:(\S{1,30})"
                  r"(?: [a-z_]{1,40}_loss:\S{1,30}){0,20} "
                  r"train_time:(\d{1,15}(?:\.\d+)?)(ms|s) ")
SMOOTHING = 0.95  # of training losses: those of single batches differ by far more than two runs do


class Against:
    """Losses of an earlier run, ours or one of the public speedrun, from its `step:` lines."""

    def __init__(self, path: Path):
        self.path, self._smooth = path, math.nan
        self._train: list[tuple[int, float, float]] = []  # step, ms, smoothed loss
        self._val: list[tuple[int, float, float]] = []
        if not path.is_file():
            raise ValueError(f"--against {path}: no such file; name the log of a run")
        with open(path, encoding="utf-8", errors="replace") as lines:
            smooth = math.nan
            for match in filter(None, (LINE.match(line) for line in lines)):
                step, kind, loss, time, unit = match.groups()
                try:
                    point = int(step), float(time) * (1000 if unit == "s" else 1), float(loss)
                except ValueError:
                    continue
                curve = self._val if kind == "val" else self._train
                if curve and point[0] < curve[-1][0]:
                    break  # a second trial in the same file
                if math.isfinite(point[2]):
                    smooth = smoothed(smooth, point[2]) if kind == "train" else smooth
                    curve.append(point if kind == "val" else (*point[:2], smooth))
        if not self._val:
            raise ValueError(f"--against {path}: no line step:... val_loss:... in it; name the log of a run")

    @property
    def final(self) -> tuple[int, float]:
        """The last validation's step and loss."""
        return self._val[-1][0], self._val[-1][2]

    def trained(self, step: int, time_ms: float, loss: float) -> str:
        """Take a step's training loss; return the differences of the smoothed losses in a few words."""
        self._smooth = smoothed(self._smooth, loss)
        return self._words(self._train, step, time_ms, self._smooth)

    def validated(self, step: int, time_ms: float, loss: float) -> str:
        """Return the differences of a validation loss to the other run's, in a few words."""
        return self._words(self._val, step, time_ms, loss)

    def _words(self, curve: list[tuple[int, float, float]], step: int, time_ms: float, loss: float) -> str:
        at_step, at_time = at(curve, 0, step, loss), at(curve, 1, time_ms, loss)
        words = [f"{round(difference, 4) + 0:+.4f} at equal {name}" for name, difference in
                 (("step", at_step), ("time", at_time)) if difference is not None]
        if at_step is not None and step:
            words.append(f"projected final loss {self.final[1] + at_step:.4f}")
        return ", ".join(words)


def smoothed(before: float, loss: float) -> float:
    """Return the exponential mean of the losses so far, from the one before."""
    return loss if math.isnan(before) else SMOOTHING * before + (1 - SMOOTHING) * loss


def at(curve: list[tuple[int, float, float]], axis: int, x: float, loss: float) -> float | None:
    """Return a loss less the curve's at x (axis 0: step, 1: ms), linear between points; None outside."""
    i = bisect.bisect_left(curve, x, key=lambda point: point[axis])
    if i == len(curve):
        return None
    if curve[i][axis] == x:
        return loss - curve[i][2]
    if i == 0:
        return None
    (x0, y0), (x1, y1) = ((point[axis], point[2]) for point in curve[i - 1:i + 1])
    return loss - (y0 + (y1 - y0) * (x - x0) / (x1 - x0))
