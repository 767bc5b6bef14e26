"""The pure schedule: nothing twice, nothing out of order, one command per tick, deltas that sum to what was meant."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actloop.contracts import ActionChunk, Embodiment, Observation, Part, Space
from actloop.errors import ContractError
from actloop.loop.feasibility import delay_in_ticks, infeasibility
from actloop.loop.joining import Join
from actloop.loop.schedule import Command, Schedule, Ticket

PERIOD = 0.1
quick = settings(max_examples=60, deadline=None, database=None)


def body(kind: str = "absolute", limit: float = 1e6) -> Embodiment:
    part = Part(name="position", unit="m", low=(-limit, -limit), high=(limit, limit), kind=kind)
    measured = Part(name="position", unit="m", low=(-1.0, -1.0), high=(1.0, 1.0))
    return Embodiment(
        name="point", cameras=(), state=Space(parts=(measured,)), action=Space(parts=(part,)), control_hz=1 / PERIOD
    )


def seen(tick: int) -> Observation:
    return Observation(images={}, state=np.array([0.25, -0.5], np.float32), tick=tick, time=tick * PERIOD)


def numbered(tick: int, horizon: int) -> ActionChunk:
    """Actions that name their origin: tick of the observation, index in the chunk."""
    actions = np.stack([np.full(horizon, tick), np.arange(horizon)], axis=1).astype(np.float32)
    return ActionChunk(actions=actions, anchor=tick, period=PERIOD, observed_at=tick * PERIOD)


def chunk_of(actions: np.ndarray, tick: int) -> ActionChunk:
    return ActionChunk(actions=actions.astype(np.float32), anchor=tick, period=PERIOD, observed_at=tick * PERIOD)


def step(schedule: Schedule, tick: int) -> Command:
    command = schedule.command(seen(tick), tick)
    schedule.sent(command.action)
    return command


def roll(schedule: Schedule, delays: list[int], horizon: int, ticks: int, make=numbered) -> list[Command]:
    """Run `ticks` ticks against a model whose n-th answer takes `delays[n % len]` ticks."""
    commands, waiting, asked = [], [], 0
    for tick in range(ticks):
        for rest in range(2):  # an answer that takes no time is used at once
            for due, ticket in [entry for entry in waiting if entry[0] <= tick]:
                schedule.deliver(ticket, make(ticket.tick, horizon), tick)
                waiting.remove((due, ticket))
            if rest == 0 and schedule.why_ask(delays[0] if len(delays) == 1 else 0):
                waiting.append((tick + delays[asked % len(delays)], schedule.ask(tick)))
                asked += 1
        commands.append(step(schedule, tick))
    return commands


def test_the_first_chunk_at_standstill_skips_nothing():
    schedule = Schedule(body())
    schedule.reset(0)
    ticket = schedule.ask(0)
    for tick in range(8):
        assert step(schedule, tick).hold == "starved"
    delivery = schedule.deliver(ticket, numbered(0, 16), 8)
    assert (delivery.accepted, delivery.delay, delivery.skipped) == (True, 8, 0)
    assert step(schedule, 8).action.tolist() == [0, 0]


def test_holds_between_observation_and_answer_are_not_skipped():
    schedule = Schedule(body(), execute_horizon=2)
    schedule.reset(0)
    schedule.deliver(schedule.ask(0), numbered(0, 4), 0)
    for tick in range(2):
        step(schedule, tick)
    ticket = schedule.ask(2)
    holds = [step(schedule, tick).hold for tick in range(2, 9)]
    assert holds == ["", "", "late", "late", "late", "late", "late"]
    assert schedule.deliver(ticket, numbered(2, 4), 9).skipped == 2
    assert step(schedule, 9).action.tolist() == [2, 2]


def test_a_hold_keeps_the_last_absolute_target_and_before_it_the_measured_pose():
    schedule = Schedule(body(), execute_horizon=2)
    schedule.reset(0)
    assert schedule.needs_observation
    assert step(schedule, 0).action.tolist() == [0.25, -0.5]
    assert not schedule.needs_observation
    schedule.deliver(schedule.ask(1), numbered(1, 2), 1)
    assert [step(schedule, tick).action.tolist() for tick in (1, 2)] == [[1, 0], [1, 1]]
    held = schedule.command(None, 3)
    assert (held.hold, held.action.tolist()) == ("late", [1, 1])


def test_a_hold_of_deltas_does_not_move():
    schedule = Schedule(body("delta"), execute_horizon=2)
    schedule.reset(0)
    schedule.deliver(schedule.ask(0), chunk_of(np.ones((2, 2)), 0), 0)
    actions = [step(schedule, tick).action.tolist() for tick in range(4)]
    assert actions == [[1, 1], [1, 1], [0, 0], [0, 0]]


def test_the_reply_of_a_past_episode_is_dropped():
    schedule = Schedule(body())
    schedule.reset(0)
    old = schedule.ask(0)
    step(schedule, 0)
    schedule.reset(1)
    fresh = schedule.ask(0)
    delivery = schedule.deliver(old, numbered(0, 16), 0)
    assert (delivery.accepted, delivery.reason) == (False, "episode")
    assert step(schedule, 0).hold == "starved"
    assert schedule.why_ask() == "", "the question of this episode is still open"
    assert schedule.deliver(fresh, numbered(0, 16), 1).accepted


def test_a_late_reply_after_a_newer_one_is_dropped():
    schedule = Schedule(body())
    schedule.reset(0)
    older = schedule.ask(0)
    step(schedule, 0)
    newer = schedule.ask(1)
    assert schedule.deliver(newer, numbered(1, 16), 1).accepted
    assert schedule.deliver(older, numbered(0, 16), 1).reason == "older"
    assert step(schedule, 1).action.tolist() == [1, 0]


def test_a_reply_that_was_given_up_is_dropped_and_one_taken_twice_too():
    schedule = Schedule(body())
    schedule.reset(0)
    ticket = schedule.ask(0)
    schedule.give_up()
    assert schedule.deliver(ticket, numbered(0, 16), 0).reason == "plan"
    assert schedule.why_ask() == "first"
    again = schedule.ask(0)
    assert schedule.deliver(again, numbered(0, 16), 0).accepted
    assert schedule.deliver(again, numbered(0, 16), 0).reason == "older"


def test_why_a_chunk_is_asked_for():
    schedule = Schedule(body(), execute_horizon=3)
    schedule.reset(0)
    assert schedule.why_ask() == "first"
    schedule.deliver(schedule.ask(0), numbered(0, 4), 0)
    reasons = []
    for tick in range(4):
        reasons.append(schedule.why_ask())
        step(schedule, tick)
    assert [*reasons, schedule.why_ask()] == ["", "", "", "executed", "spent"]


def test_a_chunk_is_asked_for_early_where_it_would_be_spent_too_soon():
    schedule = Schedule(body(), execute_horizon=8)
    schedule.reset(0)
    schedule.deliver(schedule.ask(0), numbered(0, 8), 0)
    for tick in range(5):
        assert schedule.why_ask(expected_delay=3) == ""
        step(schedule, tick)
    assert schedule.why_ask(expected_delay=3) == "spending"


@quick
@given(
    delays=st.lists(st.integers(0, 20), min_size=1, max_size=6),
    horizon=st.integers(1, 12),
    execute=st.integers(1, 12),
)
def test_nothing_is_executed_twice_or_out_of_order(delays, horizon, execute):
    schedule = Schedule(body(), execute_horizon=min(execute, horizon))
    schedule.reset(0)
    commands = roll(schedule, delays, horizon, 80)
    assert len(commands) == schedule.tick == 80, "every tick exactly one command"
    fresh = [(tick, command) for tick, command in enumerate(commands) if not command.hold]
    assert schedule.executed == len(fresh)
    for (_, before), (_, after) in pairwise(fresh):
        if after.plan == before.plan:
            assert after.index == before.index + 1
        else:
            assert after.plan > before.plan
            assert after.anchor > before.anchor
    for tick, command in fresh:
        since = sum(not earlier.hold for earlier in commands[command.anchor : tick])
        assert command.index == since, "the index is what was executed since the observation"
        assert command.action.tolist() == [command.anchor, command.index]


@pytest.mark.parametrize("horizon", [4, 9, 16])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.6, 1.0, 1.5])
def test_a_latency_is_called_infeasible_exactly_where_the_robot_has_to_pause(horizon, share):
    delay = round(share * horizon)
    schedule = Schedule(body(), execute_horizon=max(1, horizon // 2))
    schedule.reset(0)
    late = [command for command in roll(schedule, [delay], horizon, 120) if command.hold == "late"]
    reason = infeasibility(latency=delay * PERIOD, period=PERIOD, horizon=horizon)
    assert bool(reason) == bool(late)
    if reason:
        assert f"{delay} ticks late" in reason
        assert f"the policy gives {horizon}" in reason


@pytest.mark.parametrize("delay", [0, 1, 7, 8])
def test_a_constant_delay_skips_exactly_itself(delay):
    schedule = Schedule(body(), execute_horizon=8)
    schedule.reset(0)
    commands = roll(schedule, [delay], 16, 100)
    assert [command.hold for command in commands[:delay]] == ["starved"] * delay
    starts = [command.index for before, command in pairwise(commands) if command.plan > max(before.plan, 0)]
    assert set(starts) == {delay}


def test_latencies_round_up_to_ticks():
    assert [delay_in_ticks(ms / 1000, PERIOD) for ms in (0, 1, 100, 100.1, 190, 810)] == [0, 1, 1, 2, 2, 9]
    assert delay_in_ticks(3 * 0.1, 0.1) == 3, "a sum of floats is no extra tick"


@quick
@given(data=st.data(), delay=st.integers(0, 8), correction=st.integers(1, 6))
def test_deltas_sum_to_the_pose_the_plan_meant(data, delay, correction):
    horizon = 16
    rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    chunks = {}

    def noisy(tick: int, length: int) -> ActionChunk:
        chunks[tick] = rng.normal(size=(length, 2))
        return chunk_of(chunks[tick], tick)

    schedule = Schedule(body("delta"), execute_horizon=8, join=Join(ticks=correction))
    schedule.reset(0)
    commands = roll(schedule, [delay], horizon, 60, noisy)
    checked = 0
    for tick, command in enumerate(commands):
        last = tick + 1 == len(commands) or commands[tick + 1].plan != command.plan
        if command.hold or not last or command.index + 1 < delay + correction:
            continue
        moved = sum(earlier.action.astype(np.float64) for earlier in commands[command.anchor : tick + 1])
        meant = chunks[command.anchor].astype(np.float32)[: command.index + 1].sum(axis=0, dtype=np.float64)
        np.testing.assert_allclose(moved, meant, atol=1e-4)
        checked += 1
    assert checked >= 2


def test_without_correction_late_deltas_drift_from_the_pose_the_plan_meant():
    def run(correction_ticks: int) -> np.ndarray:
        schedule = Schedule(body("delta"), execute_horizon=8, join=Join(ticks=correction_ticks))
        schedule.reset(0)
        schedule.deliver(schedule.ask(0), chunk_of(np.full((16, 2), 1.0), 0), 0)
        for tick in range(8):
            step(schedule, tick)
        ticket = schedule.ask(8)
        moved = [step(schedule, tick).action for tick in range(8, 12)]
        schedule.deliver(ticket, chunk_of(np.full((16, 2), 0.5), 8), 12)
        return np.sum(moved + [step(schedule, tick).action for tick in range(12, 16)], axis=0)

    assert run(0).tolist() == [6, 6], "4 old deltas of 1, then 4 new ones of 0.5"
    assert run(4).tolist() == [4, 4], "8 new deltas of 0.5, as meant from the pose at the anchor"


def test_the_correction_stays_within_the_limits_and_takes_longer_instead():
    schedule = Schedule(body("delta", limit=1.0), execute_horizon=4, join=Join(ticks=2))
    schedule.reset(0)
    schedule.deliver(schedule.ask(0), chunk_of(np.full((8, 2), -1.0), 0), 0)
    for tick in range(4):
        step(schedule, tick)
    ticket = schedule.ask(4)
    for tick in range(4, 6):
        step(schedule, tick)
    schedule.deliver(ticket, chunk_of(np.full((8, 2), 0.5), 4), 6)
    actions = np.array([step(schedule, tick).action for tick in range(6, 12)])
    assert np.abs(actions).max() <= 1.0
    assert actions[:, 0].sum() == pytest.approx(6 * 0.5 + 6 * 0.5), "owed 3: half a delta of room at a time, 6 times"


def test_an_action_beyond_the_limits_is_cut_and_said_with_what_was_wanted():
    schedule = Schedule(body("delta", limit=1.0), join=Join(ticks=4))
    schedule.reset(0)
    schedule.deliver(schedule.ask(0), chunk_of(np.full((8, 2), 3.0), 0), 0)
    for tick in range(8):
        command = step(schedule, tick)
        assert command.action.tolist() == [1, 1], "what was cut is not made up for: it was never within reach"
        assert command.wanted.tolist() == [3, 3]


def test_absolute_targets_are_never_corrected():
    schedule = Schedule(body(), join=Join(ticks=4))
    schedule.reset(0)
    commands = roll(schedule, [3], 16, 40)
    assert all(command.hold or command.action.tolist() == [command.anchor, command.index] for command in commands)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"actions": np.full((4, 2), np.nan, np.float32)}, r"tick 7: chunk\.actions\.position: not finite"),
        (
            {"actions": np.zeros((4, 3), np.float32)},
            r"tick 7: chunk\.actions: expected 2 dimensions, got .*3\)",
        ),
        ({"actions": np.zeros(2, np.float32)}, r"tick 7: chunk\.actions: expected .* got shape \(2,\)"),
        ({"actions": np.zeros((0, 2), np.float32)}, r"tick 7: chunk\.actions: expected .* at least 1"),
        ({"actions": np.zeros((4, 2), np.int64)}, r"tick 7: chunk\.actions: expected floating point"),
        ({"period": 0.05}, r"tick 7: chunk\.period: expected 0\.1 s, got 0\.05 s"),
        ({"anchor": 6}, r"tick 7: chunk\.anchor: .* 7, got 6"),
    ],
)
def test_a_broken_chunk_is_refused_with_its_tick(change, message):
    schedule = Schedule(body())
    schedule.reset(0)
    for tick in range(7):
        step(schedule, tick)
    good = {"actions": np.zeros((4, 2), np.float32), "anchor": 7, "period": PERIOD, "observed_at": 0.7}
    with pytest.raises(ContractError, match=message):
        schedule.deliver(schedule.ask(7), ActionChunk(**(good | change)), 7)


def test_turns_are_kept():
    schedule = Schedule(body())
    schedule.reset(0)
    with pytest.raises(ContractError, match="expected tick 0, got 1"):
        schedule.command(seen(1), 1)
    with pytest.raises(ContractError, match="no command yet"):
        schedule.sent(np.zeros(2, np.float32))
    with pytest.raises(ContractError, match="needs an observation"):
        schedule.command(None, 0)
    schedule.command(seen(0), 0)
    with pytest.raises(ContractError, match="already has one"):
        schedule.command(seen(0), 0)
    with pytest.raises(ContractError, match=r"tick 0: sent action\.position: not finite"):
        schedule.sent(np.array([np.nan, 0], np.float32))
    with pytest.raises(ContractError, match="expected tick 0, got 3"):
        schedule.deliver(Ticket(episode=0, plan=0, tick=0), numbered(0, 4), 3)


@pytest.mark.parametrize("bad", [{"execute_horizon": 0}, {"max_age": -1}])
def test_settings_out_of_range_are_refused(bad):
    with pytest.raises(ContractError, match=next(iter(bad))):
        Schedule(body(), **bad)
