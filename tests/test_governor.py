"""The governor: whatever it is asked for, what it sends keeps the limits, stays in the box and can come to rest."""

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from actloop.contracts import Embodiment, Part, Space
from actloop.errors import ContractError, UnknownNameError
from actloop.loop.governor import Governed, Governor, Limits
from actloop.loop.governor.axes import Axes
from actloop.loop.governor.braking import brake, ease, solve, travel
from actloop.loop.governor.limits import Grid
from actloop.loop.path import Kinds, Path

CAREFUL = settings(deadline=None, database=None, max_examples=80)
STEP = 0.02  # of the named cases, in m per tick at 20 Hz: 0.4 m/s


def body(kind="absolute", size=2, hz=20.0, low=-1.0, high=1.0, gripper=False, step=0.1):
    bound = (low, high) if kind == "absolute" else (-step, step)
    parts = [Part(name="position", unit="m", low=(bound[0],) * size, high=(bound[1],) * size, kind=kind)]
    if gripper:
        parts.append(Part(name="gripper", unit="1", low=(0.0,), high=(1.0,), neutral=(0.0,)))
    state = Part(name="position", unit="m", low=(low,) * size, high=(high,) * size)
    return Embodiment(
        name="body", cameras=(), state=Space(parts=(state,)), action=Space(parts=tuple(parts)), control_hz=hz
    )


def limits(robot, **changes):
    return Limits.of(robot, **({"velocity": {"position": 0.5}, "acceleration": {"position": 2.0}} | changes))


TIGHT = {"jerk": {"position": 20.0}}


class Robot:
    """Follows what it is told exactly, and remembers it."""

    def __init__(self, robot, bounds, start=None):
        self.bounds = bounds
        self.body, self.governor, self.kinds = robot, Governor(robot, bounds), Kinds.of(robot)
        size = robot.state.size
        self.start = np.zeros(size) if start is None else np.asarray(start, dtype=np.float64)
        self.state = self.start.copy()
        self.last = np.zeros(robot.action.size, dtype=np.float32)
        if robot.action.parts[0].kind == "absolute":
            self.last[:size] = self.start
        self.ticks: list[Governed] = []

    def path(self, actions):
        return Path(np.asarray(actions, dtype=np.float32), self.last, self.kinds)

    def tick(self, path, at=0.0, **options):
        options.setdefault("state", self.state.astype(np.float32))
        governed = self.governor.govern(path, at, **options)
        assert governed.action.dtype == np.float32
        assert 0.0 <= governed.pace <= 1.0
        self.ticks.append(governed)
        self.last = governed.action
        self.governor.sent(governed.action)
        arm = governed.action[: len(self.state)].astype(np.float64)
        kind = self.body.action.parts[0].kind
        self.state = arm if kind == "absolute" else self.state + (arm if kind == "delta" else 0.0)
        return governed

    def follow(self, path, at=0.0, most=2000, **options):
        """To the end of the path; the progress of a loop is exactly the sum of the paces."""
        for _ in range(most):
            if at >= len(path) - 1e-9:
                return
            at += self.tick(path, at, pace=min(1.0, len(path) - at), **options).pace
            at = float(round(at)) if abs(at - round(at)) < 1e-9 else at
        raise AssertionError(f"stuck at {at} of {len(path)}")

    def hold(self, ticks=1, at=None):
        held = self.last.copy() if at is None else np.asarray(at, dtype=np.float32)
        for _ in range(ticks):
            if at is None:
                held = np.where(self.kinds.absolute, self.last, 0.0).astype(np.float32)
            self.tick(None, hold=held)

    def rest(self, most=3000):
        """Hold until it no longer moves."""
        for _ in range(most):
            before = self.state, self.last
            self.hold()
            still = np.array_equal(before[0], self.state) and np.array_equal(before[1], self.last)
            if still and (self.kinds.absolute | (self.last == 0)).all():
                return
        raise AssertionError("never came to rest")

    @property
    def actions(self):
        return np.array([tick.action[: len(self.state)] for tick in self.ticks], dtype=np.float64)

    def motion(self):
        """Velocity, acceleration and jerk of what was sent, from rest at the start."""
        kind, period, sent = self.body.action.parts[0].kind, self.body.period, self.actions
        if kind == "absolute":
            velocity = np.diff(np.concatenate([np.tile(self.start, (3, 1)), sent]), axis=0) / period
        else:
            velocity = np.concatenate([np.zeros((2, sent.shape[1])), sent]) / (period if kind == "delta" else 1.0)
        acceleration = np.diff(velocity, axis=0) / period
        return velocity, acceleration, np.diff(acceleration, axis=0) / period

    def check(self):
        """The guarantees."""
        for name, values in zip(("velocity", "acceleration", "jerk"), self.motion(), strict=True):
            limit = getattr(self.bounds, name).get("position")
            if limit is not None:
                assert np.abs(values).max() <= limit[0] * (1 + 1e-6), name
        for tick in self.ticks:
            assert (tick.action >= self.body.action.low).all()
            assert (tick.action <= self.body.action.high).all()


