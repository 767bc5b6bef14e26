"""ALOHA's two simulated tasks (package `gym-aloha`; Zhao et al. 2023) as a World: two ViperX arms, seen from above.

Start states, physics (50 Hz), the success test (the reward's fourth stage) and the limit of 300 steps are the
package's. It draws three pictures of 480 x 640 a step and shows one; here only the one is drawn, with the same pixels.
"""

import os
from importlib import import_module
from typing import Any

import mujoco
import numpy as np

from actloop.contracts import Camera, Embodiment, Part, Space, Task
from actloop.simulation.gym import GymWorld
from actloop.simulation.rendering import GLRenderer, gl_backend

RATE_HZ = 50.0
STEPS = 300
CAMERA = "top"
TASKS = {
    "insertion": ("gym_aloha/AlohaInsertion-v0", "insert the peg into the socket"),
    "transfer-cube": (
        "gym_aloha/AlohaTransferCube-v0",
        "pick up the cube with the right arm and transfer it to the left arm",
    ),
}
# Waist, shoulder, elbow, forearm roll, wrist angle, wrist rotate: what the scene's motors accept.
JOINT_LOW = (-3.14158, -1.85005, -1.76278, -3.14158, -1.8675, -3.14158)
JOINT_HIGH = (3.14158, 1.25664, 1.6057, 3.14158, 2.23402, 3.14158)


def open_aloha(*, height: int = 480, width: int = 640, shadows: bool = True) -> GymWorld:
    """Both arms at 50 Hz; state and action are joint angles (rad) and openings of the grippers, left arm first.

    Without `shadows` pictures are drawn several times as fast, also without multisampling, and are other pictures: the
    camera's renderer is then `mujoco-plain`, and a policy trained on the stock pictures is not one for these.

    Raises:
        MissingDependency: the machine has no OpenGL that works without a screen.
    """
    os.environ.setdefault("MUJOCO_GL", gl_backend())  # dm_control looks for a screen where nothing is said
    gymnasium = import_module("gymnasium")
    import_module("gym_aloha")

    def make(task: Task) -> Any:
        env = gymnasium.make(TASKS[task.name][0], obs_type="pixels_agent_pos", disable_env_checker=True)
        inner = env.unwrapped._env
        inner.task.get_observation = _Sight(inner.physics.model.ptr, height, width, shadows=shadows)
        return env

    tasks = [
        Task(name=name, instruction=instruction, time_limit=STEPS / RATE_HZ, skill=name, group="aloha")
        for name, (_, instruction) in TASKS.items()
    ]
    return GymWorld(
        make,
        embodiment=_embodiment(height, width, "mujoco" if shadows else "mujoco-plain"),
        tasks=tasks,
        images={CAMERA: f"pixels.{CAMERA}"},
        state=("agent_pos",),
    )


class _Sight:
    """What a step of the package's task shows: joints and one picture. Called with dm_control's `Physics`."""

    def __init__(self, model: mujoco.MjModel, height: int, width: int, *, shadows: bool) -> None:
        if not shadows:
            model.vis.quality.shadowsize = 0
            model.vis.quality.offsamples = 0
        self._gl = GLRenderer(model, height=height, width=width)

    def __call__(self, physics: Any) -> dict[str, Any]:
        fingers = import_module("gym_aloha.tasks.sim").BimanualViperXTask.get_qpos
        return {
            "qpos": np.asarray(fingers(physics)),
            "images": {CAMERA: self._gl.render(physics.data.ptr, CAMERA)},
        }


def _embodiment(height: int, width: int, renderer: str) -> Embodiment:
    body = tuple(
        part
        for side in ("left", "right")
        for part in (
            Part(name=f"{side}_arm", unit="rad", low=JOINT_LOW, high=JOINT_HIGH),
            Part(name=f"{side}_gripper", unit="of full opening", low=(0.0,), high=(1.0,)),
        )
    )
    return Embodiment(
        name="aloha",
        cameras=(Camera(name=CAMERA, height=height, width=width, renderer=renderer),),
        state=Space(parts=body),
        action=Space(parts=body),
        control_hz=RATE_HZ,
    )
