"""Rates and waiting times: known numbers, agreement with other libraries, censoring, and what is refused."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from actloop.evaluation.statistics import (
    clopper_pearson,
    dispersion,
    event_rate,
    false_alarms,
    logrank,
    rate_ratio,
    success_curve,
    survival_curve,
    time_to_success,
    waiting,
)

# --- rates ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("events", "low", "high"), [(0, 0.0, 3.689), (1, 0.0253, 5.572), (10, 4.795, 18.390)])
def test_garwoods_interval_has_the_published_ends(events: int, low: float, high: float) -> None:
    found = event_rate([events], [3600.0])
    assert (found.per_hour.low, found.per_hour.high) == pytest.approx((low, high), abs=6e-4)
    assert found.per_hour.value == events
    assert math.isnan(found.dispersion)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 300), st.floats(1, 1e5))
def test_garwood_is_the_chi_square_interval(events: int, seconds: float) -> None:
    found = event_rate([events], [seconds])
    low = stats.chi2.ppf(0.025, 2 * events) / 2 if events else 0.0
    high = stats.chi2.ppf(0.975, 2 * events + 2) / 2
    per_second = (found.per_hour.low / 3600, found.per_hour.high / 3600)
    assert per_second == pytest.approx((low / seconds, high / seconds), rel=1e-6)
    if events:
        assert found.between.value == pytest.approx(seconds / events)
    assert found.between.low <= found.between.value <= found.between.high


def test_nothing_seen_bounds_the_time_between_from_below() -> None:
    found = event_rate([0, 0, 0], [1200.0, 1200.0, 1200.0])
    assert (found.between.value, found.between.high) == (math.inf, math.inf)
    assert found.between.low == pytest.approx(3600 / 3.689, rel=1e-3)


def test_bursts_widen_the_interval() -> None:
    steady = event_rate([2] * 10, [60.0] * 10)
    bursts = event_rate([20] + [0] * 9, [60.0] * 10)
    assert steady.per_hour.value == bursts.per_hour.value
    assert steady.dispersion == 0
    assert bursts.dispersion == pytest.approx(20)
    pooled = event_rate([20], [600.0])
    assert (steady.per_hour.low, steady.per_hour.high) == (pooled.per_hour.low, pooled.per_hour.high)
    assert bursts.per_hour.high > 2 * pooled.per_hour.high
    assert math.isnan(dispersion([0, 0], [1.0, 1.0]))


def test_rates_ratio_is_exact_and_turns() -> None:
    there, back = rate_ratio(9, 3600.0, 3, 1800.0), rate_ratio(3, 1800.0, 9, 3600.0)
    assert there.ratio.value == pytest.approx(1.5)
    assert (there.ratio.low, there.ratio.high) == pytest.approx((1 / back.ratio.high, 1 / back.ratio.low))
    assert there.p_value == pytest.approx(back.p_value)
    assert there.p_value == pytest.approx(min(1, 2 * stats.binomtest(9, 12, 2 / 3, alternative="greater").pvalue))
    assert rate_ratio(5, 10.0, 0, 10.0).ratio.high == math.inf
    assert rate_ratio(0, 10.0, 0, 10.0).p_value == 1.0


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 40), st.integers(0, 40), st.floats(10, 1000))
def test_the_ratio_leaves_out_one_where_the_test_says_so(one: int, two: int, seconds: float) -> None:
    found = rate_ratio(one, seconds, two, 100.0)
    if abs(found.p_value - 0.05) > 1e-6:
        assert (found.p_value < 0.05) == (not found.ratio.low <= 1 <= found.ratio.high)


def test_false_alarms_are_held_against_the_promise() -> None:
    kept, broken = false_alarms(3, 50, promised=0.05), false_alarms(9, 50, promised=0.05)
    assert kept.share == clopper_pearson(3, 50)
    assert kept.p_over > 0.3
    assert broken.p_over == pytest.approx(stats.binomtest(9, 50, 0.05, alternative="greater").pvalue)
    assert false_alarms(0, 5, promised=0.05).p_over == 1.0
    assert math.isnan(false_alarms(1, 5).p_over)


@pytest.mark.parametrize(
    ("counts", "seconds", "reason"),
    [
        ([1], [1.0, 2.0], "one duration per count"),
        ([-1], [1.0], "0 or more"),
        ([1], [math.nan], "0 or more"),
        ([0, 0], [0.0, 0.0], "needs time"),
        ([], [], "needs time"),
        ([1, 0], [0.0, 5.0], "episode of 0 s"),
    ],
)
def test_rates_of_nothing_are_refused(counts: list[int], seconds: list[float], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        event_rate(counts, seconds)


def test_false_alarms_refuse_impossible_numbers() -> None:
    with pytest.raises(ValueError, match="cannot be"):
        false_alarms(6, 5)
    with pytest.raises(ValueError, match="promised"):
        false_alarms(1, 5, promised=5.0)


# --- waiting ----------------------------------------------------------------------------------------------------------

TIMES = [1.0, 2.0, 2.0, 3.0, 4.0, 5.0]
HAPPENED = [True, True, False, True, False, True]


def test_kaplan_and_meier_by_hand() -> None:
    curve = survival_curve(TIMES, HAPPENED)
    assert curve.times == (1.0, 2.0, 3.0, 5.0)
    assert curve.at_risk == (6, 5, 3, 1)
    assert curve.share == pytest.approx((5 / 6, 4 / 6, 4 / 9, 0.0))
    assert curve.at(0.5).value == 1.0
    assert curve.at(2.9).value == pytest.approx(4 / 6)
    assert curve.done_by(3.0).value == pytest.approx(5 / 9)
    assert curve.median.value == 3.0
    assert curve.restricted_mean(4.5).value == pytest.approx(1 + 5 / 6 + 4 / 6 + 1.5 * 4 / 9)
    assert all(low <= share <= high for low, share, high in zip(curve.low, curve.share, curve.high, strict=True))


def test_a_curve_is_never_certain() -> None:
    curve = survival_curve([1.0, 1.0, 1.0], [True, True, True])
    assert curve.at(1.0).high == pytest.approx(clopper_pearson(0, 3).high)
    assert curve.at(0.5).low == pytest.approx(clopper_pearson(3, 3).low)
    never = survival_curve([9.0, 9.0], [False, False])
    assert never.times == ()
    assert (never.at(5.0).value, never.median.value) == (1.0, math.inf)
    assert never.restricted_mean(9.0).value == 9.0


def test_beyond_what_was_looked_at_nothing_is_known() -> None:
    curve = survival_curve([1.0, 4.0], [True, False])
    assert curve.at(3.0).low > 0
    assert curve.at(5.0).low == 0
    with pytest.raises(ValueError, match=r"limit in \(0, 4.0\]"):
        curve.restricted_mean(5.0)
    assert survival_curve([1.0, 2.0], [True, True]).restricted_mean(5.0).value == 1.5


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 20), st.booleans()), min_size=1, max_size=30))
def test_curves_fall_inside_their_bands(entries: list[tuple[int, bool]]) -> None:
    curve = survival_curve([float(time) for time, _ in entries], [so for _, so in entries])
    assert list(curve.share) == sorted(curve.share, reverse=True)
    assert all(0 <= low <= share + 1e-12 for low, share in zip(curve.low, curve.share, strict=True))
    assert all(share <= high + 1e-12 <= 1 + 1e-9 for share, high in zip(curve.share, curve.high, strict=True))
    mean = curve.restricted_mean(curve.looked)
    assert 0 <= mean.low <= mean.value <= mean.high <= curve.looked


def test_an_early_failure_is_no_success_to_come() -> None:
    """One of two fails at once: half have succeeded at the limit, not all."""
    times, won, limits = [2.0, 0.1], [True, False], [10.0, 10.0]
    assert success_curve(times, won, limits).done_by(10.0).value == 0.5
    assert survival_curve(times, won).at(10.0).value == 0.0  # what taking it for censored would claim
    assert (
        success_curve(times, won, limits).restricted_mean(10.0).value
        == time_to_success(times, won, limits).restricted_mean
    )


def test_failures_count_as_their_time_limit() -> None:
    taken = time_to_success([1.0, 3.0, 2.0], [True, True, False], [5.0, 5.0, 5.0])
    assert taken.median == 2.0
    assert taken.restricted_mean == pytest.approx(3.0)
    assert math.isnan(time_to_success([2.0], [False], [5.0]).median)


def test_recovery_counts_those_that_never_do() -> None:
    found = waiting([1.0, 2.0, None, None], [8.0, 8.0, 8.0, 3.0])
    assert (found.count, found.happened) == (4, 2)
    assert found.share == clopper_pearson(2, 4)
    assert found.curve.median.value == 2.0
    assert found.curve.at(8.0).value == 0.5


def test_the_log_rank_test_sees_a_later_success_and_nothing_in_nothing() -> None:
    rng = np.random.default_rng(0)
    quick, slow = rng.exponential(2, 40), rng.exponential(6, 40)
    so = np.ones(40, dtype=bool)
    assert logrank(list(quick), list(so), list(slow), list(so)) < 1e-3
    assert logrank([1.0, 2.0], [False, False], [3.0], [False]) == 1.0
    assert logrank(TIMES, HAPPENED, TIMES, HAPPENED) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("times", "happened", "reason"),
    [
        ([], [], "at least one"),
        ([1.0], [], "one time per outcome"),
        ([-1.0], [True], "0 or more"),
        ([math.nan], [True], "0 or more"),
        ([math.inf], [False], "finite"),
    ],
)
def test_impossible_times_are_refused(times: list[float], happened: list[bool], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        survival_curve(times, happened)


def test_other_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shorter|longer"):
        success_curve([1.0], [True], [])
    with pytest.raises(ValueError, match=r"shorter|longer"):
        waiting([1.0], [])


def test_statsmodels_agrees() -> None:
    duration = pytest.importorskip("statsmodels.duration.survfunc", reason="statsmodels is not installed")
    rates = pytest.importorskip("statsmodels.stats.rates")
    curve = survival_curve(TIMES, HAPPENED)
    theirs = duration.SurvfuncRight(TIMES, [int(so) for so in HAPPENED])
    assert curve.share == pytest.approx(tuple(theirs.surv_prob))
    assert curve.at_risk == tuple(int(count) for count in theirs.n_risk)
    rng = np.random.default_rng(1)
    times, so, arm = rng.exponential(3, 60).round(1), rng.random(60) < 0.8, np.arange(60) % 2
    so[times.argmax()] = False
    median = survival_curve(times.tolist(), so.tolist()).median
    theirs = duration.SurvfuncRight(times, so.astype(int))
    assert (median.low, median.high) == theirs.quantile_ci(0.5, method="cloglog")
    _, p_value = duration.survdiff(times, so.astype(int), arm)
    found = logrank(times[arm == 0].tolist(), so[arm == 0].tolist(), times[arm == 1].tolist(), so[arm == 1].tolist())
    assert found == pytest.approx(float(p_value), rel=1e-6)
    exact = rates.confint_poisson(7, 2.0, method="exact-c")
    found_rate = event_rate([7], [7200.0]).per_hour
    assert (found_rate.low, found_rate.high) == pytest.approx(exact, rel=1e-6)