def robot(*args, bounds=None, start=None, **kwargs):
    """A robot with the limits of the named cases."""
    made = body(*args, **kwargs)
    given_bounds = limits(made, **TIGHT) if bounds is None else bounds(made)
    return Robot(made, given_bounds, start)


def line(count, step=STEP, start=(0.0, 0.0)):
    return [(start[0] + step * (index + 1), start[1]) for index in range(count)]


# Whatever comes: the guarantees


@st.composite
def limited(draw):
    """Numbers for a body and its limits, at any rate and scale."""
    velocity = 10 ** draw(st.floats(-1, 0.5))
    acceleration = velocity * 10 ** draw(st.floats(-0.5, 1.5))
    scale = {"velocity": velocity, "acceleration": acceleration}
    scale["jerk"] = acceleration * 10 ** draw(st.floats(-0.5, 2))
    used = draw(st.sets(st.sampled_from(sorted(scale)), min_size=1))
    return {
        "kind": draw(st.sampled_from(["absolute", "delta", "velocity"])),
        "hz": draw(st.sampled_from([5.0, 20.0, 50.0, 200.0])),
        "size": draw(st.integers(1, 3)),
        "gripper": draw(st.booleans()),
        "pace": velocity,
        "step": draw(st.sampled_from([0.5, 2.0])) * velocity,
        "bounds": {name: {"position": scale[name]} for name in sorted(used)},
        "boxed": draw(st.booleans()),
    }


def built(case):
    """The body and limits of the numbers, where float32 commands can keep them."""
    kind, hz, bounds = case["kind"], case["hz"], dict(case["bounds"])
    step = case["step"] / (hz if kind == "delta" else 1.0)
    made = body(kind, case["size"], hz, gripper=case["gripper"], step=step)
    if kind != "velocity" and case["boxed"]:
        bounds |= {"low": {"position": -0.6}, "high": {"position": 0.7}}
    try:
        return made, Limits.of(made, **bounds), case["pace"]
    except ContractError:
        return assume(False)


def wild(rng, robot, pace):
    """A chunk: noise, a straight line, or a smooth curve, somewhere; of any speed."""
    size, horizon = len(robot.state), int(rng.integers(1, 20))
    kind = robot.body.action.parts[0].kind
    scale = pace * 10 ** rng.uniform(-1, 1) * (1.0 if kind == "velocity" else robot.body.period)
    steps = rng.normal(size=(horizon, size)) * scale
    shape = rng.integers(3)
    if shape == 1:
        steps = np.tile(steps[0], (horizon, 1))
    elif shape == 2:
        steps = np.cumsum(steps, axis=0) * 0.3
    if kind == "absolute":
        steps = robot.last[:size] + np.cumsum(steps, axis=0) + (rng.normal(size=size) * 0.3 * (rng.random() < 0.3))
    grips = rng.integers(0, 2, (horizon, robot.body.action.size - size))
    return robot.path(np.concatenate([steps, grips], axis=1)), rng.uniform(0, horizon) * (rng.random() < 0.3)


