"""Answers to several episodes in one pass, such that none of them depends on which others there are.

A batch of another size adds up in another order, and a closed loop makes a different episode of the last bit. So every
answer is computed in a batch of one declared size, rows that nobody asked for included: alone in this process, beside
others, or on another machine of the kind, it is the same sum.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from actloop.contracts import (
    Absorbing,
    BatchedPolicy,
    Committed,
    Embodiment,
    Observation,
    Policy,
    Prediction,
    Task,
    World,
)
from actloop.errors import ContractError
from actloop.loop.questions import Answer, Question, Result
from actloop.stack.guarded import one_thread

Answered = tuple[Any, Prediction]


class Padded:
    """A policy whose answers are all computed `size` rows at a time; a `BatchedPolicy` of up to that many.

    What continues committed actions is answered by itself, wherever it comes from.
    """

    def __init__(self, policy: BatchedPolicy[Any], size: int) -> None:
        self._policy, self.size = policy, size

    @property
    def embodiment(self) -> Embodiment:
        return self._policy.embodiment

    @property
    def horizon(self) -> int:
        return self._policy.horizon

    def describe(self) -> dict[str, Any]:
        describe = getattr(self._policy, "describe", None)
        return dict(describe()) if callable(describe) else {}

    def start(self, instruction: str, *, seed: int) -> Any:
        return self._policy.start(instruction, seed=seed)

    def predict(
        self, session: Any, obs: Observation, *, committed: Committed | None = None, imagine: bool = False
    ) -> Answered:
        if committed is not None:
            return self._policy.predict(session, obs, committed=committed, imagine=imagine)
        return self.predict_batch([session], [obs], imagine=imagine)[0]

    def predict_batch(
        self, sessions: Sequence[Any], observations: Sequence[Observation], *, imagine: bool = False
    ) -> Sequence[Answered]:
        """Answers to at most `size` rows; the others repeat the first."""
        more = range(self.size - len(sessions))
        rows = self._policy.predict_batch(
            [*sessions, *(sessions[0] for _ in more)],
            [*observations, *(observations[0] for _ in more)],
            imagine=imagine,
        )
        return rows[: len(sessions)]


def padded(policy: Policy[Any], size: int) -> Policy[Any]:
    """The policy as it answers in batches of `size`; itself, where that is 1.

    Raises:
        ContractError: it has no `predict_batch`.
    """
    if size == 1:
        return policy
    if not isinstance(policy, BatchedPolicy):
        raise ContractError("policy", f"{type(policy).__name__} has no predict_batch")
    return Padded(policy, size)


def unbatchable(policy: Policy[Any], size: int, world: World, tasks: Sequence[Task], *, seed: int) -> str:
    """Why a policy cannot be answered in batches of `size` without its episodes changing; empty where it can.

    Rows of different tasks and seeds are computed alone, beside each other, and in every place of the batch: one bit of
    difference is enough.
    """
    if not isinstance(policy, BatchedPolicy):
        return "it has no predict_batch"
    if isinstance(policy, Absorbing) and policy.absorb_every:
        return "it takes in frames between two requests"
    rows = Padded(policy, size)
    moments = [(tasks[number % len(tasks)], seed + number) for number in range(size)]
    observations = [world.reset(task, seed=at) for task, at in moments]
    sessions = [rows.start(task.instruction, seed=at) for task, at in moments]
    for imagine in (False, True):
        apart = zip(sessions, observations, strict=True)
        alone = [_bits(rows.predict_batch([one], [obs], imagine=imagine)[0]) for one, obs in apart]
        for turn in range(size):
            order = [(number + turn) % size for number in range(size)]
            seats, seen = [sessions[at] for at in order], [observations[at] for at in order]
            if [_bits(answer) for answer in rows.predict_batch(seats, seen, imagine=imagine)] != [
                alone[at] for at in order
            ]:
                return "a row of it depends on its neighbours, or on its place"
    return ""


@dataclass(slots=True)
class _Seat:
    """One running episode, as the policy knows it; or why it has none."""

    told: tuple[str, int]
    session: Any = None
    failed: Exception | None = None


class Desk:
    """One policy that answers the episodes of many seats; each seat has one episode at a time.

    Nothing that the policy raises is raised here: it is the error of the question that met it, and of no other.
    """

    def __init__(self, policy: Policy[Any], size: int) -> None:
        self._policy = padded(policy, size)
        self.size = size
        self._seats: dict[Hashable, _Seat] = {}

    def begin(self, seat: Hashable, instruction: str, seed: int) -> None:
        """A seat begins an episode."""
        self._seats[seat] = held = _Seat((instruction, seed))
        try:
            held.session = self._policy.start(instruction, seed=seed)
        except Exception as error:  # told with the first question: beginning has no ticket of its own
            held.failed = error

    def leave(self, seat: Hashable) -> None:
        """Forget a seat's episode."""
        self._seats.pop(seat, None)

    def answer(self, asked: Mapping[Hashable, Question]) -> dict[Hashable, Result]:
        """Results by seat, of at most `size` questions."""
        found: dict[Hashable, Result] = {}
        with one_thread():
            for imagine in (False, True):
                rows = [seat for seat, one in asked.items() if one.imagine == imagine and self._joins(seat, one)]
                found |= self._together(rows, asked, imagine=imagine)
            for seat in asked.keys() - found.keys():
                found[seat] = self._alone(seat, asked[seat])
        return found

    def _joins(self, seat: Hashable, question: Question) -> bool:
        return question.committed is None and self._seats[seat].failed is None

    def _together(
        self, rows: Sequence[Hashable], asked: Mapping[Hashable, Question], *, imagine: bool
    ) -> dict[Hashable, Result]:
        """One pass; nothing where that fails: then each row fails, or does not, by itself."""
        if not isinstance(self._policy, BatchedPolicy) or len(rows) < 2:
            return {}
        try:
            sessions = [self._session(seat, asked[seat]) for seat in rows]
            observations = [asked[seat].observation for seat in rows]
            answers = self._policy.predict_batch(sessions, observations, imagine=imagine)
            pairs = [(session, prediction) for session, prediction in answers]
            if len(pairs) != len(rows):
                return {}
        except Exception:  # whose row it was is found out one by one
            return {}
        return {seat: self._kept(seat, asked[seat], pair) for seat, pair in zip(rows, pairs, strict=True)}

    def _alone(self, seat: Hashable, question: Question) -> Result:
        failed = self._seats[seat].failed
        try:
            if failed is not None:
                raise failed
            answer = self._policy.predict(
                self._session(seat, question),
                question.observation,
                committed=question.committed,
                imagine=question.imagine,
            )
            return self._kept(seat, question, answer)
        except Exception as error:  # where in the policy is not kept: it may have been in another process
            return Result(ticket=question.ticket, seconds=0.0, error=error.with_traceback(None))

    def _kept(self, seat: Hashable, question: Question, answered: Answered) -> Result:
        session, prediction = answered
        self._seats[seat].session = session
        return Result(ticket=question.ticket, seconds=0.0, answer=Answer(prediction=prediction))

    def _session(self, seat: Hashable, question: Question) -> Any:
        """Of the seat's episode; another instruction begins a new one."""
        held = self._seats[seat]
        if question.instruction != held.told[0]:
            held.session = self._policy.start(question.instruction, seed=held.told[1])
            held.told = (question.instruction, held.told[1])
        return held.session


