"""Episodes on the virtual and the wall clock, against the exact world."""

import json
import threading
import time
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from actloop.contracts import Task
from actloop.errors import ContractError, MissingDependency, UnknownNameError
from actloop.loop import (
    Charged,
    EpisodeEnded,
    EpisodeResult,
    EpisodeStarted,
    EventLog,
    Here,
    Imagined,
    InfeasibleError,
    InThread,
    LatencyProfile,
    Live,
    LoopConfig,
    PolicyModule,
    Replied,
    Requested,
    Ticked,
    VirtualClock,
    WallClock,
    derive_seed,
    read_events,
    run_episode,
)
from actloop.simulation.exact import ExactWorld, read_tick
from actloop.testing.fakes import CountingPolicy, Recorder, origin

SPREAD = LatencyProfile(name="spread", seconds=(0.05, 0.12, 0.31, 0.58), source="test")


def frame_tick(obs) -> int:
    return read_tick(obs.images["front"])


def exact(kind="absolute", **options) -> ExactWorld:
    return ExactWorld(kind=kind, image_size=8, **options)


def counting(world, **options) -> CountingPolicy:
    return CountingPolicy(world.embodiment, read_tick=frame_tick, **options)


def play(world=None, policy=None, *, ms=0.0, **options) -> tuple[EpisodeResult, Recorder]:
    world = world or exact()
    recorder = Recorder()
    options = {"seed": 3, "latency": LatencyProfile.constant(ms), "subscribers": [recorder]} | options
    result = run_episode(world, policy or counting(world), world.tasks["reach-left"], **options)
    return result, recorder


@pytest.mark.parametrize("delay", [0, 1, 8, 16])
def test_actions_come_from_the_frames_they_say_and_skip_what_was_executed(delay):
    result, recorder = play(ms=100 * delay)
    ticks = recorder.of(Ticked)
    assert result.error == ""
    assert [event.tick for event in ticks] == list(range(50)), "one command per tick"
    for event in ticks:
        if event.hold:
            assert (event.plan, event.anchor, event.index, event.age) == (-1, -1, -1, None)
            continue
        assert origin(event.wanted) == (event.anchor, event.index)
        assert event.index == sum(not past.hold for past in ticks[event.anchor : event.tick])
        assert event.age == pytest.approx(0.1 * (event.tick - event.anchor))
    assert set(result.delays) == {delay}
    assert result.skipped[0] == 0
    assert result.held_starved == delay
    assert result.ticks == 50 == result.executed + result.held
    assert (result.held_late > 0) == (delay > 8) == bool(result.infeasible)
    assert result.ages == pytest.approx([event.age for event in ticks if not event.hold])


def test_with_no_latency_an_answer_is_used_in_the_tick_of_its_question():
    result, recorder = play(config=LoopConfig(execute_horizon=1))
    assert result.calls == 50
    assert max(result.ages) == 0
    assert all(event.index == 0 for event in recorder.of(Ticked))


def test_calls_follow_the_execute_horizon():
    for execute_horizon, calls in ((16, 4), (8, 7), (4, 13)):
        assert play(config=LoopConfig(execute_horizon=execute_horizon))[0].calls == calls


def test_relative_actions_with_800_ms_hold_still_and_never_repeat_a_delta():
    world = exact("delta", time_limit=6.0)
    policy = counting(world, actions=lambda obs, horizon: np.full((horizon, 2), 2.0**-6, np.float32))
    result, recorder = play(world, policy, ms=800)
    ticks = recorder.of(Ticked)
    assert result.held_starved == 8
    assert all(not event.sent.any() for event in ticks if event.hold)
    moved = sum(float(event.sent[0]) for event in ticks)
    assert moved == pytest.approx(2.0**-6 * result.executed), "each executed action moved once, holds did not"


