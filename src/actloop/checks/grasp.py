"""Do the fingers stay where they were told to be? Needs no model and no pictures: a lost object lets them close."""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from actloop.checks.described import GRIPPER, described, known, ranges
from actloop.checks.evidence import Evidence, Score
from actloop.contracts import Embodiment


@dataclass(slots=True)
class _Grip:
    embodiment: Embodiment | None = None
    last: np.ndarray | None = None
    tick: int = -1
    opening: np.ndarray | None = None
    command: np.ndarray | None = None
    strayed: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Grasp:
    """How far the fingers moved by themselves, as a share of their range: a lost object lets them close.

    Once the opening has settled under a command, it is remembered with it. The score is how far the opening is from
    there, less how far the command has strayed since; a command that strays by more than `steady` starts over. Units
    and signs of command and measurement may differ. No score while the fingers move as they are told to, nor where
    the body has no such parts.

    Attributes:
        part: the action part that is the gripper's absolute command.
        measured: the state part that is its opening.
        settled: share of the opening's range per tick; slower is at rest.
        steady: share of the command's range that a command may stray by.
    """

    part: str = GRIPPER
    measured: str = GRIPPER
    settled: float = 0.02
    steady: float = 0.2
    name: str = "grasp"
    _grip: _Grip = field(default_factory=_Grip, init=False, repr=False, compare=False)

    @property
    def identity(self) -> str:
        return described("grasp", part=self.part, measured=self.measured, settled=self.settled, steady=self.steady)

    def begin(self, embodiment: Embodiment, instruction: str, *, seed: int) -> None:
        grip = _Grip(embodiment=embodiment)
        for name in _Grip.__slots__:
            setattr(self._grip, name, getattr(grip, name))

    def score(self, evidence: Evidence) -> Score | None:
        embodiment, grip = known(self._grip.embodiment, self.name), self._grip
        action, state = embodiment.action, embodiment.state
        told = any(part.name == self.part and part.kind == "absolute" for part in action.parts)
        seen = any(part.name == self.measured for part in state.parts)
        if not (told and seen) or len(evidence.sent) == 0:
            return None
        where = state.slice(self.measured)
        opening = evidence.observation.state[where] / ranges(state)[where]
        where = action.slice(self.part)
        commands = evidence.sent[-max(1, evidence.observation.tick - max(grip.tick, evidence.anchor.tick)) :, where]
        commands = commands / ranges(action)[where]
        still = grip.last is not None and self._at_rest(opening, evidence.observation.tick)
        grip.last, grip.tick = opening, evidence.observation.tick
        if grip.command is not None:
            grip.strayed = max(grip.strayed, float(np.abs(commands - grip.command).max()))
            if grip.strayed > self.steady:
                grip.command = grip.opening = None
        if grip.command is None or grip.opening is None:
            if still:
                grip.command, grip.opening, grip.strayed = commands[-1], opening, 0.0
            return None
        moved = float(np.abs(opening - grip.opening).max()) - grip.strayed
        return Score(value=max(0.0, moved), lead=0)

    def _at_rest(self, opening: Float[np.ndarray, "part"], tick: int) -> bool:
        assert self._grip.last is not None
        ticks = max(1, tick - self._grip.tick)
        return float(np.abs(opening - self._grip.last).max()) <= self.settled * ticks
