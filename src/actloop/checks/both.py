"""Two checks that must both object: what the robot sees and what the policy wants to do about it."""

from dataclasses import dataclass, field

from actloop.checks.described import described
from actloop.checks.evidence import Check, Evidence, Score
from actloop.checks.normaliser import Normaliser
from actloop.contracts import Embodiment


@dataclass(slots=True)
class _Windows:
    sides: tuple[list[tuple[int, float]], list[tuple[int, float]]] = field(default_factory=lambda: ([], []))


@dataclass(frozen=True, kw_only=True)
class Both:
    """The smaller of two normalised scores, each the mean over the last `window` ticks: an alarm needs both sides.

    What is new to the eye is often harmless, and what makes a policy waver is often decided well; both at once seldom
    are (after FIPER). No score while a side has none in the window.

    It is calibrated in two steps: the normalisers are fitted on scores of successful episodes, then this check on
    *others*, like any check.

    Attributes:
        observation: the side of what is seen: foresight, novelty, frozen cameras.
        action: the side of what is done: disagreement, spread, proprioception.
        normalisers: of the two sides, in this order.
        window: ticks.
    """

    observation: Check
    action: Check
    normalisers: tuple[Normaliser, Normaliser]
    window: int = 8
    name: str = "both"
    _windows: _Windows = field(default_factory=_Windows, init=False, repr=False, compare=False)

    @property
    def identity(self) -> str:
        scales = [normaliser.to_dict() for normaliser in self.normalisers]
        sides = [self.observation.identity, self.action.identity]
        return described("both", sides=sides, window=self.window, normalisers=scales)

    def begin(self, embodiment: Embodiment, instruction: str, *, seed: int) -> None:
        for check, window in zip((self.observation, self.action), self._windows.sides, strict=True):
            check.begin(embodiment, instruction, seed=seed)
            window.clear()

    def score(self, evidence: Evidence) -> Score | None:
        tick, values = evidence.observation.tick, []
        sides = zip((self.observation, self.action), self.normalisers, self._windows.sides, strict=True)
        for check, normaliser, window in sides:
            score = check.score(evidence)
            if score is not None:
                window.append((tick, normaliser.value(score)))
            window[:] = [(at, value) for at, value in window if at > tick - self.window]
            values.append(sum(value for _, value in window) / len(window) if window else None)
        seen, done = values
        return None if seen is None or done is None else Score(value=min(seen, done), lead=0)
