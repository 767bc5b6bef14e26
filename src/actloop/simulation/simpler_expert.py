"""A scripted arm for SIMPLER's Bridge tasks: take the thing by its narrow side, put it down on its destination.

    over it, hand turned -> down, close -> up -> across -> down, open

It knows where everything is, has no memory, and asks nothing but the present state: told again, it answers the same,
and after a push or a slip it goes back to the step that is due.
"""

import numpy as np
from jaxtyping import Float

from actloop.actions.rotations import convert
from actloop.contracts import Action
from actloop.simulation.simpler_scene import DOWN, BridgeScene

OPEN, CLOSED = 1.0, 0.0
FASTEST, FASTEST_TURN = 0.04, 0.2  # m and rad a tick
NEAR, FAR = 0.012, 0.05  # metres off: within the first the hand is all the way down, beyond the second all the way up
CLEARANCE = 0.06  # metres over the top of a thing on the way
DEPTH = 0.012  # metres below the top at which a thing is held
FINGERTIPS = 0.018  # metres that they reach below the point between them, and stay over what the thing lies on
AT = 0.008  # metres: arrived
GAP = 0.008  # metres over the destination at which a thing is let go
TURNED = 0.15  # rad: turned far enough to go down


def command(scene: BridgeScene) -> Action:
    """What to send now, shape (7,): m, rad about the base's axes, opening."""
    return _carry(scene) if scene.grasped else _grasp(scene)


def _grasp(scene: BridgeScene) -> Action:
    hand, thing = scene.hand, scene.thing
    half = _half_height(thing, scene.sizes[0])
    top = thing[2, 3] + half
    low = max(top - DEPTH, thing[2, 3] - half + FINGERTIPS)
    to = thing[:3, 3] - hand[:3, 3]
    yaw = _yaw_to_narrow_side(hand, thing, scene.sizes[0])
    off = float(np.linalg.norm(to[:2]))
    height = low + _rise(off if abs(yaw) < TURNED else FAR) * (top + CLEARANCE - low)
    motion = np.array([to[0], to[1], height - hand[2, 3]])
    if off < AT and abs(low - hand[2, 3]) < AT:
        return _act(hand, np.array([0.0, 0.0, low - hand[2, 3]]), 0.0, CLOSED)  # the arm sags: fingers off the table
    return _act(hand, motion, yaw, OPEN)


def _carry(scene: BridgeScene) -> Action:
    hand, thing, goal = scene.hand, scene.thing, scene.destination
    to = goal[:3, 3] - thing[:3, 3]
    off = float(np.linalg.norm(to[:2]))
    over = thing[2, 3] - _half_height(thing, scene.sizes[0]) - _top(goal, scene.sizes[1])
    if off < AT and over < GAP:
        return _act(hand, np.zeros(3), 0.0, OPEN)
    lift = GAP / 2 + _rise(off) * CLEARANCE - over
    if off > FAR and lift > CLEARANCE / 2:
        to[:2] = 0.0  # up first
    return _act(hand, np.array([to[0], to[1], lift]), 0.0, CLOSED)


def _yaw_to_narrow_side(
    hand: Float[np.ndarray, "4 4"], thing: Float[np.ndarray, "4 4"], sides: Float[np.ndarray, "3"]
) -> float:
    """The smallest turn about the vertical after which the fingers, which close along the hand's y, close on it."""
    flat = [axis for axis in range(3) if abs(thing[2, axis]) < np.sqrt(0.5)]
    narrow = thing[:2, min(flat, key=lambda axis: sides[axis])]
    now = np.arctan2(hand[1, 1], hand[0, 1])
    square = abs(sides[flat[0]] - sides[flat[1]]) < 0.002
    period = np.pi / 2 if square else np.pi
    apart = np.arctan2(narrow[1], narrow[0]) - now
    return float((apart + period / 2) % period - period / 2)


def _half_height(pose: Float[np.ndarray, "4 4"], sides: Float[np.ndarray, "3"]) -> float:
    return float(np.abs(pose[2, :3]) @ sides / 2)


def _top(pose: Float[np.ndarray, "4 4"], sides: Float[np.ndarray, "3"]) -> float:
    return float(pose[2, 3]) + _half_height(pose, sides)


def _rise(off: float) -> float:
    """How far up, from 0 to 1, at a horizontal distance."""
    return float(np.clip((off - NEAR) / (FAR - NEAR), 0.0, 1.0))


def _act(hand: Float[np.ndarray, "4 4"], motion: Float[np.ndarray, "3"], yaw: float, opening: float) -> Action:
    """The hand is kept looking down, turned by `yaw` about the vertical."""
    tilt = convert((hand[:3, :3] @ DOWN.T).reshape(9), "matrix", "euler_xyz")
    turn = np.clip([-tilt[0] / 2, -tilt[1] / 2, yaw], -FASTEST_TURN, FASTEST_TURN)
    return np.concatenate([np.clip(motion, -FASTEST, FASTEST), turn, [opening]]).astype(np.float32)
