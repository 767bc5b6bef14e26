"""Faults: in words and JSON, on schedule and by seed, and worlds that keep their promises while they happen."""

import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actloop.contracts import Demonstrator, Disturbable, ForceSensing, Observation, Task, World
from actloop.errors import ContractError, UnknownNameError
from actloop.simulation.exact import ExactWorld
from actloop.simulation.faults import (
    KINDS,
    Disturbed,
    Eventful,
    Fault,
    FaultKind,
    Moment,
    fault_from_dict,
    incident_from_dict,
    parse_fault,
    parse_faults,
)
from actloop.testing.conformance import check_world

needs_mujoco = pytest.mark.skipif(importlib.util.find_spec("mujoco") is None, reason="the extra 'simulation' is absent")
STILL = Task(name="reach-left", instruction="move the red point to the green goal on the left", time_limit=50.0)


def exact(*faults: str, **options: Any) -> Disturbed:
    return Disturbed(ExactWorld(**options), parse_faults(faults))


def watch(world: World, ticks: int, *, seed: int = 3, task: Task = STILL, step: float = 0.0) -> list[Observation]:
    """What is sensed in ticks 0 to `ticks`, under one command that keeps the point inside."""
    seen = [world.reset(task, seed=seed)]
    for tick in range(ticks):
        size = world.embodiment.action.size
        world.apply(np.full(size, step * (-1) ** (tick // 4), dtype=np.float32))
        seen.append(world.observe())
    return seen


def same(one: Observation, other: Observation) -> bool:
    pictures = all(np.array_equal(one.images[name], other.images[name]) for name in one.images)
    return bool(pictures and np.array_equal(one.state, other.state)) and (one.tick, one.time) == (
        other.tick,
        other.time,
    )


# In words


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("displace@20", Fault(kind="displace", at=20)),
        ("slip@grasp", Fault(kind="slip", at="grasp")),
        ("freeze:front@15+10", Fault(kind="freeze", at=15, target="front", duration=10)),
        ("displace@15-30", Fault(kind="displace", at=(15, 30))),
        ("push@half-way~10", Fault(kind="push", at="half-way", patience=10)),
        ("noise:position@0=0.05", Fault(kind="noise", at=0, target="position", strength=0.05)),
        ("black:wrist@3-5+2=0.25", Fault(kind="black", at=(3, 5), target="wrist", duration=2, strength=0.25)),
    ],
)
def test_a_fault_in_words(text: str, fault: Fault) -> None:
    assert parse_fault(text) == fault
    assert fault.text == text
    assert fault_from_dict(fault.to_dict()) == fault
    assert fault_from_dict(text) == fault


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(sorted(KINDS)),
    st.integers(0, 999)
    | st.tuples(st.integers(0, 99), st.integers(99, 999))
    | st.from_regex(r"[a-z][a-z-]*", fullmatch=True),
    st.none() | st.integers(1, 99),
    st.none() | st.floats(1e-12, 1e12),
    st.integers(0, 99),
)
def test_every_fault_comes_back_from_its_words(
    kind: str, at: Any, duration: int | None, strength: float | None, patience: int
) -> None:
    duration = None if KINDS[kind].on == "world" else duration
    strength = None if KINDS[kind].strength is None else strength
    if KINDS[kind].late and strength is not None:
        strength = float(max(1, round(strength)))
    fault = Fault(kind=kind, at=at, duration=duration, strength=strength, patience=patience)
    assert parse_fault(fault.text) == fault
    assert fault_from_dict(fault.to_dict()) == fault


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("displace", "say when: displace@20.*such as"),
        ("", "expected KIND"),
        ("displce@20", "did you mean 'displace'"),
        ("displace@", "expected KIND"),
        ("displace@-3", "expected a tick, two ticks as 15-30, or an event, got '-3'"),
        ("displace@2.5", "expected a tick"),
        ("displace@30-15", "the earlier one first"),
        ("displace@20+5", "happens at once; leave out the duration of 5"),
        ("displace@20=2", "no strength to vary; leave out 2.0"),
        ("displace:front@20", "falls on no single camera or part; leave out 'front'"),
        ("freeze@5+", "after '[+]': expected a number of ticks, got ''"),
        ("freeze@5+0", "at least 1 tick"),
        ("freeze@5+ten", "expected a number of ticks, got 'ten'"),
        ("blur@5=much", "expected a number for the strength, got 'much'"),
        ("blur@5=-1", "expected a positive number"),
        ("blur@5=nan", "expected a positive number"),
        ("delay@5=2.5", "a whole number of ticks, got 2.5"),
        ("late:front@5", "falls on no single camera or part; leave out 'front'"),
        ("push@5~soon", "ticks of patience, got 'soon'"),
    ],
)
def test_a_wrong_word_is_explained(text: str, says: str) -> None:
    with pytest.raises(ContractError, match=says) as raised:
        parse_fault(text)
    assert repr(text) in str(raised.value)


