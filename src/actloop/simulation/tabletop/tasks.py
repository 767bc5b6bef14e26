"""What can be asked on the tabletop: the tasks, where each starts, and when it has succeeded or become impossible."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from actloop.contracts import Task
from actloop.simulation.tabletop.scene import (
    BELT_END,
    BELT_HALF_WIDTH,
    BELT_TOP,
    BELT_Y,
    COLOURS,
    DRAWER_FLOOR,
    DRAWER_FRONT,
    HALF,
    PAD_HALF,
    PAD_TOP,
    PADS,
    Scene,
)

LIFTED = 0.08  # metres that a picked block must have risen
DRAWER_OPEN = 0.09
FINGERS_X = 0.105  # blocks nearer than this in x and FINGERS_Y in y leave no room for the open fingers
FINGERS_Y = 0.064
_CENTRE_LOW, _CENTRE_HIGH = np.array([-0.115, -0.165]), np.array([0.115, -0.04])  # where blocks start on the desk


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What a task means in the scene: the block it is about ("" for none) and the pad or block it goes onto."""

    task: Task
    layout: str
    block: str = ""
    onto: str = ""


def _goals() -> dict[str, Goal]:
    goals = []

    def add(skill: str, group: str, limit: float, name: str, instruction: str, layout: str, **about: str) -> None:
        task = Task(name=name, instruction=instruction, time_limit=limit, skill=skill, group=group)
        goals.append(Goal(task=task, layout=layout, **about))

    for one in COLOURS:
        add("pick", "static", 6.0, f"pick-{one}", f"pick up the {one} block", "desk", block=one)
    for side in PADS:
        for one in COLOURS:
            name, words = f"place-{side}-{one}", f"put the {one} block on the {side} pad"
            add(f"place-{side}", "static", 8.0, name, words, "desk", block=one, onto=side)
    add("open-drawer", "static", 6.0, "open-drawer", "open the drawer", "desk")
    for one in COLOURS:
        for other in COLOURS:
            if one != other:
                name, words = f"stack-{one}-on-{other}", f"stack the {one} block on the {other} block"
                add("stack", "static-hard", 8.0, name, words, "desk", block=one, onto=other)
    for one in COLOURS:
        words = f"open the drawer and put the {one} block in it"
        add("drawer", "static-hard", 14.0, f"drawer-{one}", words, "desk", block=one, onto="drawer")
    for one in COLOURS:
        add("belt", "timing", 5.0, f"belt-{one}", f"pick the {one} block from the belt", "belt", block=one)
    for one in COLOURS:
        words = f"move the cover aside and pick up the {one} block"
        add("uncover", "consequence", 11.0, f"uncover-{one}", words, "cover", block=one)
    return {goal.task.name: goal for goal in goals}


GOALS = _goals()


def roomy(point: Float[np.ndarray, "2"], others: list[Float[np.ndarray, "2"]]) -> bool:
    """Whether open fingers fit around a block at `point` (and around each of the others)."""
    return all(abs(point[0] - o[0]) > FINGERS_X or abs(point[1] - o[1]) > FINGERS_Y for o in others)


def _scatter(
    rng: np.random.Generator,
    low: Float[np.ndarray, "2"],
    high: Float[np.ndarray, "2"],
    count: int,
    taken: list[Float[np.ndarray, "2"]],
) -> list[Float[np.ndarray, "2"]]:
    """That many random places with room between them; starts again where the first ones leave none for the rest."""
    while True:
        places: list[Float[np.ndarray, "2"]] = []  # noqa: UP037 (jaxtyping's axis)
        for _ in range(30 * count):
            place = rng.uniform(low, high)
            if roomy(place, places + taken):
                places.append(place)
            if len(places) == count:
                return places


def lay_out(scene: Scene, goal: Goal, rng: np.random.Generator) -> None:
    """Put the blocks, and the cover, at their random starts."""
    names = list(COLOURS)
    yaws = rng.uniform(-0.22, 0.22, size=len(names))
    if goal.layout == "desk":
        places = _scatter(rng, _CENTRE_LOW, _CENTRE_HIGH, len(names), [])
        starts = {name: np.append(place, HALF) for name, place in zip(names, places, strict=True)}
    elif goal.layout == "belt":
        rank = int(rng.integers(len(names)))  # how many blocks ride ahead of the named one
        queue = [str(name) for name in rng.permutation([name for name in names if name != goal.block])]
        queue.insert(rank, goal.block)
        lead = rng.uniform(-0.13, -0.05)
        spread = BELT_HALF_WIDTH - HALF - 0.012
        starts = {}
        for index, name in enumerate(queue):
            across = rng.uniform(-spread, spread)
            starts[name] = np.array([lead + 0.13 * (rank - index), BELT_Y + across, BELT_TOP + HALF])
    else:
        hidden = rng.uniform((-0.13, -0.02), (-0.02, 0.06))
        scene.model.body_pos[scene.body_id("cover")] = np.append(hidden, 0.0)
        others = [name for name in names if name != goal.block]
        places = _scatter(rng, np.array([-0.15, -0.17]), np.array([0.15, hidden[1] - 0.11]), len(others), [])
        starts = {name: np.append(place, HALF) for name, place in zip(others, places, strict=True)}
        starts[goal.block] = np.append(hidden, HALF)
        yaws *= 0.5
    for name, yaw in zip(names, yaws, strict=True):
        scene.put_block(name, starts[name], float(yaw))


def in_drawer(scene: Scene, block: str) -> bool:
    """Whether the block's centre is inside the drawer, below its rim."""
    x, y, z = scene.block(block)
    front = DRAWER_FRONT - scene.slide("drawer")
    return bool(abs(x) < 0.05 and front + 0.02 < y < front + 0.10 and z < DRAWER_FLOOR + HALF + 0.012)


def succeeded(scene: Scene, goal: Goal) -> bool:
    """Whether the goal holds now: picked blocks are held, placed ones are at rest and let go."""
    skill = goal.task.skill
    if skill == "open-drawer":
        return scene.slide("drawer") > DRAWER_OPEN
    x, y, z = scene.block(goal.block)
    if skill in ("pick", "belt", "uncover"):
        floor = BELT_TOP if skill == "belt" else 0.0
        return bool(z > floor + HALF + LIFTED) and scene.touched(goal.block) == 2
    if scene.touched(goal.block) or scene.block_speed(goal.block) > 0.03:
        return False
    if skill == "drawer":
        return in_drawer(scene, goal.block)
    if skill == "stack":
        under = scene.block(goal.onto)
        apart = np.hypot(x - under[0], y - under[1])
        return bool(apart < 0.032 and abs(z - under[2] - 2 * HALF) < 0.008 and under[2] < HALF + 0.01)
    pad = scene.pad(goal.onto)
    inside = max(abs(x - pad[0]), abs(y - pad[1])) < PAD_HALF - 0.008
    return bool(inside and z < PAD_TOP + HALF + 0.006)


def impossible(scene: Scene, goal: Goal) -> str | None:
    """Why the goal can no longer be reached, or None while it can."""
    if not goal.block:
        return None
    x, y, z = scene.block(goal.block)
    if goal.layout == "belt" and z < BELT_TOP + HALF - 0.012 and x > BELT_END:
        return "fell off the belt"
    if z < -0.02 or max(abs(x), abs(y - 0.06)) > 0.45:
        return "fell off the table"
    return None
