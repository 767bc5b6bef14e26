"""Meta-World v3 (Yu et al. 2019, package `metaworld`) as a World: fifty table-top tasks of one Sawyer arm.

    action --held for `action_repeat` raw steps of 12.5 ms--> MuJoCo --> hand, gripper, pictures

The scenes, their randomisation, the success test and the scripted experts are Meta-World's; the control rate, the
instructions and the pictures are ours. docs/add-a-world.md says what a control tick is made of, and why.
"""

from collections.abc import Callable, Mapping

import mujoco
import numpy as np

from actloop.contracts import Action, Camera, Embodiment, Frame, Observation, Outcome, Part, Space, Task
from actloop.errors import ContractError, UnknownNameError
from actloop.simulation.metaworld_scene import MetaWorldScene
from actloop.simulation.metaworld_tasks import all_tasks
from actloop.simulation.rays import RayCamera
from actloop.simulation.rendering import GLRenderer, gl_backend

RAW_STEP = 0.0125  # seconds: five physics steps of 2.5 ms
RAW_LIMIT = 500  # raw steps of an episode
RAW_REACH = 0.01  # metres that a full command moves the hand's target in one raw step
SCENES_KEPT = 8  # compiled models in memory; making one takes about 0.3 s

CAMERAS: dict[str, tuple[str, tuple[float, float, float] | None, bool]] = {
    # view: (camera of the scene, its place in metres where ours differs, whether it hangs upside down)
    "corner2_near": ("corner2", (0.75, 0.075, 0.7), True),
    "corner2": ("corner2", None, True),
    "gripperPOV": ("gripperPOV", None, False),
    "topview": ("topview", None, False),
    "corner": ("corner", None, True),
    "corner3": ("corner3", None, False),
    "corner4": ("corner4", None, True),
    "behindGripper": ("behindGripper", None, False),
}
# In ticks longer than AVERAGED raw steps these experts do better when a command is held than when it is averaged.
AVERAGED = 5
HELD_EXPERTS = frozenset(("hammer", "handle-pull", "pick-out-of-hole", "shelf-place", "soccer"))


