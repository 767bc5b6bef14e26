"""A stack with its models loaded and its places running: episodes are run on it, one after the other.

open_stack --> OpenStack --run(task, seed)--> EpisodeResult
                `- per layer: a place, kept between episodes; charged on the virtual clock, live on the wall clock
"""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path

from actloop.contracts import Action, Clock, Embodiment, Observation, Task, World
from actloop.errors import ContractError, UnknownNameError
from actloop.loop.clock import WallClock
from actloop.loop.config import LoopConfig
from actloop.loop.episode import run_episode
from actloop.loop.events import Subscriber
from actloop.loop.inference import Charged, Inference, Live, NoAnswerError
from actloop.loop.latency import MEASURED, LatencyProfile, parse_latency
from actloop.loop.layers import WARM_UP_TIMEOUT
from actloop.loop.questions import Layer, Question, Ticket
from actloop.loop.result import EpisodeResult
from actloop.simulation.registry import find_task, tasks_of
from actloop.stack.bounded import Bounded, said
from actloop.stack.building import checker_of
from actloop.stack.declared import Stack
from actloop.stack.describing import limits_of, world_of
from actloop.stack.guarded import Guarded, LastSent, one_thread
from actloop.stack.placing import CLOCKS, ClockName, Opener, Placed
from actloop.stack.reader import read_stack
from actloop.stack.sources import importable
from actloop.stack.tables import named


class OpenStack:
    """Runs episodes; made by `open_stack`, ended by `close`; a context manager."""

    def __init__(
        self,
        stack: Stack,
        clock: ClockName,
        world: World,
        layers: Mapping[Layer, Placed],
        opener: Opener,
        owned: ExitStack,
    ) -> None:
        self._opener = opener
        actor = layers["action"].card
        assert actor is not None, "a policy that is asked was read, or told by its server"
        self.stack, self.clock, self.world, self.actor = stack, clock, world, actor
        self.loop = replace(stack.loop, limits=limits_of(stack, world.embodiment))
        self._layers = dict(layers)
        self._owned = owned
        self._guard: Guarded | None = None

    @property
    def embodiment(self) -> Embodiment:
        """Of the policy."""
        return self.actor.embodiment

    @property
    def horizon(self) -> int:
        """Actions in a chunk."""
        return self.actor.horizon

    @property
    def places(self) -> dict[Layer, str]:
        """Where each layer that is asked runs."""
        return {layer: found.place.name for layer, found in self._layers.items()}

    @property
    def tasks(self) -> list[Task]:
        """Those that the file names, of its world."""
        with named(self.stack.at("world.task")):
            return tasks_of(self.world, self.stack.world.tasks)

    @property
    def calibration_identity(self) -> dict[str, str]:
        """What a calibration of this stack's checks holds for, the checks included where there are any.

        Raises:
            CheckpointError, ContractError: the checks cannot be built here, where their layer is on a server.
        """
        checks = {}
        if self.stack.check is not None:
            checks = checker_of(self._opener.plan("check", self.stack.check)).identity
        return self._opener.identity() | checks

    def run(
        self,
        task: Task | str,
        *,
        seed: int,
        world: World | None = None,
        config: LoopConfig | None = None,
        rescuer: Callable[[], Action] | None = None,
        stall: Callable[[int], float] | None = None,
        subscribers: Sequence[Subscriber] = (),
        episode: int = 0,
    ) -> EpisodeResult:
        """Run one episode; on the wall clock the robot is told to hold at its end.

        Args:
            task: one of the world's.
            seed: of the world; those of the layers follow from it.
            world: in place of the one that the stack was opened with; of the same body.
            config: in place of the file's; give `replace(opened.loop, ...)`.
            rescuer: what a person who was called would send now.
            stall: seconds by which the answer to a question of that tick for a plan is late besides.
            subscribers: told every event, in order.
            episode: the number that events carry.

        Raises:
            ContractError, UnknownNameError, InfeasibleError, MissingDependency: as `run_episode`.
        """
        world = world or self.world
        clock = WallClock() if self.clock == "wall" else None
        asked = {layer: self._inference(layer, found, clock) for layer, found in self._layers.items()}
        self._guard, last = Guarded(world), LastSent()
        try:
            with nullcontext() if clock else one_thread():
                result = run_episode(
                    self._guard,
                    self.actor,
                    find_task(world, task) if isinstance(task, str) else task,
                    seed=seed,
                    clock="paused" if self.clock == "paused" else clock,
                    config=config or self.loop,
                    inference=asked["action"],
                    layers={layer: inference for layer, inference in asked.items() if layer != "action"},
                    rescuer=rescuer,
                    stall=stall,
                    subscribers=(*subscribers, last),
                    episode=episode,
                )
        finally:
            self._guard = None
            unheld = last.hold(world) if clock and self.stack.world.real else ""
        return _with_limits(result, asked, unheld)

    def stop(self, reason: str) -> None:
        """End the running episode at the end of its tick; from any thread, or from a signal handler."""
        if self._guard is not None:
            self._guard.stop(reason)

    def measure(
        self, observation: Observation, instruction: str, *, calls: int = 20, warm_up: int = 3
    ) -> LatencyProfile:
        """Time the action layer where it runs: seconds of computing, without transport.

        Raises:
            NoAnswerError: it does not answer.
            Exception: what the policy raised.
        """
        place, seconds = self._layers["action"].place, []
        with one_thread():
            place.start(instruction, seed=0)
            for call in range(warm_up + calls):
                ticket = Ticket(episode=-1, plan=call, tick=observation.tick)
                place.submit(Question(ticket=ticket, observation=observation, instruction=instruction))
                results = place.collect(WARM_UP_TIMEOUT)
                if not results:
                    raise NoAnswerError(f"no answer from {place.name} within {WARM_UP_TIMEOUT:g} s")
                if results[0].error is not None:
                    raise results[0].error
                seconds.append(results[0].seconds)
        source = f"{calls} calls after {warm_up} to warm up, {place.name}"
        return LatencyProfile(name=MEASURED, seconds=tuple(seconds[warm_up:]), source=source)

    def close(self) -> None:
        """End every place, and the world where it was made here."""
        self._owned.close()

    def __enter__(self) -> "OpenStack":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _inference(self, layer: Layer, found: Placed, clock: Clock | None) -> Inference:
        if clock is not None:
            first: Inference = Live(found.place, clock)
        elif self.clock == "paused":  # nothing is late while the world waits
            return Charged(found.place, layer=layer, charged=False)
        else:
            first = Charged(found.place, found.profile, layer=layer)
        if math.isinf(found.placement.timeout) and found.fallback is None:
            return first
        second = None if found.fallback is None else self._inference(layer, found.fallback, clock)
        return Bounded(first, after=found.placement.timeout, second=second)


