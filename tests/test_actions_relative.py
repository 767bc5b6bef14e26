"""Chunks of differences and of absolute poses, gripper conventions over episodes, and temporal ensembling's weights."""

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from actloop.actions.grippers import GRIPPERS, absolute_from_relative, binarised, gripper_convention
from actloop.actions.relative import Pose, followed, from_anchor, steps, to_absolute
from actloop.actions.rotations import convert
from actloop.errors import ContractError, UnknownNameError
from actloop.loop.joining import ensembled
from actloop.loop.path import Kinds

pytest.importorskip("scipy")

ARM = Pose(position=slice(0, 3), rotation=slice(3, 6))
TOOL = Pose(position=slice(0, 3), rotation=slice(3, 6), frame="tool")
AXIS = Pose(position=slice(0, 3), rotation=slice(3, 6), form="axis_angle")
JOINTS = Pose(position=slice(0, 6))
RNG = np.random.default_rng(0)
PATH = np.concatenate(
    [
        np.cumsum(RNG.normal(0, 0.02, (12, 3)), axis=0),
        np.stack([np.linspace(2.9, 3.4, 12), np.linspace(-0.4, 0.4, 12), np.linspace(-3.3, -2.9, 12)], axis=1),
        RNG.integers(0, 2, (12, 1)),
    ],
    axis=1,
)
PATH[:, 3:6] = (PATH[:, 3:6] + np.pi) % (2 * np.pi) - np.pi  # as a robot reports it: passing pi
ANCHOR = PATH[0]


def apart(first: np.ndarray, second: np.ndarray, pose: Pose) -> float:
    """The largest difference of two chunks; rotations as matrices."""
    plain = np.abs(np.delete(first - second, range(3, 6), axis=1)).max()
    if pose.rotation is None:
        return float(np.abs(first - second).max())
    turned = [convert(one[:, pose.rotation], pose.form, "matrix") for one in (first, second)]
    return float(max(plain, np.abs(turned[0] - turned[1]).max()))


@pytest.mark.parametrize("pose", [ARM, TOOL, AXIS, JOINTS], ids=["base", "tool", "axis-angle", "joints"])
def test_both_ways_back(pose: Pose) -> None:
    assert apart(to_absolute(from_anchor(PATH, ANCHOR, pose), ANCHOR, pose), PATH, pose) < 1e-12
    assert apart(followed(steps(PATH, ANCHOR, pose), ANCHOR, pose), PATH, pose) < 1e-12


@settings(deadline=None, max_examples=30, phases=[Phase.explicit, Phase.generate])
@given(arrays(np.float64, (4, 7), elements=st.floats(-3, 3)), arrays(np.float64, 7, elements=st.floats(-3, 3)))
def test_any_chunk_comes_back(chunk: np.ndarray, anchor: np.ndarray) -> None:
    for pose in (ARM, TOOL, AXIS):
        assert apart(to_absolute(from_anchor(chunk, anchor, pose), anchor, pose), chunk, pose) < 1e-6
        assert apart(followed(steps(chunk, anchor, pose), anchor, pose), chunk, pose) < 1e-6


@pytest.mark.parametrize("pose", [ARM, TOOL], ids=["base", "tool"])
def test_the_gripper_stays_absolute_and_steps_add_up_to_the_anchor(pose: Pose) -> None:
    relative_to_anchor, step = from_anchor(PATH, ANCHOR, pose), steps(PATH, ANCHOR, pose)
    for chunk in (relative_to_anchor, step):
        np.testing.assert_array_equal(chunk[:, 6], PATH[:, 6])
    np.testing.assert_allclose(relative_to_anchor[0, :6], 0, atol=1e-12)
    np.testing.assert_allclose(step[0, :6], 0, atol=1e-12)
    if pose.frame == "base":
        np.testing.assert_allclose(step[:, :3].cumsum(axis=0), relative_to_anchor[:, :3], atol=1e-12)


def test_rotations_are_composed_where_subtracting_would_jump() -> None:
    step = steps(PATH, ANCHOR, ARM)[1:, 3:6]
    turned = np.linalg.norm(convert(step, "euler_xyz", "axis_angle"), axis=1)
    assert turned.max() < 0.15, "small steps all along"
    assert np.abs(np.diff(PATH[:, 3:6], axis=0)).max() > 6, "although the angles jump by 2 pi"


def test_the_tools_frame_turns_with_the_tool() -> None:
    """A tool that looks along y and moves forward moves along its own x."""
    start = np.array([1.0, 2.0, 3.0, 0.0, 0.0, np.pi / 2, 1.0])
    forward = start + np.array([0, 0.1, 0, 0, 0, 0, 0])
    np.testing.assert_allclose(from_anchor(forward[None], start, TOOL)[0, :3], [0.1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(from_anchor(forward[None], start, ARM)[0, :3], [0, 0.1, 0], atol=1e-12)


def test_inputs_are_not_changed() -> None:
    kept, anchor = PATH.copy(), ANCHOR.copy()
    for change in (from_anchor, to_absolute, steps, followed):
        change(PATH, ANCHOR, TOOL)
    np.testing.assert_array_equal(PATH, kept)
    np.testing.assert_array_equal(ANCHOR, anchor)


def test_poses_and_chunks_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ContractError, match="euler_xyz takes 3 components, got 4"):
        Pose(position=slice(0, 3), rotation=slice(3, 7))
    with pytest.raises(ContractError, match="need a rotation and a 3-D position"):
        Pose(position=slice(0, 6), frame="tool")
    with pytest.raises(UnknownNameError, match="'base'"):
        Pose(position=slice(0, 3), frame="bass")  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match=r"pose\.form"):
        Pose(position=slice(0, 3), form="euler")  # type: ignore[arg-type]
    with pytest.raises(ContractError, match="expected a slice"):
        Pose(position=slice(0, 3), rotation=slice(3, None))
    with pytest.raises(ContractError, match="an anchor of that width"):
        from_anchor(PATH, ANCHOR[:6], ARM)
    with pytest.raises(ContractError, match="at least 6 components"):
        from_anchor(PATH[:, :4], ANCHOR[:4], ARM)
    with pytest.raises(ContractError, match="anchor: not finite"):
        steps(PATH, np.full(7, np.nan), ARM)


