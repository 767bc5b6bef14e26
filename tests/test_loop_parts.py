"""Clocks, latency profiles, inference and the event log, each on its own."""

import json
import threading
import time

import numpy as np
import pytest

from actloop.contracts import Outcome
from actloop.errors import ContractError, DataError, UnknownNameError
from actloop.loop import (
    MEASURED,
    EpisodeEnded,
    EpisodeResult,
    Event,
    EventLog,
    Inference,
    InlineInference,
    LatencyEstimate,
    LatencyProfile,
    Requested,
    Subscriber,
    ThreadedInference,
    Ticked,
    Ticket,
    VirtualClock,
    WallClock,
    measure,
    parse_latency,
    published_latencies,
    read_events,
)
from actloop.loop.events import ThreadedBus
from actloop.loop.inference import Request
from actloop.simulation.exact import ExactWorld
from actloop.testing.fakes import CountingPolicy, Recorder, origin


@pytest.fixture
def world():
    made = ExactWorld(kind="absolute", image_size=8)
    made.reset(made.tasks["reach-left"], seed=0)
    return made


def ask(world, plan: int = 0, episode: int = 0, tick: int = 0) -> Request:
    return Request(ticket=Ticket(episode=episode, plan=plan, tick=tick), observation=world.observe())


# ---- clocks


def test_the_virtual_clock_moves_only_forward():
    clock = VirtualClock()
    clock.sleep_until(600.0)
    clock.sleep_until(3.0)
    assert clock.now() == 600.0
    with pytest.raises(ContractError, match=r"clock\.start"):
        VirtualClock(float("nan"))


def test_the_wall_clock_sleeps_until_and_not_longer_for_a_time_that_passed():
    clock = WallClock()
    begun = clock.now()
    clock.sleep_until(begun + 0.03)
    assert clock.now() - begun >= 0.03
    again = clock.now()
    clock.sleep_until(begun)
    assert clock.now() - again < 0.02


# ---- latency profiles


@pytest.mark.parametrize(
    ("text", "seconds"), [("190", 0.19), ("190ms", 0.19), ("0.19s", 0.19), ("0", 0.0), (" 27.3MS ", 0.0273)]
)
def test_durations(text, seconds):
    profile = parse_latency(text)
    assert profile.sample(np.random.default_rng(0)) == pytest.approx(seconds)
    assert profile.name.endswith("ms")


def test_published_figures_by_name_with_their_source():
    profile = parse_latency("fastwam-5090d")
    assert profile.seconds == (0.19,), "one number each: no spread is invented"
    assert "arXiv 2603.16666" in profile.source
    assert "forward" in profile.source
    assert all(len(known.seconds) == 1 and known.source for known in published_latencies().values())
    assert parse_latency("measured") == MEASURED


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("fastwam-5090", UnknownNameError, "did you mean 'fastwam-5090d'"),
        ("mesured", UnknownNameError, "did you mean 'measured'"),
        ("", UnknownNameError, "unknown name ''"),
        ("-5", ContractError, "expected finite seconds of at least 0"),
        ("nan", ContractError, "expected finite seconds"),
        ("inf ms", ContractError, "expected finite seconds"),
    ],
)
def test_latencies_that_mean_nothing(text, error, message):
    with pytest.raises(error, match=message):
        parse_latency(text)


def test_a_measured_profile_is_drawn_from_by_seed_and_survives_json():
    profile = LatencyProfile(name="measured", seconds=(0.1, 0.2, 0.4), source="here")
    draws = [[profile.sample(rng) for _ in range(50)] for rng in (np.random.default_rng(s) for s in (1, 1, 2))]
    assert draws[0] == draws[1] != draws[2]
    assert set(draws[0]) == {0.1, 0.2, 0.4}
    assert (profile.quantile(0.5), profile.quantile(0.95), profile.quantile(0.0)) == (0.2, 0.4, 0.1)
    assert LatencyProfile.from_dict(json.loads(json.dumps(profile.to_dict()))) == profile


@pytest.mark.parametrize(
    "plain",
    [{}, {"name": "a"}, {"name": "a", "seconds": 3}, {"name": "a", "seconds": []}, {"name": "a", "seconds": [-1]}],
)
def test_a_saved_profile_that_is_none_is_refused(plain):
    with pytest.raises(ContractError, match="latency"):
        LatencyProfile.from_dict(plain)


