"""Two clocks for one loop: the wall clock of a robot, and a virtual one on which minutes pass in milliseconds."""

import time

from actloop.errors import ContractError


class WallClock:
    """Seconds of the machine's monotonic clock."""

    def now(self) -> float:
        return time.monotonic()

    def sleep_until(self, time: float) -> None:
        """Sleep until `time`; at once when it has passed."""
        remaining = time - self.now()
        if remaining > 0:
            _sleep(remaining)


class VirtualClock:
    """Seconds that pass only in `sleep_until`. Nothing is waited for, so an episode repeats exactly."""

    def __init__(self, start: float = 0.0) -> None:
        if not abs(start) < float("inf"):
            raise ContractError("clock.start", f"expected finite seconds, got {start}")
        self._now = start

    def now(self) -> float:
        return self._now

    def sleep_until(self, time: float) -> None:
        """Move the clock forward to `time`; a time that has passed changes nothing."""
        self._now = max(self._now, time)


def _sleep(seconds: float) -> None:
    time.sleep(seconds)
