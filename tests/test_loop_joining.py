"""How chunks take over from one another: seams, sums of deltas, averages, what a policy is told it is committed to."""

import numpy as np
import pytest

from actloop.contracts import ActionChunk, Committed, Embodiment, Observation, Part, Prediction, Space
from actloop.errors import ContractError, UnknownNameError
from actloop.loop import Join, LatencyProfile, Limits, LoopConfig, Schedule, Ticked, run_episode
from actloop.loop.joining import Motion, continued, ensembled
from actloop.loop.path import Kinds
from actloop.simulation.exact import ExactWorld
from actloop.testing.fakes import Recorder

PERIOD = 0.1
ARM, SLIDE, WHEEL, GRIPPER = range(4)


def part(name: str, kind: str, limit: float = 100.0) -> Part:
    return Part(name=name, unit="m", low=(-limit,), high=(limit,), kind=kind)


def body(*, slide: float = 100.0) -> Embodiment:
    """A component of each kind."""
    parts = (part("arm", "absolute"), part("slide", "delta", slide), part("wheel", "velocity"))
    state = (part("arm", "absolute"), part("gripper", "absolute"))
    return Embodiment(
        name="joined",
        cameras=(),
        state=Space(parts=state),
        action=Space(parts=(*parts, part("gripper", "absolute"))),
        control_hz=1 / PERIOD,
    )


KINDS = Kinds.of(body())


def seen(tick: int) -> Observation:
    return Observation(images={}, state=np.zeros(2, np.float32), tick=tick, time=tick * PERIOD)


def chunk_of(actions, tick: int) -> ActionChunk:
    return ActionChunk(actions=np.asarray(actions, np.float32), anchor=tick, period=PERIOD, observed_at=tick * PERIOD)


def alike(values) -> np.ndarray:
    """The same numbers for every component."""
    return np.repeat(np.asarray(values, np.float32)[:, None], 4, axis=1)


def step(schedule: Schedule, tick: int, *, share: float = 1.0, **options):
    """One tick in which the world does `share` of the deltas."""
    command = schedule.command(seen(tick), tick, **options)
    sent = command.action.copy()
    sent[SLIDE] *= np.float32(share)
    schedule.sent(sent)
    return command, sent


def started(actions, **options) -> Schedule:
    schedule = Schedule(body(slide=options.pop("slide", 100.0)), **options)
    schedule.reset(0)
    schedule.deliver(schedule.ask(0), chunk_of(actions, 0), 0)
    return schedule


# ---- replace


@pytest.mark.parametrize("at", [0.0, 2.0, 2.25, 3.9])
@pytest.mark.parametrize("ticks", [1, 4])
def test_what_late_deltas_missed_is_made_up_evenly(at, ticks):
    actions = np.random.default_rng(0).uniform(-1, 1, (12, 4)).astype(np.float32)
    owed = np.array([9.0, 2.0, 9.0, 9.0])
    rest = continued(actions, at, Motion((), owed), KINDS, Join(ticks=ticks))
    first, over = int(at), at - int(at)
    own = actions[first:].astype(np.float64)
    assert np.array_equal(rest[:, [ARM, WHEEL, GRIPPER]], actions[first:, [ARM, WHEEL, GRIPPER]]), "only deltas owe"
    added = rest[:, SLIDE] - own[:, SLIDE]
    executed = added * np.r_[1 - over, np.ones(len(rest) - 1)]
    assert executed.sum() == pytest.approx(2.0, abs=1e-5)
    if at == int(at):
        assert added[:ticks] == pytest.approx(2.0 / ticks, abs=1e-6), "evenly"
    assert added[ticks + 1 :] == pytest.approx(0.0, abs=1e-6), "and then no more"


def test_nothing_is_made_up_over_no_ticks_and_nothing_is_left_of_a_chunk_that_was_overtaken():
    actions = alike(np.arange(5))
    owed = Motion((), np.full(4, 3.0))
    assert np.array_equal(continued(actions, 2.0, owed, KINDS, Join(ticks=0)), actions[2:])
    assert continued(actions, 5.0, owed, KINDS, Join()).shape == (0, 4)
    assert continued(actions, 5.0, owed, KINDS, Join(how="blend")).shape == (0, 4)


