"""How an arm follows a path within limits: at a pace along it where one fits, else off it and back; grippers apart."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from actloop.contracts import Action, State
from actloop.loop.axes import Axes
from actloop.loop.braking import ease_one
from actloop.loop.limits import Grid
from actloop.loop.path import Path
from actloop.loop.route import TINY, Route

Numbers = Float[np.ndarray, "axes"]
NEARLY = 1e-9  # in units of the action: nearer than this is there
STILL = 1e-10  # in units of the action per tick: slower than this is at rest


@dataclass(frozen=True, slots=True)
class Moved:
    """The step of a tick: its pace along the path, why it is not what was asked, and how far off it ends."""

    pace: float
    reasons: tuple[str, ...] = ()
    off_path: float = 0.0


class Mover:
    """Components that are sent to the robot: absolute ones their position, others what brings the sum to it."""

    def __init__(self, grid: Grid) -> None:
        self.grid, self.axes = grid, Axes(grid)
        self._summed = grid.kinds.delta | grid.kinds.velocity
        self.place(np.zeros(len(grid.low)))

    def place(self, position: Numbers) -> None:
        """Be at rest there; NaN where nobody knows, for components without a position."""
        known = ~np.isnan(position)
        self.axes.rest(np.where(known, position, 0.0), boxed=known & self.grid.positioned)
        self.reported = self.axes.position.copy()  # where what was sent leads
        self._before = (self.reported, self.axes.speed)
        self.exact = 3  # steps in a row that float32 did not round

    @property
    def _moves(self) -> bool:
        return bool((np.abs(self.axes.speed) > STILL).any())

    @property
    def still(self) -> bool:
        """Whether nothing moves."""
        return not (self.axes.speed.any() or self.axes.acceleration.any())

    def take(self, step: Numbers) -> None:
        """Take a step within limits."""
        self._before = (self.reported, self.axes.speed)
        self.axes.move(step)

    def send(self) -> Action:
        """What brings the robot where the last step led, float32."""
        position = self.axes.position
        action: Action = np.where(self._summed, position - self.reported, position).astype(np.float32)
        led = np.where(self._summed, self.reported + action, action)
        self.exact = self.exact + 1 if bool((np.abs(led - position) <= STILL).all()) else 0
        self.reported = led
        return action

    def sent(self, action: Action) -> None:
        """Go on from what was really sent, at a speed within limits."""
        grid, axes = self.grid, self.axes
        place, speed = self._before
        led = np.where(self._summed, place + action, action)
        other = np.abs(led - self.reported) > 0
        moved = np.minimum(np.maximum(led - place, grid.slowest), grid.fastest)
        change = moved - speed
        axes.position = np.where(other, led, axes.position)
        axes.speed = np.where(other, moved, axes.speed)
        axes.acceleration = np.where(other, np.where(np.abs(change) > grid.acceleration, 0.0, change), axes.acceleration)
        self.reported, self.exact = led, 0


class Switch(Mover):
    """Grippers: each goes where it is told as fast as its own limits allow; no part of the path's timing."""

    def __init__(self, grid: Grid) -> None:
        super().__init__(grid)
        self._free = bool(np.isinf(grid.allowed[2:]).all()) and bool(
            (np.isinf(grid.allowed[1]) | self._summed).all()
        )

    def send_to(self, wanted: Action | None) -> tuple[Action, tuple[str, ...]]:
        """What to send, and why it is not `wanted`; with none wanted they stop."""
        axes, grid = self.axes, self.grid
        asked = axes.position * ~self._summed if wanted is None else np.asarray(wanted, dtype=np.float64)
        low = np.where(self._summed, grid.slowest, axes.low)
        high = np.where(self._summed, grid.fastest, axes.high)
        inside = np.minimum(np.maximum(asked, low), high)
        reasons: tuple[str, ...] = ("box",) if (np.abs(inside - asked) > NEARLY).any() else ()
        target = np.where(self._summed, axes.position + inside, inside)
        axes.look()
        step = target - axes.position
        if not axes.fits(step):
            reasons = (*reasons, *axes.excess(step))
            step = np.array([axes.speed[i] + self._change(i, step[i]) for i in range(len(step))])
        self.take(step)
        return self.send(), reasons

    def _change(self, index: int, gap: float) -> float:
        axes = self.axes
        if not self._summed[index]:
            return axes.towards(index, float(gap))
        return float(min(max(gap - axes.speed[index], axes.least[index]), axes.most[index]))


