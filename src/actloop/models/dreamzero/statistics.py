"""Statistics of a robot's states and actions, and the maps between physical units and what the network learns.

    quantile    2 (x - q01) / (q99 - q01) - 1, clipped to -1..1; a component of no spread passes through   (released)
    range       the same with the minimum and the maximum

Of relative actions the statistics are those of the differences.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields

import numpy as np
from jaxtyping import Float

from actloop.errors import ContractError, UnknownNameError

BOUNDS = {"quantile": ("q01", "q99"), "range": ("min", "max")}
MIN_SPREAD = 1e-4  # in the component's unit; measured spreads below it count as none


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorStatistics:
    """Of a vector's components, in its own units."""

    min: tuple[float, ...]
    max: tuple[float, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    q01: tuple[float, ...]
    q99: tuple[float, ...]

    def __post_init__(self) -> None:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        if len({len(value) for value in values.values()}) != 1 or not self.min:
            raise ContractError("statistics", f"of different lengths: { {k: len(v) for k, v in values.items()} }")
        if not all(np.isfinite(value).all() for value in values.values()):
            raise ContractError("statistics", "not finite")
        for low, high in BOUNDS.values():
            if np.greater(values[low], values[high]).any():
                raise ContractError("statistics", f"{low} is above {high}: {values[low]} and {values[high]}")

    @classmethod
    def of(cls, rows: Float[np.ndarray, "rows size"]) -> "VectorStatistics":
        """Measured; a component without spread has its quantiles at its median.

        Raises:
            ContractError: no rows.
        """
        if rows.ndim != 2 or not len(rows):
            raise ContractError("statistics", f"expected rows of a vector, got shape {rows.shape}")
        wide = rows.astype(np.float64)
        low, middle, high = np.quantile(wide, [0.01, 0.5, 0.99], axis=0)
        flat = high - low < MIN_SPREAD
        found = {
            "min": wide.min(0),
            "max": wide.max(0),
            "mean": wide.mean(0),
            "std": wide.std(0),
            "q01": np.where(flat, middle, low),
            "q99": np.where(flat, middle, high),
        }
        return cls(**{name: tuple(value.tolist()) for name, value in found.items()})

    @classmethod
    def joined(cls, parts: Sequence["VectorStatistics"]) -> "VectorStatistics":
        """Of vectors one behind the other."""
        names = [field.name for field in fields(cls)]
        return cls(**{name: tuple(value for part in parts for value in getattr(part, name)) for name in names})

    @classmethod
    def from_dict(cls, plain: Mapping[str, object], path: str = "statistics") -> "VectorStatistics":
        """What `to_dict` wrote, or one key of a released metadata.json.

        Raises:
            ContractError: names the field that is missing or not a list of numbers.
        """
        found = {}
        for field in fields(cls):
            value = plain.get(field.name)
            if not isinstance(value, list | tuple) or not all(isinstance(x, int | float) for x in value):
                what = "missing" if field.name not in plain else f"expected numbers, got {value!r}"
                raise ContractError(f"{path}.{field.name}", what)
            found[field.name] = tuple(float(x) for x in value)
        try:
            return cls(**found)
        except ContractError as error:
            raise ContractError(path, error.reason) from error

    def to_dict(self) -> dict[str, object]:
        """JSON-ready form, read back by `from_dict`."""
        return {name: list(value) for name, value in asdict(self).items()}

    @property
    def size(self) -> int:
        return len(self.min)

    def normalize(self, values: Float[np.ndarray, "*rows size"], method: str) -> Float[np.ndarray, "*rows size"]:
        """To -1..1, clipped, float32."""
        low, high, flat = self._bounds(method)
        scaled = np.where(flat, values, 2 * (values - low) / np.where(flat, 1.0, high - low) - 1)
        found: np.ndarray = np.clip(scaled, -1.0, 1.0).astype(np.float32)
        return found

    def denormalize(self, values: Float[np.ndarray, "*rows size"], method: str) -> Float[np.ndarray, "*rows size"]:
        """Back to physical units, float64; what lies outside of -1..1 is not clipped."""
        low, high, flat = self._bounds(method)
        wide = np.asarray(values, np.float64)
        found: np.ndarray = np.where(flat, wide, (wide + 1) / 2 * (high - low) + low)
        return found

    def _bounds(self, method: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if method not in BOUNDS:
            raise UnknownNameError("normalizer", method, BOUNDS)
        low, high = (np.array(getattr(self, name)) for name in BOUNDS[method])
        return low, high, low == high


@dataclass(frozen=True, slots=True, kw_only=True)
class RobotStatistics:
    """Of states, and of actions as the network sees them: relative parts as differences."""

    state: VectorStatistics
    action: VectorStatistics

    def to_dict(self) -> dict[str, object]:
        return {"state": self.state.to_dict(), "action": self.action.to_dict()}

    @classmethod
    def from_dict(cls, plain: Mapping[str, object]) -> "RobotStatistics":
        """What `to_dict` wrote.

        Raises:
            ContractError: names what is missing.
        """
        found = {}
        for name in ("state", "action"):
            part = plain.get(name)
            if not isinstance(part, Mapping):
                raise ContractError(f"statistics.{name}", f"missing; got {sorted(plain)}")
            found[name] = VectorStatistics.from_dict(part, f"statistics.{name}")
        return cls(**found)


def merged(parts: Sequence[RobotStatistics], weights: Sequence[float]) -> RobotStatistics:
    """Of a mixture of datasets, as released: weighted means and deviations, the outermost of all bounds.

    Raises:
        ContractError: no parts, another number of weights, or weights that are not positive.
    """
    if not parts or len(parts) != len(weights) or min(weights) <= 0:
        raise ContractError("weights", f"expected {len(parts)} positive numbers, got {list(weights)}")
    share = np.array(weights) / np.sum(weights)

    def vector(found: Sequence[VectorStatistics]) -> VectorStatistics:
        stacked = {field.name: np.array([getattr(one, field.name) for one in found]) for field in fields(found[0])}
        mean = share @ stacked["mean"]
        square = share @ (stacked["std"] ** 2 + stacked["mean"] ** 2)
        joined = {
            "mean": mean,
            "std": np.sqrt(np.maximum(square - mean**2, 0)),
            **{name: stacked[name].min(0) for name in ("min", "q01")},
            **{name: stacked[name].max(0) for name in ("max", "q99")},
        }
        return VectorStatistics(**{name: tuple(value.tolist()) for name, value in joined.items()})

    return RobotStatistics(state=vector([part.state for part in parts]), action=vector([part.action for part in parts]))
