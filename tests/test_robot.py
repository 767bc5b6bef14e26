"""A robot with LeRobot's interface as a world: names, sent against requested, slow cameras, cables that come loose."""

import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import fake_robot
import numpy as np
import pytest
from fake_robot import HEIGHT, NAMES, PARTS, TASKS, WIDTH, FakeArm, go_home

from actloop.contracts import Part, Task, World
from actloop.errors import ActloopError, ContractError, MissingDependency, UnknownNameError
from actloop.simulation.faults import Disturbed, parse_faults
from actloop.simulation.registry import make_world
from actloop.simulation.robot import RobotError, RobotPart, RobotWorld, open_robot, robot_from_toml
from actloop.testing.conformance import check_world

TASK = TASKS[0]
MIDDLE = np.array([0.0, 0, 0, 0, 0, 50], dtype=np.float32)


def world_of(arm: Any, **options: Any) -> RobotWorld:
    given = {"name": "so101", "control_hz": 1000.0, "parts": PARTS, "tasks": TASKS} | options
    return RobotWorld(arm, **given)


def run(world: World, ticks: int) -> None:
    for _ in range(ticks):
        world.apply(MIDDLE)
        world.observe()
        time.sleep(0.002)


def steady() -> RobotWorld:
    """Time that moves on with each command, as a loop would have it; 1/32 s is exact in binary."""
    arm = FakeArm(period=1 / 32, max_relative_target=30.0)
    return world_of(arm, control_hz=32.0, home=go_home, now=lambda: arm.clock)


# The contract


def test_keeps_the_promises_of_a_world() -> None:
    assert isinstance(steady(), World)
    check_world(steady, "tidy")


def test_disturbed_it_still_keeps_them() -> None:
    check_world(lambda: Disturbed(steady(), parse_faults(["freeze:front@40", "drop@50+3"])), "tidy")


def test_its_body_is_what_was_declared() -> None:
    body = world_of(FakeArm()).embodiment
    assert [part.name for part in body.action.parts] == ["joints", "gripper"]
    assert body.state == body.action
    assert [(camera.name, camera.height, camera.width) for camera in body.cameras] == [
        ("front", HEIGHT, WIDTH),
        ("wrist", HEIGHT, WIDTH),
    ]
    assert [camera.name for camera in world_of(FakeArm(), cameras=["wrist"]).embodiment.cameras] == ["wrist"]


def test_parts_may_be_in_another_order_and_only_sensed() -> None:
    arm = FakeArm()
    world = world_of(arm, parts=PARTS[::-1])
    obs = world.reset(TASK, seed=0)
    assert obs.state.tolist() == [50, 0, 0, 0, 0, 0]  # the gripper first
    world.apply(np.array([60, 1, 2, 3, 4, 5], dtype=np.float32))
    assert arm.commands[-1] == dict(zip(NAMES, [1, 2, 3, 4, 5, 60], strict=True))


def test_speeds_are_commanded_where_places_are_sensed() -> None:
    class Base(FakeArm):
        action_features = property(lambda self: {"x.vel": float})
        observation_features = property(lambda self: {"x": float, "current": float})

    drive = Part(name="drive", unit="m/s", low=(-1.0,), high=(1.0,), kind="velocity")
    place = Part(name="place", unit="m", low=(-9.0,), high=(9.0,))
    parts = [
        RobotPart(part=drive, features=("x.vel",), role="action"),
        RobotPart(part=place, features=("x",), role="state"),
    ]
    with pytest.raises(ContractError, match=r"sensed, but not declared: \['current'\].*list it as unused"):
        world_of(Base(), parts=parts)
    body = world_of(Base(), parts=parts, unused=["current"]).embodiment
    assert (body.state.component_names, body.action.component_names) == (["place"], ["drive"])
    with pytest.raises(ContractError, match='say role = "action"'):
        RobotPart(part=drive, features=("x.vel",))


