"""Intervals and paired tests for successes, and summaries of times. Pure functions; all intervals are 95 % unless told.

one arm, one task       wilson, clopper_pearson
one arm, many tasks     mean_success: mean of the tasks' rates, initial conditions resampled as clusters
two arms, same seeds    mcnemar, paired_difference, holm, pairs_needed
how fast                time_to_success
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import bdtr, betaincinv, ndtri  # scipy.stats takes a second to import, in every worker

Successes = Mapping[str, Mapping[int, bool]]
"""Success by task and by the seed of the initial condition."""

RESAMPLES = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A fraction and the range that the data leave open for it, all in 0..1 (differences: -1..1)."""

    value: float
    low: float
    high: float

    def widened(self, low: float, high: float) -> "Interval":
        """This interval, stretched until it holds `low` and `high` as well."""
        return Interval(value=self.value, low=min(self.low, low), high=max(self.high, high))


def wilson(k: float, n: float, *, confidence: float = 0.95) -> Interval:
    """Wilson's score interval for `k` successes in `n` trials; (0, 1) around nothing where `n` is 0."""
    _check_counts(k, n)
    if n == 0:
        return Interval(value=math.nan, low=0.0, high=1.0)
    z = float(ndtri(0.5 + confidence / 2))
    rate = k / n
    centre = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    low = 0.0 if k == 0 else max(0.0, centre - half)
    high = 1.0 if k == n else min(1.0, centre + half)
    return Interval(value=rate, low=low, high=high)


def clopper_pearson(k: int, n: int, *, confidence: float = 0.95) -> Interval:
    """The exact interval: covers the true rate at least as often as it says, at the price of being wide."""
    _check_counts(k, n)
    if n == 0:
        return Interval(value=math.nan, low=0.0, high=1.0)
    tail = (1 - confidence) / 2
    low = 0.0 if k == 0 else float(betaincinv(k, n - k + 1, tail))
    high = 1.0 if k == n else float(betaincinv(k + 1, n - k, 1 - tail))
    return Interval(value=k / n, low=low, high=high)


def mean_success(successes: Successes, *, seed: int = 0, confidence: float = 0.95) -> Interval:
    """The mean of the tasks' success rates, each task counting the same.

    Seeds are resampled as clusters, since one seed may lay out several tasks alike. A bootstrap of few or unanimous
    episodes is too sure of itself (ten of ten would get no width at all), so the result also covers Wilson's interval
    for as many pooled episodes.
    """
    table, _ = _table(successes)
    if table.size == 0:
        return Interval(value=math.nan, low=0.0, high=1.0)
    value = _mean_of_tasks(table)
    count = int(np.isfinite(table).sum())
    low, high = _cluster_bootstrap(table, seed=seed, confidence=confidence)
    pooled = wilson(value * count, count, confidence=confidence)
    return Interval(value=value, low=low, high=high).widened(pooled.low, pooled.high)


@dataclass(frozen=True, slots=True, kw_only=True)
class Paired:
    """Two arms on the same initial conditions: what only the one and only the other solved."""

    pairs: int
    only_first: int
    only_second: int
    p_value: float
    difference: Interval

    @property
    def discordant(self) -> int:
        return self.only_first + self.only_second


def compare_paired(first: Successes, second: Successes, *, seed: int = 0, confidence: float = 0.95) -> Paired:
    """First against second on the initial conditions that both ran; the difference is first minus second."""
    shared = {task: sorted(set(seeds) & set(second.get(task, {}))) for task, seeds in first.items() if second.get(task)}
    only_first = sum(first[task][s] and not second[task][s] for task, seeds in shared.items() for s in seeds)
    only_second = sum(second[task][s] and not first[task][s] for task, seeds in shared.items() for s in seeds)
    both = sum(first[task][s] and second[task][s] for task, seeds in shared.items() for s in seeds)
    pairs = sum(len(seeds) for seeds in shared.values())
    differences = {
        task: {s: float(first[task][s]) - float(second[task][s]) for s in seeds} for task, seeds in shared.items()
    }
    table, _ = _table(differences)
    if table.size == 0:
        open_range = Interval(value=math.nan, low=-1.0, high=1.0)
        return Paired(pairs=0, only_first=0, only_second=0, p_value=1.0, difference=open_range)
    low, high = _cluster_bootstrap(table, seed=seed, confidence=confidence)
    score = paired_difference(both, only_first, only_second, pairs, confidence=confidence)
    return Paired(
        pairs=pairs,
        only_first=only_first,
        only_second=only_second,
        p_value=mcnemar(only_first, only_second),
        difference=Interval(value=_mean_of_tasks(table), low=low, high=high).widened(score.low, score.high),
    )


