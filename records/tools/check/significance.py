"""Statistics of claims, one-sided, "below": t tests near a target, power, declared looks.

Numbers may be str, float or Decimal and count by their decimal digits, of which `statistics` keeps 28: in
floats, 3.28 minus losses that spread by 0.001 loses four, and equal gains would seem to spread.
"""
import math
import statistics
from bisect import bisect_left
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from statistics import NormalDist
from typing import Any

from records.tools.check.student import normal_below, t_below, t_quantile

Number = str | float | Decimal
LOOKS = (4, 8, 16, 32)  # numbers of runs at which a campaign may be judged, each at its share of alpha
ALPHA = 0.01  # where no track row says otherwise
SIGMA = 0.0013  # what the public optimizer track takes for the sd between seeds; the median of its groups


@dataclass(frozen=True)
class Test:
    """A one-sided t test of "mean < bound"; without spread it is degenerate and has no p, never p = 0."""

    n: int  # values, of both groups where there are two
    mean: float  # of the values; of two groups, the difference
    sd: float | None  # n-1 in its denominator; None for two groups and below two values
    t: float | None
    df: float | None
    p: float | None
    degenerate: bool
    se: float | None = None  # standard error of the mean


@dataclass(frozen=True)
class Verdict:
    """What a campaign has shown: PROVEN, PROMISING, NOT SHOWN, REFUTED or INVALID, and why."""

    word: str
    reason: str
    test: Test | None


def one_sample(x: Sequence[Number], target: Number) -> Test:
    """Test mean < target. Raises ValueError for no values, or one that is not finite."""
    mean, variance = _moments(x)
    sd = None if variance is None else float(variance.sqrt())
    return _test(len(x), mean, sd, variance and variance / len(x), len(x) - 1, target)


def paired(new: Sequence[Number], old: Sequence[Number], margin: Number = 0) -> Test:
    """Test that the mean of new minus old, measured in pairs, is below a margin."""
    return one_sample([_decimal(a) - _decimal(b) for a, b in zip(new, old, strict=True)], margin)


def welch(a: Sequence[Number], b: Sequence[Number], margin: Number = 0) -> Test:
    """Test mean(a) - mean(b) < margin, 0 or what a may be worse by, where the two may spread differently."""
    (mean_a, variance_a), (mean_b, variance_b) = _moments(a), _moments(b)
    squared_error = df = None
    if variance_a is not None and variance_b is not None and (variance_a or variance_b):
        parts = variance_a / len(a), variance_b / len(b)
        squared_error = sum(parts)
        df = float(squared_error**2 / (parts[0]**2 / (len(a) - 1) + parts[1]**2 / (len(b) - 1)))
    return _test(len(a) + len(b), mean_a - mean_b, None, squared_error, df, margin)


def lower(new: Mapping[Hashable, Number], old: Mapping[Hashable, Number],
          margin: Number = 0) -> tuple[str, Test]:
    """Return "paired" or "Welch", and that test of new - old < margin: the one answer to "is this better".

    new, old: a value for each seed, a whole number; any other key is no seed and is paired with none.
    """
    if len(new) > 1 and new.keys() == old.keys() and all(isinstance(seed, int) for seed in new):
        return "paired", paired(list(new.values()), [old[seed] for seed in new], margin)
    return "Welch", welch(list(new.values()), list(old.values()), margin)


def rule(row: Mapping[str, Any]) -> dict[str, float]:
    """Return what a track's row says of its test: alpha; sigma and margin too where it is a z test."""
    told = row.get("significance", {})
    return {"alpha": ALPHA} | {name: told[name] for name in ("alpha", "sigma", "margin") if name in told}


def of_two(new: Sequence[Number], old: Sequence[Number], steps: int, nats_per_step: float, sigma: float,
           margin: float, **_: float) -> tuple[Test, str, str]:
    """Return the z test that new, which takes some steps less than old, is better; its word and numbers."""
    difference = _moments(new)[0] - _moments(old)[0]
    share = 1 / Decimal(len(new)) + 1 / Decimal(len(old))
    n, gain = len(new) + len(old), steps * _decimal(nats_per_step) - difference
    test, word, facts = _z_test(gain, difference, n, share, sigma, margin)
    return test, "PROMISING" if word == "PROVEN" else word, facts


