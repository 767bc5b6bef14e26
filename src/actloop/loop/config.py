"""How an episode is to be run, and whether its parts fit together: checked once, before the first tick."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from actloop.contracts import Clock, Policy, Task, World
from actloop.errors import ContractError, UnknownNameError
from actloop.loop.budget import Budget
from actloop.loop.clock import VirtualClock
from actloop.loop.governor import Limits
from actloop.loop.inference import Charged, Inference, Live
from actloop.loop.joining import Join
from actloop.loop.ladder import Handover, LadderConfig
from actloop.loop.latency import LatencyProfile
from actloop.loop.layers import Actor
from actloop.loop.modules import PolicyModule
from actloop.loop.places import Here, InThread


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopConfig:
    """How the loop runs a policy.

    Attributes:
        execute_horizon: actions executed since the anchor of a chunk before the next one is asked for.
        run_on: actions that are executed instead while the checks say that reality agrees; 0 for no more.
        agree_below: the largest normalised score of a check with which reality agrees, for `run_on`; infinite for any
            that raises no alarm. 0 is the worst of a usual episode.
        imagine: ask for a future with each chunk.
        continue_plan: tell the policy what the robot is committed to, so that it continues that (real-time chunking).
        join: how a chunk takes over from the one before.
        max_age: seconds from its observation after which an action is not executed any more; infinite for no limit.
        answer_timeout: seconds after which a question is given up; an answer that comes later is dropped.
        limits: of the motion; None for none but the action space.
        stretch: the slowest pace at which the rest of a plan is followed while an answer is late; 1 for no slower.
        check_every: ticks between two looks of the check layer.
        ladder: what an alarm leads to.
        handover: what becomes of the robot where a person is called.
        budget: what thinking may cost.
        candidates: chunks to choose among, at most, where the ladder chooses.
        subtask_every: seconds between two questions to the semantic layer; 0 for only at the start and when the
            ladder asks.
        done_ends: end the episode, as a success, when the semantic layer says that the task is done.
        absorb: show a policy that takes them the frames between two questions, so that a question has less left to
            compute (`Absorbing`).
        observe_every: take an observation at least every so many ticks, for recorders; 0 for only when the loop
            itself needs one, which saves the rendering. It changes no command.
        strict: raise `InfeasibleError` where the latency cannot feed the robot without pauses, not only report it.
        warm_up: questions asked and thrown away before an episode on the wall clock: no tick meets a cold start.
    """

    execute_horizon: int = 8
    run_on: int = 0
    agree_below: float = math.inf
    imagine: bool = False
    continue_plan: bool = False
    join: Join = field(default_factory=Join)
    max_age: float = math.inf
    answer_timeout: float = math.inf
    limits: Limits | None = None
    stretch: float = 1.0
    check_every: int = 2
    ladder: LadderConfig = field(default_factory=LadderConfig)
    handover: Handover = field(default_factory=Handover)
    budget: Budget = field(default_factory=Budget)
    candidates: int = 8
    subtask_every: float = 0.0
    done_ends: bool = False
    absorb: bool = True
    observe_every: int = 1
    strict: bool = False
    warm_up: int = 1

    def __post_init__(self) -> None:
        for name, least in (
            ("execute_horizon", 1),
            ("check_every", 1),
            ("candidates", 1),
            ("run_on", 0),
            ("observe_every", 0),
            ("warm_up", 0),
        ):
            if getattr(self, name) < least:
                raise ContractError(f"loop.{name}", f"expected at least {least}, got {getattr(self, name)}")
        if 0 < self.run_on < self.execute_horizon:
            reason = f"expected 0, or at least the {self.execute_horizon} that are executed anyway, got {self.run_on}"
            raise ContractError("loop.run_on", reason)
        for name in ("max_age", "answer_timeout"):
            if not getattr(self, name) > 0:
                raise ContractError(f"loop.{name}", f"expected seconds above 0, got {getattr(self, name)}")
        if math.isnan(self.agree_below):
            raise ContractError("loop.agree_below", "expected a number, got NaN")
        if not self.subtask_every >= 0:
            raise ContractError("loop.subtask_every", f"expected seconds of at least 0, got {self.subtask_every}")
        if not 0 < self.stretch <= 1:
            raise ContractError("loop.stretch", f"expected above 0 and at most 1, got {self.stretch}")

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form, read back by `from_dict`; infinite numbers are null."""
        finite: dict[str, Any] = _finite({field.name: getattr(self, field.name) for field in fields(self)})
        if self.handover == Handover():  # logs of loops that call nobody stay as they were
            del finite["handover"]
        if self.absorb:
            del finite["absorb"]
        return finite

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "LoopConfig":
        """The configuration that `to_dict` wrote.

        Raises:
            ContractError: a field is unknown or of the wrong form.
        """
        try:
            values = dict(plain)
            for name in ("max_age", "answer_timeout", "agree_below"):
                values[name] = math.inf if values.get(name) is None else values[name]
            ladder, limits = values.pop("ladder", {}), values.pop("limits", None)
            budget = dict(values.pop("budget", {}))
            budget["total"] = math.inf if budget.get("total") is None else budget["total"]
            handover = dict(values.pop("handover", {}))
            handover["overdue"] = math.inf if handover.get("overdue") is None else handover["overdue"]
            return cls(
                join=Join(**values.pop("join", {})),
                ladder=LadderConfig(**{**ladder, "rungs": tuple(ladder.get("rungs", LadderConfig().rungs))}),
                handover=Handover(**handover),
                budget=Budget(**budget),
                limits=None if limits is None else Limits.from_dict(limits),
                **values,
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ContractError("loop", f"not a saved configuration ({type(error).__name__}: {error})") from error


def _finite(value: Any) -> Any:
    if isinstance(value, Limits):
        return value.to_dict()
    if isinstance(value, Join | LadderConfig | Budget | Handover):
        return {field.name: _finite(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(name): _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def derive_seed(seed: int, use: str) -> int:
    """A seed of 63 bits for one use of an episode's seed, the same on every machine."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{use}".encode()).digest()[:8], "big") >> 1


def check_fit(world: World, policy: Policy[Any] | Actor, task: Task, config: LoopConfig) -> None:
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
    policy: Policy[Any] | Actor,
    latency: LatencyProfile | None,
    clock: Clock | Literal["paused"] | None,
    inference: Inference | None,
) -> tuple[Clock, Inference, bool]:
    """The clock, what asks the policy, and whether that was made here and is to be closed.

    Raises:
        ContractError: a combination in which the tick would wait for the model, or time would have no meaning.
    """
    if isinstance(clock, str) and clock != "paused":
        raise UnknownNameError("clock", clock, ["paused"])
    ticks: Clock = VirtualClock() if clock is None or isinstance(clock, str) else clock
    virtual = isinstance(ticks, VirtualClock)
    if inference is not None:
        if latency is not None:
            raise ContractError("latency", "give it to the inference, or give no inference")
        check_timed(ticks, inference, paused=clock == "paused")
        return ticks, inference, False
    if not isinstance(policy, Policy):
        raise ContractError("policy", "where it runs elsewhere, say how it is reached: inference=...")
    if latency is not None and not virtual:
        raise ContractError("latency", "a declared latency needs the virtual clock; on the wall clock it is measured")
    if virtual:
        return ticks, Charged(Here(PolicyModule(policy)), latency, charged=clock != "paused"), True
    return ticks, Live(InThread(PolicyModule(policy)), ticks), True


def clock_name(clock: Clock, inference: Inference) -> str:
    """`virtual`, `wall` or `paused`."""
    if isinstance(inference, Charged) and not inference.charged:
        return "paused"
    return "virtual" if isinstance(clock, VirtualClock) else "wall"


def check_timed(clock: Clock, inference: Inference, *, paused: bool = False) -> None:
    """Raise where an inference and a clock contradict each other.

    Raises:
        ContractError: says which pair was meant.
    """
    virtual = isinstance(clock, VirtualClock)
    if paused and not (isinstance(inference, Charged) and not inference.charged):
        raise ContractError("clock", "'paused' needs Charged(place, charged=False), or no inference")
    if isinstance(inference, Charged) and inference.charged and not virtual:
        raise ContractError("inference", "a charged latency needs the virtual clock; on the wall clock use Live")
    if isinstance(inference, Live) and virtual:
        raise ContractError("inference", "Live needs the wall clock; on the virtual clock use Charged")
