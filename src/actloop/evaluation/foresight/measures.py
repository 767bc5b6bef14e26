"""From frames, imagined and real, to numbers: one moment at a time, then summed over a seed's.

c candidates (the policy's own first), k leads, p pixels of all imagined cameras in 0..1; d draws of the own chunk
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module

import numpy as np
from jaxtyping import Float

_SAME = 1e-6  # values closer than this are no ranking


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What one moment adds, by lead. Sums and means of squares over pixels.

    `error`, `still`: of the own chunk's imagined frames, and of expecting no change. `imagined`, `real`, `shared`: how
    far frames depart from their mean over the candidates, and the product of the two. `spread`, `missed`: variance
    between draws, and squared error of their mean; NaN of one draw.
    """

    task: str
    seed: int
    error: tuple[float, ...]
    still: tuple[float, ...]
    imagined: tuple[float, ...]
    real: tuple[float, ...]
    shared: tuple[float, ...]
    spread: tuple[float, ...]
    missed: tuple[float, ...]
    ranked: "Ranked | None" = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranked:
    """A value of each candidate: of the frames that were imagined, of no change of the picture, of those that came."""

    imagined: tuple[float, ...]
    still: tuple[float, ...]
    real: tuple[float, ...]

    @property
    def tells(self) -> bool:
        """Whether the candidates really differ."""
        return max(self.real) - min(self.real) > _SAME

    def agreement(self, by: Sequence[float]) -> float:
        """Kendall's tau-b of an order of the candidates with the true one: 1 the same, 0 none or all alike."""
        tau = float(import_module("scipy.stats").kendalltau(by, self.real).statistic) if _varies(by) else 0.0
        return tau if math.isfinite(tau) else 0.0

    def regret(self, by: Sequence[float]) -> float:
        """What taking the first by this order loses against taking the best; of equals, their mean."""
        top = max(by)
        taken = [real for guess, real in zip(by, self.real, strict=True) if guess >= top - _SAME]
        return max(self.real) - sum(taken) / len(taken)

    @property
    def regret_by_chance(self) -> float:
        return max(self.real) - sum(self.real) / len(self.real)


def measure_frames(
    task: str,
    seed: int,
    *,
    imagined: Float[np.ndarray, "c k p"],
    real: Float[np.ndarray, "c k p"],
    still: Float[np.ndarray, "p"],
    draws: Float[np.ndarray, "d k p"],
    ranked: Ranked | None = None,
) -> Measured:
    """All sums of one moment."""
    change, true_change = imagined - imagined.mean(axis=0), real - real.mean(axis=0)
    several = len(draws) > 1
    spread = draws.var(axis=0, ddof=1).mean(axis=-1) if several else np.full(draws.shape[1], math.nan)
    missed = np.square(draws.mean(axis=0) - real[0]).mean(axis=-1) if several else spread
    return Measured(
        task=task,
        seed=seed,
        error=_listed(np.square(imagined[0] - real[0]).mean(axis=-1)),
        still=_listed(np.square(still - real[0]).mean(axis=-1)),
        imagined=_listed(np.square(change).mean(axis=(0, 2))),
        real=_listed(np.square(true_change).mean(axis=(0, 2))),
        shared=_listed((change * true_change).mean(axis=(0, 2))),
        spread=_listed(spread),
        missed=_listed(missed),
        ranked=ranked,
    )


def correlation(moments: Sequence[Measured], lead: int) -> float:
    """Of the imagined with the real departures, over all pixels: 0 where nothing imagined follows the chunk."""
    imagined, real, shared = (math.fsum(getattr(m, name)[lead] for m in moments) for name in _CHANGES)
    return shared / math.sqrt(imagined * real) if imagined > 0 and real > 0 else 0.0


def gain(moments: Sequence[Measured], lead: int) -> float:
    """Imagined over real departure, root mean square: 1 as much as the simulator's, 0 none; NaN if nothing departs."""
    imagined, real, _ = (math.fsum(getattr(m, name)[lead] for m in moments) for name in _CHANGES)
    return math.sqrt(imagined / real) if real > 0 else math.nan


def spread_over_skill(moments: Sequence[Measured], lead: int, draws: int) -> float:
    """Spread between draws over the error of their mean, 1 where the draws know how unsure they should be.

    Corrected for the number of draws as in Fortin et al. (2014); below 1 the model is too sure, NaN of one draw.
    """
    spread, missed = (math.fsum(getattr(m, name)[lead] for m in moments) for name in ("spread", "missed"))
    return math.sqrt((draws + 1) / draws * spread / missed) if missed > 0 else math.nan


_CHANGES = ("imagined", "real", "shared")


def _listed(values: np.ndarray) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def _varies(values: Sequence[float]) -> bool:
    return max(values) - min(values) > _SAME
