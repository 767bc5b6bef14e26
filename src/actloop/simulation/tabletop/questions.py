"""Questions about the tabletop with their answers, from the true state of the scene.

    scene, goal --Kind: what may be asked now--> (slots, answer) --wordings--> QuestionAnswer

Only what the two cameras can show is asked: a state too near the border between two answers is left out, and so is a
block that no camera sees. Directions are those of the front camera's picture: left and right, in front (towards that
camera) and behind.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import numpy as np

from actloop.simulation.tabletop.distances import in_words, things
from actloop.simulation.tabletop.scene import (
    BELT_END,
    BELT_TOP,
    COLOURS,
    COVER_TRAVEL,
    HALF,
    PAD_HALF,
    PAD_TOP,
    PADS,
    Scene,
)
from actloop.simulation.tabletop.sight import visible
from actloop.simulation.tabletop.steps import covered, floor_of, held_block, holds_handle, next_step, next_subtask
from actloop.simulation.tabletop.tasks import GOALS, LIFTED, Goal, in_drawer, succeeded

SHUT, OPEN = 0.02, 0.075  # metres that a drawer is out by: at most, at least
CLOSED, WIDE = 0.062, 0.085  # the gripper's opening, metres
CLEAR = 0.03  # metres between two answers about places
HEIGHTS = {"low": (0.0, 0.06), "medium": (0.09, 0.14), "high": (0.17, 1.0)}  # of the grasp point, metres
DONE = "The task: {task}. Is it done? Answer yes or no."  # as the loop asks, see loop/modules.py
NEXT = "The task: {task}. What should the robot do next?"

T = TypeVar("T")
Asked = Iterator[tuple[dict[str, str], str]]  # what a wording is filled in with, and the answer; in random order


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionAnswer:
    """One question about the present pictures; `kind` groups questions of which accuracy is reported together.

    `topic`: the question in its first wording, the same however it is asked.
    """

    kind: str
    topic: str
    question: str
    answer: str


@dataclass(frozen=True, slots=True)
class _Kind:
    ask: Callable[[Scene, Goal, np.random.Generator], Asked]
    wordings: tuple[str, ...]
    times: int = 1  # so many times more often than others, as far as there is something to ask


# The first wording of each skill is its task's; a policy knows no other.
_SAID: dict[str, tuple[str, ...]] = {
    "pick": ("pick up the {block} block", "lift the {block} cube", "grab the {block} block"),
    "place": ("put the {block} block on the {onto} pad", "move the {block} cube to the {onto}"),
    "open-drawer": ("open the drawer", "pull out the drawer"),
    "stack": ("stack the {block} block on the {onto} block", "put the {block} cube on top of the {onto} one"),
    "drawer": ("open the drawer and put the {block} block in it", "put the {block} cube away in the drawer"),
    "belt": ("pick the {block} block from the belt", "catch the {block} cube"),
    "uncover": ("move the cover aside and pick up the {block} block", "find the {block} cube under the cover"),
}


def tasks_said(scene: Scene, goal: Goal) -> Iterator[tuple[str, tuple[Goal, ...]]]:
    """Tasks in words, with the goals that they are made of: every one of the layout, and pairs of pads."""
    for other in GOALS.values():
        if other.layout == scene.layout and (other.layout != "cover" or other.block == goal.block):
            skill = "place" if other.onto in PADS else other.task.skill
            for words in _SAID[skill]:
                yield words.format(block=other.block, onto=other.onto), (other,)
    if scene.layout == "desk":
        for one in COLOURS:
            for two in COLOURS:
                if one != two:
                    goals = GOALS[f"place-left-{one}"], GOALS[f"place-right-{two}"]
                    yield f"put the {one} block on the left pad and the {two} block on the right pad", goals


def questions(scene: Scene, goal: Goal, rng: np.random.Generator, *, each: int = 2) -> list[QuestionAnswer]:
    """At most `each` of every kind, of distances twice as many, chosen at random among those that may be asked now,
    each in one of its wordings."""
    found = []
    for kind, asked in _KINDS.items():
        for slots, answer in islice(asked.ask(scene, goal, rng), each * asked.times):
            wording = asked.wordings[int(rng.integers(len(asked.wordings)))]
            topic, question = asked.wordings[0].format(**slots), wording.format(**slots)
            found.append(QuestionAnswer(kind=kind, topic=topic, question=question, answer=answer))
    return found


def kinds() -> tuple[str, ...]:
    """All that is asked."""
    return tuple(_KINDS)


# of tasks


def is_done(scene: Scene, goal: Goal) -> bool | None:
    """Whether the goal holds; None near the border, where pictures do not tell."""
    skill, now = goal.task.skill, succeeded(scene, goal)
    if skill == "open-drawer":
        out = scene.slide("drawer")
        return None if 0.07 < out < 0.095 else now
    fingers = scene.touched(goal.block)
    if skill in ("pick", "belt", "uncover"):
        risen = scene.block(goal.block)[2] - floor_of(scene) - HALF
        return None if fingers == 1 or (fingers and LIFTED - 0.025 < risen < LIFTED + 0.01) else now
    if fingers == 1 or scene.block_speed(goal.block) > 0.01:
        return None
    if goal.onto in PADS and not now and _beside(scene, goal.block, goal.onto) < PAD_HALF + CLEAR:
        return None if not fingers else now  # half on the pad; or on it and still held
    return now


def _done(scene: Scene, goal: Goal, rng: np.random.Generator) -> Asked:
    said = _shuffled(tasks_said(scene, goal), rng)
    if rng.random() < 0.5:  # that of the episode first: it is the one that is ever done by chance of the recording
        said.sort(key=lambda one: one[1] != (goal,))
    for words, goals in said:
        states = [is_done(scene, one) for one in goals]
        if None not in states and all(_known(scene, one.block) for one in goals):
            yield {"task": words}, _yes(all(states))


def _subtask(scene: Scene, goal: Goal, rng: np.random.Generator) -> Asked:
    for words, goals in _shuffled(tasks_said(scene, goal), rng):
        clear = goals[0].task.skill != "drawer" or not 0.06 < scene.slide("drawer") < 0.1
        if clear and all(_known(scene, one.block) and is_done(scene, one) is not None for one in goals):
            yield {"task": words}, next_subtask(scene, goals)


def _step(scene: Scene, goal: Goal, rng: np.random.Generator) -> Asked:
    if _known(scene, goal.block) and is_done(scene, goal) is not None:
        yield {"task": goal.task.instruction}, next_step(scene, goal)


# of things


def _drawer(scene: Scene, goal: Goal, rng: np.random.Generator) -> Asked:
    out = scene.slide("drawer") if scene.layout == "desk" else None
    if out is not None and not SHUT < out < OPEN:
        yield {}, _yes(out > OPEN)


def _open(scene: Scene, goal: Goal, rng: np.random.Generator) -> Asked:
    out = scene.slide("drawer") if scene.layout == "desk" else 0.0
    if SHUT < out < OPEN or CLOSED < scene.opening < WIDE:
        return
    things = ["the drawer"] * (out > OPEN) + ["the gripper"] * (scene.opening > WIDE)
    yield {}, " and ".join(things) or "nothing"


def _gripper(scene: Scene, goal: Goal, rng: np.random.Generator) -> Asked:
    if not CLOSED < scene.opening < WIDE:
        yield {}, _yes(scene.opening > WIDE)


def _holding(scene: Scene, goal: Goal, rng: np.random.Generator) -> Asked:
    holds = held_thing(scene)
    if holds:
        yield {}, holds


def held_thing(scene: Scene) -> str:
    """What the gripper holds, "nothing" included; empty where that is not clear."""
    if any(scene.touched(name) == 1 for name in COLOURS):
        return ""
    block = held_block(scene)
    if block:
        return f"the {block} block"
    if holds_handle(scene):
        return "the handle" if scene.layout == "desk" else "the knob"
    return "nothing"


def _where(scene: Scene, goal: Goal, rng: np.random.Generator) -> Asked:
    for name in _shuffled(COLOURS, rng):
        way = way_to(scene, name)
        if way:
            yield {"block": name}, way


def way_to(scene: Scene, name: str) -> str:
    """Which way a block is from the gripper, or nothing where that is not clear."""
    apart = scene.block(name) - scene.tcp
    across = np.abs(apart[:2])
    if held_block(scene) == name:
        return "in the gripper"
    if scene.touched(name) or not visible(scene, name):
        return ""
    if across.max() < 0.02 and apart[2] < -0.05:
        return "below"
    if across.max() < 0.045 or across.max() < across.min() + 0.025:
        return ""
    return _way(apart[0], "right", "left") if across[0] > across[1] else _way(apart[1], "behind", "in front")


def _distance(scene: Scene, goal: Goal, rng: np.random.Generator) -> Asked:
    for thing, place in _shuffled(things(scene), rng):
        yield {"thing": thing}, in_words(place - scene.tcp)


def _height(scene: Scene, goal: Goal, rng: np.random.Generator) -> Asked:
    if height_of(scene):
        yield {}, height_of(scene)


def height_of(scene: Scene) -> str:
    """How high the gripper is, or nothing between two answers."""
    return next((name for name, (low, high) in HEIGHTS.items() if low <= scene.tcp[2] < high), "")


def _scene(scene: Scene, goal: Goal, rng: np.random.Generator) -> Asked:
    holds = held_thing(scene)
    hand = [
        height_of(scene),
        *([] if CLOSED < scene.opening < WIDE else ["open" if scene.opening > WIDE else "closed"]),
    ]
    facts = [("gripper", [*hand, f"holds {holds}" if holds else ""])]
    for name in COLOURS:
        where = place_of(scene, name)
        facts.append((name, [where, way_to(scene, name) if where != "in the gripper" else ""]))
    if scene.layout == "desk" and not SHUT < scene.slide("drawer") < OPEN:
        facts.append(("drawer", ["open" if scene.slide("drawer") > OPEN else "closed"]))
    said = [(thing, ", ".join(fact for fact in known if fact)) for thing, known in facts]
    yield {}, "; ".join(f"{thing} {known}" for thing, known in said if known)


def _place(scene: Scene, goal: Goal, rng: np.random.Generator) -> Asked:
    for name in _shuffled(COLOURS, rng):
        where = place_of(scene, name)
        if where:
            yield {"block": name}, where


def place_of(scene: Scene, name: str) -> str:
    """What a block is on or in, or nothing where that is not clear."""
    if covered(scene) == name and scene.slide("cover") < COVER_TRAVEL / 3:
        others = [visible(scene, other) for other in COLOURS if other != name]
        return "under the cover" if all(others) else ""
    x, _, z = scene.block(name)
    fingers, risen = scene.touched(name), z - floor_of(scene) - HALF
    if fingers == 2 and risen > 0.02 and not (scene.layout == "desk" and in_drawer(scene, name)):
        return "in the gripper"
    if fingers or not visible(scene, name):
        return ""
    if scene.layout == "desk" and in_drawer(scene, name):
        return "in the drawer"
    if scene.block_speed(name) > 0.01 and scene.layout != "belt":
        return ""
    for under in COLOURS:
        apart = scene.block(name) - scene.block(under)
        if np.hypot(*apart[:2]) < 0.035 and abs(apart[2] - 2 * HALF) < 0.01:
            return f"on the {under} block"
    if abs(risen) > 0.012:
        return ""
    if scene.layout == "belt":
        return "on the belt" if x < BELT_END - CLEAR and abs(z - BELT_TOP - HALF) < 0.012 else ""
    beside = {side: _beside(scene, name, side) for side in PADS} if scene.layout == "desk" else {}
    for side, far in beside.items():
        if far < PAD_HALF - 0.008:
            return f"on the {side} pad" if z > HALF + PAD_TOP / 2 else ""
    return "" if any(far < PAD_HALF + CLEAR for far in beside.values()) else "on the table"


def _pad(scene: Scene, goal: Goal, rng: np.random.Generator) -> Asked:
    if scene.layout != "desk":
        return
    places = {name: place_of(scene, name) for name in COLOURS if not _gone(scene, name)}
    for side in PADS:
        unclear = [n for n, place in places.items() if not place and _beside(scene, n, side) < PAD_HALF + 0.06]
        if not unclear:
            on = [name for name, place in places.items() if place == f"on the {side} pad"]
            yield {"side": side}, " and ".join(on) or "none"


def _count(scene: Scene, goal: Goal, rng: np.random.Generator) -> Asked:
    if scene.layout != "desk":
        return
    places = [place_of(scene, name) for name in COLOURS if not _gone(scene, name)]
    if all(place in ("on the table", "on the left pad", "on the right pad", "in the gripper") for place in places):
        yield {}, str(sum(place != "in the gripper" for place in places))


def _belt(scene: Scene, goal: Goal, rng: np.random.Generator) -> Asked:
    for name in _shuffled(COLOURS, rng):
        where = place_of(scene, name)
        if where:
            yield {"block": name}, _yes(where == "on the belt")


def _order(scene: Scene, goal: Goal, rng: np.random.Generator) -> Asked:
    if not all(visible(scene, name) for name in COLOURS):
        return
    by_x = sorted(COLOURS, key=lambda name: float(scene.block(name)[0]))
    x = [float(scene.block(name)[0]) for name in by_x]
    if x[1] - x[0] > CLEAR:
        yield {"side": "left"}, by_x[0]
    if x[2] - x[1] > CLEAR:
        yield {"side": "right"}, by_x[2]


def _nearest(scene: Scene, goal: Goal, rng: np.random.Generator) -> Asked:
    if held_block(scene) or not all(visible(scene, name) for name in COLOURS):
        return
    apart = {name: float(np.linalg.norm(scene.block(name)[:2] - scene.tcp[:2])) for name in COLOURS}
    first, second, _ = sorted(COLOURS, key=apart.__getitem__)
    if apart[second] - apart[first] > CLEAR:
        yield {}, first


def _shuffled(items: Iterable[T], rng: np.random.Generator) -> list[T]:
    listed = list(items)
    return [listed[int(index)] for index in rng.permutation(len(listed))]


def _yes(so: bool) -> str:
    return "yes" if so else "no"


def _way(value: float, more: str, less: str) -> str:
    return more if value > 0 else less


def _beside(scene: Scene, name: str, side: str) -> float:
    """Metres from the pad's centre, along the axis where it is further."""
    x, y, _ = scene.block(name)
    pad = scene.pad(side)
    return float(max(abs(x - pad[0]), abs(y - pad[1])))


