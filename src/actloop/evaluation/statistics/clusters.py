"""Means over tasks where one seed may lay out several tasks alike: the initial condition is the unit, not the episode.

    value by task and seed --influence of each seed--> variance of the mean --> design effect --> effective episodes

The design effect is how many times the variance of the mean exceeds that of as many independent episodes. Dividing the
count by it, and by (t / z)^2 for the few seeds that it is estimated from, gives the independent episodes that these
are worth (after Korn and Graubard, 1998); score intervals are then computed as for that many.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from actloop.evaluation.statistics.intervals import Interval, checked, normal_quantile, wilson

Successes = Mapping[str, Mapping[int, bool]]
"""Success by task and by the seed of the initial condition. A crashed episode is a failure."""

Values = Mapping[str, Mapping[int, float]]
"""Any number by task and by the seed of the initial condition."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mean:
    """The mean over tasks, each counting the same, and what is known of its error.

    `influences` are what each seed moves it by, in the order of the seeds; they add up to 0. `episodes` is the count,
    after the tasks' unequal weights of an episode; `clustered` says whether any seed holds several.
    """

    value: float
    influences: tuple[float, ...]
    episodes: float
    clustered: bool

    @property
    def seeds(self) -> int:
        return len(self.influences)

    @property
    def variance(self) -> float:
        """Of the mean, from the spread between seeds; NaN of a single one."""
        if self.seeds < 2:
            return math.nan
        return self.seeds / (self.seeds - 1) * math.fsum(x * x for x in self.influences)

    def quantile(self, confidence: float) -> float:
        """Standard errors to either side: Student's, with one degree of freedom less than seeds."""
        return float(stdtrit(self.seeds - 1, 0.5 + checked(confidence) / 2)) if self.seeds > 1 else math.inf

    def worth(self, spread: float, confidence: float) -> float:
        """Independent episodes that these are worth, where `spread` is the variance of one."""
        if not self.clustered:
            return self.episodes
        if self.seeds < 2:
            return 1.0
        if spread <= 0 or self.variance <= 0 or self.episodes <= 1:
            return self.episodes
        effect = self.variance / (spread / (self.episodes - 1))
        shrink = (normal_quantile(confidence) / self.quantile(confidence)) ** 2
        return min(self.episodes, shrink * self.episodes / effect)


def mean_success(successes: Successes, *, confidence: float = 0.95) -> Interval:
    """The mean of the tasks' success rates, each task counting the same, with a score interval that respects seeds.

    Wilson's interval for the independent episodes that these are worth: fewer than they count where a seed decides
    over several tasks at once. (0, 1) around nothing where nothing ran.

    Raises:
        ValueError: a confidence outside (0, 1).
    """
    mean = mean_of_tasks(successes)
    if mean is None:
        return Interval(value=math.nan, low=0.0, high=1.0)
    worth = mean.worth(mean.value * (1 - mean.value), confidence)
    return wilson(min(mean.value, 1.0) * worth, worth, confidence=confidence)


def mean_value(values: Values, *, confidence: float = 0.95) -> Interval:
    """The mean of the tasks' means with Student's interval over seeds; no range at all from a single seed.

    Raises:
        ValueError: a confidence outside (0, 1), or a value is not finite.
    """
    mean = mean_of_tasks(values)
    if mean is None:
        return Interval(value=math.nan, low=-math.inf, high=math.inf)
    half = math.inf if mean.seeds < 2 else mean.quantile(confidence) * math.sqrt(mean.variance)
    return Interval(value=mean.value, low=mean.value - half, high=mean.value + half)


def mean_of_tasks(values: Values) -> Mean | None:
    """The mean over tasks and each seed's part in its error; None where nothing ran.

    Raises:
        ValueError: a value is not finite.
    """
    tasks = [task for task in sorted(values) if values[task]]
    if not tasks:
        return None
    seeds = sorted({seed for task in tasks for seed in values[task]})
    column = {seed: index for index, seed in enumerate(seeds)}
    table = np.full((len(tasks), len(seeds)), math.nan)  # (tasks, seeds), NaN where a task did not run a seed
    for row, task in enumerate(tasks):
        for seed, value in values[task].items():
            if not math.isfinite(value):
                raise ValueError(f"task {task!r}, seed {seed}: a finite value is needed, got {value}")
            table[row, column[seed]] = value
    ran = np.isfinite(table)
    share = 1 / (len(tasks) * ran.sum(axis=1, keepdims=True))  # what an episode counts in the mean
    rates = np.nanmean(table, axis=1, keepdims=True)
    influences = (share * np.where(ran, table - rates, 0.0)).sum(axis=0)
    return Mean(
        value=float(rates.mean()),
        influences=tuple(influences.tolist()),
        episodes=float(1 / np.where(ran, share**2, 0.0).sum()),
        clustered=bool((ran.sum(axis=0) > 1).any()),
    )
