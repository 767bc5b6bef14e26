"""What the loop asks its layers, and where they run.

loop --Question--> Place (here, a thread, another process, a server) --Module.answer--> Answer --Result--> loop

A module does the thinking (a policy, the checks, a language model), a place decides where, and an `Inference` what it
costs on the loop's clock.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from actloop.checks.evidence import Evidence, Reading
from actloop.contracts import Committed, Observation, Prediction

Layer = Literal["action", "check", "foresight", "semantic"]
LAYERS: tuple[Layer, ...] = ("action", "check", "foresight", "semantic")
FRAME = -1  # the number of a ticket that asks for nothing: its observation is only to be taken in


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    """Which question a reply answers: its episode, its number among those of its layer, the tick of its observation."""

    episode: int
    plan: int
    tick: int
    layer: Layer = "action"

    @property
    def is_frame(self) -> bool:
        """Whether it only shows what is seen, and an empty answer is expected."""
        return self.plan == FRAME


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One question to one layer.

    Attributes:
        deadline: seconds on the loop's clock after which the answer is worth nothing; infinite where it always is.
        patience: seconds from asking to the deadline: what a module that can answer early or late may take.
        instruction: what the policy is told from now on.
        imagine: also predict the future (action).
        committed: what the robot does meanwhile (action, foresight).
        candidates: chunks to choose among (foresight).
        evidence: what to check (check).
    """

    ticket: Ticket
    observation: Observation
    instruction: str
    deadline: float = float("inf")
    patience: float = float("inf")
    imagine: bool = False
    committed: Committed | None = None
    candidates: int = 1
    evidence: Evidence | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a layer says: a prediction (action, foresight), readings (check) or a text (semantic).

    `text` is the instruction from now on, `done` whether the task is; None where it was not asked. `considered` counts
    the candidates that were weighed before the time was up, and `values` are theirs.
    """

    prediction: Prediction | None = None
    readings: tuple[Reading, ...] = ()
    text: str = ""
    done: bool | None = None
    considered: int = 0
    values: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """An answer, or the error that came instead; `seconds` of computing, without waiting or transport."""

    ticket: Ticket
    seconds: float
    answer: Answer | None = None
    error: Exception | None = None


@runtime_checkable
class Module(Protocol):
    """The thinking of one layer. It is used from one thread and keeps its own session between questions."""

    def start(self, instruction: str, *, seed: int) -> None:
        """Begin an episode."""
        ...

    def answer(self, question: Question) -> Answer: ...


@runtime_checkable
class Place(Protocol):
    """Runs a module somewhere. Nothing but `collect` with a timeout waits, and `close`."""

    @property
    def name(self) -> str:
        """`here`, `thread`, `process` or an address."""
        ...

    @property
    def superseded(self) -> int:
        """Questions that a newer one replaced before anybody had started on them."""
        ...

    def start(self, instruction: str, *, seed: int) -> None:
        """Begin an episode. Results of the last one may still come, under its tickets."""
        ...

    def submit(self, question: Question) -> None:
        """Leave a question; one that waits and that nobody has started on is superseded: the newest wins."""
        ...

    def collect(self, timeout: float = 0.0) -> Sequence[Result]:
        """What has come since the last time; where nothing has, wait up to `timeout` seconds for it."""
        ...

    def cancel(self) -> None:
        """Drop a question that waits; one that is being answered goes on, and its result still comes."""
        ...

    def close(self) -> bool:
        """Stop; False where the module did not return in time and was left behind."""
        ...
