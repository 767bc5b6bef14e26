"""What bounds the motion of a robot, by action part, and what becomes of it on the tick grid of a body."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields

import numpy as np
from jaxtyping import Bool, Float, Int

from actloop.contracts import Embodiment, Part
from actloop.errors import ContractError, UnknownNameError
from actloop.loop.path import Kinds

Bound = float | Sequence[float | None] | None
"""One number for all components of a part, one for each, or None for none."""

UNBOUNDED = 1e9  # stands for no bound, in units per tick: infinity would turn sums into NaN
FAR = 8.0  # the magnitude at which float32 rounding is counted where a part has no bounds of its own


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds by the name of an action part, one number per component; a part that is not named has none.

    Attributes:
        velocity: the part's unit per second; of velocity parts the unit itself.
        acceleration: that per second.
        jerk: that per second squared.
        low: of the position: of absolute parts the targets, of delta parts where they lead, as measured.
        high: likewise.
    """

    velocity: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    acceleration: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    jerk: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    low: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    high: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    @classmethod
    def none(cls) -> "Limits":
        """No bounds but the action space's own."""
        return cls()

    @classmethod
    def of(
        cls,
        embodiment: Embodiment,
        *,
        velocity: Mapping[str, Bound] | None = None,
        acceleration: Mapping[str, Bound] | None = None,
        jerk: Mapping[str, Bound] | None = None,
        low: Mapping[str, Bound] | None = None,
        high: Mapping[str, Bound] | None = None,
    ) -> "Limits":
        """Limits for a body.

        Raises:
            UnknownNameError: the body has no action part of that name.
            ContractError: a bound is negative, NaN, of the wrong length, or too small for float32 commands.
        """
        given = {"velocity": velocity, "acceleration": acceleration, "jerk": jerk, "low": low, "high": high}
        limits = cls(**{name: _spread(embodiment, name, bounds or {}) for name, bounds in given.items()})
        Grid.of(embodiment, limits)
        return limits

    @property
    def moving(self) -> bool:
        """Whether anything bounds the motion or the position beyond the action space."""
        return any(getattr(self, each.name) for each in fields(self))

    def to_dict(self) -> dict[str, dict[str, list[float | None]]]:
        """JSON-ready: by bound, by part; None where a component has none."""
        return {
            each.name: {
                part: [value if math.isfinite(value) else None for value in values]
                for part, values in getattr(self, each.name).items()
            }
            for each in fields(self)
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Mapping[str, Sequence[float | None]]]) -> "Limits":
        """What `to_dict` wrote.

        Raises:
            ContractError: it is of another form.
        """
        known = [each.name for each in fields(cls)]
        for name in plain:
            if name not in known:
                raise UnknownNameError("limits", name, known)
        try:
            return cls(
                **{
                    name: {part: tuple(_number(name, value) for value in values) for part, values in bounds.items()}
                    for name, bounds in plain.items()
                }
            )
        except (AttributeError, TypeError, ValueError) as error:
            raise ContractError("limits", f"expected numbers by part name, got {plain!r}") from error


def _number(name: str, value: float | None) -> float:
    if value is None:
        return -math.inf if name == "low" else math.inf
    return float(value)


def _spread(embodiment: Embodiment, name: str, bounds: Mapping[str, Bound]) -> dict[str, tuple[float, ...]]:
    """One number per component of each named part."""
    parts = {part.name: part for part in embodiment.action.parts}
    spread = {}
    for part, bound in bounds.items():
        path = f"limits.{name}.{part}"
        if part not in parts:
            raise UnknownNameError(f"limits.{name}", part, parts)
        if name in ("low", "high") and parts[part].kind == "velocity":
            raise ContractError(path, "a velocity part has no position to bound; bound its velocity")
        given = [bound] * parts[part].size if bound is None or isinstance(bound, int | float) else list(bound)
        values = tuple(_number(name, value) for value in given)
        if len(values) != parts[part].size:
            raise ContractError(path, f"expected {parts[part].size} values, got {len(values)}")
        if any(math.isnan(value) for value in values):
            raise ContractError(path, f"expected numbers, got {values}")
        if name not in ("low", "high") and any(value <= 0 for value in values):
            raise ContractError(path, f"expected more than 0 (None for no bound), got {values}")
        spread[part] = values
    return spread


