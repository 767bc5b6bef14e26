"""What comes next on the tabletop, in words: the expert's own stages, and the instruction that a policy would be given.

step      "reach for the red block", "grasp the handle", "carry the red block to the left pad", ..., "stop"
subtask   an instruction of a task: "open the drawer" first, where the task puts a block in a closed one
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from actloop.simulation.tabletop.scene import (
    BELT_TOP,
    COLOURS,
    COVER_KNOB,
    COVER_TRAVEL,
    DRAWER_FRONT,
    HALF,
    HANDLE,
    PAD_TOP,
    PADS,
    Scene,
)
from actloop.simulation.tabletop.tasks import DRAWER_OPEN, GOALS, Goal, in_drawer, succeeded

STOP = "stop"
_AROUND = 0.03, 0.03  # metres across and in height within which the fingers are around a thing
_KNOB_CLOSED = 0.04  # opening below which the fingers are closed on a handle or knob
_LOW = 0.03  # metres that a carried block has risen by at least
_PULLING = 0.105  # an open drawer is pulled on up to here


def held_block(scene: Scene) -> str:
    """The colour of the block between both fingers, or nothing."""
    return next((name for name in COLOURS if scene.touched(name) == 2), "")


def holds_handle(scene: Scene) -> bool:
    """Whether the fingers are closed around the drawer's handle or the cover's knob."""
    point = pulled_at(scene)
    return point is not None and _around(scene, point) and scene.opening < _KNOB_CLOSED


def covered(scene: Scene) -> str:
    """The colour of the block under the cover, or nothing."""
    if scene.layout != "cover":
        return ""
    where = scene.data.xpos[scene.body_id("cover")][:2]
    under = [name for name in COLOURS if np.abs(scene.block(name)[:2] - where).max() < 0.05]
    return under[0] if under and not held_block(scene) else ""


def next_step(scene: Scene, goal: Goal) -> str:
    """What the expert does now."""
    skill = goal.task.skill
    if succeeded(scene, goal):
        return STOP
    if skill == "open-drawer" or (skill == "drawer" and drawer_first(scene, goal)):
        return _on_handle(scene, "the handle", "pull the drawer open")
    if skill == "uncover" and (covered(scene) == goal.block and scene.slide("cover") < COVER_TRAVEL - 0.03):
        return _on_handle(scene, "the knob", "pull the cover aside")
    block = f"the {goal.block} block"
    point = scene.block(goal.block)
    if held_block(scene) != goal.block:
        return f"grasp {block}" if _around(scene, point) else f"reach for {block}"
    if not goal.onto:
        return f"lift {block}"
    target = _target(scene, goal)
    apart = float(np.linalg.norm(point[:2] - target[:2]))
    if apart < 0.03 and point[2] < target[2] + 0.02:
        return f"let go of {block}"
    if apart > 0.05 and point[2] < HALF + _LOW:
        return f"lift {block}"
    onto = f"the {goal.onto}" + {"drawer": ""}.get(goal.onto, " pad" if goal.onto in PADS else " block")
    return f"carry {block} to {onto}"


def next_subtask(scene: Scene, goals: Sequence[Goal]) -> str:
    """The instruction to follow now for one task, or for several that are to be done in order.

    It is one that the world has a task for. Of what is done, the last one stays.
    """
    goal = next((goal for goal in goals if not succeeded(scene, goal)), goals[-1])
    if goal.task.skill == "drawer" and not succeeded(scene, goal) and drawer_first(scene, goal):
        return GOALS["open-drawer"].task.instruction
    return goal.task.instruction


def drawer_first(scene: Scene, goal: Goal) -> bool:
    """Whether the drawer is to be opened before the block is put in it."""
    out = scene.slide("drawer")
    if in_drawer(scene, goal.block) or (held_block(scene) == goal.block and out > 0.06):
        return False
    return out < DRAWER_OPEN or (out < _PULLING and holds_handle(scene))


def _on_handle(scene: Scene, handle: str, pull: str) -> str:
    point = pulled_at(scene)
    assert point is not None, "only layouts with a handle have tasks about it"
    if not _around(scene, point):
        return f"reach for {handle}"
    return pull if scene.opening < _KNOB_CLOSED else f"grasp {handle}"


def pulled_at(scene: Scene) -> Float[np.ndarray, "3"] | None:
    """The grasp point on the handle or the knob, where the layout has one."""
    if scene.layout == "desk":
        handle: Float[np.ndarray, 3] = HANDLE + np.array([0.0, -scene.slide("drawer"), 0.0])
        return handle
    if scene.layout == "cover":
        knob: Float[np.ndarray, 3] = scene.data.xpos[scene.body_id("cover")] + np.array([0.0, 0.0, COVER_KNOB])
        return knob
    return None


def _around(scene: Scene, point: Float[np.ndarray, "3"]) -> bool:
    across, up = np.linalg.norm(scene.tcp[:2] - point[:2]), abs(scene.tcp[2] - point[2])
    return bool(across < _AROUND[0] and up < _AROUND[1])


def _target(scene: Scene, goal: Goal) -> Float[np.ndarray, "3"]:
    """Where the block's centre is to be let go."""
    if goal.onto in PADS:
        return np.append(scene.pad(goal.onto), PAD_TOP + HALF)
    if goal.onto == "drawer":
        return np.array([0.0, DRAWER_FRONT - scene.slide("drawer") + 0.055, 0.062])
    on_top: Float[np.ndarray, 3] = scene.block(goal.onto) + np.array([0.0, 0.0, 2 * HALF])
    return on_top


def floor_of(scene: Scene) -> float:
    """Height of what blocks lie on."""
    return BELT_TOP if scene.layout == "belt" else 0.0
