"""Between physical units and what a network learns: `normalised = (physical - offset) / scale`.

Zero-range rule: a component whose spread is below `MIN_SPREAD` of its declared range (or of 1) carries nothing to
learn; its scale is 1 (in its unit), so it normalises to 0 and decodes to its mean.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from actloop.errors import ContractError

MIN_SPREAD = 1e-4
LIMIT = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Normalizer:
    """An affine map per component; the same object serves states and actions, single vectors and batches."""

    method: str
    offset: tuple[float, ...]
    scale: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.offset) != len(self.scale):
            raise ContractError("normalizer", f"{len(self.offset)} offsets but {len(self.scale)} scales")
        if not all(np.isfinite(self.offset)) or not all(np.isfinite(self.scale)) or min(self.scale) <= 0:
            raise ContractError("normalizer", "offsets and scales must be finite, scales positive")

    def normalize(self, physical: Float[np.ndarray, "*rows size"]) -> Float[np.ndarray, "*rows size"]:
        """Unit scale, clamped to +-5: an outlier must not drive the network where it has never been."""
        centred = (physical - np.asarray(self.offset)) / np.asarray(self.scale)
        clamped: Float[np.ndarray, "*rows size"] = np.clip(centred, -LIMIT, LIMIT).astype(np.float32)
        return clamped

    def denormalize(self, normalised: Float[np.ndarray, "*rows size"]) -> Float[np.ndarray, "*rows size"]:
        """Physical units, unclamped."""
        physical: Float[np.ndarray, "*rows size"] = normalised * np.asarray(self.scale) + np.asarray(self.offset)
        return physical.astype(np.float32)

    def to_dict(self) -> dict[str, object]:
        return {"method": self.method, "offset": list(self.offset), "scale": list(self.scale)}


def from_dict(plain: Mapping[str, object]) -> Normalizer:
    """What `Normalizer.to_dict` wrote.

    Raises:
        ContractError: a field is missing or not a list of numbers.
    """
    offset, scale = plain.get("offset"), plain.get("scale")
    if not isinstance(offset, Sequence) or not isinstance(scale, Sequence):
        raise ContractError("normalizer", f"expected lists 'offset' and 'scale', got {sorted(plain)}")
    return Normalizer(method=str(plain.get("method")), offset=tuple(map(float, offset)), scale=tuple(map(float, scale)))


def mean_std(values: Float[np.ndarray, "rows size"]) -> Normalizer:
    """Zero mean and unit standard deviation over the rows."""
    return _guarded("mean_std", values.mean(0), values.std(0))


def min_max(values: Float[np.ndarray, "rows size"]) -> Normalizer:
    """The rows' range becomes [-1, 1]."""
    low, high = values.min(0), values.max(0)
    return _guarded("min_max", (low + high) / 2, (high - low) / 2)


def quantile(values: Float[np.ndarray, "rows size"], *, tail: float = 0.01) -> Normalizer:
    """The range between the two tail quantiles becomes [-1, 1]; what lies outside exceeds it."""
    low, high = np.quantile(values, [tail, 1 - tail], axis=0)
    return _guarded("quantile", (low + high) / 2, (high - low) / 2)


METHODS = {"mean_std": mean_std, "min_max": min_max, "quantile": quantile}


def _guarded(method: str, offset: np.ndarray, spread: np.ndarray) -> Normalizer:
    scale = np.where(spread < MIN_SPREAD, 1.0, spread)
    return Normalizer(method=method, offset=tuple(map(float, offset)), scale=tuple(map(float, scale)))