@pytest.mark.parametrize("how", ["replace", "blend"])
@pytest.mark.parametrize("paces", [(1.0,), (0.5,), (0.37, 0.9, 0.61)])
@pytest.mark.parametrize("delay", [1, 3, 5])
def test_deltas_sum_to_the_pose_meant_whole_or_slowed(how, paces, delay):
    """A chunk that comes late, while the robot followed another one at some pace, ends where it meant to."""
    rng = np.random.default_rng(delay)
    old, new = rng.uniform(-0.5, 0.5, (2, 16, 4))
    schedule = started(old, join=Join(how=how, ticks=3))
    moved = 0.0
    for tick in range(40):
        if tick == 2:
            ticket, moved = schedule.ask(tick), 0.0
        if tick == 2 + delay:
            assert schedule.deliver(ticket, chunk_of(new, 2), tick).accepted
        command, sent = step(schedule, tick, pace=paces[tick % len(paces)])
        if not command.hold:
            moved += float(sent[SLIDE])
    assert command.hold == "late"
    assert moved == pytest.approx(new[:, SLIDE].sum(), abs=1e-4)


def test_what_the_world_did_less_is_made_up_in_the_next_tick():
    """`apply` says what was really sent: the odometer counts that, not what was commanded."""
    schedule = started(alike(np.full(8, 0.1)))
    steps = [step(schedule, tick, share=0.5 if tick == 2 else 1.0) for tick in range(8)]
    commanded = [float(command.action[SLIDE]) for command, _ in steps]
    assert commanded == pytest.approx([0.1, 0.1, 0.1, 0.15, 0.1, 0.1, 0.1, 0.1], abs=1e-6)
    assert sum(float(sent[SLIDE]) for _, sent in steps) == pytest.approx(0.8, abs=1e-5)


@pytest.mark.parametrize("limited", [False, True])
def test_what_the_world_did_less_is_made_up_once_with_limits_and_without(limited):
    limits = Limits.of(body(), velocity={"slide": 50.0}, acceleration={"slide": 900.0}) if limited else None
    schedule = started(alike(np.full(8, 0.1)), limits=limits)
    moves = [step(schedule, tick, share=0.5 if tick == 2 else 1.0)[1][SLIDE] for tick in range(8)]
    assert moves == pytest.approx([0.1, 0.1, 0.05, 0.15, 0.1, 0.1, 0.1, 0.1], abs=1e-6)


def test_a_world_that_always_does_less_does_not_wind_up():
    schedule = started(alike(np.full(30, 0.1)), slide=0.12)
    commanded = [step(schedule, tick, share=0.5)[0].action[SLIDE] for tick in range(30)]
    assert max(commanded) <= np.float32(0.12), "within the action space, however far behind"
    ticket = schedule.ask(30)
    schedule.deliver(ticket, chunk_of(alike(np.full(8, 0.1)), 30), 30)
    assert step(schedule, 30)[0].action[SLIDE] == pytest.approx(0.1), "the next plan starts from where the robot is"


def test_braking_into_a_hold_is_part_of_what_was_moved():
    """With limits a robot that is told to hold slides on; the plan goes on from there, not from where it was told."""
    limits = Limits.of(body(), velocity={"slide": 50.0}, acceleration={"slide": 5.0})
    schedule = started(alike(np.full(30, 0.1)), limits=limits)
    moved, slid = 0.0, False
    for tick in range(60):
        if schedule.left == 0:
            break
        command, sent = step(schedule, tick, hold=10 <= tick < 20)
        moved += float(sent[SLIDE])
        slid = slid or (command.hold == "told" and sent[SLIDE] > 0.01)
    assert slid
    assert moved == pytest.approx(3.0, abs=1e-4)


@pytest.mark.parametrize("how", ["replace", "blend", "ensemble"])
def test_grippers_are_switched_never_between(how):
    schedule = started(alike(np.zeros(12)), join=Join(how=how, ticks=6))
    grips = []
    for tick in range(16):
        if tick == 1:
            ticket = schedule.ask(tick)
        if tick == 4:
            schedule.deliver(ticket, chunk_of(alike([1, 1, 1, 1, 0, 1, 0, 0, 1, 0, 1, 1]), 1), tick)
        command, _ = step(schedule, tick, pace=0.7)
        grips.append(float(command.action[GRIPPER]))
        assert command.hold or grips[-1] == command.wanted[GRIPPER]
    assert set(grips) == {0.0, 1.0}


# ---- blend


TAKES = 0.6  # seconds of going over


def before(time):
    return np.sin(2 * time)


def after(time):
    return 0.5 * np.sin(2 * time + 0.4) + 0.3


