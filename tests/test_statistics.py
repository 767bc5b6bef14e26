"""Statistics of an evaluation: known numbers, agreement with other libraries, properties, and what is refused."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from actloop.evaluation.statistics import (
    Interval,
    clopper_pearson,
    compare_paired,
    compare_values,
    detectable_difference,
    discordant_share,
    episodes_needed,
    flip_by_seed,
    holm,
    mcnemar,
    mcnemar_power,
    mean_success,
    mean_value,
    paired_difference,
    pairs_needed,
    posterior,
    probability_better,
    upper_bound,
    wilson,
)

Counts = st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
METHODS = {"wilson": wilson, "exact": clopper_pearson}


def percent(interval: Interval) -> tuple[float, float]:
    return round(100 * interval.low, 1), round(100 * interval.high, 1)


def ends(interval: Interval) -> tuple[float, float]:
    return interval.low, interval.high


# --- one rate ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [
        (5, 10, 18.7, 81.3),
        (18, 20, 68.3, 98.8),
        (45, 50, 78.2, 96.7),
        (90, 100, 82.4, 95.1),
        (475, 500, 92.7, 96.7),
        (1900, 2000, 94.0, 95.9),
    ],
)
def test_clopper_pearson_gives_the_published_numbers(k: int, n: int, low: float, high: float) -> None:
    assert percent(clopper_pearson(k, n)) == (low, high)


@settings(max_examples=60, deadline=None)
@given(Counts, st.sampled_from([0.8, 0.9, 0.95, 0.99]), st.sampled_from(sorted(METHODS)))
def test_intervals_of_a_rate_agree_with_scipy(counts: tuple[int, int], confidence: float, method: str) -> None:
    k, n = counts
    ours = METHODS[method](k, n, confidence=confidence)
    theirs = stats.binomtest(k, n).proportion_ci(confidence, method=method)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-9)
    assert ours.value == k / n


@settings(max_examples=60, deadline=None)
@given(Counts)
def test_intervals_of_a_rate_hold_it_and_turn_with_it(counts: tuple[int, int]) -> None:
    k, n = counts
    for found, other in ((f(k, n), f(n - k, n)) for f in (wilson, clopper_pearson, posterior)):
        assert 0 <= found.low <= found.value <= found.high <= 1
        assert (found.low, found.high) == pytest.approx((1 - other.high, 1 - other.low), abs=1e-9)
    if k < n:
        more = clopper_pearson(k + 1, n)
        assert more.low > clopper_pearson(k, n).low
        assert more.high >= clopper_pearson(k, n).high


def test_the_exact_interval_holds_wilsons_rate_and_none_of_n_is_not_certainty() -> None:
    assert (wilson(0, 7).low, wilson(7, 7).high) == (0.0, 1.0)
    assert wilson(10, 10).low == pytest.approx(0.7225, abs=1e-4)
    empty = wilson(0, 0)
    assert math.isnan(empty.value)
    assert (empty.low, empty.high) == (0.0, 1.0)
    assert math.isnan(clopper_pearson(0, 0).value)


def test_no_event_in_n_leaves_about_three_in_n_open() -> None:
    assert upper_bound(0, 100) == pytest.approx(3 / 100, rel=0.02)
    assert upper_bound(0, 1) == pytest.approx(0.95)
    assert upper_bound(4, 4) == 1.0
    assert stats.binom.cdf(3, 50, upper_bound(3, 50)) == pytest.approx(0.05)


def test_the_posterior_is_scipys_beta() -> None:
    found = posterior(18, 20)
    assert found.value == pytest.approx(18.5 / 21)
    assert (found.low, found.high) == pytest.approx(stats.beta.interval(0.95, 18.5, 2.5))
    assert posterior(0, 0, prior="uniform").value == 0.5
    assert percent(posterior(0, 0, prior="uniform")) == (2.5, 97.5)


def test_the_better_arm_is_probable_as_drawn() -> None:
    rng = np.random.default_rng(0)
    drawn = (rng.beta(18.5, 2.5, 200_000) > rng.beta(14.5, 6.5, 200_000)).mean()
    assert probability_better(18, 20, 14, 20) == pytest.approx(drawn, abs=0.004)
    assert probability_better(3, 9, 3, 9) == pytest.approx(0.5, abs=1e-6)


@settings(max_examples=40, deadline=None)
@given(Counts, Counts)
def test_one_of_two_arms_is_better(one: tuple[int, int], two: tuple[int, int]) -> None:
    assert probability_better(*one, *two) + probability_better(*two, *one) == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize(("k", "n"), [(-1, 3), (4, 3), (math.nan, 3), (1, math.inf)])
def test_impossible_counts_are_refused(k: float, n: float) -> None:
    for method in (wilson, clopper_pearson, upper_bound, posterior):
        with pytest.raises(ValueError, match="cannot be"):
            method(k, n)  # type: ignore[operator]


def test_an_impossible_confidence_or_prior_is_refused() -> None:
    for method in (wilson, clopper_pearson, posterior):
        with pytest.raises(ValueError, match="confidence"):
            method(1, 2, confidence=95)  # type: ignore[operator]
    with pytest.raises(ValueError, match="known: jeffreys, uniform"):
        posterior(1, 2, prior="flat")


# --- many tasks -------------------------------------------------------------------------------------------------------


def test_the_mean_of_tasks_weighs_tasks_alike_and_keeps_a_width() -> None:
    uneven = mean_success({"often": dict.fromkeys(range(10), True), "rare": {0: False, 1: False}})
    assert uneven.value == pytest.approx(0.5)
    assert uneven.high - uneven.low > 0.5  # two episodes decide over half of it
    sure = mean_success({"a": dict.fromkeys(range(10), True)})
    assert (sure.low, sure.high) == pytest.approx((wilson(10, 10).low, 1.0))  # ten of ten is not certainty
    assert mean_success({"a": {0: True, 1: False}}) == mean_success({"a": {1: False, 0: True}})


def test_one_task_with_seeds_of_its_own_is_wilsons() -> None:
    assert ends(mean_success({"a": {seed: seed < 7 for seed in range(9)}})) == pytest.approx(ends(wilson(7, 9)))
    apart = {"a": {0: True, 1: False}, "b": {2: True, 3: True}}  # no seed is shared
    assert ends(mean_success(apart)) == pytest.approx(ends(wilson(3, 4)))


def test_seeds_that_sink_all_tasks_together_widen_the_interval() -> None:
    together = {task: {seed: seed % 2 == 0 for seed in range(10)} for task in "abcdefgh"}
    apart = {task: {seed: (seed + index) % 2 == 0 for seed in range(10)} for index, task in enumerate("abcdefgh")}
    wide, narrow = mean_success(together), mean_success(apart)
    assert wide.value == narrow.value == 0.5
    assert wide.high - wide.low > 1.5 * (narrow.high - narrow.low)
    assert wide.high - wide.low > wilson(5, 10).high - wilson(5, 10).low - 1e-9  # worth no more than its ten seeds


def test_one_seed_is_one_trial_however_many_tasks_it_lays_out() -> None:
    assert mean_success({"a": {0: True}, "b": {0: True}, "c": {0: True}}) == wilson(1, 1)
    assert mean_value({"a": {0: 2.0}, "b": {0: 4.0}}) == Interval(value=3.0, low=-math.inf, high=math.inf)


def test_the_mean_value_over_one_task_is_students() -> None:
    values = [1.0, 2.5, 3.0, 7.0]
    found = mean_value({"a": dict(enumerate(values))})
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert (found.value, found.low, found.high) == pytest.approx((np.mean(values), low, high))


def test_nothing_ran_leaves_everything_open() -> None:
    assert (mean_success({}).low, mean_success({"a": {}}).high) == (0.0, 1.0)
    assert mean_value({}).high == math.inf
    with pytest.raises(ValueError, match="task 'a', seed 3"):
        mean_value({"a": {3: math.nan}})


# --- two arms ---------------------------------------------------------------------------------------------------------


def test_mcnemar_is_the_exact_sign_test() -> None:
    assert mcnemar(0, 6) == pytest.approx(2 / 64)  # six informative pairs can be significant, five cannot
    assert mcnemar(0, 5) > 0.05
    assert mcnemar(3, 3) == 1.0
    assert mcnemar(0, 0) == 1.0
    with pytest.raises(ValueError, match="cannot be"):
        mcnemar(-1, 3)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_agrees_with_scipy_and_turns(one: int, two: int) -> None:
    assert mcnemar(one, two) == mcnemar(two, one)
    if one + two:
        assert mcnemar(one, two) == pytest.approx(stats.binomtest(one, one + two).pvalue)


def test_flips_of_single_pairs_are_mcnemars() -> None:
    differences = {"a": {seed: 1.0 if seed < 20 else -1.0 for seed in range(27)} | {99: 0.0}}
    assert flip_by_seed(differences) == pytest.approx(mcnemar(20, 7))


def test_few_seeds_are_flipped_in_every_way() -> None:
    values = {"a": {0: 1.0, 1: 0.0, 2: -1.0, 3: 1.0}, "b": {0: 1.0, 1: 1.0, 2: 0.0, 3: 1.0}}
    parts = [2.0, 1.0, -1.0, 2.0]
    sums = [abs(np.dot(signs, parts)) for signs in itertools.product((-1, 1), repeat=4)]
    assert flip_by_seed(values) == pytest.approx(np.mean([found >= sum(parts) - 1e-9 for found in sums]))


def test_flips_agree_with_scipys() -> None:
    values = np.random.default_rng(0).normal(0.5, 1, 9)
    theirs = stats.permutation_test((values,), np.mean, permutation_type="samples", n_resamples=10_000)
    assert flip_by_seed({"a": dict(enumerate(values))}) == pytest.approx(theirs.pvalue)


def test_many_seeds_are_flipped_at_random_the_same_way_each_time() -> None:
    rng = np.random.default_rng(3)
    values = {"a": dict(enumerate(rng.normal(0.3, 1, 40)))}
    p_value = flip_by_seed(values)
    assert p_value == flip_by_seed(values)
    assert p_value == pytest.approx(stats.ttest_1samp(list(values["a"].values()), 0).pvalue, abs=0.02)


def test_a_seed_that_decides_over_ten_tasks_is_one_pair() -> None:
    first = {task: dict.fromkeys(range(4), True) for task in "abcdefghij"}
    second = {task: dict.fromkeys(range(4), False) for task in "abcdefghij"}
    paired = compare_paired(first, second)
    assert paired.p_mcnemar < 1e-9
    assert paired.p_value == pytest.approx(2**-3)
    assert paired.difference.value == 1.0


def test_paired_arms_are_compared_on_shared_seeds_only() -> None:
    first = {"a": {0: True, 1: True, 2: True}, "b": {0: True}}
    second = {"a": {0: False, 1: True, 9: False}}
    paired = compare_paired(first, second)
    assert (paired.pairs, paired.only_first, paired.only_second, paired.discordant) == (2, 1, 0, 1)
    assert paired.difference.value == 0.5
    assert paired.difference.low <= 0 <= paired.difference.high
    nothing = compare_paired(first, {})
    assert (nothing.pairs, nothing.p_value) == (0, 1.0)
    assert compare_values(first, {}).p_value == 1.0


Outcomes = st.dictionaries(
    st.sampled_from("abc"), st.dictionaries(st.integers(0, 6), st.booleans(), min_size=1), min_size=1
)


@settings(max_examples=50, deadline=None)
@given(Outcomes, Outcomes)
def test_swapping_the_arms_turns_the_comparison(
    first: dict[str, dict[int, bool]], second: dict[str, dict[int, bool]]
) -> None:
    there, back = compare_paired(first, second), compare_paired(second, first)
    assert there.p_value == pytest.approx(back.p_value)
    assert (there.only_first, there.only_second) == (back.only_second, back.only_first)
    if there.pairs:
        turned = (-back.difference.value, -back.difference.high, -back.difference.low)
        assert (there.difference.value, there.difference.low, there.difference.high) == pytest.approx(turned)
        assert -1 <= there.difference.low <= there.difference.value <= there.difference.high <= 1


def test_the_paired_interval_agrees_with_newcombe() -> None:
    interval = paired_difference(both=36, only_first=14, only_second=0, pairs=54)  # 12/54 fail both, 2 neither
    assert interval.value == pytest.approx(14 / 54)
    assert 0.1 < interval.low < interval.value < interval.high < 0.42
    with pytest.raises(ValueError, match="cannot hold"):
        paired_difference(both=3, only_first=1, only_second=1, pairs=4)


def test_times_are_compared_seed_by_seed() -> None:
    quick = {"a": {seed: 2.0 + seed for seed in range(8)}}
    slow = {"a": {seed: 2.5 + seed + 0.1 * (seed % 2) for seed in range(8)}}
    found = compare_values(quick, slow)
    assert (found.pairs, found.p_value) == (8, pytest.approx(2**-7))
    assert found.difference.low < -0.55 < found.difference.high < 0


def test_holm_steps_down_and_stays_monotone() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_lies_between_the_raw_and_bonferronis(p_values: list[float]) -> None:
    for raw, corrected in zip(p_values, holm(p_values), strict=True):
        assert raw <= corrected <= min(1.0, len(p_values) * raw) + 1e-12


def test_statsmodels_agrees() -> None:
    proportion = pytest.importorskip("statsmodels.stats.proportion", reason="statsmodels is not installed")
    tables = pytest.importorskip("statsmodels.stats.contingency_tables")
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    for k, n in ((0, 9), (5, 10), (18, 20), (475, 500)):
        for ours, name in ((wilson, "wilson"), (clopper_pearson, "beta")):
            found = ours(k, n)
            assert (found.low, found.high) == pytest.approx(proportion.proportion_confint(k, n, method=name), abs=1e-9)
        found = posterior(k, n)
        jeffreys = proportion.proportion_confint(k, n, method="jeffreys")
        assert (found.low, found.high) == pytest.approx(jeffreys, abs=1e-9)
    assert mcnemar(14, 5) == pytest.approx(tables.mcnemar([[30, 14], [5, 11]], exact=True).pvalue)
    p_values = [0.01, 0.2, 0.04, 0.03, 0.5]
    assert holm(p_values) == pytest.approx(multitest.multipletests(p_values, method="holm")[1])


# --- planning ---------------------------------------------------------------------------------------------------------


def test_the_power_is_that_of_the_test_that_is_made() -> None:
    rng = np.random.default_rng(1)
    pairs, difference, discordant = 61, 0.2, 0.3
    either = rng.multinomial(pairs, [0.25, 0.05, 0.7], size=4000)
    found = np.mean([mcnemar(int(one), int(two)) <= 0.05 for one, two, _ in either])
    assert mcnemar_power(pairs, difference, discordant) == pytest.approx(found, abs=0.025)
    assert mcnemar_power(5, 1.0, 1.0) == 0.0  # five pairs can show nothing
    assert mcnemar_power(6, 1.0, 1.0) == 1.0


def test_the_number_of_pairs_needed_falls_with_the_difference() -> None:
    assert pairs_needed(0.1, 0.2) == pairs_needed(-0.1, 0.2) == 168  # the normal approximation says 155: power 0.76
    assert mcnemar_power(167, 0.1, 0.2) < 0.8 <= mcnemar_power(168, 0.1, 0.2)
    assert pairs_needed(0.3, 0.3) == 25
    assert pairs_needed(1.0, 1.0) == 6
    assert detectable_difference(168, 0.2) == pytest.approx(0.1)
    assert detectable_difference(0, 0.2) == 1.0
    for difference, power in ((0.0, 0.8), (1.5, 0.8), (0.1, 1.0)):
        with pytest.raises(ValueError, match="needed"):
            pairs_needed(difference, 0.2, power=power)


def test_a_small_difference_is_planned_for_quickly() -> None:
    assert 7900 < pairs_needed(0.01, 0.1) < 8200


def test_sharing_seeds_saves_pairs() -> None:
    assert discordant_share(0.5, 0.7) == pytest.approx(0.5)
    alike = discordant_share(0.5, 0.7, correlation=0.6)
    assert 0.2 <= alike < 0.27
    assert pairs_needed(0.2, alike) < pairs_needed(0.2, 0.5) / 2
    with pytest.raises(ValueError, match="cannot be correlated"):
        discordant_share(0.5, 0.9, correlation=1.0)
    with pytest.raises(ValueError, match=r"in 0\.\.1"):
        discordant_share(0.5, 1.9)


def test_episodes_of_unpaired_arms() -> None:
    assert episodes_needed(0.5, 0.7) == 93
    assert episodes_needed(0.9, 0.95) == episodes_needed(0.95, 0.9) == 435
    with pytest.raises(ValueError, match="two different"):
        episodes_needed(0.5, 0.5)


def test_power_asks_for_possible_numbers() -> None:
    for arguments in ((0, 0.1, 0.2), (10, 0.3, 0.2), (10, 0.1, 1.2)):
        with pytest.raises(ValueError, match="needed"):
            mcnemar_power(*arguments)
