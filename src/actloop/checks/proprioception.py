"""Does the body follow what was sent? Needs no model and no pictures."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float

from actloop.checks.described import GRIPPER, described, known, ranges
from actloop.checks.evidence import Evidence, Score
from actloop.contracts import Action, Embodiment, Observation, Part, State
from actloop.errors import ContractError

_SMALLEST = 1e-3  # of the largest scale: a component that never strayed has none of its own


@dataclass(slots=True)
class _Body:
    embodiment: Embodiment | None = None
    seen: dict[int, State] = field(default_factory=dict)
    sent: dict[int, Action] = field(default_factory=dict)

    def learn(self, evidence: Evidence, window: int) -> None:
        """Remember what was measured, and what was sent in which tick, for as long as it can matter."""
        obs, first = evidence.observation, evidence.anchor.tick
        self.sent |= {first + index: sent for index, sent in enumerate(evidence.sent)}
        self.seen |= {first: evidence.anchor.state, obs.tick: obs.state}
        oldest = min(obs.tick - 4 * window, first)
        self.sent = {tick: sent for tick, sent in self.sent.items() if tick >= oldest}
        self.seen = {tick: seen for tick, seen in self.seen.items() if tick >= oldest}

    def path(self, now: int, window: int) -> tuple[State, Float[np.ndarray, "ticks action"]] | None:
        """The latest pose of `window` ticks ago or more, or else the oldest, since when all that was sent is known."""
        since, best = [], None
        for tick in range(now - 1, min(self.seen, default=now) - 1, -1):
            if tick not in self.sent:
                break
            since.append(self.sent[tick])
            if tick in self.seen:
                best = self.seen[tick], np.stack(since[::-1])
                if now - tick >= window:
                    break
        return best


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
        measured = {part.name: part.size for part in embodiment.state.parts}
        for name in self.parts or ():
            size = embodiment.action.slice(name)
            if measured.get(name) != size.stop - size.start:
                raise ContractError(f"check.{self.name}.parts", f"no state part {name!r} of the action part's size")
        count = sum(part.size for part in self._compared(embodiment))
        if self.scales is not None and len(self.scales) != count:
            raise ContractError(f"check.{self.name}.scales", f"expected {count}, got {len(self.scales)}")
        self._body.embodiment = embodiment
        self._body.seen, self._body.sent = {}, {}

    def score(self, evidence: Evidence) -> Score | None:
        embodiment = known(self._body.embodiment, self.name)
        path = self._since(evidence)
        residual = self._residual(evidence.observation, path)
        if path is None or residual is None:
            return None
        value = float(np.sqrt(np.mean((residual / self._scale(embodiment)) ** 2)))
        return Score(value=value, lead=len(path[1]))

    def residual(self, evidence: Evidence) -> Float[np.ndarray, "compared"] | None:
        """In the place of `score`: measured minus expected, in physical units, in the order of the action's parts."""
        return self._residual(evidence.observation, self._since(evidence))

    def _since(self, evidence: Evidence) -> tuple[State, Float[np.ndarray, "ticks action"]] | None:
        window = max(self.window, self.lag)
        self._body.learn(evidence, window)
        return self._body.path(evidence.observation.tick, window)

    def _residual(
        self, obs: Observation, since: tuple[State, Float[np.ndarray, "ticks action"]] | None
    ) -> Float[np.ndarray, "compared"] | None:
        embodiment = known(self._body.embodiment, self.name)
        compared = self._compared(embodiment)
        if not compared or since is None:
            return None
        scale, residuals, start = self._scale(embodiment), [], 0
        for part in compared:
            measured = obs.state[embodiment.state.slice(part.name)].astype(np.float64)
            path = _path(*since, embodiment, part)[-(self.lag + 1) :]
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
        floor = _SMALLEST * (float(rms.max()) or 1.0)
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
        parts = self._compared(embodiment)
        return np.concatenate([np.full(part.size, states[embodiment.state.slice(part.name)].max()) for part in parts])


def _path(
    before: State, sent: Float[np.ndarray, "ticks action"], embodiment: Embodiment, part: Part
) -> Float[np.ndarray, "points part"]:
    """Where the part was to be after each tick since it was at `before`, which is the first point."""
    measured = next(one for one in embodiment.state.parts if one.name == part.name)
    steps = sent[:, embodiment.action.slice(part.name)].astype(np.float64)
    first = before[embodiment.state.slice(part.name)].astype(np.float64)
    if part.kind == "absolute" or (part.kind == "velocity" and measured.unit == part.unit):
        return np.concatenate([first[None], steps])
    if part.kind == "velocity":
        steps = steps * embodiment.period
    path: Float[np.ndarray, "points part"] = first + np.concatenate([0 * first[None], np.cumsum(steps, axis=0)])
    return path


def _off(
    point: Float[np.ndarray, "part"], path: Float[np.ndarray, "points part"], scale: Float[np.ndarray, "part"]
) -> Float[np.ndarray, "part"]:
    """From the nearest point of the line through `path` to `point`; near as measured in `scale`."""
    if len(path) == 1:
        return np.asarray(point - path[0])
    start, along = path[:-1] / scale, np.diff(path, axis=0) / scale
    length = np.sum(along**2, axis=1)
    share = np.sum((point / scale - start) * along, axis=1) / np.where(length > 0, length, 1.0)
    near = start + np.clip(share, 0.0, 1.0)[:, None] * along
    off = point / scale - near
    nearest = int(np.argmin(np.sum(off**2, axis=1)))
    return np.asarray(off[nearest] * scale)