@CAREFUL
@given(limited(), st.integers(0, 2**32 - 1), st.lists(st.sampled_from("ffffsshjc"), min_size=1, max_size=10))
def test_whatever_is_asked_for_stays_within_limits_and_comes_to_rest(case, seed, events):
    made, bounds, pace = built(case)
    rng = np.random.default_rng(seed)
    follower = Robot(made, bounds, rng.uniform(-0.55, 0.65, made.state.size).astype(np.float32))
    path, at = None, 0.0
    for event in events:
        if path is None or event == "j":
            path, at = wild(rng, follower, pace)
        for _ in range(int(rng.integers(1, 12))):
            if event == "h" or at >= len(path):
                follower.hold()
                continue
            options = {"pace": float(rng.random()) if event == "s" else 1.0}
            if event == "c":
                options["correction"] = (rng.normal(size=made.action.size) * pace * made.period).astype(np.float32)
            if rng.random() < 0.3:
                options["state"] = follower.state.astype(np.float32) if not follower.ticks else None
            at += follower.tick(path, at, **options).pace
    box = follower.bounds.low or made.action.parts[0].kind == "delta"
    low, high = (-0.6, 0.7) if follower.bounds.low else (-1.0, 1.0)
    if box:
        assert (follower.state >= low - 1e-6).all()
        assert (follower.state <= high + 1e-6).all()
    follower.rest()
    follower.check()
    if box:
        assert (follower.state >= low - 1e-6).all()
        assert (follower.state <= high + 1e-6).all()


@CAREFUL
@given(st.integers(0, 2**32 - 1), st.sampled_from(["absolute", "delta", "velocity"]), st.booleans())
def test_without_limits_it_sends_the_path_itself(seed, kind, gripper):
    rng = np.random.default_rng(seed)
    made = body(kind, gripper=gripper)
    follower = Robot(made, Limits.none())
    actions = made.action.clip(rng.normal(size=(6, made.action.size)) * 0.05)
    path = follower.path(actions)
    for index in range(6):
        governed = follower.tick(path, float(index))
        assert np.array_equal(governed.action, actions[index])
        assert (governed.pace, governed.reasons) == (1.0, ())
    assert np.array_equal(follower.tick(path, 2.5, pace=0.25).action, path.action(2.5, 0.25))


# Along the path


def test_a_straight_line_within_limits_is_sent_bit_for_bit():
    follower = robot(bounds=lambda made: limits(made, acceleration={"position": 10.0}))
    actions = np.array(line(20), dtype=np.float32)
    follower.follow(follower.path(actions))
    assert np.array_equal(follower.actions, actions)
    assert all(tick.reasons == () and tick.off_path == 0.0 for tick in follower.ticks)


def test_a_line_at_the_very_limit_is_sent_bit_for_bit():
    follower = robot(bounds=lambda made: Limits.of(made, velocity={"position": 0.5}))
    actions = np.array(line(20, 0.025), dtype=np.float32)
    follower.follow(follower.path(actions))
    assert np.array_equal(follower.actions, actions)


def test_a_smooth_motion_within_limits_is_not_touched():
    time = np.arange(1, 61) / 60
    ease_in = 10 * time**3 - 15 * time**4 + 6 * time**5
    follower = robot(hz=50.0, bounds=lambda made: limits(made, jerk={"position": 40.0}))
    actions = (ease_in[:, None] * [0.2, -0.1]).astype(np.float32)
    path = follower.path(actions)
    follower.follow(path)
    follower.check()
    assert np.array_equal(follower.actions, actions)


def corner():
    return np.array(line(10) + [(10 * STEP, STEP * (index + 1)) for index in range(10)], dtype=np.float32)


def test_a_corner_is_slowed_before_and_never_left():
    follower = robot()
    path = follower.path(corner())
    raw = np.diff(np.concatenate([np.zeros((3, 2)), corner().astype(float)]), n=2, axis=0) * 20.0**2
    assert np.abs(raw).max() > 2.0  # as asked, it breaks the limits
    follower.follow(path)
    follower.check()
    end = np.float64(np.float32(10 * STEP))
    sent = follower.actions[:-1]  # in the last tick the path ends before the robot does
    beside = np.where(sent[:, 0] < end, np.abs(sent[:, 1]), np.abs(sent[:, 0] - end))
    assert beside.max() < 1e-9
    assert max(tick.off_path for tick in follower.ticks[:-1]) < 1e-9
    assert any("ahead" in tick.reasons for tick in follower.ticks)
    slowest = min(follower.ticks[3:-1], key=lambda tick: tick.pace)
    assert slowest.pace < 0.25
    assert max(tick.pace for tick in follower.ticks) == 1.0


