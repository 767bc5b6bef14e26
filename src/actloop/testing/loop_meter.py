"""Times of the ticks of an episode, taken from outside the loop: at its clock and at its world.

sleep_until returns -- observe -- ... the loop's own work ... -- apply -- ... -- sleep_until is called
|<- lateness of the wake                own cost: all of it but the world's calls                  |
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from actloop.contracts import Action, Clock, Embodiment, Observation, Outcome, Task, World


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Of many times: median, 99th percentile and largest, in milliseconds."""

    p50_ms: float
    p99_ms: float
    max_ms: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> "Spread | None":
        """Of times in seconds; None of none. Each number is one that occurred."""
        if not len(seconds):
            return None
        p50, p99, most = np.quantile(seconds, (0.5, 0.99, 1.0), method="inverted_cdf") * 1e3
        return cls(p50_ms=float(p50), p99_ms=float(p99), max_ms=float(most))


class Meter:
    """Collects the times of one episode, in seconds, one number per tick after the first.

    Attributes:
        woken_late: from the place of the tick on the grid to the return of `sleep_until`.
        sent_late: from there to the call of `apply`.
        to_send: own work from waking to the return of `apply`, wall clock.
        own: own work from waking to going to sleep again, wall clock.
        own_cpu: the same, processor time of the thread.
        world: what the world's own calls took, wall clock.
        sent_at: when `apply` was called.
    """

    def __init__(self, wall: Callable[[], float], cpu: Callable[[], float] = time.thread_time) -> None:
        self._wall, self._cpu = wall, cpu
        self.woken_late: list[float] = []
        self.sent_late: list[float] = []
        self.to_send: list[float] = []
        self.own: list[float] = []
        self.own_cpu: list[float] = []
        self.world: list[float] = []
        self.sent_at: list[float] = []
        self._due = self._woken = self._woken_cpu = 0.0
        self._away = self._away_cpu = 0.0  # in calls of the world, since the last wake
        self._running = False

    @property
    def rate(self) -> float | None:
        """Commands per second, from the first to the last."""
        if len(self.sent_at) < 2:
            return None
        return (len(self.sent_at) - 1) / (self.sent_at[-1] - self.sent_at[0])

    def begin(self) -> tuple[float, float]:
        """A call of the world begins."""
        cpu = self._cpu()
        return self._wall(), cpu

    def end(self, begun: tuple[float, float]) -> float:
        """A call of the world has returned; when."""
        wall = self._wall()
        self._away += wall - begun[0]
        self._away_cpu += self._cpu() - begun[1]
        return wall

    def sent(self, begun: tuple[float, float], returned: float) -> None:
        """The call was `apply`."""
        if self._running:
            self.sent_at.append(begun[0])
            self.sent_late.append(begun[0] - self._due)
            self.to_send.append(returned - self._woken - self._away)

    def asleep(self) -> None:
        """The tick is over."""
        if self._running:
            self.own.append(self._wall() - self._woken - self._away)
            self.own_cpu.append(self._cpu() - self._woken_cpu - self._away_cpu)
            self.world.append(self._away)

    def awake(self, due: float) -> None:
        """The next tick begins; its place on the grid was `due`."""
        self._woken, self._woken_cpu, self._due = self._wall(), self._cpu(), due
        self._away = self._away_cpu = 0.0
        self._running = True
        self.woken_late.append(self._woken - due)


class MeteredClock:
    """A clock that tells a meter when the loop sleeps."""

    def __init__(self, clock: Clock, meter: Meter) -> None:
        self._clock, self._meter = clock, meter
        self.now = clock.now

    def sleep_until(self, time: float) -> None:
        self._meter.asleep()
        self._clock.sleep_until(time)
        self._meter.awake(time)


class MeteredWorld:
    """A world that tells a meter when it is called."""

    def __init__(self, world: World, meter: Meter) -> None:
        self._world, self._meter = world, meter
        self.embodiment: Embodiment = world.embodiment
        self.tasks: Mapping[str, Task] = world.tasks

    def reset(self, task: Task, *, seed: int) -> Observation:
        return self._world.reset(task, seed=seed)

    def observe(self) -> Observation:
        begun = self._meter.begin()
        obs = self._world.observe()
        self._meter.end(begun)
        return obs

    def apply(self, action: Action) -> Action:
        begun = self._meter.begin()
        sent = self._world.apply(action)
        self._meter.sent(begun, self._meter.end(begun))
        return sent

    def outcome(self) -> Outcome | None:
        begun = self._meter.begin()
        outcome = self._world.outcome()
        self._meter.end(begun)
        return outcome

    def close(self) -> None:
        self._world.close()
