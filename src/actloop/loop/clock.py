"""Two clocks for one loop: the wall clock of a robot, and a virtual one on which minutes pass in milliseconds."""

import gc
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from actloop.errors import ContractError

MOST_SPIN = 0.002  # seconds: more would keep a core from the models
GIVE_WAY = 0.0005  # seconds after which another thread of Python lets a tick go on


class WallClock:
    """Seconds of the machine's monotonic clock.

    Args:
        spin: seconds before the time of waking from which on the clock is watched, not slept: it wakes on the spot,
            holds the interpreter already, and keeps a core busy meanwhile.

    Raises:
        ContractError: `spin` is out of range.
    """

    def __init__(self, *, spin: float = 0.0) -> None:
        if not 0 <= spin <= MOST_SPIN:
            raise ContractError("clock.spin", f"expected seconds from 0 to {MOST_SPIN:g}, got {spin}")
        self._spin = spin

    def now(self) -> float:
        return time.monotonic()

    def sleep_until(self, time: float) -> None:
        """Sleep until `time`; at once when it has passed."""
        remaining = time - self.now() - self._spin
        if remaining > 0:
            _sleep(remaining)
        if self._spin:
            while self.now() < time:
                pass


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


@contextmanager
def undisturbed() -> Iterator[None]:
    """Set the interpreter for ticks: other threads soon give way, and garbage is looked for only in what is new.

    By default a thread that computes in Python keeps the interpreter for 5 ms, and a look at all the objects of a
    process that has loaded torch takes 90 ms.
    """
    _quiet.begin()
    try:
        yield
    finally:
        _quiet.end()


class _Quiet:
    """Counts the episodes that overlap: the first one sets the interpreter, the last one sets it back."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running = 0
        self._interval = 0.0

    def begin(self) -> None:
        with self._lock:
            self._running += 1
            if self._running == 1:
                self._interval = sys.getswitchinterval()
                gc.collect()
                gc.freeze()
                sys.setswitchinterval(min(self._interval, GIVE_WAY))

    def end(self) -> None:
        with self._lock:
            self._running -= 1
            if self._running == 0:
                sys.setswitchinterval(self._interval)
                gc.unfreeze()


_quiet = _Quiet()


@contextmanager
def real_time(priority: int) -> Iterator[None]:
    """Give this thread a real-time priority, 1 to 99, for a while: it runs before all that has none.

    What it starts meanwhile does not inherit it: a model that computes beside the ticks must not.

    Raises:
        ContractError: the number is out of range, or the system does not let this user.
    """
    if not 1 <= priority <= 99:
        raise ContractError("priority", f"expected 1 to 99, got {priority}")
    if not hasattr(os, "sched_setscheduler"):
        raise ContractError("priority", "this system has no real-time priorities; run without")
    policy, before = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(priority))
    except PermissionError as error:
        mend = "allow it (root, CAP_SYS_NICE, or `rtprio` in /etc/security/limits.conf) or run without"
        raise ContractError("priority", f"this user may not have real-time priority {priority}: {mend}") from error
    try:
        yield
    finally:
        os.sched_setscheduler(0, policy, before)


def _sleep(seconds: float) -> None:
    time.sleep(seconds)