def seam(how: str, ticks: int) -> tuple[float, np.ndarray, np.ndarray, np.ndarray]:
    """Tick length, places of the arm and of the slide around a join at 0, and the new path; two smooth paths."""
    tick = TAKES / ticks
    old, new = before(np.arange(-8, 1) * tick), after(np.arange(3 * ticks + 1) * tick)
    rest = np.zeros((3 * ticks, 4))
    rest[:, ARM], rest[:, SLIDE] = new[1:], np.diff(new)
    last = np.zeros((3, 4))
    last[:, ARM], last[:, SLIDE] = old[::-1][:3], np.diff(old)[::-1][:3]
    owed = np.array([0.0, new[0] - old[-1], 0.0, 0.0])
    sent = continued(rest, 0.0, Motion(tuple(last), owed), KINDS, Join(how=how, ticks=ticks)).astype(np.float64)
    return tick, np.r_[old, sent[:, ARM]], np.r_[old, old[-1] + np.cumsum(sent[:, SLIDE])], new[1:]


@pytest.mark.parametrize("part", [1, 2], ids=["absolute", "delta"])
def test_a_blend_is_continuous_in_position_velocity_and_acceleration(part):
    """The shorter the ticks, the smaller its differences; the third stays what the paths and the offset make of it."""
    e, v, a = before(0) - after(0), 2 - np.cos(0.4), 2 * np.sin(0.4)
    jerk = 60 * abs(e) / TAKES**3 + 36 * v / TAKES**2 + 9 * a / TAKES + 8  # of the quintic, and of the paths
    second = []
    for ticks in (10, 20, 40, 80):
        seamed = seam("blend", ticks)
        tick, places = seamed[0], seamed[part]
        assert np.abs(np.diff(places, 3)).max() / tick**3 < jerk, ticks
        second.append(np.abs(np.diff(places, 2)).max() / tick**2)
    assert max(second) < 1.1 * min(second), "the acceleration does not depend on the length of a tick"


def test_replacing_jumps_where_a_blend_does_not():
    offset = before(0) - after(0)
    for ticks in (10, 80):
        replaced, blended = seam("replace", ticks)[1], seam("blend", ticks)[1]
        assert np.abs(np.diff(replaced)).max() > abs(offset), "all of the offset in one tick"
        assert np.abs(np.diff(replaced, 2)).max() / np.abs(np.diff(blended, 2)).max() > 0.2 * ticks**2


@pytest.mark.parametrize("ticks", [1, 5, 20])
def test_a_blend_ends_exactly_on_the_new_path(ticks):
    _, arm, slide, new = seam("blend", ticks)
    assert np.array_equal(arm[9:][ticks - 1 :], new[ticks - 1 :].astype(np.float32))
    assert slide[9:][ticks - 1 :] == pytest.approx(new[ticks - 1 :], abs=1e-6)


def test_a_blend_begins_with_the_motion_of_the_robot():
    """The first command goes on by the last step and its change, whatever the new chunk says."""
    last = np.array([[4.0, 3.0, 0, 0], [1.0, 2.0, 0, 0], [0.0, 1.5, 0, 0]])
    for scale in (0.0, 1.0):
        rest = scale * np.random.default_rng(1).normal(size=(400, 4))
        sent = continued(rest, 0.0, Motion(tuple(last), np.zeros(4)), KINDS, Join(how="blend", ticks=300))
        assert sent[0, ARM] == pytest.approx(4 + 3 + 2, abs=0.1), "the step was 3, and 2 more than the one before"
        assert sent[0, SLIDE] == pytest.approx(3 + 1, abs=0.1)


def test_velocities_go_over_evenly():
    rest = alike(np.full(8, 1.0))
    last = np.full((3, 4), 3.0)
    sent = continued(rest, 0.0, Motion(tuple(last), np.zeros(4)), KINDS, Join(how="blend", ticks=4))
    assert sent[:, WHEEL].tolist() == [2.5, 2.0, 1.5, 1.0, 1.0, 1.0, 1.0, 1.0]


@pytest.mark.parametrize("length", [1, 2, 3])
def test_the_last_actions_of_a_chunk_are_blended_too(length):
    last = np.zeros((3, 4))
    sent = continued(alike(np.ones(length)), 0.0, Motion(tuple(last), np.zeros(4)), KINDS, Join(how="blend", ticks=4))
    assert sent.shape == (length, 4)
    assert 0.0 < sent[0, ARM] < 0.5
    free = continued(alike(np.ones(length)), 0.0, Motion((), np.zeros(4)), KINDS, Join(how="blend", ticks=4))
    assert np.array_equal(free, alike(np.ones(length))), "nothing was sent yet: there is nothing to go over from"


# ---- ensemble


