"""How often intervals hold what they should, and tests accuse the innocent: by enumeration where that can be done.

The quick tests draw few runs and catch gross errors; those marked slow draw enough to hold a level to a few points.
"""

import math
from collections.abc import Callable, Mapping

import numpy as np
import pytest
from scipy import stats

from actloop.evaluation.statistics import (
    Interval,
    SequentialTest,
    clopper_pearson,
    compare_paired,
    compare_values,
    event_rate,
    holm,
    logrank,
    mean_success,
    posterior,
    rate_ratio,
    success_curve,
    survival_curve,
    upper_bound,
    wilson,
)

RATES = np.linspace(0.01, 0.99, 99)
Table = Mapping[str, Mapping[int, bool]]
LEVELS = [pytest.param(120, id="quick"), pytest.param(600, marks=pytest.mark.slow, id="slow")]


def slack(runs: int, level: float = 0.05) -> float:
    """Three standard errors of a share near `level` among so many runs."""
    return 3 * math.sqrt(level * (1 - level) / runs)


def held(interval: Interval, truth: float) -> bool:
    return interval.low - 1e-12 <= truth <= interval.high + 1e-12


def table(drawn: np.ndarray) -> dict[str, dict[int, bool]]:
    return {f"task {row}": {seed: bool(won) for seed, won in enumerate(line)} for row, line in enumerate(drawn)}


def clustered(
    rng: np.random.Generator, rates: np.ndarray, seeds: int, together: float, base: np.ndarray | None = None
) -> np.ndarray:
    """Successes `(tasks, seeds)`; `together` is how much a seed's difficulty is shared by its tasks."""
    shared, own = rng.normal(size=(1, seeds)), rng.normal(size=(len(rates), seeds))
    latent = math.sqrt(together) * shared + math.sqrt(1 - together) * own
    if base is not None:
        latent = (latent + base) / math.sqrt(2)
    return latent < stats.norm.ppf(rates)[:, None]


# --- one rate, by enumeration -----------------------------------------------------------------------------------------


def coverage(interval: Callable[[int, int], Interval], n: int) -> np.ndarray:
    """The exact probability that the interval of n trials holds the rate, for each of RATES."""
    found = [interval(k, n) for k in range(n + 1)]
    inside = np.array([[held(each, rate) for each in found] for rate in RATES])
    return (inside * stats.binom.pmf(np.arange(n + 1), n, RATES[:, None])).sum(axis=1)


@pytest.mark.parametrize("n", [5, 20, 100])
def test_intervals_of_a_rate_hold_it_as_often_as_they_say(n: int) -> None:
    assert coverage(clopper_pearson, n).min() >= 0.95
    score, jeffreys = coverage(wilson, n), coverage(posterior, n)
    assert score.mean() == pytest.approx(0.953, abs=0.01)
    assert score[5:94].min() > 0.88
    assert jeffreys.mean() == pytest.approx(0.95, abs=0.015)


def test_an_upper_bound_is_passed_one_time_in_twenty_at_most() -> None:
    inside = np.array([[rate <= upper_bound(k, 30) for k in range(31)] for rate in RATES])
    covered = (inside * stats.binom.pmf(np.arange(31), 30, RATES[:, None])).sum(axis=1)
    assert covered.min() >= 0.95


@pytest.mark.parametrize("expected", [0.3, 2.0, 7.5, 40.0])
def test_garwood_covers_every_poisson(expected: float) -> None:
    counts = np.arange(200)
    inside = [held(event_rate([int(count)], [3600.0]).per_hour, expected) for count in counts]
    assert (stats.poisson.pmf(counts, expected) * inside).sum() >= 0.95


def test_the_ratio_of_rates_accuses_no_more_often_than_it_says() -> None:
    counts = np.arange(30)
    accused = np.array([[rate_ratio(int(a), 1.0, int(b), 2.0).p_value <= 0.05 for b in counts] for a in counts])
    likely = np.outer(stats.poisson.pmf(counts, 4.0), stats.poisson.pmf(counts, 8.0))
    assert (likely * accused).sum() <= 0.05


# --- many tasks -------------------------------------------------------------------------------------------------------

CLUSTERS = [
    (5, 3, 0.5, 0.9),
    (5, 5, 0.8, 0.3),
    (5, 10, 0.95, 0.3),
    (5, 10, 0.5, 0.9),
    (8, 20, 0.8, 0.9),
    (1, 20, 0.8, 0.0),
]


