"""A world that wraps a world and makes faults happen in it.

    command --actuator faults--> world --> observation --camera and state faults--> what the robot senses
                                   ^-- disturb(name): moved objects, lost grasps, pushes

Until the first onset everything is bit-identical to the wrapped world with the same task and seed, the undisturbed
twin.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol, runtime_checkable
from zlib import crc32

import numpy as np

from actloop.contracts import (
    Action,
    Demonstrator,
    Disturbable,
    DisturbableByName,
    Embodiment,
    ForceSensing,
    Observation,
    Outcome,
    Space,
    Task,
    World,
)
from actloop.errors import ContractError, UnknownNameError
from actloop.simulation.faults.effects import KINDS, Moment
from actloop.simulation.faults.plan import HALF_WAY, Fault, Incident


@runtime_checkable
class Eventful(Protocol):
    """A world that tells, from what no robot can sense, what is so in its scene now; for evaluation alone."""

    @property
    def events(self) -> tuple[str, ...]:
        """The names that `happened` may hold."""
        ...

    def happened(self) -> frozenset[str]: ...


class Disturbed:
    """A `World` in which the faults happen, each once an episode; `incidents` says what became of them.

    It is a `Demonstrator`, `Disturbable`, `Eventful` or `ForceSensing` where the wrapped world is. A fault of a camera
    or the state begins with the observation of its tick, one of the actuators with the command sent in that tick, and a
    disturbance has happened before the observation of its tick is taken. Nothing begins after the outcome. "half-way"
    is half the ticks that the world's expert needs from the same start undisturbed: the same tick for every policy.
    What is late in answering is not of the world: `stall` tells it to whoever asks the model.

    Observations keep their tick and time, also where they repeat an older one: the driver does not notice. Nor does it
    notice what an actuator does: `apply` returns the command as the wrapped world would have sent it without the fault.

    Raises:
        UnknownNameError: a fault names a camera, part, disturbance or event that the world does not have.
        ContractError: the world cannot disturb itself, or has no expert to tell what is half-way.
    """

    demonstrate: Callable[[], Action]
    disturbances: tuple[str, ...]
    disturb: Callable[..., None]
    events: tuple[str, ...]
    happened: Callable[[], frozenset[str]]
    contact_force: Callable[[], float]

    def __init__(self, world: World, faults: Sequence[Fault]) -> None:
        for fault in faults:
            _check_fits(world, fault)
        self.world = world
        self.faults = tuple(faults)
        self._planned: list[_Planned] = []
        self._tick = 0
        # Optional protocols are recognised by what an instance has: it may not have more than the wrapped world.
        if isinstance(world, Demonstrator):
            self.demonstrate = world.demonstrate
        if isinstance(world, Disturbable):
            self.disturbances, self.disturb = world.disturbances, world.disturb
        if isinstance(world, Eventful):
            self.events, self.happened = world.events, world.happened
        if isinstance(world, ForceSensing):
            self.contact_force = world.contact_force

    @property
    def embodiment(self) -> Embodiment:
        return self.world.embodiment

    @property
    def tasks(self) -> Mapping[str, Task]:
        return self.world.tasks

    @property
    def incidents(self) -> tuple[Incident, ...]:
        """One for each fault, in their order, of the present or last episode; none before the first."""
        return tuple(one.incident(self._tick) for one in self._planned)

    def reset(self, task: Task, *, seed: int) -> Observation:
        half_way = None
        if any(fault.at == HALF_WAY for fault in self.faults):
            half_way = _expert_ticks(self.world, task, seed) // 2
        self.world.reset(task, seed=seed)
        self._tick = 0
        self._planned = [_Planned(fault, (number, seed), half_way) for number, fault in enumerate(self.faults)]
        self._keep(0)
        self._begin()
        return self.observe()

    def observe(self) -> Observation:
        obs = self.world.observe()
        for one in self._planned:
            obs = one.distort(obs, self.embodiment, self._tick)
        return obs

    def apply(self, action: Action) -> Action:
        self._keep(self._tick + 1)
        active = [one for one in self._planned if one.on == "action" and one.lasts(self._tick)]
        sent = self._bend(action, active) if active else self.world.apply(action)
        self._tick += 1
        self._begin()
        return sent

    def stall(self, tick: int) -> float:
        """Seconds that the answer to a question of that tick, not later than the present one, is late besides."""
        return float(sum(one.strength for one in self._planned if one.on == "inference" and one.lasts(tick)))

    def outcome(self) -> Outcome | None:
        return self.world.outcome()

    def close(self) -> None:
        self.world.close()

    def _keep(self, tick: int) -> None:
        """Keep what faults will repeat from `tick` on: what reaches them now, through those before them."""
        if not any(one.remembers(tick) for one in self._planned):
            return
        obs = self.world.observe()
        for one in self._planned:
            if one.remembers(tick):
                one.keep(obs)
            obs = one.distort(obs, self.embodiment, self._tick)

    def _bend(self, action: Action, active: "Sequence[_Planned]") -> Action:
        """Send the command with the actuators' errors; returns what the driver believes to have sent."""
        space = self.embodiment.action
        space.check(action, "action")
        if action.ndim != 1:
            raise ContractError("action", f"expected one action of shape ({space.size},), got {action.shape}")
        bent = action
        for one in active:
            bent = one.change_parts(bent, bent, space, self._tick)
        held_back = self.world.apply(bent) - space.clip(bent)  # by what the world limits besides its space
        return space.clip(space.clip(action) + held_back)

    def _begin(self) -> None:
        """Begin what is due in this tick."""
        if self.world.outcome() is not None:
            return
        is_waiting = any(one.due is None for one in self._planned)
        now = self.world.happened() if is_waiting and isinstance(self.world, Eventful) else frozenset()
        for one in self._planned:
            if one.due is None and one.fault.at in now:
                one.due = self._tick
            if one.due is not None and one.may_begin(self._tick) and (one.on != "world" or self._disturb(one)):
                one.onset = self._tick

    def _disturb(self, one: "_Planned") -> bool:
        """Whether it happened; otherwise it did not fit the moment, and nothing was changed."""
        assert isinstance(self.world, Disturbable)
        try:
            self.world.disturb(one.fault.kind, seed=one.seed)
        except UnknownNameError:
            raise
        except ContractError:
            return False
        return True


