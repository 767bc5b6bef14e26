"""Two arms on the same initial conditions: which pairs differ, by how much, and whether that is more than chance.

first, second --shared (task, seed)--> differences --by seed--> sign-flip permutation, clustered score interval
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int8
from scipy.special import bdtr

from actloop.evaluation.statistics.clusters import Successes, Values, mean_of_tasks, mean_value
from actloop.evaluation.statistics.intervals import Interval, check_counts, wilson

RESAMPLES = 20_000  # of sign flips, where there are too many to try all: a p-value of 0.05 is then within 0.003
_EQUAL = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Paired:
    """Two arms on the same initial conditions: what only the one and only the other solved.

    `p_value` is that of flipping arms seed by seed, right also where a seed decides over several tasks at once.
    `p_mcnemar` takes all pairs for independent: the same where every seed holds one pair, too small otherwise.
    """

    pairs: int
    only_first: int
    only_second: int
    p_value: float
    p_mcnemar: float
    difference: Interval

    @property
    def discordant(self) -> int:
        return self.only_first + self.only_second


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedMean:
    """Two arms' values on the same initial conditions; the difference is first minus second, in the values' unit."""

    pairs: int
    p_value: float
    difference: Interval


def compare_paired(first: Successes, second: Successes, *, confidence: float = 0.95) -> Paired:
    """First against second on the initial conditions that both ran; the difference is first minus second.

    Raises:
        ValueError: a confidence outside (0, 1).
    """
    one, two = _shared(first, second)
    pairs = [(bool(one[task][seed]), bool(two[task][seed])) for task in one for seed in one[task]]
    only_first, only_second = pairs.count((True, False)), pairs.count((False, True))
    differences = _differences(one, two)
    mean = mean_of_tasks(differences)
    if mean is None:
        open_range = Interval(value=math.nan, low=-1.0, high=1.0)
        return Paired(pairs=0, only_first=0, only_second=0, p_value=1.0, p_mcnemar=1.0, difference=open_range)
    discordant = (only_first + only_second) / len(pairs)
    share = mean.worth(discordant - mean.value**2, confidence) / len(pairs)
    counts = (pairs.count((True, True)), only_first, only_second, len(pairs))
    score = paired_difference(*(share * count for count in counts), confidence=confidence)
    shift = mean.value - score.value  # tasks that ran unequally often weigh the same, pooled pairs do not
    difference = Interval(value=mean.value, low=max(-1.0, score.low + shift), high=min(1.0, score.high + shift))
    return Paired(
        pairs=len(pairs),
        only_first=only_first,
        only_second=only_second,
        p_value=flip_by_seed(differences),
        p_mcnemar=mcnemar(only_first, only_second),
        difference=difference,
    )


def compare_values(first: Values, second: Values, *, confidence: float = 0.95) -> PairedMean:
    """First against second in any value, such as the time taken, on the initial conditions that both ran.

    Raises:
        ValueError: a confidence outside (0, 1), or a value is not finite.
    """
    one, two = _shared(first, second)
    differences = _differences(one, two)
    return PairedMean(
        pairs=sum(len(seeds) for seeds in differences.values()),
        p_value=flip_by_seed(differences),
        difference=mean_value(differences, confidence=confidence),
    )


def mcnemar(only_first: int, only_second: int) -> float:
    """Exact two-sided p-value that pairs which differ fall either way equally often; 1 where none differ.

    Raises:
        ValueError: a negative count.
    """
    discordant = only_first + only_second
    check_counts(only_first, discordant)
    if discordant == 0:
        return 1.0
    return float(min(1.0, 2 * bdtr(min(only_first, only_second), discordant, 0.5)))


def flip_by_seed(differences: Values, *, seed: int = 0) -> float:
    """Two-sided p-value that the mean difference over tasks is chance: arms are swapped seed by seed.

    All ways are tried where there are few informative seeds or all weigh alike (then it is the exact sign test);
    otherwise `RESAMPLES` random ones. With n seeds that differ the least possible p-value is 2 ** (1 - n).

    Raises:
        ValueError: a difference is not finite.
    """
    mean = mean_of_tasks(differences)
    if mean is None:
        return 1.0
    tasks = [task for task in differences if differences[task]]
    sums: dict[int, float] = {}
    for task in tasks:
        for where, value in differences[task].items():
            sums[where] = sums.get(where, 0.0) + value / len(differences[task]) / len(tasks)
    parts = np.array([sums[where] for where in sorted(sums) if abs(sums[where]) > _EQUAL])
    if not len(parts):
        return 1.0
    if np.ptp(np.abs(parts)) <= _EQUAL * np.abs(parts).max():
        return mcnemar(int((parts > 0).sum()), int((parts < 0).sum()))
    flipped = _signs(len(parts), seed) @ parts
    extreme = int((np.abs(flipped) >= abs(parts.sum()) * (1 - _EQUAL)).sum())
    if 2 ** len(parts) <= RESAMPLES:
        return extreme / len(flipped)
    return (extreme + 1) / (len(flipped) + 1)


def paired_difference(
    both: float, only_first: float, only_second: float, pairs: float, *, confidence: float = 0.95
) -> Interval:
    """Newcombe's score interval (1998, his method 10) for the difference of two success rates on the same pairs.

    Counts may be fractions, as in `wilson`.

    Raises:
        ValueError: the counts do not fit into the pairs, or a confidence outside (0, 1).
    """
    neither = pairs - both - only_first - only_second
    if pairs <= 0 or min(both, only_first, only_second, neither) < -_EQUAL * max(pairs, 1.0):
        raise ValueError(f"{pairs} pairs cannot hold {both} + {only_first} + {only_second} successes")
    neither = max(neither, 0.0)
    one = wilson(min(both + only_first, pairs), pairs, confidence=confidence)
    two = wilson(min(both + only_second, pairs), pairs, confidence=confidence)
    product = (both + only_first) * (only_second + neither) * (both + only_second) * (only_first + neither)
    agreement = both * neither - only_first * only_second
    covariance = max(0.0, agreement - pairs / 2) if agreement > 0 else float(agreement)
    phi = 0.0 if product <= 0 else covariance / math.sqrt(product)
    below = (one.value - one.low, two.high - two.value)
    above = (one.high - one.value, two.value - two.low)
    value = one.value - two.value
    return Interval(value=value, low=max(-1.0, value - _span(*below, phi)), high=min(1.0, value + _span(*above, phi)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction: p-values that may be read as if each were the only one, in the given order."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    corrected = [1.0] * len(p_values)
    running = 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = running
    return corrected


def _signs(count: int, seed: int) -> Int8[np.ndarray, "ways count"]:
    """All ways to give `count` numbers a sign, or `RESAMPLES` random ones where there are more."""
    if 2**count <= RESAMPLES:
        bits = np.arange(2**count)[:, None] >> np.arange(count) & 1
    else:
        bits = np.random.default_rng(seed).integers(2, size=(RESAMPLES, count))
    return (2 * bits - 1).astype(np.int8)


def _span(one: float, two: float, phi: float) -> float:
    return math.sqrt(max(0.0, one * one - 2 * phi * one * two + two * two))


def _shared(first: Values, second: Values) -> tuple[Values, Values]:
    """Both, on the tasks and seeds that both have, in the same order."""
    seeds = {task: sorted(set(first[task]) & set(second.get(task, {}))) for task in sorted(first)}
    one = {task: {seed: first[task][seed] for seed in found} for task, found in seeds.items() if found}
    two = {task: {seed: second[task][seed] for seed in one[task]} for task in one}
    return one, two


def _differences(one: Values, two: Values) -> dict[str, dict[int, float]]:
    return {task: {seed: float(one[task][seed]) - float(two[task][seed]) for seed in one[task]} for task in one}
