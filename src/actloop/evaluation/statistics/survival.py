"""How long until something happens, where it may not have happened when one stopped looking: Kaplan and Meier.

time to success         failures and crashes never succeed: they count as not yet at their time limit, not as unknown
time to recovery        from the disturbance on; the same
detection delay         from the disturbance to the alarm; never, until the episode ended: unknown from there on
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module

import numpy as np

from actloop.evaluation.statistics.intervals import Interval, checked, clopper_pearson, normal_quantile


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """The share to which it has not yet happened, by time: a step at each of `times` (seconds, rising).

    `low` and `high` are a band point by point, `at_risk` how many were still looked at just before, `happened` to how
    many it did then. `looked` is the longest that anybody was looked at: beyond it nothing is known.
    """

    count: int
    times: tuple[float, ...]
    share: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    at_risk: tuple[int, ...]
    happened: tuple[int, ...]
    looked: float
    confidence: float

    def at(self, time: float) -> Interval:
        """The share to which it has not happened after `time` seconds; beyond `looked` it may be anything down to 0."""
        index = int(np.searchsorted(self.times, time, side="right")) - 1
        if index < 0:
            full = clopper_pearson(self.count, self.count, confidence=self.confidence)
            return Interval(value=1.0, low=full.low, high=1.0)
        low = 0.0 if time > self.looked else self.low[index]
        return Interval(value=self.share[index], low=low, high=self.high[index])

    def done_by(self, time: float) -> Interval:
        """The share to which it has happened by `time`: the curve of time to success."""
        left = self.at(time)
        return Interval(value=1 - left.value, low=1 - left.high, high=1 - left.low)

    @property
    def median(self) -> Interval:
        """Seconds by which it happened to half; infinite where it did not to so many."""
        value, low, high = (_first_at_or_below(self.times, band) for band in (self.share, self.low, self.high))
        return Interval(value=value, low=low, high=high)

    def restricted_mean(self, limit: float) -> Interval:
        """Mean seconds until it happened or `limit` was reached: the area under the curve, with Greenwood's error.

        Raises:
            ValueError: a limit of 0 or less, or longer than anybody was looked at.
        """
        known = math.inf if self.share and self.share[-1] <= 0 else self.looked
        if not 0 < limit <= known:
            raise ValueError(f"a limit in (0, {self.looked}] s is needed, as nobody was looked at longer, got {limit}")
        edges = np.array([0.0, *(time for time in self.times if time < limit), limit])
        shares = np.array([1.0, *(s for time, s in zip(self.times, self.share, strict=True) if time < limit)])
        areas = np.diff(edges) * shares
        left = np.cumsum(areas[::-1])[::-1]  # area from each step on
        variance = 0.0
        for index in range(1, len(shares)):
            risk, events = self.at_risk[index - 1], self.happened[index - 1]
            if risk > events:
                variance += float(left[index]) ** 2 * events / (risk * (risk - events))
        half = normal_quantile(self.confidence) * math.sqrt(variance)
        mean = float(areas.sum())
        return Interval(value=mean, low=max(0.0, mean - half), high=min(limit, mean + half))


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeToSuccess:
    """Seconds. `median` is over successes (NaN without one); `restricted_mean` counts a failure as its time limit."""

    median: float
    restricted_mean: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """To how many of `count` it happened at all, and how long it took, those to whom it did not included."""

    count: int
    happened: int
    share: Interval
    curve: Curve


def survival_curve(times: Sequence[float], happened: Sequence[bool], *, confidence: float = 0.95) -> Curve:
    """Kaplan and Meier's curve with log-log bands.

    `times` are seconds to the event, or, where it has not `happened`, until when one looked. Where the log-log band is
    not defined (share 0) it is Clopper and Pearson's for as many as were at risk.

    Raises:
        ValueError: nothing to count, other lengths, a time that is negative or not finite, or a confidence
            outside (0, 1).
    """
    when, so = _checked_times(times, happened)
    steps = np.unique(when[so])
    risk = np.array([(when >= step).sum() for step in steps], dtype=int)
    events = np.array([(when[so] == step).sum() for step in steps], dtype=int)
    share, low, high = _bands(when, so, steps, checked(confidence))
    gone = share <= 0
    low[gone] = 0.0
    high[gone] = [clopper_pearson(0, int(count), confidence=confidence).high for count in risk[gone]]
    return Curve(
        count=len(when),
        times=tuple(steps.tolist()),
        share=tuple(share.tolist()),
        low=tuple(low.tolist()),
        high=tuple(np.minimum.accumulate(high).tolist()),
        at_risk=tuple(risk.tolist()),
        happened=tuple(events.tolist()),
        looked=float(when.max()),
        confidence=confidence,
    )


def success_curve(
    times: Sequence[float], successes: Sequence[bool], limits: Sequence[float], *, confidence: float = 0.95
) -> Curve:
    """The share that has not succeeded yet, by time; one entry per episode, in seconds.

    A failure or crash, however early, has not succeeded by its time limit. (Taken as no longer looked at from its end
    on, it would count as if it might still have succeeded like the others, and the more failures the better.)

    Raises:
        ValueError: as `survival_curve`.
    """
    charged = [
        limit if not won else min(time, limit) for time, won, limit in zip(times, successes, limits, strict=True)
    ]
    return survival_curve(charged, successes, confidence=confidence)


def waiting(happened: Sequence[float | None], looked: Sequence[float], *, confidence: float = 0.95) -> Waiting:
    """Seconds from a disturbance to its detection or recovery; None where it never came, `looked` until when.

    For a recovery that an early failure ruled out, `looked` reaches to the time limit.

    Raises:
        ValueError: as `survival_curve`.
    """
    times = [until if time is None else time for time, until in zip(happened, looked, strict=True)]
    so = [time is not None for time in happened]
    curve = survival_curve(times, so, confidence=confidence)
    share = clopper_pearson(sum(so), len(so), confidence=confidence)
    return Waiting(count=len(so), happened=sum(so), share=share, curve=curve)


def logrank(
    times: Sequence[float], happened: Sequence[bool], other_times: Sequence[float], other_happened: Sequence[bool]
) -> float:
    """Two-sided p-value of the log-rank test that both wait alike; for independent episodes of one task.

    1 where nothing happened in either. On shared seeds, `compare_values` of the restricted times sees more.

    Raises:
        ValueError: as `survival_curve`.
    """
    one, two = _checked_times(times, happened), _checked_times(other_times, other_happened)
    if not (one[1].any() or two[1].any()):
        return 1.0
    stats = import_module("scipy.stats")
    censored = [stats.CensoredData.right_censored(when, ~so) for when, so in (one, two)]
    with np.errstate(invalid="ignore", divide="ignore"):
        p_value = float(stats.logrank(*censored).pvalue)
    return p_value if math.isfinite(p_value) else 1.0


def time_to_success(times: Sequence[float], successes: Sequence[bool], limits: Sequence[float]) -> TimeToSuccess:
    """How long episodes took; the three sequences go together, one entry per episode, in seconds."""
    solved = [time for time, success in zip(times, successes, strict=True) if success]
    charged = [
        min(time, limit) if success else limit for time, success, limit in zip(times, successes, limits, strict=True)
    ]
    return TimeToSuccess(
        median=float(np.median(solved)) if solved else math.nan,
        restricted_mean=float(np.mean(charged)) if charged else math.nan,
    )


def _bands(
    when: np.ndarray, so: np.ndarray, steps: np.ndarray, confidence: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Share, low and high at each step."""
    if not len(steps):
        return np.zeros(0), np.zeros(0), np.zeros(0)
    stats = import_module("scipy.stats")
    survival = stats.ecdf(stats.CensoredData.right_censored(when, ~so)).sf
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # says that the band is not defined where the share is 0 or 1
        band = survival.confidence_interval(confidence, method="log-log")
    return survival.evaluate(steps), band.low.evaluate(steps), band.high.evaluate(steps)


def _checked_times(times: Sequence[float], happened: Sequence[bool]) -> tuple[np.ndarray, np.ndarray]:
    if len(times) != len(happened):
        raise ValueError(f"one time per outcome is needed, got {len(times)} for {len(happened)}")
    if not len(times):
        raise ValueError("a curve needs at least one episode")
    if not all(0 <= time < math.inf for time in times):
        raise ValueError("times in seconds, finite and 0 or more, are needed")
    return np.array(times, dtype=float), np.array(happened, dtype=bool)


def _first_at_or_below(times: Sequence[float], shares: Sequence[float]) -> float:
    return next((time for time, share in zip(times, shares, strict=True) if share <= 0.5), math.inf)
