"""One integer per component and step: RT-1's and RT-2's uniform bins, and OpenVLA's bins between quantiles.

               digits   encode                                   decode
    uniform    0..255   truncate((a - low) / (high - low) 255)   grid points, low and high among them
    centre     1..256   edges of [-1, 1] after a normaliser      the 255 centres between the edges

Uniform bins are RT-1's (2212.06817, released code), which RT-2 (2307.15818) takes over: what is truncated reads back
too low, by half a bin on average. OpenVLA's (2406.09246, released code) have 256 edges and so 255 intervals: digit 256
is +1 itself, and reads back as digit 255 does.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from actloop.actions.representation import Normalizes, checked
from actloop.errors import ContractError

COUNT = 256
NEAR = 1e-4  # of a bin: a grid point that lost its last bit in float32 is still its own digit

Digits = Int[np.ndarray, "*rows action"]


@runtime_checkable
class Bins(Protocol):
    """Integers for the components of actions, and back."""

    @property
    def name(self) -> str: ...

    @property
    def count(self) -> int:
        """How many digits there are."""
        ...

    @property
    def digits(self) -> range:
        """The digits, in order."""
        ...

    def encode(self, actions: Float[np.ndarray, "*rows action"]) -> Digits: ...

    def decode(self, digits: Digits) -> Float[np.ndarray, "*rows action"]: ...

    def size(self, learned: Digits) -> int: ...

    def bits(self, learned: Digits) -> float: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class UniformBins:
    """`count` grid points from `low` to `high` of each component, in its unit; what lies outside is clipped."""

    low: tuple[float, ...]
    high: tuple[float, ...]
    count: int = COUNT
    name: str = "uniform bins"

    def __post_init__(self) -> None:
        if not self.low or len(self.low) != len(self.high):
            raise ContractError("bins", f"low has {len(self.low)} values and high {len(self.high)}")
        if not np.isfinite([self.low, self.high]).all() or not np.less(self.low, self.high).all():
            raise ContractError("bins", f"every low must be below its high, got {self.low} and {self.high}")
        _check_count(self.count)

    @property
    def digits(self) -> range:
        return range(self.count)

    def encode(self, actions: Float[np.ndarray, "*rows action"]) -> Digits:
        """Digits 0..count - 1; the last one for `high` alone.

        Raises:
            ContractError: another number of components, or one that is not finite.
        """
        low, high = np.array(self.low), np.array(self.high)
        inside = np.clip(checked(actions, size=len(self.low)), low, high)
        digits: Digits = np.trunc((inside - low) / (high - low) * (self.count - 1) + NEAR).astype(np.int64)
        return digits

    def decode(self, digits: Digits) -> Float[np.ndarray, "*rows action"]:
        """Physical values of the digits, float64.

        Raises:
            ContractError: another number of components, or no digits of these bins.
        """
        low, high = np.array(self.low), np.array(self.high)
        grid = _checked_digits(digits, self.digits, len(self.low)) / (self.count - 1)
        actions: Float[np.ndarray, "*rows action"] = grid * (high - low) + low
        return actions

    def size(self, learned: Digits) -> int:
        """One token per component and step."""
        return int(np.asarray(learned).size)

    def bits(self, learned: Digits) -> float:
        return self.size(learned) * float(np.log2(self.count))


@dataclass(frozen=True, slots=True, kw_only=True)
class CentreBins:
    """`count` edges across [-1, 1] of what the normaliser makes; what lies outside is clipped."""

    normalizer: Normalizes
    count: int = COUNT
    name: str = "quantile bins"

    def __post_init__(self) -> None:
        _check_count(self.count)

    @property
    def digits(self) -> range:
        return range(1, self.count + 1)

    @property
    def centres(self) -> Float[np.ndarray, "intervals"]:
        """Normalised values that can be read back, rising: `count` - 1 of them."""
        edges = np.linspace(-1.0, 1.0, self.count)
        return np.asarray((edges[:-1] + edges[1:]) / 2)

    def encode(self, actions: Float[np.ndarray, "*rows action"]) -> Digits:
        """Digits 1..count; the last one for a normalised +1 or more alone.

        Raises:
            ContractError: another number of components, or one that is not finite.
        """
        normalised = np.clip(checked(self.normalizer.normalize(checked(actions))), -1.0, 1.0)
        digits: Digits = np.digitize(normalised, np.linspace(-1.0, 1.0, self.count)).astype(np.int64)
        return digits

    def decode(self, digits: Digits) -> Float[np.ndarray, "*rows action"]:
        """Physical values of the digits; the last two digits are the same value.

        Raises:
            ContractError: no digits of these bins.
        """
        index = np.minimum(_checked_digits(digits, self.digits, None) - 1, self.count - 2)
        return self.normalizer.denormalize(self.centres[index])

    def size(self, learned: Digits) -> int:
        """One token per component and step."""
        return int(np.asarray(learned).size)

    def bits(self, learned: Digits) -> float:
        return self.size(learned) * float(np.log2(self.count))


def uniform_bins(
    low: Float[np.ndarray, "action"], high: Float[np.ndarray, "action"], count: int = COUNT
) -> UniformBins:
    """Uniform bins between fixed bounds, in physical units.

    Raises:
        ContractError: bounds of different lengths, not finite, or a low that is not below its high.
    """
    return UniformBins(low=tuple(map(float, low)), high=tuple(map(float, high)), count=count)


def centre_bins(normalizer: Normalizes, count: int = COUNT) -> CentreBins:
    """OpenVLA's bins, within what the normaliser maps to [-1, 1]."""
    return CentreBins(normalizer=normalizer, count=count)


def _check_count(count: int) -> None:
    if count < 2:
        raise ContractError("bins", f"expected a count of at least 2, got {count}")


def _checked_digits(digits: np.ndarray, legal: range, size: int | None) -> np.ndarray:
    """The digits as int64, refused where they are none of these bins or of another width."""
    given = np.asarray(digits)
    if given.dtype.kind not in "iu":
        raise ContractError("digits", f"expected integers, got {given.dtype}")
    if size is not None and (given.ndim < 1 or given.shape[-1] != size):
        raise ContractError("digits", f"expected {size} components in the last axis, got shape {given.shape}")
    outside = (given < legal.start) | (given >= legal.stop)
    if outside.any():
        raise ContractError("digits", f"expected {legal.start} to {legal.stop - 1}, got {int(given[outside][0])}")
    return given.astype(np.int64)
