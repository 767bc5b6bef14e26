"""Lateness and cost, from clocks with known stalls; what is set for the ticks; the benchmark itself."""

import gc
import itertools
import json
import os
import subprocess
import sys
import threading
from dataclasses import fields, replace

import numpy as np
import pytest

from actloop.cli.bench_loop import show_loop_bench
from actloop.contracts import Observation
from actloop.errors import ContractError, UnknownNameError
from actloop.loop import clock as clocks
from actloop.loop.border import Border
from actloop.loop.clock import GIVE_WAY, WallClock, real_time, undisturbed
from actloop.loop.config import LoopConfig
from actloop.loop.episode import run_episode
from actloop.loop.events import EpisodeEnded, Requested, ThreadedBus, Ticked
from actloop.loop.questions import Question, Ticket
from actloop.testing.fakes import CountingPolicy, Recorder
from actloop.testing.loop_arm import StillArm, Thinker, arm_body
from actloop.testing.loop_bench import ARMS, TASK, LoopTiming, RestingClock, bench_loop
from actloop.testing.loop_meter import Meter, MeteredClock, MeteredWorld, Spread

HZ = 200.0
MS = 1e-3


class FakeTime:
    """Seconds that pass only when told; each sleep lasts longer than asked by the next of `late`."""

    def __init__(self, late=()) -> None:
        self.time = 100.0
        self.late = itertools.chain(late, itertools.repeat(0.0))

    def now(self) -> float:
        return self.time

    def sleep_until(self, time: float) -> None:
        self.time = max(self.time, time) + next(self.late)


class SlowArm(StillArm):
    """A robot that takes 1 ms to look and 0.5 ms to send, and once, at a tick, a stall to send."""

    def __init__(self, time: FakeTime, seconds: float, *, stall: float = 0.0, at: int = -1) -> None:
        super().__init__(arm_body(HZ), replace(TASK, time_limit=seconds))
        self._fake, self._stall, self._at = time, stall, at

    def observe(self):
        self._fake.time += 1 * MS
        return super().observe()

    def apply(self, action):
        self._fake.time += 0.5 * MS + (self._stall if self._tick == self._at else 0.0)
        return super().apply(action)


class Costly:
    """A listener in the thread of the ticks that takes 0.25 ms per tick: stands for the loop's own work."""

    immediate = True
    warnings = ()

    def __init__(self, time: FakeTime) -> None:
        self._time = time

    def on_event(self, event) -> None:
        if isinstance(event, Ticked):
            self._time.time += 0.25 * MS


def metered(*, late=(), stall: float = 0.0, at: int = -1, ticks: int = 20) -> tuple[Meter, object]:
    """An episode on a clock that knows its stalls."""
    time = FakeTime(late)
    meter = Meter(time.now, cpu=lambda: 2 * time.time)
    world = SlowArm(time, ticks / HZ, stall=stall, at=at)
    (task,) = world.tasks.values()
    policy = CountingPolicy(world.embodiment, actions=lambda obs, horizon: np.zeros((horizon, 8), np.float32))
    result = run_episode(
        MeteredWorld(world, meter),
        policy,
        task,
        seed=0,
        clock=MeteredClock(time, meter),
        config=LoopConfig(warm_up=0),
        subscribers=[Costly(time)],
    )
    assert result.error == ""
    return meter, result


def test_lateness_is_counted_from_the_place_on_the_grid():
    meter, result = metered(late=[0, 2 * MS, 0, 0, 1 * MS])
    expected = np.zeros(20)
    expected[[1, 4]] = 2 * MS, 1 * MS
    assert meter.woken_late == pytest.approx(expected, abs=1e-9)  # what one sleep stalls, the next makes up
    assert meter.sent_late == pytest.approx(
        expected[:19] + 1 * MS, abs=1e-9
    )  # it looked first; the last wake sent none
    assert result.lateness[1:] == pytest.approx(meter.sent_late, abs=1e-9)


