"""Stands between the plan and the robot, once per tick: what is sent stays within limits. Pure, no threads, no clock.

    wanted --> finite, shape --> position box --> pace along the chunk's own path --> else off the path, braking
               ContractError     clipped          so that velocity, acceleration     every component by itself,
                                                  and jerk stay within limits        as near as it can

Every command leaves a stop open: one that keeps the limits and ends inside the box. So there is always a next command.

This is not a safety-rated system. It bounds what this process sends, nothing else: keep the limits of the drives, the
emergency stop, and a watchdog that does not run in Python.
"""

import math
from dataclasses import dataclass

import numpy as np

from actloop.contracts import Action, Embodiment, State
from actloop.errors import ContractError
from actloop.loop.governor.following import Follower
from actloop.loop.governor.limits import Grid, Limits
from actloop.loop.governor.moving import Switch
from actloop.loop.path import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Governed:
    """What to send in a tick, and what was changed.

    Attributes:
        action: float32.
        pace: how far along the path it moves, 0 to 1; 0 for a hold.
        reasons: why it is not what was asked for: "box" (clipped to the space or position box, or slowed before its
            wall), "velocity", "acceleration", "jerk" (asked for more than that), "ahead" (slowed before what comes),
            "brake" (held while moving), "off path"; empty where nothing was changed.
        off_path: the largest distance of a component from where it was to be, in its unit.
    """

    action: Action
    pace: float
    reasons: tuple[str, ...] = ()
    off_path: float = 0.0


