"""Bins written in the vocabulary of a language model, as one representation: chunk -> digits -> token ids, and back."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from actloop.actions.bins import Bins
from actloop.actions.representation import Chunk
from actloop.actions.tokens import TokenMap
from actloop.errors import ContractError


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenBins:
    """Steps one after another, each component by component; `width` components to a step.

    `vocabulary` counts the different tokens that may stand there.
    """

    bins: Bins
    tokens: TokenMap
    width: int
    vocabulary: int
    name: str

    def encode(self, actions: Chunk) -> list[int]:
        """Token ids of one chunk.

        Raises:
            ContractError: another number of components, or not finite.
        """
        return self.tokens.ids(self.bins.encode(actions).ravel().tolist())

    def decode(self, learned: Sequence[int]) -> Chunk:
        """Physical units.

        Raises:
            ContractError: the ids write no digits of these bins, or no whole steps.
        """
        digits = self.tokens.digits(learned)
        if not digits or len(digits) % self.width:
            raise ContractError("tokens", f"{len(digits)} digits are no whole steps of {self.width} components")
        return self.bins.decode(np.array(digits, dtype=np.int64).reshape(-1, self.width))

    def size(self, learned: Sequence[int]) -> int:
        """Tokens."""
        return len(learned)

    def bits(self, learned: Sequence[int]) -> float:
        return len(learned) * math.log2(self.vocabulary)