def test_delta_episodes_end_at_the_pose_the_plans_meant():
    world = exact("delta")
    rng = np.random.default_rng(0)
    states, chunks = {}, {}

    def wander(obs, horizon):
        states[obs.tick] = obs.state.astype(np.float64)
        chunks[obs.tick] = rng.uniform(-0.01, 0.01, (horizon, 2)).astype(np.float32)
        return chunks[obs.tick]

    _, recorder = play(world, counting(world, actions=wander), ms=500)
    ticks, checked = recorder.of(Ticked), 0
    for event, after in pairwise(ticks):
        if event.hold or after.observation is None or event.index < 5 + 4:
            continue
        meant = states[event.anchor] + chunks[event.anchor][: event.index + 1].sum(axis=0, dtype=np.float64)
        np.testing.assert_allclose(after.observation.state, meant, atol=1e-5)
        checked += 1
    assert checked >= 5


def test_the_same_seed_gives_byte_identical_logs_and_another_does_not(tmp_path):
    def log(name: str, seed: int) -> bytes:
        with EventLog(tmp_path / name) as events:
            play(exact("delta"), seed=seed, latency=SPREAD, subscribers=[events], config=LoopConfig(imagine=True))
        return (tmp_path / name).read_bytes()

    first, second, other = log("a", 1), log("b", 1), log("c", 2)
    assert first == second
    assert first != other
    assert b"wall" not in first


def test_a_result_repeats_apart_from_its_wall_time_and_survives_json():
    first, second = (replace(play(latency=SPREAD)[0], wall_seconds=0.0) for _ in range(2))
    assert first == second
    assert len(set(first.latencies)) > 1
    assert EpisodeResult.from_dict(json.loads(json.dumps(first.to_dict()))) == first


def test_a_result_of_another_version_is_refused():
    plain = play()[0].to_dict()
    with pytest.raises(ContractError, match=r"unknown fields \['mood'\]"):
        EpisodeResult.from_dict(plain | {"mood": 1})
    with pytest.raises(ContractError, match="not a saved episode"):
        EpisodeResult.from_dict({"task": "reach-left"})


def test_minutes_of_robot_time_take_about_a_second():
    begun = time.perf_counter()
    result, _ = play(exact(time_limit=180.0), ms=190, config=LoopConfig(observe_every=0), subscribers=[])
    assert result.ticks == 1800
    assert time.perf_counter() - begun < 5, "a loaded machine is allowed for"


def test_observing_less_changes_no_command():
    runs = [play(latency=SPREAD, config=LoopConfig(observe_every=every))[1].of(Ticked) for every in (1, 3, 0)]
    for other in runs[1:]:
        assert [event.requested.tolist() for event in other] == [event.requested.tolist() for event in runs[0]]
    assert all(event.observation is not None for event in runs[0])
    assert sum(event.observation is not None for event in runs[2]) < 15


def test_the_events_of_an_episode_come_in_order():
    _, recorder = play(ms=100, config=LoopConfig(imagine=True))
    assert isinstance(recorder.events[0], EpisodeStarted)
    assert isinstance(recorder.events[-1], EpisodeEnded)
    assert recorder.events[-1].result.ticks == 50
    times = [event.time for event in recorder.events]
    assert times == sorted(times)
    assert len(recorder.of(Requested)) == len(recorder.of(Replied)) + 1, "the last one is never answered"
    futures = recorder.of(Imagined)
    assert len(futures) == len(recorder.of(Replied))
    assert futures[0].cameras == ("front",)


def test_success_ends_the_episode():
    world = exact("delta")
    policy = counting(
        world,
        horizon=1,
        actions=lambda obs, _: np.clip(world.goal - obs.state, -0.0625, 0.0625).astype(np.float32)[None],
    )
    result, _ = play(world, policy, config=LoopConfig(execute_horizon=1))
    assert result.success
    assert result.outcome.time == pytest.approx(result.ticks * 0.1)
    assert result.ticks < 30


def test_the_loop_ends_an_episode_that_the_world_lets_run():
    world = exact(time_limit=60.0)
    short = replace(world.tasks["reach-left"], time_limit=1.0)
    result = run_episode(world, counting(world), short, seed=0, latency=LatencyProfile.constant(0))
    assert (result.ticks, result.outcome.reason, result.outcome.time) == (10, "time limit", 1.0)


