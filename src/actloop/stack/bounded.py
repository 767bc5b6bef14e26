"""A layer whose answers have a time limit, and what is asked in its place when it is late or fails.

submit --> first --reply in time--> reply
             `-- late, or an error --> second, the same question --> reply        (or: an error that passes)

The loop needs to know nothing of it: it is an `Inference` like any other, on both clocks.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from actloop.errors import ActloopError, ContractError, MissingDependency
from actloop.loop.inference import SLACK, Inference, Reply
from actloop.loop.latency import LatencyProfile
from actloop.loop.places import check_seconds
from actloop.loop.questions import Place, Question, Result, Ticket


class LateAnswer(ActloopError):
    """An answer took longer than its layer is given; the loop holds, or goes on without it."""

    transient = True


class Bounded:
    """Gives up answers after a time limit, seen at the ticks of the loop.

    What was given up is still computed where it runs: its answer is dropped when it comes, and its computing is put on
    the account of the next. Until then a second layer, where there is one, is asked at once.

    Args:
        first: what is asked.
        after: seconds from asking.
        second: asked with the same question where `first` is late or raises; not where it refuses (`ContractError`).

    Raises:
        ContractError: `after` is not above 0.
    """

    def __init__(self, first: Inference, *, after: float, second: Inference | None = None) -> None:
        if not math.isinf(after):
            check_seconds("timeout", after)
        self._first, self._second, self._after = first, second, after
        self._open: dict[Ticket, tuple[Question, float]] = {}  # asked of `first`, and when
        self._given_up: set[Ticket] = set()  # `first` still computes them
        self._asked: dict[Ticket, float] = {}  # those that `second` answers, and when they were asked at all
        self._unpaid = 0.0
        self.timed_out = 0
        self.reasons: Counter[str] = Counter()  # for which `second` was asked

    @property
    def name(self) -> str:
        return self._first.name

    @property
    def place(self) -> Place:
        return self._first.place if self._second is None else _Both(self._first.place, self._second.place)

    @property
    def declared(self) -> LatencyProfile | None:
        return self._first.declared

    def start(self, instruction: str, *, seed: int) -> None:
        self._open.clear()
        self._given_up.clear()
        self._asked.clear()
        self._unpaid, self.timed_out = 0.0, 0
        self.reasons.clear()
        self._first.start(instruction, seed=seed)
        if self._second is not None:
            self._second.start(instruction, seed=seed)

    def submit(self, question: Question, now: float) -> None:
        if question.ticket.is_frame:  # nobody waits for it
            self._first.submit(question, now)
            return
        if self._second is not None and self._given_up:
            self._ask_second(question, now, now, "busy with what was given up")
            return
        self._open[question.ticket] = question, now
        self._first.submit(question, now)

    def poll(self, now: float) -> list[Reply]:
        """Replies that are due."""
        ready = [kept for reply in self._first.poll(now) if (kept := self._heard(reply, now)) is not None]
        for ticket, (question, asked) in list(self._open.items()):
            if now - asked >= self._after - SLACK:
                ready += self._give_up(ticket, question, asked, now)
        if self._second is not None:
            ready += [self._from_second(reply) for reply in self._second.poll(now)]
        if ready and self._unpaid:
            ready[-1] = replace(ready[-1], computed=ready[-1].computed + self._unpaid)
            self._unpaid = 0.0
        return ready

    def close(self) -> bool:
        closed = self._first.close()
        return closed if self._second is None else self._second.close() and closed

    def _heard(self, reply: Reply, now: float) -> Reply | None:
        """The reply of `first`, if it is to be passed on."""
        if reply.ticket.is_frame:
            return reply
        question, _ = self._open.pop(reply.ticket, (None, 0.0))
        if reply.ticket in self._given_up:
            self._given_up.discard(reply.ticket)
            self._unpaid += reply.computed
            return None
        if reply.error is None:
            if reply.latency <= self._after + SLACK or self._second is not None:
                return reply
            self.timed_out += 1
            return replace(reply, answer=None, error=self._late(reply.latency))
        refused = isinstance(reply.error, ContractError | MissingDependency)
        if self._second is None or question is None or refused:
            return reply
        self._unpaid += reply.computed
        reason = f"{type(reply.error).__name__}: {reply.error}"
        self._ask_second(question, now, now - reply.latency, reason)
        return None

    def _give_up(self, ticket: Ticket, question: Question, asked: float, now: float) -> list[Reply]:
        del self._open[ticket]
        self._given_up.add(ticket)
        self.timed_out += 1
        late = now - asked
        if self._second is not None:
            self._ask_second(question, now, asked, f"late by more than {self._after:g} s")
            return []
        return [Reply(ticket=ticket, latency=late, computed=0.0, due=now, error=self._late(late))]

    def _ask_second(self, question: Question, now: float, asked: float, reason: str) -> None:
        assert self._second is not None
        self.reasons[reason] += 1
        self._asked[question.ticket] = asked
        self._second.submit(question, now)

    def _from_second(self, reply: Reply) -> Reply:
        asked = self._asked.pop(reply.ticket, None)
        return reply if asked is None else replace(reply, latency=reply.due - asked)

    def _late(self, seconds: float) -> LateAnswer:
        return LateAnswer(f"no answer within {self._after:g} s")


class _Both:
    """Two places as one, to be warmed up together."""

    def __init__(self, first: Place, second: Place) -> None:
        self._first, self._second = first, second

    @property
    def name(self) -> str:
        return self._first.name

    @property
    def superseded(self) -> int:
        return self._first.superseded + self._second.superseded

    def start(self, instruction: str, *, seed: int) -> None:
        self._first.start(instruction, seed=seed)
        self._second.start(instruction, seed=seed)

    def submit(self, question: Question) -> None:
        self._first.submit(question)
        self._second.submit(question)

    def collect(self, timeout: float = 0.0) -> Sequence[Result]:
        return [*self._first.collect(timeout), *self._second.collect(timeout)]

    def cancel(self) -> None:
        self._first.cancel()
        self._second.cancel()

    def close(self) -> bool:
        closed = self._first.close()
        return self._second.close() and closed


def said(reasons: Mapping[str, int]) -> tuple[str, ...]:
    """Why the fallback was asked, as warnings of an episode."""
    return tuple(f"the fallback was asked ({count} times): {reason}" for reason, count in reasons.items())