@pytest.mark.parametrize("hz", [20.0, 50.0, 200.0])
def test_a_curve_that_is_too_fast_is_followed_slower_on_itself(hz):
    time = np.arange(1, int(0.6 * hz) + 1) / (0.6 * hz)
    ease_in = 10 * time**3 - 15 * time**4 + 6 * time**5
    curve = ease_in[:, None] * [0.3, 0.2] + 0.05 * np.sin(2 * np.pi * ease_in)[:, None] * [0.0, 1.0]
    made = body(hz=hz)
    bounds = Limits.of(made, velocity={"position": 1.0}, acceleration={"position": 3.0}, jerk={"position": 60.0})
    follower = Robot(made, bounds)
    path = follower.path(curve)
    follower.follow(path)
    follower.check()
    assert max(tick.off_path for tick in follower.ticks) < 1e-3
    assert len(follower.ticks) < 3.2 * len(path)  # twice the time is what the acceleration alone asks for


def test_a_jump_of_the_target_is_approached_within_limits():
    follower = robot()
    path = follower.path([(0.5, 0.3)] * 5)
    first = follower.tick(path)
    assert first.pace < 1
    assert set(first.reasons) >= {"velocity", "acceleration", "jerk"}
    follower.follow(path, first.pace)
    follower.hold(40, at=(0.5, 0.3))
    follower.check()
    assert np.allclose(follower.state, (0.5, 0.3), atol=1e-6)


def test_a_join_at_speed_that_does_not_meet_the_path_comes_back_to_it():
    follower = robot()
    straight = follower.path(line(30))
    at = 0.0
    for _ in range(15):
        at += follower.tick(straight, at).pace
    here = follower.last.astype(float)
    other = follower.path(here + 0.012 * np.arange(1, 41)[:, None])
    at = 0.0
    for _ in range(30):
        at += follower.tick(other, at, pace=min(1.0, 40 - at)).pace
    follower.check()
    assert max(tick.off_path for tick in follower.ticks) > 1e-4
    assert follower.ticks[-1].off_path < 1e-9


def test_reversing_stops_first():
    follower = robot()
    there = line(10)
    back = [*there[-2::-1], (0.0, 0.0)]
    follower.follow(follower.path(there + back))
    follower.rest()
    follower.check()
    assert follower.actions[:, 0].max() == pytest.approx(10 * STEP, abs=2e-3)  # between two ticks
    assert follower.actions[:, 0].max() <= np.float32(10 * STEP)


def test_the_loop_may_ask_for_less_pace_and_more_again():
    follower = robot()
    path, at, paces = follower.path(line(60)), 0.0, []
    for index in range(60):
        asked = 0.25 if 20 <= index < 40 else 1.0
        governed = follower.tick(path, at, pace=min(asked, len(path) - at))
        at, paces = at + governed.pace, [*paces, governed.pace]
    follower.check()
    assert paces[35] == pytest.approx(0.25)
    assert paces[19] == 1.0
    assert paces[55] == 1.0
    assert all(tick.off_path < 1e-9 for tick in follower.ticks)


# Holding


def moving(**options):
    follower = robot(**options)
    path, at = follower.path(line(40)), 0.0
    for _ in range(18):
        at += follower.tick(path, at).pace
    assert follower.ticks[-1].pace == 1.0
    return follower, path, at


def test_a_sudden_hold_brakes_within_limits_and_rests():
    follower, _, _ = moving()
    before = follower.state.copy()
    follower.hold(20)
    follower.check()
    assert follower.ticks[18].reasons == ("brake",)
    assert follower.ticks[18].pace == 0.0
    assert follower.ticks[-1].reasons == ()
    assert np.array_equal(follower.ticks[-1].action, follower.ticks[-2].action)
    assert 0 < follower.state[0] - before[0] < 0.1


def test_a_hold_in_a_corner_brakes_along_the_path():
    follower = robot()
    path, at = follower.path(corner()), 0.0
    while at < 8.5:
        at += follower.tick(path, at).pace
    follower.rest()
    follower.check()
    end = np.float64(np.float32(10 * STEP))
    assert np.where(follower.actions[:, 0] < end, np.abs(follower.actions[:, 1]), 0.0).max() < 1e-9
    assert follower.actions[:, 0].max() <= end


def test_a_hold_somewhere_else_is_gone_to_after_the_stop():
    follower, _, _ = moving()
    follower.hold(80, at=(0.1, 0.2))
    follower.check()
    assert np.allclose(follower.state, (0.1, 0.2), atol=1e-6)


