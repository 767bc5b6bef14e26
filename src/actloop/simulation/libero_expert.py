"""A scripted arm for those LIBERO tasks that ask to pick one thing up and put it on, or in, another.

    goal in the BDDL file -> (thing, destination) -> over it -> down, close -> up, across -> down until it touches, open

It knows where everything is, has no memory, and asks nothing but the present state: told again, it answers the same,
and after a push or a slip it goes back to the step that is due. It never turns the hand.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from actloop.contracts import Action
from actloop.errors import ContractError
from actloop.simulation.libero_scene import LiberoScene

OPEN, CLOSED = -1.0, 1.0
GAIN = 15.0  # command, in units of 0.05 m a tick, per metre still to go
OPENING = 0.07  # metres between the fingers that may be filled
RIM = 0.004  # metres from the outside of a rim to its middle
DEPTH = 0.02  # metres below the top of a thing at which it is held
BERTH = 0.1  # metres to either side of the way
CLEARANCE = 0.05  # metres over everything else on the way
HAND = 0.1  # metres from the fingertips up to where the hand is as wide as the fingers open
NEAR, FAR = 0.015, 0.08  # metres off: within the first the hand is all the way down, beyond the second all the way up
LOWERING = 0.04  # metres still to go, as far as the command is concerned, while a thing is lowered
LIFTING = 0.7  # of a full command: a rim slips out of fingers that start faster
AT = 0.012  # metres: arrived
DROP = 0.05  # metres over the middle of a region that contains, from which a thing is let go


def goal_of(scene: LiberoScene) -> tuple[str, str, str] | None:
    """`("on" or "in", thing, destination)` where the task asks for one loose thing to be put somewhere, else None.

    Inside something with a drawer or a door is not asked of this arm: that would have to be opened first.
    """
    env, goals = scene.env.env, scene.parsed["goal_state"]
    if len(goals) != 1 or len(goals[0]) != 3 or goals[0][0] not in ("on", "in"):
        return None
    relation, thing, destination = goals[0]
    if thing not in env.objects_dict:
        return None
    region = env.object_sites_dict.get(destination)
    if relation == "in" and region is not None and getattr(region, "joints", None):
        return None
    return relation, thing, destination


class PickAndPlace:
    """The arm of one scene.

    Raises:
        ContractError: the task asks for something else.
    """

    def __init__(self, scene: LiberoScene) -> None:
        goal = goal_of(scene)
        if goal is None:
            raise ContractError("demonstrate", f"no scripted expert for the goal {scene.parsed['goal_state']}")
        self._relation, self._thing, self._destination = goal
        self._scene, model, env = scene, scene.model, scene.env.env
        solid = (model.geom_contype > 0) | (model.geom_conaffinity > 0)
        self._geoms = {name: solid & _under(model, body) for name, body in env.obj_body_id.items()}
        region = env.object_sites_dict.get(self._destination)
        below = self._destination if region is None else getattr(region, "parent_name", None)
        robot = _under(model, model.body(env.robots[0].robot_model.root_body).id)
        self._support = self._geoms.get(below, ~robot & ~self._geoms[self._thing])  # a part of the table: anything
        pads = env.robots[0].gripper.important_geoms
        self._pads = [np.isin(np.arange(model.ngeom), _ids(model, pads[f"{side}_fingerpad"])) for side in _SIDES]
        self._grip = env.robots[0].eef_site_id

    def command(self) -> Action:
        """What to send now."""
        now = self._look()
        if now.held:
            return self._carry(now)
        return self._grasp(now)

    def _grasp(self, now: "_Look") -> Action:
        to = now.grasp - now.hand
        off = float(np.linalg.norm(to[:2]))
        top = max(now.top + CLEARANCE, now.way_top + CLEARANCE if off > FAR else 0.0)
        height = now.grasp[2] + _rise(off) * (top - now.grasp[2])
        arrived = off < AT and abs(to[2]) < AT
        motion = np.array([to[0], to[1], height - now.hand[2]])
        if now.hand[2] < height - CLEARANCE and off > FAR:
            motion[:2] = 0.0  # up first
        return _act(np.zeros(3) if arrived else motion, CLOSED if arrived else OPEN)

    def _carry(self, now: "_Look") -> Action:
        to = now.goal - now.place
        off = float(np.linalg.norm(to[:2]))
        if off < AT and (now.rests or (self._relation == "in" and now.place[2] < now.goal[2] + DROP)):
            return _act(np.zeros(3), OPEN)
        lift = now.way_top + CLEARANCE - now.bottom
        if off > FAR:
            up_first = lift > CLEARANCE / 2
            return _act(np.array([0.0, 0.0, lift] if up_first else [to[0], to[1], lift]), CLOSED, LIFTING)
        down = -LOWERING * (1 - _rise(off))
        return _act(np.array([to[0], to[1], down]), CLOSED)

    def _look(self) -> "_Look":
        scene = self._scene
        corners = _corners(scene)
        mine = corners[self._geoms[self._thing]].reshape(-1, 3)
        others = [mask for name, mask in self._geoms.items() if name != self._thing]
        touching = scene.data.contact.geom
        rests = _touch(touching, self._geoms[self._thing], self._support)
        place, goal, top = scene.place(self._thing), scene.place(self._destination), float(mine[:, 2].max())
        held = all(_touch(touching, self._geoms[self._thing], pad) for pad in self._pads)
        grasp = self._grasp_point(mine, corners, others, top)
        hand = scene.data.site_xpos[self._grip].copy()
        boxes = corners[np.logical_or.reduce(others)] if others else corners[:0]
        return _Look(
            hand=hand,
            place=place,
            goal=goal,
            top=top,
            bottom=float(mine[:, 2].min()),
            way_top=_highest_between(boxes, hand[:2], (goal if held else grasp)[:2]),
            held=held,
            rests=rests,
            grasp=grasp,
        )

    def _grasp_point(
        self, mine: np.ndarray, corners: np.ndarray, others: list[np.ndarray], top: float
    ) -> Float[np.ndarray, "3"]:
        """Between the fingers: the middle of what is narrow, else the rim on the side with more room."""
        scene = self._scene
        fingers = [scene.data.geom_xpos[np.flatnonzero(pad)].mean(axis=0)[:2] for pad in self._pads]
        axis = (fingers[0] - fingers[1]) / np.linalg.norm(fingers[0] - fingers[1])
        low, high = mine.min(axis=0), mine.max(axis=0)
        middle = (low + high) / 2
        along = (mine[:, :2] - middle[:2]) @ axis
        height = max(top - DEPTH, (low[2] + top) / 2)
        if along.max() - along.min() < OPENING:
            return np.array([middle[0], middle[1], height])
        ways = [axis * (along.max() - RIM), axis * (along.min() + RIM)]
        goal = scene.place(self._destination)
        boxes = corners[np.logical_or.reduce(others)] if others else corners[:0]
        # At the thing fingers reach down beside it; where it goes, what stands as high as the hand is in the way.
        room = [
            min(_room(boxes, middle[:2] + 2 * way, height - DEPTH), _room(boxes, goal[:2] + 2 * way, goal[2] + HAND))
            for way in ways
        ]
        sides = [middle[:2] + way for way in ways]
        best = sides[int(np.argmax(room))]
        return np.array([best[0], best[1], height])


_SIDES = ("left", "right")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Look:
    """The scene as the arm needs it: places in metres, world frame."""

    hand: Float[np.ndarray, "3"]
    place: Float[np.ndarray, "3"]
    goal: Float[np.ndarray, "3"]
    grasp: Float[np.ndarray, "3"]
    top: float
    bottom: float
    way_top: float
    held: bool
    rests: bool


def _act(motion: Float[np.ndarray, "3"], gripper: float, most: float = 1.0) -> Action:
    command = np.zeros(7, dtype=np.float32)
    command[:3] = np.clip(GAIN * motion, -most, most)
    command[6] = gripper
    return command


def _rise(off: float) -> float:
    """How far up, from 0 to 1, at a horizontal distance."""
    return float(np.clip((off - NEAR) / (FAR - NEAR), 0.0, 1.0))


def _highest_between(boxes: np.ndarray, start: np.ndarray, end: np.ndarray) -> float:
    """The top of what stands within BERTH of the straight way, m; 0 where nothing does."""
    middles, reach = boxes[:, :, :2].mean(axis=1), boxes.max(axis=1) - boxes.min(axis=1)
    way = end - start
    share = np.clip((middles - start) @ way / max(float(way @ way), 1e-9), 0.0, 1.0)
    apart = np.linalg.norm(middles - (start + share[:, None] * way), axis=1) - np.linalg.norm(reach[:, :2], axis=1) / 2
    return float(boxes[apart < BERTH][..., 2].max(initial=0.0))


def _room(boxes: np.ndarray, point: np.ndarray, over: float) -> float:
    """Horizontal distance to the next of what stands higher than `over`, m."""
    tall = boxes[boxes[..., 2].max(axis=1, initial=-np.inf) > over] if len(boxes) else boxes
    low, high = tall[..., :2].min(axis=1), tall[..., :2].max(axis=1)
    beside = np.maximum(np.maximum(low - point, point - high), 0.0)
    return float(np.linalg.norm(beside, axis=1).min(initial=1.0))


def _under(model: Any, body: int) -> Bool[np.ndarray, "geoms"]:
    """The geoms of a body and of all that hangs on it."""
    inside = np.zeros(model.nbody, dtype=bool)
    inside[body] = True
    for index in range(body + 1, model.nbody):  # parents come before their children
        inside[index] = inside[model.body_parentid[index]]
    masked: np.ndarray = inside[model.geom_bodyid]
    return masked


def _ids(model: Any, names: list[str]) -> list[int]:
    return [model.geom(name).id for name in names]


def _touch(pairs: np.ndarray, one: Bool[np.ndarray, "geoms"], other: Bool[np.ndarray, "geoms"]) -> bool:
    first, second = pairs[:, 0], pairs[:, 1]
    return bool(((one[first] & other[second]) | (other[first] & one[second])).any())


def _corners(scene: LiberoScene) -> Float[np.ndarray, "geoms 8 3"]:
    """Corners of the box around each geom, world frame."""
    model, data = scene.model, scene.data
    signs = np.stack(np.meshgrid([-1, 1], [-1, 1], [-1, 1], indexing="ij"), axis=-1).reshape(8, 3)
    local = model.geom_aabb[:, None, :3] + signs * model.geom_aabb[:, None, 3:]
    turned = np.einsum("gij,gcj->gci", data.geom_xmat.reshape(-1, 3, 3), local)
    placed: np.ndarray = turned + data.geom_xpos[:, None]
    return placed
