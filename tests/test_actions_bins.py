"""Bins: RT-1's truncation, OpenVLA's centres, the digits at which implementations differ, and what is refused."""

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from actloop.actions.bins import Bins, CentreBins, UniformBins, centre_bins, uniform_bins
from actloop.actions.continuous import Continuous
from actloop.actions.normalizers import MaskedNormalizer, mean_std, quantile
from actloop.actions.representation import Normalizes, Representation, reconstruction
from actloop.actions.tokens import TailTokens
from actloop.errors import ContractError

UNIT = MaskedNormalizer(low=(-1.0, -1.0), high=(1.0, 1.0), mask=(False, False))  # passes through
LIMITS = (np.array([-1.0, 0.0]), np.array([1.0, 0.08]))
QUICK = settings(deadline=None, max_examples=100, phases=[Phase.explicit, Phase.generate])
WITHIN = arrays(np.float64, (3, 2), elements=st.floats(-1.5, 1.5))


def test_every_representation_answers_to_the_protocols() -> None:
    for bins in (uniform_bins(*LIMITS), centre_bins(UNIT)):
        assert isinstance(bins, Bins)
        assert isinstance(bins, Representation)
    assert isinstance(Continuous(normalizer=UNIT), Representation)
    assert isinstance(UNIT, Normalizes)
    assert isinstance(mean_std(np.zeros((2, 2))), Normalizes)


def test_uniform_bins_truncate_so_that_only_the_upper_limit_is_the_last_digit() -> None:
    bins = uniform_bins(np.array([-1.0]), np.array([1.0]))
    given_actions = np.array([[-2.0], [-1.0], [0.0], [0.9999], [1.0], [7.0]])
    np.testing.assert_array_equal(bins.encode(given_actions)[:, 0], [0, 0, 127, 254, 255, 255])
    np.testing.assert_allclose(bins.decode(np.array([[0], [127], [255]]))[:, 0], [-1, 127 / 255 * 2 - 1, 1])


def test_uniform_bins_read_back_low_by_half_a_bin_on_average() -> None:
    bins = uniform_bins(np.array([-1.0]), np.array([1.0]))
    actions = np.linspace(-1, 1, 20001)[:, None]
    width = 2 / 255
    error = bins.decode(bins.encode(actions)) - actions
    assert error.mean() == pytest.approx(-width / 2, rel=0.01)
    assert -width <= error.min()
    assert error.max() < width * 1e-3


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_grid_points_keep_their_digit_in_either_precision(dtype: type) -> None:
    bins = uniform_bins(np.array([-1.0, 0.3]), np.array([1.0, 0.8]))
    digits = np.stack([np.arange(256)] * 2, axis=1)
    np.testing.assert_array_equal(bins.encode(bins.decode(digits).astype(dtype)), digits)


@QUICK
@given(WITHIN)
def test_uniform_bins_lose_less_than_a_bin_within_their_limits(actions: np.ndarray) -> None:
    bins = uniform_bins(*LIMITS)
    clipped = np.clip(actions, *LIMITS)
    error = clipped - bins.decode(bins.encode(actions))
    width = (LIMITS[1] - LIMITS[0]) / 255
    assert (error < width * 1.001).all()
    assert (error > -width * 1e-3).all()


def test_openvla_digits_where_implementations_differ() -> None:
    """Specification 2.5: -1 is id 31999, 0 is 31872, and +1 alone is 31744, which reads back as 31745 does."""
    bins = centre_bins(UNIT)
    ids = TailTokens(vocabulary=32000)
    digits = bins.encode(np.array([-1.0, 0.0]))
    assert ids.ids(digits.tolist()) == [31999, 31872]
    top = bins.encode(np.array([1.0, np.nextafter(1.0, 0)]))
    assert ids.ids(top.tolist()) == [31744, 31744], "float32 cannot tell them apart"
    assert bins.encode(np.array([0.9999, -3.0])).tolist() == [255, 1]
    back = bins.decode(np.array([[256, 255], [1, 128]]))
    np.testing.assert_allclose(back, [[254.0 / 255, 254.0 / 255], [-254.0 / 255, 0.0]])