Numbers = Float[np.ndarray, "action"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Limits per tick and component: positions, displacements per tick, their differences and second differences.

    Velocity parts are treated as displacements too. What is planned is tighter than what is allowed by what float32
    rounds away, so that the differences of what is sent keep the limits themselves.
    """

    kinds: Kinds
    arm: Bool[np.ndarray, "action"]  # times the path: all but grippers
    positioned: Bool[np.ndarray, "action"]  # has a position box: absolute, or delta with a measured position
    measured: Int[np.ndarray, "action"]  # index into the state of where it is, -1 where the state does not say
    neutral: Numbers  # where it is before anything was sent, NaN where the state says it
    low: Numbers
    high: Numbers
    slowest: Numbers
    fastest: Numbers
    acceleration: Numbers
    jerk: Numbers
    grain: Numbers  # what float32 resolves
    allowed: Float[np.ndarray, "bounds action"]  # slowest, fastest, acceleration and jerk as declared

    def take(self, which: Bool[np.ndarray, "action"]) -> "Grid":
        """The rows of some components."""
        kinds = Kinds(*(getattr(self.kinds, each.name)[which] for each in fields(Kinds)))
        rows = {each.name: getattr(self, each.name)[..., which] for each in fields(self) if each.name != "kinds"}
        return Grid(kinds=kinds, **rows)

    @classmethod
    def of(cls, embodiment: Embodiment, limits: Limits) -> "Grid":
        """The limits of a body on its tick grid.

        Raises:
            UnknownNameError: the body has no part of a name in the limits.
            ContractError: a limit does not fit the body, or is finer than float32 commands of this rate can keep.
        """
        columns = [column for part in embodiment.action.parts for column in _columns(embodiment, limits, part)]
        for each in fields(limits):
            _spread(embodiment, each.name, getattr(limits, each.name))
        kinds = Kinds.of(embodiment)
        table = {name: np.array([column[name] for column in columns]) for name in columns[0]}
        return cls(
            kinds=kinds,
            arm=kinds.gripper if kinds.gripper.all() else ~kinds.gripper,  # a body that is only a gripper is its arm
            positioned=table["positioned"].astype(bool),
            measured=table["measured"].astype(int),
            neutral=table["neutral"],
            low=table["low"],
            high=table["high"],
            slowest=table["slowest"],
            fastest=table["fastest"],
            acceleration=table["acceleration"],
            jerk=table["jerk"],
            grain=table["grain"],
            allowed=np.stack([table[f"allowed {name}"] for name in ("slowest", "fastest", "acceleration", "jerk")]),
        )


def _columns(embodiment: Embodiment, limits: Limits, part: Part) -> list[dict[str, float]]:
    state = {part.name: part for part in embodiment.state.parts}
    sensed = state.get(part.name)
    known = sensed is not None and sensed.size == part.size
    start = embodiment.state.slice(part.name).start if known else -1
    columns = []
    for index in range(part.size):
        bounds = {
            name: (getattr(limits, name).get(part.name) or (_number(name, None),) * part.size)[index]
            for name in ("velocity", "acceleration", "jerk", "low", "high")
        }
        low, high = -math.inf, math.inf
        if part.kind == "absolute":
            low, high = part.low[index], part.high[index]
        elif part.kind == "delta" and sensed is not None and known:
            low, high = sensed.low[index], sensed.high[index]
        elif math.isfinite(bounds["low"]) or math.isfinite(bounds["high"]):
            raise ContractError(f"limits.{part.name}", "a position box needs a state part of the same name and size")
        low, high = _inner(max(low, bounds["low"]), min(high, bounds["high"]))
        if low > high:
            raise ContractError(f"limits.{part.name}", f"the position box is empty: {low:g} to {high:g}")
        column = {
            "measured": float(start + index if known else -1),
            "neutral": math.nan if part.neutral is None else part.neutral[index],
            "positioned": float(part.kind == "absolute" or (part.kind == "delta" and known)),
            "low": max(low, -UNBOUNDED),
            "high": min(high, UNBOUNDED),
        }
        columns.append(column | _rates(embodiment, part, index, bounds, low, high))
    return columns


def _rates(
    embodiment: Embodiment, part: Part, index: int, bounds: Mapping[str, float], low: float, high: float
) -> dict[str, float]:
    """Displacement per tick and its differences: declared, and planned with room for rounding."""
    period = embodiment.period
    first = 1.0 if part.kind == "velocity" else period
    velocity, acceleration, jerk = (
        bounds[name] * first * period**power for power, name in enumerate(("velocity", "acceleration", "jerk"))
    )
    slowest, fastest = -velocity, velocity
    if part.kind != "absolute":
        least, most = _inner(part.low[index], part.high[index])
        slowest, fastest = max(slowest, least), min(fastest, most)
        if slowest > 0 or fastest < 0:
            raise ContractError(f"limits.{part.name}", f"its action space does not hold rest: {least:g} to {most:g}")
    ends = (low, high) if part.kind == "absolute" else (slowest, fastest)
    sizes = [abs(end) for end in ends if math.isfinite(end)]
    grain = float(np.spacing(np.float32(max(sizes) if len(sizes) == 2 else FAR)))
    for name, value, rounded in (("velocity", velocity, 1), ("acceleration", acceleration, 2), ("jerk", jerk, 4)):
        if value < 2 * rounded * grain:
            finest = 2 * rounded * grain * bounds[name] / value
            raise ContractError(
                f"limits.{name}.{part.name}",
                f"{bounds[name]:g} is finer than float32 commands at {embodiment.control_hz:g} Hz can keep: "
                f"take at least {finest:.3g}, or none",
            )
    far = min(high - low, UNBOUNDED) if part.kind == "absolute" else UNBOUNDED
    planned = {"slowest": max(slowest + grain, -far), "fastest": min(fastest - grain, far)}
    if part.kind != "absolute":
        planned = {"slowest": min(planned["slowest"], 0.0), "fastest": max(planned["fastest"], 0.0)}
    swing = max(planned["fastest"] - planned["slowest"], grain)
    planned["acceleration"] = min(acceleration - 2 * grain, swing)
    planned["jerk"] = min(jerk - 4 * grain, 2 * planned["acceleration"])
    declared = {"slowest": slowest, "fastest": fastest, "acceleration": acceleration, "jerk": jerk}
    return planned | {"grain": grain} | {f"allowed {name}": value for name, value in declared.items()}


def _inner(low: float, high: float) -> tuple[float, float]:
    """The widest float32 box inside, so that rounding does not leave it."""
    below, above = np.float32(low), np.float32(high)
    below = np.nextafter(below, np.float32(np.inf)) if float(below) < low else below
    above = np.nextafter(above, np.float32(-np.inf)) if float(above) > high else above
    return float(below), float(above)
