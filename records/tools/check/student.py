"""Tails of the normal and of Student's t distribution, exact to 1e-11 far out too, and the t of a tail."""
import math
from statistics import NormalDist


def normal_below(z: float) -> float:
    """Return the chance that a standard normal number is below z, its digits kept far below 0 too."""
    return math.erfc(-z / math.sqrt(2)) / 2


def t_below(df: float, t: float) -> float:
    """Return the chance that Student's t is below a value: its density, summed over the tail by the exp-sinh
    rule (Takahasi and Mori 1974), which keeps the digits however far out and however heavy the tail is."""
    if math.isinf(df):
        return normal_below(t)
    if t > 0:
        return 1 - t_below(df, -t)
    if math.isinf(t * t):
        return 0.0  # less than any float
    scale = (df + t * t) / ((df + 1) * (1 - t))  # the distance over which the tail falls
    total = 0.0
    for i in range(-64, 65):
        beyond = scale * math.exp(math.pi / 2 * math.sinh(i / 16))
        x = beyond - t
        total += beyond * math.cosh(i / 16) * math.exp(-(df + 1) / 2 * math.log1p(x * x / df))
    return _density_at_0(df) * math.pi / 32 * total


def t_quantile(df: float, p: float) -> float:
    """Return the t below which a chance p lies: Newton's method on logarithms, in which a tail is concave."""
    if p >= 0.5:
        return -t_quantile(df, 1 - p) if p > 0.5 else 0.0
    t = NormalDist().inv_cdf(p)  # nearer to 0 than any t
    if math.isinf(df):
        return t
    for _ in range(100):
        tail = t_below(df, t)
        density = _density_at_0(df) * math.exp(-(df + 1) / 2 * math.log1p(t * t / df))
        step = math.log(tail / p) * tail / (density * -t)  # of log -t
        t *= math.exp(step)
        if abs(step) < 1e-15:
            break
    return t


def _density_at_0(df: float) -> float:
    """Return Student's density at 0; Stirling's series keeps the digits that lgamma's difference loses."""
    half = df / 2
    ratio = (math.exp(math.lgamma(half + 0.5) - math.lgamma(half)) if half < 100 else
             math.sqrt(half) * math.exp(-1 / (8 * half) + 1 / (192 * half**3) - 1 / (640 * half**5)))
    return ratio / math.sqrt(math.pi * df)
