"""How late the ticks are on this machine, and what the loop itself costs, beside a model that computes all the time.

Arm robot (2 cameras, 8 components) <--ticks--> run_episode <--shared memory--> process: a busy module
                                                    `--> Journal
"""

import gc
import math
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from actloop.contracts import (
    Action,
    ActionChunk,
    Camera,
    Embodiment,
    Observation,
    Outcome,
    Part,
    Prediction,
    Space,
    Task,
)
from actloop.errors import ActloopError, ContractError
from actloop.loop.clock import WallClock, real_time
from actloop.loop.config import LoopConfig
from actloop.loop.episode import run_episode
from actloop.loop.inference import Live
from actloop.loop.journal import Journal
from actloop.loop.limits import Limits
from actloop.loop.places import InThread
from actloop.loop.process import InProcess
from actloop.loop.questions import Answer, Place, Question
from actloop.testing.loop_meter import Meter, MeteredClock, MeteredWorld, Spread

RATES = (50.0, 100.0, 200.0, 500.0)  # Hz
JOINTS = 7
IMAGE = 224
AHEAD = 4.0  # chunks last as many times as long as the module thinks
TASK = Task(name="move", instruction="move the arm to and fro", time_limit=60.0)
"""Its time limit is that of the measurement."""

WHERE = Literal["process", "thread"]
WORK = Literal["matrices", "python"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One way to run the loop.

    Attributes:
        where: the module runs.
        work: what it does: matrix products in NumPy, or loops in Python, which hold the interpreter.
        limits: of the velocity, rad/s, with some of acceleration and jerk; infinite for none. The motion takes 0.6.
        rests: sleeps for what is left of each period, as many loops do, in place of keeping an absolute grid.
    """

    name: str
    where: WHERE = "process"
    work: WORK = "matrices"
    limits: float = 2.0
    rests: bool = False


ARMS = (
    Arm(name="process"),
    Arm(name="process-slowed", limits=0.4),
    Arm(name="process-free", limits=math.inf),
    Arm(name="thread-python", where="thread", work="python"),
    Arm(name="rests", rests=True),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopTiming:
    """What one arm did at one rate. Spreads are None where nothing of the kind happened.

    Attributes:
        rate_off: by how much the effective rate differs from `hz`, as a share; negative for slower.
        missed: places of the grid that stayed empty.
        held: ticks without a fresh action, of `ticks`.
        woken_late: from the place on the grid to waking; None where no grid is kept.
        sent_late: from there to sending, with the world's own time to observe.
        to_send: the loop's own time from waking to having sent, without the world's.
        own: the loop's own time per tick, from waking to sleeping again, without the world's.
        own_cpu: the same as processor time of the thread.
        age: of the observations behind the executed actions.
        answers: that came.
        answered: seconds from asking to the answer.
        warnings: what the loop said went wrong.
    """

    arm: str
    hz: float
    seconds: float
    ticks: int
    effective_hz: float
    rate_off: float
    missed: int
    held: int
    woken_late: Spread | None
    sent_late: Spread | None
    to_send: Spread | None
    own: Spread | None
    own_cpu: Spread | None
    world: Spread | None
    age: Spread | None
    answers: int
    answered: Spread | None
    warnings: tuple[str, ...]


def bench_loop(
    *,
    rates: Sequence[float] = RATES,
    arms: Sequence[Arm] = ARMS,
    seconds: float = 10.0,
    think: float = 0.1,
    spin: float = 0.0,
    priority: int = 0,
) -> Iterator[LoopTiming]:
    """Run every arm at every rate, one after the other.

    Args:
        rates: in Hz.
        arms: ways to run the loop.
        seconds: of each episode.
        think: seconds of computing per answer; the module is asked again at once.
        spin: of the clock, see `WallClock`; not where an arm rests.
        priority: real-time priority of the ticks alone, 1 to 99; 0 for none.

    Raises:
        ContractError: a number is out of range.
        ActloopError: an episode failed.
    """
    for what, least, values in (("rates", 1.0, rates), ("seconds", 0.05, (seconds,)), ("think", 0.001, (think,))):
        if not all(least <= value < math.inf for value in values):
            raise ContractError(f"bench.{what}", f"expected at least {least:g}, got {list(values)}")
    for rate in rates:
        for arm in arms:
            clock = RestingClock(1 / rate) if arm.rests else WallClock(spin=spin)
            yield _timed(arm, rate, seconds, think, clock, priority)


def _timed(arm: Arm, hz: float, seconds: float, think: float, clock: WallClock, priority: int) -> LoopTiming:
    body = arm_body(hz)
    horizon = max(8, math.ceil(AHEAD * think * hz))
    meter = Meter(clock.now)
    limits = None
    if math.isfinite(arm.limits):
        limits = Limits.of(body, velocity={"joints": arm.limits}, acceleration={"joints": 15.0}, jerk={"joints": 500.0})
    config = LoopConfig(execute_horizon=1, limits=limits)
    task = Task(name=TASK.name, instruction=TASK.instruction, time_limit=seconds)
    world = MeteredWorld(StillArm(body, task), meter)
    with tempfile.TemporaryDirectory() as folder, _placed(arm, hz, horizon, think) as place:
        gc.collect()
        journal_at = Path(folder) / "events.jsonl"
        with Journal(journal_at) as journal, real_time(priority) if priority else nullcontext():
            result = run_episode(
                world,
                Known(body, horizon),
                task,
                seed=0,
                config=config,
                clock=MeteredClock(clock, meter),
                inference=Live(place, clock),
                subscribers=[journal],
            )
    if result.error:
        raise ActloopError(f"the episode of {arm.name!r} at {hz:g} Hz failed: {result.error}")
    rate = meter.rate or 0.0
    return LoopTiming(
        arm=arm.name,
        hz=hz,
        seconds=seconds,
        ticks=result.ticks,
        effective_hz=rate,
        rate_off=rate / hz - 1.0,
        missed=result.missed,
        held=result.held,
        woken_late=None if arm.rests else Spread.of(meter.woken_late),
        sent_late=None if arm.rests else Spread.of(meter.sent_late),
        to_send=Spread.of(meter.to_send),
        own=Spread.of(meter.own),
        own_cpu=Spread.of(meter.own_cpu),
        world=Spread.of(meter.world),
        age=Spread.of(result.ages),
        answers=len(result.latencies),
        answered=Spread.of(result.latencies),
        warnings=result.warnings,
    )


@contextmanager
def _placed(arm: Arm, hz: float, horizon: int, think: float) -> Iterator[Place]:
    make = partial(Thinker, hz, horizon, think, arm.work)
    place: Place = InProcess(make, threads=1) if arm.where == "process" else InThread(make())
    try:
        yield place
    finally:
        place.close()


def arm_body(hz: float) -> Embodiment:
    """Seven joints and a gripper, two cameras."""
    joints = Part(name="joints", unit="rad", low=(-2.9,) * JOINTS, high=(2.9,) * JOINTS)
    gripper = Part(name="gripper", unit="1", low=(0.0,), high=(1.0,))
    space = Space(parts=(joints, gripper))
    cameras = tuple(Camera(name=name, height=IMAGE, width=IMAGE) for name in ("front", "wrist"))
    return Embodiment(name="bench-arm", cameras=cameras, state=space, action=space, control_hz=hz)


@dataclass(frozen=True, slots=True)
class Known:
    """What the loop has to know of a policy."""

    embodiment: Embodiment
    horizon: int


class StillArm:
    """A robot whose drives do at once what they are told, and whose cameras deliver new frames, copied per tick."""

    def __init__(self, body: Embodiment, task: Task) -> None:
        self.embodiment = body
        self.tasks: Mapping[str, Task] = {task.name: task}
        pixels = np.random.default_rng(0).integers(0, 256, (4, IMAGE, IMAGE, 3), dtype=np.uint8)
        self._frames = list(pixels)  # as a driver's ring of buffers
        self._tick = 0
        self._state = np.zeros(body.action.size, np.float32)

    def reset(self, task: Task, *, seed: int) -> Observation:
        self._tick = 0
        self._state = np.zeros(self.embodiment.action.size, np.float32)
        return self.observe()

    def observe(self) -> Observation:
        images = {
            camera.name: self._frames[(self._tick + number) % len(self._frames)].copy()
            for number, camera in enumerate(self.embodiment.cameras)
        }
        time = self._tick * self.embodiment.period
        return Observation(images=images, state=self._state, tick=self._tick, time=time)

    def apply(self, action: Action) -> Action:
        self._state, self._tick = action.copy(), self._tick + 1
        return action

    def outcome(self) -> Outcome | None:
        return None

    def close(self) -> None:
        """There is nothing to close."""


class Thinker:
    """A module that computes for `think` seconds and answers with a smooth motion, from where the arm was seen."""

    def __init__(self, hz: float, horizon: int, think: float, work: WORK) -> None:
        self._hz, self._horizon, self._think = hz, horizon, think
        self._work = _matrices if work == "matrices" else _python

    def start(self, instruction: str, *, seed: int) -> None:
        """Nothing is remembered."""

    def answer(self, question: Question) -> Answer:
        until = time.perf_counter() + self._think
        while time.perf_counter() < until:
            self._work()
        obs = question.observation
        ahead = (1 + np.arange(self._horizon)) / self._hz
        joints = np.tile(obs.state[:JOINTS].astype(np.float64), (self._horizon, 1))
        joints[:, ::2][:, :3], joints[:, 1::2] = circling(joints[0, :6:2], joints[0, 1::2], ahead[:, None])
        closed = ((obs.tick / self._hz + ahead) % 4.0 > 2.0).astype(np.float64)[:, None]
        chunk = ActionChunk(
            actions=np.concatenate([joints, closed], axis=1).astype(np.float32),
            anchor=obs.tick,
            period=1.0 / self._hz,
            observed_at=obs.time,
        )
        return Answer(prediction=Prediction(chunk=chunk))


def circling(x: np.ndarray, y: np.ndarray, ahead: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where two joints will be: out of the middle and into a circle, smooth from rest, as a function of the place."""
    place = x + 1j * y + 5e-4
    growth = 0.3 / (1.0 + (0.3 / np.abs(place) - 1.0) * np.exp(-3.0 * ahead))
    place = growth * np.exp(1j * (np.angle(place) + 2.0 * ahead)) - 5e-4
    return place.real, place.imag


class RestingClock(WallClock):
    """Sleeps for what is left of a period since it last woke, whatever the grid says: the drift that this makes."""

    def __init__(self, period: float) -> None:
        super().__init__()
        self._period = period
        self._woken = self.now()

    def sleep_until(self, time: float) -> None:
        super().sleep_until(self._woken + self._period)
        self._woken = self.now()


def _matrices() -> None:
    """Most of a millisecond in which no interpreter runs."""
    square = np.full((160, 160), 0.5, np.float32)
    for _ in range(4):
        square = square @ square
        square /= np.abs(square).max()


def _python() -> None:
    """Most of a millisecond in Python."""
    total = 0.0
    for number in range(10_000):
        total += number * 0.5
