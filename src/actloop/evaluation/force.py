"""How hard an arm touched things: the hardest contact of each episode, and how often that was over a declared limit."""

from collections.abc import Sequence
from dataclasses import dataclass

from actloop.evaluation.cells import spread
from actloop.evaluation.records import Record
from actloop.evaluation.statistics import Interval, clopper_pearson, upper_bound


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardest:
    """Of one arm under one condition: the largest contact force of each episode, newtons (`ForceSensing`).

    Attributes:
        episodes: those in which it was measured.
        p50: of their peaks, as is `p95`.
        worst: the largest of all.
        where: task, seed and tick of that; None where nothing was touched.
        over: episodes in which it was above the declared limit; None where none is declared.
        over_share: of the episodes, with the exact interval; where none was over it, up to the one-sided bound.
    """

    episodes: int
    p50: float
    p95: float
    worst: float
    where: tuple[str, int, int] | None
    over: int | None = None
    over_share: Interval | None = None


def hardest_of(records: Sequence[Record], limit: float | None) -> Hardest | None:
    """None where no episode has it: another world, a folder from before, nothing but crashes."""
    found = [(force, record) for record in records if (force := record.get("watched", {}).get("force"))]
    if not found:
        return None
    peaks = [float(force["peak"]) for force, _ in found]
    force, record = max(found, key=lambda one: float(one[0]["peak"]))
    of = spread(peaks)
    over = None if limit is None else sum(peak > limit for peak in peaks)
    return Hardest(
        episodes=len(found),
        p50=of.p50,
        p95=of.p95,
        worst=float(force["peak"]),
        where=None if force["tick"] is None else (record["task"], record["seed"], force["tick"]),
        over=over,
        over_share=None if over is None else _share(over, len(found)),
    )


def _share(events: int, episodes: int) -> Interval:
    if events:
        return clopper_pearson(events, episodes)
    return Interval(value=0.0, low=0.0, high=upper_bound(0, episodes))