class Governor:
    """Keeps the commands of one robot within limits; `govern` and then `sent`, once per tick.

    Before anything was sent the robot is at rest where it was measured (or at the declared neutral value). A robot
    measured outside its box is led back into it within the limits of the motion.

    Raises:
        ContractError: the limits do not fit the body.
    """

    def __init__(self, embodiment: Embodiment, limits: Limits) -> None:
        self._space, self._states = embodiment.action, embodiment.state
        self._low, self._high = self._space.low, self._space.high
        self._grid = grid = Grid.of(embodiment, limits)
        self._free = not limits.moving
        self._arm, self._hand = grid.arm, ~grid.arm
        self._follower = Follower(grid)
        self._switch = Switch(grid.take(~grid.arm)) if self._hand.any() else None
        self._boxed = bool((grid.kinds.delta & grid.positioned & grid.arm).any())
        self.reset()

    @property
    def looks(self) -> bool:
        """Whether a measured state would count in the next tick: before the first one, and at rest for its box."""
        return not self._free and (not self._placed or (self._boxed and self._follower.still))

    def reset(self) -> None:
        """Forget what was sent: the robot is at rest where the next state says."""
        self._path: Path | None = None
        self._last: Action | None = None
        self._placed = False
        self._follower.place(np.zeros(int(self._arm.sum())))

    def govern(
        self,
        path: Path | None,
        at: float,
        *,
        pace: float = 1.0,
        hold: Action | None = None,
        state: State | None = None,
        correction: Action | None = None,
    ) -> Governed:
        """What to send in this tick.

        Args:
            path: to follow; None where nothing is fresh.
            at: progress along it so far.
            pace: of progress in this tick, at most; where the robot is faster it slows down as its limits allow.
            hold: where the body would hold; without it, and without a path, the robot stops where it can.
            state: as measured in this tick, where known: wanted in the first one, and for the box of delta parts.
            correction: what to add to the action of this tick. Of delta parts it is all that they are behind the path.

        Raises:
            ContractError: something is not finite or has the wrong shape, `at` or `pace` is out of range.
        """
        if not (0.0 <= pace <= 1.0 and 0.0 <= at < math.inf):
            raise ContractError("governor", f"expected a pace from 0 to 1 and progress from 0, got {pace} and {at}")
        self._check(path, hold, correction)
        if self._free:
            return self._clipped(path, at, pace, hold, correction)
        arm, which = self._follower, self._arm
        if pace == 1.0 and path is not None and correction is None and arm.straight(path, at):
            changed: tuple[str, ...] = ()
            action = path.actions[int(at)].copy()
            if self._switch is not None:
                action[self._hand], changed = self._switch.switch(action[self._hand])
            self._last = action
            return Governed(action=action, pace=1.0, reasons=changed)
        if not self._placed:
            self._place(path, hold, state)
        elif state is not None and arm.still and path is not arm.path:
            self._states.check(state, "state")
            arm.measured(state)
        if path is None:
            moved = arm.hold(None if hold is None else hold[which])
        else:
            moved = arm.follow(path, at, pace, None if correction is None else correction[which])
        action = np.empty(len(which), dtype=np.float32)
        action[which] = arm.send()
        reasons = moved.reasons
        if self._switch is not None:
            wanted = self._switched(path, at, moved.pace, hold, correction)
            action[self._hand], why = self._switch.switch(wanted)
            reasons = tuple(dict.fromkeys((*reasons, *why)))
        self._last = action
        return Governed(action=action, pace=moved.pace, reasons=reasons, off_path=moved.off_path)

    def sent(self, action: Action) -> None:
        """Report what was really sent, where a world changed it.

        Raises:
            ContractError: it is not finite or has the wrong shape.
        """
        if self._free or (self._last is not None and np.array_equal(action, self._last)):
            return
        self._space.check(np.asarray(action), "governor.sent")
        self._last = np.asarray(action, dtype=np.float32)
        self._follower.sent(self._last[self._arm])
        if self._switch is not None:
            self._switch.sent(self._last[self._hand])

    def _check(self, path: Path | None, hold: Action | None, correction: Action | None) -> None:
        """A path is looked at once."""
        if path is not self._path:
            if path is not None:
                self._space.check(path.vertices, "path")
            self._path = path
        if hold is not None:
            self._space.check(hold, "hold")
        if correction is not None:
            self._space.check(correction, "correction")

    def _clipped(
        self, path: Path | None, at: float, pace: float, hold: Action | None, correction: Action | None
    ) -> Governed:
        if path is not None:
            action = path.action(at, pace)
            action = action if correction is None else (action + correction).astype(np.float32)
            pace = min(pace, max(len(path) - at, 0.0))
        else:
            kept = np.where(self._grid.kinds.absolute, self._low * 0 if self._last is None else self._last, 0)
            action, pace = np.asarray(kept if hold is None else hold, dtype=np.float32), 0.0
        inside: Action = np.minimum(np.maximum(action, self._low), self._high)
        self._last = inside
        return Governed(action=inside, pace=pace, reasons=() if np.array_equal(inside, action) else ("box",))

    def _place(self, path: Path | None, hold: Action | None, state: State | None) -> None:
        """Where the robot is before anything was sent."""
        grid = self._grid
        place = np.where(np.isnan(grid.neutral), math.nan, grid.neutral)
        if state is not None:
            self._states.check(state, "state")
            known = (grid.measured >= 0) & np.isnan(place)
            place[known] = state[grid.measured[known]]
        for other in (hold, None if path is None else path.vertices[0]):
            if other is not None:
                place = np.where(np.isnan(place) & grid.kinds.absolute, other, place)
        if np.isnan(place[grid.kinds.absolute]).any():
            raise ContractError("governor.state", "expected a measured state in the first tick, got None")
        self._follower.place(place[self._arm])
        if self._switch is not None:
            self._switch.place(place[self._hand])
        self._placed = True

    def _switched(
        self, path: Path | None, at: float, pace: float, hold: Action | None, correction: Action | None
    ) -> Action | None:
        """What the grippers are asked for in a tick that moves on by `pace`."""
        if path is None:
            return None if hold is None else hold[self._hand]
        wanted: Action = path.action(at, pace)[self._hand]
        return wanted if correction is None else wanted + correction[self._hand]