def upper_bound(test: Test, confidence: float = 0.99) -> float:
    """Return what the mean is below with a confidence; inf for a degenerate test."""
    return math.inf if test.degenerate else test.mean - t_quantile(test.df, 1 - confidence) * test.se


def power(n: int, d: float, alpha: float = ALPHA) -> float:
    """Return the chance that n runs show a mean that lies d standard deviations below the target."""
    return _power(d * math.sqrt(n), n - 1, alpha) if n > 1 else 0.0


def runs_needed(buffer: float, sigma: float, power: float, alpha: float = ALPHA) -> int:
    """Return how many runs show a mean that lies buffer below the target with that power."""
    return _fewest(lambda n: _power(buffer / sigma * math.sqrt(n), n - 1, alpha), power)


def buffer_needed(n: int, sd: float, power: float, alpha: float = ALPHA, **known: float) -> float:
    """Return how far below the target a mean must lie for n runs, a declared look, to show it so often.

    known: sigma and margin of a track whose rule is a z test.
    """
    if known:
        return (known["margin"] + NormalDist().inv_cdf(power) * sd) / math.sqrt(n)
    share, root = alpha / len(LOOKS), math.sqrt(n)
    return sd / 1e4 * bisect_left(range(1 << 20), power, key=lambda i: _power(i / 1e4 * root, n - 1, share))


def holm(tails: Sequence[float]) -> list[float]:
    """Return tail probabilities of several tests raised so that all together err no more often than one.

    Holm 1979: the least times their number, the next times one less, and so on, none below the one before.
    """
    raised, highest = list(tails), 0.0
    for i, place in enumerate(sorted(range(len(tails)), key=tails.__getitem__)):
        raised[place] = highest = max(highest, min(1.0, (len(tails) - i) * tails[place]))
    return raised


def plain_word(test: Test, alpha: float = ALPHA) -> str:
    """Return PROMISING, REFUTED or NOT SHOWN for a test whose number of runs nobody declared."""
    if test.degenerate:
        return "NOT SHOWN"
    return "PROMISING" if test.p < alpha else "REFUTED" if t_below(test.df, -test.t) < alpha else "NOT SHOWN"


def decide(losses: Sequence[Number], target: Number, alpha: float = ALPHA,
           looks: Sequence[int] = LOOKS, **known: float) -> Verdict:
    """Return what losses prove of mean < target: one per distinct seed, as started, none dropped.

    known: sigma and margin of a track whose rule is a z test, for any number of runs.
    """
    n = len(losses)
    if any(not math.isfinite(float(loss)) for loss in losses):
        return Verdict("INVALID", f"a loss of {n} runs is not finite", None)
    if n == 0:
        return Verdict("NOT SHOWN", "no runs", None)
    if known:
        mean, _ = _moments(losses)
        test, word, facts = _z_test(_decimal(target) - mean, mean, n, 1 / Decimal(n), **known)
        plain = one_sample(losses, target)
        spread = "" if plain.degenerate else f"; sd {plain.sd:.3g}, by which a t test gives p {plain.p:.3g}"
        return Verdict(word, f"mean {test.mean:.7g}, {n} run{'s' * (n > 1)}, {facts}{spread}", test)
    test = one_sample(losses, target)
    if test.degenerate:
        why = "one run has no spread" if n == 1 else f"all {n} losses are equal: rounded, or one run repeated"
        return Verdict("NOT SHOWN", f"mean {test.mean:.6g}, no test: {why}", test)
    word, share = plain_word(test, alpha), alpha / len(looks)
    facts = f"mean {test.mean:.7g}, sd {test.sd:.3g}, {n} runs, p {test.p:.3g}"
    upcoming = next((look for look in looks if look > n), None)
    advice = f"judge again at {upcoming} runs" if upcoming else "no declared look is left"
    if word == "PROMISING" and n in looks and test.p < share:
        return Verdict("PROVEN", f"{facts}: below {share:g}, the share of a declared look", test)
    if word == "PROMISING":
        why = (f"not below {share:g}, the share of a declared look" if n in looks
               else f"{n} is not a declared number of runs ({', '.join(map(str, looks))})")
        return Verdict(word, f"{facts}: below {alpha:g}, but {why}; {advice}", test)
    if word == "REFUTED":
        return Verdict(word, f"{facts}: the mean is above {float(target):.7g} at the same level", test)
    return Verdict(word, f"{facts}: not below {alpha:g}; {advice}", test)


