"""Statistics of claims, one-sided, "below": t tests near a target, public rules, power, declared looks.

Numbers may be str, float (by its shortest decimal form), Decimal or Fraction: differences from the target are
exact, because 3.28 minus losses that spread by 0.001 loses four digits in floats.
"""
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

import numpy as np
from scipy.special import betaincinv, chdtri, log_ndtr, ndtr, stdtr, stdtrit

Number = str | float | Decimal | Fraction
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
    sd = None if variance is None else float(_root(variance))
    return _test(len(x), mean, sd, variance and variance / len(x), len(x) - 1, _exact(target))


def differences(new: Sequence[Number], old: Sequence[Number]) -> list[Fraction]:
    """Return new minus old for each pair, exact: equal gains subtracted in floats would seem to spread."""
    return [_exact(a) - _exact(b) for a, b in zip(new, old, strict=True)]


def paired(differences: Sequence[Number], margin: Number = 0) -> Test:
    """Test that the mean of new minus old, measured in pairs, is below a margin."""
    return one_sample(differences, margin)


def welch(a: Sequence[Number], b: Sequence[Number], margin: Number = 0) -> Test:
    """Test mean(a) - mean(b) < margin where the two may spread differently."""
    (mean_a, variance_a), (mean_b, variance_b) = _moments(a), _moments(b)
    squared_error = df = None
    if variance_a is not None and variance_b is not None:
        parts = variance_a / len(a), variance_b / len(b)
        squared_error = sum(parts)
        if squared_error:
            df = float(squared_error**2 / (parts[0]**2 / (len(a) - 1) + parts[1]**2 / (len(b) - 1)))
    return _test(len(a) + len(b), mean_a - mean_b, None, squared_error, df, _exact(margin))


def non_inferiority(new: Sequence[Number], old: Sequence[Number], margin: Number) -> Test:
    """Test that the new mean is above the old one by less than a margin."""
    return welch(new, old, margin)


def upper_bound(test: Test, confidence: float = 0.99) -> float:
    """Return what the mean is below with a confidence; inf for a degenerate test."""
    return math.inf if test.degenerate else test.mean + float(stdtrit(test.df, confidence)) * test.se


def rounding_robust_p(x: Sequence[Number], target: Number, decimals: int) -> float | None:
    """Return p if every value were half a unit of its last printed digit higher."""
    return one_sample(x, _exact(target) - Fraction(1, 2 * 10**decimals)).p


def z_rule(mean: Number, n: int, target: Number, sigma: float = SIGMA,
           needed: Number = 0.004) -> tuple[bool, float, float, float]:
    """Return (passes, left side, z, p) of the public optimizer track: (target - mean) sqrt(n) >= needed.

    Exact: in floats a mean of 3.278 over 4 runs gives 0.0039999999999995595 and fails.
    """
    gap = _exact(target) - _exact(mean)
    left = _signed_root(gap**2 * n, gap)
    return gap > 0 and gap**2 * n >= _exact(needed)**2, left, left / sigma, float(ndtr(-left / sigma))


def largest_sd(n: int, sigma: float = SIGMA, confidence: float = 0.95) -> float:
    """Return what the sd of n values stays below with a confidence where sigma is the true one."""
    return sigma * math.sqrt(chdtri(n - 1, 1 - confidence) / (n - 1))


def pairwise_rule(lower_loss: Number, fewer_steps: int, n_new: int, n_old: int,
                  per_100_steps: Number = 0.0045, needed: Number = 0.004) -> tuple[bool, float]:
    """Return (passes, left side) of the public optimizer track's rule for "better than that result".

    lower_loss, fewer_steps: old minus new; 100 steps count as much as 0.0045 nats.
    """
    gain = _exact(lower_loss) + Fraction(fewer_steps, 100) * _exact(per_100_steps)
    squared = gain**2 / (Fraction(1, n_new) + Fraction(1, n_old))
    return gain > 0 and squared >= _exact(needed)**2, _signed_root(squared, gain)


def power(n: int, d: float, alpha: float = 0.01) -> float:
    """Return the chance that n runs show a mean that lies d standard deviations below the target."""
    return _power(d * math.sqrt(n), n - 1, alpha) if n > 1 else 0.0


def runs_needed(buffer: float, sigma: float, power: float, alpha: float = 0.01) -> int:
    """Return how many runs show a mean that lies buffer below the target with that power."""
    return _fewest(lambda n: _power(buffer / sigma * math.sqrt(n), n - 1, alpha), power)


def time_runs_needed(effect: float, cv: float, power: float, alpha: float = 0.01) -> int:
    """Return the runs per arm that show a relative gain in time; cv: sd over mean within a host."""
    return _fewest(lambda n: _power(effect / cv * math.sqrt(n / 2), 2 * n - 2, alpha), power)


