"""What breaks others' loops, by name: each of these is a bug that users of published runtimes have reported."""

from dataclasses import replace

import numpy as np
import pytest

from actloop.contracts import ActionChunk, Future, Prediction
from actloop.loop import (
    Charged,
    Here,
    InfeasibleError,
    Join,
    LatencyProfile,
    Limits,
    LoopConfig,
    PolicyModule,
    Replied,
    Requested,
    Ticked,
    run_episode,
)
from actloop.loop.inference import Reply
from actloop.simulation.exact import MAX_STEP, ExactWorld
from actloop.testing.fakes import CountingPolicy, Recorder


def exact(kind="absolute", **options) -> ExactWorld:
    return ExactWorld(kind=kind, image_size=8, **options)


def play(world, policy, ms, *, config=None, inference=None, seed=3):
    recorder = Recorder()
    latency = None if inference else LatencyProfile.constant(ms)
    task = world.tasks["reach-left"]
    options = {"latency": latency, "config": config, "inference": inference, "subscribers": [recorder]}
    return run_episode(world, policy, task, seed=seed, **options), recorder


def test_the_first_chunk_at_standstill_is_executed_from_its_first_action():
    """A latency of many ticks passed while the robot stood still: nothing was overtaken, nothing is skipped."""
    world = exact()
    _, recorder = play(world, CountingPolicy(world.embodiment), 730)
    first = next(event for event in recorder.of(Ticked) if not event.hold)
    assert (first.tick, first.index) == (8, 0)
    assert recorder.of(Replied)[0].skipped == 0


def test_a_cold_start_neither_skips_actions_nor_spoils_the_estimate():
    """The first answer takes two seconds, later ones 120 ms: an all-time maximum would ask 20 ticks early for ever."""
    stops = iter(np.cumsum([0.0, 2.0] + [0.0, 0.12] * 100))  # before and after each answer
    world = exact(time_limit=8.0)
    policy = CountingPolicy(world.embodiment, horizon=16)
    inference = Charged(Here(PolicyModule(policy), timer=lambda: float(next(stops))))
    result, recorder = play(world, policy, 0, inference=inference, config=LoopConfig(execute_horizon=12))
    assert result.latencies[0] > 1.5 > result.latencies[1]
    later = [event.why for event in recorder.of(Requested)[2:]]
    assert set(later) == {"executed"}, "the estimate is of the last calls, without the first"
    assert result.held_late == 0


def test_more_than_one_chunk_is_executed():
    """Observations that look alike are asked about all the same: the robot may be waiting for something to move."""
    world = exact()
    policy = CountingPolicy(world.embodiment, actions=lambda obs, horizon: np.zeros((horizon, 2), np.float32))
    result, recorder = play(world, policy, 150, config=LoopConfig(execute_horizon=4))
    assert len({event.plan for event in recorder.of(Ticked) if not event.hold}) > 5
    assert result.held_late == 0


class Slow(Charged):
    """Keeps what is under way when an episode ends, as a network does."""

    def __init__(self, policy, latencies) -> None:
        super().__init__(Here(PolicyModule(policy)), LatencyProfile.constant(0))
        self._latencies = list(latencies)
        self.mail: list[Reply] = []

    def start(self, instruction, *, seed):
        self._place.start(instruction, seed=seed)

    def submit(self, question, now):
        self._place.submit(question)
        (result,) = self._place.collect()
        latency = self._latencies.pop(0) if self._latencies else 0.1
        self.mail.append(
            Reply(ticket=result.ticket, latency=latency, computed=latency, due=now + latency, answer=result.answer)
        )

    def poll(self, now):
        ready = [reply for reply in self.mail if reply.due <= now + 1e-9]
        self.mail = [reply for reply in self.mail if reply.due > now + 1e-9]
        return ready


