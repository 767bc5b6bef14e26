"""A recorder of what a report asks of an episode besides its result: alarms, who had the robot, how far the task got.

Ticked, Replied, Stepped --> Watch --to_dict--> the record of the episode          incidents --> the event log
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from actloop.contracts import Space, World
from actloop.loop.events import EpisodeStarted, Event, Incident, Replied, Stepped, Subscriber, Ticked
from actloop.simulation.faults import Disturbed, Eventful

NEARLY = 1e-5  # of a component's range: the arithmetic of float32


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
        if isinstance(self.world, Eventful):
            so = self.world.happened()
            self.last = tuple(sorted(so))
            for name in so:
                self.reached.setdefault(name, event.tick + 1)


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