def test_measuring_leaves_the_cold_start_out(world):
    now = [0.0]

    def think(call: int) -> None:
        now[0] += 5.0 if call < 2 else 0.1 * call

    policy = CountingPolicy(world.embodiment, on_call=think)
    profile = measure(policy, world.observe(), calls=3, warm_up=2, timer=lambda: now[0])
    assert profile.seconds == pytest.approx((0.2, 0.3, 0.4))
    assert (profile.name, policy.calls) == (MEASURED, 5)
    assert "3 calls after 2 to warm up" in profile.source
    with pytest.raises(ContractError, match="calls >= 1"):
        measure(policy, world.observe(), calls=0)


def test_the_estimate_leaves_the_cold_start_out_and_forgets_old_calls():
    estimate = LatencyEstimate(window=4, warm_up=1)
    estimate.add(5.0)
    assert estimate.quantile(0.95) is None, "a cold start says nothing about the next call"
    for seconds in (0.3, 0.1, 0.2, 0.1, 0.1):
        estimate.add(seconds)
    assert estimate.quantile(0.95) == 0.2, "0.3 has left the window"
    assert estimate.quantile(0.5) == 0.1


# ---- inference


def test_an_inline_answer_is_due_after_its_latency(world):
    inference = InlineInference(CountingPolicy(world.embodiment), LatencyProfile.constant(190))
    inference.start(0, "go", seed=0)
    inference.submit(ask(world), now=1.0)
    assert inference.poll(1.1) == []
    (reply,) = inference.poll(1.19)
    assert (reply.latency, reply.due, reply.ticket.plan) == (0.19, pytest.approx(1.19), 0)
    assert origin(reply.prediction.chunk.actions[3]) == (0, 3)
    assert inference.poll(9.0) == []
    assert isinstance(inference, Inference)


def test_an_inline_error_is_a_reply(world):
    def fail(call: int) -> None:
        raise ValueError("no")

    inference = InlineInference(CountingPolicy(world.embodiment, on_call=fail), LatencyProfile.constant(500))
    inference.start(0, "go", seed=0)
    inference.submit(ask(world), now=0.0)
    (reply,) = inference.poll(0.0)
    assert isinstance(reply.error, ValueError)
    assert reply.prediction is None


def wait_for(inference, count: int, seconds: float = 3.0) -> list:
    replies, end = [], time.monotonic() + seconds
    while len(replies) < count and time.monotonic() < end:
        replies += inference.poll(time.monotonic())
        time.sleep(0.002)
    return replies


def test_in_a_thread_the_newest_question_wins(world):
    gate = threading.Event()
    policy = CountingPolicy(world.embodiment, on_call=lambda call: gate.wait(2.0) and None)
    with ThreadedInference(policy, WallClock()) as inference:
        inference.start(0, "go", seed=0)
        for plan in range(4):
            inference.submit(ask(world, plan, tick=world.observe().tick), time.monotonic())
            world.apply(np.zeros(2, np.float32))
            while plan == 0 and policy.calls == 0 and inference._mail is not None:
                time.sleep(0.001)  # until the first one is under way
        gate.set()
        replies = wait_for(inference, 2)
    assert [reply.ticket.plan for reply in replies] == [0, 3]
    assert inference.superseded == 2
    assert isinstance(inference, Inference)


def test_a_thread_starts_a_session_per_episode_and_keeps_its_errors(world):
    def fail(call: int) -> None:
        if call == 1:
            raise ValueError("no")

    policy = CountingPolicy(world.embodiment, on_call=fail)
    with ThreadedInference(policy, WallClock()) as inference:
        replies = []
        for episode in (0, 1, 1):
            if not replies or replies[-1].ticket.episode != episode:
                inference.start(episode, f"task {episode}", seed=episode)
            inference.submit(ask(world, episode=episode), time.monotonic())
            replies += wait_for(inference, 1)
            policy.calls = max(policy.calls, len(replies))
    assert [reply.error is None for reply in replies] == [True, False, True]
    assert [(session.instruction, session.seed) for session in policy.sessions] == [("task 0", 0), ("task 1", 1)]
    with pytest.raises(ContractError, match="is closed"):
        inference.submit(ask(world), 0.0)


def test_a_model_that_hangs_does_not_hang_the_end(world):
    gate = threading.Event()
    policy = CountingPolicy(world.embodiment, on_call=lambda call: gate.wait(5.0) and None)
    inference = ThreadedInference(policy, WallClock(), timeout=0.05)
    inference.start(0, "go", seed=0)
    inference.submit(ask(world), time.monotonic())
    time.sleep(0.02)
    begun = time.monotonic()
    assert inference.close() is False
    assert time.monotonic() - begun < 1.0
    gate.set()
    assert inference.close() is True


# ---- events


