"""How late the ticks are on this machine, and what the loop itself costs, beside a model that computes all the time.

Arm robot (2 cameras, 8 components) <--ticks--> run_episode <--shared memory--> process: a busy module
                                                    `--> Journal
"""

import gc
import math
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from actloop.contracts import Task
from actloop.errors import ActloopError, ContractError
from actloop.loop.clock import WallClock, real_time
from actloop.loop.config import LoopConfig
from actloop.loop.episode import run_episode
from actloop.loop.governor.limits import Limits
from actloop.loop.inference import Live
from actloop.loop.log.journal import Journal
from actloop.loop.places import InThread
from actloop.loop.process import InProcess
from actloop.loop.questions import Place
from actloop.testing.loop_arm import WORK, Known, StillArm, Thinker, arm_body
from actloop.testing.loop_meter import Meter, MeteredClock, MeteredWorld, Spread

RATES = (50.0, 100.0, 200.0, 500.0)  # Hz
AHEAD = 4.0  # chunks last as many times as long as the module thinks
TASK = Task(name="move", instruction="move the arm to and fro", time_limit=60.0)
"""Its time limit is that of the measurement."""

WHERE = Literal["process", "thread"]


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


class RestingClock(WallClock):
    """Sleeps for what is left of a period since it last woke, whatever the grid says: the drift that this makes."""

    def __init__(self, period: float) -> None:
        super().__init__()
        self._period = period
        self._woken = self.now()

    def sleep_until(self, time: float) -> None:
        super().sleep_until(self._woken + self._period)
        self._woken = self.now()