class _Planned:
    """One fault in one episode."""

    def __init__(self, fault: Fault, chance: tuple[int, int], half_way: int | None) -> None:
        self.fault, self._kind = fault, KINDS[fault.kind]
        self.on = self._kind.on
        self.strength = fault.strength or self._kind.strength or 0.0
        self._chance = (*chance, crc32(fault.kind.encode()))
        rng = np.random.default_rng(self._chance)
        self.seed = int(rng.integers(2**31))
        self.due: int | None = half_way if fault.at == HALF_WAY else None
        if isinstance(fault.at, tuple):
            self.due = int(rng.integers(fault.at[0], fault.at[1] + 1))
        elif isinstance(fault.at, int):
            self.due = fault.at
        self.onset: int | None = None
        self._kept: dict[int, Observation] = {}  # by tick, as many as the effect looks back

    def remembers(self, tick: int) -> bool:
        """Whether what reaches it before `tick` may be wanted later."""
        if self._kind.late:
            return self.due is None or tick > self.due - self.strength
        return self._kind.repeats and self.may_begin(tick)

    def keep(self, obs: Observation) -> None:
        """Remember an observation, and forget those that are too old."""
        oldest = obs.tick - self.strength if self._kind.late else obs.tick
        self._kept = {tick: kept for tick, kept in self._kept.items() if tick >= oldest} | {obs.tick: obs}

    def _before(self, obs: Observation, tick: int) -> Observation:
        """What it repeats in `tick`; the oldest that is remembered, where that is not old enough."""
        wanted = tick - self.strength if self._kind.late else math.inf
        past = [kept for at, kept in self._kept.items() if at <= wanted]
        return past[-1] if past else next(iter(self._kept.values()), obs)

    def may_begin(self, tick: int) -> bool:
        if self.onset is not None:
            return False
        return self.due is None or self.due <= tick <= self.due + self.fault.patience

    def lasts(self, tick: int) -> bool:
        if self.onset is None or self.on == "world" or tick < self.onset:
            return False
        return self.fault.duration is None or tick < self.onset + self.fault.duration

    def incident(self, tick: int) -> Incident:
        end = None
        if self.onset is not None and not self.lasts(tick):
            end = self.onset + (self.fault.duration or 0)
        return Incident(fault=self.fault.text, kind=self.fault.kind, due=self.due, onset=self.onset, end=end)

    def distort(self, obs: Observation, body: Embodiment, tick: int) -> Observation:
        """What is sensed through this fault."""
        if self.on not in ("camera", "state", "observation") or not self.lasts(tick):
            return obs
        before = self._before(obs, tick)
        images, state = dict(obs.images), obs.state
        for camera in body.cameras:
            if self.on != "state" and self.fault.target in ("", camera.name):
                moment = self._moment(before.images[camera.name], np.zeros(0), tick)
                images[camera.name] = self._effect(images[camera.name], moment)
        if self.on != "camera":
            state = self.change_parts(state, before.state, body.state, tick)
        return replace(obs, images=images, state=state)

    def change_parts(self, vector: np.ndarray, before: np.ndarray, space: Space, tick: int) -> np.ndarray:
        """The vector with the effect on the part that is the target, or on all of it."""
        where = space.slice(self.fault.target) if self.fault.target else slice(None)
        moment = self._moment(before[where], (space.high - space.low)[where], tick)
        changed = vector.copy()
        changed[where] = self._effect(vector[where], moment)
        return changed

    def _effect(self, value: np.ndarray, moment: Moment) -> np.ndarray:
        assert self._kind.effect is not None
        return self._kind.effect(value, moment)

    def _moment(self, before: np.ndarray, span: np.ndarray, tick: int) -> Moment:
        return Moment(
            strength=self.strength,
            span=span,
            before=before,
            once=np.random.default_rng((*self._chance, 0)),
            now=np.random.default_rng((*self._chance, 1, tick)),
        )


