"""Rotation forms against scipy and against each other, at the places where conversions are known to go wrong."""

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from actloop.actions.rotations import (
    SIZES,
    Form,
    angle_between,
    composed,
    continuous,
    convert,
    inverse,
    relative,
    wrapped,
)
from actloop.errors import ContractError, UnknownNameError

transform = pytest.importorskip("scipy.spatial.transform")

FORMS: tuple[Form, ...] = (
    "quat_wxyz",
    "quat_xyzw",
    "axis_angle",
    "euler_xyz",
    "matrix",
    "rot6d_columns",
    "rot6d_rows",
)
RANDOM = transform.Rotation.random(200, rng=np.random.default_rng(0))
HARD = transform.Rotation.concatenate(
    [
        transform.Rotation.identity(),
        transform.Rotation.from_rotvec([[np.pi, 0, 0], [0, np.pi, 0], [0, 0, -np.pi]]),  # half turns
        transform.Rotation.from_rotvec(np.array([[1, 1, 0], [1, -2, 3]]) / [[2**0.5], [14**0.5]] * (np.pi - 1e-9)),
        transform.Rotation.from_rotvec([[1e-9, 0, 0], [1e-12, -1e-12, 0]]),  # hardly any turn
        transform.Rotation.from_matrix(  # gimbal lock: looking straight up and down
            [
                [[0, 0, 1], [0, 1, 0], [-1, 0, 0]],
                [[0, 0, -1], [0, 1, 0], [1, 0, 0]],
                [[0, 1, 0], [0, 0, -1], [-1, 0, 0]],
            ]
        ),
    ]
)
QUICK = settings(deadline=None, max_examples=100, phases=[Phase.explicit, Phase.generate])
QUATERNIONS = arrays(np.float64, 4, elements=st.floats(-1, 1)).filter(lambda q: np.linalg.norm(q) > 1e-3)


def same(first: np.ndarray, second: np.ndarray, form: Form) -> np.ndarray:
    """How far two sets of rotations are apart, as matrices."""
    return np.abs(convert(first, form, "matrix") - convert(second, form, "matrix"))


@pytest.mark.parametrize("source", FORMS)
@pytest.mark.parametrize("target", FORMS)
def test_every_form_round_trips_through_every_other(source: Form, target: Form) -> None:
    for rotations in (RANDOM, HARD):
        given_values = convert(rotations.as_quat(), "quat_xyzw", source)
        there = convert(given_values, source, target)
        assert there.shape == (len(rotations), SIZES[target])
        assert same(convert(there, target, source), given_values, source).max() < 2e-7


def test_every_form_means_what_it_says() -> None:
    matrix = RANDOM.as_matrix()
    quat = RANDOM.as_quat(canonical=True)
    expected = {
        "quat_wxyz": quat[:, [3, 0, 1, 2]],
        "quat_xyzw": quat,
        "axis_angle": RANDOM.as_rotvec(),
        "euler_xyz": RANDOM.as_euler("xyz"),
        "matrix": matrix.reshape(-1, 9),
        "rot6d_columns": np.concatenate([matrix[:, :, 0], matrix[:, :, 1]], axis=1),
        "rot6d_rows": np.concatenate([matrix[:, 0], matrix[:, 1]], axis=1),
    }
    for form in FORMS:
        np.testing.assert_allclose(convert(quat, "quat_xyzw", form), expected[form], atol=1e-12)


def test_euler_angles_are_about_fixed_axes_in_the_order_x_y_z() -> None:
    def about(axis: int, angle: float) -> np.ndarray:
        return transform.Rotation.from_rotvec(angle * np.eye(3)[axis]).as_matrix()  # type: ignore[no-any-return]

    roll, pitch, yaw = 0.3, -0.7, 1.9
    by_hand = about(2, yaw) @ about(1, pitch) @ about(0, roll)
    np.testing.assert_allclose(convert(np.array([roll, pitch, yaw]), "euler_xyz", "matrix"), by_hand.ravel())