def test_without_anything_to_hold_it_stops():
    follower, _, _ = moving()
    for _ in range(20):
        follower.tick(None)
    follower.check()
    assert np.array_equal(follower.ticks[-1].action, follower.ticks[-2].action)


def test_a_path_is_taken_up_again_after_a_hold():
    follower, path, at = moving()
    follower.rest()
    follower.follow(path, at)
    follower.rest()
    follower.check()


# The box


def test_a_stop_always_fits_into_the_box():
    follower = robot(start=(0.8, 0.0))
    path = follower.path([(0.8 + STEP * (index + 1), 0.0) for index in range(30)])
    follower.follow(path)
    follower.rest()
    follower.check()
    assert follower.state[0] == pytest.approx(1.0, abs=1e-6)
    assert follower.actions.max() <= 1.0
    assert any("box" in tick.reasons for tick in follower.ticks)


def test_an_action_beyond_the_space_is_clipped_and_said():
    for bounds in (lambda made: Limits.none(), lambda made: Limits.of(made, high={"position": 1.0})):
        follower = robot(bounds=bounds)
        governed = follower.tick(follower.path([(1.5, 0.5)]))
        assert np.array_equal(governed.action, np.array([1.0, 0.5], dtype=np.float32))
        assert governed.reasons == ("box",)


def test_a_tighter_box_is_the_limits_own():
    follower = robot(bounds=lambda made: limits(made, high={"position": (0.1, 0.2)}))
    follower.follow(follower.path([(0.5, 0.5)] * 30))
    follower.rest()
    follower.check()
    assert np.allclose(follower.state, (0.1, 0.2), atol=1e-6)
    assert (follower.actions <= np.array([0.1, 0.2]) + 1e-9).all()


def test_deltas_stop_at_the_edge_of_the_box_and_come_back():
    follower = robot("delta", start=(0.9, 0.0))
    follower.follow(follower.path([(STEP, 0.0)] * 20))
    follower.rest()
    assert follower.state[0] == pytest.approx(1.0, abs=1e-6)
    assert follower.state[0] <= 1.0 + 1e-7
    follower.follow(follower.path([(-STEP, 0.0)] * 20))
    follower.check()
    assert follower.state[0] < 0.7


def test_a_robot_measured_outside_its_box_is_led_back_within_limits():
    follower = robot(start=(1.05, 0.0))
    follower.follow(follower.path([(0.9, 0.0)] * 20))
    velocity, acceleration, jerk = follower.motion()
    assert np.abs(velocity).max() <= 0.5 * (1 + 1e-6)
    assert np.abs(acceleration).max() <= 2 * (1 + 1e-6)
    assert np.abs(jerk).max() <= 20 * (1 + 1e-6)
    assert np.diff(follower.actions[:, 0]).max() <= 1e-6
    assert follower.state[0] < 1.0


# Deltas, velocities, grippers, corrections


def test_nothing_of_the_deltas_is_lost_by_slowing_down():
    rng = np.random.default_rng(3)
    actions = (np.cumsum(rng.normal(size=(30, 2)), axis=0) * 0.004).astype(np.float32)
    follower = robot("delta", bounds=lambda made: limits(made, acceleration={"position": 1.0}, **TIGHT))
    path = follower.path(actions)
    follower.follow(path)
    assert len(follower.ticks) > 33
    sent, meant = follower.actions.sum(axis=0), actions.astype(float).sum(axis=0)
    assert np.abs(sent - meant).max() <= follower.ticks[-1].off_path + 1e-7
    follower.rest()
    follower.check()


def test_what_deltas_are_behind_is_made_up_once():
    follower = robot("delta", bounds=lambda made: Limits.of(made, velocity={"position": 0.5}))
    path = follower.path([(0.01, 0.0)] * 20)
    follower.tick(path, 0.0, correction=np.array([0.005, 0.0], dtype=np.float32))
    follower.follow(path, 1.0)
    assert follower.state[0] == pytest.approx(0.205, abs=1e-6)


def test_a_correction_of_a_target_is_for_its_tick():
    follower = robot(bounds=lambda made: Limits.of(made, velocity={"position": 1.0}))
    path = follower.path(line(10))
    follower.tick(path, 0.0, correction=np.array([0.0, 0.01], dtype=np.float32))
    assert follower.state[1] == pytest.approx(0.01)
    follower.tick(path, 1.0)
    assert follower.state[1] == 0.0