def _decimal(value: Number) -> Decimal:
    return Decimal(str(value))  # str of a float is its shortest decimal form


def _moments(x: Sequence[Number]) -> tuple[Decimal, Decimal | None]:
    """Return mean and variance, the latter None below two values."""
    values = [_decimal(value) for value in x]
    if not values or not all(map(Decimal.is_finite, values)):
        raise ValueError(f"found {', '.join(map(str, x)) or 'no values'}, expected finite numbers")
    return statistics.mean(values), statistics.variance(values) if len(values) > 1 else None


def _z_test(gain: Decimal, mean: Decimal, n: int, share: Decimal, sigma: float,
            margin: float) -> tuple[Test, str, str]:
    """Return the z test of gain > 0 with a standard error of sigma * sqrt(share), its word and numbers.

    The rule, gain / sqrt(share) >= margin, is held in decimals: in floats (3.28 - 3.278) * 2 < 0.004.
    """
    se, z = sigma * math.sqrt(share), -float(gain / share.sqrt()) / sigma
    test = Test(n, float(mean), None, z, math.inf, normal_below(z), False, se)
    word = "NOT SHOWN" if gain**2 < _decimal(margin)**2 * share else "PROVEN" if gain > 0 else "REFUTED"
    return test, word, (f"p {test.p:.3g} at sigma {sigma:g}, {float(gain):.6f} / {math.sqrt(share):.4g} = "
                        f"{float(gain / share.sqrt()):.5f}, wanted {margin:g}")


def _test(n: int, mean: Decimal, sd: float | None, squared_error: Decimal | None, df: float | None,
          bound: Number) -> Test:
    if not squared_error:  # unknown, or no spread
        return Test(n, float(mean), sd, None, None, None, True)
    error = squared_error.sqrt()  # no float: the square of a loss may lie outside their range
    t = float((mean - _decimal(bound)) / error)
    return Test(n, float(mean), sd, t, df, t_below(df, t), False, float(error))


def _power(noncentrality: float, df: float, alpha: float) -> float:
    """Return the chance of a noncentral t below the critical value.

    Its root of a chi-square over df is exp(y): the mean over y by the trapezoid rule, which converges
    exponentially. scipy's nctdtr gives nan for some, such as df 31 and noncentrality 38.
    """
    critical = t_quantile(df, alpha)
    low, high = -22 / df - 5 / math.sqrt(df), min(5 / math.sqrt(df), 2.5)  # beyond, less than 1e-9 lies
    total = chance = 0.0
    for i in range(2048):
        y = low + (high - low) * i / 2047
        weight = math.exp(df * (y - math.expm1(2 * y) / 2))
        total += weight
        chance += weight * normal_below(noncentrality + critical * math.exp(y))
    return chance / total


def _fewest(chance: Callable[[int], float], power: float) -> int:
    """Return the least n, from two up, whose chance reaches a power. Raises ValueError above a billion."""
    if not 0 < power < 1:
        raise ValueError(f"power {power:g}, expected one between 0 and 1")
    high = next((2**k for k in range(1, 30) if chance(2**k) >= power), None)
    if high is None:
        raise ValueError("more than a billion runs would be needed")
    low = max(2, high // 2)
    return low + bisect_left(range(low, high), power, key=chance)