def test_nan_actions_are_a_clear_error_with_their_tick():
    world = exact()

    def broken(obs, horizon):
        return np.full((horizon, 2), np.nan if obs.tick == 10 else 0.0, np.float32)

    result, recorder = play(world, counting(world, actions=broken), ms=200)
    assert result.crashed
    assert not result.success
    assert result.outcome.reason == "crashed"
    assert result.error.startswith("ContractError: tick 10: chunk.actions.position: not finite (NaN or infinity)")
    assert result.ticks == 12, "held 2, executed 8 of the first chunk, then 2 more while the bad answer was under way"
    assert recorder.events[-1].error == result.error


def test_a_policy_that_raises_ends_the_episode_and_loses_nothing():
    def fail(call: int) -> None:
        if call == 2:
            raise RuntimeError("out of memory")

    world = exact()
    result, _ = play(world, counting(world, on_call=fail))
    assert result.outcome.reason == "crashed"
    assert result.error.startswith("RuntimeError: out of memory (tick 16, test_loop_episode.py:")
    assert (result.ticks, result.calls, len(result.latencies)) == (16, 3, 2)


def test_a_world_that_raises_ends_the_episode_and_loses_nothing():
    class Broken(ExactWorld):
        def apply(self, action):
            if self.observe().tick == 5:
                raise OSError("arm unplugged")
            return super().apply(action)

    world = Broken(kind="absolute", image_size=8)
    result, _ = play(world)
    assert result.ticks == 5
    assert "OSError: arm unplugged (tick 5" in result.error

    class Numberless(ExactWorld):
        def observe(self):
            return replace(super().observe(), tick=0)

    result, _ = play(Numberless(kind="absolute", image_size=8))
    assert "observation.tick: expected 1, got 0 (tick 1" in result.error


def test_an_interrupt_and_a_missing_package_are_not_swallowed():
    for error in (KeyboardInterrupt(), MissingDependency("torch", "it runs the model", "pip install torch")):

        def stop(call: int, error=error) -> None:
            raise error

        world = exact()
        with pytest.raises(type(error)):
            play(world, counting(world, on_call=stop))


def test_a_subscriber_that_fails_touches_nothing_and_is_reported():
    class Bad:
        def on_event(self, event):
            if isinstance(event, Ticked):
                raise OSError("disk full")

    good, with_bad = play()[0], play(subscribers=[Bad(), Recorder()])[0]
    assert with_bad.warnings == ("Bad: OSError: disk full (50 times)",)
    assert replace(with_bad, warnings=(), wall_seconds=0) == replace(good, wall_seconds=0)


def test_paused_the_world_waits_and_the_latency_is_only_recorded():
    result, recorder = play(clock="paused", latency=LatencyProfile.constant(810))
    assert (result.clock, result.held, set(result.delays), result.infeasible) == ("paused", 0, {0}, "")
    assert set(result.latencies) == {0.81}
    assert {event.latency for event in recorder.of(Replied)} == {0.0}


def test_measured_latency_is_charged():
    ticking = iter(np.arange(1000) * 0.25)
    world = exact()
    policy = counting(world)
    inference = Charged(Here(PolicyModule(policy), timer=lambda: float(next(ticking))))
    result, _ = play(world, policy, inference=inference, latency=None)
    assert (result.latency, set(result.delays), set(result.latencies)) == ("measured", {3}, {0.25})


def test_a_latency_that_cannot_work_is_reported_or_refused():
    result, _ = play(ms=810)
    assert result.infeasible.startswith("answers come 9 ticks late (810 ms at 10 Hz) and need chunks of at least 18")
    assert result.held_late > 0
    with pytest.raises(InfeasibleError, match="the policy gives 16: take longer chunks"):
        play(ms=810, config=LoopConfig(strict=True))
    assert play(ms=800, config=LoopConfig(strict=True))[0].infeasible == ""


