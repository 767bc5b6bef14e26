"""Frames between two requests: the loop shows them, somebody pays for them, and nothing else changes."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_dreamzero_policy import observation, policy, wan_policy

from actloop.contracts import Absorbing, Observation
from actloop.errors import ContractError
from actloop.loop import (
    Absorbed,
    Budget,
    Charged,
    EpisodeResult,
    EventLog,
    Here,
    InThread,
    LatencyProfile,
    Live,
    LoopConfig,
    PolicyModule,
    Question,
    Replied,
    Requested,
    Ticket,
    WallClock,
    read_events,
    run_episode,
)
from actloop.loop.log.replay import replay
from actloop.loop.questions import FRAME
from actloop.models.dreamzero.policy import DreamZeroPolicy
from actloop.simulation.exact import ExactWorld
from actloop.stack.bounded import Bounded
from actloop.testing.fakes import Count, CountingPolicy, Recorder


class Noting(CountingPolicy):
    """Notes which ticks it was asked about, and which it was shown."""

    absorb_every = 1
    wrong_at = -1

    def absorb(self, session: Count, obs: Observation) -> Count:
        if obs.tick == self.wrong_at:
            raise ValueError("broken")
        self.noted: list[tuple[str, int]] = [*getattr(self, "noted", []), ("shown", obs.tick)]
        return session

    def predict(self, session: Count, obs: Observation, **options: object):  # type: ignore[no-untyped-def, override]
        self.noted = [*getattr(self, "noted", []), ("asked", obs.tick)]
        return super().predict(session, obs, **options)  # type: ignore[arg-type]


def play(
    kind: type[CountingPolicy] = Noting, *, absorbing: float = 0.0, ms: float = 0.0, log: Path | None = None, **options
) -> tuple[EpisodeResult, Recorder, CountingPolicy]:
    world, recorder = ExactWorld(kind="absolute", image_size=8, time_limit=3.0), Recorder()
    made = kind(world.embodiment, horizon=8)
    place = Charged(Here(PolicyModule(made)), LatencyProfile.constant(ms), absorbing=absorbing)
    listening = [recorder] if log is None else [recorder, EventLog(log)]
    result = run_episode(
        world, made, world.tasks["reach-left"], seed=3, inference=place, subscribers=listening, **options
    )
    for one in listening[1:]:
        one.close()  # type: ignore[union-attr]
    return result, recorder, made


# --- the loop ---------------------------------------------------------------------------------------------------------


def test_every_tick_is_shown_once_in_order_whether_asked_about_or_not() -> None:
    result, recorder, made = play(config=LoopConfig(execute_horizon=4))
    noted = made.noted  # type: ignore[attr-defined]
    assert [tick for _, tick in noted] == list(range(result.ticks))
    assert [tick for what, tick in noted if what == "asked"] == list(range(0, result.ticks, 4))
    last = result.ticks - 1  # what is shown in the last tick is not heard of any more
    assert [event.anchor for event in recorder.of(Absorbed)] == [t for t in range(last) if t % 4]


def test_a_policy_says_how_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Noting, "absorb_every", 3)
    _, _, made = play(config=LoopConfig(execute_horizon=4))
    shown = [tick for what, tick in made.noted if what == "shown"]  # type: ignore[attr-defined]
    assert shown == [tick for tick in range(0, 30, 3) if tick % 4]


def test_policies_that_take_no_frames_and_loops_that_show_none_are_as_ever(tmp_path: Path) -> None:
    logs = {}
    for name, kind, config in (
        ("ever", CountingPolicy, LoopConfig()),
        ("switched off", Noting, LoopConfig(absorb=False)),
        ("takes them", Noting, LoopConfig()),
    ):
        _, recorder, _ = play(kind, config=config, log=tmp_path / name)
        assert bool(recorder.of(Absorbed)) == (name == "takes them")
        logs[name] = read_events(tmp_path / name)
    assert "absorb" not in LoopConfig().to_dict(), "identities of loops stay as they were"
    assert LoopConfig.from_dict(LoopConfig(absorb=False).to_dict()) == LoopConfig(absorb=False)
    plain = [record for record in logs["switched off"] if record["event"] != "started"]
    assert plain == [record for record in logs["ever"] if record["event"] != "started"]
    commands = [[r["sent"] for r in records if r["event"] == "ticked"] for records in logs.values()]
    assert commands[0] == commands[1] == commands[2], "what costs nothing changes nothing"


def test_a_request_waits_for_the_frame_that_is_being_taken_in_and_says_so() -> None:
    _, free, _ = play(ms=30, config=LoopConfig(execute_horizon=4))
    _, charged, _ = play(ms=30, absorbing=0.25, config=LoopConfig(execute_horizon=4))
    assert {round(event.latency, 6) for event in free.of(Replied)} == {0.03}
    # The frame of tick 1 is done at 0.35 s, that of tick 4 at 0.65 s, and the second request comes at tick 5.
    second, asked = charged.of(Replied)[1], charged.of(Requested)[1]
    assert asked.tick == 5
    assert second.latency == pytest.approx(0.03 + 0.15)
    assert second.computed == pytest.approx(0.03)
    assert second.time >= asked.time + second.latency - 1e-9, "no answer comes before it is paid for"
    assert [round(event.computed, 6) for event in charged.of(Absorbed)[:3]] == [0.25] * 3
    assert [event.anchor for event in charged.of(Absorbed)[:2]] == [1, 4]


def test_frames_that_take_longer_than_a_tick_do_not_pile_up_before_questions() -> None:
    free, _, _ = play(ms=30, config=LoopConfig(execute_horizon=4))
    slow, recorder, _ = play(ms=30, absorbing=0.45, config=LoopConfig(execute_horizon=4))
    assert max(event.latency for event in recorder.of(Replied)) <= 0.03 + 0.45 + 1e-9
    assert slow.calls >= 0.6 * free.calls
    assert slow.computed["action"] <= slow.ticks * 0.1 + 0.45


def test_in_a_thread_too_they_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Noting, "absorb", lambda self, session, obs: time.sleep(0.05) or session)
    world, recorder = ExactWorld(kind="absolute", image_size=8, time_limit=1.2, control_hz=50), Recorder()
    made, clock = Noting(world.embodiment, horizon=8), WallClock()
    with InThread(PolicyModule(made)) as place:
        run_episode(
            world, made, world.tasks["reach-left"], seed=3, inference=Live(place, clock), clock=clock,
            subscribers=[recorder], config=LoopConfig(execute_horizon=4),
        )  # fmt: skip
    assert max(event.latency for event in recorder.of(Replied)) < 0.3, "sixty frames of 0.05 s would take 3 s"


def test_what_frames_cost_is_on_the_account_and_the_log_replays(tmp_path: Path) -> None:
    budget = Budget(layers={"action": 0.3}, window=1.0)
    config = LoopConfig(execute_horizon=4, budget=budget)
    free, _, _ = play(ms=30, config=config)
    result, recorder, _ = play(ms=30, absorbing=0.06, config=config, log=tmp_path / "log")
    shown = len(recorder.of(Absorbed))
    assert result.computed["action"] == pytest.approx(0.06 * shown + 0.03 * len(recorder.of(Replied)))
    assert result.refused.get("action", 0) > free.refused.get("action", 0), "frames leave less for questions"
    again = replay(tmp_path / "log")
    assert again.same, again.differences
    assert again.ticks == result.ticks


def test_measured_and_paused_clocks_take_frames_too(tmp_path: Path) -> None:
    world = ExactWorld(kind="absolute", image_size=8, time_limit=2.0)
    for clock in (None, "paused"):
        made = Noting(world.embodiment, horizon=8)
        with EventLog(tmp_path / f"{clock}") as log:
            run_episode(world, made, world.tasks["reach-left"], seed=3, clock=clock, subscribers=[log])  # type: ignore[arg-type]
        assert [tick for _, tick in made.noted] == list(range(20))
        assert replay(tmp_path / f"{clock}").same


def test_a_policy_that_breaks_on_a_frame_ends_the_episode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Noting, "wrong_at", 5)
    result, _, _ = play()
    assert result.error.startswith("ValueError: broken")


def test_frames_pass_a_time_limit_that_answers_keep() -> None:
    world = ExactWorld(kind="absolute", image_size=8, time_limit=1.0)
    made = Noting(world.embodiment, horizon=8)
    first = Charged(Here(PolicyModule(made)), LatencyProfile.constant(20), absorbing=0.09)
    bounded = Bounded(first, after=0.05)
    result = run_episode(world, made, world.tasks["reach-left"], seed=3, inference=bounded)
    assert not result.error
    assert bounded.timed_out <= 1, "at most the request behind a frame; no frame itself"


def test_a_cost_below_nothing_is_refused() -> None:
    world = ExactWorld(kind="absolute", image_size=8)
    module = PolicyModule(Noting(world.embodiment))
    with pytest.raises(ContractError, match=r"inference\.absorbing: expected seconds of at least 0, got -1"):
        Charged(Here(module), absorbing=-1)


def test_in_a_thread_no_frame_replaces_another_nor_overtakes_a_question() -> None:
    world = ExactWorld(kind="absolute", image_size=8)
    first = world.reset(world.tasks["reach-left"], seed=0)
    made = Noting(world.embodiment, horizon=8, on_call=lambda number: time.sleep(0.2 if number == 0 else 0))
    with InThread(PolicyModule(made)) as place:
        place.start("reach", seed=0)
        for tick in range(6):
            number = tick if tick in (0, 2, 4) else FRAME
            ticket = Ticket(episode=0, plan=number, tick=tick)
            place.submit(Question(ticket=ticket, observation=replace(first, tick=tick), instruction="reach"))
            if not tick:
                time.sleep(0.05)  # it is being answered while the others come
        results = []
        while len(results) < 5:
            results += place.collect(5.0)
    assert all(result.error is None for result in results)
    assert place.superseded == 1, "the question of tick 2, by that of tick 4"
    assert made.noted == [("asked", 0), ("shown", 1), ("shown", 3), ("asked", 4), ("shown", 5)]


# --- DreamZero --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [policy, wan_policy])
def test_a_request_encodes_fewer_frames_and_answers_the_same(make: Callable[[], DreamZeroPolicy]) -> None:
    made = make()
    assert isinstance(made, Absorbing)
    assert made.absorb_every == 1
    block, step, of = made.horizon, made.declaration.frame_ticks, made.embodiment
    ahead, late = (made.predict(made.start("reach the goal", seed=0), observation(0, of))[0] for _ in range(2))
    for number in range(1, made.model.config.window_blocks + 1):
        for tick in range((number - 1) * block + step, number * block, step):
            ahead = made.absorb(ahead, observation(tick, of))
            late = made.show(late, observation(tick, of))  # taken in with the request alone
        before = made.watcher.frames_encoded
        ahead, one = made.predict(ahead, observation(number * block, of))
        between = made.watcher.frames_encoded
        late, two = made.predict(late, observation(number * block, of))
        frames = made.declaration.block_frames
        assert (between - before, made.watcher.frames_encoded - between) == (frames // 2, frames)
        assert np.abs(one.chunk.actions - two.chunk.actions).max() < 1e-6


def test_a_session_that_absorbed_is_still_a_value() -> None:
    made = wan_policy()
    of, block = made.embodiment, made.horizon
    session, _ = made.predict(made.start("reach the goal", seed=0), observation(0, of))
    for tick in range(3, block, 3):
        session = made.absorb(session, observation(tick, of))
    answers = [made.predict(session, observation(block, of))[1].chunk.actions for _ in range(2)]
    assert np.array_equal(*answers)


def test_where_a_block_is_one_frame_no_frames_are_wanted_between_requests() -> None:
    made = policy()
    made.declaration = replace(made.declaration, frame_ticks=made.horizon)
    assert made.absorb_every == 0