def test_own_cost_leaves_the_world_and_the_sleep_out():
    meter, _ = metered(late=[0, 2 * MS])
    assert meter.own == pytest.approx([0.25 * MS] * 19, abs=1e-9)
    assert meter.own_cpu == pytest.approx([0.5 * MS] * 19, abs=1e-9)
    assert meter.to_send == pytest.approx([0.0] * 19, abs=1e-9)
    assert meter.world == pytest.approx([1.5 * MS] * 19, abs=1e-9)


def test_a_rate_without_stalls_is_that_of_the_grid():
    meter, result = metered(late=[0.1 * MS] * 9)
    assert meter.rate == pytest.approx(HZ, rel=0.0012)  # the first sending was 0.1 ms late, the last not
    assert result.missed == 0


def test_missed_places_lower_the_rate():
    meter, result = metered(stall=11 * MS, at=7)  # the tick takes 12.75 ms: a place is gone, the next tick begins late
    assert (result.ticks, result.missed) == (19, 1)
    assert max(meter.woken_late) == pytest.approx(2.75 * MS, abs=1e-9)
    assert meter.rate == pytest.approx(HZ * 17 / 18, rel=1e-9)
    assert max(meter.world) == pytest.approx(12.5 * MS, abs=1e-9)
    assert meter.own == pytest.approx([0.25 * MS] * len(meter.own), abs=1e-9)


def test_a_meter_of_a_single_tick_knows_no_rate():
    meter = Meter(lambda: 0.0)
    assert meter.rate is None
    meter.sent(meter.begin(), 0.0)
    assert meter.rate is None
    assert Spread.of(meter.own) is None


def test_a_spread_is_made_of_times_that_occurred():
    seconds = [number * MS for number in range(1, 201)]
    assert Spread.of(seconds[::-1]) == Spread(p50_ms=100.0, p99_ms=198.0, max_ms=200.0)
    assert Spread.of([0.004]) == Spread(p50_ms=4.0, p99_ms=4.0, max_ms=4.0)


# clocks


@pytest.fixture
def fake_sleep(monkeypatch):
    """The wall clock on fake time, whose sleeps last 0.1 ms too long; looking at it takes 1 us."""
    time = FakeTime()
    asked = []

    def sleep(seconds: float) -> None:
        asked.append(seconds)
        time.time += seconds + 0.1 * MS

    def now(self) -> float:
        time.time += 1e-6
        return time.time

    monkeypatch.setattr(clocks, "_sleep", sleep)
    monkeypatch.setattr(WallClock, "now", now)
    return time, asked


def test_sleeping_for_the_rest_of_each_period_drifts_and_the_grid_does_not(fake_sleep):
    time, _ = fake_sleep
    ends = {}
    for name, make in (("grid", WallClock), ("rest", lambda: RestingClock(5 * MS))):
        clock, begun = make(), time.time
        for tick in range(1, 101):
            time.time += 1 * MS  # work
            clock.sleep_until(begun + tick * 5 * MS)
        ends[name] = time.time - begun
    assert ends["grid"] == pytest.approx(100 * 5 * MS, abs=0.15 * MS)
    assert ends["rest"] == pytest.approx(100 * 5.1 * MS, abs=0.5 * MS)


def test_a_clock_that_spins_sleeps_less_and_wakes_on_the_spot(fake_sleep):
    time, asked = fake_sleep
    due = time.time + 5 * MS
    WallClock(spin=0.2 * MS).sleep_until(due)
    assert asked == [pytest.approx(4.8 * MS, abs=2e-6)]
    assert due <= time.time <= due + 2e-6
    WallClock(spin=0.2 * MS).sleep_until(due)  # has passed
    assert len(asked) == 1
    assert time.time <= due + 6e-6


@pytest.mark.parametrize("spin", [-1e-6, 0.1, float("nan")])
def test_a_spin_out_of_range_is_refused(spin):
    with pytest.raises(ContractError, match=r"clock\.spin"):
        WallClock(spin=spin)


# what is set for the ticks


