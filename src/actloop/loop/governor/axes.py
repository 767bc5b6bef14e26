"""Components that move independently within limits: where they are, how fast, and what each may do next."""

import numpy as np
from jaxtyping import Bool, Float

from actloop.loop.governor.braking import SLACK, ease, ease_one, solve, travel
from actloop.loop.governor.limits import UNBOUNDED, Grid

Numbers = Float[np.ndarray, "axes"]
ROOM = 5e-10  # in units of the action per tick: what a step may be bent by to fit
OVER = 1.0 + 8e-7  # times a limit is at the limit: actions that are meant to be there are rounded to float32


class Axes:
    """The motion of some components, in units per tick.

    `position` of absolute components is the target, of others what their commands sum to; the measured position of
    deltas is where they began. It only ever takes steps after which a stop fits, so that there always is a next one.
    """

    position: Numbers
    speed: Numbers
    acceleration: Numbers

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        ends = np.maximum(-grid.slowest, grid.fastest)
        rows = zip(ends, grid.acceleration, grid.jerk, strict=True)
        stops = np.array([speed * (most / jerk + 3) + travel(speed, 0.0, most, jerk)[0] for speed, most, jerk in rows])
        self._stops = stops
        self._half_jerk = 0.5 / grid.jerk  # ramping an acceleration out adds its square times this to the speed
        self._slower = np.minimum(-grid.slowest, grid.fastest)
        self._spans = np.stack([np.zeros(len(stops)), grid.fastest, -grid.slowest])
        self._signs = np.array([[1.0], [-1.0], [1.0]])
        self.rest(np.zeros(len(stops)), boxed=np.zeros(len(stops), dtype=bool))

    def rest(self, position: Numbers, *, boxed: Bool[np.ndarray, "axes"]) -> None:
        """Be at rest there; only components that are `boxed` have walls."""
        self.low = np.where(boxed, self.grid.low, -UNBOUNDED)
        self.high = np.where(boxed, self.grid.high, UNBOUNDED)
        self.near_low, self.near_high = self.low + self._stops, self.high - self._stops
        self.position = np.asarray(position, dtype=np.float64)
        self.speed, self.acceleration = np.zeros(len(position)), np.zeros(len(position))

    def look(self) -> None:
        """Find out what the next tick allows: `least` and `most` acceleration, and `braking`, the quickest stop's."""
        grid, speed, now = self.grid, self.speed, self.acceleration
        eased = ease(self._spans + self._signs * speed, grid.jerk)
        up, down = np.minimum(now + grid.jerk, grid.acceleration), np.maximum(now - grid.jerk, -grid.acceleration)
        wanted = np.maximum(np.minimum(-eased[0], grid.acceleration), -grid.acceleration)
        self.braking = np.maximum(np.minimum(wanted, now + grid.jerk), now - grid.jerk)
        self._eased = eased
        self.most = np.maximum(np.minimum(up, eased[1]), self.braking)
        self.least = np.minimum(np.maximum(down, -eased[2]), self.braking)
        self._most_open, self._least_open = self.most, self.least
        self.walled = False
        high, low = self.position > self.near_high, self.position < self.near_low
        if high.any() or low.any():
            self._wall(high, low)

    def _wall(self, high: Bool[np.ndarray, "axes"], low: Bool[np.ndarray, "axes"]) -> None:
        """Tighten `least` and `most` where a stop would otherwise leave the box."""
        self.most, self.least = self.most.copy(), self.least.copy()
        for index in np.flatnonzero(high).tolist():
            found = self._until(index, 1.0, float(self.braking[index]), float(self.most[index]))
            self.walled |= bool(found < self.most[index])
            self.most[index] = found
        for index in np.flatnonzero(low).tolist():
            found = -self._until(index, -1.0, -float(self.braking[index]), -float(self.least[index]))
            self.walled |= bool(found > self.least[index])
            self.least[index] = found

    def _until(self, index: int, sign: float, braking: float, most: float) -> float:
        """The largest acceleration towards a wall after which a stop stays before it."""
        grid = self.grid
        limit, jerk = float(grid.acceleration[index]), float(grid.jerk[index])
        speed, position = sign * float(self.speed[index]), float(self.position[index])
        gap = float(self.high[index]) - position if sign > 0 else position - float(self.low[index])

        def excess(acceleration: float) -> float:
            return speed + acceleration + travel(speed + acceleration, acceleration, limit, jerk)[1] - gap

        return solve(excess, braking, most, SLACK * max(1.0, abs(position)))

    def quick(self, step: Numbers) -> bool:
        """Whether a displacement surely fits, far from walls; cheaper than `look` and `fits`."""
        change = step - self.speed
        if (np.abs(change) > self.grid.acceleration).any() or (
            np.abs(change - self.acceleration) > self.grid.jerk
        ).any():
            return False
        if (np.abs(step) + change * change * self._half_jerk > self._slower).any():
            return False
        position = self.position + step
        return bool(((position < self.near_high) & (position > self.near_low)).all())

    def fits(self, step: Numbers) -> bool:
        """Whether a displacement in the next tick leaves everything within limits."""
        change = step - self.speed
        return bool(((change <= self.most + ROOM) & (change >= self.least - ROOM)).all())

    def within(self, step: Numbers) -> Numbers:
        """The nearest displacement that does, for one that does but for rounding."""
        nearest: Numbers = np.minimum(np.maximum(step, self.speed + self.least), self.speed + self.most)
        return nearest

    def fits_exactly(self, step: Numbers) -> bool:
        """`fits` for a step that float32 does not round: the limits themselves, without the room left for rounding."""
        grid, speed, now = self.grid, self.speed, self.acceleration
        slowest, fastest, most, jerk = grid.allowed * OVER
        change = step - speed
        up = np.minimum(np.minimum(most, now + jerk), fastest - speed)
        down = np.maximum(np.maximum(-most, now - jerk), slowest - speed)
        up = np.minimum(up, np.maximum(self._eased[1], grid.jerk))  # one jerk ends an acceleration up to the jerk
        down = np.maximum(down, np.minimum(-self._eased[2], -grid.jerk))
        up = np.where(self.most < self._most_open, self.most, np.maximum(self.most, up))
        down = np.where(self.least > self._least_open, self.least, np.minimum(self.least, down))
        return bool(((change <= up) & (change >= down)).all())

    def follows(self, step: Numbers, following: Numbers) -> bool:
        """Whether one displacement may follow another, as far as acceleration and jerk go."""
        most, jerk = self.grid.allowed[2:]
        change = following - step
        turn = np.abs(change - (step - self.speed))
        return bool(((np.abs(change) <= most * OVER) & (turn <= jerk * OVER)).all())

    def excess(self, step: Numbers) -> tuple[str, ...]:
        """Which limits a displacement in the next tick breaks."""
        slowest, fastest, most, jerk = self.grid.allowed
        change = step - self.speed
        room = 1e-9 * np.maximum(np.abs(self.position), 1.0)
        broken = []
        if (step > fastest + room).any() or (step < slowest - room).any():
            broken.append("velocity")
        if (np.abs(change) > most + room).any():
            broken.append("acceleration")
        if (np.abs(change - self.acceleration) > jerk + room).any():
            broken.append("jerk")
        return tuple(broken)

    def keeps(self, places: Float[np.ndarray, "time axes"]) -> bool:
        """Whether a motion keeps the limits of speed, acceleration and jerk, a place per tick; three are past."""
        slowest, fastest, most, jerk = self.grid.allowed
        speeds = places[1:] - places[:-1]
        changes = speeds[1:] - speeds[:-1]
        if (np.abs(changes[1:]) > most * OVER).any():
            return False
        if (np.abs(changes[1:] - changes[:-1]) > jerk * OVER).any():
            return False
        return bool(((speeds[2:] <= fastest * OVER) & (speeds[2:] >= slowest * OVER)).all())

    def towards(self, index: int, gap: float, drift: float = 0.0, bend: float = 0.0) -> float:
        """The next acceleration of one component to end `gap` further and at rest, relative to a point that moves.

        The point moves by `drift` in this tick, and `bend` more in the next; then half of the limits are for the way.
        """
        limit, jerk = float(self.grid.acceleration[index]), float(self.grid.jerk[index])
        if drift or bend:
            limit, jerk = 0.5 * limit, 0.5 * jerk
        speed = float(self.speed[index]) - drift

        def excess(acceleration: float) -> float:
            relative = speed + acceleration
            return relative + travel(relative, acceleration - bend, limit, jerk)[0] - gap

        return solve(excess, float(self.least[index]), float(self.most[index]), SLACK * max(1.0, abs(gap)))

    def easing(self, index: int, wanted: float) -> float:
        """The next acceleration of one component to go over to a wanted speed."""
        limit, jerk = float(self.grid.acceleration[index]), float(self.grid.jerk[index])
        change = min(max(ease_one(wanted - float(self.speed[index]), jerk), -limit), limit)
        return min(max(change, float(self.least[index])), float(self.most[index]))

    def move(self, step: Numbers) -> None:
        """Take a step."""
        high, low = np.maximum(self.high, self.position), np.minimum(self.low, self.position)
        position = np.minimum(np.maximum(self.position + step, low), high)
        self.acceleration = step - self.speed
        self.speed = step
        self.position = position
