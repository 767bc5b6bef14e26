"""Things that go wrong on purpose, now: the object is moved, taken out of the gripper, or the hand is pushed."""

import numpy as np
from jaxtyping import Bool, Float

from actloop.errors import ContractError, UnknownNameError
from actloop.simulation.tabletop.scene import (
    BELT_END,
    BELT_HALF_WIDTH,
    BELT_SPEED,
    BELT_TOP,
    BELT_Y,
    COLOURS,
    HALF,
    PAD_HALF,
    PADS,
    Scene,
)
from actloop.simulation.tabletop.tasks import FINGERS_X, FINGERS_Y, Goal, in_drawer

DISTURBANCES = ("displace", "slip", "push")
NAMED = ("goal",)  # done where it is asked for by name, and not drawn by who records
DISTANCE = 0.06  # metres that a displaced object moves by, more or less
PUSH_TICKS = 3

_DESK = np.array([-0.125, -0.18]), np.array([0.125, -0.035])  # clear of the pads and of the open drawer
_BESIDE = np.array([0.16, -0.14]), np.array([0.21, 0.06])  # middle of a right pad, within reach and off the cabinet
_COVER = np.array([-0.17, -0.18]), np.array([0.17, 0.08])


def _refuse(name: str, why: str) -> ContractError:
    return ContractError(f"tabletop.disturb.{name}", f"not applicable now, nothing was changed: {why}")


def _clear(
    scene: Scene, block: str, places: Float[np.ndarray, "places 2"], fingers: float
) -> Bool[np.ndarray, "places"]:
    """Where a block fits, with room to grasp it, and without touching a low hand `fingers` wide (half)."""
    clear = np.ones(len(places), dtype=bool)
    for name in COLOURS:
        if name != block:
            apart = np.abs(places - scene.block(name)[:2])
            clear &= (apart[:, 0] > FINGERS_X) | (apart[:, 1] > FINGERS_Y)
    tcp = scene.tcp
    if tcp[2] < (BELT_TOP if scene.layout == "belt" else 0.0) + 0.11:
        apart = np.abs(places - tcp[:2])
        clear &= (apart[:, 0] > fingers + HALF + 0.008) | (apart[:, 1] > 0.02 + HALF + 0.008)
    if scene.layout == "cover":
        apart = np.abs(places - scene.data.xpos[scene.body_id("cover")][:2])
        clear &= (apart[:, 0] > 0.13) | (apart[:, 1] > 0.105)
    return clear


def _places(scene: Scene, block: str, rng: np.random.Generator, fingers: float) -> Float[np.ndarray, "places 2"]:
    """Random free places for the block, where the hand, the others, goals and furniture are not."""
    if scene.layout == "belt":
        across = BELT_HALF_WIDTH - HALF - 0.012
        x = scene.tcp[0] if scene.touched(block) else scene.block(block)[0]
        low, high = np.array([x - 0.12, BELT_Y - across]), np.array([min(x + 0.01, BELT_END - 0.12), BELT_Y + across])
        if high[0] <= low[0]:
            return np.zeros((0, 2))
    else:
        low, high = _DESK if scene.layout == "desk" else _COVER
    drawn = rng.uniform(low, high, size=(600, 2))
    free: Float[np.ndarray, "places 2"] = drawn[_clear(scene, block, drawn, fingers)]
    return free


def _drop(scene: Scene, block: str, place: Float[np.ndarray, "2"], above: float, rng: np.random.Generator) -> None:
    ground = BELT_TOP if scene.layout == "belt" else 0.0
    scene.put_block(block, np.append(place, ground + HALF + above), float(rng.uniform(-0.22, 0.22)))
    if scene.layout == "belt":
        scene.push_block(block, np.array([BELT_SPEED, 0.0, 0.0]))


def _displace(scene: Scene, goal: Goal, rng: np.random.Generator) -> None:
    block = goal.block
    if not block:
        raise _refuse("displace", f"{goal.task.name} is about no block")
    here = scene.block(block)
    if scene.touched(block):
        raise _refuse("displace", f"the gripper touches the {block} block; use 'slip' once it is held")
    if goal.layout == "cover":
        apart = np.abs(here - scene.data.xpos[scene.body_id("cover")])
        if apart[0] < 0.08 and apart[1] < 0.08:
            raise _refuse("displace", f"the {block} block is under the cover")
    if goal.layout == "desk" and in_drawer(scene, block):
        raise _refuse("displace", f"the {block} block is in the drawer")
    places = _places(scene, block, rng, fingers=0.5 * scene.opening + 0.014)
    error = np.abs(np.linalg.norm(places - here[:2], axis=1) - DISTANCE)
    if not len(places) or error.min() > 0.03:
        raise _refuse("displace", f"there is no free place about {100 * DISTANCE:.0f} cm from the {block} block")
    _drop(scene, block, places[int(error.argmin())], 0.0, rng)


def _slip(scene: Scene, goal: Goal, rng: np.random.Generator) -> None:
    block = goal.block
    if not block or scene.touched(block) < 2:
        raise _refuse("slip", f"the gripper holds no block that {goal.task.name} is about")
    places = _places(scene, block, rng, fingers=HALF + 0.016)
    apart = np.linalg.norm(places - scene.tcp[:2], axis=1)
    if not len(places) or not (apart > 0.045).any():
        raise _refuse("slip", "there is no free place near")
    apart[apart < 0.045] = np.inf
    _drop(scene, block, places[int(apart.argmin())], 0.015, rng)


def _move_goal(scene: Scene, goal: Goal, rng: np.random.Generator) -> None:
    if goal.onto not in PADS:
        raise _refuse("goal", f"{goal.task.name} is about no pad")
    here, room = scene.pad(goal.onto), PAD_HALF + HALF + 0.012
    blocks = np.array([scene.block(name) for name in COLOURS])
    if (np.abs(blocks[:, :2] - here).max(axis=1) < PAD_HALF + HALF).any():
        raise _refuse("goal", f"a block is above the {goal.onto} pad")
    places = rng.uniform(*_BESIDE, size=(600, 2)) * (np.sign(here[0]), 1.0)
    low = [block[:2] for block in blocks] + ([scene.tcp[:2]] if scene.tcp[2] < 0.08 else [])
    for taken in low:
        places = places[np.abs(places - taken).max(axis=1) > room]
    error = np.abs(np.linalg.norm(places - here, axis=1) - DISTANCE)
    if not len(places) or error.min() > 0.03:
        raise _refuse("goal", f"there is no free place about {100 * DISTANCE:.0f} cm from the {goal.onto} pad")
    scene.put_pad(goal.onto, places[int(error.argmin())])


def disturb(scene: Scene, goal: Goal, name: str, rng: np.random.Generator, strength: float) -> None:
    """Do it to the scene at once; a push of `strength` newtons lasts until `release`.

    Raises:
        UnknownNameError: no disturbance of that name.
        ContractError: it does not apply to what the scene is like now; nothing was changed.
    """
    if name == "displace":
        _displace(scene, goal, rng)
    elif name == "slip":
        _slip(scene, goal, rng)
    elif name == "goal":
        _move_goal(scene, goal, rng)
    elif name == "push":
        angle = rng.uniform(0.0, 2 * np.pi)
        scene.data.xfrc_applied[scene.body_id("hand"), :2] = strength * np.array([np.cos(angle), np.sin(angle)])
    else:
        raise UnknownNameError("tabletop.disturb", name, (*DISTURBANCES, *NAMED))


def release(scene: Scene) -> None:
    """End a push."""
    scene.data.xfrc_applied[:] = 0.0
