"""Gripper conventions: what datasets call open and what robots call open, by name, so that a checkpoint stores which.

name         in the data (what a network learns)    of the body (what an action says)
as-recorded  anything                               the same
bridge       1 open, 0 closed                       the same (WidowX), decided at 0.5
robosuite    1 open, 0 closed                       -1 open, +1 closed, 0 stay (LIBERO, robosuite's simulated grippers)
closedness   1 open, 0 closed                       0 open, 1 closed (as RT-1's robots and DROID record it)

The gripper is the last component of an action. Below them is what turns other records into 1 open, 0 closed: over whole
episodes, as columns `(time,)`. NumPy only; inputs are never changed.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from actloop.errors import ContractError, UnknownNameError

OPEN_ABOVE, CLOSED_BELOW = 0.95, 0.05  # of a Bridge gripper; in between it is moving
RELATIVE_DEADBAND = 0.1  # of fractal's closing commands, in the released standardisation

Actions = Float[np.ndarray, "*rows action"]
Column = Float[np.ndarray, "time"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GripperConvention:
    """Both directions of one convention, on whole actions of any number of rows."""

    name: str
    to_body: Callable[[Actions], Actions]
    to_data: Callable[[Actions], Actions]


def as_recorded(actions: Actions) -> Actions:
    """Data and body agree."""
    return actions.copy()


def decided(actions: Actions) -> Actions:
    """1 open where the gripper is above a half, else 0 closed."""
    commanded = actions.copy()
    commanded[..., -1] = actions[..., -1] > 0.5
    return commanded


def inverted(actions: Actions) -> Actions:
    """1 open from 0 open, or the other way round, clipped to [0, 1] first; its own inverse there."""
    turned = actions.copy()
    turned[..., -1] = 1 - np.clip(actions[..., -1], 0, 1)
    return turned


def to_robosuite(actions: Actions) -> Actions:
    """From 1 open, 0 closed to the commands -1 open, +1 closed of robosuite's simulated grippers (LIBERO).

    Decided at 0.5, which itself becomes 0: the fingers stay. Robosuite moves fingers by the sign of the command alone,
    and the released evaluation binarises in the same way (released code).
    """
    commanded = actions.copy()
    commanded[..., -1] = np.sign(1 - 2 * actions[..., -1])
    return commanded


def from_robosuite(actions: Actions) -> Actions:
    """From commands in [-1, 1], -1 open, to 1 open, 0 closed; the inverse of `to_robosuite` on its three values."""
    recorded = actions.copy()
    recorded[..., -1] = (1 - actions[..., -1]) / 2
    return recorded


GRIPPERS: dict[str, GripperConvention] = {
    convention.name: convention
    for convention in (
        GripperConvention(name="as-recorded", to_body=as_recorded, to_data=as_recorded),
        GripperConvention(name="bridge", to_body=decided, to_data=as_recorded),
        GripperConvention(name="robosuite", to_body=to_robosuite, to_data=from_robosuite),
        GripperConvention(name="closedness", to_body=inverted, to_data=inverted),
    )
}


def gripper_convention(name: str) -> GripperConvention:
    """The convention of that name.

    Raises:
        UnknownNameError: there is none.
    """
    if name not in GRIPPERS:
        raise UnknownNameError("gripper", name, GRIPPERS)
    return GRIPPERS[name]


def binarised(opening: Column) -> Column:
    """1 open above 0.95, 0 closed below 0.05; in between what is decided next (Bridge, released standardisation).

    What is never decided again keeps the last value, as it is.
    """
    column = _column(opening)
    sure = (column > OPEN_ABOVE) | (column < CLOSED_BELOW)
    settled = np.where(sure, (column > OPEN_ABOVE).astype(column.dtype), column)
    last = len(column) - 1
    ahead = np.minimum.accumulate(np.where(sure, np.arange(len(column)), last)[::-1])[::-1]
    decided_next: Column = settled[ahead]
    return decided_next


def absolute_from_relative(closing: Column) -> Column:
    """1 open, 0 closed, from closing commands: +1 closes, -1 opens, near 0 stays (fractal, released standardisation).

    Before the first command it is the opposite of what that command does; without any, open.
    """
    column = _column(closing)
    moves = np.where(column < -RELATIVE_DEADBAND, 1.0, np.where(column > RELATIVE_DEADBAND, -1.0, 0.0))
    acting = np.flatnonzero(moves)
    if not acting.size:
        return np.ones_like(column)
    start = -moves[acting[0]]
    latest = np.maximum.accumulate(np.where(moves != 0, np.arange(len(moves)), -1))
    held = np.where(latest < 0, start, moves[np.maximum(latest, 0)])
    absolute: Column = (held > 0).astype(column.dtype)
    return absolute


def _column(values: Column) -> Column:
    column = np.asarray(values)
    if column.ndim != 1 or not column.size or column.dtype.kind != "f" or not np.isfinite(column).all():
        raise ContractError("gripper", f"expected finite floats by time, got {column.dtype} {column.shape}")
    return column