def test_what_was_sent_is_what_the_robot_says() -> None:
    arm = FakeArm(max_relative_target=10.0)
    world = world_of(arm)
    world.reset(TASK, seed=0)
    wanted = MIDDLE + 35
    assert world.apply(wanted).tolist() == [10, 10, 10, 10, 10, 60]
    assert arm.commands[-1] == dict(zip(NAMES, wanted.tolist(), strict=True))
    beyond = np.full(6, 1e6, dtype=np.float32)
    world.apply(beyond)
    assert arm.commands[-1] == dict.fromkeys(NAMES, 100.0)  # nothing beyond the declared limits goes out
    obs = world.observe()
    assert obs.tick == 2
    assert obs.state.tolist() == [20, 20, 20, 20, 20, 70]


def test_nothing_moves_and_nothing_is_connected_before_reset_and_reset_itself_moves_nothing() -> None:
    arm = FakeArm()
    world = world_of(arm)
    assert arm.calls == []
    with pytest.raises(ContractError, match="no episode is running"):
        world.apply(MIDDLE)
    world.reset(TASK, seed=0)
    world.reset(TASK, seed=1)
    assert (arm.calls, arm.commands) == (["connect(calibrate=False)"], [])
    for bad in (np.full(6, np.nan, np.float32), np.zeros(5, np.float32), np.zeros((2, 6), np.float32)):
        with pytest.raises(ContractError):
            world.apply(bad)
    assert arm.commands == []


def test_pictures_are_copies_of_what_drivers_reuse() -> None:
    world = world_of(FakeArm())
    first = world.reset(TASK, seed=0)
    kept = first.images["front"].copy()
    world.apply(MIDDLE + 10)
    assert not np.array_equal(world.observe().images["front"], kept)
    assert np.array_equal(first.images["front"], kept)


def test_a_loop_that_does_not_wait_is_stopped() -> None:
    arm = FakeArm()
    world = world_of(arm, control_hz=20.0)
    world.reset(TASK, seed=0)
    with pytest.raises(
        ContractError, match=r"4 commands within 0\.\d+ s at 20 Hz; a robot is driven on the wall clock"
    ):
        run(world, 10)
    assert len(arm.commands) == 3


def test_the_loop_drives_it_on_the_wall_clock() -> None:
    from actloop.loop import WallClock, run_episode
    from actloop.testing.fakes import CountingPolicy

    arm = FakeArm(camera_seconds=0.01)
    world = world_of(arm, control_hz=50.0, reading="background")
    policy = CountingPolicy(world.embodiment, horizon=8)
    brief = Task(name="tidy", instruction="put the cup on the shelf", time_limit=0.5)
    result = run_episode(world, policy, brief, seed=0, clock=WallClock())
    world.close()
    assert (result.error, result.outcome.reason) == ("", "time limit")
    assert len(arm.commands) >= 20
    assert result.calls >= 2


# How an episode ends


def test_somebody_says_how_it_ended() -> None:
    world = world_of(FakeArm())
    with pytest.raises(ContractError, match="no episode is running"):
        world.finish(True, "done")
    world.reset(TASK, seed=0)
    assert world.outcome() is None
    world.finish(True, "the operator saw it")
    ended = world.outcome()
    assert ended is not None
    assert (ended.success, ended.reason) == (True, "the operator saw it")
    world.finish(False, "no, it fell")
    assert world.outcome() == ended
    world.reset(TASK, seed=0)
    assert world.outcome() is None


def test_the_time_limit_ends_it() -> None:
    clock = [0.0]
    world = world_of(FakeArm(), now=lambda: clock[0])
    clock[0] = 7.0
    world.reset(TASK, seed=0)
    clock[0] += TASK.time_limit - 0.01
    assert world.outcome() is None
    clock[0] += 0.02
    ended = world.outcome()
    assert ended is not None
    assert (ended.success, ended.reason, round(ended.time, 3)) == (False, "time limit", 2.01)
    with pytest.raises(UnknownNameError, match="did you mean 'tidy'"):
        world.reset(Task(name="tidi", instruction="?", time_limit=1.0), seed=0)


# Slow cameras