def test_a_measured_latency_that_cannot_work_is_refused_once_it_is_settled():
    ticking = iter(np.arange(1000) * 0.9)
    world = exact(time_limit=20.0)
    policy = counting(world)
    inference = Charged(Here(PolicyModule(policy), timer=lambda: float(next(ticking))))
    recorder = Recorder()
    with pytest.raises(InfeasibleError, match="900 ms"):
        play(
            world,
            policy,
            inference=inference,
            latency=None,
            config=LoopConfig(strict=True),
            subscribers=[recorder],
        )
    assert len(recorder.of(Replied)) == 4


def test_what_does_not_fit_is_refused_before_the_first_tick():
    world, other = exact(), exact("delta")
    with pytest.raises(ContractError, match=r"policy\.embodiment\.action: made for 'exact-delta', not for"):
        play(world, counting(other))
    with pytest.raises(ContractError, match=r"cameras: 'exact-absolute' has no Camera\(name='wrist'"):
        play(world, counting(exact(cameras=("front", "wrist"))))
    with pytest.raises(ContractError, match="32 actions to execute, but a chunk of this policy has 16"):
        play(config=LoopConfig(execute_horizon=32))
    with pytest.raises(UnknownNameError, match="did you mean 'reach-left'"):
        run_episode(world, counting(world), Task(name="reach-lft", instruction="", time_limit=1.0), seed=0)
    endless = replace(world.tasks["reach-left"], time_limit=0.0)
    with pytest.raises(ContractError, match="time_limit: expected seconds above 0"):
        run_episode(world, counting(world), endless, seed=0)


def test_clocks_and_inferences_that_contradict_each_other_are_refused():
    world = exact()
    policy = counting(world)
    with pytest.raises(ContractError, match="needs the virtual clock"):
        play(world, policy, ms=100, clock=WallClock())
    with pytest.raises(UnknownNameError, match="did you mean 'paused'"):
        play(world, policy, clock="pause")
    here = Here(PolicyModule(policy))
    with pytest.raises(ContractError, match="every tick would wait for the module"):
        Live(here, WallClock())
    with pytest.raises(ContractError, match="needs the virtual clock"):
        play(world, policy, latency=None, clock=WallClock(), inference=Charged(here))
    with pytest.raises(ContractError, match="give it to the inference"):
        play(world, policy, ms=100, inference=Charged(here))
    with pytest.raises(ContractError, match="charged=False"):
        play(world, policy, latency=None, clock="paused", inference=Charged(here))
    with InThread(PolicyModule(policy)) as place:
        live = Live(place, WallClock())
        with pytest.raises(ContractError, match="needs the wall clock"):
            play(world, policy, latency=None, inference=live)
        with pytest.raises(ContractError, match="needs the wall clock"):
            play(world, policy, layers={"check": live})
    with pytest.raises(ContractError, match=r"layers\.action: expected one of check, foresight, semantic"):
        play(world, policy, layers={"action": Charged(here)})


@pytest.mark.parametrize("bad", [{"execute_horizon": 0}, {"max_age": 0.0}, {"observe_every": -1}])
def test_loop_settings_out_of_range_are_refused(bad):
    with pytest.raises(ContractError, match=next(iter(bad))):
        LoopConfig(**bad)


def test_seeds_follow_from_the_episode_seed():
    assert derive_seed(1, "policy") == derive_seed(1, "policy")
    assert len({derive_seed(seed, use) for seed in range(50) for use in ("policy", "latency")}) == 100
    world = exact()
    policy = counting(world)
    play(world, policy, seed=5)
    play(world, policy, seed=5)
    assert [session.seed for session in policy.sessions] == [derive_seed(5, "policy")] * 2
    assert policy.sessions[0].instruction == world.tasks["reach-left"].instruction


def test_a_clock_that_is_used_again_changes_nothing():
    clock = VirtualClock(123.4)
    first = play(clock=clock, latency=SPREAD)[1].of(Ticked)
    second = play(clock=clock, latency=SPREAD)[1].of(Ticked)
    assert clock.now() == pytest.approx(123.4 + 10.0)
    assert [event.requested.tolist() for event in first] == [event.requested.tolist() for event in second]


# ---- the wall clock -------------------------------------------------------------------------------------------------