def test_the_two_layouts_of_six_numbers_are_each_others_inverse_rotation() -> None:
    """Reading one as the other turns every rotation around, which no shape check notices."""
    six = convert(RANDOM.as_quat(), "quat_xyzw", "rot6d_columns")
    assert same(six, inverse(six, "rot6d_rows"), "rot6d_rows").max() > 0.1
    np.testing.assert_allclose(
        convert(six, "rot6d_rows", "matrix"), RANDOM.inv().as_matrix().reshape(-1, 9), atol=1e-12
    )


@QUICK
@given(arrays(np.float64, 6, elements=st.floats(-2, 2)))
def test_six_numbers_that_are_no_columns_become_a_rotation(six: np.ndarray) -> None:
    """What a network answers: orthonormalised, the first vector keeping its direction."""
    first, second = six[:3], six[3:]
    if np.linalg.norm(np.cross(first, second)) < 1e-3:
        return
    matrix = convert(six, "rot6d_columns", "matrix").reshape(3, 3)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-9)
    assert np.linalg.det(matrix) == pytest.approx(1)
    np.testing.assert_allclose(matrix[:, 0], first / np.linalg.norm(first), atol=1e-9)
    assert matrix[:, 1] @ second > 0


@QUICK
@given(QUATERNIONS)
def test_antipodal_quaternions_are_one_rotation_and_come_out_alike(quaternion: np.ndarray) -> None:
    for form in FORMS:
        there, opposite = (convert(one, "quat_wxyz", form) for one in (quaternion, -quaternion))
        assert same(there, opposite, form).max() < 1e-9
    back = convert(quaternion, "quat_wxyz", "quat_wxyz")
    assert back[0] >= 0
    assert np.linalg.norm(back) == pytest.approx(1)


def test_the_first_quaternion_order_is_not_the_other() -> None:
    np.testing.assert_allclose(convert(np.array([1.0, 0, 0, 0]), "quat_wxyz", "axis_angle"), 0, atol=1e-12)
    turned = convert(np.array([1.0, 0, 0, 0]), "quat_xyzw", "axis_angle")
    np.testing.assert_allclose(np.abs(turned), [np.pi, 0, 0], atol=1e-12)


def test_half_turns_keep_their_angle_and_axis() -> None:
    for axis in np.concatenate([np.eye(3), [[0.6, 0.8, 0]]]):
        quat = convert(np.pi * axis, "axis_angle", "quat_wxyz")
        np.testing.assert_allclose(np.abs(quat), [0, *axis], atol=1e-12)
        back = convert(quat, "quat_wxyz", "axis_angle")
        assert np.linalg.norm(back) == pytest.approx(np.pi)
        assert abs(back @ axis) == pytest.approx(np.pi)
    beyond = convert(np.array([0, 0, np.pi + 0.1]), "axis_angle", "axis_angle")
    np.testing.assert_allclose(beyond, [0, 0, 0.1 - np.pi], atol=1e-12)


def test_gimbal_lock_is_a_rotation_with_yaw_0_and_no_warning() -> None:
    for pitch in (np.pi / 2, -np.pi / 2):
        given_angles = np.array([0.4, pitch, 0.9])
        back = convert(convert(given_angles, "euler_xyz", "quat_wxyz"), "quat_wxyz", "euler_xyz")
        assert same(back, given_angles, "euler_xyz").max() < 1e-7
        assert back[2] == 0


@pytest.mark.parametrize("form", FORMS)
def test_relative_and_composed_are_inverses(form: Form) -> None:
    first, second = (
        convert(RANDOM[:100].as_quat(), "quat_xyzw", form),
        convert(RANDOM[100:].as_quat(), "quat_xyzw", form),
    )
    turn = relative(second, first, form)
    assert same(composed(turn, first, form), second, form).max() < 1e-9
    assert (
        same(
            composed(first, inverse(first, form), form),
            np.broadcast_to(convert(np.array([1.0, 0, 0, 0]), "quat_wxyz", form), first.shape),
            form,
        ).max()
        < 1e-9
    )
    expected = (RANDOM[100:] * RANDOM[:100].inv()).magnitude()
    np.testing.assert_allclose(angle_between(first, second, form), expected, atol=1e-9)


