"""How well alarms tell: false alarms, recall, delay. Pure functions over normalised scores, for evaluations."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from actloop.checks.conformal import Rate

Watched = Mapping[int, float]
"""One episode: the largest normalised score at each tick that was checked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Detection:
    """What alarms were worth over many episodes.

    Attributes:
        false_alarms: episodes without an event that raised one; only successful ones are promised anything.
        early: episodes with an event that raised one before it.
        recall: episodes with an event that raised one at it or later, in time.
        delays: ticks from the event to the first alarm at it or later, for each that was found.
    """

    false_alarms: Rate
    early: Rate
    recall: Rate
    delays: tuple[int, ...]

    @property
    def median_delay(self) -> float:
        """Ticks, of those found; NaN where nothing was."""
        return float(np.median(self.delays)) if self.delays else math.nan


def detection(
    episodes: Sequence[Watched],
    onsets: Sequence[int | None],
    *,
    threshold: float,
    within: int | None = None,
) -> Detection:
    """Alarms, scores above `threshold`, against what happened: the tick of the event, None where nothing did.

    An event counts as found where an alarm comes at its tick or later, at most `within` ticks later where given.
    """
    quiet, early, found, delays = [], [], [], []
    for watched, onset in zip(episodes, onsets, strict=True):
        alarms = sorted(tick for tick, value in watched.items() if value > threshold)
        if onset is None:
            quiet.append(bool(alarms))
            continue
        early.append(any(tick < onset for tick in alarms))
        delay = next((tick - onset for tick in alarms if tick >= onset), None)
        found.append(delay is not None and (within is None or delay <= within))
        if delay is not None and found[-1]:
            delays.append(delay)
    return Detection(
        false_alarms=Rate.counted(quiet),
        early=Rate.counted(early),
        recall=Rate.counted(found),
        delays=tuple(delays),
    )


def auroc(events: Sequence[float], others: Sequence[float]) -> float:
    """How often an episode with an event has a larger maximum than one without, ties half; NaN where one is empty."""
    if not events or not others:
        return math.nan
    one, other = np.array(events)[:, None], np.array(others)[None]
    return float(np.mean((one > other) + 0.5 * (one == other)))