class Follower(Mover):
    """The components whose pace along the path is one."""

    def __init__(self, grid: Grid) -> None:
        self.path: Path | None = None
        self._route: Route | None = None
        super().__init__(grid)
        self._weights = 1.0 / grid.acceleration**2

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

    def sent(self, action: Action) -> None:
        super().sent(action)
        self._stop = []

    def _leave(self) -> None:
        self.path = self._route = None
        self._stop: list[float] = []
        self._held: Action | None = None
        self._rested = False
        self._followed = 0  # ticks on the path in a row
        self._at = 0.0

    # holding

    def hold(self, hold: Action | None) -> Moved:
        """Stop, along the path where it can; once at rest go to `hold`, where that is somewhere else."""
        axes = self.axes
        axes.look()
        if hold is None or self._held is None or not np.array_equal(hold, self._held):
            self._rested = False
        self._held = hold
        self._rested = self._rested or self.still
        if self._route is not None and self._followed and not self._stop:
            self._stop = self._stop_along(self._route)
        self._followed = 0
        step = self._stopping()
        reasons: tuple[str, ...] = ("brake",) if self._moves else ()
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
        now, change = self._along(route, self._at)
        progress = route.stop(self._at, now, change)
        fits = len(progress) > 1 and self._keeps(route, progress[1:], route.point(progress[1]) - self.axes.position)
        return progress[1:].tolist() if fits else []

    def _to_hold(self, step: Numbers, hold: Numbers) -> tuple[Numbers, tuple[str, ...]]:
        axes = self.axes
        inside = np.minimum(np.maximum(hold, axes.low), axes.high)
        gap = np.where(self._summed, 0.0, inside - axes.position)
        gap = np.where(np.abs(gap) <= self.grid.grain, 0.0, gap)
        if not self._rested or not gap.any():
            return step, ()
        away = np.flatnonzero(gap)
        for index in away:
            step[index] = axes.speed[index] + axes.towards(index, float(gap[index]))
        return step, () if axes.fits(gap) else axes.excess(gap)

    # following

    def follow(self, path: Path, which: Bool[np.ndarray, "action"], at: float, pace: float, add: Action | None) -> Moved:
        """Move on along a path by up to `pace`; `add` is added to the action."""
        route = self._route_of(path, which, at, add)
        axes = self.axes
        axes.look()
        self._rested = False
        at = min(at, float(len(route)))
        pace = min(pace, len(route) - at)
        asked = route.point(at + pace) - axes.position
        fits = axes.fits(asked)
        exact = not fits and pace == 1.0 and at == int(at) and self.exact >= 3 and axes.fits_exactly(asked)
        if (fits or exact) and self._goes_on(route, at, pace, asked) and self._clear(route, at, pace, asked):
            reached, step, reasons = pace, asked, ()
        else:
            reasons = axes.excess(asked) or (("box",) if axes.walled and not fits else ("ahead",))
            reached, step = self._slower(route, at, pace)
            exact = False
        self.take(step if exact else axes.within(step))
        off = float(np.abs(axes.position - route.point(at + reached)).max(initial=0.0))
        self._at = at + reached
        self._followed = self._followed + 1 if off <= NEARLY else 0
        if off > NEARLY:
            reasons = (*reasons, "off path")
        if route.cut(at, at + pace):
            reasons = ("box", *(reason for reason in reasons if reason != "box"))
        return Moved(reached, reasons, off)

    def _route_of(self, path: Path, which: Bool[np.ndarray, "action"], at: float, add: Action | None) -> Route:
        """The path made ready; sums go on from where what was sent leads, or from `add` beyond it."""
        route = self._route
        if path is not self.path or route is None:
            route = Route(path, self.grid, which, self.axes.low, self.axes.high)
            shift = np.where(self._summed, self.reported - route.raw(at), 0.0)
            route.move(shift if add is None else shift + add)
            self.path, self._route, self._stop, self._followed = path, route, [], 0
        elif add is not None or route.moved:
            more = 0.0 if add is None else add
            summed = route.shift if add is None else self.reported - route.raw(at) + more
            shift = np.where(self._summed, summed, more)
            if (np.abs(shift - route.shift) > NEARLY).any():
                route.move(shift)
                route.moved = add is not None
                self._stop = []
        return route

    def _slower(self, route: Route, at: float, pace: float) -> tuple[float, Numbers]:
        """The pace and step along the path that fit, or else those off it."""
        now, change = self._along(route, at)
        wanted = max(now + self._towards_pace(route, at, now, change, pace), 0.0)
        high = self._fitting(route, at, wanted)
        kept = self._stop
        stop = kept[0] - at if kept else None
        if high is not None:
            low = stop if stop is not None and 0 <= stop <= high else self._fitting(route, at, 0.0)
            low = high if low is None else low
            for share in (1.0, 0.5, 0.25) if low < high else (1.0,):
                candidate = low + share * (high - low)
                step = route.point(at + candidate) - self.axes.position
                if self.axes.fits(step) and self._clear(route, at, candidate, step):
                    return candidate, step
        if stop is not None and 0 <= stop <= 1:
            step = route.point(at + stop) - self.axes.position
            if self.axes.fits(step):
                self._stop = kept[1:]
                return stop, step
        return self._beside(route, at, pace)

    def _fitting(self, route: Route, at: float, wanted: float) -> float | None:
        """The pace nearest to `wanted` whose step fits, where there is one."""
        axes = self.axes
        least, most = axes.speed + axes.least, axes.speed + axes.most
        for _ in range(3):
            found = route.paces(at, axes.position, least, most, wanted)
            if found is None or axes.fits(route.point(at + found) - axes.position):
                return found
            wanted = found
        return None

    def _along(self, route: Route, at: float) -> tuple[float, float]:
        """The present pace along the path, and its change in the last tick."""
        slope = route.slope(at)
        ahead = slope * self._weights
        size = float(ahead @ slope)
        if size <= TINY:
            return 0.0, 0.0
        now = max(float(ahead @ self.axes.speed) / size, 0.0)
        return now, float(ahead @ (self.axes.acceleration - now * now * route.bend(at))) / size

    def _towards_pace(self, route: Route, at: float, now: float, change: float, pace: float) -> float:
        """The next change of the pace on the way to `pace`."""
        segment = route.segment(at)
        most, jerk = route.rates(slice(segment, segment + 1))
        ramp = 1.0 + most / jerk
        pace = min(pace, route.allowed(at + now), route.allowed(at + now * ramp))
        wanted = min(max(ease_one(pace - now, jerk), -most), most)
        return min(max(wanted, change - jerk), change + jerk)

    def _goes_on(self, route: Route, at: float, pace: float, step: Numbers) -> bool:
        """Whether a second step at that pace would be within limits: one does not speed up beyond what it can keep."""
        if at + 2 * pace > len(route):
            return True
        following = route.point(at + 2 * pace) - route.point(at + pace)
        return self.axes.follows(step, following)

    def _clear(self, route: Route, at: float, pace: float, step: Numbers) -> bool:
        """Whether it can still slow down along the path after a step that moves on by `pace`."""
        there = at + pace
        if self._followed >= 3 and route.until_hard(max(at - 2.0, 0.0)) > there - at + 4.0 + 2.0 * route.reach(there, pace):
            self._stop = []
            return True
        now, change = self._along(route, at)
        progress = route.stop(there, pace, pace - now if now else pace)
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
        here = route.point(at)
        ahead = route.slope(at)
        size = float((ahead * self._weights) @ ahead)
        near = float((ahead * self._weights) @ (axes.position + axes.speed - here)) / size if size > TINY else 0.0
        now, change = max(near, 0.0), self._along(route, at)[1]
        near = min(max(now + self._towards_pace(route, at, now, change, pace), 0.0), pace)
        there = route.point(at + near)
        drift = there - here
        bend = route.point(at + 2.0 * near) - there - drift if at + 2.0 * near <= len(route) else np.zeros(len(drift))
        rows = zip((here - axes.position).tolist(), drift.tolist(), bend.tolist(), strict=True)
        step = axes.speed + [axes.towards(index, *row) for index, row in enumerate(rows)]
        self._stop = []
        return near, step
