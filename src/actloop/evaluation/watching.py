"""A recorder of what a report asks of an episode besides its result: alarms, who had the robot, how far the task got.

Ticked, Replied, Stepped --> Watch --to_dict--> the record of the episode          incidents --> the event log
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from actloop.contracts import Embodiment, ForceSensing, Kind, Space, World
from actloop.loop.events import EpisodeStarted, Event, Incident, Replied, Stepped, Subscriber, Ticked
from actloop.simulation.faults import Disturbed, Eventful

NEARLY = 1e-5  # of a component's range: the arithmetic of float32
ORDERS: dict[Kind, tuple[int, int]] = {"absolute": (3, 3), "delta": (2, 3), "velocity": (2, 2)}
"""By kind of action: how often it is differentiated to be a jerk, and the power of the period that divides it."""


class Jerk:
    """The third derivative of the motion that commands ask for, part by part, in its unit per second cubed.

    By differences over ticks: the third of absolute targets, the second of deltas (a tick's worth of velocity) and of
    velocities. Parts of one component are left out: a gripper that opens or shuts is meant to be abrupt.
    """

    def __init__(self, body: Embodiment) -> None:
        self._parts = [part for part in body.action.parts if part.size > 1]
        self._space, self._period = body.action, body.period
        self._last: list[np.ndarray] = []
        self._squares = {part.name: 0.0 for part in self._parts}
        self._counts = dict.fromkeys(self._squares, 0)

    def add(self, sent: np.ndarray) -> None:
        """The command of the next tick."""
        self._last = [*self._last[-3:], np.asarray(sent, dtype=np.float64)]
        for part in self._parts:
            order, power = ORDERS[part.kind]
            if len(self._last) > order:
                rows = np.stack(self._last[-order - 1 :])[:, self._space.slice(part.name)]
                jerk = np.diff(rows, n=order, axis=0)[0] / self._period**power
                self._squares[part.name] += float(jerk @ jerk)
                self._counts[part.name] += 1

    def to_dict(self) -> dict[str, float]:
        """Root mean square by part, of the length of the vector; none of parts that were told too little."""
        return {
            name: round(math.sqrt(square / self._counts[name]), 6)
            for name, square in self._squares.items()
            if self._counts[name]
        }


@dataclass(slots=True)
class Watch:
    """A subscriber for one episode.

    Attributes:
        alarms: ticks in which a check was over its threshold.
        interventions: tick, cause and the tick of the hand-back (None before it), each time a person was called.
        views: ticks from which on commands rested on the observation of a newer tick, with that tick.
        reached: of what the world tells (`Eventful`), the first tick of each.
        last: of those, what was so at the end.
        asked: ticks whose command, as the policy wanted it, was outside the action space.
        sent: ticks whose command, as it was sent, was.
        worst: how far the farthest of the wanted ones was outside, as a share of the component's range.
        jerk: of the motion that was sent.
        force: the hardest contact while nobody helped (N), where the world is `ForceSensing`; None before a tick.
        hardest: the first tick of it; None where nothing was touched.
    """

    world: World
    alarms: list[int] = field(default_factory=list)
    interventions: list[dict[str, Any]] = field(default_factory=list)
    views: list[tuple[int, int]] = field(default_factory=list)
    reached: dict[str, int] = field(default_factory=dict)
    last: tuple[str, ...] = ()
    asked: int = 0
    sent: int = 0
    worst: float = 0.0
    jerk: Jerk = field(init=False)
    force: float | None = None
    hardest: int | None = None

    def __post_init__(self) -> None:
        self.jerk = Jerk(self.world.embodiment)

    def on_event(self, event: Event) -> None:
        if isinstance(event, Ticked):
            self._ticked(event)
        elif isinstance(event, Replied) and any(reading.alarm for reading in event.readings):
            self.alarms.append(event.tick)
        elif isinstance(event, Stepped):
            self._stepped(event)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "alarms": self.alarms,
            "interventions": self.interventions,
            "views": [list(pair) for pair in self.views],
            "reached": self.reached,
            "last": list(self.last),
            "outside": {"asked": self.asked, "sent": self.sent, "worst": round(self.worst, 6)},
            "jerk": self.jerk.to_dict(),
            "force": None if self.force is None else {"peak": round(self.force, 3), "tick": self.hardest},
        }

    def _stepped(self, event: Stepped) -> None:
        if event.rung == "human":
            self.interventions.append({"tick": event.tick, "cause": event.cause, "back": None})
        elif event.before == "human":
            self.interventions[-1]["back"] = event.tick

    def _ticked(self, event: Ticked) -> None:
        if not event.hold and (not self.views or self.views[-1][1] != event.anchor):
            self.views.append((event.tick, event.anchor))
        space = self.world.embodiment.action
        wanted = _outside(space, event.wanted)
        self.asked += wanted > NEARLY
        self.sent += _outside(space, event.sent) > NEARLY
        self.worst = max(self.worst, wanted)
        self.jerk.add(event.sent)
        if isinstance(self.world, ForceSensing) and event.rung != "human":
            self._touched(self.world.contact_force(), event.tick)
        if isinstance(self.world, Eventful):
            so = self.world.happened()
            self.last = tuple(sorted(so))
            for name in self.last:  # in this order: a set's is another in every process
                self.reached.setdefault(name, event.tick + 1)

    def _touched(self, force: float, tick: int) -> None:
        if force > (self.force or 0.0):
            self.hardest = tick
        self.force = max(self.force or 0.0, force)


class Told:
    """A subscriber that tells others, and between the events what became of the faults of a world."""

    def __init__(self, world: Disturbed, others: Sequence[Subscriber]) -> None:
        self._world, self._others = world, others
        self._period, self._episode = 0.0, 0
        self._told: set[tuple[int, str]] = set()

    def on_event(self, event: Event) -> None:
        self._tell(event)
        if isinstance(event, EpisodeStarted):
            self._period, self._episode = event.period, event.episode
        if isinstance(event, EpisodeStarted | Ticked):
            self._incidents()

    def _incidents(self) -> None:
        for number, incident in enumerate(self._world.incidents):
            for phase, tick in (("begins", incident.onset), ("ends", incident.end)):
                if tick is None or (number, phase) in self._told or (phase == "ends" and tick == incident.onset):
                    continue
                self._told.add((number, phase))
                time = tick * self._period
                kind: Any = phase
                self._tell(Incident(episode=self._episode, tick=tick, time=time, fault=incident.fault, phase=kind))

    def _tell(self, event: Event) -> None:
        for other in self._others:
            other.on_event(event)


def rescuer_of(world: World) -> Callable[[], np.ndarray] | None:
    """What the world's expert would send now; None where it has none."""
    expert = getattr(world, "demonstrate", None)
    if not callable(expert):
        return None
    return lambda: world.embodiment.action.clip(expert())


def _outside(space: Space, action: np.ndarray) -> float:
    """How far the farthest component is outside its limits, as a share of its range."""
    span = space.high - space.low
    return float(max(0.0, *((action - space.high) / span), *((space.low - action) / span)))
