"""Thresholds that keep a promise: order statistics, what they guarantee, and what happens when nothing is guaranteed.

n exchangeable maxima  --rank ceil((n + 1)(1 - alpha))-->  threshold:  P(next maximum > threshold) <= alpha
"""

import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from actloop.errors import ContractError

CONFIDENCE = 0.95


class TooFewEpisodes(ContractError):
    """The false-alarm rate that was asked for cannot be promised from this many episodes."""


def rank(n: int, alpha: float) -> int:
    """Which of `n` sorted values, counted from 1, a new one exceeds with a probability of at most `alpha`.

    The plain (1 - alpha) quantile of the values is too low: it forgets that the new value is one more.

    Raises:
        ContractError: alpha not in (0, 1).
        TooFewEpisodes: n < 1 / alpha - 1; says how many are needed.
    """
    if not 0 < alpha < 1:
        raise ContractError("alpha", f"expected a rate between 0 and 1, got {alpha}")
    k = math.ceil((n + 1) * (1 - alpha) - 1e-9)
    if k > n:
        raise TooFewEpisodes(
            "calibration", f"a false-alarm rate of {alpha:g} needs at least {episodes_needed(alpha)} episodes, got {n}"
        )
    return max(k, 1)


def episodes_needed(alpha: float) -> int:
    """The least number of calibration episodes for a false-alarm rate of `alpha` on average over calibrations."""
    return math.ceil(1 / alpha - 1 - 1e-9)


def episodes_for_certainty(alpha: float, confidence: float = CONFIDENCE) -> int:
    """The least number for which the largest maximum keeps `alpha` in that share of all calibrations."""
    return math.ceil(math.log(1 - confidence) / math.log(1 - alpha) - 1e-9)


def order_statistic(maxima: Sequence[float], alpha: float) -> float:
    """The threshold. Raises as `rank` does."""
    return sorted(maxima)[rank(len(maxima), alpha) - 1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Guarantee:
    """What `n` calibration episodes promise: fresh successful episodes exceed the k-th of their maxima this often.

    The rate of one calibration is itself random, Beta(n + 1 - k, k) where no two maxima tie: `mean` is its mean, at
    most alpha, and `upper` is what it stays below in 95 of 100 calibrations.
    """

    n: int
    alpha: float
    k: int
    mean: float
    upper: float

    @classmethod
    def of(cls, n: int, alpha: float) -> "Guarantee":
        """Raises as `rank` does."""
        k = rank(n, alpha)
        upper = beta_quantile(n + 1 - k, k, CONFIDENCE)
        return cls(n=n, alpha=alpha, k=k, mean=(n + 1 - k) / (n + 1), upper=upper)

    @property
    def statement(self) -> str:
        return (
            f"An alarm in at most {self.alpha:.1%} of fresh successful episodes that are exchangeable with the "
            f"{self.n} calibrated on, on average over calibrations ({self.mean:.1%} where no scores tie); with 95 % "
            f"confidence in at most {self.upper:.1%} for this calibration. Nothing is promised about failures, nor "
            "after anything in the calibration's identity has changed."
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """`count` of `of`, and Clopper and Pearson's exact 95 % interval."""

    count: int
    of: int
    low: float
    high: float

    @classmethod
    def counted(cls, events: Iterable[bool]) -> "Rate":
        found = list(events)
        k, n, tail = sum(found), len(found), (1 - CONFIDENCE) / 2
        low = 0.0 if k == 0 else beta_quantile(k, n - k + 1, tail)
        high = 1.0 if k == n else beta_quantile(k + 1, n - k, 1 - tail)
        return cls(count=k, of=n, low=low, high=high)

    @property
    def value(self) -> float:
        """NaN of nothing."""
        return self.count / self.of if self.of else math.nan

    def __str__(self) -> str:
        if not self.of:
            return "none"
        return f"{self.count}/{self.of}, {100 * self.value:.0f} % ({100 * self.low:.0f}–{100 * self.high:.0f})"


def beta_quantile(a: int, b: int, probability: float) -> float:
    """Of the Beta distribution with whole parameters: where its cumulative distribution reaches `probability`."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if _beta_cumulative(a, b, middle) < probability:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _beta_cumulative(a: int, b: int, x: float) -> float:
    """P(Beta(a, b) <= x) = P(at least a successes in a + b - 1 trials of probability x)."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    n = a + b - 1
    whole, hit, miss = math.lgamma(n + 1), math.log(x), math.log1p(-x)
    terms = (whole - math.lgamma(i + 1) - math.lgamma(n - i + 1) + i * hit + (n - i) * miss for i in range(a, n + 1))
    return math.fsum(math.exp(term) for term in terms)


class AdaptiveThreshold:
    """A threshold for a world that drifts: after a false alarm it asks for less, after a quiet episode for more.

    alpha_t+1 = alpha_t + step (alpha - [episode t raised an alarm]), and the threshold is the order statistic at
    alpha_t of the latest maxima. Its promise is long-run only: over T episodes the rate differs from alpha by at most
    (max(alpha, 1 - alpha) + step) / (step T), whatever happens; about the next episode it says nothing.

    Args:
        maxima: of the calibration, oldest first; each `update` replaces the oldest.
        alpha: the rate of false alarms to keep.
        step: how fast it adapts.

    Raises:
        ContractError: alpha or step not in (0, 1), or no maxima.
    """

    def __init__(self, maxima: Sequence[float], *, alpha: float, step: float = 0.02) -> None:
        if not 0 < alpha < 1 or not 0 < step < 1 or not maxima:
            raise ContractError("adaptive", f"expected maxima, alpha and step in (0, 1), got {alpha} and {step}")
        self._maxima = deque(maxima, maxlen=len(maxima))
        self._alpha, self._step = alpha, step
        self.alpha = alpha
        """alpha_t: may leave 0..1."""

    @property
    def threshold(self) -> float:
        """Infinite where fewer false alarms are asked for than the maxima can tell, minus infinite where all are."""
        k = math.ceil((len(self._maxima) + 1) * (1 - self.alpha) - 1e-9)
        if k > len(self._maxima):
            return math.inf
        return sorted(self._maxima)[k - 1] if k >= 1 else -math.inf

    def update(self, maximum: float) -> bool:
        """Tell it the maximum of an episode that succeeded; returns whether that was a false alarm."""
        alarmed = bool(maximum > self.threshold)
        self.alpha += self._step * (self._alpha - alarmed)
        self._maxima.append(maximum)
        return alarmed
