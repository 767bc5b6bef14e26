"""Does the body follow what was sent? Needs no model and no pictures."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float

from actloop.checks.described import GRIPPER, described, known, ranges
from actloop.checks.evidence import Evidence, Score
from actloop.contracts import Action, Embodiment, Observation, Part, State
from actloop.errors import ContractError

RESOLUTION = 0.001  # of a range
WHITENED_RESOLUTION = 0.25  # of the scales that were measured
_SMALLEST = 1e-3  # of the largest scale: a component that never strayed has none of its own


@dataclass(frozen=True, slots=True)
class _Compared:
    """A part that is both commanded and measured. `rate` turns a command into a step; 0: it is a target."""

    command: slice
    measured: slice
    rate: float
    scale: np.ndarray

    def off(self, now: State, before: State, sent: Float[np.ndarray, "ticks action"], lag: int) -> np.ndarray:
        """Measured now minus the nearest point of the path of what was sent since `before`."""
        first, told = before[None, self.measured].astype(np.float64), sent[:, self.command].astype(np.float64)
        path = first + self.rate * np.cumsum(told, axis=0) if self.rate else told
        points = np.concatenate([first, path])[-(lag + 1) :] / self.scale
        return np.asarray(_off(now[self.measured] / self.scale, points) * self.scale)


@dataclass(slots=True)
class _Body:
    """What an episode has shown so far, for as long as it can matter."""

    embodiment: Embodiment | None = None
    compared: list[_Compared] = field(default_factory=list)
    seen: dict[int, State] = field(default_factory=dict)
    sent: dict[int, Action] = field(default_factory=dict)

    def since(self, evidence: Evidence, window: int) -> tuple[State, Float[np.ndarray, "ticks action"]] | None:
        """The latest pose of `window` ticks ago or more, or else the oldest, since when all that was sent is known."""
        obs, first = evidence.observation, evidence.anchor.tick
        self.sent |= {first + index: sent for index, sent in enumerate(evidence.sent)}
        self.seen |= {first: evidence.anchor.state, obs.tick: obs.state}
        for memory in (self.sent, self.seen):
            for tick in [tick for tick in memory if tick < min(obs.tick - 4 * window, first)]:
                del memory[tick]
        sent, found = [], None
        for tick in range(obs.tick - 1, min(self.seen) - 1, -1):
            if tick not in self.sent:
                break
            sent.append(self.sent[tick])
            if tick in self.seen:
                found = self.seen[tick], np.stack(sent[::-1])
                if obs.tick - tick >= window:
                    break
        return found


@dataclass(frozen=True, kw_only=True)
class Proprioception:
    """How far the body is from the path of what was sent, as the root mean square of whitened components.

        absolute   targets, compared with the state part of the same name and size
        delta      a measured pose of before + the sum of what was sent since
        velocity   the same, each times the period; or, where the state is in the command's own unit, like absolute

    The pose of before is one of at least `window` ticks ago, where all is known that was sent since: sums over many
    ticks drift wherever the robot touches something. The score's lead is how long ago it was. A servo lags: the
    residual is taken to the nearest point of the line through the last `lag` + 1 points, part by part. A sum is no turn
    for large rotations in three dimensions: leave such parts out.

    Attributes:
        parts: action parts to compare; default: all that have a state part of their name and size, but for grippers.
        scales: what a component's residual is divided by, in its unit, in the order compared; default: the largest
            range of its part. `whitened` measures them.
        lag: ticks that the body may be behind.
        window: ticks over which deltas are summed: longer ones find weaker and slower trouble, later.
    """

    parts: tuple[str, ...] | None = None
    scales: tuple[float, ...] | None = None
    lag: int = 1
    window: int = 1
    name: str = "proprioception"
    _body: _Body = field(default_factory=_Body, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.lag < 0 or self.window < 1:
            reason = f"expected a lag of 0 or more and a window of 1 or more, got {self.lag} and {self.window}"
            raise ContractError(f"check.{self.name}", reason)

    @property
    def identity(self) -> str:
        return described("proprioception", parts=self.parts, scales=self.scales, lag=self.lag, window=self.window)

    def begin(self, embodiment: Embodiment, instruction: str, *, seed: int) -> None:
        """Start an episode.

        Raises:
            ContractError: a part that was named cannot be compared, or there are not as many scales as components.
        """
        measured = {part.name: part for part in embodiment.state.parts}
        for name in self.parts or ():
            size = embodiment.action.slice(name)
            if name not in measured or measured[name].size != size.stop - size.start:
                raise ContractError(f"check.{self.name}.parts", f"no state part {name!r} of the action part's size")
        parts = [
            part
            for part in embodiment.action.parts
            if (part.name in self.parts if self.parts is not None else not part.name.startswith(GRIPPER))
            and part.name in measured
            and measured[part.name].size == part.size
        ]
        count = sum(part.size for part in parts)
        if self.scales is not None and len(self.scales) != count:
            raise ContractError(f"check.{self.name}.scales", f"expected {count}, got {len(self.scales)}")
        scales, compared = iter(self.scales or ()), []
        widths = ranges(embodiment.state)
        for part in parts:
            where = embodiment.state.slice(part.name)
            own = np.array([next(scales) for _ in part.low]) if self.scales else np.full(part.size, widths[where].max())
            rate = _rate(part, measured[part.name], embodiment.period)
            compared.append(_Compared(embodiment.action.slice(part.name), where, rate, own))
        self._body.embodiment, self._body.compared = embodiment, compared
        self._body.seen, self._body.sent = {}, {}

    def score(self, evidence: Evidence) -> Score | None:
        known(self._body.embodiment, self.name)
        since = self._body.since(evidence, max(self.window, self.lag))
        if since is None or not self._body.compared:
            return None
        scale = np.concatenate([part.scale for part in self._body.compared])
        value = float(np.sqrt(np.mean((self._residual(evidence.observation, *since) / scale) ** 2)))
        resolution = WHITENED_RESOLUTION if self.scales else RESOLUTION
        return Score(value=value, lead=len(since[1]), resolution=resolution)

    def residual(self, evidence: Evidence) -> Float[np.ndarray, "compared"] | None:
        """In the place of `score`: measured minus expected, in physical units, in the order of the action's parts."""
        known(self._body.embodiment, self.name)
        since = self._body.since(evidence, max(self.window, self.lag))
        return None if since is None or not self._body.compared else self._residual(evidence.observation, *since)

    def _residual(
        self, obs: Observation, before: State, sent: Float[np.ndarray, "ticks action"]
    ) -> Float[np.ndarray, "compared"]:
        return np.concatenate([part.off(obs.state, before, sent, self.lag) for part in self._body.compared])

    def whitened(self, residuals: Sequence[Float[np.ndarray, "compared"]]) -> "Proprioception":
        """This check with its scales measured: the root mean square of each component over undisturbed moments.

        Raises:
            ContractError: no residuals.
        """
        if not residuals:
            raise ContractError(f"check.{self.name}.whitened", "expected residuals of undisturbed moments, got none")
        rms = np.sqrt(np.mean(np.square(np.stack(list(residuals))), axis=0))
        floor = _SMALLEST * (float(rms.max()) or 1.0)
        return replace(self, scales=tuple(float(value) for value in np.maximum(rms, floor)))


def _rate(part: Part, measured: Part, period: float) -> float:
    if part.kind == "delta":
        return 1.0
    return period if part.kind == "velocity" and measured.unit != part.unit else 0.0


def _off(point: Float[np.ndarray, "part"], path: Float[np.ndarray, "points part"]) -> Float[np.ndarray, "part"]:
    """From the nearest point of the line through `path` to `point`."""
    if len(path) == 1:
        return np.asarray(point - path[0])
    start, along = path[:-1], np.diff(path, axis=0)
    length = np.sum(along**2, axis=1)
    share = np.sum((point - start) * along, axis=1) / np.where(length > 0, length, 1.0)
    off = point - start - np.clip(share, 0.0, 1.0)[:, None] * along
    return np.asarray(off[int(np.argmin(np.sum(off**2, axis=1)))])
