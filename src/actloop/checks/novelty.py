"""Was anything like this seen before? Distance to reference observations in an embedding."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from actloop.checks.described import described
from actloop.checks.evidence import Evidence, Score
from actloop.contracts import Embodiment, Observation
from actloop.errors import ContractError


@dataclass(frozen=True, kw_only=True)
class Novelty:
    """Mean distance to the nearest of the reference observations, each dimension over its spread among them.

    Attributes:
        embed: an observation to a vector.
        encoder: the name of `embed` and of its weights: it is part of the identity.
        reference: embeddings of observations of successful episodes, none of which are calibrated on.
        nearest: how many of them count.
    """

    embed: Callable[[Observation], np.ndarray]
    encoder: str
    reference: Float[np.ndarray, "observations dims"]
    nearest: int = 5
    name: str = "novelty"

    def __post_init__(self) -> None:
        if self.reference.ndim != 2 or not 1 <= self.nearest <= len(self.reference):
            shape = self.reference.shape
            raise ContractError(
                f"check.{self.name}.reference", f"expected (observations, dims), at least {self.nearest}, got {shape}"
            )

    @property
    def identity(self) -> str:
        return described("novelty", encoder=self.encoder, reference=self.reference, nearest=self.nearest)

    def begin(self, embodiment: Embodiment, instruction: str, *, seed: int) -> None:
        """Nothing is remembered between moments."""

    def score(self, evidence: Evidence) -> Score | None:
        seen = np.asarray(self.embed(evidence.observation), dtype=np.float64).ravel()
        if seen.size != self.reference.shape[1]:
            expected = f"expected {self.reference.shape[1]} dimensions as in the reference, got {seen.size}"
            raise ContractError(f"check.{self.name}.embed", expected)
        spread = self.reference.std(axis=0)
        scaled = (self.reference - seen) / np.where(spread > 0, spread, 1.0)
        distances = np.sqrt(np.mean(scaled**2, axis=1))
        return Score(value=float(np.partition(distances, self.nearest - 1)[: self.nearest].mean()), lead=0)