def test_velocities_are_limited_themselves():
    follower = robot("velocity", step=2.0)
    follower.follow(follower.path([(0.4, -0.2)] * 20))
    follower.hold(20)
    follower.check()
    assert np.abs(follower.actions[:20]).max() == pytest.approx(0.4, abs=1e-6)
    assert np.array_equal(follower.actions[-1], (0.0, 0.0))


def test_a_gripper_never_slows_the_arm():
    actions = np.array([(*point, index % 2) for index, point in enumerate(line(20))], dtype=np.float32)
    fast = {"acceleration": {"position": 10.0}}
    for gripper in ({}, {"velocity": {"position": 0.5, "gripper": 2.0}}):
        follower = robot(gripper=True, bounds=lambda made, gripper=gripper: limits(made, **fast | gripper))
        follower.follow(follower.path(actions))
        assert np.array_equal(follower.actions, actions[:, :2])
        assert [tick.pace for tick in follower.ticks] == [1.0] * 20
        sent = np.array([tick.action[2] for tick in follower.ticks])
        if gripper:
            assert np.abs(np.diff(sent, prepend=0.0)).max() <= 0.1 * (1 + 1e-6)
            assert any("velocity" in tick.reasons for tick in follower.ticks)
        else:
            assert np.array_equal(sent, actions[:, 2])


def test_a_gripper_is_switched_however_slow_the_arm_is():
    follower = robot(gripper=True)
    actions = [(*point, float(index >= 5)) for index, point in enumerate(line(10))]
    follower.follow(follower.path(actions))
    assert {float(tick.action[2]) for tick in follower.ticks} == {0.0, 1.0}


# What a world does with it


def test_it_goes_on_from_what_was_really_sent():
    follower, path, at = moving()
    other = follower.last - np.array([0.05, 0.0], dtype=np.float32)
    follower.governor.sent(other)
    governed = follower.governor.govern(path, at)
    assert abs(float(governed.action[0] - other[0])) <= 0.5 / 20 * (1 + 1e-6)


def test_reset_forgets_the_motion():
    follower, _, _ = moving()
    follower.governor.reset()
    there = np.array([0.3, 0.3], dtype=np.float32)
    governed = follower.governor.govern(None, 0.0, hold=there, state=there)
    assert np.array_equal(governed.action, there)
    assert governed.reasons == ()


def test_after_a_reset_the_same_path_begins_from_rest():
    follower, path, _ = moving(bounds=lambda made: limits(made, acceleration={"position": 10.0}))
    follower.governor.reset()
    there = np.array([0.9, 0.9], dtype=np.float32)
    governed = follower.governor.govern(path, 10.0, state=there)
    assert np.abs(governed.action - there).max() <= 0.5 / 20


def test_deltas_are_anchored_where_they_are_measured_while_at_rest():
    follower = robot("delta", start=(0.0, 0.0))
    follower.rest()
    follower.state = np.array([0.95, 0.0])  # somebody pushed it
    follower.follow(follower.path([(STEP, 0.0)] * 10))
    follower.rest()
    assert follower.state[0] <= 1.0 + 1e-7


# What it refuses


def test_broken_numbers_are_refused():
    made = body()
    governor = Governor(made, limits(made))
    nan, state = np.array([np.nan, 0.0], dtype=np.float32), np.zeros(2, dtype=np.float32)
    good = Path(np.zeros((3, 2), np.float32), state, Kinds.of(made))
    bad = Path(np.array([[0.0, 0.0], [np.nan, 0.0]]), state, Kinds.of(made))
    for options in (
        {"path": bad, "state": state},
        {"path": good, "state": nan},
        {"path": good, "state": state, "correction": nan},
        {"path": None, "state": state, "hold": nan},
        {"path": good, "state": np.zeros(3, np.float32)},
        {"path": good, "state": state, "pace": 1.5},
        {"path": good, "state": state, "pace": math.nan},
    ):
        with pytest.raises(ContractError):
            governor.govern(options.pop("path"), 0.0, **options)
    with pytest.raises(ContractError):
        governor.govern(good, -1.0, state=state)
    governor.govern(good, 0.0, state=state)
    with pytest.raises(ContractError, match="sent"):
        governor.sent(nan)


