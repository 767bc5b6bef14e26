"""LIBERO (Liu et al. 2023, package `hf-libero`) as a World: a Panda arm, five suites of tasks, fixed initial states.

Scenes, initial states, dynamics and the success test are LIBERO's; cameras, state, commands and rate are those that
released policies know. docs/benchmarks-worlds.md says how to install it, and what a seed means.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from actloop.contracts import Action, Camera, Embodiment, Observation, Outcome, Part, Space, Task
from actloop.errors import ContractError, UnknownNameError
from actloop.simulation.libero_expert import PickAndPlace, goal_of
from actloop.simulation.libero_package import RATE_HZ, STEPS, all_tasks, find_assets
from actloop.simulation.libero_scene import VIEWS, LiberoScene
from actloop.simulation.rendering import gl_backend

SCENES_KEPT = 4  # built tasks in memory; building one takes seconds
WORLD = "world 'libero'"
DRAWN = 16


class LiberoWorld:
    """Tasks of LIBERO by suite and number, `libero_spatial-3`.

    A World, Demonstrator, Disturbable and ForceSensing.

    `seed` counts the initial states of the file (50 a task), which published evaluations play from 0; from 50 on it
    counts them again with the fixtures drawn anew. Every start is followed by `settle` idle ticks, as there.

    Args:
        assets: folder of meshes and textures; ACTLOOP_LIBERO_ASSETS, or that inside the package, where not given.
        suites: those to offer.
        image_size: side of the pictures; 0 for a world that is not looked at.
        multisampling: as in stock pictures. Without it they are drawn in half the time, with rougher edges; the
            cameras' renderer is then `mujoco-plain`.
        settle: idle ticks before the episode, 10 with most policies, 30 with Fast-WAM.

    Raises:
        MissingDependency: the package, its assets or OpenGL are absent; says how to get them.
        UnknownNameError: no such suite.
    """

    disturbances: tuple[str, ...] = ("displace",)

    def __init__(
        self,
        *,
        assets: str | Path | None = None,
        suites: Sequence[str] | str = tuple(STEPS),
        image_size: int = 256,
        multisampling: bool = True,
        settle: int = 10,
    ) -> None:
        if image_size < 0 or settle < 0:
            raise ContractError(WORLD, f"expected image_size and settle of 0 or more, got {image_size}, {settle}")
        self._tasks = all_tasks((suites,) if isinstance(suites, str) else suites)
        self._assets = find_assets(assets)
        if image_size:
            gl_backend()  # without OpenGL this is the moment to say so, not the first picture
        self._side, self._multisampling, self._settle = image_size, multisampling, settle
        self._embodiment = _embodiment(image_size, "mujoco" if multisampling else "mujoco-plain")
        self._scenes: dict[str, LiberoScene] = {}  # oldest first
        self._experts: dict[str, PickAndPlace] = {}
        self._task: Task | None = None
        self._outcome: Outcome | None = None
        self._tick = 0

    @property
    def embodiment(self) -> Embodiment:
        return self._embodiment

    @property
    def tasks(self) -> Mapping[str, Task]:
        return self._tasks

    def reset(self, task: Task, *, seed: int) -> Observation:
        """Start from a fixed initial state, see the class.

        Raises:
            UnknownNameError: no such task.
            DataError: its initial states cannot be read.
        """
        if task.name not in self._tasks:
            raise UnknownNameError(f"{WORLD}, task", task.name, self._tasks)
        if seed < 0:
            raise ContractError("seed", f"expected 0 or more, got {seed}")
        self._task, self._outcome, self._tick = task, None, 0
        self._scene.reset(seed, self._settle)
        self._scene.gauge.start()  # it has been settling
        return self.observe()

    def observe(self) -> Observation:
        scene = self._scene
        time = self._tick * self._embodiment.period
        return Observation(images=scene.look(), state=scene.state, tick=self._tick, time=time)

    def apply(self, action: Action) -> Action:
        scene = self._scene
        self._embodiment.action.check(action, "action")
        if action.ndim != 1:
            raise ContractError("action", f"expected one action of shape (7,), got {action.shape}")
        sent = self._embodiment.action.clip(action)
        scene.gauge.start()
        succeeded = scene.step(sent)
        self._tick += 1
        if succeeded:
            self._end(success=True, reason="task solved")
        elif self._task and (self._tick + 0.5) * self._embodiment.period > self._task.time_limit:
            self._end(success=False, reason="time limit")
        return sent

    def outcome(self) -> Outcome | None:
        return self._outcome

    def demonstrate(self) -> Action:
        """What a scripted arm that knows where everything is would send: it grasps one thing and puts it down.

        Raises:
            ContractError: the task asks for something else (drawers, knobs, two things).
        """
        scene, task = self._scene, self._task
        assert task is not None
        if task.name not in self._experts:
            self._experts[task.name] = PickAndPlace(scene)
        return self._experts[task.name].command()

    def disturb(self, name: str, *, seed: int) -> None:
        """Move the first loose object that the task is about by 3 to 6 cm, of 16 drawn ways the one with most room.

        Raises:
            UnknownNameError: no such disturbance.
            ContractError: the task is about nothing loose.
        """
        scene = self._scene
        if name not in self.disturbances:
            raise UnknownNameError(f"{WORLD}, disturbance", name, self.disturbances)
        loose = scene.loose_object()
        if loose is None:
            raise ContractError("disturb", f"the task {self._task and self._task.name!r} is about nothing loose")
        rng = np.random.default_rng([seed, 29])
        angles, distances = rng.uniform(0, 2 * np.pi, DRAWN), rng.uniform(0.03, 0.06, DRAWN)
        ways = distances[:, None] * np.stack([np.cos(angles), np.sin(angles), np.zeros(DRAWN)], axis=1)
        scene.shift(loose, ways[int(np.argmax([scene.room(loose, way) for way in ways]))])

    def contact_force(self) -> float:
        return self._scene.gauge.peak

    def close(self) -> None:
        for scene in self._scenes.values():
            scene.close()
        self._scenes.clear()
        self._experts.clear()
        self._task = None

    def has_expert(self, task: Task) -> bool:
        """Whether `demonstrate` knows what to do; builds the task's scene."""
        return goal_of(self._built(task)) is not None

    def _end(self, *, success: bool, reason: str) -> None:
        if self._outcome is None:
            self._outcome = Outcome(success=success, reason=reason, time=self._tick * self._embodiment.period)

    @property
    def _scene(self) -> LiberoScene:
        if self._task is None:
            raise ContractError(WORLD, "no episode is running; call reset(task, seed=...) first")
        return self._built(self._task)

    def _built(self, task: Task) -> LiberoScene:
        if task.name not in self._scenes:
            if len(self._scenes) >= SCENES_KEPT:
                oldest = next(iter(self._scenes))
                self._scenes.pop(oldest).close()
                self._experts.pop(oldest, None)
            self._scenes[task.name] = LiberoScene(
                task, self._assets, side=self._side, multisampling=self._multisampling
            )
        return self._scenes[task.name]


def _embodiment(side: int, renderer: str) -> Embodiment:
    """As released policies declare it: 1 of the command is 0.05 m, or 0.5 rad, a tick, in the world's axes."""
    cameras = tuple(Camera(name=name, height=side, width=side, renderer=renderer) for name in VIEWS) if side else ()
    ones = (1.0, 1.0, 1.0)
    turn = (2 * math.pi,) * 3
    minus = (-1.0, -1.0, -1.0)
    return Embodiment(
        name="libero-panda",
        cameras=cameras,
        state=Space(
            parts=(
                Part(name="position", unit="m", low=(-2.0,) * 3, high=(2.0,) * 3),
                Part(name="axis_angle", unit="rad", low=tuple(-value for value in turn), high=turn),
                Part(name="fingers", unit="m", low=(-0.05, -0.05), high=(0.05, 0.05)),
            )
        ),
        action=Space(
            parts=(
                Part(name="position", unit="0.05 m", low=minus, high=ones, kind="delta"),
                Part(name="axis_angle", unit="0.5 rad", low=minus, high=ones, kind="delta"),
                Part(name="gripper", unit="1", low=(-1.0,), high=(1.0,), neutral=(-1.0,)),
            )
        ),
        control_hz=RATE_HZ,
    )
