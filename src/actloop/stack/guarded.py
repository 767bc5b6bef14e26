"""Around one episode: a way to end it from outside, a last command that holds, and arithmetic on one thread."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

from actloop.contracts import Action, Embodiment, Observation, Outcome, Task, World
from actloop.errors import ActloopError
from actloop.loop.events import EpisodeStarted, Event, Ticked


class Guarded:
    """A world whose episode can be ended from outside: its outcome is then a failure, for the reason given."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._reason = ""
        self._ticks = 0

    @property
    def embodiment(self) -> Embodiment:
        return self._world.embodiment

    @property
    def tasks(self) -> Mapping[str, Task]:
        return self._world.tasks

    def stop(self, reason: str) -> None:
        """End the episode after the tick that is running."""
        self._reason = reason

    def reset(self, task: Task, *, seed: int) -> Observation:
        self._ticks = 0
        return self._world.reset(task, seed=seed)

    def observe(self) -> Observation:
        return self._world.observe()

    def apply(self, action: Action) -> Action:
        self._ticks += 1
        return self._world.apply(action)

    def outcome(self) -> Outcome | None:
        found = self._world.outcome()
        if found is None and self._reason:
            return Outcome(success=False, reason=self._reason, time=self._ticks * self.embodiment.period)
        return found

    def close(self) -> None:
        self._world.close()


class LastSent:
    """A subscriber that knows what a robot was told last."""

    def __init__(self) -> None:
        self._first: Observation | None = None
        self._sent: Action | None = None

    @property
    def immediate(self) -> Literal[True]:
        """Told in the thread of the ticks."""
        return True

    def on_event(self, event: Event) -> None:
        if isinstance(event, EpisodeStarted):
            self._first, self._sent = event.observation, None
        elif isinstance(event, Ticked):
            self._sent = event.sent

    def hold(self, world: World) -> str:
        """Send the body's hold; says what went wrong, or nothing."""
        if self._first is None:
            return ""
        try:
            world.apply(world.embodiment.hold(self._first, self._sent))
        except ActloopError as error:
            return f"the robot could not be told to hold at the end ({error})"
        return ""


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch, where a model has loaded it, on one thread: sums must not depend on how many are free."""
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