def _gone(scene: Scene, name: str) -> bool:
    return bool(scene.block(name)[2] < -0.02)


def _known(scene: Scene, name: str) -> bool:
    """Whether the pictures tell where the block is; nothing is to be known about no block."""
    return not name or held_block(scene) == name or covered(scene) == name or visible(scene, name)


_KINDS: dict[str, _Kind] = {
    "scene": _Kind(_scene, ("What is in the scene?", "Describe the scene.")),
    "done": _Kind(_done, (DONE, DONE, "The task: {task}. Is it done?", "Has the robot finished? The task: {task}.")),
    "subtask": _Kind(_subtask, (NEXT, NEXT, "The task: {task}. What is the next subtask?")),
    "step": _Kind(_step, ("The task: {task}. What is the robot's next step?", "Next step for: {task}?")),
    "drawer": _Kind(_drawer, ("Is the drawer open?", "Has the drawer been opened?")),
    "open": _Kind(_open, ("What is open?", "Which things are open?")),
    "gripper": _Kind(_gripper, ("Is the gripper open?", "Are the fingers open?")),
    "holding": _Kind(_holding, ("What does the gripper hold?", "What is in the gripper?")),
    "where": _Kind(
        _where,
        (
            "Where is the {block} block relative to the gripper?",
            "Which way is the {block} block from the gripper?",
            "Seen from the gripper, where is the {block} block?",
        ),
    ),
    "distance": _Kind(
        _distance,
        (
            "How many centimetres is {thing} from the gripper?",
            "How far is {thing} from the gripper, in centimetres?",
        ),
        times=2,
    ),
    "height": _Kind(_height, ("How high is the gripper?", "Is the gripper low, medium or high?")),
    "place": _Kind(_place, ("Where is the {block} block?", "What is the {block} block on?")),
    "pad": _Kind(_pad, ("Which blocks are on the {side} pad?", "What is on the {side} pad?")),
    "count": _Kind(_count, ("How many blocks lie on the table?", "How many blocks are on the table?")),
    "belt": _Kind(_belt, ("Is the {block} block on the belt?", "Does the {block} block ride on the belt?")),
    "order": _Kind(
        _order, ("Which block is the furthest to the {side}?", "Which colour has the block furthest to the {side}?")
    ),
    "nearest": _Kind(_nearest, ("Which block is nearest to the gripper?", "What is the nearest block's colour?")),
}