def test_differences_of_euler_angles_wrap() -> None:
    """Bridge: a roll that passes pi looks like a turn of 2 pi backwards (specification 2.2)."""
    roll = wrapped(np.linspace(3.0, 3.4, 9))
    assert np.abs(np.diff(roll)).max() > 6
    np.testing.assert_allclose(wrapped(np.diff(roll)), 0.05, atol=1e-12)
    angles = np.stack([roll, np.full(9, 0.2), np.full(9, -0.1)], axis=1)
    steps = np.linalg.norm(convert(relative(angles[1:], angles[:-1], "euler_xyz"), "euler_xyz", "axis_angle"), axis=1)
    np.testing.assert_allclose(steps, 0.05, atol=1e-9)
    np.testing.assert_allclose(wrapped(np.array([np.pi, -np.pi, 0.0, 3 * np.pi])), [-np.pi, -np.pi, 0, -np.pi])


@QUICK
@given(st.floats(-100, 100))
def test_wrapped_angles_are_the_same_angles(angle: float) -> None:
    inside = float(wrapped(np.array(angle)))
    assert -np.pi <= inside < np.pi
    assert np.cos(inside) == pytest.approx(np.cos(angle), abs=1e-9)
    assert np.sin(inside) == pytest.approx(np.sin(angle), abs=1e-9)


def test_a_path_of_quaternions_has_no_jumps_of_sign() -> None:
    path = convert(np.linspace(0, 3 * np.pi, 60)[:, None] * [0.0, 0, 1], "axis_angle", "quat_wxyz")
    assert np.linalg.norm(np.diff(path, axis=0), axis=1).max() > 1, "w >= 0 jumps at half turns"
    smooth = continuous(path)
    assert np.linalg.norm(np.diff(smooth, axis=0), axis=1).max() < 0.1
    assert same(smooth, path, "quat_wxyz").max() < 1e-12
    np.testing.assert_array_equal(smooth[0], path[0])
    assert continuous(np.zeros((0, 4))).shape == (0, 4)


def test_shapes_of_rows_are_kept() -> None:
    assert convert(np.zeros((2, 5, 3)), "axis_angle", "rot6d_rows").shape == (2, 5, 6)
    assert convert(np.zeros(3), "euler_xyz", "matrix").shape == (9,)
    assert convert(np.zeros((0, 3)), "euler_xyz", "matrix").shape == (0, 9)


@pytest.mark.parametrize(
    ("values", "form", "said"),
    [
        (np.zeros(4), "quat_wxyz", "quaternion of length 0"),
        (np.zeros(4), "axis_angle", r"expected 3 numbers in the last axis, got shape \(4,\)"),
        (np.array([np.nan, 0, 0]), "euler_xyz", "not finite"),
        (np.array([1.0, 0, 0, 2, 0, 0]), "rot6d_rows", "zero or parallel"),
        (np.zeros(6), "rot6d_columns", "zero or parallel"),
        (np.arange(9.0), "matrix", "not a rotation"),
        (-np.eye(3).ravel(), "matrix", "not a rotation"),
        (np.zeros(3), "euler_zyx", "unknown name 'euler_zyx'"),
    ],
)
def test_what_is_no_rotation_is_refused(values: np.ndarray, form: Form, said: str) -> None:
    with pytest.raises(ContractError, match=said):
        convert(values, form, "matrix")


def test_the_target_is_named_too() -> None:
    with pytest.raises(UnknownNameError, match="'quat_wxyz'"):
        convert(np.zeros(3), "axis_angle", "quat_wxzy")  # type: ignore[arg-type]
