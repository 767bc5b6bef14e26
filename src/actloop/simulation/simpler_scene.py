"""One of SIMPLER's Bridge tasks in the numbers of the real robot: what BridgeData V2 records, and what it commands.

    (motion m, turn rad, opening) --> ManiSkill's controller, 100 steps of 2 ms --> picture, pose of the hand, success

Poses are about the arm's base; angles are roll, pitch, yaw about its fixed axes, 0 where the hand looks straight down.
"""

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from actloop.actions.rotations import convert
from actloop.contracts import Action, Frame, State
from actloop.errors import ContractError
from actloop.simulation.simpler_package import open_task

CAMERA = "3rd_view_camera"
FINGERS = (0.015, 0.037)  # metres that a finger is from the middle: closed, open
DOWN = np.array([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]])  # the hand of a WidowX that looks straight down


class BridgeScene:
    """The environment of one task, by ManiSkill's name of it; seeds are the numbers of its fixed starts.

    Args:
        judged: `first` ends the episode when the success test first fires, as ManiSkill's own step does; `end` plays
            to the last step and asks then, as SIMPLER's published evaluations do.
        side: of the picture, which the 640 x 480 of the camera are shrunk to as BridgeData's own were.
    """

    def __init__(self, own: str, assets: Path, *, judged: str, side: int, render_backend: str) -> None:
        self._env = open_task(own, assets, render_backend)
        self._judged, self._side = judged, side
        self.action_space = self._env.action_space

    def reset(self, *, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """Start number `seed`, from 0; ManiSkill begins again after the last."""
        if seed < 0:
            raise ContractError("seed", f"expected the number of a start, 0 or more, got {seed}")
        raw, info = self._env.reset(seed=seed, options={"episode_id": seed})
        return self._seen(raw), info

    def step(self, command: Action) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        told = np.concatenate([command[:3], _xyz_about_own(command[3:6]), 2 * command[6:] - 1])
        raw, _, fired, over, _ = self._env.step(told.astype(np.float32))
        solved, ended = bool(fired), bool(over)
        if self._judged == "end":
            solved = solved and ended
        return self._seen(raw), 0.0, solved, ended, {"success": solved}

    def look(self) -> dict[str, Any]:
        """As things are now, between two steps."""
        return self._seen(self._env.unwrapped.get_obs())

    def close(self) -> None:
        self._env.close()

    @property
    def hand(self) -> Float[np.ndarray, "4 4"]:
        """Pose of the point between the fingertips, in the frame of the arm's base."""
        robot = self._env.unwrapped.agent.robot
        return _matrix(robot.pose.inv() * robot.links_map["ee_gripper_link"].pose)

    @property
    def opening(self) -> float:
        """0 closed to 1 open."""
        fingers = float(self._env.unwrapped.agent.robot.get_qpos()[0, -2:].mean())
        return float(np.clip((fingers - FINGERS[0]) / (FINGERS[1] - FINGERS[0]), 0.0, 1.0))

    @property
    def thing(self) -> Float[np.ndarray, "4 4"]:
        """Pose of what is to be moved, in the frame of the arm's base."""
        return self._placed(self._env.unwrapped.source_obj_name)

    @property
    def destination(self) -> Float[np.ndarray, "4 4"]:
        return self._placed(self._env.unwrapped.target_obj_name)

    @property
    def sizes(self) -> tuple[Float[np.ndarray, "3"], Float[np.ndarray, "3"]]:
        """Sides of the boxes around the thing and its destination in their own frames, m, by which success is told."""
        inner = self._env.unwrapped
        names = inner.source_obj_name, inner.target_obj_name
        thing, destination = (inner.episode_model_bbox_sizes[name].numpy() for name in names)
        return thing, destination

    @property
    def grasped(self) -> bool:
        inner = self._env.unwrapped
        return bool(inner.agent.is_grasping(inner.objs[inner.source_obj_name]))

    def shift(self, way: Float[np.ndarray, "3"]) -> None:
        """Put the thing elsewhere by `way`, m along the axes of the arm's base, at rest."""
        inner = self._env.unwrapped
        actor = inner.objs[inner.source_obj_name]
        state = actor.get_state().clone()
        state[0, :3] += state.new_tensor(_matrix(inner.agent.robot.pose)[:3, :3] @ way)
        state[0, 7:] = 0.0
        actor.set_state(state)

    def _placed(self, name: str) -> Float[np.ndarray, "4 4"]:
        inner = self._env.unwrapped
        return _matrix(inner.agent.robot.pose.inv() * inner.objs[name].pose)

    def _seen(self, raw: Any) -> dict[str, Any]:
        pixels = raw["sensor_data"][CAMERA]["rgb"][0].numpy()
        return {"image": _shrunk(pixels, self._side), "state": self._state()}

    def _state(self) -> State:
        hand = self.hand
        turn = convert((hand[:3, :3] @ DOWN.T).reshape(9), "matrix", "euler_xyz")
        return np.concatenate([hand[:3, 3], turn, [self.opening]]).astype(np.float32)


def _matrix(pose: Any) -> Float[np.ndarray, "4 4"]:
    return np.asarray(pose.to_transformation_matrix()[0].numpy(), dtype=np.float64)


def _xyz_about_own(turn: Float[np.ndarray, "3"]) -> Float[np.ndarray, "3"]:
    """A turn by roll, pitch, yaw about fixed axes as ManiSkill wants it: about x, the turned y, the turned z.

    The turn about own axes x, y, z is that about fixed z, y, x: the transpose of roll, pitch, yaw of the turn back.
    """
    back = convert(np.asarray(turn, dtype=np.float64), "euler_xyz", "matrix").reshape(3, 3).T
    return -convert(back.reshape(9), "matrix", "euler_xyz")


def _shrunk(pixels: Frame, side: int) -> Frame:
    """Whole, by Lanczos filtering."""
    image = import_module("PIL.Image")
    return np.asarray(image.fromarray(pixels).resize((side, side), image.Resampling.LANCZOS))
