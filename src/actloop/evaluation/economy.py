"""What prediction is worth: computing is paid for in every episode, a failure where one happens.

    cost of an episode = seconds of computing + failure cost * P(failure)       all in seconds of computing

As a failure costs more, arms that compute more and fail less become the cheapest: the lower envelope of lines.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Economy:
    """An arm in this reckoning: seconds of computing per episode, the share that fails, computing per robot second."""

    computed: float
    failure: float
    rate: float

    def cost(self, failure_cost: float) -> float:
        return self.computed + failure_cost * self.failure


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """The arm that is the cheapest while a failure costs `low` to `high` seconds of computing."""

    arm: str
    low: float
    high: float


def affordable(arms: Mapping[str, Economy], budget: float | None) -> dict[str, Economy]:
    """The arms that stay within a budget of computing per second of robot time; all where there is none."""
    return {name: arm for name, arm in arms.items() if budget is None or arm.rate <= budget}


def cheapest(arms: Mapping[str, Economy], failure_cost: float) -> str:
    """The arm with the lowest cost of an episode; among equals the one that computes least."""
    return min(arms, key=lambda name: (arms[name].cost(failure_cost), arms[name].computed))


def envelope(arms: Mapping[str, Economy]) -> list[Stretch]:
    """The cheapest arm for every cost of a failure, from 0 up."""
    found: list[Stretch] = []
    low, name = 0.0, cheapest(arms, 0.0)
    while True:
        best = arms[name]
        rivals = {
            other: (arm.computed - best.computed) / (best.failure - arm.failure)
            for other, arm in arms.items()
            if arm.failure < best.failure
        }
        high = min((max(cost, low) for cost in rivals.values()), default=math.inf)
        if high > low:
            found.append(Stretch(arm=name, low=low, high=high))
        if math.isinf(high):
            return found
        takers = {other: arms[other] for other, cost in rivals.items() if max(cost, low) == high}
        low, name = high, min(takers, key=lambda other: (takers[other].failure, takers[other].computed))