class MetaWorld:
    """Any of the fifty tasks by name; a World, Demonstrator, Disturbable and ForceSensing.

    State: place of the hand (m, world frame) and opening of the gripper (1 is open). Action: motion of the hand's
    target along the world's axes, 1 being `action_repeat` centimetres a tick, and the gripper's effort (-1 opens, 1
    closes). Objects are sensed by the cameras alone.
    """

    disturbances: tuple[str, ...] = ("displace",)

    def __init__(
        self,
        *,
        image_size: int = 64,
        cameras: tuple[str, ...] = ("corner2_near", "gripperPOV"),
        renderer: str = "ray",
        action_repeat: int = 8,
    ) -> None:
        for camera in cameras:
            if camera not in CAMERAS:
                raise UnknownNameError("world 'metaworld', camera", camera, CAMERAS)
        if renderer not in ("ray", "gl"):
            raise UnknownNameError("world 'metaworld', renderer", renderer, ("ray", "gl"))
        if renderer == "gl":
            gl_backend()  # without OpenGL this is the moment to say so, not the first picture
        if not 1 <= action_repeat <= RAW_LIMIT:
            raise ContractError("action_repeat", f"expected 1 to {RAW_LIMIT}, got {action_repeat}")
        self._repeat = action_repeat
        self._embodiment = _embodiment(image_size, cameras, renderer, action_repeat)
        self._tasks = all_tasks(time_limit=RAW_LIMIT // action_repeat * action_repeat * RAW_STEP)
        self._scenes: dict[str, tuple[MetaWorldScene, _Eyes]] = {}  # oldest first
        self._task: Task | None = None
        self._outcome: Outcome | None = None
        self._raw_steps = 0

    @property
    def embodiment(self) -> Embodiment:
        return self._embodiment

    @property
    def tasks(self) -> Mapping[str, Task]:
        return self._tasks

    def reset(self, task: Task, *, seed: int) -> Observation:
        """Start an episode where Meta-World's own seeding (`env.seed(seed)`, then `env.reset()`) puts it.

        Raises:
            UnknownNameError: the task is not one of the fifty.
        """
        if task.name not in self._tasks:
            raise UnknownNameError("world 'metaworld', task", task.name, self._tasks)
        self._task, self._outcome, self._raw_steps = task, None, 0
        scene, _ = self._scene()
        scene.reset(seed)
        scene.gauge.start()  # the reset makes physics steps too
        return self.observe()

    def observe(self) -> Observation:
        scene, eyes = self._scene()
        scene.refresh_places()
        tick = self._raw_steps // self._repeat
        return Observation(
            images=eyes.look(scene.data), state=scene.hand, tick=tick, time=tick * self._embodiment.period
        )

    def apply(self, action: Action) -> Action:
        scene, _ = self._scene()
        self._embodiment.action.check(action, "action")
        if action.ndim != 1:
            raise ContractError("action", f"expected one action of shape (4,), got {action.shape}")
        sent = self._embodiment.action.clip(action)
        scene.gauge.start()
        for _ in range(self._repeat):
            succeeded = scene.step(sent)
            self._raw_steps += 1
            if succeeded:
                self._end(success=True, reason="task solved")
        if self._task and (self._raw_steps + 0.5) * RAW_STEP >= self._task.time_limit:
            self._end(success=False, reason="time limit")
        return sent

    def outcome(self) -> Outcome | None:
        return self._outcome

    def demonstrate(self) -> Action:
        """The command, constant over the tick, that comes nearest to what Meta-World's expert would do in it.

        The expert was written to be asked every raw step. It is played ahead on a copy of the state for a tick and its
        commands are averaged; a few that do badly so are asked once and held.
        """
        scene, _ = self._scene()
        held = self._task is not None and self._task.name in HELD_EXPERTS and self._repeat > AVERAGED
        if held or self._repeat == 1:
            return scene.expert_command()
        action: Action = scene.expert_ahead(self._repeat).mean(axis=0)
        return action

    def disturb(self, name: str, *, seed: int) -> None:
        """Move the task's loose object by 3 to 6 cm on the table.

        Raises:
            UnknownNameError: no such disturbance.
            ContractError: the task has no loose object (drawers, doors, buttons ... are fixed).
        """
        scene, _ = self._scene()
        if name not in self.disturbances:
            raise UnknownNameError("world 'metaworld', disturbance", name, self.disturbances)
        start = scene.free_object()
        if start is None:
            raise ContractError("disturb", f"the task {self._task and self._task.name!r} has no loose object to move")
        rng = np.random.default_rng([seed, 29])
        angle, distance = rng.uniform(0, 2 * np.pi), rng.uniform(0.03, 0.06)
        shift = distance * np.array([np.cos(angle), np.sin(angle)])

        def move(data: mujoco.MjData) -> None:
            data.qpos[start : start + 2] += shift

        scene.change(move)

    def contact_force(self) -> float:
        return self._scene()[0].gauge.peak

    def close(self) -> None:
        for scene, eyes in self._scenes.values():
            eyes.close()
            scene.close()
        self._scenes.clear()
        self._task = None

    def _end(self, *, success: bool, reason: str) -> None:
        if self._outcome is None:
            self._outcome = Outcome(success=success, reason=reason, time=self._raw_steps * RAW_STEP)

    def _scene(self) -> "tuple[MetaWorldScene, _Eyes]":
        if self._task is None:
            raise ContractError("world 'metaworld'", "no episode is running; call reset(task, seed=...) first")
        name = self._task.name
        if name not in self._scenes:
            if len(self._scenes) >= SCENES_KEPT:
                oldest, old_eyes = self._scenes.pop(next(iter(self._scenes)))
                old_eyes.close()
                oldest.close()
            scene = MetaWorldScene(name)
            self._scenes[name] = (scene, _Eyes(scene.model, self._embodiment.cameras))
        return self._scenes[name]


class _Eyes:
    """The declared cameras over one compiled model."""

    def __init__(self, model: mujoco.MjModel, cameras: tuple[Camera, ...]) -> None:
        self._gl: GLRenderer | None = None
        self._views: list[tuple[str, int, np.ndarray | None, bool, Callable[[mujoco.MjData], Frame]]] = []
        for camera in cameras:
            name, place, upside_down = CAMERAS[camera.name]
            draw = self._drawer(model, name, camera)
            index = model.camera(name).id
            self._views.append((camera.name, index, None if place is None else np.array(place), upside_down, draw))

    def look(self, data: mujoco.MjData) -> dict[str, Frame]:
        images = {}
        for name, index, place, upside_down, draw in self._views:
            kept = data.cam_xpos[index].copy()
            if place is not None:
                data.cam_xpos[index] = place
            frame = draw(data)
            data.cam_xpos[index] = kept
            images[name] = np.ascontiguousarray(frame[::-1, ::-1]) if upside_down else frame
        return images

    def close(self) -> None:
        if self._gl is not None:
            self._gl.close()
            self._gl = None

    def _drawer(self, model: mujoco.MjModel, name: str, camera: Camera) -> Callable[[mujoco.MjData], Frame]:
        if camera.renderer == "ray":
            return RayCamera(model, name, height=camera.height, width=camera.width).render
        gl = self._gl = self._gl or GLRenderer(model, height=camera.height, width=camera.width)
        return lambda data: gl.render(data, name)


def _embodiment(image_size: int, cameras: tuple[str, ...], renderer: str, repeat: int) -> Embodiment:
    reach = Part(
        name="hand_target",
        unit=f"{repeat * RAW_REACH:g} m",
        low=(-1.0, -1.0, -1.0),
        high=(1.0, 1.0, 1.0),
        kind="delta",
    )
    effort = Part(name="gripper_effort", unit="of full effort", low=(-1.0,), high=(1.0,), neutral=(-1.0,))
    hand = Part(name="hand", unit="m", low=(-0.525, 0.348, -0.0525), high=(0.525, 1.025, 0.7))
    opening = Part(name="gripper_opening", unit="of 0.1 m", low=(0.0,), high=(1.0,))
    return Embodiment(
        name="metaworld-sawyer",
        cameras=tuple(Camera(name=name, height=image_size, width=image_size, renderer=renderer) for name in cameras),
        state=Space(parts=(hand, opening)),
        action=Space(parts=(reach, effort)),
        control_hz=1 / (repeat * RAW_STEP),
    )
