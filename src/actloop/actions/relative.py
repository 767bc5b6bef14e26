"""Between chunks of absolute poses and chunks of differences: from the pose at the anchor, or from step to step.

    absolute --from_anchor(chunk, anchor)--> each pose as seen from the anchor's --to_absolute(.., anchor)--> absolute
    absolute --steps(chunk, start)---------> each pose as seen from the one before --followed(.., start)----> absolute

Positions are subtracted; rotations are composed, never subtracted. Whatever is neither, such as a gripper, stays
absolute. Which frame differences are in is part of the pose's declaration: `base`, about fixed axes, as Bridge and
OpenVLA have it, or `tool`, about the axes of the pose that they start from.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from actloop.actions.representation import Chunk, checked
from actloop.actions.rotations import SIZES, Form, composed, convert, inverse, relative
from actloop.errors import ContractError, UnknownNameError

FrameName = Literal["base", "tool"]
FRAMES: tuple[FrameName, ...] = ("base", "tool")

Vector = Float[np.ndarray, "action"]
Rows = Float[np.ndarray, "rows action"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pose:
    """Where an action vector holds what becomes relative.

    Attributes:
        position: components that are subtracted: a position, or joint angles that do not wrap.
        rotation: components that are composed, in the form `form`; None where there are none.
        frame: `base` or `tool`; `tool` needs a rotation and a position of three components.
    """

    position: slice
    rotation: slice | None = None
    form: Form = "euler_xyz"
    frame: FrameName = "base"

    def __post_init__(self) -> None:
        if self.frame not in FRAMES:
            raise UnknownNameError("pose.frame", self.frame, FRAMES)
        if self.form not in SIZES:
            raise UnknownNameError("pose.form", self.form, SIZES)
        _length(self.position)
        if self.rotation is not None and _length(self.rotation) != SIZES[self.form]:
            size = _length(self.rotation)
            raise ContractError("pose.rotation", f"{self.form} takes {SIZES[self.form]} components, got {size}")
        if self.frame == "tool" and (self.rotation is None or _length(self.position) != 3):
            raise ContractError("pose.frame", "differences in the tool's frame need a rotation and a 3-D position")


def from_anchor(chunk: Chunk, anchor: Vector, pose: Pose) -> Chunk:
    """Every absolute pose as seen from the pose at the anchor; the rest as it is.

    Raises:
        ContractError: not finite, another width than the anchor's, or no rotations where the pose declares them.
    """
    rows, start = _rows(chunk, anchor, pose)
    return _seen(rows, np.broadcast_to(start, rows.shape), pose)


def to_absolute(chunk: Chunk, anchor: Vector, pose: Pose) -> Chunk:
    """The inverse of `from_anchor`."""
    rows, start = _rows(chunk, anchor, pose)
    return _moved(rows, np.broadcast_to(start, rows.shape), pose)


def steps(chunk: Chunk, start: Vector, pose: Pose) -> Chunk:
    """Every absolute pose as seen from the one before it, the first as seen from `start`; the rest as it is.

    Raises:
        ContractError: as `from_anchor`.
    """
    rows, first = _rows(chunk, start, pose)
    return _seen(rows, np.concatenate([first[None], rows[:-1]]), pose)


def followed(chunk: Chunk, start: Vector, pose: Pose) -> Chunk:
    """The inverse of `steps`: where a robot at `start` gets to, step by step."""
    rows, here = _rows(chunk, start, pose)
    reached = np.empty_like(rows)
    for tick, row in enumerate(rows):
        here = _moved(row[None], here[None], pose)[0]
        reached[tick] = here
    return reached


def _seen(rows: Rows, origin: Rows, pose: Pose) -> Rows:
    """Each row relative to the one of `origin` beside it."""
    out = rows.copy()
    apart = rows[:, pose.position] - origin[:, pose.position]
    if pose.rotation is not None:
        turned, before = rows[:, pose.rotation], origin[:, pose.rotation]
        if pose.frame == "tool":
            apart = _rotated(inverse(before, pose.form), apart, pose.form)
            out[:, pose.rotation] = composed(inverse(before, pose.form), turned, pose.form)
        else:
            out[:, pose.rotation] = relative(turned, before, pose.form)
    out[:, pose.position] = apart
    return out


def _moved(rows: Rows, origin: Rows, pose: Pose) -> Rows:
    """Each relative row applied to the pose beside it."""
    out = rows.copy()
    apart = rows[:, pose.position]
    if pose.rotation is not None:
        turn, before = rows[:, pose.rotation], origin[:, pose.rotation]
        if pose.frame == "tool":
            apart = _rotated(before, apart, pose.form)
            out[:, pose.rotation] = composed(before, turn, pose.form)
        else:
            out[:, pose.rotation] = composed(turn, before, pose.form)
    out[:, pose.position] = origin[:, pose.position] + apart
    return out


def _rotated(rotation: np.ndarray, vectors: Float[np.ndarray, "rows 3"], form: Form) -> Float[np.ndarray, "rows 3"]:
    matrices = convert(rotation, form, "matrix").reshape(-1, 3, 3)
    return np.asarray(np.einsum("rij,rj->ri", matrices, vectors))


def _rows(chunk: Chunk, anchor: Vector, pose: Pose) -> tuple[Rows, Vector]:
    rows, start = checked(chunk, "chunk"), checked(anchor, "anchor")
    if rows.ndim != 2 or start.shape != rows.shape[1:]:
        shapes = f"{rows.shape} and {start.shape}"
        raise ContractError("chunk", f"expected (horizon, action) and an anchor of that width, got {shapes}")
    needed = max(pose.position.stop, pose.rotation.stop if pose.rotation is not None else 0)
    if rows.shape[1] < needed:
        raise ContractError("chunk", f"the pose takes at least {needed} components, got {rows.shape[1]}")
    return rows, start


def _length(where: slice) -> int:
    if where.start is None or where.stop is None or where.step not in (None, 1) or not 0 <= where.start < where.stop:
        raise ContractError("pose", f"expected a slice from a first to a last component, got {where}")
    return int(where.stop - where.start)