class Robot(ExactWorld):
    """The exact world, with the wall time of every command; `stall` blocks one of them."""

    def __init__(self, stall: tuple[int, float] = (-1, 0.0), **options) -> None:
        super().__init__(image_size=8, kind="absolute", **options)
        self.times: list[float] = []
        self._stall = stall

    def apply(self, action):
        self.times.append(time.monotonic())
        if len(self.times) - 1 == self._stall[0]:
            time.sleep(self._stall[1])
        return super().apply(action)


def test_on_the_wall_clock_the_grid_is_absolute_and_the_model_is_never_waited_for():
    robot = Robot(control_hz=50.0, time_limit=1.0)
    policy = counting(robot, on_call=lambda call: time.sleep(0.05))
    result, recorder = play(robot, policy, latency=None, clock=WallClock())
    assert (result.clock, result.error, result.warnings) == ("wall", "", ())
    assert result.ticks + result.missed >= 50
    took = robot.times[-1] - robot.times[0]
    assert took == pytest.approx(0.02 * (result.ticks + result.missed - 1), abs=0.03), "no drift"
    assert np.median(result.lateness) < 0.01
    assert result.held_starved >= 1
    assert max(result.delays) >= 2, "50 ms are 3 ticks"
    assert len(result.lateness) == result.ticks
    for event in recorder.of(Ticked):
        if not event.hold:
            assert origin(event.wanted) == (event.anchor, event.index)


def test_a_stall_leaves_places_of_the_grid_empty_and_is_followed_by_no_burst():
    robot = Robot(stall=(10, 0.13), control_hz=50.0, time_limit=0.6)
    result, _ = play(robot, counting(robot), latency=None, clock=WallClock())
    assert result.missed >= 5
    after = np.array(robot.times[11:]) - robot.times[11]
    assert (after < 0.05).sum() <= 4, "3 or 4 places of the grid, where a burst would send 6 commands at once"
    assert result.ticks + result.missed >= 30


def test_a_model_that_fails_in_its_thread_ends_the_episode():
    def fail(call: int) -> None:
        raise RuntimeError("device lost")

    robot = Robot(control_hz=50.0, time_limit=1.0)
    result, _ = play(robot, counting(robot, on_call=fail), latency=None, clock=WallClock())
    assert "RuntimeError: device lost" in result.error
    assert result.ticks < 20


def test_a_slow_subscriber_does_not_slow_the_wall_clock():
    class Slow:
        events = 0

        def on_event(self, event):
            time.sleep(0.02)
            self.events += 1

    robot = Robot(control_hz=50.0, time_limit=0.4)
    slow = Slow()
    result, _ = play(robot, counting(robot), latency=None, clock=WallClock(), subscribers=[slow])
    assert result.ticks + result.missed >= 20
    assert robot.times[-1] - robot.times[0] < 0.6
    assert slow.events > 20, "told in the end"


def test_a_threaded_model_serves_episodes_one_after_the_other_and_old_answers_are_dropped():
    gate = threading.Event()

    def wait(call: int) -> None:
        if call == 1:
            gate.wait(2.0)

    robot = Robot(control_hz=50.0, time_limit=0.6)
    policy = counting(robot, on_call=wait)
    with InThread(PolicyModule(policy)) as place:
        config = LoopConfig(warm_up=0)
        options = {"latency": None, "clock": WallClock(), "inference": Live(place, WallClock()), "config": config}
        first, _ = play(robot, policy, **options)
        threading.Timer(0.06, gate.set).start()
        second, _ = play(robot, policy, **options)
    assert first.held_late > 0
    assert second.error == ""
    assert second.dropped == {"episode": 1}
    assert second.executed > 0


def test_a_log_on_the_wall_clock_is_complete(tmp_path):
    robot = Robot(control_hz=50.0, time_limit=0.3)
    with EventLog(tmp_path / "log.jsonl") as log:
        result, _ = play(robot, latency=None, clock=WallClock(), subscribers=[log])
    records = read_events(tmp_path / "log.jsonl")
    assert sum(record["event"] == "ticked" for record in records) == result.ticks
    assert records[-1]["event"] == "ended"
