"""A stack with its models loaded and its places running: episodes are run on it, one after the other.

open_stack --> OpenStack --run(task, seed)--> EpisodeResult
                `- per layer: a place, kept between episodes; charged on the virtual clock, live on the wall clock
"""

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from actloop.contracts import Clock, Embodiment, Observation, Task, World
from actloop.errors import ContractError, UnknownNameError
from actloop.loop.clock import WallClock
from actloop.loop.config import LoopConfig
from actloop.loop.episode import run_episode
from actloop.loop.events import Subscriber
from actloop.loop.inference import Charged, Inference, Live, NoAnswerError
from actloop.loop.latency import MEASURED, LatencyProfile, parse_latency
from actloop.loop.layers import WARM_UP_TIMEOUT
from actloop.loop.limits import Limits
from actloop.loop.questions import Layer, Place, Question, Ticket
from actloop.loop.result import EpisodeResult
from actloop.simulation.faults import Disturbed, parse_faults
from actloop.simulation.registry import find_task, make_world, tasks_of
from actloop.stack.bounded import Bounded, said
from actloop.stack.declared import ActionTable, Placement, Stack, read_stack
from actloop.stack.guarded import Guarded, LastSent, one_thread
from actloop.stack.placing import CLOCKS, ClockName, Opener
from actloop.stack.sources import Card, importable
from actloop.stack.tables import finite, named


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """One layer that is asked: where it runs, what its calls are charged, and what stands in for it."""

    place: Place
    placement: Placement
    profile: LatencyProfile | None
    fallback: "Placed | None" = None


class OpenStack:
    """Runs episodes; made by `open_stack`, ended by `close`; a context manager."""

    def __init__(
        self,
        stack: Stack,
        clock: ClockName,
        world: World,
        actor: Card,
        layers: Mapping[Layer, Placed],
        owned: ExitStack,
    ) -> None:
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

    def run(
        self,
        task: Task | str,
        *,
        seed: int,
        world: World | None = None,
        config: LoopConfig | None = None,
        subscribers: Sequence[Subscriber] = (),
        episode: int = 0,
    ) -> EpisodeResult:
        """Run one episode; on the wall clock the robot is told to hold at its end.

        Args:
            task: one of the world's.
            seed: of the world; those of the layers follow from it.
            world: in place of the one that the stack was opened with; of the same body.
            config: in place of the file's; give `replace(opened.loop, ...)`.
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
        layers: dict[Layer, Placed] = {}
        for layer, table in stack.layers.items():
            if layer in stack.offline:
                continue
            found = opener.place(layer, table)
            owned.callback(found.close)
            fallback = None
            if isinstance(table, ActionTable) and table.fallback is not None:
                second = opener.place(layer, table.fallback)
                owned.callback(second.close)
                fallback = Placed(
                    place=second, placement=table.fallback.place, profile=opener.profile(layer, table.fallback)
                )
            layers[layer] = Placed(
                place=found, placement=table.place, profile=opener.profile(layer, table), fallback=fallback
            )
        return OpenStack(stack, clock, world, opener.actor, layers, owned.pop_all())


def world_of(stack: Stack) -> World:
    """The world of a stack file, with its faults.

    Raises:
        UnknownNameError, ContractError, MissingDependency: it cannot be made like that.
    """
    table, options = stack.world, dict(stack.world.options)
    with named(stack.at("world")):
        if table.robot:
            from actloop.simulation.robot import robot_from_toml

            return robot_from_toml(table.robot)
        if table.real and "spec" in options:
            options["spec"] = stack.path.parent / str(options["spec"])
        world = make_world(table.name, **options)
        return Disturbed(world, parse_faults(table.faults)) if table.faults else world


def limits_of(stack: Stack, embodiment: Embodiment) -> Limits | None:
    """The limits of a stack file, for a body; None where it has none.

    Raises:
        UnknownNameError: the body has no such action part.
        ContractError: a limit is out of range.
    """
    if not stack.limits:
        return None
    with named(stack.at("loop")):
        return Limits.of(embodiment, **{kind: dict(bounds) for kind, bounds in stack.limits.items()})


def describe_stack(stack: Stack) -> dict[str, Any]:
    """What a stack is, JSON-ready, with digests of its files: it changes with everything that changes a decision."""
    plain = stack.to_dict()
    digests = {}
    for layer, table in stack.layers.items():
        for key, source in sources_in(table).items():
            digests[f"{layer}.{key}"] = source
    return plain | {"digests": finite(digests)}


def sources_in(table: object) -> dict[str, str]:
    """Digests of the files that a layer names."""
    from actloop.stack.sources import Source, digest_of

    found = {}
    for key in ("model", "imagines", "score", "verifier", "value", "calibration"):
        value = getattr(table, key, None)
        if isinstance(value, Source):
            found[key] = value.digest or value.target
        elif isinstance(value, Path):
            found[key] = digest_of(value)
    return found


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
