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
    Charged,
    EpisodeEnded,
    EpisodeResult,
    Event,
    EventLog,
    Here,
    Inference,
    InThread,
    LatencyEstimate,
    LatencyProfile,
    Live,
    PolicyModule,
    Question,
    Requested,
    Subscriber,
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
from actloop.simulation.exact import ExactWorld
from actloop.testing.fakes import CountingPolicy, Recorder, origin


@pytest.fixture
def world():
    made = ExactWorld(kind="absolute", image_size=8)
    made.reset(made.tasks["reach-left"], seed=0)
    return made


def ask(world, plan: int = 0, episode: int = 0, tick: int = 0) -> Question:
    ticket = Ticket(episode=episode, plan=plan, tick=tick)
    return Question(ticket=ticket, observation=world.observe(), instruction="go")


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


def charged(policy, latency=None, **options) -> Charged:
    inference = Charged(Here(PolicyModule(policy)), latency, **options)
    inference.start("go", seed=0)
    return inference


def test_a_charged_answer_is_due_after_its_latency(world):
    inference = charged(CountingPolicy(world.embodiment), LatencyProfile.constant(190))
    inference.submit(ask(world), now=1.0)
    assert inference.poll(1.1) == []
    (reply,) = inference.poll(1.19)
    assert (reply.latency, reply.due, reply.ticket.plan) == (pytest.approx(0.19), pytest.approx(1.19), 0)
    assert origin(reply.answer.prediction.chunk.actions[3]) == (0, 3)
    assert inference.poll(9.0) == []
    assert isinstance(inference, Inference)


def test_a_model_that_is_charged_has_one_head(world):
    inference = charged(CountingPolicy(world.embodiment), LatencyProfile.constant(300))
    inference.submit(ask(world), now=0.0)
    world.apply(np.zeros(2, np.float32))
    inference.submit(ask(world, plan=1, tick=1), now=0.1)
    assert [reply.due for reply in inference.poll(9.0)] == pytest.approx([0.3, 0.6]), "the second waits for the first"


def test_a_charged_error_is_a_reply_and_due_at_once(world):
    def fail(call: int) -> None:
        raise ValueError("no")

    inference = charged(CountingPolicy(world.embodiment, on_call=fail), LatencyProfile.constant(500))
    inference.submit(ask(world), now=0.0)
    (reply,) = inference.poll(0.5)
    assert isinstance(reply.error, ValueError)
    assert reply.answer is None


def test_what_is_not_charged_is_due_at_once_and_its_time_is_recorded(world):
    policy = CountingPolicy(world.embodiment, on_call=lambda call: time.sleep(0.02))
    inference = charged(policy, charged=False)
    inference.submit(ask(world), now=0.0)
    (reply,) = inference.poll(0.0)
    assert reply.due == 0.0
    assert reply.latency >= 0.02
    assert inference.declared.quantile(0.95) == 0.0


def test_a_live_answer_comes_when_it_comes(world):
    policy = CountingPolicy(world.embodiment, on_call=lambda call: time.sleep(0.03))
    with InThread(PolicyModule(policy)) as place:
        inference = Live(place, WallClock())
        inference.start("go", seed=0)
        begun = time.monotonic()
        inference.submit(ask(world), begun)
        assert inference.poll(begun) == []
        while not (replies := inference.poll(time.monotonic())) and time.monotonic() < begun + 3:
            time.sleep(0.001)
    (reply,) = replies
    assert reply.latency >= 0.03
    assert reply.latency >= reply.computed > 0.025
    assert isinstance(inference, Inference)


# ---- events


def ticked(tick: int, **changes) -> Ticked:
    fields = {
        "episode": 0,
        "tick": tick,
        "time": tick * 0.1,
        "begun": tick * 0.1,
        "wanted": np.array([0.1, -0.0], np.float32),
        "requested": np.array([0.1, -0.0], np.float32),
        "sent": np.array([1 / 3, 2.0], np.float32),
        "plan": 1,
        "anchor": 0,
        "index": tick,
        "hold": "",
        "pace": 1.0,
        "reasons": ("box",),
        "rung": "continue",
        "age": 0.25,
        "missed": 0,
        "state": None,
        "observation": None,
    }
    return Ticked(**(fields | changes))


def test_a_record_has_fixed_order_and_numbers_that_read_back_exactly(tmp_path):
    event = ticked(2, sent=np.array([1 / 3, 2.0], np.float32), time=0.1 + 0.2)
    with EventLog(tmp_path / "deep" / "log.jsonl") as log:
        log.on_event(event)
        on_disk = log.path.read_text()
    assert on_disk == (
        '{"event":"ticked","episode":0,"tick":2,"time":0.30000000000000004,"begun":0.2,"wanted":[0.1,0],'
        '"requested":[0.1,0],"sent":[0.333333343,2],"plan":1,"anchor":0,"index":2,"hold":"","pace":1.0,'
        '"reasons":["box"],"rung":"continue","age":0.25,"missed":0,"state":null}\n'
    ), "flushed with the tick"
    (record,) = read_events(log.path)
    assert np.array_equal(np.array(record["sent"], np.float32), event.sent)
    assert record["time"] == event.time
    assert isinstance(log, Subscriber)
    assert str(ticked(0, time=-0.0).record()["time"]) == "0.0", "no negative zero"


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
    asked = Requested(
        episode=0,
        tick=0,
        time=0.0,
        layer="action",
        plan=0,
        why="first",
        instruction="go",
        deadline=None,
        candidates=1,
        fixed=0,
        observation=world.observe(),
    )
    assert "observation" not in asked.record()
    assert asked.record()["why"] == "first"
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
