"""Where the model runs: inline, on a clock that charges it for its time, or in a thread beside a real robot.

submit(Request) ---> policy.predict ---> poll(now) -> Reply, once it is due
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from actloop.contracts import Clock, Observation, Policy, Prediction
from actloop.errors import ContractError
from actloop.loop.latency import MEASURED, LatencyEstimate, LatencyProfile
from actloop.loop.schedule import Ticket

SLACK = 1e-9  # seconds; a reply due at a tick is due at that tick, whatever the sum of floats says
LIKELY = 0.95  # the quantile that decides when to start thinking
TYPICAL = 0.5  # the quantile that decides whether a latency can work at all


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One question to the policy."""

    ticket: Ticket
    observation: Observation
    imagine: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An answer, or the error that came instead. `latency` is seconds, `due` is on the loop's clock."""

    ticket: Ticket
    latency: float
    due: float
    prediction: Prediction | None = None
    error: BaseException | None = None


@runtime_checkable
class Inference(Protocol):
    """Runs a policy for the loop. `submit` and `poll` return at once as far as the loop's clock can tell."""

    @property
    def name(self) -> str:
        """Of the latency, for the result."""
        ...

    def start(self, episode: int, instruction: str, *, seed: int) -> None: ...

    def submit(self, request: Request, now: float) -> None: ...

    def poll(self, now: float) -> list[Reply]: ...

    def latency_quantile(self, q: float) -> float | None:
        """Seconds, of the declared profile or of past calls without the cold start; None while unknown."""
        ...

    def close(self) -> bool:
        """Stop; False when the policy did not come back in time."""
        ...


class InlineInference:
    """Runs the policy at once, in the loop's thread; the answer is due after its latency.

    The latency is drawn from a profile, by the seed of the episode, or else timed on this machine. Where it is not
    `charged`, the world waits for the model: the answer is due at once, and the latency is only recorded.
    """

    def __init__(
        self,
        policy: Policy[Any],
        latency: LatencyProfile | None = None,
        *,
        charged: bool = True,
        timer: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._policy = policy
        self._profile = latency
        self._charged = charged
        self._timer = timer
        self._estimate = LatencyEstimate()
        self._replies: list[Reply] = []
        self._session: Any = None
        self._rng = np.random.default_rng(0)

    @property
    def name(self) -> str:
        return self._profile.name if self._profile else MEASURED

    @property
    def charged(self) -> bool:
        """Whether the world moves while the model thinks."""
        return self._charged

    def start(self, episode: int, instruction: str, *, seed: int) -> None:
        """Begin a session; `seed` is that of the policy and of the latencies drawn."""
        self._replies.clear()
        self._rng = np.random.default_rng([seed, 1])
        self._session = self._policy.start(instruction, seed=seed)

    def submit(self, request: Request, now: float) -> None:
        begun = self._timer()
        prediction = error = None
        try:
            self._session, prediction = self._policy.predict(
                self._session, request.observation, imagine=request.imagine
            )
        except Exception as raised:  # it is raised again where the reply is taken
            error = raised
        latency = self._profile.sample(self._rng) if self._profile else self._timer() - begun
        self._estimate.add(latency)
        due = now + latency if self._charged and error is None else now
        self._replies.append(Reply(ticket=request.ticket, latency=latency, due=due, prediction=prediction, error=error))

    def poll(self, now: float) -> list[Reply]:
        """Replies that are due, in the order of their due time."""
        ready = sorted((reply for reply in self._replies if reply.due <= now + SLACK), key=lambda reply: reply.due)
        self._replies = [reply for reply in self._replies if reply.due > now + SLACK]
        return ready

    def latency_quantile(self, q: float) -> float | None:
        if not self._charged:
            return 0.0
        return self._profile.quantile(q) if self._profile else self._estimate.quantile(q)

    def close(self) -> bool:
        return True


class ThreadedInference:
    """Runs the policy in a thread, for the wall clock. Questions wait in a mailbox of one: the newest wins.

    Use it as a context manager or close it; it can serve many episodes, one after the other.
    """

    def __init__(self, policy: Policy[Any], clock: Clock, *, timeout: float = 5.0) -> None:
        if not timeout > 0:
            raise ContractError("inference.timeout", f"expected seconds above 0, got {timeout}")
        self._policy = policy
        self._clock = clock
        self._timeout = timeout
        self._estimate = LatencyEstimate()
        self._changed = threading.Condition()
        self._mail: tuple[Request, float] | None = None
        self._replies: list[Reply] = []
        self._episode: tuple[int, str, int] = (0, "", 0)  # how many were started, instruction, seed
        self._closing = False
        self.superseded = 0
        self._thread = threading.Thread(target=self._work, name="actloop-inference", daemon=True)
        self._thread.start()

    @property
    def name(self) -> str:
        return MEASURED

    def start(self, episode: int, instruction: str, *, seed: int) -> None:
        """Begin an episode; a question of the last one that is still unanswered will be answered for that one."""
        with self._changed:
            self._episode = (self._episode[0] + 1, instruction, seed)
            self._mail = None

    def submit(self, request: Request, now: float) -> None:
        """Leave a question; one that no one has started on is superseded."""
        with self._changed:
            if self._closing:
                raise ContractError("inference", "is closed; make a new one")
            self.superseded += self._mail is not None
            self._mail = (request, now)
            self._changed.notify()

    def poll(self, now: float) -> list[Reply]:
        """Replies that have come since the last poll, in order."""
        with self._changed:
            ready, self._replies = self._replies, []
        return ready

    def latency_quantile(self, q: float) -> float | None:
        with self._changed:
            return self._estimate.quantile(q)

    def close(self) -> bool:
        """Stop the thread; False when the policy did not return within the timeout and the thread was left behind."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(self._timeout)
        return not self._thread.is_alive()

    def __enter__(self) -> "ThreadedInference":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _work(self) -> None:
        begun: tuple[int, str, int] | None = None
        session: Any = None
        while (job := self._next()) is not None:
            request, asked, episode = job
            prediction = error = None
            try:
                if episode != begun:
                    session, begun = self._policy.start(episode[1], seed=episode[2]), episode
                session, prediction = self._policy.predict(session, request.observation, imagine=request.imagine)
            except BaseException as raised:  # a thread that dies in silence would leave the robot holding for ever
                error = raised
            due = self._clock.now()
            reply = Reply(ticket=request.ticket, latency=due - asked, due=due, prediction=prediction, error=error)
            with self._changed:
                self._estimate.add(reply.latency)
                self._replies.append(reply)

    def _next(self) -> tuple[Request, float, tuple[int, str, int]] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._closing or self._mail is not None)
            if self._closing or self._mail is None:
                return None
            (request, asked), self._mail = self._mail, None
            return request, asked, self._episode
