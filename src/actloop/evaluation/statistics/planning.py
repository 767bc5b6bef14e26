"""Before a run: how many episodes a difference needs to be seen, and which difference a number of episodes can show.

Powers are those of the exact McNemar test that is made afterwards, not of its normal approximation.
"""

import math

import numpy as np
from scipy.special import bdtr, bdtrik, gammaln, ndtri, xlogy

_TAIL = 8.0  # standard deviations of the number of discordant pairs that are summed over


def discordant_share(first: float, second: float, *, correlation: float = 0.0) -> float:
    """The fraction of pairs in which arms with these success rates differ.

    `correlation` of their successes on the same initial condition: 0 where sharing seeds helps nothing, 1 at most.

    Raises:
        ValueError: a rate outside 0..1, or a correlation that these rates do not allow.
    """
    if not (0 <= first <= 1 and 0 <= second <= 1):
        raise ValueError(f"success rates in 0..1 are needed, got {first} and {second}")
    spread = math.sqrt(first * (1 - first) * second * (1 - second))
    both = first * second + correlation * spread
    if not max(0.0, first + second - 1) - 1e-12 <= both <= min(first, second) + 1e-12:
        raise ValueError(f"arms at {first} and {second} cannot be correlated by {correlation}")
    return first + second - 2 * both


def mcnemar_power(pairs: int, difference: float, discordant: float, *, alpha: float = 0.05) -> float:
    """How probably an exact McNemar test over so many pairs finds this difference in success rate.

    Raises:
        ValueError: no pairs, or a difference that so few discordant pairs cannot make.
    """
    gap = abs(difference)
    if pairs < 1 or not gap <= discordant <= 1 or discordant <= 0:
        raise ValueError(f"pairs >= 1 and |difference| <= discordant <= 1 are needed, got {pairs}, {gap}, {discordant}")
    middle, width = pairs * discordant, _TAIL * math.sqrt(pairs * discordant * (1 - discordant)) + 1
    counts = np.arange(max(1, math.floor(middle - width)), min(pairs, math.ceil(middle + width)) + 1)
    log = gammaln(pairs + 1) - gammaln(counts + 1) - gammaln(pairs - counts + 1)
    weights = np.exp(log + xlogy(counts, discordant) + xlogy(pairs - counts, 1 - discordant))
    critical = _critical(counts, alpha)  # as few of the rarer kind, or fewer, are significant; -1: none is
    likely = (discordant + gap) / (2 * discordant)
    found = np.where(critical >= 0, _at_most(critical, counts, 1 - likely) + _at_most(critical, counts, likely), 0.0)
    return float(min(1.0, (weights * found).sum()))


def pairs_needed(difference: float, discordant: float, *, alpha: float = 0.05, power: float = 0.8) -> int:
    """Paired episodes with which an exact McNemar test would see this difference, so often as `power` says.

    `difference` is in success rate, `discordant` the fraction of pairs in which the arms differ (at least as large).

    Raises:
        ValueError: no difference, or an alpha or power outside (0, 1).
    """
    gap = abs(difference)
    if not 0 < gap <= 1:
        raise ValueError(f"a difference in (0, 1] is needed, got {difference}")
    if not (0 < alpha < 1 and 0 < power < 1):
        raise ValueError(f"alpha and power in (0, 1) are needed, got {alpha} and {power}")
    apart = min(1.0, max(discordant, gap))
    z_alpha, z_power = float(ndtri(1 - alpha / 2)), float(ndtri(power))
    roots = z_alpha * math.sqrt(apart) + z_power * math.sqrt(max(0.0, apart - gap * gap))  # Connor, 1987: too few
    count = max(1, math.ceil(max(0.0, roots) ** 2 / gap**2))
    while mcnemar_power(count, gap, apart, alpha=alpha) < power:
        count += max(1, count // 500)
    return count


def detectable_difference(pairs: int, discordant: float, *, alpha: float = 0.05, power: float = 0.8) -> float:
    """The smallest difference that this many pairs would show, in steps of one point; 1 where none would."""
    for points in range(1, 101):
        gap = points / 100
        if pairs and mcnemar_power(pairs, gap, min(1.0, max(discordant, gap)), alpha=alpha) >= power:
            return gap
    return 1.0


def episodes_needed(first: float, second: float, *, alpha: float = 0.05, power: float = 0.8) -> int:
    """Episodes of each arm, not paired, to tell these success rates apart by a two-sided pooled z-test.

    Raises:
        ValueError: equal rates, or one outside 0..1.
    """
    if first == second or not (0 <= first <= 1 and 0 <= second <= 1):
        raise ValueError(f"two different success rates in 0..1 are needed, got {first} and {second}")
    mean = (first + second) / 2
    null = float(ndtri(1 - alpha / 2)) * math.sqrt(2 * mean * (1 - mean))
    other = float(ndtri(power)) * math.sqrt(first * (1 - first) + second * (1 - second))
    return math.ceil(((null + other) / (first - second)) ** 2)


def _critical(counts: np.ndarray, alpha: float) -> np.ndarray:
    """The largest k with 2 P(Binomial(n, 1/2) <= k) <= alpha for each n; -1 where there is none."""
    k = np.floor(np.nan_to_num(bdtrik(alpha / 2, counts, 0.5), nan=-1.0)) + 1  # the root may lie a rounding below
    for _ in range(3):
        k = np.where((k >= 0) & (2 * _at_most(k, counts, 0.5) > alpha * (1 + 1e-12)), k - 1, k)
    critical: np.ndarray = k
    return critical


def _at_most(k: np.ndarray, n: np.ndarray, p: float) -> np.ndarray:
    """P(Binomial(n, p) <= k), 0 below 0."""
    found: np.ndarray = np.where(k >= 0, bdtr(np.clip(k, 0, n), n, p), 0.0)
    return found
