"""Between physical units and what a network learns: `normalised = (physical - offset) / scale`.

    rows --mean_std | min_max | quantile--> Normalizer <--RELEASED_METHODS-- statistics file of a released checkpoint

Zero-range rule: a component whose spread (standard deviation or whole range, in its unit) is below `MIN_SPREAD` carries
nothing to learn; its scale is 1, so it normalises to about 0 and decodes to about its mean.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from actloop.errors import ContractError, DataError

MIN_SPREAD = 1e-4
LIMIT = 5.0
MASKED_FLOOR = 1e-8
STD_FLOOR = 1e-8
RELEASED_FIELDS = ("min", "max", "mean", "std", "q01", "q99")

ReleasedStats = dict[str, Float[np.ndarray, "size"]]


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


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskedNormalizer:
    """OpenVLA's map (2406.09246, released code): [low, high] becomes [-1, 1] and is clipped to it where `mask` is true.

    The other components pass through: OpenVLA's gripper, 1 open and 0 closed. A masked component that `constant` names
    never moved in the data: it is learned as 0 and read back as `low`. The released code learns constants that are not
    masked as 0 as well, and so loses them; here they pass through.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    mask: tuple[bool, ...]
    constant: tuple[bool, ...] = ()

    def __post_init__(self) -> None:
        sizes = {len(self.low), len(self.high), len(self.mask), len(self.constant) or len(self.mask)}
        if len(sizes) != 1 or not self.low:
            raise ContractError("normalizer", f"low, high, mask and constant are of different lengths, {sorted(sizes)}")
        if not np.isfinite([self.low, self.high]).all() or np.greater(self.low, self.high).any():
            raise ContractError("normalizer", f"every low must be at most its high, got {self.low} and {self.high}")

    @property
    def size(self) -> int:
        return len(self.low)

    def normalize(self, physical: Float[np.ndarray, "*rows size"]) -> Float[np.ndarray, "*rows size"]:
        """Masked components in [-1, 1], float32; the others as they are."""
        low, high = np.array(self.low), np.array(self.high)
        scaled = np.clip(2 * (physical - low) / (high - low + MASKED_FLOOR) - 1, -1.0, 1.0)
        if self.constant:
            scaled = np.where(self.constant, 0.0, scaled)
        normalised: Float[np.ndarray, "*rows size"] = np.where(self.mask, scaled, physical).astype(np.float32)
        return normalised

    def denormalize(self, normalised: Float[np.ndarray, "*rows size"]) -> Float[np.ndarray, "*rows size"]:
        """Physical units, unclamped, float64 as the released code answers."""
        low, high = np.array(self.low), np.array(self.high)
        wide = np.asarray(normalised, dtype=np.float64)
        physical: Float[np.ndarray, "*rows size"] = np.where(self.mask, 0.5 * (wide + 1) * (high - low) + low, wide)
        return physical

    def to_dict(self) -> dict[str, object]:
        """In the field names of OpenVLA's `norm_stats`; `from_stats` reads it."""
        constant = self.constant or (False,) * self.size
        return {"q01": list(self.low), "q99": list(self.high), "mask": list(self.mask), "constant": list(constant)}


def from_stats(stats: Mapping[str, object], path: str = "normalizer") -> MaskedNormalizer:
    """From one vector of OpenVLA's `norm_stats`, such as `norm_stats["bridge_orig"]["action"]`, or from `to_dict`.

    Reads `q01`, `q99`, `mask` (absent: all true) and, where present, `min` and `max`, equal for a constant component.

    Raises:
        ContractError: a field is missing, no list of numbers, or of another length.
    """
    low, high = _numbers(stats, "q01", path), _numbers(stats, "q99", path)
    mask = _truths(stats["mask"], f"{path}.mask") if stats.get("mask") is not None else (True,) * len(low)
    constant: tuple[bool, ...] = ()
    if "constant" in stats:
        constant = _truths(stats["constant"], f"{path}.constant")
    elif "min" in stats and "max" in stats:
        least, most = _numbers(stats, "min", path), _numbers(stats, "max", path)
        constant = tuple(a == b for a, b in zip(least, most, strict=False))
    return MaskedNormalizer(low=low, high=high, mask=mask, constant=constant if any(constant) else ())


def masked_quantile(values: Float[np.ndarray, "rows size"], mask: Sequence[bool] | None = None) -> MaskedNormalizer:
    """As OpenVLA fits it: the 1 % and 99 % quantiles of each component become -1 and 1; `mask` absent: all of them."""
    low, high = np.quantile(np.asarray(values, dtype=np.float64), [0.01, 0.99], axis=0)
    constant = tuple((values.min(0) == values.max(0)).tolist())
    return MaskedNormalizer(
        low=tuple(low.tolist()),
        high=tuple(high.tolist()),
        mask=(True,) * len(low) if mask is None else tuple(map(bool, mask)),
        constant=constant if any(constant) else (),
    )


def mean_std(values: Float[np.ndarray, "rows size"]) -> Normalizer:
    """Zero mean and unit standard deviation over the rows."""
    mean, std = values.mean(0), values.std(0)
    return _affine("mean_std", mean, np.where(std < MIN_SPREAD, 1.0, std))