def ticked(tick: int, **changes) -> Ticked:
    fields = {
        "episode": 0,
        "tick": tick,
        "time": tick * 0.1,
        "requested": np.array([0.1, -0.0], np.float32),
        "sent": np.array([1 / 3, 2.0], np.float32),
        "plan": 1,
        "anchor": 0,
        "index": tick,
        "hold": "",
        "age": 0.30000000000000004,
        "observation": None,
    }
    return Ticked(**(fields | changes))


def test_a_record_has_fixed_order_and_rounded_numbers(tmp_path):
    with EventLog(tmp_path / "deep" / "log.jsonl") as log:
        log.on_event(ticked(3))
        on_disk = log.path.read_text()
    assert on_disk == (
        '{"event":"ticked","episode":0,"tick":3,"time":0.3,"requested":[0.1,0.0],"sent":[0.333333,2.0],'
        '"plan":1,"anchor":0,"index":3,"hold":"","age":0.3}\n'
    ), "flushed with the tick"
    assert isinstance(log, Subscriber)
    assert str(ticked(0, time=-1e-9).record()["time"]) == "0.0", "no negative zero"


def test_a_log_that_was_cut_off_is_read_up_to_there(tmp_path):
    path = tmp_path / "log.jsonl"
    with EventLog(path) as log:
        for tick in range(3):
            log.on_event(ticked(tick))
    whole = path.read_bytes()
    assert [record["tick"] for record in read_events(path)] == [0, 1, 2]
    for cut in range(1, 60):
        path.write_bytes(whole[:-cut])
        assert [record["tick"] for record in read_events(path)] == ([0, 1, 2] if cut == 1 else [0, 1])
    path.write_bytes(b"")
    assert read_events(path) == []


@pytest.mark.parametrize("middle", [b"{oops\n", b"[1, 2]\n", b"\xff\xfe\n"])
def test_a_log_that_is_broken_in_the_middle_is_an_error(tmp_path, middle):
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"event":"ticked"}\n' + middle + b'{"event":"ended"}\n')
    with pytest.raises(DataError, match=r"log\.jsonl, line 2"):
        read_events(path)
    with pytest.raises(DataError, match="cannot read"):
        read_events(tmp_path / "none.jsonl")


def test_observations_and_results_stay_out_of_the_log(world):
    asked = Requested(episode=0, tick=0, time=0.0, plan=0, why="first", observation=world.observe())
    assert asked.record() == {"event": "requested", "episode": 0, "tick": 0, "time": 0.0, "plan": 0, "why": "first"}
    result = EpisodeResult(
        task="t",
        seed=0,
        outcome=Outcome(success=True, reason="goal", time=1.0),
        clock="virtual",
        latency="0ms",
        period=0.1,
        horizon=4,
        execute_horizon=2,
        wall_seconds=12.5,
    )
    ended = EpisodeEnded(
        episode=0,
        tick=1,
        time=0.1,
        success=True,
        reason="goal",
        error="",
        ticks=1,
        executed=1,
        held_starved=0,
        held_late=0,
        calls=1,
        dropped={"older": 1, "episode": 2},
        infeasible="",
        result=result,
        observation=None,
    )
    record = ended.record()
    assert list(record["dropped"]) == ["episode", "older"]
    assert not {"result", "observation", "wall_seconds"} & set(record)


def test_a_threaded_bus_drops_rather_than_blocks_and_says_so():
    gate = threading.Event()

    class Stuck:
        def on_event(self, event):
            gate.wait(5.0)

    bus = ThreadedBus([Stuck()], size=2, timeout=0.05)
    begun = time.monotonic()
    for tick in range(100):
        bus.publish(Event(episode=0, tick=tick, time=0.0))
    assert time.monotonic() - begun < 1.0
    warnings = bus.close()
    gate.set()
    assert any("events were dropped" in warning for warning in warnings)
    assert any("still busy" in warning for warning in warnings)


def test_a_threaded_bus_tells_everything_in_order():
    recorder = Recorder()
    bus = ThreadedBus([recorder])
    for tick in range(100):
        bus.publish(Event(episode=0, tick=tick, time=0.0))
    assert bus.close() == ()
    assert [event.tick for event in recorder.events] == list(range(100))


def test_the_counting_policy_notices_frames_that_repeat_or_lie(world):
    policy = CountingPolicy(world.embodiment)
    session = policy.start("go", seed=0)
    session, _ = policy.predict(session, world.observe())
    with pytest.raises(ContractError, match="expected more than 0, got 0"):
        policy.predict(session, world.observe())
    lying = CountingPolicy(world.embodiment, read_tick=lambda obs: 7)
    with pytest.raises(ContractError, match="shows tick 7, but the observation says 0"):
        lying.predict(lying.start("go", seed=0), world.observe())
