"""Rotations by the name of their form, and the cases that cost whole benchmarks when they are overlooked.

    form           numbers  meaning
    quat_wxyz      4        unit quaternion, scalar first; q and -q are one rotation, and w >= 0 is what comes out
    quat_xyzw      4        the same, scalar last (scipy, ROS, robosuite)
    axis_angle     3        unit axis times angle in rad; 0 to pi comes out
    euler_xyz      3        rad about the fixed x, then y, then z axis: roll, pitch, yaw; extrinsic
    matrix         9        rows one after another
    rot6d_columns  6        first column, then second column of the matrix (Zhou et al., 1812.07035)
    rot6d_rows     6        first row, then second row (pytorch3d)

Angles wrap: the difference of two Euler angles near +-pi is no rotation until it is `wrapped`. At a pitch of +-pi/2
only roll - yaw, or roll + yaw, is defined: yaw comes out as 0. Arrays are `(*rows, numbers)`, float64.
"""

import warnings
from collections.abc import Callable
from importlib import import_module
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from actloop.errors import ContractError, MissingDependency, UnknownNameError

Form = Literal["quat_wxyz", "quat_xyzw", "axis_angle", "euler_xyz", "matrix", "rot6d_columns", "rot6d_rows"]
SIZES: dict[str, int] = {
    "quat_wxyz": 4,
    "quat_xyzw": 4,
    "axis_angle": 3,
    "euler_xyz": 3,
    "matrix": 9,
    "rot6d_columns": 6,
    "rot6d_rows": 6,
}
SMALLEST = 1e-8  # norm below which a quaternion or a column says nothing
ORTHONORMAL = 1e-3  # how far the columns of a given matrix may be from it

Rotations = Float[np.ndarray, "*rows numbers"]
Broadcast = Float[np.ndarray, "*#rows numbers"]
Converted = Float[np.ndarray, "*rows converted"]


def convert(values: Rotations, source: Form, target: Form) -> Converted:
    """The same rotations in another form.

    Raises:
        UnknownNameError: no such form.
        ContractError: another number of values, not finite, or no rotation: a zero quaternion, parallel columns, a
            matrix that is not orthonormal or mirrors.
        MissingDependency: scipy is not installed.
    """
    checked = _checked(values, source)
    _known(target)
    rows = checked.shape[:-1]
    flat = np.array(checked.reshape(-1, SIZES[source]))  # scipy refuses views that cannot be written to
    out = _write(_read(flat, source), target) if len(flat) else np.zeros((0, SIZES[target]))
    return out.reshape(*rows, SIZES[target])


def composed(second: Broadcast, first: Broadcast, form: Form) -> Broadcast:
    """`first`, then `second`, both about fixed axes: the matrix product second @ first. Rows broadcast."""
    return _product(second, first, form, invert_first=False)


def relative(after: Broadcast, before: Broadcast, form: Form) -> Broadcast:
    """What turns `before` into `after` about the fixed axes: after @ before^-1. Rows broadcast."""
    return _product(after, before, form, invert_first=True)


def inverse(values: Rotations, form: Form) -> Rotations:
    """The rotation back."""
    turned = _matrices(values, form).swapaxes(-1, -2)
    return convert(turned.reshape(*turned.shape[:-2], 9), "matrix", form)


def angle_between(first: Broadcast, second: Broadcast, form: Form) -> Float[np.ndarray, "*rows"]:
    """The angle of the rotation from one to the other, rad, 0 to pi."""
    apart = relative(second, first, form)
    return np.asarray(np.linalg.norm(convert(apart, form, "axis_angle"), axis=-1))


def wrapped(angles: Float[np.ndarray, "*rows"]) -> Float[np.ndarray, "*rows"]:
    """Angles, or differences of angles, in [-pi, pi).

    Subtracting raw Euler angles of successive states, as OpenVLA's Bridge relabelling does, gives steps of about 2 pi
    where an angle passes pi; wrapped, they are the steps that were made.
    """
    return np.asarray((np.asarray(angles, dtype=np.float64) + np.pi) % (2 * np.pi) - np.pi)


def continuous(quaternions: Float[np.ndarray, "time 4"]) -> Float[np.ndarray, "time 4"]:
    """The same rotations with signs such that successive quaternions are near each other; the first keeps its sign.

    For whatever interpolates, normalises or learns quaternions: q and -q are one rotation but opposite targets.
    """
    checked = _checked(quaternions, "quat_wxyz")
    agrees = np.where((checked[1:] * checked[:-1]).sum(-1) < 0, -1.0, 1.0)
    signs = np.concatenate([np.ones(min(1, len(checked))), np.cumprod(agrees)])
    return np.asarray(checked * signs[:, None])


