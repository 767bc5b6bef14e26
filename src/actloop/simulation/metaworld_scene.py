"""One Meta-World task underneath the World: seeded resets, raw steps, its success test, and a look ahead.

A raw step is Meta-World's own: the target of the hand moves by command / 100 metres, then five physics steps of 2.5 ms.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import mujoco
import numpy as np
from jaxtyping import Float
from metaworld.env_dict import ALL_V3_ENVIRONMENTS
from metaworld.policies import ENV_POLICY_MAP

from actloop.simulation.contact import ContactGauge

Command = Float[np.ndarray, "4"]
_SNAPSHOT = mujoco.mjtState.mjSTATE_INTEGRATION
_HIDDEN_GROUP = 5  # drawn by no renderer
_GLASS = 0.5  # opacity below which a geom would only hide what is behind it


class MetaWorldScene:
    """A task's simulation. `name` is one of Meta-World's fifty without the version, `drawer-open`."""

    def __init__(self, name: str) -> None:
        policies: Mapping[str, Any] = ENV_POLICY_MAP
        self._policy_type = policies[f"{name}-v3"]
        env: Any = ALL_V3_ENVIRONMENTS[f"{name}-v3"]()
        env._freeze_rand_vec = False
        env._set_task_called = True
        env.seeded_rand_vec = True
        env._partially_observable = False
        # Computed with the goal hidden, and cached; left as it is it clips every goal to zero.
        env.__dict__.pop("sawyer_observation_space", None)
        env.max_path_length = np.iinfo(np.int64).max  # the World keeps the time
        self._env = env
        self._simplify(env.model)
        self.model: mujoco.MjModel = env.model
        self.gauge = ContactGauge(self.model, "hand")
        self._simulate: Callable[..., None] = env.do_simulation
        env.do_simulation = self._simulate_and_look
        self._drawn_from = self.model.site_pos.copy(), self.model.body_pos.copy(), self.model.body_quat.copy()
        self._obs = np.zeros(39)
        self._expert = self._policy_type()

    @property
    def data(self) -> mujoco.MjData:
        data: mujoco.MjData = self._env.data
        return data

    @property
    def hand(self) -> Float[np.ndarray, "4"]:
        """Place of the hand in metres, world frame, then the opening of the gripper from 0 to 1."""
        return self._obs[:4].astype(np.float32)

    def reset(self, seed: int) -> None:
        """Meta-World's own reset under a seed; does not depend on the episodes before."""
        self.model.site_pos[:], self.model.body_pos[:], self.model.body_quat[:] = self._drawn_from
        self._env.seed(seed)
        self._obs, _ = self._env.reset()
        self._expert = self._policy_type()
        self.refresh_places()

    def step(self, command: Command) -> bool:
        """One raw step; whether Meta-World calls it a success."""
        self._obs, _, _, _, info = self._env.step(command)
        return bool(info["success"])

    def refresh_places(self) -> None:
        """Recompute what the cameras see, and nothing that the next step starts from."""
        mujoco.mj_kinematics(self.model, self.data)
        mujoco.mj_camlight(self.model, self.data)

    def expert_command(self) -> Command:
        """What Meta-World's scripted policy sends now, in [-1, 1]."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "Constant(s) may be too high": clipped, here as there
            command = self._expert.get_action(self._obs)
        clipped: Command = np.clip(command, -1, 1).astype(np.float32)
        return clipped

    def expert_ahead(self, raw_steps: int) -> Float[np.ndarray, "raw_steps 4"]:
        """What it would send in each of the coming raw steps if it were asked in each; nothing moves."""
        env, kept_obs, kept_previous = self._env, self._obs, self._env._prev_obs
        before = np.empty(mujoco.mj_stateSize(self.model, _SNAPSHOT))
        mujoco.mj_getState(self.model, self.data, before, _SNAPSHOT)
        commands = np.empty((raw_steps, 4), dtype=np.float32)
        for index in range(raw_steps):
            commands[index] = command = self.expert_command()
            env.set_xyz_action(command[:3])
            self._simulate([command[3], -command[3]], env.frame_skip)
            mujoco.mj_forward(self.model, self.data)
            space = env.sawyer_observation_space
            self._obs = np.clip(env._get_obs(), space.low, space.high)
        mujoco.mj_setState(self.model, self.data, before, _SNAPSHOT)
        mujoco.mj_forward(self.model, self.data)
        mujoco.mj_setState(self.model, self.data, before, _SNAPSHOT)  # mj_forward has moved the solver's warm start
        self._obs, env._prev_obs = kept_obs, kept_previous
        return commands

    def free_object(self) -> int | None:
        """Where the place of a loose object starts in `qpos`; None where the task has no loose object."""
        free = np.flatnonzero(self.model.jnt_type == int(mujoco.mjtJoint.mjJNT_FREE))
        return int(self.model.jnt_qposadr[free[0]]) if len(free) else None

    def change(self, edit: Callable[[mujoco.MjData], None]) -> None:
        """Change the simulation's state by hand and let everything that depends on it follow."""
        edit(self.data)
        mujoco.mj_forward(self.model, self.data)
        self._obs[:18] = self._env._get_curr_obs_combined_no_goal()

    def close(self) -> None:
        self._env.close()

    def _simulate_and_look(self, ctrl: Sequence[float], n_frames: int) -> None:
        """In place of the environment's own, which makes all its physics steps at once."""
        for _ in range(n_frames):
            self._simulate(ctrl, 1)
            self.gauge.look(self.data)

    @staticmethod
    def _simplify(model: mujoco.MjModel) -> None:
        """Quick to draw: no shadows, no multisampling, no mirrors, no glass."""
        model.vis.quality.shadowsize = 0
        model.vis.quality.offsamples = 0
        model.mat_reflectance[:] = 0
        for geom, material in enumerate(model.geom_matid):
            opacity = min(model.geom_rgba[geom, 3], model.mat_rgba[material, 3] if material >= 0 else 1.0)
            if opacity < _GLASS:
                model.geom_group[geom] = _HIDDEN_GROUP
