"""Fakes that count: policies that check what they are shown and send actions that say where they come from.

world numbers its frames -> CountingPolicy checks the numbers -> actions that carry (tick, index) -> `origin`
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from actloop.contracts import Action, ActionChunk, Committed, Embodiment, Future, Observation, Prediction
from actloop.errors import ContractError
from actloop.loop.events import Event

Kind = TypeVar("Kind", bound=Event)
STRIDE = 1024  # more than any horizon; tick * STRIDE + index is exact in float32 up to tick 16383


@dataclass(frozen=True, slots=True)
class Count:
    """The session of a `CountingPolicy`: the ticks it has been asked at, and its seed."""

    instruction: str
    seed: int
    asked: tuple[int, ...] = ()


class CountingPolicy:
    """A policy that refuses frames out of order and answers with actions that name their origin.

    By default the first component of `actions[i]` is `tick * 1024 + i`, read back by `origin`; the others are zero.

    Args:
        embodiment: the body it pretends to know.
        horizon: actions in a chunk.
        read_tick: reads the number in a frame; given, it has to agree with `obs.tick`.
        actions: `actions(obs, horizon) -> (horizon, action)`, in place of the numbered ones.
        on_call: called with the number of the call, from 0, before each answer; it may raise, or sleep.
    """

    def __init__(
        self,
        embodiment: Embodiment,
        *,
        horizon: int = 16,
        read_tick: Callable[[Observation], int] | None = None,
        actions: Callable[[Observation, int], np.ndarray] | None = None,
        on_call: Callable[[int], None] | None = None,
    ) -> None:
        if not 1 <= horizon < STRIDE:
            raise ContractError("horizon", f"expected 1 to {STRIDE - 1} actions, got {horizon}")
        self._embodiment = embodiment
        self._horizon = horizon
        self._read_tick = read_tick
        self._actions = actions or self._numbered
        self._on_call = on_call
        self.calls = 0
        self.sessions: list[Count] = []

    @property
    def embodiment(self) -> Embodiment:
        return self._embodiment

    @property
    def horizon(self) -> int:
        return self._horizon

    def start(self, instruction: str, *, seed: int) -> Count:
        self.sessions.append(Count(instruction, seed))
        return self.sessions[-1]

    def predict(
        self, session: Count, obs: Observation, *, committed: Committed | None = None, imagine: bool = False
    ) -> tuple[Count, Prediction]:
        """The next chunk; with `imagine`, a future that repeats the frame that was seen.

        Raises:
            ContractError: the number in the frame is not the tick of the observation, or not above the last one.
        """
        if self._on_call:
            self._on_call(self.calls)
        self.calls += 1
        if self._read_tick and self._read_tick(obs) != obs.tick:
            raise ContractError("frame", f"shows tick {self._read_tick(obs)}, but the observation says {obs.tick}")
        if session.asked and obs.tick <= session.asked[-1]:
            raise ContractError("observation.tick", f"expected more than {session.asked[-1]}, got {obs.tick}")
        chunk = ActionChunk(
            actions=self._actions(obs, self._horizon),
            anchor=obs.tick,
            period=self._embodiment.period,
            observed_at=obs.time,
        )
        future = self.imagine(session, obs, chunk) if imagine else None
        return Count(session.instruction, session.seed, (*session.asked, obs.tick)), Prediction(
            chunk=chunk, future=future
        )

    def imagine(self, session: Count, obs: Observation, chunk: ActionChunk) -> Future:
        """As many copies of the frame that was seen as the chunk has actions."""
        frames = {name: np.repeat(image[None], chunk.horizon, axis=0) for name, image in obs.images.items()}
        return Future(frames=frames, chunk=chunk, period=chunk.period)

    def _numbered(self, obs: Observation, horizon: int) -> np.ndarray:
        actions = np.zeros((horizon, self._embodiment.action.size), dtype=np.float32)
        actions[:, 0] = obs.tick * STRIDE + np.arange(horizon)
        return actions


def origin(action: Action) -> tuple[int, int]:
    """The tick of the observation and the index in the chunk that an action of a `CountingPolicy` came from."""
    tick, index = divmod(round(float(action[0])), STRIDE)
    return tick, index


class Recorder:
    """A subscriber that keeps every event."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def on_event(self, event: Event) -> None:
        self.events.append(event)

    def of(self, kind: type[Kind]) -> list[Kind]:
        """The events of one type, in order."""
        return [event for event in self.events if isinstance(event, kind)]