@pytest.mark.parametrize("decay", [0.5, 0.0, -1.0])
def test_an_ensemble_is_the_weighted_mean(decay):
    oldest, old, new = alike([0, 1, 2, 3, 4, 5]), alike([10, 10, 10, 10]), alike([100, 200, 300])
    found = ensembled([(3.0, oldest), (2.4, old), (0.0, new)], KINDS, decay)
    w = np.exp(-decay * np.arange(3))  # the oldest first
    first = (w[0] * 3 + w[1] * 10 + w[2] * 100) / w.sum()
    second = (w[0] * 4 + w[1] * 10 + w[2] * 200) / w.sum()
    third = (w[0] * 5 + w[2] * 300) / (w[0] + w[2])  # the second chunk has nothing for this tick
    for each in (ARM, SLIDE, WHEEL):
        assert found[:, each] == pytest.approx([first, second, third], rel=1e-6)
    assert found[:, GRIPPER].tolist() == [100, 200, 300]


def test_an_ensemble_averages_several_replaced_chunks_tick_by_tick():
    """A chunk every two ticks, each a constant: what is sent is the mean of those that have an action for the tick."""
    schedule = Schedule(body(), execute_horizon=2, join=Join(how="ensemble", decay=0.3))
    schedule.reset(0)
    values = {tick: float(tick + 1) ** 2 for tick in range(0, 12, 2)}
    for tick in range(12):
        if tick in values:
            schedule.deliver(schedule.ask(tick), chunk_of(alike(np.full(7, values[tick])), tick), tick)
        held = [start for start in values if start <= tick < start + 7]
        weights = np.exp(-0.3 * np.arange(len(held)))
        expected = float(weights @ [values[start] for start in held] / weights.sum())
        assert step(schedule, tick)[0].action[ARM] == pytest.approx(expected, rel=1e-5), tick


def test_a_plan_that_was_parted_is_neither_averaged_nor_compared():
    schedule = Schedule(body(), execute_horizon=2, join=Join(how="ensemble", decay=0.0))
    schedule.reset(0)
    for tick, value in ((0, 1.0), (1, 3.0)):
        schedule.deliver(schedule.ask(tick), chunk_of(alike(np.full(7, value)), tick), tick)
        command, _ = step(schedule, tick)
    assert command.action[ARM] == 2.0
    assert schedule.overtaken[0].tick == 0
    schedule.part()
    schedule.deliver(schedule.ask(2), chunk_of(alike(np.full(7, 9.0)), 2), 2)
    assert (step(schedule, 2)[0].action[ARM], schedule.overtaken) == (9.0, None)
    schedule.deliver(schedule.ask(3), chunk_of(alike(np.full(7, 5.0)), 3), 3)
    assert step(schedule, 3)[0].action[ARM] == 7.0, "with the one since, and none before"
    assert schedule.overtaken[0].tick == 2


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"how": "blnd"}, "did you mean 'blend'"),
        ({"how": "blend", "ticks": 0}, "at least 1, got 0"),
        ({"ticks": -1}, "at least 0, got -1"),
        ({"decay": float("nan")}, "a finite number"),
    ],
)
def test_joins_that_mean_nothing_are_refused(bad, message):
    with pytest.raises((ContractError, UnknownNameError), match=message):
        Join(**bad)


# ---- what a policy is told that it is committed to


class Listening:
    """A policy that keeps what it was told, and goes on from where it is with chunks of its own."""

    def __init__(self, world: ExactWorld, horizon: int = 12) -> None:
        self.embodiment, self.horizon = world.embodiment, horizon
        self.told: dict[int, Committed | None] = {}

    def start(self, instruction, *, seed):
        return np.random.default_rng(seed)

    def predict(self, session, obs, *, committed=None, imagine=False):
        self.told[obs.tick] = committed
        actions = obs.state + np.cumsum(session.uniform(-0.05, 0.05, (self.horizon, 2)), axis=0)
        return session, Prediction(chunk=ActionChunk(
            actions=actions.astype(np.float32), anchor=obs.tick, period=self.embodiment.period, observed_at=obs.time
        ))  # fmt: skip


def committed_run(ms: float, *, kind="absolute", **config):
    world = ExactWorld(kind=kind, image_size=8, time_limit=6.0)
    policy, recorder = Listening(world), Recorder()
    run_episode(
        world,
        policy,
        world.tasks["reach-left"],
        seed=1,
        latency=LatencyProfile.constant(ms),
        config=LoopConfig(continue_plan=True, **config),
        subscribers=[recorder],
    )
    return policy, recorder.of(Ticked)