def paced(world: RobotWorld, ticks: int, period: float) -> tuple[list[float], list[float]]:
    """Seconds that each tick spends in the world, and how old its observation is, kept on an absolute grid."""
    world.reset(TASK, seed=0)
    start = time.monotonic()
    spent, ages = [], []
    for tick in range(ticks):
        time.sleep(max(0.0, start + tick * period - time.monotonic()))
        begun = time.monotonic()
        obs = world.observe()
        ages.append(begun - world._start - obs.time)
        world.apply(MIDDLE)
        spent.append(time.monotonic() - begun)
        assert obs.tick == tick
    world.close()
    return spent, ages


def test_inline_the_tick_waits_for_the_camera() -> None:
    spent, _ = paced(world_of(FakeArm(camera_seconds=0.03)), 5, 0.06)
    assert np.median(spent) >= 0.03


@pytest.mark.parametrize("reading", ["background", "concurrent"])
def test_in_the_background_it_does_not_and_the_age_is_true(reading: str) -> None:
    arm = FakeArm(camera_seconds=0.03)
    spent, ages = paced(world_of(arm, reading=reading), 12, 0.06)
    assert np.median(spent) < 0.015
    assert np.median(ages) >= 0.03  # no reading is younger than it took
    assert np.median(ages) < 0.12  # and the newest one wins
    assert arm.collided == (reading == "concurrent")  # only the second may talk over itself
    assert arm.calls[-1] == "disconnect"


def test_in_the_background_each_command_is_followed_by_one_reading() -> None:
    arm = FakeArm()
    world = world_of(arm, reading="background")
    world.reset(TASK, seed=0)
    for count in range(2, 6):
        world.apply(MIDDLE + count)
        deadline = time.monotonic() + 2
        while world.observe().state[0] != count and time.monotonic() < deadline:
            time.sleep(0.001)
        assert arm.readings == count
    world.close()


def test_a_camera_that_hangs_is_noticed() -> None:
    arm = FakeArm()
    world = world_of(arm, reading="background", patience=0.05)
    world.reset(TASK, seed=0)
    arm.hang.set()
    world.apply(MIDDLE)
    world.observe()  # the newest there is
    time.sleep(0.1)
    with pytest.raises(RobotError, match=r"did not end within 0\.05 s: a camera or the bus hangs"):
        world.observe()
    with pytest.raises(RobotError, match="hangs"):
        world.apply(MIDDLE)
    world.close()
    assert arm.calls[-1] == "disconnect"
    arm.hang.clear()


# Cables that come loose


@pytest.mark.parametrize("reading", ["inline", "background", "concurrent"])
def test_a_lost_robot_says_so_and_can_come_back(reading: str) -> None:
    arm = FakeArm(lost_after=2)
    world = world_of(arm, reading=reading)
    world.reset(TASK, seed=0)
    lost = r"so101: (get_observation|send_action) failed \(DeviceNotConnectedError: no(t connected| status packet)\)"
    with pytest.raises(RobotError, match=lost):
        run(world, 200)
    arm.lost_after = None
    assert world.reset(TASK, seed=0).tick == 0
    assert arm.calls.count("connect(calibrate=False)") == 2
    world.close()
    assert not arm.is_connected


def test_closing_disconnects_always_and_twice_is_fine() -> None:
    arm = FakeArm()
    world = world_of(arm, reading="background")
    world.close()
    assert arm.calls == []  # it was never connected
    world.reset(TASK, seed=0)
    world.close()
    world.close()
    assert arm.calls == ["connect(calibrate=False)", "disconnect"]
    world.reset(TASK, seed=0)
    arm.is_connected = False  # it says so, but half of it may still be powered
    world.close()
    assert arm.calls[-1] == "disconnect"


def test_motors_that_may_still_be_powered_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    arm = FakeArm()
    world = world_of(arm)
    world.reset(TASK, seed=0)

    def refuse() -> None:
        raise OSError("port is busy")

    monkeypatch.setattr(arm, "disconnect", refuse)
    with pytest.raises(RobotError, match=r"could not be disconnected .*motors may still be powered"):
        world.close()


