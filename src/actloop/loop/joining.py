"""How a new chunk takes over from the plan in force: pure functions over actions.

    replace    from the next tick on, the new chunk; what its deltas missed is made up evenly
    ensemble   the average of all chunks that have an action for a tick (temporal ensembling, Zhao et al. 2304.13705)
    blend      position, velocity and acceleration go over without a jump (a quintic, as VLA-RAIL, 2512.24673)

With real-time chunking the model itself continues what is committed (`Committed`), and `replace` has nothing to smooth.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from actloop.contracts import Action
from actloop.errors import ContractError, UnknownNameError
from actloop.loop.path import Kinds

JoinName = Literal["replace", "ensemble", "blend"]
JOINS: tuple[JoinName, ...] = ("replace", "ensemble", "blend")


@dataclass(frozen=True, slots=True, kw_only=True)
class Join:
    """How chunks are joined.

    Attributes:
        how: `replace`, `ensemble` or `blend`.
        ticks: over which `replace` makes up for what late deltas missed (0: never), and `blend` goes over.
        decay: of `ensemble`: the n-th newer chunk weighs exp(-decay * n); 0 for equal weights, below 0 for more
            weight on the newer ones.
    """

    how: JoinName = "replace"
    ticks: int = 4
    decay: float = 0.01

    def __post_init__(self) -> None:
        if self.how not in JOINS:
            raise UnknownNameError("join.how", self.how, JOINS)
        least = 1 if self.how == "blend" else 0
        if self.ticks < least:
            raise ContractError("join.ticks", f"expected at least {least}, got {self.ticks}")
        if not abs(self.decay) < float("inf"):
            raise ContractError("join.decay", f"expected a finite number, got {self.decay}")


@dataclass(frozen=True, slots=True)
class Motion:
    """The robot at the moment of a join, per component.

    For absolute and velocity parts `last` are the newest three values sent, newest first; for delta parts `last` are
    the newest three deltas, and `owed` is how far the new chunk had meant it to be from where it is.
    """

    last: tuple[Action, ...]
    owed: Float[np.ndarray, "action"]


def continued(
    actions: Float[np.ndarray, "horizon action"], at: float, motion: Motion, kinds: Kinds, join: Join
) -> Float[np.ndarray, "rest action"]:
    """The rest of a chunk from progress `at` on, as it is to be sent.

    The first row is for the tick in which progress passes the next whole action; summed, the deltas end `owed` further
    than the chunk's own.
    """
    first = int(at)
    rest = np.asarray(actions[first:], dtype=np.float64)
    if not len(rest):
        return rest.astype(np.float32)
    ramps = kinds.delta & (motion.owed != 0.0)
    if join.how != "blend":
        if not join.ticks or not ramps.any():
            return rest.astype(np.float32)
        part = at - first
        made_up = np.minimum((np.arange(len(rest)) + 1 - part) / join.ticks, 1.0)
        share = np.diff(made_up, prepend=0.0)[:, None]
        share[0] /= 1 - part  # of the first action only the rest is executed
        return np.where(ramps, rest + share * motion.owed, rest).astype(np.float32)
    return _blended(rest, at - first, motion, kinds, join.ticks)


def _blended(
    rest: Float[np.ndarray, "rest action"], part: float, motion: Motion, kinds: Kinds, ticks: int
) -> Float[np.ndarray, "rest action"]:
    """Towards the new path by a quintic that begins with the robot's position, velocity and acceleration."""
    if not motion.last:
        return rest.astype(np.float32)
    newest, before, oldest = (*motion.last, *[motion.last[-1]] * 2)[:3]
    summed = np.cumsum(rest, axis=0) - part * rest[0]
    path = np.where(kinds.delta, summed + motion.owed, rest)
    # The motion at the join to second order: the robot's from what it did last, the new path's from its first steps.
    speed = np.where(kinds.delta, newest, newest - before)
    rising = np.where(kinds.delta, newest - before, speed - (before - oldest))
    first, bend = _beginning(rest, kinds)
    rest_of = 1 - part
    here = np.where(kinds.delta, motion.owed, path[0] - rest_of * first + rest_of * (rest_of + 1) / 2 * bend)
    velocity = speed + rising / 2 - first + np.where(kinds.delta, rest_of - 0.5, rest_of + 0.5) * bend
    accelerating = rising - bend
    error = np.where(kinds.delta, -here, newest - here)
    x = np.minimum((np.arange(len(rest)) + 1 - part) / ticks, 1.0)[:, None]
    faded = error * (1 - 10 * x**3 + 15 * x**4 - 6 * x**5)
    faded += ticks * velocity * (x - 6 * x**3 + 8 * x**4 - 3 * x**5)
    faded += ticks**2 * accelerating * (0.5 * x**2 - 1.5 * x**3 + 1.5 * x**4 - 0.5 * x**5)
    simple = (newest - rest[0]) * (1 - x)  # velocities go over evenly
    blended = np.where(kinds.velocity, rest + simple, path + faded)
    steps = np.diff(blended, axis=0, prepend=0.0)
    steps[0] /= 1 - part
    blended = np.where(kinds.delta, steps, blended)
    return np.where(kinds.gripper, rest, blended).astype(np.float32)


def _beginning(rest: Float[np.ndarray, "rest action"], kinds: Kinds) -> tuple[Action, Action]:
    """The first step of a path, and how its steps change there; 0 where it is too short to tell."""
    steps = np.diff(rest[:3], axis=0)  # of positions; deltas are steps themselves
    still = np.zeros(rest.shape[1])
    first = np.where(kinds.delta, rest[0], steps[0] if len(steps) > 0 else still)
    bend = np.where(
        kinds.delta,
        steps[0] if len(steps) > 0 else still,
        steps[1] - steps[0] if len(steps) > 1 else still,
    )
    return first, bend


def ensembled(
    chunks: list[tuple[float, Float[np.ndarray, "horizon action"]]], kinds: Kinds, decay: float
) -> Float[np.ndarray, "horizon action"]:
    """The average of chunks, newest last, over the newest one's horizon; grippers are the newest's.

    Each chunk comes with its offset: `chunk[i + offset]` is meant for the newest's `i`, to the nearest whole action.
    """
    newest = chunks[-1][1]
    total = np.zeros(newest.shape)
    weights = np.zeros((len(newest), 1))
    for rank, (offset, actions) in enumerate(chunks):
        index = np.arange(len(newest)) + round(offset)
        inside = (index >= 0) & (index < len(actions))
        weight = np.exp(-decay * rank) * inside[:, None]
        total += weight * np.asarray(actions, dtype=np.float64)[np.where(inside, index, 0)]
        weights += weight
    return np.where(kinds.gripper, newest, total / weights).astype(np.float32)
