"""The scripted expert: a smooth function of the present state of the scene, without memory.

It follows funnels. Over a target at horizontal distance `d` the hand keeps above `low + slope * d`, so that it comes
down as it comes near; where it is too low for its distance it rises before it moves sideways. Grasps and releases are
decided by geometry alone: after a disturbance the same function simply starts again from where things are now.
"""

import numpy as np
from jaxtyping import Float

from actloop.simulation.tabletop.bodies import PERIOD
from actloop.simulation.tabletop.scene import (
    BELT_SPEED,
    BELT_TOP,
    COVER_KNOB,
    COVER_TRAVEL,
    DRAWER_FRONT,
    DRAWER_TRAVEL,
    HALF,
    HANDLE,
    MAX_OPENING,
    PAD_TOP,
    Scene,
)
from actloop.simulation.tabletop.tasks import Goal, in_drawer

GRIP = 0.01  # opening asked for when holding: below every width, so that the fingers press
PEAK = 0.034  # metres per tick
_BLOCK_WIDTH = 2 * HALF
_KNOB_WIDTH = 0.026

Command = tuple[Float[np.ndarray, "3"], float]  # how far to move, metres; the opening, metres


def _ramp(value: float, zero: float, one: float) -> float:
    """0 at `zero`, 1 at `one`, linear between them and flat outside."""
    return float(np.clip((value - zero) / (one - zero), 0.0, 1.0))


def _capped(vector: Float[np.ndarray, "n"], limit: float) -> Float[np.ndarray, "n"]:
    length = float(np.linalg.norm(vector))
    return vector if length <= limit else vector * (limit / length)


def _funnel(
    tcp: Float[np.ndarray, "3"], target: Float[np.ndarray, "3"], height: float, floor: float = 0.0
) -> Float[np.ndarray, "3"]:
    """One tick's move of `tcp` to `target` along the funnel over it; far away it stays `height` above the target.

    Nowhere does it go below `floor`: what stands in the way there.
    """
    across = target[:2] - tcp[:2]
    wanted = max(target[2] + np.clip((np.linalg.norm(across) - 0.012) * 1.6, 0.0, height), floor)
    pace = _ramp(wanted - tcp[2], 0.040, 0.012)
    sideways = _capped(0.5 * across, PEAK) * pace
    return np.append(sideways, np.clip(0.6 * (wanted - tcp[2]), -PEAK, PEAK))


def _near(tcp: Float[np.ndarray, "3"], point: Float[np.ndarray, "3"]) -> float:
    """1 where the fingers are around the point and may close."""
    apart = float(np.linalg.norm(tcp[:2] - point[:2]))
    return _ramp(apart, 0.026, 0.016) * _ramp(abs(float(tcp[2] - point[2])), 0.022, 0.012)


def _held(scene: Scene, point: Float[np.ndarray, "3"], width: float) -> float:
    """1 where the fingers have closed on something of this width at this point."""
    tcp = scene.tcp
    apart = float(np.linalg.norm(tcp[:2] - point[:2]))
    around = _ramp(apart, 0.038, 0.030) * _ramp(abs(float(tcp[2] - point[2])), 0.034, 0.026)
    return around * _ramp(scene.opening, width + 0.012, width + 0.004)


def _blend(weight: float, one: Command, other: Command) -> Command:
    return weight * one[0] + (1 - weight) * other[0], weight * one[1] + (1 - weight) * other[1]


def _grasp(
    scene: Scene, point: Float[np.ndarray, "3"], drift: Float[np.ndarray, "3"], height: float, floor: float = 0.0
) -> Command:
    """Go to the point, which drifts by that much per tick, and close around it."""
    tcp = scene.tcp
    near = _near(tcp, point)
    move = _funnel(tcp, point, height, floor)
    stuck = _ramp(scene.opening, 0.050, 0.030) * (1 - near)  # fingers still closed on something else: open first
    move[:2] *= 1 - stuck
    return move + drift, MAX_OPENING + (GRIP - MAX_OPENING) * near


def _lift(scene: Scene, goal: Goal, floor: float = 0.0) -> Command:
    belt = goal.layout == "belt"
    point = scene.block(goal.block)
    low = (BELT_TOP if belt else 0.0) + HALF
    drift = np.array([BELT_SPEED * PERIOD, 0.0, 0.0]) if belt and point[2] < low + 0.01 else np.zeros(3)
    held = _held(scene, point, _BLOCK_WIDTH)
    rise = np.clip(0.6 * (low + 0.14 - scene.tcp[2]), 0.0, PEAK)
    return _blend(held, (np.array([0.0, 0.0, rise]), GRIP), _grasp(scene, point, drift, 0.09, floor))


