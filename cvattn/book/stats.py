"""An average over seeds, how far it can be trusted, and what many looks cost."""

import math
from collections.abc import Sequence

TAIL, MOST = 1e-9, 100_000      # of p and df; the series has df / 2 terms


def t_cdf(t: float, df: int) -> float:
    """Return P(T <= t) for Student's T with df degrees of freedom, exactly.

    The finite series for whole df (Abramowitz and Stegun 1964, 26.7.3, 26.7.4).
    """
    angle = math.atan(t / math.sqrt(df))
    cos2 = math.cos(angle) ** 2
    term = total = 1.0 if df % 2 == 0 else math.cos(angle)
    for k in range(2 + df % 2, df - 1, 2):
        term *= cos2 * (k - 1) / k
        total += term
    if df % 2 == 0:
        return 0.5 + math.sin(angle) * total / 2
    inner = angle + (math.sin(angle) * total if df > 1 else 0.0)
    return 0.5 + inner / math.pi


def t_quantile(p: float, df: int) -> float:
    """Return the t with P(T <= t) = p, by halving an interval.

    Nearer to 0 or 1 than TAIL the series has no digit left, so there it is refused.
    """
    if not TAIL <= p <= 1 - TAIL or not 1 <= df <= MOST or df % 1:
        raise ValueError(f"need {TAIL} <= p <= 1 - {TAIL} and a whole df from 1 to "
                         f"{MOST}, got p={p}, df={df}")
    low, high = -1.0, 1.0
    while t_cdf(low, df) > p:
        low *= 2
    while t_cdf(high, df) < p:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if t_cdf(middle, df) < p else (low, middle)
    return high


def t_interval(
    values: Sequence[float], *, level: float = 0.95
) -> tuple[float, float, float]:
    """Return the mean and its confidence interval, (mean, low, high).

    mean -+ t * sd / sqrt(n), with the sample standard deviation (n - 1) and
    Student's t at n - 1 degrees of freedom. For two arms that share their seeds,
    give the differences: seed by seed, not mean by mean.

    >>> [round(v, 3) for v in t_interval([1.0, 2.0, 3.0, 4.0])]
    [2.5, 0.446, 4.554]
    """
    n = len(values)
    if n < 2 or not TAIL <= level <= 1 - 2 * TAIL:
        raise ValueError(f"need at least 2 values and {TAIL} <= level <= 1 - {2 * TAIL}"
                         f", got n={n}, level={level}")
    mean = math.fsum(values) / n
    sd = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1))
    reach = t_quantile((1 + level) / 2, n - 1) * sd / math.sqrt(n)
    return mean, mean - reach, mean + reach


def t_test(values: Sequence[float]) -> float:
    """Return Student's two-sided p: how often chance alone would be as far from 0.

    Below 1 - level exactly when `t_interval(values, level=level)` misses zero.

    >>> round(t_test([1.0, 2.0, 3.0, 4.0]), 3)
    0.03
    """
    n, (mean, low, _) = len(values), t_interval(values)
    if mean == low:
        return float(mean == 0)
    t = abs(mean) / (mean - low) * t_quantile(0.975, n - 1)
    return max(0.0, 2 * t_cdf(-t, n - 1))      # the series may end below 0


def holm(p: Sequence[float]) -> list[float]:
    """Return p corrected for looking at all of them (Holm 1979), in their order.

    The smallest of n is multiplied by n, the next by n - 1, …; none may fall below
    one before it, or rise above 1. Calling the sign of those at most alpha, all signs
    called are right with probability 1 - alpha, however the looks hang together.

    >>> [round(v, 3) for v in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    if not all(0 <= v <= 1 for v in p):
        raise ValueError(f"every p must lie in [0, 1], got {list(p)}")
    corrected, last = [0.0] * len(p), 0.0
    for rank, i in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        last = corrected[i] = max(last, min(1.0, (len(p) - rank) * p[i]))
    return corrected


def signs(groups: Sequence[Sequence[float]], *, alpha: float = 0.05) -> list[int]:
    """Return the sign of each group's mean, 0 where it is open, by `t_test` and `holm`.

    >>> signs([[1.0, 1.1, 0.9], [0.1, 0.2, -0.1], [-2.0, -2.1, -2.2]])
    [1, 0, -1]
    """
    p = holm([t_test(values) for values in groups])
    return [0 if q > alpha else 1 if math.fsum(values) > 0 else -1
            for q, values in zip(p, groups, strict=True)]