def test_bridge_grippers_take_the_value_that_is_decided_next() -> None:
    opening = np.array([1.0, 0.97, 0.6, 0.3, 0.02, 0.4, 0.96, 0.5, 0.7])
    np.testing.assert_array_equal(binarised(opening), [1, 1, 0, 0, 0, 1, 1, 0.7, 0.7])
    np.testing.assert_array_equal(binarised(opening[:7]), [1, 1, 0, 0, 0, 1, 1])
    np.testing.assert_array_equal(binarised(np.array([0.5])), [0.5])
    np.testing.assert_array_equal(binarised(np.array([0.95, 0.05, 0.951])), [1, 1, 1])


@settings(deadline=None, max_examples=100)
@given(arrays(np.float64, st.integers(1, 30), elements=st.floats(0, 1)))
def test_bridge_grippers_follow_the_released_scan(opening: np.ndarray) -> None:
    carried, expected = opening[-1], []
    for value in opening[::-1]:
        carried = carried if 0.05 <= value <= 0.95 else float(value > 0.95)
        expected.append(carried)
    np.testing.assert_array_equal(binarised(opening), expected[::-1])


@settings(deadline=None, max_examples=100)
@given(arrays(np.float64, st.integers(1, 30), elements=st.sampled_from([0.0, 0.05, -0.05, 1.0, -1.0, 0.3, -0.3])))
def test_relative_grippers_follow_the_released_scan(closing: np.ndarray) -> None:
    commands = [0 if abs(value) <= 0.1 else -int(np.sign(value)) for value in closing]
    state = -next((one for one in commands if one), -1)
    expected = []
    for one in commands:
        state = one or state
        expected.append(state / 2 + 0.5)
    np.testing.assert_array_equal(absolute_from_relative(closing), expected)


def test_relative_grippers_begin_opposite_to_their_first_command() -> None:
    np.testing.assert_array_equal(absolute_from_relative(np.array([0, 0, 1, 0, -1, 0.0])), [1, 1, 0, 0, 1, 1])
    np.testing.assert_array_equal(absolute_from_relative(np.array([0, -1.0, 0])), [0, 1, 1])
    np.testing.assert_array_equal(absolute_from_relative(np.zeros(4)), np.ones(4))


@pytest.mark.parametrize("change", [binarised, absolute_from_relative])
@pytest.mark.parametrize("bad", [np.zeros(0), np.zeros((2, 1)), np.array([np.nan]), np.array([1])])
def test_gripper_columns_are_checked(change: object, bad: np.ndarray) -> None:
    with pytest.raises(ContractError, match="gripper: expected finite floats by time"):
        change(bad)  # type: ignore[operator]


def test_gripper_conventions_agree_about_open() -> None:
    opened, closed = np.array([[0.2, 1.0]]), np.array([[0.2, 0.0]])
    assert [float(GRIPPERS[name].to_body(opened)[0, 1]) for name in ("bridge", "robosuite", "closedness")] == [1, -1, 0]
    assert [float(GRIPPERS[name].to_body(closed)[0, 1]) for name in ("bridge", "robosuite", "closedness")] == [0, 1, 1]
    for convention in GRIPPERS.values():
        for data in (opened, closed):
            np.testing.assert_array_equal(convention.to_data(convention.to_body(data)), data)
    nearly = np.array([[0.0, 0.996], [0.0, 0.004], [0.0, 1.3]])
    np.testing.assert_array_equal(gripper_convention("bridge").to_body(nearly)[:, 1], [1, 0, 1])
    np.testing.assert_allclose(gripper_convention("closedness").to_body(nearly)[:, 1], [0.004, 0.996, 0])
    np.testing.assert_array_equal(nearly[:, 1], [0.996, 0.004, 1.3], "inputs are never changed")


def test_temporal_ensembling_weighs_the_oldest_most() -> None:
    """ACT (2304.13705, specification 4.3): w_i = exp(-m i), i = 0 the oldest prediction for a step, normalised."""
    no = np.array([False])
    kinds = Kinds(delta=no, velocity=no, gripper=no)
    predictions = [0.0, 1.0, 10.0]  # for one step, oldest first
    chunks = [(float(offset), np.full((4, 1), value)) for offset, value in zip((2, 1, 0), predictions, strict=True)]
    for decay in (0.01, 0.5):
        weights = np.exp(-decay * np.arange(3))
        expected = (weights * predictions).sum() / weights.sum()
        assert ensembled(chunks, kinds, decay)[0, 0] == pytest.approx(expected, rel=1e-6)
    alone = ensembled(chunks, kinds, 0.01)[3, 0]
    assert alone == 10, "where the older chunks have ended, the newest is alone"
