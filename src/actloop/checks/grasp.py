"""Do the fingers stay where something stopped them? Needs no model and no pictures: a lost object lets them close."""

from dataclasses import dataclass, field

import numpy as np

from actloop.checks.described import GRIPPER, described, known
from actloop.checks.evidence import Evidence, Score
from actloop.contracts import Embodiment, Space

RESOLUTION = 0.1  # of the gap: fingers give that much without losing anything


@dataclass(slots=True)
class _Grip:
    embodiment: Embodiment | None = None
    tick: int = 0
    opening: float = 0.0
    command: float = 0.0
    resting: int = 0
    held: float | None = None

    def begin(self, embodiment: Embodiment) -> None:
        self.embodiment, self.tick, self.resting, self.held = embodiment, -1, 0, None


@dataclass(frozen=True, kw_only=True)
class Grasp:
    """The share of the gap to their command that fingers closed after something had held them open: 1 when it is lost.

    Opening and command count in shares of their ranges, 0 closed and 1 open. Fingers that rest while their command is
    lower and steady are held by something at that opening. No score where nothing is held or where the command lets
    go, nor where the body has no such parts. What slips slower than `settled` is not seen.

    Attributes:
        part: the action part that is the gripper's absolute command; its first component counts.
        measured: the state part that is its opening; its first component counts.
        inverted: the command is high where it closes.
        gap: share of the range by which fingers must be kept from their command.
        settled: share of the range per tick, of the opening; slower is at rest.
        steady: share of the range between two looks, of the command; less is no change.
        rest: ticks for which both must last.
    """

    part: str = GRIPPER
    measured: str = GRIPPER
    inverted: bool = False
    gap: float = 0.1
    settled: float = 0.02
    steady: float = 0.1
    rest: int = 1
    name: str = "grasp"
    _grip: _Grip = field(default_factory=_Grip, init=False, repr=False, compare=False)

    @property
    def identity(self) -> str:
        names = ("part", "measured", "inverted", "gap", "settled", "steady", "rest")
        return described("grasp", **{name: getattr(self, name) for name in names})

    def begin(self, embodiment: Embodiment, instruction: str, *, seed: int) -> None:
        self._grip.begin(embodiment)

    def score(self, evidence: Evidence) -> Score | None:
        embodiment, grip = known(self._grip.embodiment, self.name), self._grip
        told = any(part.name == self.part and part.kind == "absolute" for part in embodiment.action.parts)
        seen = any(part.name == self.measured for part in embodiment.state.parts)
        tick = evidence.observation.tick
        if not (told and seen) or len(evidence.sent) == 0 or tick <= grip.tick:
            return None
        opening = _share(embodiment.state, self.measured, evidence.observation.state)
        command = _share(embodiment.action, self.part, evidence.sent[-1])
        command = 1.0 - command if self.inverted else command
        passed = tick - grip.tick if grip.tick >= 0 else 0
        still = abs(opening - grip.opening) <= self.settled * passed and abs(command - grip.command) <= self.steady
        grip.resting = grip.resting + passed if still else 0
        grip.tick, grip.opening, grip.command = tick, opening, command
        if grip.held is not None and grip.held - command < self.gap:
            grip.held = None  # told to let go
        score = None
        if grip.held is not None:
            closed = (grip.held - opening) / (grip.held - command)
            score = Score(value=min(max(0.0, closed), 1.0), lead=0, resolution=RESOLUTION)
        if grip.resting >= self.rest and opening - command >= self.gap:
            grip.held = opening
        return score


def _share(space: Space, part: str, vector: np.ndarray) -> float:
    where = space.slice(part).start
    return float((vector[where] - space.low[where]) / (space.high[where] - space.low[where]))
