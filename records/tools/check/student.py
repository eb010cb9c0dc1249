"""Tails of the normal and of Student's t distribution, exact to 1e-11 far out too, and the t of a tail."""
import math
from statistics import NormalDist


def normal_below(z: float) -> float:
    """Return the chance that a standard normal number is below z, its digits kept far below 0 too."""
    return math.erfc(-z / math.sqrt(2)) / 2


def t_below(df: float, t: float) -> float:
    """Return the chance that Student's t is below a value: half the regularised incomplete beta function
    (Press et al., Numerical Recipes, 6.4), by its series near 0, else by its continued fraction."""
    if t > 0:
        return 1 - t_below(df, -t)
    if math.isinf(t * t):
        return 0.0  # less than any float
    half, odds = df / 2, t * t / df
    front = _density_at_0(df) * -t * math.exp(-(half + 0.5) * math.log1p(odds))
    if t * t < 3:  # 1/2 less a sum of terms above 0; beyond, the difference loses digits
        term = total = 1.0
        n = 0
        while term > 1e-17 * total:
            term *= odds / (1 + odds) * (half + 0.5 + n) / (1.5 + n)
            total, n = total + term, n + 1
        return 0.5 - front * total
    x, c, d, fraction = 1 / (1 + odds), math.inf, 1.0, 1.0
    for k in range(1, 1000):  # Lentz's way; 250 at most, at df 1
        m = k // 2
        above = -(half + m) * (half + 0.5 + m) if k % 2 else m * (0.5 - m)
        step = above * x / ((half + k - 1) * (half + k))
        c, d = 1 + step / c, 1 / (1 + step * d)
        fraction *= c * d
        if c * d == 1:
            break
    return front * fraction / df


def t_quantile(df: float, p: float) -> float:
    """Return the t below which a chance p lies: Newton's method on logarithms, in which a tail is concave."""
    if p >= 0.5:
        return -t_quantile(df, 1 - p) if p > 0.5 else 0.0
    t = NormalDist().inv_cdf(p)  # nearer to 0 than any t
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
