"""A fake with the interface of LeRobot's `Robot`: an arm like the SO-101, two cameras, and faults to order.

Like LeRobot's own arms it moves no target further from where it is than `max_relative_target`, and says what it sent.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from actloop.contracts import Part, Task
from actloop.simulation.robot import RobotPart

MOTORS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")
NAMES = tuple(f"{motor}.pos" for motor in MOTORS)
HEIGHT, WIDTH = 24, 32

PARTS = (
    RobotPart(part=Part(name="joints", unit="deg", low=(-100.0,) * 5, high=(100.0,) * 5), features=NAMES[:5]),
    RobotPart(part=Part(name="gripper", unit="%", low=(0.0,), high=(100.0,)), features=NAMES[5:]),
)
TASKS = (Task(name="tidy", instruction="put the cup on the shelf", time_limit=2.0, skill="place"),)


class DeviceNotConnectedError(ConnectionError):
    """As LeRobot's."""


class FakeArm:
    """Six joints that go where they are told, but no faster than they can.

    Args:
        max_relative_target: degrees by which a command may differ from where the joint is.
        camera_seconds: how long `get_observation` takes.
        lost_after: readings after which the arm is unplugged.
        calibrated: whether its calibration is that of the file.
        period: seconds by which `clock` moves on with each command, in place of a loop that waits.
    """

    name = "fake_so101"

    def __init__(
        self,
        *,
        max_relative_target: float = 10.0,
        camera_seconds: float = 0.0,
        lost_after: int | None = None,
        calibrated: bool = True,
        period: float = 0.0,
    ) -> None:
        self.max_relative_target, self.camera_seconds, self.period = max_relative_target, camera_seconds, period
        self.lost_after, self.is_calibrated = lost_after, calibrated
        self.is_connected = False
        self.joints = dict.fromkeys(NAMES, 0.0) | {"gripper.pos": 50.0}
        self.clock = 0.0
        self.readings = 0
        self.commands: list[dict[str, float]] = []
        self.calls: list[str] = []
        self.hang = threading.Event()  # set while a camera hangs
        self._frame = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)  # reused, as drivers do
        self.speakers = 0
        self.collided = False  # whether two threads ever spoke to it at once

    @property
    def observation_features(self) -> dict[str, Any]:
        return dict.fromkeys(NAMES, float) | {"front": (HEIGHT, WIDTH, 3), "wrist": (HEIGHT, WIDTH, 3)}

    @property
    def action_features(self) -> dict[str, Any]:
        return dict.fromkeys(NAMES, float)

    def connect(self, calibrate: bool = True) -> None:
        self.calls.append(f"connect({calibrate=})")
        if calibrate and not self.is_calibrated:
            raise AssertionError("would ask on the terminal")
        self.is_connected = True

    def get_observation(self) -> dict[str, Any]:
        with self._speaking():
            self.readings += 1
            if self.lost_after is not None and self.readings > self.lost_after:
                self.is_connected = False
                raise DeviceNotConnectedError("no status packet")
            seen: dict[str, Any] = dict(self.joints)
            while self.hang.is_set():
                time.sleep(0.005)
            time.sleep(self.camera_seconds)
            for row, name in enumerate(NAMES):
                self._frame[4 * row : 4 * row + 4] = int(self.joints[name] % 256)
            return seen | {"front": self._frame, "wrist": self._frame}

    def send_action(self, action: dict[str, Any]) -> dict[str, Any]:
        with self._speaking():
            if set(action) != set(NAMES):
                raise KeyError(f"commanded {sorted(action)}")
            reach = self.max_relative_target
            self.joints = {n: min(max(action[n], at - reach), at + reach) for n, at in self.joints.items()}
            self.commands.append(dict(action))
            self.clock += self.period
            return dict(self.joints)

    def disconnect(self) -> None:
        self.calls.append("disconnect")
        if not self.is_connected:
            raise DeviceNotConnectedError("not connected")
        self.is_connected = False

    @contextmanager
    def _speaking(self) -> Iterator[None]:
        if not self.is_connected:
            raise DeviceNotConnectedError("not connected")
        self.speakers += 1
        self.collided |= self.speakers > 1
        try:
            yield
        finally:
            self.speakers -= 1


def make(**options: Any) -> FakeArm:
    return FakeArm(**options)


def go_home(arm: FakeArm, task: Task, seed: int) -> None:
    """Drive to a pose that follows from the seed, and return when there."""
    rng = np.random.default_rng([seed, len(task.name)])
    pose = {name: float(rng.uniform(20.0, 80.0)) for name in NAMES}
    while arm.send_action(pose) != pose:
        pass