def open_stack(
    stack: Stack | str | Path,
    *,
    clock: ClockName = "virtual",
    world: World | None = None,
    place: str | None = None,
    latency: LatencyProfile | str | None = None,
    calibration: Path | None = None,
) -> OpenStack:
    """Load the models of a stack and start its places.

    Args:
        stack: or its file.
        clock: that episodes will run on: `virtual`, `wall`, or `paused` (the world waits for the models).
        world: to run on, closed by the caller; where None, the one that the file names, with its faults.
        place: for every layer that is not on a server, in place of the file's.
        latency: of the action layer on the virtual clock, in place of the file's.
        calibration: of the checks, in place of the file's.

    Raises:
        DataError, UnknownNameError, ContractError: the file, see `read_stack`; or its parts do not fit together.
        CheckpointError: weights are missing, damaged, or for another robot.
        MissingDependency: something is not installed.
        ConnectionLost: a server cannot be reached.
    """
    if clock not in CLOCKS:
        raise UnknownNameError("clock", clock, CLOCKS)
    stack = stack if isinstance(stack, Stack) else read_stack(stack)
    if stack.check is not None and calibration is not None:
        stack = replace(stack, check=replace(stack.check, calibration=calibration))
    if stack.world.real and clock != "wall":
        raise ContractError(stack.at("world"), f"a robot does not wait for a {clock} clock: use the wall clock")
    importable(stack.path.parent.absolute())
    with ExitStack() as owned:
        if world is None:
            world = world_of(stack)
            owned.callback(world.close)
        limits_of(stack, world.embodiment)
        opener = Opener(stack, clock, world, place=place, latency=_profile(latency))
        layers = opener.open(owned)
        return OpenStack(stack, clock, world, layers, opener, owned.pop_all())


def _profile(latency: LatencyProfile | str | None) -> LatencyProfile | str | None:
    return parse_latency(latency) if isinstance(latency, str) else latency


def _with_limits(result: EpisodeResult, asked: Mapping[Layer, Inference], unheld: str) -> EpisodeResult:
    """The result, with what the time limits of the layers have to say."""
    late, warnings = dict(result.timed_out), result.warnings
    for layer, inference in asked.items():
        if isinstance(inference, Bounded):
            if inference.timed_out:
                late[layer] = late.get(layer, 0) + inference.timed_out
            warnings += tuple(f"{layer}: {text}" for text in said(inference.reasons))
    return replace(result, timed_out=late, warnings=warnings + ((unheld,) if unheld else ()))