def _carry(
    scene: Scene, goal: Goal, target: Float[np.ndarray, "3"], height: float, drop: float, near: float
) -> Command:
    """Take the block to the target and let it go there, up to `drop` metres above it and `near` beside it."""
    point, tcp = scene.block(goal.block), scene.tcp
    apart = float(np.linalg.norm(point[:2] - target[:2]))
    there = _ramp(apart, near, 0.5 * near) * _ramp(float(point[2] - target[2]), drop + 0.014, drop + 0.006)
    held = _held(scene, point, _BLOCK_WIDTH)
    grip = point - tcp  # the hand's offset from the block stays while it is held
    carried = _funnel(tcp, target + np.array([0.0, 0.0, 0.5 * drop]) - grip, height), GRIP
    away = np.array([0.0, 0.0, PEAK * _ramp(scene.opening, _BLOCK_WIDTH + 0.02, _BLOCK_WIDTH + 0.04)]), MAX_OPENING
    return _blend(there, away, _blend(held, carried, _grasp(scene, point, np.zeros(3), 0.09)))


def _pull(scene: Scene, knob: Float[np.ndarray, "3"], way: Float[np.ndarray, "3"], rest: float) -> Command:
    """Grasp a knob and drag it along the unit vector `way`, `rest` metres more."""
    held = _held(scene, knob, _KNOB_WIDTH)
    move = way * np.clip(0.6 * rest, 0.006, 0.030) + 0.5 * (knob - scene.tcp) * (1 - np.abs(way))
    return _blend(held, (move, GRIP), _grasp(scene, knob, np.zeros(3), 0.07))


def _open_drawer(scene: Scene) -> Command:
    out = scene.slide("drawer")
    handle = HANDLE + np.array([0.0, -out, 0.0])
    return _pull(scene, handle, np.array([0.0, -1.0, 0.0]), DRAWER_TRAVEL + 0.01 - out)


def _into_drawer(scene: Scene, goal: Goal) -> Command:
    out = scene.slide("drawer")
    point = scene.block(goal.block)
    pulling = _held(scene, HANDLE + np.array([0.0, -out, 0.0]), _KNOB_WIDTH) > 0 and out < 0.105
    holding = _held(scene, point, _BLOCK_WIDTH) > 0 and out > 0.06
    if not in_drawer(scene, goal.block) and (pulling or (out < 0.09 and not holding)):
        return _open_drawer(scene)
    return _carry(scene, goal, np.array([0.0, DRAWER_FRONT - out + 0.055, 0.062]), 0.075, 0.012, 0.03)


def _uncover(scene: Scene, goal: Goal) -> Command:
    out = scene.slide("cover")
    knob = scene.data.xpos[scene.body_id("cover")] + np.array([0.0, 0.0, COVER_KNOB])
    pulling = _held(scene, knob, _KNOB_WIDTH) > 0 and out < COVER_TRAVEL - 0.01
    under = scene.block(goal.block) - knob
    if pulling or (abs(under[0]) < 0.12 and abs(under[1]) < 0.09 and out < COVER_TRAVEL - 0.03):
        return _pull(scene, knob, np.array([1.0, 0.0, 0.0]), COVER_TRAVEL + 0.01 - out)
    apart = float(np.linalg.norm(scene.tcp[:2] - knob[:2]))
    return _lift(scene, goal, floor=0.175 * _ramp(apart, 0.13, 0.085))  # off the knob, then sideways


def expert(scene: Scene, goal: Goal) -> Command:
    """What the expert would do in this tick: how far to move the grasp point and how wide to open."""
    skill = goal.task.skill
    if skill == "open-drawer":
        return _open_drawer(scene)
    if skill == "drawer":
        return _into_drawer(scene, goal)
    if skill == "uncover":
        return _uncover(scene, goal)
    if skill == "stack":
        under = scene.block(goal.onto)
        return _carry(scene, goal, under + np.array([0.0, 0.0, 2 * HALF]), 0.06, 0.006, 0.024)
    if skill in ("place-left", "place-right"):
        return _carry(scene, goal, np.append(scene.pad(goal.onto), PAD_TOP + HALF), 0.075, 0.006, 0.034)
    return _lift(scene, goal)
