"""One scale for all checks: what a score is worth among the scores of its lead, and an episode's worst among worsts.

score --> over its lead's median, in upper spreads of that lead
      --> over the episodes' median maximum, in distances from there to their 1 - tail quantile --> value
"""

import bisect
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from actloop.checks.evidence import Score
from actloop.errors import ContractError

ENOUGH = 20  # scores that a lead needs; one with fewer borrows those of the nearest leads
UPPER = 0.9  # quantile whose distance from the median is a lead's spread: what matters is how far up scores reach
STILL = 1e-3  # the spread of a check that never varied and names no resolution


@dataclass(frozen=True, slots=True, kw_only=True)
class Normaliser:
    """Brings the scores of one check to one scale: 0 a usual episode's worst, 1 one that is exceeded in a share
    `tail` of them.

    A score is compared with those of its lead, of the nearest known one where its own is not known.
    """

    leads: tuple[int, ...]
    medians: tuple[float, ...]
    spreads: tuple[float, ...]
    centre: float = 0.0
    scale: float = 1.0

    @classmethod
    def fit(cls, episodes: Sequence[Sequence[Score]], *, tail: float) -> "Normaliser":
        """From the finite scores of one check in successful episodes, those without any left out.

        Raises:
            ContractError: no scores.
        """
        scores = [score for episode in episodes for score in episode]
        values, leads = np.array([score.value for score in scores]), np.array([score.lead for score in scores])
        if not len(values):
            raise ContractError("normaliser", "expected scores, got none in any episode to fit on")
        resolution = max(score.resolution for score in scores)
        floor = max(0.1 * float(values.std()), resolution, STILL if np.ptp(values) == 0 else 0.0)
        known = sorted({int(lead) for lead in leads})
        near = [values[_nearest(leads, lead)] for lead in known]
        medians = tuple(float(np.median(some)) for some in near)
        spreads = tuple(max(float(np.quantile(some, UPPER) - np.median(some)), floor) for some in near)
        plain = cls(leads=tuple(known), medians=medians, spreads=spreads)
        maxima = [max(plain.value(score) for score in episode) for episode in episodes if episode]
        centre = float(np.median(maxima))
        scale = max(float(np.quantile(maxima, 1 - tail)) - centre, 0.5)
        return cls(leads=plain.leads, medians=medians, spreads=spreads, centre=centre, scale=scale)

    def value(self, score: Score) -> float:
        """The score on the common scale; about 0 to 1 while all is well."""
        at = bisect.bisect_left(self.leads, score.lead)
        if at == len(self.leads) or (at and score.lead - self.leads[at - 1] <= self.leads[at] - score.lead):
            at -= 1
        return ((score.value - self.medians[at]) / self.spreads[at] - self.centre) / self.scale

    def to_dict(self) -> dict[str, object]:
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "Normaliser":
        """What `to_dict` wrote; raises `KeyError`, `TypeError` or `ValueError` where it is damaged."""
        leads = tuple(int(lead) for lead in plain["leads"])
        medians, spreads = (tuple(float(value) for value in plain[name]) for name in ("medians", "spreads"))
        numbers = (*medians, *spreads, float(plain["centre"]), float(plain["scale"]))
        if not len(leads) == len(medians) == len(spreads) > 0 or not np.isfinite(numbers).all() or min(spreads) <= 0:
            raise ValueError("a normaliser needs a finite median and a positive spread for each lead")
        return cls(leads=leads, medians=medians, spreads=spreads, centre=numbers[-2], scale=numbers[-1])


def _nearest(leads: np.ndarray, lead: int) -> np.ndarray:
    """Which scores are of this lead, and of leads ever further away on both sides until there are enough."""
    apart = np.abs(leads - lead)
    reach = np.sort(apart)[min(ENOUGH, len(apart)) - 1]
    return np.asarray(apart <= reach)
