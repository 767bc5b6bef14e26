"""How an episode is to be run, and whether its parts fit together: checked once, before the first tick."""

import hashlib
from dataclasses import dataclass
from typing import Any, Literal

from actloop.contracts import Clock, Policy, Task, World
from actloop.errors import ContractError, UnknownNameError
from actloop.loop.clock import VirtualClock
from actloop.loop.inference import Inference, InlineInference, ThreadedInference
from actloop.loop.latency import LatencyProfile


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopConfig:
    """How the loop runs a policy.

    Attributes:
        execute_horizon: actions executed since the anchor of a chunk before the next one is asked for.
        imagine: ask for a future with each chunk.
        correction_ticks: actions over which a late chunk of deltas makes up for what the old one moved; 0 for never.
        observe_every: take an observation at least every so many ticks, for recorders; 0 for only when the loop
            itself needs one, which saves the rendering. It changes no command.
        strict: raise `InfeasibleError` where the latency cannot feed the robot without pauses, not only report it.
    """

    execute_horizon: int = 8
    imagine: bool = False
    correction_ticks: int = 4
    observe_every: int = 1
    strict: bool = False

    def __post_init__(self) -> None:
        for name, least in (("execute_horizon", 1), ("correction_ticks", 0), ("observe_every", 0)):
            if getattr(self, name) < least:
                raise ContractError(f"loop.{name}", f"expected at least {least}, got {getattr(self, name)}")


def derive_seed(seed: int, use: str) -> int:
    """A seed of 63 bits for one use of an episode's seed, the same on every machine."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{use}".encode()).digest()[:8], "big") >> 1


def check_fit(world: World, policy: Policy[Any], task: Task, config: LoopConfig) -> None:
    """Raise where a policy was made for another body, or is asked for more than its chunks hold.

    Raises:
        ContractError: says what differs.
        UnknownNameError: the world has no such task.
    """
    body, known = world.embodiment, policy.embodiment
    if task.name not in world.tasks:
        raise UnknownNameError(f"{body.name}, task", task.name, world.tasks)
    for name in ("action", "state", "control_hz"):
        if getattr(body, name) != getattr(known, name):
            raise ContractError(f"policy.embodiment.{name}", f"made for {known.name!r}, not for {body.name!r}")
    missing = [camera for camera in known.cameras if camera not in body.cameras]
    if missing:
        raise ContractError("policy.embodiment.cameras", f"{body.name!r} has no {missing[0]}")
    if config.execute_horizon > policy.horizon:
        reason = f"{config.execute_horizon} actions to execute, but a chunk of this policy has {policy.horizon}"
        raise ContractError("loop.execute_horizon", reason)
    if not task.time_limit > 0:
        raise ContractError(f"task.{task.name}.time_limit", f"expected seconds above 0, got {task.time_limit}")


def place(
    policy: Policy[Any],
    latency: LatencyProfile | None,
    clock: Clock | Literal["paused"] | None,
    inference: Inference | None,
) -> tuple[Clock, Inference, bool]:
    """The clock, where the model runs, and whether that was made here and is to be closed.

    Raises:
        ContractError: a combination in which the tick would wait for the model, or time would have no meaning.
    """
    if isinstance(clock, str) and clock != "paused":
        raise UnknownNameError("clock", clock, ["paused"])
    ticks: Clock = VirtualClock() if clock is None or isinstance(clock, str) else clock
    virtual = isinstance(ticks, VirtualClock)
    if inference is not None:
        _check_placed(ticks, clock == "paused", latency, inference)
        return ticks, inference, False
    if latency is not None and not virtual:
        raise ContractError("latency", "a declared latency needs the virtual clock; on the wall clock it is measured")
    if virtual:
        return ticks, InlineInference(policy, latency, charged=clock != "paused"), True
    return ticks, ThreadedInference(policy, ticks), True


def clock_name(clock: Clock, inference: Inference) -> str:
    """`virtual`, `wall` or `paused`."""
    if isinstance(inference, InlineInference) and not inference.charged:
        return "paused"
    return "virtual" if isinstance(clock, VirtualClock) else "wall"


def _check_placed(clock: Clock, paused: bool, latency: LatencyProfile | None, inference: Inference) -> None:
    virtual = isinstance(clock, VirtualClock)
    if latency is not None:
        raise ContractError("latency", "give it to the inference, or give no inference")
    if paused and not (isinstance(inference, InlineInference) and not inference.charged):
        raise ContractError("clock", "'paused' needs InlineInference(policy, charged=False), or no inference")
    if isinstance(inference, InlineInference) and inference.charged and not virtual:
        raise ContractError("inference", "inline on the wall clock, every tick would wait for the model: use a thread")
    if isinstance(inference, ThreadedInference) and virtual:
        raise ContractError("inference", "a thread needs the wall clock; on the virtual clock use InlineInference")
