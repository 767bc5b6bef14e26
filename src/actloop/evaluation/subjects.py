"""What an arm runs: a policy by itself, or a stack file with all its layers; both meet the same episodes.

source --open_subject--> Subject --run(Trial)--> EpisodeResult
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from actloop.checks.conformal import TooFewEpisodes
from actloop.contracts import Action, Embodiment, Observation, Policy, Task, World
from actloop.errors import ContractError
from actloop.evaluation.batching import AtDesk, Link, unbatchable
from actloop.evaluation.conditions import ClockKind
from actloop.loop.config import LoopConfig
from actloop.loop.episode import run_episode
from actloop.loop.events import Subscriber
from actloop.loop.inference import Charged, Inference
from actloop.loop.latency import LatencyProfile, measure
from actloop.loop.layers import Actor
from actloop.loop.result import EpisodeResult
from actloop.stack.calibrating import Calibrated, calibrate_stack
from actloop.stack.declared import Stack
from actloop.stack.describing import describe_stack
from actloop.stack.guarded import one_thread
from actloop.stack.opened import OpenStack, open_stack
from actloop.stack.reader import read_stack
from actloop.stack.sources import open_policy, source_of, variant_of

STACK = ".toml"
CALIBRATION_SEED = 1_000_000  # of the first calibrating episode: nobody compares on those


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One episode, as it is asked of any arm: fields as in `run_episode`; `latency` is of the arm's action layer."""

    world: World
    task: Task
    seed: int
    latency: LatencyProfile
    loop: LoopConfig
    rescuer: Callable[[], Action] | None = None
    stall: Callable[[int], float] | None = None
    subscribers: Sequence[Subscriber] = ()


class Running(Protocol):
    """What runs the episodes of one arm under one condition."""

    def run(self, trial: Trial) -> EpisodeResult: ...

    def close(self) -> None: ...


@runtime_checkable
class Subject(Running, Protocol):
    """One arm, opened in this process for one condition."""

    @property
    def embodiment(self) -> Embodiment: ...

    @property
    def horizon(self) -> int: ...

    @property
    def calls(self) -> bool:
        """Whether it may ask for a human by itself."""
        ...

    def describe(self) -> dict[str, Any]:
        """What it is, for the report and to tell whether a run may be continued."""
        ...

    def understands(self, task: Task) -> None:
        """Raise where it does not take a task's instruction."""
        ...

    def measure(self, observation: Observation, task: Task) -> LatencyProfile:
        """Its action layer's calls, timed on this machine."""
        ...

    def rowwise(self, size: int, world: World, tasks: Sequence[Task], *, seed: int) -> str:
        """Why it does not answer in batches of `size`; empty where it can."""
        ...


class PolicySubject:
    """A policy in the plain loop."""

    def __init__(self, policy: Policy[Any], clock: ClockKind) -> None:
        self._policy, self._clock = policy, clock

    @property
    def embodiment(self) -> Embodiment:
        return self._policy.embodiment

    @property
    def horizon(self) -> int:
        return self._policy.horizon

    @property
    def calls(self) -> bool:
        return False

    def describe(self) -> dict[str, Any]:
        describe = getattr(self._policy, "describe", None)
        return dict(describe()) if callable(describe) else {}

    def understands(self, task: Task) -> None:
        self._policy.start(task.instruction, seed=0)

    def measure(self, observation: Observation, task: Task) -> LatencyProfile:
        with one_thread():
            return measure(self._policy, observation, instruction=task.instruction)

    def rowwise(self, size: int, world: World, tasks: Sequence[Task], *, seed: int) -> str:
        with one_thread():
            return unbatchable(self._policy, size, world, tasks, seed=seed)

    def run(self, trial: Trial) -> EpisodeResult:
        with one_thread():
            return _plain(trial, self._policy, self._clock, latency=trial.latency)

    def close(self) -> None:
        """Nothing is held."""


class DeskSubject:
    """A policy that answers at a desk, perhaps in another process; the episode runs here."""

    def __init__(self, link: Link, embodiment: Embodiment, horizon: int, clock: ClockKind) -> None:
        self._place, self._clock = AtDesk(link), clock
        self.embodiment, self.horizon = embodiment, horizon

    def run(self, trial: Trial) -> EpisodeResult:
        charged = Charged(self._place, trial.latency, charged=self._clock != "paused")
        return _plain(trial, self, self._clock, inference=charged)

    def close(self) -> None:
        """Nothing is held."""


