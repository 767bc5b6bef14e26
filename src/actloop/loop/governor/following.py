"""How an arm follows a path within limits: at a pace along it where one fits, else off it and back."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from actloop.contracts import State
from actloop.loop.governor.braking import ease_one
from actloop.loop.governor.limits import Grid
from actloop.loop.governor.moving import NEARLY, STILL, Mover
from actloop.loop.governor.route import TINY, Route
from actloop.loop.path import Path

Numbers = Float[np.ndarray, "axes"]


@dataclass(frozen=True, slots=True)
class Moved:
    """The step of a tick: its pace along the path, why it is not what was asked, and how far off it ends."""

    pace: float
    reasons: tuple[str, ...] = ()
    off_path: float = 0.0


BESIDE = 0.7  # of the pace that the path allows, while the robot is beside it and has to come back


class Follower(Mover):
    """The components whose pace along the path is one."""

    _stop: list[float]  # paces of a stop along the path, while one is known

    def __init__(self, grid: Grid) -> None:
        self._which = grid.arm
        self.path: Path | None = None
        self._route: Route | None = None
        super().__init__(grid.take(grid.arm))
        self._weights = 1.0 / self.grid.acceleration**2

    def place(self, position: Numbers) -> None:
        super().place(position)
        self._leave()

    def measured(self, state: State) -> None:
        """At rest, deltas with a measured position are where they are measured."""
        measured = self.grid.measured
        which = self.grid.kinds.delta & self.grid.positioned
        if which.any():
            there = np.where(which, state[np.maximum(measured, 0)], self.axes.position)
            self.axes.rest(there, boxed=self.grid.positioned)
            self.reported = np.where(which, there, self.reported)
            self._leave()

    def sent(self, action: Numbers) -> None:
        super().sent(action)
        self._straight = self._kept = 0
        self._stop = []

    def _leave(self) -> None:
        self.path = self._route = None
        self._stop = []
        self._held: Numbers | None = None
        self._rested = False
        self._followed = 0  # ticks on the path in a row
        self._kept = 0  # ticks of following this path in a row
        self._pace = self._change = 0.0  # of the last of them
        self._straight = 0  # of them at full pace from vertex to vertex
        self._at = 0.0

    # holding

    def hold(self, hold: Numbers | None) -> Moved:
        """Stop, along the path where it can; once at rest go to `hold`, where that is somewhere else."""
        axes = self.axes
        axes.look()
        self._straight = 0
        if hold is None or self._held is None or not np.array_equal(hold, self._held):
            self._rested = False
        self._held = hold
        self._rested = self._rested or self.still
        if self._route is not None and self._followed and not self._stop:
            self._stop = self._stop_along(self._route)
        self._followed = self._kept = 0
        step = self._stopping()
        reasons: tuple[str, ...] = ("brake",) if (np.abs(axes.speed) > STILL).any() else ()
        if step is None:
            step = axes.speed + axes.braking
            if hold is not None:
                step, why = self._to_hold(step, np.asarray(hold, dtype=np.float64))
                reasons = (*reasons, *why)
        self.take(np.where(np.abs(step) <= STILL, 0.0, step))
        return Moved(0.0, reasons)

    def _stopping(self) -> Numbers | None:
        """The next step of a stop along the path that was followed, where one fits."""
        if self._route is None or not self._stop:
            return None
        step: Numbers = self._route.point(self._stop.pop(0)) - self.axes.position
        if self.axes.fits(step):
            return step
        self._stop = []
        return None

    def _stop_along(self, route: Route) -> list[float]:
        """A stop along the path from here; empty where none fits."""
        progress = route.stop(self._at, self._pace, self._change)
        fits = len(progress) > 1 and self._keeps(route, progress[1:], route.point(progress[1]) - self.axes.position)
        return progress[1:].tolist() if fits else []

    def _to_hold(self, step: Numbers, hold: Numbers) -> tuple[Numbers, tuple[str, ...]]:
        axes = self.axes
        inside = np.minimum(np.maximum(hold, axes.low), axes.high)
        gap = np.where(self._summed, 0.0, inside - axes.position)
        gap = np.where(np.abs(gap) <= self.grid.grain, 0.0, gap)
        if not self._rested or not gap.any():
            return step, ()
        away = np.flatnonzero(gap).tolist()
        for index in away:
            step[index] = axes.speed[index] + axes.towards(index, float(gap[index]))
        return step, () if axes.fits(gap) else axes.excess(gap)

    # following

    def straight(self, path: Path, at: float) -> bool:
        """Take the step from `at` at full pace, if it is known to be fine: along a path that was so far followed so."""
        route, index = self._route, int(at)
        if path is not self.path or route is None or self._straight < 2 or index != at:
            return False
        if index >= len(route) or not route.fine(index):
            return False
        axes = self.axes
        self._before = (self.reported, axes.speed)
        axes.acceleration, axes.speed = route.bends[index - 1], route.steps[index]
        axes.position = self.reported = route.points[index + 1]
        self._at, self._pace, self._change = at + 1.0, 1.0, 0.0
        return True

    def follow(self, path: Path, at: float, pace: float, add: Numbers | None) -> Moved:
        """Move on along a path by up to `pace`; `add` is added to the action."""
        route = self._route_of(path, at, add)
        axes = self.axes
        self._rested = False
        at = min(at, float(len(route)))
        pace = min(pace, len(route) - at)
        whole = pace == 1.0 and at == int(at)
        asked = route.point(at + pace) - axes.position
        quick = whole and axes.quick(asked)
        if not quick:
            axes.look()
        fits = quick or axes.fits(asked)
        exact = not fits and whole and self._unrounded >= 3 and axes.fits_exactly(asked)
        reasons: tuple[str, ...] = ()
        reached, step, off = pace, asked, 0.0
        if not (quick or self._kept):
            self._project(route, at)
        goes_on = (fits or exact) and self._goes_on(route, at + pace, pace, asked)
        if not (goes_on and self._clear(route, at, pace, asked)):
            if quick:
                axes.look()
                if not self._kept:
                    self._project(route, at)
            reasons = axes.excess(asked) or (("box",) if axes.walled and not fits else ("ahead",))
            reached, step, beside = self._slower(route, at, pace)
            off = float(np.abs(axes.position + step - route.point(at + reached)).max()) if beside else 0.0
            step = axes.within(step)
        elif not quick and not exact:
            step = axes.within(step)
        self.take(step)
        self._at = at + reached
        self._kept += 1
        self._pace, self._change = reached, reached - self._pace
        self._straight = self._straight + 1 if whole and self._unrounded >= 3 and reached == 1.0 and not off else 0
        self._followed = self._followed + 1 if off <= NEARLY else 0
        if off > NEARLY:
            reasons = (*reasons, "off path")
            self._let_go(route)
        if route.cut(at, at + pace):
            reasons = ("box", *(reason for reason in reasons if reason != "box"))
        return Moved(reached, reasons, off)

    def _let_go(self, route: Route) -> None:
        """Velocities have no place to come back to: what they missed is gone."""
        velocity = self.grid.kinds.velocity
        if velocity.any():
            missed = np.where(velocity, self.axes.position - route.point(self._at), 0.0)
            route.move(route.shift + missed)

    def _route_of(self, path: Path, at: float, add: Numbers | None) -> Route:
        """The path made ready; sums go on from where what was sent leads, or from `add` beyond it."""
        route = self._route
        if path is not self.path or route is None:
            route = Route(path, self._which, self.axes)
            shift = np.where(self._summed, self.reported - route.raw(at), 0.0)
            route.move(shift if add is None else shift + add)
            route.moved = add is not None
            self.path, self._route, self._stop = path, route, []
            self._followed = self._straight = self._kept = 0
        elif add is not None or route.moved:
            more = 0.0 if add is None else add
            summed = route.shift if add is None else self.reported - route.raw(at) + more
            shift = np.where(self._summed, summed, more)
            if (np.abs(shift - route.shift) > NEARLY).any():
                route.move(shift)
                route.moved = add is not None
                self._stop, self._straight = [], 0
        return route

    def _slower(self, route: Route, at: float, pace: float) -> tuple[float, Numbers, bool]:
        """The pace and step along the path that fit, or else those beside it, and whether it is beside."""
        wanted = self._next_pace(route, at, pace, 1.0)
        stop = self._stop[0] - at if self._stop else None
        kept = self._stop
        best = self._fitting(route, at, wanted)
        if best is not None:
            if self._clear(route, at, *best):
                return *best, False
            least = stop if stop is not None and 0.0 <= stop <= best[0] else 0.0
            for share in (0.5, 0.25):
                fitting = self._fitting(route, at, least + share * (best[0] - least))
                if fitting is not None and fitting[0] < best[0] and self._clear(route, at, *fitting):
                    return *fitting, False
        if stop is not None and 0.0 <= stop <= 1.0:
            step = route.point(at + stop) - self.axes.position
            if self.axes.fits(step):
                self._stop = kept[1:]
                return stop, step, False
        return *self._beside(route, at, pace), True

    def _fitting(self, route: Route, at: float, wanted: float) -> tuple[float, Numbers] | None:
        """The pace nearest to `wanted` whose step fits, and that step, where there is one."""
        axes = self.axes
        found: float | None = min(wanted, len(route) - at, 1.0)
        for _ in range(4):
            if found is None:
                return None
            step = route.point(at + found) - axes.position
            if axes.fits(step):
                return found, step
            found = route.paces(at, axes.position, axes.speed + axes.least, axes.speed + axes.most, found)
        return None

    def _project(self, route: Route, at: float) -> None:
        """Take the present pace along a path, and its change, from the motion."""
        slope = route.slope(at)
        ahead = slope * self._weights
        size = float(ahead @ slope)
        self._pace = max(float(ahead @ self.axes.speed) / size, 0.0) if size > TINY else 0.0
        bent = self.axes.acceleration - self._pace**2 * route.bend(at)
        self._change = float(ahead @ bent) / size if size > TINY else 0.0

    def _next_pace(self, route: Route, at: float, pace: float, share: float) -> float:
        """The next pace on the way to `pace`, or to a share of what the path allows."""
        now, segment = self._pace, route.segment(at)
        most, jerk = route.rates(slice(segment, segment + 1), now)
        ramp = 1.0 + most / jerk
        pace = min(pace, share * min(route.allowed(at + now), route.allowed(at + now * ramp)))
        wanted = min(max(ease_one(pace - now, jerk), -most), most)
        return max(now + min(max(wanted, self._change - jerk), self._change + jerk), 0.0)

    def _goes_on(self, route: Route, end: float, pace: float, step: Numbers) -> bool:
        """Whether a second step, at that pace from where the first one ends, would be within limits."""
        if end + pace > len(route) or pace <= 0.0:
            return True
        return self.axes.follows(step, route.point(end + pace) - route.point(end))

    def _clear(self, route: Route, at: float, pace: float, step: Numbers) -> bool:
        """Whether it can still slow down along the path after a step that moves on by `pace`."""
        there = at + pace
        if pace == 1.0 and at == int(at) and route.fine(int(there)):
            return True
        if route.until_sharp(max(at - 2.0, 0.0)) > 6.0 + 2.0 * route.reach(there, pace):
            self._stop = []
            return self._followed >= 3 or self._goes_on(route, there, min(2.0 * pace - self._pace, 1.0), step)
        progress = route.stop(there, pace, pace - self._pace)
        if not self._keeps(route, progress, step):
            return False
        self._stop = progress[1:].tolist()
        return True

    def _keeps(self, route: Route, progress: Float[np.ndarray, "time"], step: Numbers) -> bool:
        """Whether the motion along the path, a place per tick, keeps the limits."""
        axes = self.axes
        places = route.places(progress)
        places[0] = axes.position + step
        past = [axes.position - 2 * axes.speed + axes.acceleration, axes.position - axes.speed, axes.position]
        rows = np.concatenate([past, places, places[-1:], places[-1:]])
        if progress[-1] >= len(route):
            rows = rows[:-2]
        return axes.keeps(rows)

    def _beside(self, route: Route, at: float, pace: float) -> tuple[float, Numbers]:
        """Off the path: every component on its own to the nearest point of it, which moves on at that pace."""
        axes = self.axes
        here, slope = route.point(at), route.slope(at)
        error, ahead = axes.position - here, slope * self._weights
        size = float(ahead @ slope)
        behind = 0.0
        if size > TINY:
            behind = math.sqrt(float((error * self._weights) @ error) / size) - max(float(ahead @ error) / size, 0.0)
        share = BESIDE * min(max(1.0 - behind / (1.0 + 2.0 * route.reach(at, self._pace)), 0.0), 1.0)
        near = min(self._next_pace(route, at, pace, share), 1.0, len(route) - at)
        there = route.point(at + near)
        drift = there - here
        bend = route.point(at + 2.0 * near) - there - drift if at + 2.0 * near <= len(route) else np.zeros(len(drift))
        velocity = self.grid.kinds.velocity
        rows = zip((here - axes.position).tolist(), drift.tolist(), bend.tolist(), strict=True)
        step = axes.speed + [
            axes.easing(index, row[1]) if velocity[index] else axes.towards(index, *row)
            for index, row in enumerate(rows)
        ]
        self._stop = []
        return near, step
