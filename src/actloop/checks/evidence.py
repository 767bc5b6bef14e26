"""What a check may look at, and what it answers: a number, lower is better.

Evidence --Check.score--> Score --Calibration--> Reading (a score over its threshold is an alarm)
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from actloop.contracts import Embodiment, Observation, Prediction


@dataclass(frozen=True, slots=True, kw_only=True)
class Overtaken:
    """A plan that a newer one replaced: what it had meant for the ticks that the newer one has now."""

    prediction: Prediction
    offset: float
    """Its `chunk.actions[i + offset]` is meant for the tick of the newer chunk's `actions[i]`, `i + offset >= 0`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """One moment of an episode: what is seen now, and what the plan in force expected.

    Attributes:
        observation: of now.
        anchor: the observation that the plan in force was computed from.
        prediction: that plan, with its future where one was imagined.
        progress: actions of the plan's chunk that have been executed; a fraction where the robot was slowed down.
        sent: what was sent in each tick since the anchor, holds among them.
        instruction: what the policy was told.
        overtaken: the plan before, where the present one replaced one.
    """

    observation: Observation
    anchor: Observation
    prediction: Prediction
    progress: float
    sent: Float[np.ndarray, "ticks action"]
    instruction: str
    overtaken: Overtaken | None = None

    @property
    def lead(self) -> int:
        """Ticks from the anchor to now: how far ahead the prediction had to look."""
        return self.observation.tick - self.anchor.tick


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """How far reality is from the prediction, `lead` ticks after it was made; scores of one lead are comparable.

    Differences in `value` below `resolution` mean nothing: a calibration takes no spread to be smaller.
    """

    value: float
    lead: int
    resolution: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """A score beside its threshold. `value` is normalised by the calibration; `alarm` where it is over `threshold`."""

    check: str
    raw: float
    lead: int
    value: float
    threshold: float

    @property
    def alarm(self) -> bool:
        return self.value > self.threshold


@runtime_checkable
class Check(Protocol):
    """Says how far reality is from the prediction. Stateless between moments, but for what `begin` resets."""

    @property
    def name(self) -> str: ...

    @property
    def identity(self) -> str:
        """Changes with everything that changes its scores: parameters, weights, codec."""
        ...

    def begin(self, embodiment: Embodiment, instruction: str, *, seed: int) -> None:
        """Start an episode."""
        ...

    def score(self, evidence: Evidence) -> Score | None:
        """None where there is nothing to compare at this moment."""
        ...