def test_a_reset_leaves_nothing_of_the_old_plan_and_the_old_answer_is_dropped():
    world = exact(time_limit=1.0)
    policy = CountingPolicy(world.embodiment)
    inference = Slow(policy, [0.0, 0.9])
    play(world, policy, 0, inference=inference, config=LoopConfig(execute_horizon=4))
    assert len(inference.mail) == 1, "an answer is still under way when the episode ends"
    inference.mail = [replace(reply, due=0.25) for reply in inference.mail]
    inference._latencies = [0.5]
    result, recorder = play(world, policy, 0, inference=inference, config=LoopConfig(execute_horizon=4))
    assert result.dropped == {"episode": 1}
    holds = [event.tick for event in recorder.of(Ticked) if event.hold]
    assert holds == [0, 1, 2, 3, 4], "nothing to execute before the new episode's own first answer"


def test_a_late_answer_after_its_timeout_is_not_taken_for_the_next_one():
    world = exact(time_limit=4.0)
    policy = CountingPolicy(world.embodiment)
    inference = Slow(policy, [0.1, 1.5, 0.1])
    config = LoopConfig(execute_horizon=4, answer_timeout=0.5)
    result, recorder = play(world, policy, 0, inference=inference, config=config)
    assert result.timed_out == {"action": 1}
    dropped = [event for event in recorder.of(Replied) if not event.accepted]
    assert [(event.plan, event.reason) for event in dropped] == [(1, "older")]
    for event in recorder.of(Ticked):
        assert event.plan != 1, "what was given up is never executed"


def test_relative_actions_with_800_ms_add_nothing_on_top():
    """Deltas of a late chunk are anchored to where the robot was: no saw-tooth, no doubled motion."""
    world = exact("delta", time_limit=12.0)
    policy = CountingPolicy(
        world.embodiment, horizon=24, actions=lambda obs, horizon: np.full((horizon, 2), 0.01, np.float32)
    )
    result, recorder = play(world, policy, 800, config=LoopConfig(execute_horizon=8))
    moving = [event for event in recorder.of(Ticked) if not event.hold]
    assert result.held_late == 0
    sums = np.cumsum([event.sent[0] for event in moving])
    assert np.allclose(sums, 0.01 * np.arange(1, len(moving) + 1), atol=1e-5), "one pace, whatever came when"


def test_a_horizon_that_cannot_bridge_the_latency_is_refused_with_the_numbers():
    """24 ticks late with chunks of which 12 are executed: d > H - s."""
    world = exact(control_hz=30.0)
    policy = CountingPolicy(world.embodiment, horizon=50)
    with pytest.raises(InfeasibleError, match=r"24 ticks late \(800 ms at 30 Hz\), but 30 actions .* at most 26"):
        play(world, policy, 800, config=LoopConfig(execute_horizon=30, strict=True))
    result, _ = play(world, policy, 800, config=LoopConfig(execute_horizon=26, strict=True))
    assert result.error == ""


class Jumpy:
    """A policy each of whose chunks goes on elsewhere than the last one: a seam at every join."""

    def __init__(self, world) -> None:
        self.embodiment, self.horizon = world.embodiment, 16

    def start(self, instruction, *, seed):
        return 0

    def predict(self, session, obs, *, committed=None, imagine=False):
        side = 0.3 if session % 2 else -0.3
        actions = np.full((16, 2), side, np.float32)
        chunk = ActionChunk(actions=actions, anchor=obs.tick, period=0.1, observed_at=obs.time)
        future = Future(frames={}, chunk=chunk, period=0.1)
        return session + 1, Prediction(chunk=chunk, future=future if imagine else None)


def roughness(world, **config) -> float:
    _, recorder = play(world, Jumpy(world), 190, config=LoopConfig(execute_horizon=8, **config))
    places = np.array([event.requested[0] for event in recorder.of(Ticked)])[3:]
    return float(np.abs(np.diff(places, 2)).max())


def test_seams_do_not_make_the_arm_jump():
    """The second difference at a seam of 0.6: all of it, or a fraction where chunks are blended or limits are set."""
    world = exact(time_limit=6.0)
    limits = Limits.of(world.embodiment, velocity={"position": 2.0}, acceleration={"position": 10.0})
    assert roughness(world) == pytest.approx(0.6)
    assert roughness(world, join=Join(how="blend", ticks=6)) < 0.15
    assert roughness(world, limits=limits) <= 10.0 * 0.1**2 + 1e-5
    assert MAX_STEP < 0.3, "the world itself would not follow such a jump"