@pytest.mark.parametrize(
    ("plain", "says"),
    [
        ({"kind": "freeze"}, "misses 'at'"),
        ({"at": 3}, "misses 'kind'"),
        ({"kind": "freeze", "at": 3, "durtion": 4}, "did you mean 'duration'"),
        ({"kind": "freeze", "at": 3.5}, "a tick of 0 or more, got 3.5"),
        ({"kind": "freeze", "at": True}, "a tick of 0 or more, got True"),
        ({"kind": "freeze", "at": [3, 4, 5]}, "expected two ticks"),
        ({"kind": "freeze", "at": 3, "duration": "4"}, "at least 1 tick, got '4'"),
        ({"kind": "blur", "at": 3, "strength": "4"}, "positive number, got '4'"),
        ({"kind": "blur", "at": 3, "patience": -1}, "0 ticks or more"),
    ],
)
def test_a_wrong_table_is_explained(plain: dict[str, Any], says: str) -> None:
    with pytest.raises(ContractError, match=says):
        fault_from_dict(plain)
    assert fault_from_dict({"kind": "freeze", "at": "15-30"}).at == (15, 30)


def test_what_the_world_does_not_have_is_refused() -> None:
    for text, near in (
        ("freeze:frnt@3", "'front'"),
        ("noise:positon@3", "'position'"),
        ("slip@3", "'displace'|displace"),
    ):
        with pytest.raises(UnknownNameError, match=near):
            exact(text)
    with pytest.raises(UnknownNameError, match="half-way"):
        exact("displace@grasp")
    mute = Mute()
    with pytest.raises(ContractError, match="cannot disturb itself"):
        Disturbed(mute, parse_faults(["push@3"]))
    with pytest.raises(ContractError, match="no scripted expert"):
        Disturbed(mute, parse_faults(["dim@half-way"]))
    with pytest.raises(UnknownNameError, match="known: none"):
        Disturbed(mute, parse_faults(["dim@grasp"]))


class Mute:
    """A world without expert and disturbances."""

    def __init__(self) -> None:
        self._inside = ExactWorld()
        for name in ("embodiment", "tasks", "reset", "observe", "apply", "outcome", "close"):
            setattr(self, name, getattr(self._inside, name))


def test_it_offers_what_the_wrapped_world_offers() -> None:
    wrapped, bare = exact("displace@3"), Disturbed(Mute(), ())
    assert isinstance(wrapped, World)
    assert isinstance(bare, World)
    assert isinstance(wrapped, Demonstrator)
    assert isinstance(wrapped, Disturbable)
    assert not isinstance(wrapped, Eventful)
    assert not isinstance(bare, Demonstrator)
    assert not isinstance(bare, Disturbable)
    assert not isinstance(wrapped, ForceSensing)


class Feeling(ExactWorld):
    def contact_force(self) -> float:
        return 3.0


def test_forces_are_those_of_the_wrapped_world() -> None:
    wrapped = Disturbed(Feeling(), parse_faults(["displace@3"]))
    assert isinstance(wrapped, ForceSensing)
    assert wrapped.contact_force() == 3.0


