"""Actions as real numbers: what regression, flow matching and diffusion learn, and the arithmetic of flow matching.

    chunk --Continuous.encode--> normalised chunk --> L1 or L2 regression
                                                  --> flow matching: x = (1 - level) data + level noise,
                                                      velocity = noise - data, Euler from level 1 (noise) to 0 (data)
                                                  --> diffusion: models/action_diffusion.py, which needs torch

The noise level runs as in models/flow.py and as pi0's own time (2410.24164). The formulas use operators alone, so that
they take NumPy arrays and torch tensors alike.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from actloop.actions.representation import Chunk, Normalizes, checked
from actloop.errors import ContractError

FLOW_STEPS = 10  # of pi0
REAL_BITS = 32

Array = Any  # a NumPy array or a torch tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Continuous:
    """Normalised values; nothing is lost, except outside [-1, 1] where a sampler clips (`clip`)."""

    normalizer: Normalizes
    clip: bool = False
    name: str = "continuous"

    def encode(self, actions: Chunk) -> Float[np.ndarray, "horizon action"]:
        """Normalised values, float32.

        Raises:
            ContractError: not finite.
        """
        normalised = self.normalizer.normalize(checked(actions)).astype(np.float32)
        return np.clip(normalised, -1, 1) if self.clip else normalised

    def decode(self, learned: Float[np.ndarray, "horizon action"]) -> Chunk:
        """Physical units.

        Raises:
            ContractError: not finite.
        """
        values = checked(learned, "learned")
        return self.normalizer.denormalize(np.clip(values, -1, 1) if self.clip else values)

    def size(self, learned: Float[np.ndarray, "horizon action"]) -> int:
        """Real dimensions."""
        return int(np.asarray(learned).size)

    def bits(self, learned: Float[np.ndarray, "horizon action"]) -> float:
        return float(self.size(learned) * REAL_BITS)


def noised(data: Array, noise: Array, level: Array | float) -> Array:
    """Data on its straight way to noise; `level` in [0, 1] broadcasts against them."""
    return (1 - level) * data + level * noise


def flow_velocity(data: Array, noise: Array) -> Array:
    """What the network learns at any level: the change of `noised` with the level."""
    return noise - data


def flow_levels(random: np.random.Generator, count: int) -> Float[np.ndarray, "count"]:
    """Levels to train at: 0.999 Beta(1.5, 1) + 0.001, more of them near noise (pi0, 2410.24164, appendix B)."""
    return np.asarray(0.999 * random.beta(1.5, 1.0, count) + 0.001)


def euler(velocity: Callable[[Array, float], Array], noise: Array, steps: int = FLOW_STEPS) -> Array:
    """From noise to data in even Euler steps; `velocity(x, level)` is asked at levels 1, 1 - 1/steps, ..., 1/steps.

    Raises:
        ContractError: fewer steps than one.
    """
    if steps < 1:
        raise ContractError("flow.steps", f"expected at least 1, got {steps}")
    x = noise
    for step in range(steps):
        x = x - velocity(x, 1 - step / steps) / steps
    return x
