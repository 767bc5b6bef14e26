"""A robot with LeRobot's interface as a `World`: commands go out by name, what was really sent comes back."""

import inspect
import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from actloop.contracts import Action, Embodiment, Observation, Outcome, Task
from actloop.errors import ActloopError, ContractError, UnknownNameError
from actloop.simulation.robot.parts import BodyMap, LeRobot, RobotError, RobotPart
from actloop.simulation.robot.reading import MODES, Mode, Reader, Reading, Sensed

Home = Callable[[Any, Task, int], None]
BURST = 4  # commands that may not come in half the time that they should take
_USED = (
    "observation_features",
    "action_features",
    "is_connected",
    "connect",
    "get_observation",
    "send_action",
    "disconnect",
)


class RobotWorld:
    """A `World` on any object with LeRobot's `Robot` interface; the robot is connected by the first `reset`.

    `reset` itself moves nothing: where a start pose is wanted, `home(robot, task, seed)` drives there, and returns when
    it has arrived. An episode ends when `finish` is told so, or with the task's time limit. The time of an observation
    is when its reading began, so its age is what it really is; its tick is that of the moment it is asked for.

    Args:
        robot: `observation_features`, `action_features`, `is_connected`, `connect`, `get_observation`, `send_action`
            and `disconnect` are used.
        name: of the embodiment.
        control_hz: ticks per second that the loop will keep.
        parts: what its numbers mean.
        tasks: what may be asked of it.
        cameras: those to use, by their names in `observation_features`; all colour cameras where None.
        unused: names of further things sensed that are left out on purpose.
        home: drives to the start of an episode.
        reading: "inline" reads when asked, and the tick waits for the cameras. "background" reads in a thread after
            each command, and the tick waits only where a reading takes longer than a period. "concurrent" reads all the
            time, for robots whose own driver permits a command in the middle of a reading.
        patience: seconds after which a reading that has not ended is an error.
        now: seconds of a monotonic clock.

    Raises:
        ContractError: the declared parts are not what the robot has, or a number is out of range.
        UnknownNameError: no such camera, or no such way of reading.
    """

    def __init__(
        self,
        robot: LeRobot,
        *,
        name: str,
        control_hz: float,
        parts: Sequence[RobotPart],
        tasks: Sequence[Task],
        cameras: Sequence[str] | None = None,
        unused: Sequence[str] = (),
        home: Home | None = None,
        reading: Mode = "inline",
        patience: float = 1.0,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        if not isinstance(robot, LeRobot):
            lacks = [member for member in _USED if not hasattr(robot, member)]
            raise ContractError("robot", f"{type(robot).__name__} lacks {lacks} of LeRobot's interface")
        if reading not in MODES:
            raise UnknownNameError("robot.reading", reading, MODES)
        if not 0 < patience < math.inf:
            raise ContractError("robot.patience", f"expected seconds above 0, got {patience}")
        self._tasks = {task.name: task for task in tasks}
        if not tasks or len(self._tasks) < len(tasks):
            raise ContractError("robot.tasks", f"expected tasks of distinct names, got {[task.name for task in tasks]}")
        self._robot, self._home, self._now = robot, home, now
        self._body = BodyMap(robot, name=name, control_hz=control_hz, parts=parts, cameras=cameras, unused=unused)
        self._reader = Reader(self._read, mode=reading, patience=patience, apart=self.embodiment.period / 4, now=now)
        self._opened = False
        self._task: Task | None = None
        self._outcome: Outcome | None = None
        self._tick = 0
        self._start = 0.0
        self._sent_at: deque[float] = deque(maxlen=BURST)

    @property
    def embodiment(self) -> Embodiment:
        return self._body.embodiment

    @property
    def tasks(self) -> Mapping[str, Task]:
        return self._tasks

    def reset(self, task: Task, *, seed: int) -> Observation:
        """Connect if that has not been done, go home, and begin an episode; the seed is only told to `home`.

        Raises:
            UnknownNameError: no such task.
            RobotError: it cannot be reached, is not calibrated, or cannot be read.
        """
        if task.name not in self._tasks:
            raise UnknownNameError(f"{self.embodiment.name}, task", task.name, self._tasks)
        self._task = None
        self._reader.stop()
        self._connect()
        if self._home is not None:
            self._home(self._robot, task, seed)
        first = self._reader.start()
        self._task, self._outcome, self._tick, self._start = task, None, 0, first.time
        self._sent_at.clear()
        return self._observation(first)

    def observe(self) -> Observation:
        """What is sensed.

        Raises:
            RobotError: it cannot be read, or a reading does not end.
            ContractError: it senses other than declared, or no episode is running.
        """
        self._running()
        return self._observation(self._reader.newest())

    def apply(self, action: Action) -> Action:
        """Send the command, clipped to the declared limits, and return what the robot says that it sent.

        Raises:
            ContractError: not an action of this body, or faster than a robot may be told: then nothing was sent. Or the
                robot answers other than declared.
            RobotError: it cannot be told.
        """
        self._running()
        space = self.embodiment.action
        space.check(action, "action")
        if action.ndim != 1:
            raise ContractError("action", f"expected one action of shape ({space.size},), got {action.shape}")
        self._keep_pace()
        command = self._body.command(space.clip(action))
        answer = self._reader.send(lambda: self._ask("send_action", lambda: self._robot.send_action(command)))
        self._tick += 1
        return self._body.sent(answer)

    def finish(self, success: bool, reason: str) -> None:
        """End the episode: said by the operator, or by whoever judges it. What has ended stays as it ended.

        Raises:
            ContractError: no episode is running.
        """
        self._running()
        if self.outcome() is None:
            self._outcome = Outcome(success=success, reason=reason, time=self._now() - self._start)

    def outcome(self) -> Outcome | None:
        if self._task is not None and self._outcome is None:
            elapsed = self._now() - self._start
            if elapsed >= self._task.time_limit - 1e-9:
                self._outcome = Outcome(success=False, reason="time limit", time=elapsed)
        return self._outcome

    def close(self) -> None:
        """Disconnect, whatever state the robot is in; `reset` would connect it again.

        Raises:
            RobotError: it is still connected: its motors may still be powered.
        """
        self._task = None
        self._reader.stop()
        if self._opened:
            self._disconnect()

    def _keep_pace(self) -> None:
        """A loop on a virtual clock would throw its commands at the robot; late ticks of a real one do not add up."""
        self._sent_at.append(self._now())
        took, least = self._sent_at[-1] - self._sent_at[0], (BURST - 1) * self.embodiment.period / 2
        if len(self._sent_at) == BURST and took < least:
            raise ContractError(
                self.embodiment.name,
                f"{BURST} commands within {took:.3f} s at {self.embodiment.control_hz:g} Hz; "
                "a robot is driven on the wall clock: run_episode(clock=WallClock())",
            )

    def _connect(self) -> None:
        if self._opened:
            if self._robot.is_connected:
                return
            self._disconnect()  # what is left of the connection
        self._opened = True
        takes = inspect.signature(self._robot.connect).parameters
        # Told to calibrate, LeRobot's arms ask on the terminal and wait; that is no thing for the start of an episode.
        options = {"calibrate": False} if "calibrate" in takes else {}
        try:
            if not self._robot.is_connected:
                self._ask("connect", lambda: self._robot.connect(**options))
            if not getattr(self._robot, "is_calibrated", True):
                raise RobotError(f"{self.embodiment.name} is not calibrated; calibrate it first (lerobot-calibrate)")
        except RobotError:
            self._disconnect()
            raise

    def _disconnect(self) -> None:
        """Also where it says that it is not connected: of an arm that lost one camera the motors still are."""
        self._opened = False
        try:
            self._robot.disconnect()
        except Exception as error:  # whatever the driver raises
            if self._robot.is_connected:
                raise RobotError(
                    f"{self.embodiment.name} could not be disconnected ({type(error).__name__}: {error}); "
                    "its motors may still be powered"
                ) from error

    def _read(self) -> Sensed:
        values = self._ask("get_observation", self._robot.get_observation)
        if not isinstance(values, Mapping):
            raise ContractError("robot.get_observation", f"expected values by name, got {type(values).__name__}")
        return self._body.sensed(values)

    def _ask(self, what: str, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except ActloopError:
            raise
        except Exception as error:  # whatever the driver raises
            what = f"{self.embodiment.name}: {what} failed"
            raise RobotError(f"{what} ({type(error).__name__}: {error}); is it powered and plugged in?") from error

    def _observation(self, reading: Reading) -> Observation:
        state, images = reading.sensed
        obs = Observation(images=images, state=state, tick=self._tick, time=reading.time - self._start)
        self.embodiment.check(obs)
        return obs

    def _running(self) -> None:
        if self._task is None:
            raise ContractError(self.embodiment.name, "no episode is running; call reset(task, seed=...) first")