def _check_fits(world: World, fault: Fault) -> None:
    path, body = f"fault {fault.text!r}", world.embodiment
    on, target = KINDS[fault.kind].on, fault.target
    if on == "world":
        if not isinstance(world, Disturbable):
            raise ContractError(path, f"{body.name} is a world that cannot disturb itself (`Disturbable`)")
        further = world.disturbances_by_name if isinstance(world, DisturbableByName) else ()
        able = (*world.disturbances, *further)
        if fault.kind not in able:
            raise UnknownNameError(f"{path}, disturbance of {body.name}", fault.kind, able)
    known = {
        "camera": [camera.name for camera in body.cameras],
        "state": [part.name for part in body.state.parts],
        "action": [part.name for part in body.action.parts],
    }
    if target and target not in known[on]:
        raise UnknownNameError(f"{path}, {on} of {body.name}", target, known[on])
    if fault.at == HALF_WAY:
        if not isinstance(world, Demonstrator):
            raise ContractError(path, f"{body.name} has no scripted expert to tell what is half-way; name a tick")
    elif isinstance(fault.at, str):
        events = world.events if isinstance(world, Eventful) else ()
        expert = (HALF_WAY,) if isinstance(world, Demonstrator) else ()
        if fault.at not in events:
            raise UnknownNameError(f"{path}, event of {body.name}", fault.at, (*events, *expert))


def _expert_ticks(world: World, task: Task, seed: int) -> int:
    """Ticks that the expert takes when nothing disturbs it."""
    assert isinstance(world, Demonstrator)
    world.reset(task, seed=seed)
    ticks, most = 0, math.ceil(task.time_limit / world.embodiment.period) + 1
    while world.outcome() is None and ticks < most:
        world.apply(world.embodiment.action.clip(world.demonstrate()))
        ticks += 1
    return ticks