@pytest.mark.parametrize("runs", LEVELS)
@pytest.mark.parametrize(("tasks", "seeds", "rate", "together"), CLUSTERS)
def test_the_mean_of_tasks_holds_the_true_one(runs: int, tasks: int, seeds: int, rate: float, together: float) -> None:
    rng = np.random.default_rng(seeds)
    rates = np.clip(rate + np.linspace(-0.15, 0.15, tasks), 0.02, 0.98) if tasks > 1 else np.array([rate])
    found = [held(mean_success(table(clustered(rng, rates, seeds, together))), rates.mean()) for _ in range(runs)]
    assert np.mean(found) >= 0.935 - slack(runs)


def test_taking_all_episodes_for_independent_would_hold_it_far_less_often() -> None:
    rng = np.random.default_rng(0)
    rates = np.full(8, 0.6)
    drawn = [clustered(rng, rates, 20, 0.9) for _ in range(150)]
    assert np.mean([held(wilson(int(each.sum()), each.size), 0.6) for each in drawn]) < 0.8
    assert np.mean([held(mean_success(table(each)), 0.6) for each in drawn]) > 0.9


# --- two arms ---------------------------------------------------------------------------------------------------------

PAIRS = [(1, 20, 0.5, 0.5, 0.0), (5, 10, 0.8, 0.8, 0.5), (5, 12, 0.7, 0.5, 0.9), (1, 40, 0.95, 0.8, 0.0)]


def two_arms(
    rng: np.random.Generator, tasks: int, seeds: int, one: float, two: float, together: float
) -> tuple[Table, Table]:
    shared, own = rng.normal(size=(1, seeds)), rng.normal(size=(tasks, seeds))
    base = math.sqrt(together) * shared + math.sqrt(1 - together) * own
    first, second = (table(clustered(rng, np.full(tasks, rate), seeds, together, base)) for rate in (one, two))
    return first, second


@pytest.mark.parametrize("runs", LEVELS)
@pytest.mark.parametrize(("tasks", "seeds", "one", "two", "together"), PAIRS)
def test_the_paired_difference_is_held_and_equal_arms_are_not_accused(
    runs: int, tasks: int, seeds: int, one: float, two: float, together: float
) -> None:
    rng = np.random.default_rng(seeds)
    found = [compare_paired(*two_arms(rng, tasks, seeds, one, two, together)) for _ in range(runs)]
    assert np.mean([held(each.difference, one - two) for each in found]) >= 0.935 - slack(runs)
    if one == two:
        assert np.mean([each.p_value <= 0.05 for each in found]) <= 0.05 + slack(runs)


def test_mcnemars_test_over_tasks_that_share_seeds_accuses_too_often() -> None:
    """The reason why `Paired.p_value` flips whole seeds."""
    rng = np.random.default_rng(0)
    found = [compare_paired(*two_arms(rng, 8, 12, 0.5, 0.5, 0.9)) for _ in range(150)]
    assert np.mean([each.p_mcnemar <= 0.05 for each in found]) > 0.15
    assert np.mean([each.p_value <= 0.05 for each in found]) <= 0.05 + slack(150)


@pytest.mark.parametrize("runs", LEVELS)
def test_times_that_are_alike_are_not_accused_and_their_difference_is_held(runs: int) -> None:
    rng = np.random.default_rng(2)
    p_values, inside = [], []
    for _ in range(runs):
        level = rng.normal(10, 3, size=12)
        first, second = ({"a": dict(enumerate(level + rng.normal(0, 2, 12)))} for _ in range(2))
        found = compare_values(first, second)
        p_values.append(found.p_value <= 0.05)
        inside.append(held(found.difference, 0.0))
    assert np.mean(p_values) <= 0.05 + slack(runs)
    assert np.mean(inside) == pytest.approx(0.95, abs=slack(runs) + 0.01)


def test_holm_keeps_the_whole_family() -> None:
    rng = np.random.default_rng(0)
    accused = [min(holm(rng.uniform(size=6).tolist())) <= 0.05 for _ in range(4000)]
    assert np.mean(accused) == pytest.approx(0.049, abs=0.012)


# --- while it runs ----------------------------------------------------------------------------------------------------


def decided_after(rng: np.random.Generator, one: float, two: float, most: int, **options: str) -> float:
    test = SequentialTest.of_pairs(**options)  # type: ignore[arg-type]
    for count in range(1, most + 1):
        if test.observe(float(rng.random() < one) - float(rng.random() < two)):
            return count
    return math.inf


@pytest.mark.parametrize("runs", [pytest.param(60, id="quick"), pytest.param(500, marks=pytest.mark.slow, id="slow")])
@pytest.mark.parametrize("alternative", ["two-sided", "greater"])
def test_looking_after_every_pair_accuses_no_more_often(runs: int, alternative: str) -> None:
    rng = np.random.default_rng(0)
    found = [decided_after(rng, 0.7, 0.7, 150, alternative=alternative) < math.inf for _ in range(runs)]
    assert np.mean(found) <= 0.05 + slack(runs)


