"""Does the body follow what was sent? Two checks that need no model and no pictures.

Proprioception   measured pose against the path of what was sent, the gripper left out
Grasp            measured opening against what it was when it had settled under the same command
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float

from actloop.checks.described import GRIPPER, described, known, ranges
from actloop.checks.evidence import Evidence, Score
from actloop.contracts import Embodiment, Part
from actloop.errors import ContractError

_SMALLEST = 1e-6  # of a range: a component that never strayed has no scale of its own


@dataclass(slots=True)
class _Body:
    embodiment: Embodiment | None = None


@dataclass(frozen=True, kw_only=True)
class Proprioception:
    """How far the body is from the path of what was sent, as the root mean square of whitened components.

        absolute   targets                                   compared with the state part of the same name and size
        delta      the anchor's pose + the sum of what was sent since the anchor
        velocity   the same, each times the period; or, where the state is in the command's own unit, like absolute

    A servo lags: the residual is taken to the nearest point of the line through the last `lag` + 1 points, part by
    part. A sum is no turn for large rotations in three dimensions: leave such parts out.

    Attributes:
        parts: action parts to compare; default: all that have a state part of their name and size, but for grippers.
        scales: what a component's residual is divided by, in its unit, in the order compared; default: its range.
            `whitened` measures them.
        lag: ticks that the body may be behind.
    """

    parts: tuple[str, ...] | None = None
    scales: tuple[float, ...] | None = None
    lag: int = 1
    name: str = "proprioception"
    _body: _Body = field(default_factory=_Body, init=False, repr=False, compare=False)

    @property
    def identity(self) -> str:
        return described("proprioception", parts=self.parts, scales=self.scales, lag=self.lag)

    def begin(self, embodiment: Embodiment, instruction: str, *, seed: int) -> None:
        """Start an episode.

        Raises:
            ContractError: a part that was named cannot be compared, or there are not as many scales as components.
        """
        measured = {part.name: part.size for part in embodiment.state.parts}
        for name in self.parts or ():
            size = embodiment.action.slice(name)
            if measured.get(name) != size.stop - size.start:
                raise ContractError(f"check.{self.name}.parts", f"no state part {name!r} of the action part's size")
        count = sum(part.size for part in self._compared(embodiment))
        if self.scales is not None and len(self.scales) != count:
            raise ContractError(f"check.{self.name}.scales", f"expected {count}, got {len(self.scales)}")
        self._body.embodiment = embodiment

    def score(self, evidence: Evidence) -> Score | None:
        embodiment = known(self._body.embodiment, self.name)
        residual = self.residual(evidence)
        if residual is None:
            return None
        value = float(np.sqrt(np.mean((residual / self._scale(embodiment)) ** 2)))
        return Score(value=value, lead=evidence.lead)

    def residual(self, evidence: Evidence) -> Float[np.ndarray, "compared"] | None:
        """Measured minus expected, in physical units, the compared parts in the order of the action's."""
        embodiment = known(self._body.embodiment, self.name)
        compared = self._compared(embodiment)
        if not compared or len(evidence.sent) == 0:
            return None
        scale, residuals, start = self._scale(embodiment), [], 0
        for part in compared:
            measured = evidence.observation.state[embodiment.state.slice(part.name)].astype(np.float64)
            path = self._path(evidence, embodiment, part)[-(self.lag + 1) :]
            residuals.append(_off(measured, path, scale[start : start + part.size]))
            start += part.size
        return np.concatenate(residuals)

    def whitened(self, residuals: Sequence[Float[np.ndarray, "compared"]]) -> "Proprioception":
        """This check with its scales measured: the root mean square of each component over undisturbed moments.

        Raises:
            ContractError: no residuals.
        """
        if not residuals:
            raise ContractError(f"check.{self.name}.whitened", "expected residuals of undisturbed moments, got none")
        rms = np.sqrt(np.mean(np.square(np.stack(list(residuals))), axis=0))
        floor = max(float(rms.max()), 1.0) * _SMALLEST
        return replace(self, scales=tuple(float(value) for value in np.maximum(rms, floor)))

    def _compared(self, embodiment: Embodiment) -> list[Part]:
        measured = {part.name: part.size for part in embodiment.state.parts}
        return [
            part
            for part in embodiment.action.parts
            if (part.name in self.parts if self.parts is not None else not part.name.startswith(GRIPPER))
            and measured.get(part.name) == part.size
        ]

    def _scale(self, embodiment: Embodiment) -> Float[np.ndarray, "compared"]:
        if self.scales is not None:
            return np.array(self.scales)
        states = ranges(embodiment.state)
        parts = [states[embodiment.state.slice(part.name)] for part in self._compared(embodiment)]
        return np.concatenate(parts)

    def _path(self, evidence: Evidence, embodiment: Embodiment, part: Part) -> Float[np.ndarray, "points part"]:
        """Where the part was to be after each tick since the anchor, which is its first point."""
        measured = next(one for one in embodiment.state.parts if one.name == part.name)
        sent = evidence.sent[:, embodiment.action.slice(part.name)].astype(np.float64)
        first = evidence.anchor.state[embodiment.state.slice(part.name)].astype(np.float64)
        if part.kind == "absolute" or (part.kind == "velocity" and measured.unit == part.unit):
            return np.concatenate([first[None], sent])
        steps = sent if part.kind == "delta" else sent * embodiment.period
        return first + np.concatenate([np.zeros((1, part.size)), np.cumsum(steps, axis=0)])


def _off(
    point: Float[np.ndarray, "part"], path: Float[np.ndarray, "points part"], scale: Float[np.ndarray, "part"]
) -> Float[np.ndarray, "part"]:
    """From the nearest point of the line through `path` to `point`; near as measured in `scale`."""
    if len(path) == 1:
        return point - path[0]
    start, along = path[:-1] / scale, np.diff(path, axis=0) / scale
    length = np.sum(along**2, axis=1)
    share = np.sum((point / scale - start) * along, axis=1) / np.where(length > 0, length, 1.0)
    near = start + np.clip(share, 0.0, 1.0)[:, None] * along
    off = point / scale - near
    nearest: Float[np.ndarray, "part"] = off[int(np.argmin(np.sum(off**2, axis=1)))] * scale
    return nearest


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