# On time


def first_difference(one: Sequence[Observation], other: Sequence[Observation]) -> int:
    return next((tick for tick, pair in enumerate(zip(one, other, strict=True)) if not same(*pair)), -1)


SENSED = [kind for kind, about in KINDS.items() if about.on in ("camera", "state", "observation")]


@pytest.mark.parametrize("text", [f"{kind}@7" for kind in SENSED])
def test_nothing_differs_from_the_twin_before_the_onset(text: str) -> None:
    twin = watch(exact(), 12, step=0.03)
    world = exact(text + "+3")
    seen = watch(world, 12, step=0.03)
    assert first_difference(seen, twin) == 7
    assert [tick for tick in range(13) if not same(seen[tick], twin[tick])] == [7, 8, 9]
    for obs in seen:
        world.embodiment.check(obs)
    (incident,) = world.incidents
    assert (incident.due, incident.onset, incident.end, incident.happened) == (7, 7, 10, True)


def test_disturbances_and_actuators_have_their_tick_too() -> None:
    twin = watch(exact(), 12)
    assert first_difference(watch(exact("displace@7"), 12), twin) == 7
    assert first_difference(watch(exact("displace@0"), 12), twin) == 0
    assert first_difference(watch(exact("actuator@7=0.1"), 12), twin) == 8  # the command of tick 7 is seen in tick 8
    untouched = exact("displace@99", "freeze@99")
    assert first_difference(watch(untouched, 12), twin) == -1
    assert [incident.happened for incident in untouched.incidents] == [False, False]


@pytest.mark.parametrize("text", ["noise@2", "tint@1-9+4", "black@2=0.3", "displace@1-9", "bias@4=0.2"])
def test_everything_follows_from_the_seed(text: str) -> None:
    world, again = exact(text), exact(text)
    one = watch(world, 12, step=0.03)
    watch(again, 5, seed=8)  # whatever came before
    assert first_difference(one, watch(again, 12, step=0.03)) == -1
    assert world.incidents == again.incidents


def test_a_tick_is_drawn_from_the_window() -> None:
    drawn = set()
    for seed in range(40):
        world = exact("dim@3-6")
        watch(world, 7, seed=seed)
        drawn.add(world.incidents[0].onset)
    assert drawn == {3, 4, 5, 6}


def test_asking_again_changes_nothing() -> None:
    world = exact("noise@0", "black@0=0.3", "freeze@2")
    watch(world, 4, step=0.03)
    assert same(world.observe(), world.observe())


