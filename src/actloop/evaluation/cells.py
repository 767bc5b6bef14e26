"""What a comparison says in numbers: cells of its tables, and the differences between two of them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from actloop.evaluation.statistics import Interval, Paired, TimeToSuccess

ALL = "all"
SIGNIFICANT = 0.05  # p below it, after Holm, is called a measurable difference


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Order statistics; NaN where nothing was counted."""

    p50: float
    p95: float
    p99: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One arm under one condition over one scope. Means are per episode; `cost` is computing per second of robot.

    `latency_ms` is what the clock charged; `late` are ticks held because a plan was spent before the next came,
    `starved` those before the first came; `age_ms` is that of the observation behind each executed action. `computed`
    are seconds of computing, `alarms` looks on which a check was over its threshold.
    """

    arm: str
    condition: str
    scope: str
    episodes: int
    planned: int
    successes: int
    crashed: int
    success: Interval
    time: TimeToSuccess
    latency_ms: Spread
    age_ms: Spread
    late: float
    starved: float
    ticks: float
    calls: float
    dropped: float
    cost: float
    computed: float
    alarms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrast:
    """Two arms on shared seeds under one condition; `p_corrected` is Holm's within the family of its scope."""

    condition: str
    scope: str
    first: str
    second: str
    paired: Paired
    p_corrected: float = 1.0

    @property
    def separated(self) -> bool:
        return separated(self.paired, self.p_corrected)


@dataclass(frozen=True, slots=True, kw_only=True)
class Slowdown:
    """One arm against itself, quick and slow, on shared seeds; the difference is slow minus quick."""

    arm: str
    scope: str
    quick: str
    slow: str
    paired: Paired
    p_corrected: float = 1.0

    @property
    def separated(self) -> bool:
        return separated(self.paired, self.p_corrected)


@dataclass(frozen=True, slots=True, kw_only=True)
class ForesightRow:
    """Imagined frames `lead` seconds ahead against those that came: PSNR in dB; `still` is that of no change."""

    arm: str
    lead: float
    frames: int
    psnr: float
    still: float


def separated(paired: Paired, p_corrected: float) -> bool:
    """Whether two arms are measurably apart: both the corrected test and the interval have to say so."""
    return p_corrected < SIGNIFICANT and not paired.difference.low <= 0 <= paired.difference.high


def turned(paired: Paired) -> Paired:
    """The same pairs, seen from the other arm."""
    difference = paired.difference
    return replace(
        paired,
        only_first=paired.only_second,
        only_second=paired.only_first,
        difference=Interval(value=-difference.value, low=-difference.high, high=-difference.low),
    )


def spread(values: Sequence[float]) -> Spread:
    """Of values as they are: nothing is interpolated."""
    if not values:
        return Spread(p50=math.nan, p95=math.nan, p99=math.nan)
    p50, p95, p99 = np.quantile(values, [0.5, 0.95, 0.99], method="inverted_cdf")
    return Spread(p50=float(p50), p95=float(p95), p99=float(p99))