def test_an_arm_without_calibration_is_refused_without_asking() -> None:
    arm = FakeArm(calibrated=False)
    with pytest.raises(RobotError, match=r"not calibrated.*lerobot-calibrate"):
        world_of(arm).reset(TASK, seed=0)
    assert arm.calls == ["connect(calibrate=False)", "disconnect"]


def test_a_robot_that_cannot_be_reached_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    arm = FakeArm()

    def refuse() -> None:
        raise OSError("no such port")

    monkeypatch.setattr(arm, "connect", refuse)
    with pytest.raises(RobotError, match=r"connect failed \(OSError: no such port\)"):
        world_of(arm).reset(TASK, seed=0)


# Names and forms that do not fit


def test_names_have_to_match_exactly() -> None:
    arm = PARTS[0]
    with pytest.raises(ContractError, match=r"commanded, but not declared: \['gripper.pos'\]"):
        world_of(FakeArm(), parts=[arm])
    odd = RobotPart(part=PARTS[1].part, features=("griper.pos",))
    with pytest.raises(ContractError, match=r"declared as commanded, but not there: \['griper.pos'\]; there are"):
        world_of(FakeArm(), parts=[arm, odd])
    with pytest.raises(ContractError, match="more than one part"):
        world_of(
            FakeArm(), parts=[*PARTS, RobotPart(part=Part(name="g", unit="%", low=(0,), high=(1,)), features=NAMES[5:])]
        )
    with pytest.raises(UnknownNameError, match="did you mean 'front'"):
        world_of(FakeArm(), cameras=["frond"])
    with pytest.raises(ContractError, match="expected 5 different features"):
        RobotPart(part=arm.part, features=NAMES[:4])
    with pytest.raises(UnknownNameError, match="did you mean 'state'"):
        RobotPart(part=arm.part, features=NAMES[:5], role="stat")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"reading": "backgroud"}, "did you mean 'background'"),
        ({"patience": 0}, "seconds above 0"),
        ({"control_hz": 0}, "rate above 0"),
        ({"tasks": ()}, "tasks of distinct names"),
        ({"parts": ()}, "at least one part"),
    ],
)
def test_bad_settings_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ContractError, match=says):
        world_of(FakeArm(), **options)


def test_an_object_that_is_no_robot_is_refused() -> None:
    with pytest.raises(ContractError, match=r"lacks \['observation_features', .*'disconnect'\] of LeRobot's interface"):
        world_of(object())


@pytest.mark.parametrize(
    ("method", "answer", "says"),
    [
        ("get_observation", lambda seen: {n: v for n, v in seen.items() if n != "gripper.pos"}, "lacks .'gripper.pos'"),
        ("get_observation", lambda seen: seen | {"elbow_flex.pos": "7 deg"}, "expected one number for each name"),
        (
            "get_observation",
            lambda seen: seen | {"elbow_flex.pos": float("nan")},
            r"observation\.state\.joints: not finite",
        ),
        ("get_observation", lambda seen: seen | {"front": np.zeros((2, 2, 3), np.uint8)}, "images.front"),
        ("get_observation", lambda seen: None, "expected values by name, got NoneType"),
        ("send_action", lambda sent: None, "expected what was really sent, by name, got NoneType"),
        ("send_action", lambda sent: {"gripper.pos": 1.0}, "declared as sent, but not there"),
        ("send_action", lambda sent: sent | {"gripper.pos": float("inf")}, "gripper: not finite"),
    ],
)
def test_what_the_robot_answers_is_checked(
    monkeypatch: pytest.MonkeyPatch, method: str, answer: Any, says: str
) -> None:
    arm = FakeArm()
    world = world_of(arm)
    world.reset(TASK, seed=0)
    right = getattr(arm, method)
    monkeypatch.setattr(arm, method, lambda *given: answer(right(*given)))
    with pytest.raises(ContractError, match=says):
        run(world, 1)


# From a file

