"""How far off a share may be: score, exact and Bayesian intervals for successes in trials. All are 95 % unless told."""

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import betainc, betaincinv, ndtri  # scipy.stats takes a second to import, in every worker

PRIORS = {"jeffreys": 0.5, "uniform": 1.0}
_NODES = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A number and the range that the data leave open for it, in the number's own unit (shares: 0..1)."""

    value: float
    low: float
    high: float

    def widened(self, low: float, high: float) -> "Interval":
        """This interval, stretched until it holds `low` and `high` as well."""
        return Interval(value=self.value, low=min(self.low, low), high=max(self.high, high))

    def scaled(self, factor: float) -> "Interval":
        """In another unit, `factor` of which make one of this."""
        return Interval(value=factor * self.value, low=factor * self.low, high=factor * self.high)


def wilson(k: float, n: float, *, confidence: float = 0.95) -> Interval:
    """Wilson's score interval for `k` successes in `n` trials; (0, 1) around nothing where `n` is 0.

    Both may be fractions: of a sample that is worth fewer independent trials than it counts.

    Raises:
        ValueError: more successes than trials, or a confidence outside (0, 1).
    """
    check_counts(k, n)
    if n == 0:
        return Interval(value=math.nan, low=0.0, high=1.0)
    z = normal_quantile(confidence)
    rate = k / n
    centre = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(max(0.0, rate * (1 - rate)) / n + z * z / (4 * n * n))
    low = 0.0 if k == 0 else max(0.0, centre - half)
    high = 1.0 if k == n else min(1.0, centre + half)
    return Interval(value=rate, low=low, high=high)


def clopper_pearson(k: int, n: int, *, confidence: float = 0.95) -> Interval:
    """The exact interval: covers the true rate at least as often as it says, at the price of being wide.

    Raises:
        ValueError: as `wilson`.
    """
    check_counts(k, n)
    tail = (1 - checked(confidence)) / 2
    if n == 0:
        return Interval(value=math.nan, low=0.0, high=1.0)
    low = 0.0 if k == 0 else float(betaincinv(k, n - k + 1, tail))
    high = 1.0 if k == n else float(betaincinv(k + 1, n - k, 1 - tail))
    return Interval(value=k / n, low=low, high=high)


def upper_bound(k: int, n: int, *, confidence: float = 0.95) -> float:
    """The largest rate that `k` events in `n` trials leave open, one-sided and exact; about 3/n where none was seen.

    Raises:
        ValueError: as `wilson`.
    """
    check_counts(k, n)
    return 1.0 if k == n else float(betaincinv(k + 1, n - k, checked(confidence)))


def posterior(k: float, n: float, *, prior: str = "jeffreys", confidence: float = 0.95) -> Interval:
    """Mean and equal-tailed interval of the Beta posterior of a success rate.

    `prior` is `jeffreys`, Beta(1/2, 1/2), or `uniform`, Beta(1, 1). Without trials it is the prior's.

    Raises:
        ValueError: as `wilson`, or an unknown prior.
    """
    check_counts(k, n)
    tail, (a, b) = (1 - checked(confidence)) / 2, _beta(k, n, prior)
    low, high = (float(betaincinv(a, b, share)) for share in (tail, 1 - tail))
    return Interval(value=a / (a + b), low=low, high=high)


def probability_better(k: float, n: float, other_k: float, other_n: float, *, prior: str = "jeffreys") -> float:
    """How probable it is that the first success rate lies above the other's, given independent trials of each.

    Not for arms on shared seeds, whose trials are not independent.

    Raises:
        ValueError: as `posterior`.
    """
    check_counts(k, n)
    check_counts(other_k, other_n)
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    rates = betaincinv(*_beta(k, n, prior), (nodes + 1) / 2)
    return float(np.clip(weights @ betainc(*_beta(other_k, other_n, prior), rates) / 2, 0.0, 1.0))


def check_counts(k: float, n: float) -> None:
    """Raises `ValueError` where `k` of `n` cannot be."""
    if not 0 <= k <= n < math.inf:
        raise ValueError(f"{k} successes in {n} trials cannot be")


def checked(confidence: float) -> float:
    """The confidence, where it is one; raises `ValueError` otherwise."""
    if not 0 < confidence < 1:
        raise ValueError(f"a confidence in (0, 1) is needed, got {confidence}")
    return confidence


def normal_quantile(confidence: float) -> float:
    """Standard errors to either side that hold this share of a normal distribution."""
    return float(ndtri(0.5 + checked(confidence) / 2))


def _beta(k: float, n: float, prior: str) -> tuple[float, float]:
    if prior not in PRIORS:
        raise ValueError(f"unknown prior {prior!r}; known: {', '.join(sorted(PRIORS))}")
    return k + PRIORS[prior], n - k + PRIORS[prior]
