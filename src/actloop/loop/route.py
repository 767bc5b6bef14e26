"""A path made ready for the governor: clipped to the box, with what each of its segments allows."""

import math

import numpy as np
from jaxtyping import Bool, Float

from actloop.loop.braking import ease_one
from actloop.loop.limits import Grid
from actloop.loop.path import Path

Numbers = Float[np.ndarray, "axes"]
SHARE = 0.9  # of the limits is for slowing down along the path; the rest is for its bends meanwhile
BEND = 0.1
TINY = 1e-30  # stands for a component that does not move along a segment
LONGEST = 400  # ticks of a stop that are looked at


class Route:
    """Where a path leads the arm's components, in the governor's coordinates."""

    def __init__(self, path: Path, grid: Grid, which: Bool[np.ndarray, "action"], low: Numbers, high: Numbers) -> None:
        vertices = path.vertices[:, which]
        if grid.kinds.velocity.any():
            summed = np.cumsum(path.actions[:, which], axis=0, dtype=np.float64)
            summed = np.concatenate([np.zeros((1, len(low))), summed])
            vertices = np.where(grid.kinds.velocity, summed, vertices)
        self._grid, self._low, self._high, self._raw = grid, low, high, vertices
        self._bend = 1.0 / np.minimum(grid.acceleration, grid.jerk)
        self.shift = np.full(len(low), math.nan)
        self.moved = False

    def raw(self, at: float) -> Numbers:
        """Where progress `at` is before any shift."""
        return _between(self._raw, at)

    def move(self, shift: Numbers) -> None:
        """Shift it, and clip it to the box."""
        grid, self.shift = self._grid, shift
        moved = self._raw + shift
        self.points = np.minimum(np.maximum(moved, self._low), self._high)
        self._cut = (self.points != moved).any(axis=1)
        self._uncut = not self._cut.any()
        self.steps = self.points[1:] - self.points[:-1]
        size = np.abs(self.steps)
        self.inverse = 1.0 / np.where(size > TINY, self.steps, TINY)
        self.per_acceleration = (size / grid.acceleration).max(axis=1)
        self.per_jerk = (size / grid.jerk).max(axis=1)
        hard = ((self.steps > grid.fastest) | (self.steps < grid.slowest)).any(axis=1)
        hard[1:] |= (np.abs(self.steps[1:] - self.steps[:-1]) * self._bend).max(axis=1) > BEND
        self._hard = np.flatnonzero(hard)  # segments to slow down before

    def cut(self, at: float, end: float) -> bool:
        """Whether the box clipped it between two places."""
        return not self._uncut and bool(self._cut[min(int(at) + 1, len(self)) : math.ceil(end) + 1].any())

    def __len__(self) -> int:
        return len(self.steps)

    def point(self, at: float) -> Numbers:
        """Where progress `at` is."""
        return _between(self.points, at)

    def places(self, at: Float[np.ndarray, "time"]) -> Float[np.ndarray, "time axes"]:
        """Where each progress is."""
        low = np.minimum(at.astype(np.intp), len(self.steps) - 1)
        return self.points[low] + (at - low)[:, None] * self.steps[low]

    def segment(self, at: float) -> int:
        """The segment that begins at or holds progress `at`."""
        return min(int(at), len(self.steps) - 1)

    def until_hard(self, at: float) -> float:
        """How far ahead the next bend or fast segment is; infinite where there is none."""
        index = int(np.searchsorted(self._hard, at))
        return float(self._hard[index]) - at if index < len(self._hard) else math.inf

    def paces(
        self, at: float, position: Numbers, least: Numbers, most: Numbers, wanted: float
    ) -> float | None:
        """The pace nearest to `wanted`, rather slower, whose step is between `least` and `most` in every component.

        None where there is none up to full pace.
        """
        best: float | None = None
        first = self.segment(at)
        for index in (first, first + 1):
            start, stop = max(at, float(index)), min(at + 1.0, index + 1.0, float(len(self.steps)))
            if start >= stop and index > first:
                break
            base = self.point(start) - position
            one, other = (least - base) * self.inverse[index], (most - base) * self.inverse[index]
            low = max(float(np.minimum(one, other).max()), 0.0) + start - at
            high = min(float(np.maximum(one, other).min()), stop - start) + start - at
            if low > high:
                continue
            near = min(max(wanted, low), high)
            if best is None or (best > wanted and near < best) or best < near <= wanted:
                best = near
        return best

    def stop(self, at: float, pace: float, change: float) -> Float[np.ndarray, "time"]:
        """Progress at each tick of slowing down along the path, from `pace`; ends at rest or at the path's end."""
        first = self.segment(at)
        window = slice(first, first + 2 + int(self.reach(at, pace)))
        most = SHARE / max(float(self.per_acceleration[window].max()), TINY)
        jerk = SHARE / max(float(self.per_jerk[window].max()), TINY)
        most = min(most, 1.0)
        jerk = min(jerk, 2 * most)
        end, progress = float(len(self.steps)), [at]
        while pace > 0.0 and at < end and len(progress) < LONGEST:
            change = min(max(-min(ease_one(pace, jerk), most), change - jerk), change + jerk)
            pace = max(pace + change, 0.0)
            at += pace
            progress.append(at)
        return np.array(progress)

    def reach(self, at: float, pace: float) -> float:
        """About how far a stop goes."""
        index = self.segment(at)
        most, jerk = float(self.per_acceleration[index]), float(self.per_jerk[index])
        return (pace * pace * most / 2 + pace * math.sqrt(pace * jerk)) / SHARE


def _between(points: Float[np.ndarray, "points axes"], at: float) -> Numbers:
    low = min(int(at), len(points) - 2)
    share = at - low
    if share == 0.0:
        return points[low]
    if share >= 1.0:
        return points[low + 1]
    between: Numbers = (1 - share) * points[low] + share * points[low + 1]
    return between