SPEC = f"""
[world]
name = "robot"
robot = "fake_robot:make"
options = {{ max_relative_target = 5.0 }}
body = "so101"
control_hz = 30
cameras = ["front"]
reading = "background"
home = "fake_robot:go_home"

[[world.parts]]
name = "joints"
features = {list(NAMES[:5])}
unit = "deg"
low = -100
high = [100, 100, 100, 100, 100]

[[world.parts]]
name = "gripper"
features = ["gripper.pos"]
unit = "%"
low = 0
high = 100

[[world.tasks]]
name = "tidy"
instruction = "put the cup on the shelf"
time_limit = 20
"""


def table() -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads(SPEC)["world"]
    return found


def test_a_file_describes_a_robot(tmp_path: Path) -> None:
    path = tmp_path / "robot.toml"
    path.write_text(SPEC, encoding="utf-8")
    for world in (make_world("robot", spec=path), open_robot(str(path)), robot_from_toml(table())):
        assert world.embodiment.name == "so101"
        assert world.embodiment.action == world_of(FakeArm()).embodiment.action
        obs = world.reset(world.tasks["tidy"], seed=3)
        assert list(obs.images) == ["front"]
        assert 20 <= obs.state[0] <= 80  # it went home
        assert (world.apply(obs.state + 20) - obs.state).max() == pytest.approx(5.0, abs=1e-4)
        world.close()


def changed(*where: Any, to: Any = None) -> dict[str, Any]:
    plain: Any = table()
    inner = plain
    for key in where[:-1]:
        inner = inner[key]
    if to is None:
        del inner[where[-1]]
    else:
        inner[where[-1]] = to
    return plain


@pytest.mark.parametrize(
    ("plain", "says"),
    [
        (changed("robot"), "world: misses 'robot'"),
        (changed("robot", to="fake_robot"), "expected module:function, got 'fake_robot'"),
        (changed("robot", to="no_such_module:make"), "no module 'no_such_module' can be imported"),
        (changed("robot", to="fake_robot:mak"), "has no 'mak'"),
        (changed("robot", to="fake_robot:NAMES"), "is no function, but tuple"),
        (changed("body"), "misses 'body'"),
        (changed("body", to=3), "world.body: expected text, got 3"),
        (changed("control_hz", to="30"), "control_hz: expected a number, got '30'"),
        (changed("controlhz", to=30), "did you mean 'control_hz'"),
        (changed("name", to="so101"), "belongs in `body`"),
        (changed("parts"), "misses 'parts'"),
        (changed("parts", to=[]), r"expected tables \[\[world.parts\]\]"),
        (changed("parts", 0, "unit"), r"world.parts\[0\]: misses 'unit'"),
        (changed("parts", 0, "low", to=[1, 2]), r"expected a number, or 5 of them"),
        (changed("parts", 0, "kind", to="absolut"), "did you mean 'absolute'"),
        (changed("parts", 1, "features", to=[1]), "expected a list of names"),
        (changed("tasks", 0, "time_limit"), "misses 'time_limit'"),
        (changed("tasks", 0, "text", to="x"), "unknown name 'text'"),
        (changed("cameras", to=["frontt"]), "did you mean 'front'"),
        (changed("home", to="fake_robot:go"), "has no 'go'"),
    ],
)
def test_a_bad_description_says_what_is_wrong(plain: dict[str, Any], says: str) -> None:
    with pytest.raises(ContractError, match=says):
        robot_from_toml(plain)


def test_options_that_the_function_does_not_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fake_robot, "make", lambda *, port: FakeArm())
    with pytest.raises(ContractError, match=r"world\.options: fake_robot:make does not take"):
        robot_from_toml(table())


def test_a_package_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "my_far_arm.py").write_text("import no_such_driver\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_far_arm", raising=False)
    with pytest.raises(MissingDependency, match="pip install no_such_driver"):
        robot_from_toml(changed("robot", to="my_far_arm:make"))


def test_without_a_file_it_asks_for_one(tmp_path: Path) -> None:
    with pytest.raises(MissingDependency, match="spec=FILE"):
        make_world("robot")
    with pytest.raises(ContractError, match="cannot be read as TOML"):
        open_robot(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("robot = [", encoding="utf-8")
    with pytest.raises(ActloopError, match="cannot be read as TOML"):
        open_robot(tmp_path / "bad.toml")
