"""A chunk as a path: where the actions lead, and how to follow it slower without leaving it.

    vertices   v0 ---- v1 ---- v2 ---- v3        absolute: v0 is where the robot was sent last, then the targets
    progress   0       1       2       3         delta: the sum of the actions so far, from 0
                    ^at     ^at + pace           one tick moves on by `pace`, 1 at full speed

Parts named gripper... are switched, never interpolated: half a grasp is no grasp.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from actloop.contracts import Action, Embodiment

GRIPPER = "gripper"
NEARLY = 1e-9  # of an action: progress sums floats


@dataclass(frozen=True, slots=True)
class Kinds:
    """Which components of an action are deltas, velocities, or of a gripper."""

    delta: Bool[np.ndarray, "action"]
    velocity: Bool[np.ndarray, "action"]
    gripper: Bool[np.ndarray, "action"]

    @classmethod
    def of(cls, embodiment: Embodiment) -> "Kinds":
        parts = [part for part in embodiment.action.parts for _ in part.low]
        return cls(
            delta=np.array([part.kind == "delta" for part in parts]),
            velocity=np.array([part.kind == "velocity" for part in parts]),
            gripper=np.array([part.name.startswith(GRIPPER) for part in parts]),
        )

    @property
    def absolute(self) -> Bool[np.ndarray, "action"]:
        absolute: Bool[np.ndarray, "action"] = ~(self.delta | self.velocity)  # noqa: UP037 (jaxtyping's axis)
        return absolute


class Path:
    """Actions along a chunk, at any pace.

    Args:
        actions: one per tick at full pace, in physical units.
        origin: what was sent last: where the absolute parts of the path begin.
    """

    def __init__(self, actions: Float[np.ndarray, "horizon action"], origin: Action, kinds: Kinds) -> None:
        self.actions = np.asarray(actions, dtype=np.float32)
        self.kinds = kinds
        self.vertices: Float[np.ndarray, "points action"] = np.empty((len(self.actions) + 1, self.actions.shape[1]))
        self.vertices[0], self.vertices[1:] = origin, self.actions
        if kinds.delta.any():
            self.vertices[0, kinds.delta] = 0.0
            self.vertices[1:, kinds.delta] = np.cumsum(self.actions[:, kinds.delta], axis=0, dtype=np.float64)
        self._switched = kinds.gripper & ~kinds.delta
        self._plain = not (kinds.velocity.any() or kinds.gripper.any())

    def __len__(self) -> int:
        return len(self.actions)

    def point(self, at: float) -> Float[np.ndarray, "action"]:
        """The path at progress `at`, beyond its ends at them: targets of absolute parts, sums of delta parts."""
        at = min(max(at, 0.0), float(len(self.actions)))
        low = min(int(at), len(self.actions) - 1)
        share = at - low
        point: Action
        if share == 0.0:
            point = self.vertices[low]
        elif share == 1.0:
            point = self.vertices[low + 1]
        else:
            point = (1 - share) * self.vertices[low] + share * self.vertices[low + 1]
        return point

    def action(self, at: float, pace: float = 1.0) -> Action:
        """What to send in a tick that moves from progress `at` on by `pace`, which may be 0."""
        end = min(at + pace, float(len(self.actions)))
        if pace == 1.0 and at == int(at) and end == at + 1:
            whole: Action = self.actions[int(at)]
            return whole
        there = self.point(end)
        action = np.where(self.kinds.delta, there - self.point(at), there)
        if not self._plain:
            index = min(max(math.ceil(end - NEARLY) - 1, 0), len(self.actions) - 1)
            action = np.where(self.kinds.velocity, self.actions[index] * (end - at), action)
            action = np.where(self._switched, self.actions[index], action)
        sent: Action = action.astype(np.float32)
        return sent