def test_limits_are_checked_against_the_body():
    made = body()
    with pytest.raises(UnknownNameError, match="did you mean 'position'"):
        Limits.of(made, velocity={"positions": 1.0})
    for bad in (-1.0, 0.0, math.nan, (1.0,), (1.0, 2.0, 3.0)):
        with pytest.raises(ContractError):
            Limits.of(made, velocity={"position": bad})
    with pytest.raises(ContractError, match="empty"):
        Limits.of(made, low={"position": 0.5}, high={"position": 0.4})
    with pytest.raises(ContractError, match="finer than float32"):
        Limits.of(body(hz=500.0), jerk={"position": 1.0})
    with pytest.raises(ContractError, match="no position"):
        Limits.of(body("velocity"), low={"position": 0.0})
    with pytest.raises(UnknownNameError):
        Governor(made, Limits.of(body(gripper=True), velocity={"gripper": 1.0}))
    with pytest.raises(UnknownNameError):
        Limits.from_dict({"velocities": {}})


def test_limits_survive_json():
    made = body()
    bounds = Limits.of(made, velocity={"position": (0.5, None)}, jerk={"position": 20.0}, high={"position": 0.5})
    assert Limits.from_dict(json.loads(json.dumps(bounds.to_dict()))) == bounds
    assert Limits.from_dict(Limits.none().to_dict()) == Limits.none()


# The stop itself


def stop(speed, acceleration, most, jerk):
    """The quickest stop, tick by tick: its positions."""
    positions, position, speed, acceleration = [], 0.0, np.array([speed]), np.array([acceleration])
    while abs(speed[0]) > 1e-13 or abs(acceleration[0]) > 1e-13:
        acceleration = brake(speed, acceleration, np.array([most]), np.array([jerk]))
        speed = speed + acceleration
        position += float(speed[0])
        positions.append(position)
        assert len(positions) < 20000
    return positions or [0.0]


@CAREFUL
@given(st.floats(-2, 1), st.floats(-1, 1), st.floats(-1, 1), st.floats(-1, 1), st.floats(-1, 1))
def test_how_far_a_stop_goes_is_known_in_closed_form(scale, ratio, reach, speed, acceleration):
    jerk = 10.0**scale
    most = jerk * 10.0**ratio
    jerk = min(jerk, 2 * most)
    speed, acceleration = speed * most * 10.0**reach, acceleration * most
    positions = stop(speed, acceleration, most, jerk)
    rest, farthest = travel(speed, acceleration, most, jerk)
    room = 1e-9 * (1 + max(map(abs, positions)))
    assert rest == pytest.approx(positions[-1], abs=room)
    assert farthest == pytest.approx(max(0.0, *positions), abs=room)
    assert travel(-speed, -acceleration, most, jerk)[0] == pytest.approx(-rest, abs=room)


def test_a_stop_ends_exactly_at_rest():
    for speed, acceleration in itertools.product((-3.0, 0.1, 2.0), (-1.0, 0.0, 1.0)):
        assert len(stop(speed, acceleration, 1.0, 0.3)) < 20
    assert ease(np.array([0.6]), np.array([0.2])) == pytest.approx(0.4)  # 0.4 + 0.2 = 0.6


def test_solving_keeps_to_the_safe_side():
    found = solve(lambda x: x**3 - 2.0, 0.0, 5.0, 1e-9)
    assert found == pytest.approx(2 ** (1 / 3), abs=1e-2)
    assert found**3 <= 2.0 + 1e-9
    assert solve(lambda x: x - 9.0, 0.0, 5.0, 1e-9) == 5.0
    assert solve(lambda x: x + 1.0, 0.0, 5.0, 1e-9) == 0.0


def test_a_next_step_is_always_open():
    made = body()
    axes = Axes(Grid.of(made, limits(made, **TIGHT)))
    axes.rest(np.zeros(2), boxed=np.array([True, True]))
    for _ in range(200):
        axes.look()
        assert (axes.least <= axes.most).all()
        axes.move(axes.speed + np.where([True, False], axes.most, axes.least))
    assert np.allclose(axes.position, (1.0, -1.0), atol=1e-6)
    assert np.allclose(axes.speed, 0.0, atol=1e-9)
