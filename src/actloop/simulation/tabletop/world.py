"""The embedded default world: language-instructed skills over three blocks, two bodies, two cameras, no OpenGL."""

import zlib
from collections.abc import Mapping

import mujoco
import numpy as np
from jaxtyping import Float

from actloop.contracts import Action, Embodiment, Frame, Observation, Outcome, Task
from actloop.errors import ContractError, UnknownNameError
from actloop.simulation.contact import ContactGauge
from actloop.simulation.tabletop.arrangements import arrange
from actloop.simulation.tabletop.bodies import BODIES, FINGER_STEP, PERIOD
from actloop.simulation.tabletop.disturbances import DISTURBANCES, NAMED, PUSH_TICKS, disturb, release
from actloop.simulation.tabletop.experts import expert
from actloop.simulation.tabletop.questions import QuestionAnswer, questions
from actloop.simulation.tabletop.rays import RayRenderer
from actloop.simulation.tabletop.scene import BELT_SPEED, BELT_TOP, COLOURS, HALF, MAX_OPENING, TIMESTEP, Scene
from actloop.simulation.tabletop.steps import next_step, next_subtask
from actloop.simulation.tabletop.tasks import GOALS, LIFTED, Goal, impossible, lay_out, succeeded

_BURST = 2  # physics steps between two updates of the servo's setpoints
_BURSTS = round(PERIOD / TIMESTEP) // _BURST
_FINGER_SLACK = 0.03  # metres that the commanded opening may differ from the measured one by: the grip force
_START_LOW, _START_HIGH = np.array([-0.13, -0.16, 0.13]), np.array([0.13, 0.03, 0.22])