def test_the_interpreter_is_set_for_the_ticks_and_set_back_again():
    before, during = sys.getswitchinterval(), []

    def play() -> None:
        during.extend((sys.getswitchinterval(), gc.get_freeze_count() > 0, gc.isenabled()))
        raise ValueError("x")

    with pytest.raises(ValueError, match="x"), undisturbed():
        play()
    assert during == [pytest.approx(clocks.GIVE_WAY, abs=2e-6), True, True]
    assert sys.getswitchinterval() == pytest.approx(before)
    assert gc.get_freeze_count() == 0


def test_an_interval_that_is_shorter_already_stays():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    try:
        with undisturbed():
            assert sys.getswitchinterval() == pytest.approx(1e-4, abs=2e-6)
    finally:
        sys.setswitchinterval(before)


@pytest.mark.parametrize("priority", [0, 100, -1])
def test_a_priority_out_of_range_is_refused(priority):
    with pytest.raises(ContractError, match="1 to 99"), real_time(priority):
        pass


def test_a_priority_that_is_not_allowed_is_an_error_and_never_left_out_in_silence(monkeypatch):
    def refuse(*_) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    with pytest.raises(ContractError, match="may not have real-time priority 7"), real_time(7):
        pass


def test_a_real_time_priority_is_the_threads_own_and_ends():
    before = os.sched_getscheduler(0)
    inherited = []
    say = "import os; print(os.sched_getscheduler(0))"
    try:
        with real_time(1):
            assert os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK == os.SCHED_RR
            thread = threading.Thread(target=lambda: inherited.append(os.sched_getscheduler(0)))
            thread.start()
            child = subprocess.run([sys.executable, "-S", "-c", say], capture_output=True, text=True, check=True)
            thread.join()
    except ContractError as error:
        pytest.skip(str(error))
    assert inherited == [os.SCHED_OTHER]
    assert int(child.stdout) == os.SCHED_OTHER
    assert os.sched_getscheduler(0) == before


# the path of a tick


class Ordered(StillArm):
    """A robot that notes when it is sent a command, and breaks at a tick."""

    def __init__(self, said: list[str], *, breaks: int = -1) -> None:
        super().__init__(arm_body(HZ), replace(TASK, time_limit=0.02))
        self._said, self._breaks = said, breaks

    def apply(self, action):
        self._said.append("applied")
        if self._tick == self._breaks:
            raise OSError("no power")
        return super().apply(action)


@pytest.mark.parametrize("breaks", [-1, 0])
def test_listeners_are_told_in_order_once_the_command_is_out(breaks):
    said: list[str] = []
    world = Ordered(said, breaks=breaks)
    policy = CountingPolicy(world.embodiment, actions=lambda obs, horizon: np.zeros((horizon, 8), np.float32))
    recorder = Recorder()

    class Saying:
        def on_event(self, event) -> None:
            said.append(type(event).__name__)
            recorder.on_event(event)

    result = run_episode(world, policy, next(iter(world.tasks.values())), seed=0, subscribers=[Saying()])
    assert said[:3] == ["EpisodeStarted", "applied", "Requested"]
    assert said[-1] == "EpisodeEnded"
    assert len(recorder.of(Requested)) == result.calls == 1
    assert len(recorder.of(Ticked)) == result.ticks
    assert len(recorder.of(EpisodeEnded)) == 1
    assert bool(result.error) == (breaks == 0)


def test_a_bus_without_slow_listeners_starts_no_thread():
    before = threading.active_count()
    bus = ThreadedBus([Costly(FakeTime())])
    assert threading.active_count() == before
    assert bus.close() == ()


