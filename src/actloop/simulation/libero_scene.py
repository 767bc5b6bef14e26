"""One LIBERO task underneath the World: starts, ticks, its success test, what is sensed, and the two pictures.

A tick is robosuite's: its operational-space controller runs at 500 Hz towards a target set at 20 Hz. What is sensed is
sampled in the first 2 ms of a tick (its sensors fire as soon as their period has begun), and handed out at the end of
it: state and pictures are 48 ms old when they come. Released policies have learned that, so it stays.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
from jaxtyping import Float

from actloop.contracts import Frame, Task
from actloop.simulation.contact import ContactGauge
from actloop.simulation.libero_package import RATE_HZ, control_env, initial_states
from actloop.simulation.rendering import GLRenderer

IDLE = np.array([0, 0, 0, 0, 0, 0, -1.0])  # what evaluations send while the scene settles: no motion, gripper open
VIEWS = {"image": "agentview", "wrist_image": "robot0_eye_in_hand"}  # names of the recordings: LIBERO's cameras
DRAWN_FROM = (
    *("xpos", "xquat", "xipos", "ximat", "geom_xpos", "geom_xmat", "site_xpos", "site_xmat"),
    *("cam_xpos", "cam_xmat", "light_xpos", "light_xdir"),
)
_HIDDEN_GROUP = 5  # drawn by no renderer
_COLLISION_GROUP = 0  # shapes that collide and are not meant to be seen


class LiberoScene:
    """A task's simulation; made once, reset often.

    Raises:
        MissingDependency: the package or a renderer is not installed.
        DataError: the initial states cannot be read.
    """

    def __init__(self, task: Task, assets: Path, *, side: int, multisampling: bool) -> None:
        self._starts = initial_states(task)
        with _numpy_seeded(0):
            self.env: Any = control_env(task, assets)
        self.model: mujoco.MjModel = self.env.sim.model._model
        self._simplify(multisampling)
        self.gauge = ContactGauge(self.model, self.env.robots[0].robot_model.root_body)
        self._look_at_every_step()
        self._sensed: dict[str, np.ndarray] = {}
        self._gl = GLRenderer(self.model, height=side, width=side) if side else None
        self._sampled = mujoco.MjData(self.model) if side else None
        if side:
            self._sample_with_sensors()

    @property
    def data(self) -> mujoco.MjData:
        data: mujoco.MjData = self.env.sim.data._data
        return data

    @property
    def state(self) -> Float[np.ndarray, "8"]:
        """Place of the hand (m), its rotation as axis times angle (rad), both fingers (m); world frame."""
        seen = self._sensed
        rotation = _axis_angle(seen["robot0_eef_quat"])
        return np.concatenate([seen["robot0_eef_pos"], rotation, seen["robot0_gripper_qpos"]]).astype(np.float32)

    @property
    def parsed(self) -> dict[str, Any]:
        """The task as its BDDL file states it: objects, regions, `goal_state`, ..."""
        parsed: dict[str, Any] = self.env.env.parsed_problem
        return parsed

    def reset(self, seed: int, settle: int) -> None:
        """Initial state `seed % count`, fixtures drawn by `seed // count` (0: as in published runs); then idle ticks.

        The file of initial states says where what moves is. Where fixtures (cabinet, stove, ...) stand is drawn anew
        at every reset of LIBERO's, from NumPy's global generator.
        """
        placed, start = divmod(seed, len(self._starts))
        with _numpy_seeded(placed):
            self.env.reset()
        for robot in self.env.robots:
            robot.gripper.current_action[:] = 0  # what a newly built robot has; it is a running sum
        self._sensed = self.env.set_init_state(self._starts[start])
        for _ in range(settle):
            self.step(IDLE)

    def step(self, action: Float[np.ndarray, "7"]) -> bool:
        """One tick; whether LIBERO calls the task done."""
        self._sensed, _, done, _ = self.env.step(np.asarray(action, dtype=np.float64))
        return bool(done)

    def look(self) -> dict[str, Frame]:
        """Both pictures as robosuite delivers them, bottom row first."""
        if self._gl is None:
            return {}
        return {name: self._gl.render(self._sampled, view)[::-1].copy() for name, view in VIEWS.items()}

    def place(self, name: str) -> Float[np.ndarray, "3"]:
        """Where an object's body, or the middle of a region, is; m, world frame."""
        place: np.ndarray = self.env.env.object_states_dict[name].get_geom_state()["pos"].copy()
        return place

    def loose_object(self) -> str | None:
        """The first object of the task's interest that nothing holds in its place."""
        return next((name for name in self.env.obj_of_interest if name in self.env.env.objects_dict), None)

    def shift(self, name: str, by: Float[np.ndarray, "3"]) -> None:
        """Move a loose object, and let what is sensed follow."""
        joint = self.env.env.objects_dict[name].joints[-1]
        address = self.model.jnt_qposadr[self.model.joint(joint).id]
        self.data.qpos[address : address + 3] += by
        self.env.sim.forward()

    def room(self, name: str, by: Float[np.ndarray, "3"]) -> float:
        """How far from the next loose object this one would be after such a shift, m."""
        moved = self.place(name) + by
        others = [self.place(other) for other in self.env.env.objects_dict if other != name]
        return min((float(np.linalg.norm(moved[:2] - other[:2])) for other in others), default=np.inf)

    def close(self) -> None:
        if self._gl is not None:
            self._gl.close()
            self._gl = None

    def _sample_with_sensors(self) -> None:
        """Keep what the cameras see at the moment at which robosuite would draw it, to be drawn when it is wanted."""
        sensing: Any = import_module("robosuite.utils.observables")

        @sensing.sensor(modality="moment")  # type: ignore[untyped-decorator]
        def moment(_: object) -> float:
            for name in DRAWN_FROM:
                getattr(self._sampled, name)[:] = getattr(self.data, name)
            return 0.0

        self.env.env.add_observable(sensing.Observable(name="moment", sensor=moment, sampling_rate=RATE_HZ))

    def _look_at_every_step(self) -> None:
        """Let the gauge follow robosuite's own loop over physics steps."""
        simulation = self.env.sim
        step: Callable[[], None] = simulation.step

        def step_and_look() -> None:
            step()
            self.gauge.look(self.data)

        simulation.step = step_and_look

    def _simplify(self, multisampling: bool) -> None:
        """No lamp here throws a shadow, so a map of shadows costs time and changes no pixel."""
        self.model.vis.quality.shadowsize = 0
        if not multisampling:
            self.model.vis.quality.offsamples = 0
        self.model.geom_group[self.model.geom_group == _COLLISION_GROUP] = _HIDDEN_GROUP


def _axis_angle(quat_xyzw: Float[np.ndarray, "4"]) -> Float[np.ndarray, "3"]:
    """Axis times angle in [0, 2 pi), as robosuite converts it: no shorter way round is looked for."""
    w = float(np.clip(quat_xyzw[3], -1.0, 1.0))
    length = np.sqrt(1.0 - w * w)
    if np.isclose(length, 0.0):
        return np.zeros(3)
    turned: np.ndarray = quat_xyzw[:3] * 2.0 * np.arccos(w) / length
    return turned


@contextmanager
def _numpy_seeded(seed: int) -> Iterator[None]:
    """NumPy's global generator, from which robosuite draws, for a while."""
    kept = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(kept)