def mcnemar(only_first: int, only_second: int) -> float:
    """Exact two-sided p-value that pairs which differ fall either way equally often; 1 where none differ."""
    _check_counts(only_first, only_first + only_second)
    discordant = only_first + only_second
    if discordant == 0:
        return 1.0
    return float(min(1.0, 2 * bdtr(min(only_first, only_second), discordant, 0.5)))


def paired_difference(
    both: int, only_first: int, only_second: int, pairs: int, *, confidence: float = 0.95
) -> Interval:
    """Newcombe's score interval (his method 10) for the difference of two success rates on the same pairs."""
    neither = pairs - both - only_first - only_second
    if pairs == 0 or min(both, only_first, only_second, neither) < 0:
        raise ValueError(f"{pairs} pairs cannot hold {both} + {only_first} + {only_second} successes")
    one = wilson(both + only_first, pairs, confidence=confidence)
    two = wilson(both + only_second, pairs, confidence=confidence)
    product = (both + only_first) * (only_second + neither) * (both + only_second) * (only_first + neither)
    agreement = both * neither - only_first * only_second
    covariance = max(0.0, agreement - pairs / 2) if agreement > 0 else float(agreement)
    phi = 0.0 if product == 0 else covariance / math.sqrt(product)
    below = (one.value - one.low, two.high - two.value)
    above = (one.high - one.value, two.value - two.low)
    value = one.value - two.value
    return Interval(value=value, low=max(-1.0, value - _span(*below, phi)), high=min(1.0, value + _span(*above, phi)))


def _span(one: float, two: float, phi: float) -> float:
    return math.sqrt(max(0.0, one * one - 2 * phi * one * two + two * two))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction: p-values that may be read as if each were the only one, in the given order."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    corrected = [1.0] * len(p_values)
    running = 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = running
    return corrected


def pairs_needed(difference: float, discordant: float, *, alpha: float = 0.05, power: float = 0.8) -> int:
    """Paired episodes with which a McNemar test would see this difference (after Connor, 1987).

    `difference` is in success rate, `discordant` the fraction of pairs in which the arms differ (at least as large).
    """
    gap = abs(difference)
    if not 0 < gap <= 1:
        raise ValueError(f"a difference in (0, 1] is needed, got {difference}")
    apart = min(1.0, max(discordant, gap))
    z_alpha, z_power = float(ndtri(1 - alpha / 2)), float(ndtri(power))
    return math.ceil((z_alpha * math.sqrt(apart) + z_power * math.sqrt(max(0.0, apart - gap * gap))) ** 2 / gap**2)


def detectable_difference(pairs: int, discordant: float, *, alpha: float = 0.05, power: float = 0.8) -> float:
    """The smallest difference that this many pairs would show, in steps of one point; 1 where none would."""
    for points in range(1, 101):
        if pairs_needed(points / 100, discordant, alpha=alpha, power=power) <= pairs:
            return points / 100
    return 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeToSuccess:
    """Seconds. `median` is over successes (NaN without one); `restricted_mean` counts a failure as its time limit."""

    median: float
    restricted_mean: float


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


def _table(values: Mapping[str, Mapping[int, float]]) -> tuple[np.ndarray, list[int]]:
    """Rows are tasks, columns seeds, NaN where a task did not run a seed; tasks without episodes are left out."""
    tasks = [task for task in sorted(values) if values[task]]
    seeds = sorted({seed for task in tasks for seed in values[task]})
    table = np.array([[float(values[task].get(seed, math.nan)) for seed in seeds] for task in tasks])
    return table, seeds


def _mean_of_tasks(table: np.ndarray) -> float:
    return float(np.nanmean(table, axis=1).mean())


def _cluster_bootstrap(table: np.ndarray, *, seed: int, confidence: float) -> tuple[float, float]:
    rng = np.random.default_rng(seed)
    draws = rng.integers(table.shape[1], size=(RESAMPLES, table.shape[1]))
    weights = np.stack([np.bincount(draw, minlength=table.shape[1]) for draw in draws])  # (resamples, seeds)
    present = np.isfinite(table)
    sums = weights @ np.where(present, table, 0.0).T  # (resamples, tasks)
    counts = weights @ present.T.astype(float)
    drawn = counts > 0  # a draw may miss every seed of a task that ran few; the task then sits this draw out
    rates = np.where(drawn, sums / np.maximum(counts, 1), 0.0)
    means = rates.sum(axis=1) / np.maximum(drawn.sum(axis=1), 1)
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def _check_counts(k: float, n: float) -> None:
    if not 0 <= k <= n:
        raise ValueError(f"{k} successes in {n} trials cannot be")