class Tabletop:
    """A `World`, `Demonstrator`, `DisturbableByName` and `ForceSensing`. `apply` advances exactly one control period.

    Everything random follows from the task's name and the seed; the same actions then give the same bytes. Grasps are
    by friction alone. Pictures are drawn when asked for, once per tick.

    Raises:
        UnknownNameError: no body of that name.
        ContractError: an image size below 16.
    """

    def __init__(self, *, body: str = "gripper", image_size: int = 64) -> None:
        if body not in BODIES:
            raise UnknownNameError("tabletop.body", body, BODIES)
        if image_size < 16:
            raise ContractError("tabletop.image_size", f"expected at least 16 pixels, got {image_size}")
        self._body = BODIES[body]()
        self._embodiment = self._body.embodiment(image_size)
        self._scenes: dict[str, tuple[Scene, RayRenderer, ContactGauge]] = {}
        self._goal: Goal | None = None
        self._task: Task | None = None
        self._tick = 0
        self._seen: Observation | None = None
        self._outcome: Outcome | None = None

    @property
    def embodiment(self) -> Embodiment:
        return self._embodiment

    @property
    def tasks(self) -> Mapping[str, Task]:
        return {name: goal.task for name, goal in GOALS.items()}

    def reset(self, task: Task, *, seed: int) -> Observation:
        """Start an episode.

        Raises:
            UnknownNameError: the tabletop has no task of that name.
        """
        if task.name not in GOALS:
            raise UnknownNameError("tabletop.task", task.name, GOALS)
        self._goal, self._task = GOALS[task.name], task
        self._scene, self._renderer, self._gauge = self._open(self._goal.layout)
        self._gauge.start()
        rng = np.random.default_rng([zlib.crc32(task.name.encode()), seed])
        mujoco.mj_resetData(self._scene.model, self._scene.data)
        self._scene.pads_home()
        lay_out(self._scene, self._goal, rng)
        self._body.place(self._scene, rng.uniform(_START_LOW, _START_HIGH), float(rng.uniform(0.09, MAX_OPENING)))
        self._stripes = float(rng.uniform(0.0, 0.06))
        mujoco.mj_forward(self._scene.model, self._scene.data)
        self._joints = self._scene.data.qpos[self._scene.joint_qpos].copy()
        self._opening = self._scene.opening
        self._tick, self._seen, self._outcome = 0, None, None
        self._pushed_until = 0
        return self.observe()

    def observe(self) -> Observation:
        scene = self._started()
        if self._seen is None:
            self._seen = Observation(
                images={camera.name: self._draw(scene, camera.name) for camera in self._embodiment.cameras},
                state=self._body.sense(scene),
                tick=self._tick,
                time=self._tick * PERIOD,
            )
        return self._seen

    def apply(self, action: Action) -> Action:
        """Run one control period under the action, clipped to the limits and to the reach.

        Raises:
            ContractError: wrong shape or dtype, not finite, or no episode has been started.
        """
        scene = self._started()
        if np.shape(action) != (self._embodiment.action.size,):
            raise ContractError("action", f"expected {self._embodiment.action.size} values, got {np.shape(action)}")
        self._embodiment.action.check(action, "action")
        wanted = self._embodiment.action.clip(action)
        measured = scene.data.qpos[scene.joint_qpos]
        start = np.clip(self._joints, measured - self._body.slack, measured + self._body.slack)
        target, sent = self._body.setpoint(start, wanted)
        opening = scene.opening
        near = np.clip(self._opening, opening - _FINGER_SLACK, opening + _FINGER_SLACK)
        fingers = near + np.clip(float(wanted[-1]) - near, -FINGER_STEP, FINGER_STEP)
        self._run(scene, start, target, float(near), float(fingers))
        self._joints, self._opening = target, float(fingers)
        self._tick += 1
        self._seen = None
        if self._tick == self._pushed_until:
            release(scene)
        self._judge(scene)
        return sent

    def _run(
        self,
        scene: Scene,
        start: Float[np.ndarray, "joints"],
        target: Float[np.ndarray, "joints"],
        opening: float,
        wanted_opening: float,
    ) -> None:
        """One control period of physics, with setpoints that move evenly from where they were to where they go."""
        lead = (target - start) / PERIOD * self._body.lead
        controls = scene.data.ctrl
        count = len(start)
        self._gauge.start()
        for burst in range(1, _BURSTS + 1):
            part = burst / _BURSTS
            controls[:count] = start + part * (target - start) + lead
            controls[count:] = (opening + part * (wanted_opening - opening)) / 2
            scene.run_belt()
            for _ in range(_BURST):
                mujoco.mj_step(scene.model, scene.data)
                self._gauge.look(scene.data)
        mujoco.mj_kinematics(scene.model, scene.data)
        mujoco.mj_camlight(scene.model, scene.data)

    def _judge(self, scene: Scene) -> None:
        assert self._goal is not None
        assert self._task is not None
        time = self._tick * PERIOD
        if self._outcome is not None:
            return
        if succeeded(scene, self._goal):
            self._outcome = Outcome(success=True, reason="done", time=time)
        elif (why := impossible(scene, self._goal)) is not None:
            self._outcome = Outcome(success=False, reason=why, time=time)
        elif time >= self._task.time_limit - 1e-9:
            self._outcome = Outcome(success=False, reason="time limit", time=time)

    def outcome(self) -> Outcome | None:
        return self._outcome

    def demonstrate(self) -> Action:
        """What the scripted expert would send now, from the scene's true state."""
        scene = self._started()
        assert self._goal is not None
        delta, opening = expert(scene, self._goal)
        return self._embodiment.action.clip(self._body.command(scene, delta, opening))

    def rearrange(self, *, seed: int) -> Action:
        """Put everything of the running episode's desk anywhere that it can be; returns the command that holds it so.

        Raises:
            ContractError: another layout, or no episode has been started.
        """
        scene = self._started()
        if scene.layout != "desk":
            raise ContractError("tabletop.rearrange", f"expected a task of the desk, this one is on the {scene.layout}")
        rng = np.random.default_rng([zlib.crc32(b"rearrange"), seed])
        mujoco.mj_resetData(scene.model, scene.data)
        scene.pads_home()
        opening = arrange(scene, self._body, rng)
        mujoco.mj_forward(scene.model, scene.data)
        self._joints = scene.data.qpos[scene.joint_qpos].copy()
        self._opening, self._seen = scene.opening, None
        return self._embodiment.action.clip(self._body.command(scene, np.zeros(3), opening))

    def questions(self, *, seed: int) -> list[QuestionAnswer]:
        """Questions about what is seen now, with their true answers."""
        assert self._goal is not None
        rng = np.random.default_rng([zlib.crc32(b"questions"), self._tick, seed])
        return questions(self._started(), self._goal, rng)

    def next_step(self) -> str:
        """What the expert does now, in words."""
        assert self._goal is not None
        return next_step(self._started(), self._goal)

    def next_subtask(self) -> str:
        """The instruction to follow now: the task's, or that of a part of it that comes first."""
        assert self._goal is not None
        return next_subtask(self._started(), (self._goal,))

    @property
    def disturbances(self) -> tuple[str, ...]:
        return DISTURBANCES

    @property
    def disturbances_by_name(self) -> tuple[str, ...]:
        return NAMED

    def disturb(self, name: str, *, seed: int) -> None:
        """`displace` moves the task's block about 6 cm, `slip` takes it out of the gripper, `push` shoves the hand, and
        `goal` moves the pad that the block is to go onto about 6 cm.

        Raises:
            UnknownNameError: no disturbance of that name.
            ContractError: not applicable now (nothing held, no free place, ...); then nothing was changed.
        """
        scene = self._started()
        assert self._goal is not None
        rng = np.random.default_rng([zlib.crc32(name.encode()), seed])
        disturb(scene, self._goal, name, rng, self._body.push)
        if name == "push":
            self._pushed_until = self._tick + PUSH_TICKS
        mujoco.mj_forward(scene.model, scene.data)
        self._seen = None

    @property
    def events(self) -> tuple[str, ...]:
        return ("touch", "grasp", "lift")

    def happened(self) -> frozenset[str]:
        """Of the task's block, now: a finger touches it, both hold it, they hold it 4 cm above where it lay."""
        scene = self._started()
        assert self._goal is not None
        block = self._goal.block
        fingers = scene.touched(block) if block else 0
        floor = BELT_TOP if self._goal.layout == "belt" else 0.0
        lifted = fingers == 2 and scene.block(block)[2] > floor + HALF + LIFTED / 2
        so = {"touch": fingers > 0, "grasp": fingers == 2, "lift": lifted}
        return frozenset(name for name, is_so in so.items() if is_so)

    def contact_force(self) -> float:
        self._started()
        return self._gauge.peak

    def close(self) -> None:
        self._scenes.clear()
        self._goal = None

    def _started(self) -> Scene:
        if self._goal is None:
            raise ContractError("tabletop", "no episode is running: call reset(task, seed=...) first")
        return self._scene

    def _open(self, layout: str) -> tuple[Scene, RayRenderer, ContactGauge]:
        if layout not in self._scenes:
            scene = Scene(layout, self._body.rig)
            casters = {scene.body_id(name): 0.034 for name in COLOURS} | {scene.body_id("hand"): 0.05}
            renderer = RayRenderer(scene.model, self._embodiment.cameras[0].height, casters)
            self._scenes[layout] = scene, renderer, ContactGauge(scene.model, "hand")
        return self._scenes[layout]

    def _draw(self, scene: Scene, camera: str) -> Frame:
        phase = self._stripes + BELT_SPEED * self._tick * PERIOD
        return self._renderer.render(scene.data, scene.camera_id(camera), scene.belt_geom, phase)