def min_max(values: Float[np.ndarray, "rows size"]) -> Normalizer:
    """The rows' range becomes [-1, 1]."""
    return from_range(values.min(0), values.max(0))


def quantile(values: Float[np.ndarray, "rows size"], *, tail: float = 0.01) -> Normalizer:
    """The range between the two tail quantiles becomes [-1, 1]; what lies outside exceeds it."""
    low, high = np.quantile(values, [tail, 1 - tail], axis=0)
    return from_range(low, high, method="quantile")


def from_range(
    low: Float[np.ndarray, "size"], high: Float[np.ndarray, "size"], *, method: str = "min_max"
) -> Normalizer:
    """[low, high] becomes [-1, 1]; a component of no range keeps its unit, with `low` at 0."""
    flat = high - low < MIN_SPREAD
    return _affine(method, np.where(flat, low, (low + high) / 2), np.where(flat, 1.0, (high - low) / 2))


def from_moments(mean: Float[np.ndarray, "size"], std: Float[np.ndarray, "size"]) -> Normalizer:
    """The released z-score: `std` + 1e-8 is the scale, without the zero-range rule, so that a component that never
    moved in the data is clamped wherever it moves."""
    return _affine("z_score", mean, std + STD_FLOOR)


METHODS = {"mean_std": mean_std, "min_max": min_max, "quantile": quantile}

RELEASED_METHODS: dict[str, Callable[[ReleasedStats], Normalizer]] = {
    "min_max": lambda stats: from_range(stats["min"], stats["max"]),
    "z_score": lambda stats: from_moments(stats["mean"], stats["std"]),
}


def read_released_stats(
    path: str | Path, *, action_key: str = "default", state_key: str = "default"
) -> dict[str, ReleasedStats]:
    """The `global_*` statistics of `state` and `action` in a file that lies beside a released checkpoint.

    The keys name a vector within its group; the released sets have one each, `default`. Stepwise statistics in the
    file are not read: no released configuration uses them.

    Raises:
        DataError: no such file, no JSON, a key or a field missing, a field that is no vector of finite numbers or of
            another length than the others, a maximum below its minimum, a negative standard deviation.
    """
    path = Path(path)
    try:
        plain = json.loads(path.read_text())
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{path}: not a readable statistics file ({error})") from error
    return {group: _vectors(plain, group, key, path) for group, key in (("state", state_key), ("action", action_key))}


def _vectors(plain: object, group: str, key: str, path: Path) -> ReleasedStats:
    """The statistics of one vector, checked."""
    where = f"{path}: {group}.{key}"
    inside: object = plain
    for name in (group, key):
        if not isinstance(inside, dict) or name not in inside:
            keys = sorted(inside) if isinstance(inside, dict) else type(inside).__name__
            raise DataError(f"{where}: no {name!r} in the file, only {keys}")
        inside = inside[name]
    fields = inside if isinstance(inside, dict) else {}
    missing = [f"global_{name}" for name in RELEASED_FIELDS if f"global_{name}" not in fields]
    if missing:
        raise DataError(f"{where}: misses {', '.join(missing)}; has {sorted(fields)}")
    stats = {name: _vector(fields[f"global_{name}"], f"{where}.global_{name}") for name in RELEASED_FIELDS}
    sizes = {name: len(vector) for name, vector in stats.items()}
    if len(set(sizes.values())) != 1:
        raise DataError(f"{where}: fields of different lengths, {sizes}")
    if (stats["max"] < stats["min"]).any() or (stats["std"] < 0).any():
        raise DataError(f"{where}: a maximum lies below its minimum, or a standard deviation is negative")
    return stats


def _vector(plain: object, where: str) -> Float[np.ndarray, "size"]:
    try:
        vector = np.array(plain, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}: expected a list of numbers ({error})") from error
    if vector.ndim != 1 or not vector.size or not np.isfinite(vector).all():
        raise DataError(f"{where}: expected a list of finite numbers, got shape {vector.shape}")
    return vector


def _numbers(stats: Mapping[str, object], name: str, path: str) -> tuple[float, ...]:
    """One list of numbers of a statistics dictionary."""
    if name not in stats:
        raise ContractError(f"{path}.{name}", f"missing; got {sorted(stats)}")
    given = stats[name]
    if isinstance(given, np.ndarray):
        given = given.tolist()
    if not isinstance(given, Sequence) or not all(isinstance(value, int | float) for value in given):
        raise ContractError(f"{path}.{name}", f"expected a list of numbers, got {type(given).__name__}")
    return tuple(map(float, given))


def _truths(given: object, path: str) -> tuple[bool, ...]:
    """A list of true and false, of whatever type."""
    if isinstance(given, np.ndarray):
        given = given.tolist()
    if not isinstance(given, Sequence) or not all(value in (0, 1) for value in given):
        raise ContractError(path, f"expected a list of true and false, got {type(given).__name__}")
    return tuple(map(bool, given))


def _affine(method: str, offset: np.ndarray, scale: np.ndarray) -> Normalizer:
    return Normalizer(method=method, offset=tuple(map(float, offset)), scale=tuple(map(float, scale)))