def good() -> Observation:
    return StillArm(arm_body(HZ), TASK).reset(TASK, seed=0)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda obs: {"state": np.full(8, np.nan, np.float32)},
        lambda obs: {"state": np.array([0] * 7 + [np.inf], np.float32)},
        lambda obs: {"state": np.zeros(7, np.float32)},
        lambda obs: {"state": np.zeros(8, np.int64)},
        lambda obs: {"images": {"front": obs.images["front"]}},
        lambda obs: {"images": {**obs.images, "third": obs.images["front"]}},
        lambda obs: {"images": {"front": obs.images["front"], "other": obs.images["wrist"]}},
        lambda obs: {"images": {**obs.images, "wrist": obs.images["wrist"][:100]}},
        lambda obs: {"images": {**obs.images, "wrist": obs.images["wrist"].astype(np.float32)}},
    ],
)
def test_what_is_checked_quickly_is_refused_as_the_contract_says(spoil):
    body, obs = arm_body(HZ), good()
    Border(body).check(obs)
    bad = replace(obs, **spoil(obs))
    with pytest.raises(ContractError) as contract:
        body.check(bad)
    with pytest.raises(ContractError) as quick:
        Border(body).check(bad)
    assert str(quick.value) == str(contract.value)


# the benchmark


def test_the_motion_of_the_benchmark_goes_on_from_where_the_arm_was_seen():
    thinker = Thinker(HZ, 100, 0.0, "python")
    obs = good()
    chunk = thinker.answer(_about(obs)).prediction.chunk.actions
    later = replace(obs, state=chunk[39], tick=40)
    again = thinker.answer(_about(later)).prediction.chunk.actions
    assert again[:60, :7] == pytest.approx(chunk[40:, :7], abs=1e-6)
    speed = np.abs(np.diff(chunk[:, :7], axis=0)).max() * HZ
    assert 0.001 < speed < 0.7


def _about(obs):
    return Question(ticket=Ticket(episode=0, plan=0, tick=obs.tick), observation=obs, instruction="")


def test_the_benchmark_prints_every_field_as_json(capsys):
    show_loop_bench((50.0, 200.0), arms=["process-free"], seconds=0.3, think_ms=20, spin_us=50, json=True)
    shown = json.loads(capsys.readouterr().out)
    assert shown["spin_us"] == 50
    assert "priority" in shown["scheduling"]
    assert [row["hz"] for row in shown["arms"]] == [50.0, 200.0]
    for row in shown["arms"]:
        assert set(row) == {field.name for field in fields(LoopTiming)}
        assert row["ticks"] > 5
        assert row["answers"] > 0
        for name in ("woken_late", "sent_late", "to_send", "own", "own_cpu", "world", "age", "answered"):
            spread = row[name]
            assert 0 < spread["p50_ms"] <= spread["p99_ms"] <= spread["max_ms"], name
        assert row["own"]["p50_ms"] >= row["to_send"]["p50_ms"]
        assert row["rate_off"] == pytest.approx(row["effective_hz"] / row["hz"] - 1)


def test_the_benchmark_prints_tables(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    arms = ["thread-python", "rests", "process-slowed"]
    show_loop_bench((100.0,), arms=arms, seconds=0.2, think_ms=10)
    lines = capsys.readouterr().out.splitlines()
    for title in ("on time", "own cost per tick", "what was executed"):
        assert sum(title in line for line in lines) == 1
    for arm in arms:
        assert sum(line.startswith(f"100  {arm} ") for line in lines) == 3
    assert sum(line.endswith("-") for line in lines if " rests " in line) == 1  # it keeps no grid


@pytest.mark.parametrize(
    "wrong", [{"rates": (0.0,)}, {"seconds": 0.0}, {"think": float("inf")}, {"rates": (float("nan"),)}, {"spin": 1.0}]
)
def test_numbers_out_of_range_are_refused(wrong):
    with pytest.raises(ContractError):
        next(iter(bench_loop(arms=ARMS[:1], **wrong)))


def test_an_unknown_arm_is_refused():
    with pytest.raises(UnknownNameError, match="did you mean 'process'"):
        show_loop_bench((50.0,), arms=["proces"])


def test_the_last_of_two_overlapping_episodes_sets_the_interpreter_back():
    before = sys.getswitchinterval()
    first, second = undisturbed(), undisturbed()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert sys.getswitchinterval() == pytest.approx(GIVE_WAY), "the other one still runs"
    second.__exit__(None, None, None)
    assert sys.getswitchinterval() == pytest.approx(before)
