"""A path made ready for the governor: clipped to the box, smooth between its vertices, with what its segments allow.

Sharp corners stay sharp; between them a cubic spline runs through the vertices, so that half the pace needs a quarter
of the acceleration and an eighth of the jerk. On a polyline every vertex would be a jolt at any pace.
"""

import bisect
import functools
import itertools
import math

import numpy as np
from jaxtyping import Bool, Float

from actloop.loop.governor.axes import Axes
from actloop.loop.governor.braking import ease_one
from actloop.loop.path import Path

Numbers = Float[np.ndarray, "axes"]
SHARE = 0.5  # of the limits is for changing the pace
BENDS = 0.65  # of the limits is for what the path itself needs at a steady pace
CROSS = 0.35  # of the jerk is for what a change of the pace adds to it on a bend
SHARP = 0.5  # of the longer of two steps: a larger change from one to the next is a corner
TINY = 1e-30  # stands for a component that does not move along a segment
LONGEST = 400  # ticks of a stop that are looked at


class Route:
    """Where a path leads the arm's components, in the governor's coordinates."""

    def __init__(self, path: Path, which: Bool[np.ndarray, "action"], axes: Axes) -> None:
        grid = axes.grid
        vertices = path.vertices[:, which]
        if grid.kinds.velocity.any():
            summed = np.cumsum(path.actions[:, which], axis=0, dtype=np.float64)
            summed = np.concatenate([np.zeros((1, len(grid.low))), summed])
            vertices = np.where(grid.kinds.velocity, summed, vertices)
        self._axes, self._grid, self._low, self._high, self._raw = axes, grid, axes.low, axes.high, vertices
        self.shift = np.full(len(grid.low), math.nan)
        self.moved = False

    def raw(self, at: float) -> Numbers:
        """Where progress `at` is before any shift, straight from vertex to vertex."""
        low = min(int(at), len(self._raw) - 2)
        share = min(at - low, 1.0)
        between: Numbers = (1 - share) * self._raw[low] + share * self._raw[low + 1]
        return between

    def move(self, shift: Numbers) -> None:
        """Shift it, and clip it to the box."""
        grid, self.shift = self._grid, shift
        moved = self._raw + shift
        self.points = np.minimum(np.maximum(moved, self._low), self._high)
        self._cut = (self.points != moved).any(axis=1)
        self._uncut = not self._cut.any()
        self.steps = self.points[1:] - self.points[:-1]
        self.bends = self.steps[1:] - self.steps[:-1]
        size = np.abs(self.steps)
        self.per_acceleration = (size / grid.acceleration).max(axis=1)
        self.per_jerk = (size / grid.jerk).max(axis=1)
        self._smooth = False
        self._foresee(size)

    def _foresee(self, size: Float[np.ndarray, "segments axes"]) -> None:
        """Which segments can be taken at full pace, from vertex to vertex, without a closer look."""
        grid, axes, bends = self._grid, self._axes, self.bends
        size[1:] += bends * bends * (0.5 / grid.jerk)
        inside = (self.points[1:] < axes.near_high) & (self.points[1:] > axes.near_low)
        fine = (inside & (size <= np.minimum(grid.fastest, -grid.slowest))).all(axis=1)
        fine[1:] &= (np.abs(bends) <= grid.acceleration).all(axis=1)
        fine[2:] &= (np.abs(bends[1:] - bends[:-1]) <= grid.jerk).all(axis=1)
        fine &= ~self._cut[1:]
        ahead = 4.0 + (self.per_acceleration + 2.0 * np.sqrt(self.per_jerk)) / SHARE
        index = np.arange(len(fine))
        rough = np.minimum.accumulate(np.where(fine, len(fine) + LONGEST**2, index)[::-1])[::-1]
        self._fine = [*(rough - index > ahead).tolist(), True]

    def fine(self, index: int) -> bool:
        """Whether all from a segment on, as far as a stop goes, can be taken at full pace from vertex to vertex."""
        return bool(self._fine[index])

    def _fit(self) -> None:
        """Fit the spline, and find the paces that it allows."""
        self._smooth = True
        grid, steps, bends = self._grid, self.steps, self.bends
        sharp = (np.abs(bends) > grid.acceleration).any(axis=1)
        if sharp.any():
            size = np.square(steps / grid.acceleration).sum(axis=1)
            turn = np.square(bends / grid.acceleration).sum(axis=1)
            sharp &= turn > SHARP**2 * np.maximum(size[1:], size[:-1])
        self._sharp = (np.flatnonzero(sharp) + 1).tolist()
        self._begin, self._end = np.zeros_like(steps), np.zeros_like(steps)
        corners = [0, *self._sharp, len(steps)]
        for first, last in itertools.pairwise(corners):
            if last - first > 1:
                curved = _curvature(last - first) @ bends[first : last - 1]
                self._begin[first + 1 : last], self._end[first : last - 1] = curved, curved
                self._begin[first], self._end[last - 1] = curved[0], curved[-1]
        curved = np.maximum(np.abs(self._begin), np.abs(self._end))
        margin = curved / 8.0
        inside = (self.points[1:] + margin <= self._high) & (self.points[1:] - margin >= self._low)
        self._inside = bool((inside & (self.points[:-1] + margin <= self._high)).all())
        change = (self._end - self._begin) / 6.0
        self._cubic = np.stack(
            [self.points[:-1], steps - change - self._begin / 2.0, self._begin / 2.0, change], axis=1
        )
        self._profile(curved)

    def _profile(self, curved: Float[np.ndarray, "segments axes"]) -> None:
        """The steady paces that segments and corners allow, and slowing down in time."""
        grid = self._grid
        fast = np.maximum(self.steps / grid.fastest, self.steps / grid.slowest).max(axis=1)
        turned = np.sqrt((curved / (BENDS * grid.acceleration)).max(axis=1))
        jolted = np.cbrt((np.abs(self._end - self._begin) / (BENDS * grid.jerk)).max(axis=1))
        self._per_bend = (curved / grid.jerk).max(axis=1)
        need = np.maximum(np.maximum(fast, turned), np.maximum(jolted, 1.0))
        self._steady = (1.0 / need).tolist()
        corners = [1.0] * len(need)
        for index in self._sharp:
            turn = np.abs(self.bends[index - 1]) / np.minimum(grid.acceleration, grid.jerk)
            corners[index - 1] = min(1.0, BENDS / max(float(turn.max()), TINY))
        self._slowing = (2.0 * SHARE / np.maximum(self.per_acceleration, 2.0 * SHARE)).tolist()
        limit, self._after = 1.0, [1.0] * len(need)
        for index in range(len(need) - 1, -1, -1):
            self._after[index] = limit = min(limit, corners[index])
            limit = min(self._steady[index], math.sqrt(limit * limit + self._slowing[index]))

    def allowed(self, at: float) -> float:
        """About the pace at which what follows from progress `at` on can be met, up to 1."""
        if at >= len(self.steps):
            return 1.0
        if not self._smooth:
            self._fit()
        index = int(at)
        after = self._after[index]
        return float(min(self._steady[index], math.sqrt(after * after + self._slowing[index] * (index + 1 - at))))

    def __len__(self) -> int:
        return len(self.steps)

    def cut(self, at: float, end: float) -> bool:
        """Whether the box clipped it between two places."""
        return not self._uncut and bool(self._cut[min(int(at) + 1, len(self)) : math.ceil(end) + 1].any())

    def point(self, at: float) -> Numbers:
        """Where progress `at` is."""
        low = min(int(at), len(self.steps) - 1)
        share = at - low
        point: Numbers
        if share == 0.0 or share >= 1.0:
            point = self.points[low + int(share >= 1.0)]
            return point
        if not self._smooth:
            self._fit()
        point = np.array([1.0, share, share * share, share**3]) @ self._cubic[low]
        return point if self._inside else np.minimum(np.maximum(point, self._low), self._high)

    def slope(self, at: float) -> Numbers:
        """How it goes on from progress `at`, per unit of progress."""
        if not self._smooth:
            self._fit()
        low = min(int(at), len(self.steps) - 1)
        share = min(at - low, 1.0)
        slope: Numbers = np.array([0.0, 1.0, 2.0 * share, 3.0 * share * share]) @ self._cubic[low]
        return slope

    def bend(self, at: float) -> Numbers:
        """How the slope changes at progress `at`, per unit of progress."""
        low = min(int(at), len(self.steps) - 1)
        share = min(at - low, 1.0)
        bend: Numbers = (1.0 - share) * self._begin[low] + share * self._end[low]
        return bend

    def places(self, at: Float[np.ndarray, "time"]) -> Float[np.ndarray, "time axes"]:
        """Where each progress is; only the last may lie beyond the end, and is then straight on."""
        low = np.minimum(at.astype(np.intp), len(self.steps) - 1)
        share = at - low
        powers = np.stack([np.ones(len(at)), share, share * share, share**3], axis=1)
        last = float(share[-1])
        if last > 1.0:
            powers[-1, 2:] = 2.0 * last - 1.0, 3.0 * last - 2.0
        places: Float[np.ndarray, "time axes"] = np.einsum("tp,tpa->ta", powers, self._cubic[low])
        return places if self._inside else np.minimum(np.maximum(places, self._low), self._high)

    def segment(self, at: float) -> int:
        """The segment that begins at or holds progress `at`."""
        return min(int(at), len(self.steps) - 1)

    def until_sharp(self, at: float) -> float:
        """How far ahead the next sharp corner is; infinite where there is none."""
        if not self._smooth:
            self._fit()
        index = bisect.bisect_left(self._sharp, int(at))
        return self._sharp[index] - at if index < len(self._sharp) else math.inf

    def paces(self, at: float, position: Numbers, least: Numbers, most: Numbers, wanted: float) -> float | None:
        """The pace nearest to `wanted`, rather slower, whose step is about between `least` and `most`.

        None where there is none up to full pace. It is found on the tangent at the wanted pace.
        """
        best: float | None = None
        first = self.segment(at)
        order = (first, first + 1) if at + wanted <= first + 1.0 else (first + 1, first)
        for index in order:
            start, stop = max(at, float(index)), min(at + 1.0, index + 1.0, float(len(self.steps)))
            if start > stop or index >= len(self.steps):
                continue
            touch = min(max(at + wanted, start), stop - 1e-9)
            slope = self.slope(touch)
            base, inverse = self.point(touch) - position, 1.0 / np.where(np.abs(slope) > TINY, slope, TINY)
            one, other = (least - base) * inverse, (most - base) * inverse
            low = max(float(np.minimum(one, other).max()), start - touch) + touch - at
            high = min(float(np.maximum(one, other).min()), stop - touch) + touch - at
            if low > high:
                continue
            near = min(max(wanted, low), high)
            if near == wanted:
                return near
            if best is None or (best > wanted and near < best) or best < near <= wanted:
                best = near
        return best

    def stop(self, at: float, pace: float, change: float) -> Float[np.ndarray, "time"]:
        """Progress at each tick of slowing down along the path, from `pace`; ends at rest or at the path's end."""
        first = self.segment(at)
        window = slice(first, first + 2 + int(self.reach(at, pace)))
        most, jerk = self.rates(window, pace)
        end, progress = float(len(self.steps)), [at]
        while pace > 0.0 and at < end and len(progress) < LONGEST:
            change = min(max(-min(ease_one(pace, jerk), most), change - jerk), change + jerk)
            pace = max(pace + change, 0.0)
            at += pace
            progress.append(at)
        return np.array(progress)

    def rates(self, window: slice, pace: float) -> tuple[float, float]:
        """How much the pace may change in a tick on some segments, and how much that may change."""
        if not self._smooth:
            self._fit()
        most = min(SHARE / max(float(self.per_acceleration[window].max()), TINY), 1.0)
        most = min(most, CROSS / max(3.0 * pace * float(self._per_bend[window].max()), TINY))
        return most, min(SHARE / max(float(self.per_jerk[window].max()), TINY), 2 * most)

    def reach(self, at: float, pace: float) -> float:
        """About how far a stop goes."""
        index = self.segment(at)
        most, jerk = float(self.per_acceleration[index]), float(self.per_jerk[index])
        return (pace * pace * most / 2 + pace * math.sqrt(pace * jerk)) / SHARE


@functools.lru_cache(maxsize=128)
def _curvature(segments: int) -> Float[np.ndarray, "inner inner"]:
    """From the bends at the inner vertices of a piece to the second derivatives there, those at its ends repeated."""
    inner = segments - 1
    matrix = 4.0 * np.eye(inner) + np.eye(inner, k=1) + np.eye(inner, k=-1)
    matrix[0, 0] += 1.0
    matrix[-1, -1] += 1.0
    inverse: Float[np.ndarray, "inner inner"] = 6.0 * np.linalg.inv(matrix)
    return inverse
