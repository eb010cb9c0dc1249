"""What runs say of a claim: an interval over seeds, paired, and one of three words.

What is chosen, a best rate say, is chosen by other seeds than the one it is measured on, or noise chooses.
"""
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from lab.sweep.results import label, Run
from records.tools.check.significance import one_sample, upper_bound

CONFIDENCE = 0.95
SUPPORTED, UNSUPPORTED, UNDECIDED = "supported", "not supported", "undecided at this noise"
CLAIMS = ("claim", "measured, 95 % interval", "verdict")  # the head of their table
Losses = dict[Any, list[float]]  # a value of an axis -> final losses, of the same seeds in the same order


class Interval(NamedTuple):
    """A mean over seeds, and the ends of its confidence interval: infinite where there is no spread."""

    middle: float
    low: float
    high: float


class Claim(NamedTuple):
    """A statement about a number, and what its interval says of it."""

    statement: str
    value: str
    verdict: str


def matched(runs: Iterable[Run], key: Callable[[Run], Any]) -> dict[Any, list[Run]]:
    """Return the runs of each key in order of their seeds, the same everywhere: a comparison is of pairs.

    Raises ValueError where they are not the same, and for a run without a loss.
    """
    found: dict[Any, list[Run]] = {}
    for run in sorted(runs, key=lambda run: run.seed):
        if run.val_loss is None:
            raise ValueError(f"{run.name} has no loss ({run.status}); run the sweep again, or leave it out")
        found.setdefault(key(run), []).append(run)
    first, *others = found.values() or [[]]
    for other in others:
        if (here := [run.seed for run in first]) != (there := [run.seed for run in other]):
            raise ValueError(f"{first[0].name} has seeds {here}, {other[0].name} {there}, expected the "
                             f"same at every point; run the missing ones")
    return found


def losses(runs: Iterable[Run], axis: str) -> Losses:
    """Return the final losses, of all seeds, by the values of an axis, these in order."""
    by_value = matched(runs, lambda run: run.point[axis])
    return {value: [run.val_loss for run in by_value[value]] for value in sorted(by_value)}


def finite(values: Iterable[float]) -> bool:
    """Tell whether all values are finite: no run diverged."""
    return all(math.isfinite(value) for value in values)


def interval(a: Sequence[float], b: Sequence[float] = ()) -> Interval:
    """Return mean and 95 % confidence interval of a, or of a - b, seed by seed."""
    if not finite([*a, *b]):
        return Interval(statistics.fmean(a) - (statistics.fmean(b) if b else 0), -math.inf, math.inf)
    test = one_sample([x - y for x, y in zip(a, b, strict=True)] if b else a, 0)
    high = upper_bound(test, (1 + CONFIDENCE) / 2)
    return Interval(test.mean, 2 * test.mean - high, high)


def verdict(found: Interval, least: float = -math.inf, most: float = math.inf) -> str:
    """Return whether an interval lies inside least..most, outside of it, or says neither."""
    if least <= found.low and found.high <= most:
        return SUPPORTED
    return UNSUPPORTED if found.high < least or found.low > most else UNDECIDED


def plus_minus(found: Interval, unit: str = "") -> str:
    """Return a mean with half its interval's width, or the end that it has, in words."""
    middle, low, high = found
    unit = f" {unit}" if unit else ""
    if finite((low, high)):
        return f"{middle:+.4f} ± {(high - low) / 2:.4f}{unit}"
    ends = [f"at least {low:+.4f}"] * math.isfinite(low) + [f"at most {high:+.4f}"] * math.isfinite(high)
    return f"{middle:+.4f}{unit}, {ends[0] if ends else 'no interval'}"


def claim(statement: str, a: Sequence[float] | Interval, b: Sequence[float] = (), unit: str = "nats",
          least: float = -math.inf, most: float = math.inf) -> Claim:
    """Return the claim that an interval, or that of the mean of a or a - b, lies between two numbers."""
    found = a if isinstance(a, Interval) else interval(a, b)
    return Claim(statement, plus_minus(found, unit), verdict(found, least, most))


def elsewhere(by_value: Losses, i: int, choose: Callable = min) -> Any:
    """Return the value that is best, or with max worst, by all seeds but the i-th; of one seed, by it."""
    return choose(by_value, key=lambda v: math.fsum(by_value[v][:i] + by_value[v][i + 1:] or by_value[v]))


def tuned(by_value: Losses, by: Losses | None = None) -> list[float]:
    """Return, for each seed, its loss at the value that is best by all others, there or in other losses."""
    seeds = range(len(next(iter(by_value.values()))))
    return [by_value[elsewhere(by or by_value, i)][i] for i in seeds]


def chosen(runs: Sequence[Run]) -> list[Run]:
    """Return, for each seed, its run at the point that is best by all others."""
    by_point = matched(runs, lambda run: label(run.point))
    by_value = {point: [run.val_loss for run in found] for point, found in by_point.items()}
    return [by_point[elsewhere(by_value, i)][i] for i in range(len({run.seed for run in runs}))]


def better(names: Sequence[str], a: Sequence[Run], b: Sequence[Run]) -> Claim:
    """Return the claim that arm a is better than arm b, each at its best point, chosen seed by seed."""
    one, two = map(chosen, (a, b))
    if (here := [run.seed for run in one]) != (there := [run.seed for run in two]):
        raise ValueError(f"{names[0]} has seeds {here}, {names[1]} {there}, expected the same; run the rest")
    losses = ([run.val_loss for run in arm] for arm in (one, two))
    return claim(" better than ".join(names), *losses, most=0.0)


def octaves(by_value: Losses) -> Losses:
    """Return losses by the logarithms of their values, to base 2."""
    return {math.log2(value): losses for value, losses in by_value.items()}


def optimum(by_value: dict[float, float]) -> Interval:
    """Return the value at which the loss is lowest.

    The vertex of the parabola through the lowest loss and its two neighbours; the value itself where one of
    these diverged. Beyond an end of the grid there may be a better one, so that side has no bound.
    """
    at, losses = zip(*sorted(by_value.items()))
    i = losses.index(lowest := min(losses))
    x = at[i]
    if finite(around := losses[max(0, i - 1):i + 2]) and len(around) == 3:
        left, right = x - at[i - 1], at[i + 1] - x
        before, after = (around[0] - lowest) * right, (around[2] - lowest) * left  # the lower, the nearer
        x += (before * right - after * left) / (2 * (before + after)) if before + after else 0.0
    known = math.isfinite(lowest)
    return Interval(x, x if known and i else -math.inf, x if known and i < len(at) - 1 else math.inf)


def shift(a: Losses, b: Losses) -> Interval:
    """Return by how much b's optimum lies above a's, over seeds; no bound on a side on which one has none."""
    pairs = [[optimum(dict(zip(losses, seed))) for losses, seed in zip((a, b), both)]
             for both in zip(zip(*a.values()), zip(*b.values()), strict=True)]
    middle, low, high = interval([there.middle - here.middle for here, there in pairs])
    return Interval(middle, low if finite(there.low - here.high for here, there in pairs) else -math.inf,
                    high if finite(there.high - here.low for here, there in pairs) else math.inf)
