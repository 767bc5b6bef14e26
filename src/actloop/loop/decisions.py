"""What the controller decides, as records: questions, refusals, moves on the ladder, and what became of a reply."""

import math
from dataclasses import dataclass

from actloop.contracts import Committed
from actloop.loop.questions import Layer, Ticket
from actloop.loop.schedule import Delivery


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A question to put to a layer now. `deadline` is on the loop's clock."""

    ticket: Ticket
    why: str
    instruction: str
    deadline: float = math.inf
    candidates: int = 1
    committed: Committed | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A question that was not put, or a rung not taken, and what was done in its place."""

    layer: Layer
    why: str
    instead: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A move on the ladder: from one rung to another, and which check's alarm led to it."""

    rung: str
    before: str
    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """What became of a reply: whether it was used and, if not, why."""

    accepted: bool
    reason: str = ""
    delay: int = 0
    skipped: float = 0
    steps: tuple[Step, ...] = ()
    refusals: tuple[Refusal, ...] = ()

    @classmethod
    def of(cls, delivery: Delivery) -> "Received":
        """What became of a chunk."""
        return cls(accepted=delivery.accepted, reason=delivery.reason, delay=delivery.delay, skipped=delivery.skipped)