@QUICK
@given(WITHIN)
def test_centre_bins_lose_half_a_bin_at_most(actions: np.ndarray) -> None:
    bins = centre_bins(UNIT)
    error = np.clip(actions, -1, 1) - bins.decode(bins.encode(actions))
    assert np.abs(error).max() <= 1 / 255 + 1e-6


@QUICK
@given(WITHIN, st.integers(2, 300))
def test_what_was_decoded_encodes_to_itself(actions: np.ndarray, count: int) -> None:
    for bins in (uniform_bins(*LIMITS, count), centre_bins(UNIT, count)):
        digits = bins.encode(actions)
        assert digits.min() >= bins.digits.start
        assert digits.max() < bins.digits.stop
        once = bins.decode(digits)
        np.testing.assert_array_equal(bins.decode(bins.encode(once)), once)


def test_quantile_bins_follow_the_data_and_clip_its_tails() -> None:
    rows = np.random.default_rng(0).normal([0.1, -2.0], [0.02, 1.0], (5000, 2))
    normalizer = quantile(rows)
    found = reconstruction(centre_bins(normalizer), [rows[:10], rows[10:20]], normalizer)
    assert found.normalised.overall[1] <= 1 / 255 + 1e-5
    whole = reconstruction(centre_bins(normalizer), [rows], normalizer)
    assert whole.outside == pytest.approx(0.02, abs=0.002)
    assert whole.physical.largest[1] > 0.5, "the tails are clipped, and the physical error says so"
    assert (found.size, found.longest, found.fewer, found.smaller) == (20, 20, 1, 1)


def test_errors_are_measured_per_component_and_in_units_of_half_the_range() -> None:
    normalizer = MaskedNormalizer(low=(-2.0, 0.0), high=(2.0, 1.0), mask=(True, True))
    found = reconstruction(uniform_bins(np.array([-2.0, 0.0]), np.array([2.0, 1.0]), 2), [np.ones((4, 2))], normalizer)
    np.testing.assert_allclose(found.physical.rmse, [3, 0])
    np.testing.assert_allclose(found.normalised.rmse, [1.5, 0])
    assert found.normalised.overall == pytest.approx((1.5 / np.sqrt(2), 1.5))
    assert found.smaller == 8, "one bit instead of eight"


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("bins", [uniform_bins(*LIMITS), centre_bins(UNIT)], ids=["uniform", "centre"])
def test_what_is_not_finite_is_refused(bins: Bins, bad: float) -> None:
    actions = np.zeros((3, 2))
    actions[2, 1] = bad
    with pytest.raises(ContractError, match=r"not finite \(NaN or infinity\) at \(2, 1\)"):
        bins.encode(actions)


def test_bins_refuse_what_they_cannot_hold() -> None:
    uniform, centre = uniform_bins(*LIMITS), centre_bins(UNIT)
    with pytest.raises(ContractError, match="expected 2 components"):
        uniform.encode(np.zeros((4, 3)))
    with pytest.raises(ContractError, match="expected 2 components"):
        uniform.decode(np.zeros((4, 3), int))
    for bins, digit in ((uniform, 256), (uniform, -1), (centre, 0), (centre, 257)):
        with pytest.raises(ContractError, match=f"got {digit}"):
            bins.decode(np.full((1, 2), digit))
    with pytest.raises(ContractError, match="expected integers, got float64"):
        centre.decode(np.zeros((1, 2)))
    with pytest.raises(ContractError, match="at least 2"):
        CentreBins(normalizer=UNIT, count=1)
    with pytest.raises(ContractError, match="low has 1 values and high 2"):
        UniformBins(low=(0.0,), high=(1.0, 2.0))
    with pytest.raises(ContractError, match="below its high"):
        uniform_bins(np.array([1.0]), np.array([1.0]))
    with pytest.raises(ContractError, match="all of one width, got shapes"):
        reconstruction(uniform, [], UNIT)