class Link(Protocol):
    """The way from a running episode to the desk of its arm."""

    def begin(self, instruction: str, seed: int) -> None: ...

    def ask(self, question: Question) -> None: ...

    def receive(self) -> Result:
        """The answer to the last question; waits for it."""
        ...


class Beside:
    """A desk in this very process: a batch of one, and as many rows that nobody asked for."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._asked: Question | None = None

    def begin(self, instruction: str, seed: int) -> None:
        self._desk.begin(None, instruction, seed)

    def ask(self, question: Question) -> None:
        self._asked = question

    def receive(self) -> Result:
        assert self._asked is not None
        return self._desk.answer({None: self._asked})[None]


class AtDesk:
    """A place whose module is at a desk: the world goes on while it thinks, until its answer is due."""

    name = "desk"
    superseded = 0

    def __init__(self, link: Link) -> None:
        self._link = link
        self._open = False

    def start(self, instruction: str, *, seed: int) -> None:
        """Begin an episode, whatever was still open; an error of its beginning is that of every question of it."""
        self._open = False
        self._link.begin(instruction, seed)

    def submit(self, question: Question) -> None:
        if self._open:
            raise ContractError("desk", "a question is still open; collect its answer first")
        self._open = True
        self._link.ask(question)

    def collect(self, timeout: float = 0.0) -> Sequence[Result]:
        """The answer to the open question; waited for as long as it takes, as the clock stands still meanwhile."""
        if not self._open:
            return []
        self._open = False
        return [self._link.receive()]

    def cancel(self) -> None:
        """What is open is nobody's once the next episode begins."""

    def close(self) -> bool:
        return True


def _bits(answered: Answered) -> bytes:
    return answered[1].chunk.actions.tobytes()