def test_half_way_is_half_of_what_the_expert_takes() -> None:
    world = exact("displace@half-way")
    plain = ExactWorld()
    task = plain.tasks["reach-left"]
    plain.reset(task, seed=5)
    ticks = 0
    while plain.outcome() is None:
        plain.apply(plain.demonstrate())
        ticks += 1
    watch(world, ticks // 2, seed=5, task=task)
    assert world.incidents[0].onset == ticks // 2


def test_nothing_begins_after_the_outcome() -> None:
    world = exact("displace@4", "dim@6")
    watch(world, 8, task=Task(name="reach-left", instruction="go", time_limit=0.5))
    assert world.outcome() is not None
    assert [incident.onset for incident in world.incidents] == [4, None]


class Shy(ExactWorld):
    """Can only be displaced in tick 9."""

    def disturb(self, name: str, *, seed: int) -> None:
        if name in self.disturbances and self.observe().tick != 9:
            raise ContractError("shy", "not now")
        super().disturb(name, seed=seed)


@pytest.mark.parametrize(("text", "onset"), [("displace@6", 9), ("displace@6~3", 9), ("displace@6~2", None)])
def test_what_does_not_fit_is_tried_again_for_a_while(text: str, onset: int | None) -> None:
    world = Disturbed(Shy(), parse_faults([text]))
    watch(world, 12)
    (incident,) = world.incidents
    assert (incident.due, incident.onset, incident.end) == (6, onset, onset)
    assert incident_from_dict(incident.to_dict()) == incident


def test_incidents_that_are_none() -> None:
    assert exact("dim@1").incidents == ()
    right = {"fault": "dim@1", "kind": "dim", "due": 1, "onset": None, "end": None}
    assert not incident_from_dict(right).happened
    with pytest.raises(ContractError, match="misses 'end'"):
        incident_from_dict({key: value for key, value in right.items() if key != "end"})
    with pytest.raises(ContractError, match="expected a tick or null, got 'soon'"):
        incident_from_dict(right | {"due": "soon"})


# What they do


def test_a_frozen_camera_repeats_its_last_picture() -> None:
    cameras = ("front", "side")
    twin = watch(exact(cameras=cameras), 12, step=0.03)
    seen = watch(exact("freeze:front@5+4", cameras=cameras), 12, step=0.03)
    for tick in range(13):
        shown = 4 if 5 <= tick < 9 else tick
        assert np.array_equal(seen[tick].images["front"], twin[shown].images["front"])
        assert np.array_equal(seen[tick].images["side"], twin[tick].images["side"])
        assert np.array_equal(seen[tick].state, twin[tick].state)
    from_start = watch(exact("freeze@0"), 4, step=0.03)
    assert all(np.array_equal(obs.images["front"], twin[0].images["front"]) for obs in from_start)


def test_a_dropped_observation_is_the_one_before_with_a_fresh_stamp() -> None:
    twin = watch(exact(), 8, step=0.03)
    seen = watch(exact("drop@5"), 8, step=0.03)
    for tick in (5, 6, 7):
        assert (seen[tick].tick, seen[tick].time) == (twin[tick].tick, twin[tick].time)
        assert np.array_equal(seen[tick].state, twin[4].state)
        assert np.array_equal(seen[tick].images["front"], twin[4].images["front"])


def test_faults_fall_in_the_order_in_which_they_are_named() -> None:
    frozen_dimmed = watch(exact("dim@2=0.5", "freeze@6"), 8, step=0.03)
    dimmed = watch(exact("dim@2=0.5"), 8, step=0.03)
    assert np.array_equal(frozen_dimmed[8].images["front"], dimmed[5].images["front"])
    late = watch(exact("freeze@6", "dim@7=0.5"), 8, step=0.03)
    assert np.array_equal(late[6].images["front"], watch(exact(), 5, step=0.03)[5].images["front"])
    assert late[8].images["front"].max() <= 128


def effect(kind: str, picture: np.ndarray, strength: float, seed: int = 0) -> np.ndarray:
    once, now = np.random.default_rng(seed), np.random.default_rng(seed)
    moment = Moment(strength=strength, span=np.zeros(0), before=picture, once=once, now=now)
    change = KINDS[kind].effect
    assert change is not None
    return change(picture, moment)


def test_a_share_of_the_picture_is_covered() -> None:
    white = np.full((40, 60, 3), 255, dtype=np.uint8)
    places = [effect("black", white, 0.25, seed) == 0 for seed in range(5)]
    assert all(covered.mean() == pytest.approx(0.25, abs=0.02) for covered in places)
    assert not np.array_equal(places[0], places[1])
    assert not effect("black", white, 1.0).any()
    assert white.all()  # the world's own picture stays


def test_light_is_lost_and_tinted() -> None:
    white = np.full((8, 8, 3), 200, dtype=np.uint8)
    assert (effect("dim", white, 0.6) == 80).all()
    tinted = {tuple(effect("tint", white, 0.5, seed)[0, 0].tolist()) for seed in range(20)}
    assert all(max(colour) == 200 and min(colour) == 100 for colour in tinted)
    assert len({int(np.argmax(colour)) for colour in tinted}) == 3


def test_focus_is_lost() -> None:
    edge = np.zeros((50, 50, 3), dtype=np.uint8)
    edge[:, 25:] = 200
    soft, softer = effect("blur", edge, 0.04), effect("blur", edge, 0.2)
    steps = [int(np.abs(np.diff(image[25, :, 0].astype(int))).max()) for image in (edge, soft, softer)]
    assert steps[0] == 200
    assert steps[1] == pytest.approx(200 * 0.3989 / 2, abs=3)  # the peak of a Gaussian of 2 pixels
    assert steps[2] == pytest.approx(200 * 0.3989 / 10, abs=3)
    assert soft.mean() == pytest.approx(edge.mean(), abs=0.5)
    assert np.array_equal(effect("blur", edge[:, :20], 0.1), edge[:, :20])  # what is even stays, to its border


def test_state_faults_are_a_share_of_the_range() -> None:
    twin = watch(exact(), 200)
    noisy = np.array([obs.state for obs in watch(exact("noise@0=0.05"), 200)]) - [obs.state for obs in twin]
    assert noisy.std() == pytest.approx(0.05 * 2, rel=0.2)  # positions range over 2 m
    assert abs(noisy.mean()) < 0.02
    biased = np.array([obs.state for obs in watch(exact("bias@0=0.05"), 20)]) - [obs.state for obs in twin[:21]]
    assert np.allclose(np.abs(biased), 0.1, atol=1e-6)
    assert np.allclose(biased, biased[0], atol=1e-6)


@pytest.mark.parametrize("kind", ["delta", "absolute"])
def test_an_actuator_is_off_by_a_constant_and_the_driver_does_not_know(kind: Any) -> None:
    world = exact("actuator@2=0.05", kind=kind)
    space = world.embodiment.action
    offset = 0.05 * (space.high - space.low)
    obs = world.reset(STILL, seed=3)
    held, before = world.embodiment.hold(obs, None), obs.state
    for _ in range(2):
        held = world.embodiment.hold(obs, world.apply(held))
    for tick in range(1, 5):
        sent = world.apply(held)
        assert np.allclose(sent, held, atol=1e-6)  # so a held target stays where it is, and does not walk away
        held = world.embodiment.hold(obs, sent)
        moved = np.abs(world.observe().state - before)
        wanted = tick * offset if kind == "delta" else np.minimum(offset, tick * 0.0625)
        assert np.allclose(moved, wanted, atol=1e-5)
    with pytest.raises(ContractError):
        world.apply(np.full(2, np.nan, dtype=np.float32))
    with pytest.raises(ContractError):
        world.apply(np.zeros((2, 2), dtype=np.float32))


def test_a_new_kind_is_a_function_and_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    mirrored = FaultKind(about="left is right", on="camera", effect=lambda picture, moment: picture[:, ::-1])
    monkeypatch.setitem(KINDS, "mirror", mirrored)
    seen, twin = watch(exact("mirror@1"), 1), watch(exact(), 1)
    assert np.array_equal(seen[1].images["front"], twin[1].images["front"][:, ::-1])


# Promises kept


@pytest.mark.parametrize(
    "faults",
    [
        (),
        ("displace@8",),
        ("freeze@3+4", "drop@9"),
        ("black@2=0.3", "blur@4", "tint@1", "dim@0"),
        ("actuator@20=0.01",),
    ],
)
def test_it_keeps_the_promises_of_a_world(faults: tuple[str, ...]) -> None:
    check_world(lambda: exact(*faults), "reach-left")


@needs_mujoco
@pytest.mark.parametrize("body", ["gripper", "arm"])
def test_the_tabletop_keeps_them_too(body: str) -> None:
    check_world(tabletop(body, "slip@lift", "freeze:front@5+3", "dim@half-way"), "place-left-green", demonstrations=1)


def tabletop(body: str, *faults: str) -> Callable[[], World]:
    from actloop.simulation.tabletop import Tabletop

    return lambda: Disturbed(Tabletop(body=body, image_size=16), parse_faults(faults))


@needs_mujoco
def test_events_come_in_their_order_and_a_grasp_is_lost_when_it_is_made() -> None:
    from actloop.simulation.tabletop import Tabletop

    world = Tabletop(image_size=16)
    assert isinstance(world, Eventful)
    slipping = Disturbed(world, parse_faults(["slip@grasp", "freeze:front@touch+2", "push@lift"]))
    task = world.tasks["place-left-green"]
    slipping.reset(task, seed=1)
    held = []
    while slipping.outcome() is None:
        slipping.apply(slipping.demonstrate())
        held.append("grasp" in world.happened())
    slip, freeze, push = slipping.incidents
    assert freeze.onset is not None
    assert slip.onset is not None
    assert push.onset is not None
    assert freeze.onset <= slip.onset < push.onset
    assert freeze.end == freeze.onset + 2
    assert not held[slip.onset - 1]  # it had just been taken
    ended = slipping.outcome()
    assert ended is not None
    assert ended.success  # and was taken again

    with pytest.raises(UnknownNameError, match="did you mean 'grasp'"):
        Disturbed(world, parse_faults(["slip@grap"]))
    with pytest.raises(ContractError, match="no episode is running"):
        Tabletop(image_size=16).happened()


# Late, one way and the other


def test_a_delayed_observation_is_that_of_so_many_ticks_ago() -> None:
    twin = watch(exact(), 14, step=0.03)
    seen = watch(exact("delay@6+5=4"), 14, step=0.03)
    for tick in range(15):
        shown = twin[tick - 4] if 6 <= tick < 11 else twin[tick]
        assert np.array_equal(seen[tick].state, shown.state), tick
        assert np.array_equal(seen[tick].images["front"], shown.images["front"]), tick
        assert (seen[tick].tick, seen[tick].time) == (twin[tick].tick, twin[tick].time)


def test_what_is_older_than_the_episode_is_its_first_observation() -> None:
    twin = watch(exact(), 6, step=0.03)
    seen = watch(exact("delay@2=5"), 6, step=0.03)
    assert all(np.array_equal(seen[tick].state, twin[0].state) for tick in range(2, 6))


def test_a_delay_looks_through_the_faults_before_it() -> None:
    """What is late is what was sensed then, bias and all."""
    biased = watch(exact("bias@0"), 10, step=0.03)
    seen = watch(exact("bias@0", "delay@5=3"), 10, step=0.03)
    assert all(np.array_equal(seen[tick].state, biased[tick - 3].state) for tick in range(5, 11))


def test_late_answers_are_told_and_change_nothing_that_is_sensed() -> None:
    world = exact("late@4+3=0.2", "late@6=0.1")
    twin, seen = watch(exact(), 10), watch(world, 10)
    assert first_difference(seen, twin) == -1
    assert [round(world.stall(tick), 3) for tick in range(10)] == [0, 0, 0, 0, 0.2, 0.2, 0.3, 0.1, 0.1, 0.1]
    assert [(one.onset, one.end) for one in world.incidents] == [(4, 7), (6, None)]


def test_grain_is_new_in_every_tick_and_the_same_however_often_one_looks() -> None:
    world = exact("grain@0=0.2")
    world.reset(STILL, seed=3)
    one, again = world.observe(), world.observe()
    assert same(one, again)
    world.apply(np.zeros(2, dtype=np.float32))
    clean = exact()
    clean.reset(STILL, seed=3)
    noise = one.images["front"].astype(int) - clean.observe().images["front"]
    assert 10 < noise.std() < 51  # clipped at black and white
    assert not np.array_equal(world.observe().images["front"], one.images["front"])


def test_the_goal_moves_and_the_expert_still_reaches_it() -> None:
    world = exact("goal@3")
    world.reset(STILL, seed=3)
    assert isinstance(world.world, ExactWorld)
    before = world.world.goal
    while world.outcome() is None:
        world.apply(world.demonstrate())
    assert not np.array_equal(world.world.goal, before)
    outcome = world.outcome()
    assert outcome is not None
    assert outcome.success
