"""The anytime-valid test: exact wealth by hand, a martingale under the null, early stops, and what is refused."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from actloop.evaluation.statistics import SequentialTest


def stopped(test: SequentialTest, outcomes: np.ndarray) -> int:
    """After how many outcomes it was decided; 0 where it never was."""
    for count, outcome in enumerate(outcomes, start=1):
        if test.observe(outcome):
            return count
    return 0


def pairs(rng: np.random.Generator, first: float, second: float, count: int) -> np.ndarray:
    return (rng.random(count) < first).astype(float) - (rng.random(count) < second)


def test_wealth_is_that_of_evenly_spread_stakes() -> None:
    test = SequentialTest.of_pairs(alternative="greater")
    for outcome in (1, 1, 0, -1):
        test.observe(outcome)
    integral = np.mean([(1 + c) ** 2 * (1 - c) for c in (np.arange(2000) + 0.5) / 2000])
    assert test.e_value == pytest.approx(integral, rel=1e-3)
    assert test.p_value == pytest.approx(min(1.0, 1 / integral), rel=1e-3)
    assert (test.count, test.mean) == (4, 0.25)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from([0.0, 0.3, 1.0]), max_size=12),
    st.sampled_from([0.2, 0.5, 0.9]),
    st.sampled_from(["two-sided", "greater", "less"]),
)
def test_under_the_null_nobody_is_expected_to_grow_richer(past: list[float], null: float, alternative: str) -> None:
    """Whatever was seen: the mean of what the next outcome makes of the e-value is no more than it is."""

    def after(*more: float) -> float:
        test = SequentialTest.of_rate(null, alternative=alternative)  # type: ignore[arg-type]
        for outcome in (*past, *more):
            test.observe(outcome)
        sides = (test._wealth(null, above=True), test._wealth(null, above=False))
        return sum(math.exp(side) for side in sides) / 2 if alternative == "two-sided" else test.e_value

    assert null * after(1.0) + (1 - null) * after(0.0) == pytest.approx(after(), rel=1e-9)


def test_the_two_sided_e_value_is_bounded_by_a_martingale() -> None:
    for length in (1, 4, 9):
        total = 0.0
        for outcomes in itertools.product((0, 1), repeat=length):
            test = SequentialTest.of_rate(0.5)
            for outcome in outcomes:
                test.observe(outcome)
            total += test.e_value / 2**length
        assert total <= 1.0 + 1e-9


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from([-1.0, -0.5, 0.0, 0.5, 1.0]), min_size=1, max_size=40), st.randoms())
def test_order_means_nothing_and_swapped_arms_turn(outcomes: list[float], random: object) -> None:
    forwards, shuffled, swapped = (SequentialTest.of_pairs() for _ in range(3))
    mixed = outcomes.copy()
    random.shuffle(mixed)  # type: ignore[attr-defined]
    for one, two in zip(outcomes, mixed, strict=True):
        forwards.observe(one)
        shuffled.observe(two)
        swapped.observe(-one)
    assert forwards.e_value == pytest.approx(shuffled.e_value) == pytest.approx(swapped.e_value)
    here, there = forwards.interval, swapped.interval
    assert (here.low, here.high) == pytest.approx((-there.high, -there.low), abs=1e-9)
    assert -1 <= here.low <= here.value <= here.high <= 1


def test_it_refutes_the_null_when_the_interval_leaves_it() -> None:
    rng = np.random.default_rng(4)
    test = SequentialTest.of_pairs()
    agreed = []
    for outcome in pairs(rng, 0.8, 0.5, 200):
        test.observe(outcome)
        left = not test.interval.low <= 0 <= test.interval.high
        agreed.append((test.e_value >= 20) == left)
        assert test.decided or not left
    assert all(agreed)
    assert test.verdict == "above"


def test_more_evidence_narrows_the_interval() -> None:
    widths = []
    test = SequentialTest.of_rate(0.5)
    assert (test.interval.low, test.interval.high, test.decided) == (0.0, 1.0, False)
    assert math.isnan(test.mean)
    for count in range(1, 401):
        test.observe(count % 4 != 0)
        if count in (8, 40, 400):
            widths.append(test.interval.high - test.interval.low)
    assert widths == sorted(widths, reverse=True)
    exact = stats.binomtest(300, 400).proportion_ci()
    assert exact.low - 0.04 < test.interval.low < exact.low  # the price of looking at every episode
    assert test.verdict == "above"


def test_once_decided_it_stays_so() -> None:
    test = SequentialTest.of_rate(0.5)
    for _ in range(12):
        test.observe(True)
    assert test.verdict == "above"
    for _ in range(200):
        test.observe(False)
    assert test.verdict == "above"
    assert test.interval.high < 0.5  # what was seen since is not hidden


def test_one_side_looks_at_one_side() -> None:
    rng = np.random.default_rng(5)
    outcomes = pairs(rng, 0.9, 0.5, 300)
    greater, less = SequentialTest.of_pairs(alternative="greater"), SequentialTest.of_pairs(alternative="less")
    two = SequentialTest.of_pairs()
    assert 0 < stopped(greater, outcomes) <= stopped(two, outcomes)
    assert stopped(less, outcomes) == 0
    assert (greater.interval.high, less.interval.low) == (1.0, -1.0)
    assert less.p_value == 1.0


def test_arms_that_are_alike_are_found_to_be() -> None:
    rng = np.random.default_rng(6)
    test = SequentialTest.of_pairs(alike=0.1)
    assert 0 < stopped(test, rng.choice([-1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0], 4000)) < 2000
    assert test.verdict == "alike"
    assert -0.1 < test.interval.low < 0 < test.interval.high < 0.1


def test_several_tasks_of_a_seed_are_one_outcome() -> None:
    test = SequentialTest.of_pairs()
    for _ in range(30):
        test.observe(0.4)
    assert test.verdict == "above"
    assert test.interval.value == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"null": 0.0}, "low < null < high"),
        ({"null": 1.2}, "low < null < high"),
        ({"alpha": 5.0}, "alpha"),
        ({"alternative": "bigger"}, "greater or less"),
        ({"alike": -0.1}, "margin"),
        ({"alike": 0.1, "alternative": "greater"}, "two-sided"),
    ],
)
def test_impossible_tests_are_refused(wrong: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        SequentialTest(**wrong)  # type: ignore[arg-type]


def test_an_impossible_outcome_changes_nothing() -> None:
    test = SequentialTest.of_rate(0.5)
    test.observe(True)
    for outcome in (-0.1, 2, math.nan):
        with pytest.raises(ValueError, match="outcome in"):
            test.observe(outcome)
    assert test.count == 1