def _product(left: Broadcast, right: Broadcast, form: Form, *, invert_first: bool) -> Broadcast:
    """left @ right, or left @ right^-1, in the same form."""
    other = _matrices(right, form)
    product = _matrices(left, form) @ (other.swapaxes(-1, -2) if invert_first else other)
    return convert(product.reshape(*product.shape[:-2], 9), "matrix", form)


def _matrices(values: Rotations, form: Form) -> Float[np.ndarray, "*rows 3 3"]:
    flat = convert(values, form, "matrix")
    return flat.reshape(*flat.shape[:-1], 3, 3)


def _read(values: Float[np.ndarray, "rows numbers"], form: Form) -> Any:
    """A scipy `Rotation`."""
    rotation = _rotation()
    if form in ("quat_wxyz", "quat_xyzw"):
        if (np.linalg.norm(values, axis=-1) < SMALLEST).any():
            raise ContractError(form, "a quaternion of length 0 is no rotation")
        return rotation.from_quat(values if form == "quat_xyzw" else np.roll(values, -1, axis=-1))
    readers: dict[str, Callable[[Any], Any]] = {
        "axis_angle": rotation.from_rotvec,
        "euler_xyz": lambda angles: rotation.from_euler("xyz", angles),
        "matrix": lambda flat: rotation.from_matrix(_orthonormal(flat)),
        "rot6d_columns": lambda six: rotation.from_matrix(_completed(six[:, :3], six[:, 3:]).swapaxes(-1, -2)),
        "rot6d_rows": lambda six: rotation.from_matrix(_completed(six[:, :3], six[:, 3:])),
    }
    return readers[form](values)


def _write(rotation: Any, form: Form) -> Float[np.ndarray, "rows numbers"]:
    """In the given form, of what `_read` made."""
    if form in ("quat_wxyz", "quat_xyzw"):
        xyzw = rotation.as_quat(canonical=True)
        return np.asarray(xyzw if form == "quat_xyzw" else np.roll(xyzw, 1, axis=-1))
    if form == "axis_angle":
        return np.asarray(rotation.as_rotvec())
    if form == "euler_xyz":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # gimbal lock: the docstring of the module says what happens
            return np.asarray(rotation.as_euler("xyz"))
    matrices = np.asarray(rotation.as_matrix())
    if form == "matrix":
        return matrices.reshape(-1, 9)
    two = matrices[:, :2] if form == "rot6d_rows" else matrices.swapaxes(-1, -2)[:, :2]
    return np.asarray(two.reshape(-1, 6))


def _completed(first: np.ndarray, second: np.ndarray) -> Float[np.ndarray, "rows 3 3"]:
    """Three orthonormal rows from two that need not be (Gram-Schmidt, 1812.07035, section B)."""
    length = np.linalg.norm(first, axis=-1, keepdims=True)
    x = first / np.maximum(length, SMALLEST)
    rest = second - (x * second).sum(-1, keepdims=True) * x
    left = np.linalg.norm(rest, axis=-1, keepdims=True)
    if (length < SMALLEST).any() or (left < SMALLEST).any():
        raise ContractError("rot6d", "two vectors that are zero or parallel are no rotation")
    y = rest / left
    return np.stack([x, y, np.cross(x, y)], axis=-2)


def _orthonormal(flat: Float[np.ndarray, "rows 9"]) -> Float[np.ndarray, "rows 3 3"]:
    matrices = flat.reshape(-1, 3, 3)
    off = np.abs(matrices @ matrices.swapaxes(-1, -2) - np.eye(3)).max()
    if off > ORTHONORMAL or (np.linalg.det(matrices) < 0).any():
        raise ContractError("matrix", f"not a rotation: {off:.2g} away from orthonormal, or a mirror")
    return matrices


def _checked(values: Rotations, form: Form) -> Rotations:
    _known(form)
    given: Rotations = np.asarray(values, dtype=np.float64)
    if given.ndim < 1 or given.shape[-1] != SIZES[form]:
        raise ContractError(form, f"expected {SIZES[form]} numbers in the last axis, got shape {given.shape}")
    if not np.isfinite(given).all():
        raise ContractError(form, "not finite (NaN or infinity)")
    return given


def _known(form: str) -> None:
    if form not in SIZES:
        raise UnknownNameError("rotation form", form, SIZES)


def _rotation() -> Any:
    try:
        return import_module("scipy.spatial.transform").Rotation
    except ModuleNotFoundError as error:
        mend = "pip install 'actloop[language]'"
        raise MissingDependency("package 'scipy'", "rotations are converted with it", mend) from error