class StackSubject:
    """A stack file. Its own loop settings stand; the condition's latency is that of its action layer."""

    def __init__(self, opened: OpenStack) -> None:
        self._opened = opened

    @property
    def embodiment(self) -> Embodiment:
        return self._opened.embodiment

    @property
    def horizon(self) -> int:
        return self._opened.horizon

    @property
    def calls(self) -> bool:
        loop = self._opened.loop
        return "human" in loop.ladder.rungs or loop.limits is not None

    def describe(self) -> dict[str, Any]:
        stack = self._opened.stack
        return variant_of(stack.action.model) | stack_identity(stack)

    def understands(self, task: Task) -> None:
        """A policy that does not take it says so in its first episode: its layer may run anywhere."""

    def measure(self, observation: Observation, task: Task) -> LatencyProfile:
        return self._opened.measure(observation, task.instruction)

    def rowwise(self, size: int, world: World, tasks: Sequence[Task], *, seed: int) -> str:
        return "a stack runs its layers beside its world"

    def run(self, trial: Trial) -> EpisodeResult:
        own, loop = self._opened.loop, trial.loop
        config = replace(
            own, imagine=own.imagine or loop.imagine, observe_every=loop.observe_every, handover=loop.handover
        )
        return self._opened.run(
            trial.task,
            seed=trial.seed,
            world=trial.world,
            config=config,
            rescuer=trial.rescuer,
            stall=trial.stall,
            subscribers=trial.subscribers,
        )

    def close(self) -> None:
        self._opened.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Where the arms of a comparison act: the world's name and options, and the clock."""

    world: str
    options: Mapping[str, object]
    clock: ClockKind

    def stack(self, source: str) -> Stack:
        """The stack of a file, in this world in place of its own, undisturbed.

        Raises:
            DataError, ContractError: as `read_stack`; or it is for a real robot.
        """
        stack = read_stack(source)
        if stack.world.real:
            raise ContractError(f"arm {source}", "is for a robot; a comparison runs in a simulated world")
        own = replace(stack.world, name=self.world, options=dict(self.options), tasks=(), faults=())
        return replace(stack, world=own)


def open_subject(
    source: str,
    setting: Setting,
    world: World,
    *,
    latency: LatencyProfile | None = None,
    calibration: Path | None = None,
) -> Subject:
    """What a source names.

    Args:
        source: a stack file, a checkpoint, or `module:function`.
        setting: of the comparison.
        world: that it will act in; made as the setting says.
        latency: of a stack's action layer; None for the file's.
        calibration: of a stack's checks; None for the file's, or for checks that raise no alarm.

    Raises:
        ActloopError: as `open_policy` and `open_stack`.
    """
    if not source.endswith(STACK):
        return PolicySubject(policy_of(source), setting.clock)
    stack = setting.stack(source)
    return StackSubject(open_stack(stack, clock=setting.clock, world=world, latency=latency, calibration=calibration))


def stack_identity(stack: Stack) -> dict[str, Any]:
    """A stack as the report knows it: its layers say where prediction lives; with digests of all its files."""
    described = describe_stack(stack)
    asked = [layer for layer in stack.layers if layer not in stack.offline]
    return {"stack": described, "digest": _digest(described), "layers": asked}


def source_identity(source: str) -> dict[str, Any]:
    """What a source is, without a world."""
    if source.endswith(STACK):
        return stack_identity(read_stack(source))
    return PolicySubject(policy_of(source), "virtual").describe()


def policy_of(source: str) -> Policy[Any]:
    """The policy that a source names, which is no stack.

    Raises:
        ActloopError: as `open_policy`.
    """
    return open_policy(source_of(source, folder=Path(), path="arm"))


def needs_calibration(source: str) -> bool:
    """Whether it is a stack whose checks are asked and have no calibration of their own."""
    if not source.endswith(STACK):
        return False
    stack = read_stack(source)
    return stack.check is not None and "check" not in stack.offline and stack.check.calibration is None


def calibrate_source(
    source: str, setting: Setting, tasks: Sequence[Task], *, alpha: float, episodes: int, latency: LatencyProfile
) -> Calibrated:
    """A calibration of a stack's checks under one condition, from `episodes` of each task on seeds of their own.

    Raises:
        ContractError: too few episodes succeeded for the rate.
    """
    try:
        return calibrate_stack(
            setting.stack(source),
            alpha=alpha,
            episodes=episodes,
            seed=CALIBRATION_SEED,
            tasks=[task.name for task in tasks],
            clock=setting.clock,
            latency=latency,
        )
    except TooFewEpisodes as error:
        reason = f"its checks cannot be calibrated for {latency.name}: {error}; ask for more calibration episodes"
        raise ContractError(f"arm {source}", reason) from error


def _plain(
    trial: Trial,
    policy: Policy[Any] | Actor,
    clock: ClockKind,
    *,
    latency: LatencyProfile | None = None,
    inference: Inference | None = None,
) -> EpisodeResult:
    """A policy in the plain loop: called here, at a latency, or asked elsewhere through an inference.

    One that plans fewer actions than are to be executed of a chunk executes all that it has.
    """
    loop = replace(trial.loop, execute_horizon=min(trial.loop.execute_horizon, policy.horizon))
    return run_episode(
        trial.world,
        policy,
        trial.task,
        seed=trial.seed,
        latency=latency,
        config=loop,
        clock="paused" if clock == "paused" else None,
        inference=inference,
        rescuer=trial.rescuer,
        stall=trial.stall,
        subscribers=trial.subscribers,
    )


def _digest(plain: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(plain, sort_keys=True, default=str).encode()).hexdigest()[:16]
