"""Any Gymnasium environment as a World, by declaration.

    Gymnasium observation --images, state (paths)--> Observation        Action --env.step--> info --success--> Outcome

Gymnasium says shapes and no units, so the embodiment is written down by whoever wraps the environment. A `Sequence` of
environments is no environment: of a vector, also of one that LeRobot's `make_env` returns, give one member.
docs/benchmarks-worlds.md has the shortest example.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from actloop.contracts import Action, Embodiment, Frame, Observation, Outcome, State, Task
from actloop.errors import ContractError, UnknownNameError

Reading = str | Callable[[Any], np.ndarray]  # "pixels.top", or a function of the observation; "" is all of it
Success = Callable[[Mapping[str, Any]], bool]  # of the `info` of a step
SUCCESS_KEYS = ("is_success", "success")


def success_in_info(info: Mapping[str, Any]) -> bool:
    """What `info["is_success"]` or, where that is absent, `info["success"]` says.

    Raises:
        ContractError: neither is there.
    """
    for key in SUCCESS_KEYS:
        if key in info:
            return bool(np.all(info[key]))
    raise ContractError(
        "env.step", f"info has none of {SUCCESS_KEYS}, only {sorted(info)}; say success=lambda info: ... of it"
    )


class GymWorld:
    """A `World` on a Gymnasium environment; its seeds, success test and end are its own.

    An action goes to `env.step` clipped to the embodiment's limits, in the data type of the action space. The end that
    the environment declares is the end of the episode: it is not reset by itself, and what Gymnasium leaves undefined,
    steps after the end, is not done: time goes on, and the picture stays.

    Args:
        env: the environment, or a function from a task to the environment that poses it; that is called once a task.
        embodiment: what the numbers mean; its rate is that of `env.step`.
        tasks: what may be asked.
        images: where in the observation the pictures of each camera are, uint8 `(height, width, 3)`.
        state: where in it the state is, in the order of the embodiment's parts.
        success: whether a step's `info` reports success.

    Raises:
        ContractError: what was declared is not what the environment has.
    """

    def __init__(
        self,
        env: Any,
        *,
        embodiment: Embodiment,
        tasks: Sequence[Task],
        images: Mapping[str, Reading],
        state: Sequence[Reading],
        success: Success = success_in_info,
    ) -> None:
        self._embodiment = embodiment
        self._tasks = {task.name: task for task in tasks}
        if not tasks or len(self._tasks) < len(tasks):
            raise ContractError("gym.tasks", f"expected tasks of distinct names, got {[task.name for task in tasks]}")
        cameras = [camera.name for camera in embodiment.cameras]
        if sorted(images) != sorted(cameras):
            raise ContractError("gym.images", f"{embodiment.name!r} has cameras {cameras}, got {list(images)}")
        self._images, self._state, self._success = dict(images), tuple(state), success
        if isinstance(env, type):
            raise ContractError("env", f"{env.__name__} is a class; give an instance, or a function from a task to one")
        is_env = hasattr(env, "step")
        if is_env:
            self._fits(env)
        self._make: Callable[[Task], Any] = (lambda _: env) if is_env else env
        self._envs: dict[str, Any] = {}
        self._task: Task | None = None
        self._outcome: Outcome | None = None
        self._tick = 0
        self._stopped = self._closed = False
        self._seen: tuple[Mapping[str, Frame], State] = ({}, np.zeros(embodiment.state.size, dtype=np.float32))

    @property
    def embodiment(self) -> Embodiment:
        return self._embodiment

    @property
    def tasks(self) -> Mapping[str, Task]:
        return self._tasks

    def reset(self, task: Task, *, seed: int) -> Observation:
        """Start where `env.reset(seed=seed)` does.

        Raises:
            UnknownNameError: no such task.
            ContractError: the observation is not what was declared, or the world is closed.
        """
        if task.name not in self._tasks:
            raise UnknownNameError(f"{self._embodiment.name}, task", task.name, self._tasks)
        if self._closed:
            raise ContractError(self._embodiment.name, "is closed; make a new world")
        if task.name not in self._envs:
            env = self._make(task)
            self._fits(env)
            self._envs[task.name] = env
        self._task, self._outcome, self._tick, self._stopped = task, None, 0, False
        observation, _ = self._running().reset(seed=seed)
        self._read(observation)
        return self.observe()

    def observe(self) -> Observation:
        self._running()
        images, state = self._seen
        time = self._tick * self._embodiment.period
        return Observation(images=dict(images), state=state.copy(), tick=self._tick, time=time)

    def apply(self, action: Action) -> Action:
        env = self._running()
        self._embodiment.action.check(action, "action")
        if action.ndim != 1:
            raise ContractError("action", f"expected one action of shape {self._shape}, got {action.shape}")
        sent = self._embodiment.action.clip(action)
        self._tick += 1
        if not self._stopped:
            command = sent.astype(env.action_space.dtype).reshape(env.action_space.shape)
            observation, _, terminated, truncated, info = env.step(command)
            self._stopped = bool(terminated or truncated)
            self._read(observation)
            if self._success(info):
                self._end(success=True, reason="task solved")
            elif self._stopped:
                self._end(success=False, reason="ended by the environment" if terminated else "time limit")
        if self._task and (self._tick + 1e-6) * self._embodiment.period >= self._task.time_limit:
            self._end(success=False, reason="time limit")
        return sent

    def outcome(self) -> Outcome | None:
        return self._outcome

    def close(self) -> None:
        envs = {id(env): env for env in self._envs.values()}
        self._envs.clear()
        self._task, self._closed = None, True
        for env in envs.values():
            env.close()

    def _running(self) -> Any:
        """The environment of the episode."""
        if self._task is None:
            raise ContractError(self._embodiment.name, "no episode is running; call reset(task, seed=...) first")
        return self._envs[self._task.name]

    @property
    def _shape(self) -> tuple[int]:
        return (self._embodiment.action.size,)

    def _fits(self, env: Any) -> None:
        if hasattr(env, "num_envs"):
            raise ContractError("env", f"{type(env).__name__} is a vector of environments; give one, env.envs[0]")
        shape = getattr(env.action_space, "shape", None)
        if shape is None or int(np.prod(shape)) != self._embodiment.action.size or env.action_space.dtype.kind != "f":
            raise ContractError(
                "env.action_space",
                f"{env.action_space} takes no {self._embodiment.action.size} real numbers; wrap it with "
                "gymnasium.wrappers.TransformAction",
            )

    def _read(self, observation: Any) -> None:
        images = {name: np.array(_look_up(observation, path)) for name, path in self._images.items()}
        parts = [np.asarray(_look_up(observation, path), dtype=np.float32).ravel() for path in self._state]
        state = np.concatenate(parts) if parts else np.zeros(0, dtype=np.float32)
        self._embodiment.check(Observation(images=images, state=state, tick=self._tick, time=0.0))
        self._seen = images, state

    def _end(self, *, success: bool, reason: str) -> None:
        if self._outcome is None:
            self._outcome = Outcome(success=success, reason=reason, time=self._tick * self._embodiment.period)


def _look_up(observation: Any, where: Reading) -> Any:
    if not isinstance(where, str):
        return where(observation)
    found = observation
    for key in where.split(".") if where else ():
        if not isinstance(found, Mapping) or key not in found:
            has = list(found) if isinstance(found, Mapping) else type(found).__name__
            raise ContractError("env.observation", f"has no {where!r}: at {key!r} there is {has}")
        found = found[key]
    return found
