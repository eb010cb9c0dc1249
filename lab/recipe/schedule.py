"""Schedule: pure functions of the tokens seen, so that accumulation, batch and length leave them alone."""
import math
from collections.abc import Sequence

from lab.recipe.schema import Accumulation, Curve


def factor(curve: Curve, u: float, total: float) -> float:
    """Return a curve's factor after u tokens of a run of total tokens.

    The warm-up is linear from `start` to 1 over W tokens; W = 0 is legal. What falls falls from W on.
    """
    W, end = warmup(curve, total), total if curve.end_tokens is None else curve.end_tokens
    if u < W:
        return curve.start + (1 - curve.start) * u / W
    match curve.kind:
        case "constant":
            return 1.0
        case "linear":
            return 1 + (curve.final - 1) * share(u, W, end)
        case "cosine":
            return cosine(u, curve.final, 1.0, W, end) if end > W else curve.final
        case "trapezoid":
            down = end - curve.cooldown_frac * end
            return 1 + (curve.final - 1) * share(u, max(W, down), end)
        case "power":
            return (1 + (u - W) / curve.timescale_tokens) ** -curve.exponent
        case "exponential":
            return math.exp(-curve.exponent * (u - W) / curve.timescale_tokens)
    raise ValueError(f"schedule.kind: no curve {curve.kind!r}")


def warmup(curve: Curve, total: float) -> float:
    """Return the length of a curve's warm-up in tokens."""
    if curve.warmup_tokens is not None:
        return curve.warmup_tokens
    return (curve.warmup_frac or 0.0) * total


def cosine(u: float, lr_min: float, lr_max: float, a: float, b: float) -> float:
    """Return the rate at u: linear to lr_max at a, half a cosine from there to lr_min at b, then lr_min.

    u, a, b in one unit, tokens or steps; a = 0 is legal (https://arxiv.org/abs/1608.03983).
    """
    if u < a:
        return lr_max * u / a
    if u >= b:
        return lr_min
    return lr_min + (1 + math.cos(math.pi * (u - a) / (b - a))) * (lr_max - lr_min) / 2


def share(u: float, begin: float, end: float) -> float:
    """Return how far u lies from begin to end, 0 to 1."""
    return 1.0 if u >= end else max(0.0, (u - begin) / (end - begin))


def stairs(u: float, steps: Sequence[tuple[float, int]], default: int) -> int:
    """Return the value of the last step that begins at or before u tokens, the default before the first."""
    return next((value for begin, value in reversed(steps) if u >= begin), default)


def accumulation(a: float, step: int, norm: float, n: int, plan: Accumulation) -> float:
    """Return the wanted number of passes a step after a look at a gradient's norm over n parameters.

    It grows where the norm is above its target, as a noisy gradient's is; hlb-gpt's had no cap.
    """
    exponent = -0.677 * math.log(n) ** -0.2 if plan.exponent is None else plan.exponent
    target = ((step + 0.01) * n * math.log(n)) ** exponent
    wanted = a * (1 + plan.gain * (norm / math.sqrt(n) / target - 1))
    return min(float(plan.most), max(0.1, wanted))
