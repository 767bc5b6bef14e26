"""What thinking costs on the loop's clock, wherever it runs.

submit(Question) ---> Place ---> poll(now) -> Reply, once it is due
                      `-- Charged: the virtual clock; due after a declared latency, or after the measured time
                      `-- Live: the wall clock; due when it comes
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from actloop.contracts import Clock
from actloop.errors import ActloopError, ContractError
from actloop.loop.latency import MEASURED, LatencyProfile
from actloop.loop.questions import LAYERS, Answer, Layer, Place, Question, Result, Ticket

SLACK = 1e-9  # seconds; a reply due at a tick is due at that tick, whatever the sum of floats says


class NoAnswerError(ActloopError):
    """A module did not come back within the time that even a slow machine may take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An answer, or the error that came instead.

    `latency` is seconds from asking to `due`, which is on the loop's clock; `computed` those of computing.
    """

    ticket: Ticket
    latency: float
    computed: float
    due: float
    answer: Answer | None = None
    error: Exception | None = None


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A question that a place is computing; with `drawn`, its latency is known beforehand, from `begun` on."""

    ticket: Ticket
    at: float
    begun: float = 0.0
    drawn: float | None = None

    @property
    def due(self) -> float | None:
        return None if self.drawn is None else self.begun + self.drawn


@runtime_checkable
class Inference(Protocol):
    """Asks one layer for the loop. `submit` and `poll` return at once as far as the loop's clock can tell."""

    @property
    def name(self) -> str:
        """Of the latency, for the result."""
        ...

    @property
    def place(self) -> Place: ...

    @property
    def declared(self) -> LatencyProfile | None:
        """What is charged, where that is known beforehand; per candidate, of a layer that chooses among some."""
        ...

    def start(self, instruction: str, *, seed: int) -> None: ...

    def submit(self, question: Question, now: float) -> None: ...

    def poll(self, now: float) -> list[Reply]: ...

    def close(self) -> bool:
        """Stop; False when the module did not come back in time."""
        ...


class Charged:
    """On the virtual clock: an answer is due after its latency, and the model has one head.

    A frame that it takes in between two questions keeps it busy too, and a question that comes meanwhile waits.

    The latency is drawn from a profile, by the seed of the episode, or else as long as the module computed on this
    machine. Where it is not `charged`, the world waits: the answer is due at once.

    Args:
        layer: whose questions these are; each layer draws its latencies from a stream of its own.
        timeout: seconds of this machine that an answer may take to compute.
        absorbing: seconds that a frame between two questions is charged where the latency is declared; measured, it
            is charged what it took.
    """

    def __init__(
        self,
        place: Place,
        latency: LatencyProfile | None = None,
        *,
        layer: Layer = "action",
        charged: bool = True,
        timeout: float = 600.0,
        absorbing: float = 0.0,
    ) -> None:
        if not 0 <= absorbing < np.inf:
            raise ContractError("inference.absorbing", f"expected seconds of at least 0, got {absorbing}")
        self._absorbing = absorbing
        self._place = place
        self._profile = latency
        self._layer = layer
        self._charged = charged
        self._timeout = timeout
        self._waiting: list[_Waiting] = []
        self._replies: list[Reply] = []
        self._busy_until = -np.inf
        self._rng = np.random.default_rng(0)

    @property
    def name(self) -> str:
        return self._profile.name if self._profile else MEASURED

    @property
    def place(self) -> Place:
        return self._place

    @property
    def charged(self) -> bool:
        """Whether the world moves while the model thinks."""
        return self._charged

    @property
    def declared(self) -> LatencyProfile | None:
        return self._profile if self._charged else LatencyProfile.constant(0.0)

    def start(self, instruction: str, *, seed: int) -> None:
        """Begin a session; `seed` is that of the module and of the latencies drawn."""
        self._settle()
        self._replies.clear()
        self._busy_until = -np.inf
        self._rng = np.random.default_rng([seed, 1 + LAYERS.index(self._layer)])
        self._place.start(instruction, seed=seed)

    def submit(self, question: Question, now: float) -> None:
        self._settle()  # nothing waits when the next one comes: what is computed must not depend on this machine
        self._place.submit(question)
        if self._profile is None or not self._charged or question.candidates > 1:
            self._waiting.append(_Waiting(question.ticket, now))
            self._settle()
            return
        seconds = self._absorbing if question.ticket.is_frame else self._profile.sample(self._rng)
        asked = _Waiting(question.ticket, now, max(now, self._busy_until), seconds)
        self._busy_until = asked.begun + (asked.drawn or 0.0)
        self._waiting.append(asked)

    def poll(self, now: float) -> list[Reply]:
        """Replies that are due, in the order of their due time."""
        if any(asked.due is not None and asked.due <= now + SLACK for asked in self._waiting):
            self._settle()
        ready = sorted((reply for reply in self._replies if reply.due <= now + SLACK), key=lambda reply: reply.due)
        self._replies = [reply for reply in self._replies if reply.due > now + SLACK]
        return ready

    def close(self) -> bool:
        return self._place.close()

    def _settle(self) -> None:
        """Wait for what is being computed: virtual time stands still meanwhile."""
        while self._waiting:
            results = {result.ticket: result for result in self._place.collect(self._timeout)}
            if not results:
                raise NoAnswerError(f"no answer from {self._place.name} within {self._timeout:g} s; is it stuck?")
            waiting, self._waiting = self._waiting, []
            for asked in waiting:
                if asked.ticket in results:
                    self._replies.append(self._reply(results[asked.ticket], asked))
                else:
                    self._waiting.append(asked)

    def _reply(self, result: Result, asked: _Waiting) -> Reply:
        seconds, begun = result.seconds, asked.begun
        if asked.drawn is not None:
            seconds = asked.drawn
        elif self._profile is not None and result.answer is not None:
            seconds = sum(self._profile.sample(self._rng) for _ in range(max(result.answer.considered, 1)))
        if result.error is not None or not self._charged:
            begun, due = asked.at, asked.at
        elif asked.drawn is None:
            begun = max(asked.at, self._busy_until)
            due = self._busy_until = begun + seconds
        else:
            due = begun + seconds
        return Reply(
            ticket=result.ticket,
            latency=begun - asked.at + seconds,
            computed=seconds,
            due=due,
            answer=result.answer,
            error=result.error,
        )


class Live:
    """On the wall clock: an answer is due when it comes."""

    def __init__(self, place: Place, clock: Clock) -> None:
        if place.name == "here":
            raise ContractError("inference", "here, every tick would wait for the module: use a thread or a process")
        self._place = place
        self._clock = clock
        self._asked: dict[Ticket, float] = {}

    @property
    def name(self) -> str:
        return MEASURED

    @property
    def place(self) -> Place:
        return self._place

    @property
    def declared(self) -> LatencyProfile | None:
        return None

    def start(self, instruction: str, *, seed: int) -> None:
        self._asked.clear()
        self._place.start(instruction, seed=seed)

    def submit(self, question: Question, now: float) -> None:
        self._asked[question.ticket] = now
        self._place.submit(question)

    def poll(self, now: float) -> list[Reply]:
        """Replies that have come since the last poll, in order."""
        replies = []
        for result in self._place.collect(0.0):
            due = self._clock.now()
            asked = self._asked.pop(result.ticket, None)
            latency = result.seconds if asked is None else due - asked
            replies.append(
                Reply(
                    ticket=result.ticket,
                    latency=latency,
                    computed=result.seconds,
                    due=due,
                    answer=result.answer,
                    error=result.error,
                )
            )
        return replies

    def close(self) -> bool:
        return self._place.close()