def clopper_pearson_lower(k: int, n: int, confidence: float = 0.99) -> float:
    """Return what a chance is above with a confidence where k of n tries had the outcome."""
    return float(betaincinv(k, n - k + 1, 1 - confidence)) if k else 0.0


def e_values(x: Sequence[Number], target: Number, sigma: float, tau: float) -> list[float]:
    """Return the e-value of mean < target after each value; 1/alpha or more rejects, at any time.

    Half-normal mixture of scale tau over the gap; sigma must not be below the true sd.
    """
    values, total = [], Fraction(0)
    for n, value in enumerate(x, start=1):
        total += _exact(target) - _exact(value)
        d = sigma**2 + n * tau**2
        z = float(_decimal(total)) * tau / (sigma * math.sqrt(d))
        z = min(max(z, -1e6), 1e6)  # beyond, its square and the tail's logarithm no longer cancel
        log_e = math.log(2 * sigma / math.sqrt(d)) + z * z / 2 + float(log_ndtr(z))
        values.append(math.exp(log_e) if log_e < 709 else math.inf)
    return values


def plain_word(test: Test, alpha: float = 0.01) -> str:
    """Return PROMISING, REFUTED or NOT SHOWN for a test whose number of runs nobody declared."""
    if test.degenerate:
        return "NOT SHOWN"
    return "PROMISING" if test.p < alpha else "REFUTED" if stdtr(test.df, -test.t) < alpha else "NOT SHOWN"


def decide(losses: Sequence[Number], target: Number, alpha: float = ALPHA,
           looks: Sequence[int] = LOOKS) -> Verdict:
    """Return what losses prove of mean < target: one per distinct seed, as started, none dropped."""
    n = len(losses)
    if any(not math.isfinite(float(loss)) for loss in losses):
        return Verdict("INVALID", f"a loss of {n} runs is not finite", None)
    if n == 0:
        return Verdict("NOT SHOWN", "no runs", None)
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
        declared = ", ".join(map(str, looks))
        why = (f"not below {share:g}, the share of a declared look" if n in looks
               else f"{n} is not a declared number of runs ({declared})")
        return Verdict(word, f"{facts}: below {alpha:g}, but {why}; {advice}", test)
    if word == "REFUTED":
        return Verdict(word, f"{facts}: the mean is above {float(target):.7g} at the same level", test)
    return Verdict(word, f"{facts}: not below {alpha:g}; {advice}", test)


def _exact(value: Number) -> Fraction:
    return Fraction(str(value))  # str of a float is its shortest decimal form


def _moments(x: Sequence[Number]) -> tuple[Fraction, Fraction | None]:
    """Return mean and variance, the latter None below two values."""
    values = [_exact(value) for value in x]
    if not values:
        raise ValueError("found no values, expected at least one")
    mean = sum(values) / len(values)
    return mean, sum((v - mean)**2 for v in values) / (len(values) - 1) if len(values) > 1 else None


def _test(n: int, mean: Fraction, sd: float | None, squared_error: Fraction | None, df: float | None,
          bound: Fraction) -> Test:
    if not squared_error:  # unknown, or no spread
        return Test(n, float(_decimal(mean)), sd, None, None, None, True)
    error = _root(squared_error)
    t = float(_decimal(mean - bound) / error)
    return Test(n, float(_decimal(mean)), sd, t, df, float(stdtr(df, t)), False, float(error))


def _decimal(value: Fraction) -> Decimal:
    return Decimal(value.numerator) / value.denominator


def _root(value: Fraction) -> Decimal:
    return _decimal(value).sqrt()  # not by float: the square of a loss may lie outside their range


def _signed_root(square: Fraction, sign: Fraction) -> float:
    return float(_root(square)) * (-1 if sign < 0 else 1)


def _power(noncentrality: float, df: float, alpha: float) -> float:
    """Return the chance of a noncentral t above the critical value.

    Its root of a chi-square over df is exp(y): the mean over y by the trapezoid rule, which converges
    exponentially. scipy's nctdtr gives nan for some, such as df 31 and noncentrality 38.
    """
    y = np.linspace(-25 / df - 9 / math.sqrt(df), min(9 / math.sqrt(df), 2.5), 8192)
    weight = np.exp(df * (y - np.expm1(2 * y) / 2))
    chance = ndtr(noncentrality + float(stdtrit(df, alpha)) * np.exp(y))
    return float(weight @ chance / weight.sum())


def _fewest(chance: Callable[[int], float], power: float) -> int:
    """Return the least n, from two up, whose chance reaches a power. Raises ValueError above a billion."""
    if not 0 < power < 1:
        raise ValueError(f"power {power:g}, expected one between 0 and 1")
    low, high = 1, 2
    while chance(high) < power:
        low, high = high, 2 * high
        if high > 10**9:
            raise ValueError("more than a billion runs would be needed")
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if chance(middle) >= power else (middle, high)
    return high
