"""From a motion within limits to what is sent, float32, and back from what was really sent; grippers by themselves."""

import numpy as np
from jaxtyping import Float

from actloop.loop.governor.axes import Axes
from actloop.loop.governor.limits import Grid

Numbers = Float[np.ndarray, "axes"]
NEARLY = 1e-9  # in units of the action: nearer than this is there
STILL = 1e-10  # in units of the action per tick: slower than this is at rest


class Mover:
    """Components that are sent to the robot: absolute ones their position, others what brings their sum to it."""

    def __init__(self, grid: Grid) -> None:
        self.grid, self.axes = grid, Axes(grid)
        self._summed = grid.kinds.delta | grid.kinds.velocity
        self._any_summed = bool(self._summed.any())
        self.place(np.zeros(len(grid.low)))

    def place(self, position: Numbers) -> None:
        """Be at rest there; NaN where nobody knows, for components without a position."""
        known = ~np.isnan(position)
        self.axes.rest(np.where(known, position, 0.0), boxed=known & self.grid.positioned)
        self.reported = self.axes.position  # where what was sent leads
        self._before = (self.reported, self.axes.speed)
        self._unrounded = 3  # steps in a row that float32 did not round

    @property
    def still(self) -> bool:
        """Whether nothing moves."""
        return not (self.axes.speed.any() or self.axes.acceleration.any())

    def take(self, step: Numbers) -> None:
        """Take a step within limits."""
        self._before = (self.reported, self.axes.speed)
        self.axes.move(step)

    def send(self) -> Numbers:
        """What brings the robot where the last step led, float32."""
        position = self.axes.position
        wanted = np.where(self._summed, position - self.reported, position) if self._any_summed else position
        action: Numbers = wanted.astype(np.float32)
        led = np.where(self._summed, self.reported + action, action) if self._any_summed else action.astype(np.float64)
        self._unrounded = self._unrounded + 1 if bool((np.abs(led - position) <= STILL).all()) else 0
        self.reported = led
        return action

    def sent(self, action: Numbers) -> None:
        """Go on from what was really sent, at a speed within limits."""
        grid, axes = self.grid, self.axes
        place, speed = self._before
        led = np.where(self._summed, place + action, action)
        other = led != self.reported
        moved = np.minimum(np.maximum(led - place, grid.slowest), grid.fastest)
        change = moved - speed
        change = np.where(np.abs(change) > grid.acceleration, 0.0, change)
        axes.position = np.where(other, led, axes.position)
        axes.speed = np.where(other, moved, axes.speed)
        axes.acceleration = np.where(other, change, axes.acceleration)
        self.reported, self._unrounded = led, 0


class Switch(Mover):
    """Grippers: each goes where it is told as fast as its own limits allow, and is no part of the path's timing."""

    def __init__(self, grid: Grid) -> None:
        super().__init__(grid)
        self._plain = not self._any_summed and bool(np.isinf(grid.allowed[1:]).all())  # only the box bounds it

    def switch(self, wanted: Numbers | None) -> tuple[Numbers, tuple[str, ...]]:
        """What to send, and why it is not `wanted`; with none wanted they stop."""
        axes, grid = self.axes, self.grid
        if self._plain and wanted is not None:
            held = np.minimum(np.maximum(wanted, axes.low), axes.high)
            axes.position, self.reported = held, held
            return held.astype(np.float32), () if (held == wanted).all() else ("box",)
        asked = np.where(self._summed, 0.0, axes.position) if wanted is None else np.asarray(wanted, dtype=np.float64)
        low, high = np.where(self._summed, grid.slowest, axes.low), np.where(self._summed, grid.fastest, axes.high)
        inside = np.minimum(np.maximum(asked, low), high)
        reasons: tuple[str, ...] = ("box",) if (np.abs(inside - asked) > NEARLY).any() else ()
        step = np.where(self._summed, inside, inside - axes.position)
        axes.look()
        if not axes.fits(step):
            reasons = (*reasons, *axes.excess(step))
            step = axes.speed + [self._change(index, gap) for index, gap in enumerate(step.tolist())]
        self.take(step)
        return self.send(), reasons

    def _change(self, index: int, gap: float) -> float:
        if self._summed[index]:
            return self.axes.easing(index, gap)
        return self.axes.towards(index, gap)