@pytest.mark.parametrize("join", ["replace", "blend", "ensemble"])
@pytest.mark.parametrize("delay", [0, 1, 3, 6])
def test_what_is_fixed_is_exactly_what_is_executed_meanwhile(delay, join):
    policy, ticked = committed_run(100 * delay, execute_horizon=4, join=Join(how=join))
    told = {tick: committed for tick, committed in policy.told.items() if committed and tick + delay < len(ticked)}
    assert len(told) >= 60 // max(delay, 4) - 3
    for tick, committed in told.items():
        assert committed.fixed == min(delay, len(committed.actions))
        assert 0 < len(committed.actions) <= policy.horizon, "as much as there is left of the plan"
        sent = [event.requested for event in ticked[tick : tick + committed.fixed]]
        assert np.array_equal(committed.actions[: committed.fixed], np.reshape(sent, (-1, 2)))
    assert policy.told[0] is None, "nothing is committed at the start"


def test_with_less_left_than_the_delay_all_of_it_is_fixed_and_with_nothing_left_there_is_none():
    policy, ticked = committed_run(800, execute_horizon=12)
    spent = [tick for tick in policy.told if tick and ticked[tick].hold]
    running = [tick for tick in policy.told if tick and not ticked[tick].hold]
    assert all(policy.told[tick] is None for tick in spent)
    assert running
    for tick in running:
        committed = policy.told[tick]
        assert committed.fixed == len(committed.actions) <= 8, "it is asked when it would be spent too soon"


def test_what_is_committed_on_a_slowed_path_is_on_that_path():
    schedule = started(np.repeat(np.arange(1, 9)[:, None], 4, axis=1))
    for tick in range(3):
        step(schedule, tick, pace=0.5)
    committed = schedule.committed(2)
    assert committed.actions[:, ARM].tolist() == [2.5, 3.5, 4.5, 5.5, 6.5, 7.5]
    assert committed.actions[:, SLIDE] == pytest.approx(np.arange(6) + 2.5), "half of each of two deltas"
    assert committed.fixed == 2


# ---- residual corrections


def corrected(residual, *, kind="absolute", limits=None, ticks=8) -> list[np.ndarray]:
    world = ExactWorld(kind=kind, image_size=8)
    schedule = Schedule(world.embodiment, residual=residual, limits=limits)
    schedule.reset(0)
    world.reset(world.tasks["reach-left"], seed=0)
    schedule.deliver(schedule.ask(0), chunk_of(np.full((ticks, 2), 0.02), 0), 0)
    sent = []
    for tick in range(ticks):
        obs = Observation(images={}, state=np.full(2, 0.001 * tick, np.float32), tick=tick, time=tick * PERIOD)
        sent.append(schedule.command(obs, tick).action)
        schedule.sent(sent[-1])
    return sent


@pytest.mark.parametrize("kind", ["absolute", "delta"])
@pytest.mark.parametrize("limited", [False, True])
def test_a_residual_is_added_to_the_action_of_each_tick(kind, limited):
    heard = []

    def residual(obs, action, index):
        heard.append((obs.tick, index, action.tolist()))
        return obs.state + np.float32(0.01)

    bounds = {"velocity": {"position": 20.0}, "acceleration": {"position": 900.0}} if limited else {}
    limits = Limits.of(ExactWorld(kind=kind, image_size=8).embodiment, **bounds)
    sent = corrected(residual, kind=kind, limits=limits)
    expected = [0.02 + 0.01 + 0.001 * tick for tick in range(8)]
    assert [float(action[0]) for action in sent] == pytest.approx(expected, abs=1e-6)
    assert heard == [(tick, tick, pytest.approx([0.02, 0.02])) for tick in range(8)]


@pytest.mark.parametrize("kind", ["absolute", "delta"])
def test_a_residual_stays_within_the_limits(kind):
    sent = corrected(lambda obs, action, index: np.full(2, 50.0, np.float32), kind=kind)
    assert {float(value) for action in sent for value in action} == {1.0 if kind == "absolute" else 0.0625}


@pytest.mark.parametrize(
    ("added", "message"),
    [
        (np.zeros(3, np.float32), r"expected shape \(2,\), got \(3,\)"),
        (np.float32(0.1), r"got \(\)"),
        (np.zeros((1, 2), np.float32), r"got \(1, 2\)"),
        (None, r"got \(\)"),
        (np.array([0.0, np.nan], np.float32), "not finite"),
        (np.array([1, 0]), "expected floating point"),
    ],
)
def test_a_residual_of_the_wrong_form_is_an_error_that_names_the_tick(added, message):
    def residual(obs, action, index):
        return added if obs.tick == 3 else np.zeros(2, np.float32)

    with pytest.raises(ContractError, match=f"tick 3: residual.*{message}"):
        corrected(residual)
