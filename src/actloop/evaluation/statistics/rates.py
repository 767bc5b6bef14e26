"""How often something happens per time: interventions, alarms. Exact Poisson intervals, and what makes them lie.

A Poisson process has no memory; interventions that come in bursts within an episode are not one. `event_rate` of counts
by episode therefore measures the dispersion, and widens the interval by it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.special import bdtr, bdtrc, gammaincinv

from actloop.evaluation.statistics.intervals import Interval, check_counts, checked, clopper_pearson

HOUR = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRate:
    """Events over seconds of robot time. `per_hour` is a rate, `between` seconds from one to the next (infinite where
    none was seen). `dispersion` is the variance of the counts by episode over a Poisson's; NaN where not known.
    """

    events: int
    seconds: float
    per_hour: Interval
    between: Interval
    dispersion: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RateRatio:
    """How many times as often as in the second arm something happens in the first; p that both are alike."""

    ratio: Interval
    p_value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FalseAlarms:
    """Alarms in undisturbed successful episodes: the share of episodes with any, against the share promised.

    `p_over` is the exact one-sided p-value that the check keeps its promise; NaN without one.
    """

    episodes: int
    alarmed: int
    share: Interval
    promised: float
    p_over: float


def event_rate(counts: Sequence[int], seconds: Sequence[float], *, confidence: float = 0.95) -> EventRate:
    """Events per hour from counts and durations by episode, with Garwood's exact interval (1936).

    Where counts vary more between episodes than a Poisson's would, events come in bursts: the interval is then that of
    as many fewer events and seconds. One pooled count has no dispersion, and is taken for Poisson.

    Raises:
        ValueError: other lengths, a negative count or duration, or no time at all.
    """
    _check_exposure(counts, seconds)
    events, total = sum(counts), math.fsum(seconds)
    spread = dispersion(counts, seconds)
    fewer = max(1.0, spread) if math.isfinite(spread) else 1.0
    tail = (1 - checked(confidence)) / 2
    low = 0.0 if events == 0 else float(gammaincinv(events / fewer, tail))
    high = float(gammaincinv(events / fewer + 1, 1 - tail))
    rate = Interval(value=events / total, low=low * fewer / total, high=high * fewer / total)
    between = Interval(value=_over(rate.value), low=_over(rate.high), high=_over(rate.low))
    return EventRate(events=events, seconds=total, per_hour=rate.scaled(HOUR), between=between, dispersion=spread)


def rate_ratio(
    events: int, seconds: float, other_events: int, other_seconds: float, *, confidence: float = 0.95
) -> RateRatio:
    """First rate over the other's, exact given the number of events in all; (0, infinite) where there were none.

    Raises:
        ValueError: a negative count, or no time.
    """
    _check_exposure([events], [seconds])
    _check_exposure([other_events], [other_seconds])
    total, share = events + other_events, seconds / (seconds + other_seconds)
    if total == 0:
        return RateRatio(ratio=Interval(value=math.nan, low=0.0, high=math.inf), p_value=1.0)
    found = clopper_pearson(events, total, confidence=confidence)
    scale = other_seconds / seconds
    low, value, high = (scale * _odds(part) for part in (found.low, found.value, found.high))
    tails = (float(bdtr(events, total, share)), 1.0 if events == 0 else float(bdtrc(events - 1, total, share)))
    return RateRatio(ratio=Interval(value=value, low=low, high=high), p_value=min(1.0, 2 * min(tails)))


def dispersion(counts: Sequence[int], seconds: Sequence[float]) -> float:
    """Pearson's statistic over its degrees of freedom: 1 of a Poisson process, above it of bursts; NaN if not known.

    Raises:
        ValueError: as `event_rate`.
    """
    _check_exposure(counts, seconds)
    spent = [(count, time) for count, time in zip(counts, seconds, strict=True) if time > 0]
    if len(spent) < 2 or not sum(counts):
        return math.nan
    rate = sum(counts) / math.fsum(seconds)
    return math.fsum((count - rate * time) ** 2 / (rate * time) for count, time in spent) / (len(spent) - 1)


def false_alarms(alarmed: int, episodes: int, *, promised: float = math.nan, confidence: float = 0.95) -> FalseAlarms:
    """The realised false alarm rate per episode with its exact interval, against the calibrated one.

    Raises:
        ValueError: more alarmed episodes than episodes, or a promise outside 0..1.
    """
    check_counts(alarmed, episodes)
    p_over = math.nan
    if not math.isnan(promised):
        if not 0 <= promised <= 1:
            raise ValueError(f"a promised share in 0..1 is needed, got {promised}")
        p_over = 1.0 if alarmed == 0 else float(bdtrc(alarmed - 1, episodes, promised))
    share = clopper_pearson(alarmed, episodes, confidence=confidence)
    return FalseAlarms(episodes=episodes, alarmed=alarmed, share=share, promised=promised, p_over=p_over)


def _check_exposure(counts: Sequence[int], seconds: Sequence[float]) -> None:
    if len(counts) != len(seconds):
        raise ValueError(f"one duration per count is needed, got {len(seconds)} for {len(counts)}")
    if any(count < 0 for count in counts) or not all(0 <= time < math.inf for time in seconds):
        raise ValueError("counts and seconds of 0 or more are needed")
    if math.fsum(seconds) <= 0:
        raise ValueError("a rate needs time in which events could have happened, got 0 s")
    if any(count and not time for count, time in zip(counts, seconds, strict=True)):
        raise ValueError("events were counted in an episode of 0 s")


def _over(rate: float) -> float:
    return math.inf if rate == 0 else 1 / rate


def _odds(share: float) -> float:
    return math.inf if share >= 1 else share / (1 - share)