def test_looking_after_every_pair_with_a_fixed_test_accuses_far_more_often() -> None:
    rng = np.random.default_rng(0)
    drawn = (rng.random((300, 150)) < 0.7).astype(int) - (rng.random((300, 150)) < 0.7)
    more, less = np.cumsum(drawn > 0, axis=1), np.cumsum(drawn < 0, axis=1)
    p_values = 2 * stats.binom.cdf(np.minimum(more, less), more + less, 0.5)
    assert (p_values <= 0.05).any(axis=1).mean() > 0.15


@pytest.mark.parametrize("runs", [pytest.param(15, id="quick"), pytest.param(150, marks=pytest.mark.slow, id="slow")])
@pytest.mark.parametrize("rate", [0.2, 0.9])
def test_the_confidence_sequence_holds_the_rate_at_every_look(runs: int, rate: float) -> None:
    rng = np.random.default_rng(int(10 * rate))
    always = 0
    for _ in range(runs):
        test = SequentialTest.of_rate(0.5)
        inside = True
        for _ in range(50):
            test.observe(rng.random() < rate)
            inside &= held(test.interval, rate)
        always += inside
    assert always / runs >= 0.95 - slack(runs)


@pytest.mark.slow
@pytest.mark.parametrize(("one", "two", "median"), [(0.7, 0.5, 80), (0.9, 0.7, 55), (0.9, 0.8, 173), (0.95, 0.9, 373)])
def test_it_stops_about_when_the_published_bets_do(one: float, two: float, median: int) -> None:
    """Medians of a betting e-process with its stakes capped at one half, one-sided, unpaired noise, alpha 0.05."""
    rng = np.random.default_rng(1)
    found = float(np.median([decided_after(rng, one, two, 6 * median, alternative="greater") for _ in range(150)]))
    assert found <= 1.1 * median


# --- rates and waiting ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("runs", LEVELS)
@pytest.mark.parametrize("bursts", [False, True])
def test_interventions_per_hour_are_held_with_and_without_bursts(runs: int, bursts: bool) -> None:
    rng = np.random.default_rng(0)
    found, pooled = [], []
    for _ in range(runs):
        means = rng.gamma(0.5, 2.0, size=40) if bursts else np.ones(40)
        counts, seconds = rng.poisson(means).tolist(), [60.0] * 40
        found.append(held(event_rate(counts, seconds).per_hour, 60.0))
        pooled.append(held(event_rate([sum(counts)], [2400.0]).per_hour, 60.0))
    assert np.mean(found) >= 0.93 - slack(runs)
    if bursts:
        assert np.mean(pooled) < 0.85  # what the dispersion is measured for


@pytest.mark.parametrize("runs", [pytest.param(60, id="quick"), pytest.param(1000, marks=pytest.mark.slow, id="slow")])
def test_the_curve_and_its_mean_hold_the_true_ones(runs: int) -> None:
    rng = np.random.default_rng(0)
    at, mean, median = [], [], []
    for _ in range(runs):
        times, until = rng.exponential(4, 40), rng.uniform(6, 14, 40)
        so = times <= until
        curve = survival_curve(np.minimum(times, until).tolist(), so.tolist())
        at.append(held(curve.at(5.0), math.exp(-5 / 4)))
        mean.append(held(curve.restricted_mean(6.0), 4 * (1 - math.exp(-6 / 4))))
        median.append(held(curve.median, 4 * math.log(2)))
    for found in (at, mean, median):
        assert np.mean(found) >= 0.925 - slack(runs)


def test_the_curve_of_success_ends_at_the_share_that_succeeded() -> None:
    rng = np.random.default_rng(0)
    times, won = rng.uniform(1, 9, 50).tolist(), (rng.random(50) < 0.6).tolist()
    curve = success_curve(times, won, [10.0] * 50)
    assert curve.done_by(10.0).value == pytest.approx(np.mean(won))


@pytest.mark.parametrize("runs", [pytest.param(60, id="quick"), pytest.param(1000, marks=pytest.mark.slow, id="slow")])
def test_the_log_rank_test_accuses_no_more_often(runs: int) -> None:
    rng = np.random.default_rng(0)
    accused = []
    for _ in range(runs):
        arms = []
        for _ in range(2):
            times, until = rng.exponential(4, 30), rng.uniform(3, 12, 30)
            arms += [np.minimum(times, until).tolist(), (times <= until).tolist()]
        accused.append(logrank(*arms) <= 0.05)
    assert np.mean(accused) <= 0.055 + slack(runs)
