"""Reading a robot without making the loop wait for a camera.

inline       observe() ---get_observation, the tick waits--->
background   apply() -> send_action, then a thread reads; observe() takes the newest reading at once
concurrent   a thread reads all the time, also while a command is sent
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeVar

from actloop.contracts import Frame, State
from actloop.errors import ActloopError
from actloop.simulation.robot.parts import RobotError

Mode = Literal["inline", "background", "concurrent"]
MODES: tuple[Mode, ...] = ("inline", "background", "concurrent")
Sensed = tuple[State, dict[str, Frame]]
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Reading:
    """What the robot sensed, and when the reading began, in seconds of the given clock."""

    sensed: Sensed
    time: float


class Reader:
    """Reads and sends; never both at once, unless the mode is "concurrent".

    Args:
        read: reads everything once; may take as long as a camera does. What it raises is raised again by `newest`.
        mode: who calls it.
        patience: seconds after which a reading that has not ended is an error.
        apart: seconds between the beginnings of two readings, at least, in the mode "concurrent".
        now: seconds of a monotonic clock.
    """

    def __init__(
        self, read: Callable[[], Sensed], *, mode: Mode, patience: float, apart: float, now: Callable[[], float]
    ) -> None:
        self._read, self._mode, self._now = read, mode, now
        self._patience, self._apart = patience, apart
        self._bus = threading.Lock()  # held while the robot is spoken to: its wires carry one message at a time
        self._wanted = threading.Event()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._newest: Reading | None = None
        self._begun: float | None = None  # when the reading under way began
        self._error: ActloopError | None = None

    def start(self) -> Reading:
        """The first reading, taken here and now; the others are taken as the mode says."""
        self.stop()
        self._error = None
        self._newest = self._take()
        if self._mode != "inline":
            self._stop = threading.Event()  # its own for each thread: one that hung has to end whenever it comes back
            self._wanted.clear()
            self._thread = threading.Thread(target=self._run, args=(self._stop,), name="robot-reader", daemon=True)
            self._thread.start()
        return self._newest

    def newest(self) -> Reading:
        """The last reading that ended; without a thread, one taken now.

        Raises:
            RobotError: the reading under way does not end.
            ActloopError: what the last reading raised.
        """
        if self._thread is None:
            return self._take()
        if self._error is not None:
            raise self._error
        begun, newest = self._begun, self._newest
        if begun is not None and self._now() - begun > self._patience:
            raise self._hangs()
        assert newest is not None
        return newest

    def send(self, send: Callable[[], Answer]) -> Answer:
        """Call `send` while nothing is read; in the mode "background" the next reading begins after it.

        Raises:
            RobotError: the reading under way does not end.
            ActloopError: what the last reading raised: nothing is sent blindly.
        """
        if self._error is not None:
            raise self._error
        if self._mode == "concurrent":
            return send()
        if not self._bus.acquire(timeout=self._patience):
            raise self._hangs()
        try:
            return send()
        finally:
            self._bus.release()
            self._wanted.set()

    def stop(self) -> None:
        """End the thread; a reading that hangs is left behind."""
        self._stop.set()
        self._wanted.set()
        if self._thread is not None:
            self._thread.join(timeout=self._patience)
            self._thread = None

    def _run(self, stop: threading.Event) -> None:
        while not stop.is_set():
            if self._mode == "background":
                if not self._wanted.wait(timeout=self._patience):
                    continue
                self._wanted.clear()
                if stop.is_set():
                    return
            try:
                self._newest = self._take()
            except ActloopError as error:
                self._error = error
                return
            if self._mode == "concurrent":  # a robot without cameras would keep a processor busy
                stop.wait(max(0.0, self._newest.time + self._apart - self._now()))

    def _take(self) -> Reading:
        if self._mode == "concurrent":
            return self._timed()
        if not self._bus.acquire(timeout=self._patience):
            raise self._hangs()
        try:
            return self._timed()
        finally:
            self._bus.release()

    def _timed(self) -> Reading:
        begun = self._begun = self._now()
        try:
            return Reading(self._read(), begun)
        finally:
            self._begun = None

    def _hangs(self) -> RobotError:
        return RobotError(f"a reading of the robot did not end within {self._patience:g} s: a camera or the bus hangs")
