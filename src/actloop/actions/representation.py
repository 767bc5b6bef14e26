"""What every action representation does: two verbs, and how much is lost between them.

chunk in physical units --encode--> what the model learns (integers or floats) --decode--> chunk in physical units

                module         learned
bins            bins.py        one integer per component and step
FAST            fast.py        a varying number of integers per chunk
continuous      continuous.py  one float per component and step: regression, diffusion and flow matching alike
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float

from actloop.errors import ContractError

Chunk = Float[np.ndarray, "horizon action"]
NAIVE_BITS = 8  # of one token of the naive representation, 256 bins


@runtime_checkable
class Normalizes(Protocol):
    """A map of each component between its physical unit and about [-1, 1]."""

    def normalize(self, physical: Float[np.ndarray, "*rows size"]) -> Float[np.ndarray, "*rows size"]: ...

    def denormalize(self, normalised: Float[np.ndarray, "*rows size"]) -> Float[np.ndarray, "*rows size"]: ...


@runtime_checkable
class Representation(Protocol):
    """One way of turning a chunk of actions into what a model learns."""

    @property
    def name(self) -> str: ...

    def encode(self, actions: Chunk) -> Any:
        """What the model learns, from physical units.

        Raises:
            ContractError: not `(horizon, action)`, or not finite.
        """
        ...

    def decode(self, learned: Any) -> Chunk:
        """Physical units, from what the model learns or answers.

        Raises:
            ContractError: no chunk has this form.
        """
        ...

    def size(self, learned: Any) -> int:
        """Tokens, or real dimensions, that the model answers for this chunk."""
        ...

    def bits(self, learned: Any) -> float:
        """Information that this chunk takes at most: tokens times log2 of their vocabulary, 32 for a real number."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """What is lost in one unit, per component; `rmse` over all steps, `largest` the largest error."""

    rmse: Float[np.ndarray, "action"]
    largest: Float[np.ndarray, "action"]

    @property
    def overall(self) -> tuple[float, float]:
        """Root mean square and largest error over all components: meaningful where they share a unit."""
        return float(np.sqrt(np.mean(self.rmse**2))), float(self.largest.max())


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconstruction:
    """What chunks become when they are encoded and decoded.

    Attributes:
        size: mean number of tokens, or dimensions, per chunk; `longest` the largest.
        physical: error of all values, in the unit of each component.
        normalised: error of the values within the range of a normaliser, in units of half that range.
        outside: share of the values that lie outside that range.
        fewer: how many times fewer tokens, or dimensions, than one per component and step.
        smaller: how many times fewer bits than 8 per component and step.
    """

    name: str
    chunks: int
    size: float
    longest: int
    physical: Loss
    normalised: Loss
    outside: float
    fewer: float
    smaller: float


def checked(actions: np.ndarray, path: str = "actions", *, size: int | None = None) -> Float[np.ndarray, "*rows size"]:
    """The actions as float64, refused where they are no finite rows of `size` components.

    Raises:
        ContractError: another number of components, or NaN or infinity somewhere.
    """
    rows: Float[np.ndarray, "*rows size"] = np.asarray(actions, dtype=np.float64)
    if rows.ndim < 1 or (size is not None and rows.shape[-1] != size):
        raise ContractError(path, f"expected {size or 'some'} components in the last axis, got shape {rows.shape}")
    if not np.isfinite(rows).all():
        first = tuple(int(index) for index in np.argwhere(~np.isfinite(rows))[0])
        raise ContractError(path, f"not finite (NaN or infinity) at {first} of shape {rows.shape}")
    return rows


def reconstruction(representation: Representation, chunks: Sequence[Chunk], normalizer: Normalizes) -> Reconstruction:
    """Encode and decode chunks and measure what is lost, in physical units and in those of `normalizer`.

    Raises:
        ContractError: no chunks, chunks of different widths, or a chunk that the representation refuses.
    """
    if not len(chunks) or len({chunk.shape[1:] for chunk in chunks}) != 1:
        shapes = sorted({chunk.shape for chunk in chunks})
        raise ContractError("chunks", f"expected at least one, all of one width, got shapes {shapes}")
    learned = [representation.encode(chunk) for chunk in chunks]
    given = np.concatenate(list(chunks)).astype(np.float64)
    error = np.abs(np.concatenate([representation.decode(one) for one in learned]) - given)
    low, high = (normalizer.denormalize(np.full(given.shape[1], end)).astype(np.float64) for end in (-1.0, 1.0))
    slack = 1e-6 * (high - low)  # of normalisers that answer in float32
    inside = (given >= low - slack) & (given <= high + slack)
    half = np.where(high > low, (high - low) / 2, 1.0)
    sizes = [representation.size(one) for one in learned]
    return Reconstruction(
        name=representation.name,
        chunks=len(chunks),
        size=float(np.mean(sizes)),
        longest=max(sizes),
        physical=_loss(error, np.ones_like(inside)),
        normalised=_loss(error / half, inside),
        outside=1 - float(inside.mean()),
        fewer=given.size / sum(sizes),
        smaller=given.size * NAIVE_BITS / sum(representation.bits(one) for one in learned),
    )


def _loss(error: Float[np.ndarray, "rows action"], counted: Bool[np.ndarray, "rows action"]) -> Loss:
    """Errors per component, of the values that count."""
    error = np.where(counted, error, 0.0)
    return Loss(rmse=np.sqrt((error**2).sum(axis=0) / np.maximum(counted.sum(axis=0), 1)), largest=error.max(axis=0))
