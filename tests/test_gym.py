"""Any Gymnasium environment as a World: what is declared is what comes, and the environment's own end is the end."""

import importlib.util
from typing import Any

import numpy as np
import pytest

from actloop.contracts import Camera, Embodiment, Part, Space, Task, World
from actloop.errors import ContractError, MissingDependency, UnknownNameError
from actloop.simulation.gym import GymWorld
from actloop.simulation.registry import make_world
from actloop.testing.conformance import check_world

gymnasium = pytest.importorskip("gymnasium", reason="the extra 'metaworld' (or gymnasium itself) is absent")
spaces = gymnasium.spaces
LIMIT = 40


class Rail(gymnasium.Env):
    """A cart, seen and told as LeRobot's environments do it: `pixels` by camera, `agent_pos`, `info["is_success"]`."""

    observation_space = spaces.Dict(
        {
            "pixels": spaces.Dict({"top": spaces.Box(0, 255, (8, 16, 3), np.uint8)}),
            "agent_pos": spaces.Box(-1, 1, (1,), np.float64),
        }
    )
    action_space = spaces.Box(-1, 1, (1,), np.float32)
    made = 0

    def __init__(self) -> None:
        type(self).made += 1
        self.seeds: list[int | None] = []
        self.steps = self.closed = 0
        self._picture = np.zeros((8, 16, 3), dtype=np.uint8)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.seeds.append(seed)
        self.place, self.steps = float(self.np_random.uniform(0.3, 0.9)), 0
        return self.sensed(), {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert action.dtype == np.float32
        assert action.shape == (1,)
        self.steps += 1
        self.place = float(np.clip(self.place + 0.05 * action[0], -1, 1))
        done = abs(self.place) < 0.04
        return self.sensed(), float(done), done, self.steps >= LIMIT, {"is_success": done}

    def sensed(self) -> dict[str, Any]:
        self._picture[:] = 0  # the same array each time, as fast environments do
        self._picture[:, int((self.place + 1) * 7.5)] = 255
        return {"pixels": {"top": self._picture}, "agent_pos": np.array([self.place])}

    def close(self) -> None:
        self.closed += 1


BODY = Embodiment(
    name="rail",
    cameras=(Camera(name="top", height=8, width=16, renderer="drawn"),),
    state=Space(parts=(Part(name="place", unit="m", low=(-1.0,), high=(1.0,)),)),
    action=Space(parts=(Part(name="speed", unit="m/s", low=(-1.0,), high=(1.0,), kind="velocity"),)),
    control_hz=20.0,
)
TASK = Task(name="centre", instruction="bring the cart to the middle", time_limit=LIMIT / 20)


def rail(env: Any = None, **changed: Any) -> GymWorld:
    declared = {
        "embodiment": BODY,
        "tasks": [TASK],
        "images": {"top": "pixels.top"},
        "state": ("agent_pos",),
    } | changed
    return GymWorld(env or Rail(), **declared)


LEFT = np.array([-1.0], dtype=np.float32)


def test_it_conforms() -> None:
    assert isinstance(rail(), World)
    check_world(rail, "centre")
    wrapped = lambda: gymnasium.wrappers.OrderEnforcing(Rail())  # noqa: E731
    check_world(lambda: rail(wrapped()), "centre")


def test_the_seed_is_the_environments_and_so_is_success() -> None:
    env = Rail()
    world = rail(env)
    start = world.reset(TASK, seed=7)
    alone = Rail()
    seen, _ = alone.reset(seed=7)
    assert env.seeds == [7]
    assert start.state == seen["agent_pos"].astype(np.float32)
    while world.outcome() is None:
        world.apply(LEFT)
        _, _, terminated, _, info = alone.step(LEFT)
        assert terminated == info["is_success"] == (world.outcome() is not None)
    outcome = world.outcome()
    assert outcome is not None
    assert outcome.success
    assert outcome.time == pytest.approx(alone.steps / 20)


def test_pictures_are_kept_although_the_environment_reuses_its_array() -> None:
    world = rail()
    first = world.reset(TASK, seed=1).images["top"]
    before = first.copy()
    for _ in range(5):
        world.apply(LEFT)
    assert np.array_equal(first, before)
    assert not np.array_equal(world.observe().images["top"], before)


def test_nothing_is_stepped_after_the_end_and_nothing_resets_itself() -> None:
    env = Rail()
    world = rail(env)
    world.reset(TASK, seed=0)
    while world.outcome() is None:
        world.apply(LEFT)
    steps, seen = env.steps, world.observe()
    world.apply(LEFT)
    assert env.steps == steps
    assert env.seeds == [0]
    assert world.observe().tick == seen.tick + 1
    assert np.array_equal(world.observe().state, seen.state)


@pytest.mark.parametrize(
    ("ends", "reason", "success"),
    [
        ((True, False, {"is_success": False}), "ended by the environment", False),
        ((False, True, {"success": np.array([False])}), "time limit", False),
        ((False, False, {"success": np.array([True])}), "task solved", True),
        ((False, True, {"is_success": True}), "task solved", True),
    ],
)
def test_every_end_has_its_reason(ends: tuple[bool, bool, dict[str, Any]], reason: str, success: bool) -> None:
    class Ending(Rail):
        def step(self, action: np.ndarray) -> Any:
            return self.sensed(), 0.0, *ends

    world = rail(Ending())
    world.reset(TASK, seed=0)
    world.apply(LEFT)
    outcome = world.outcome()
    assert outcome is not None
    assert (outcome.success, outcome.reason) == (success, reason)


def test_a_limit_of_ours_holds_where_the_environment_has_none() -> None:
    class Endless(Rail):
        def step(self, action: np.ndarray) -> Any:
            return self.sensed(), 0.0, False, False, {"is_success": False}

    world = rail(Endless())
    world.reset(TASK, seed=0)
    for tick in range(LIMIT):
        assert world.outcome() is None, tick
        world.apply(LEFT)
    assert world.outcome() is not None
    assert world.outcome().reason == "time limit"


def test_one_environment_a_task_each_closed_once() -> None:
    made: dict[str, Rail] = {}

    def make(task: Task) -> Rail:
        made[task.name] = Rail()
        return made[task.name]

    other = Task(name="again", instruction="once more", time_limit=2.0)
    world = rail(make, tasks=[TASK, other])
    assert not made
    for task in (TASK, other, TASK):
        world.reset(task, seed=0)
    assert len(made) == 2
    world.close()
    world.close()
    assert [env.closed for env in made.values()] == [1, 1]
    with pytest.raises(ContractError, match="is closed"):
        world.reset(TASK, seed=0)


def test_readings_may_be_functions() -> None:
    world = rail(images={"top": lambda seen: seen["pixels"]["top"][::-1]}, state=(lambda seen: seen["agent_pos"] / 2,))
    start = world.reset(TASK, seed=3)
    assert start.state == (world._running().sensed()["agent_pos"] / 2).astype(np.float32)


def test_what_is_not_there_is_said_with_what_is() -> None:
    with pytest.raises(ContractError, match=r"has no 'pixels.front': at 'front' there is \['top'\]"):
        rail(images={"top": "pixels.front"}).reset(TASK, seed=0)
    with pytest.raises(ContractError, match="has cameras \\['top'\\], got \\['front'\\]"):
        rail(images={"front": "pixels.top"})
    with pytest.raises(ContractError, match="expected 1 dimensions, got shape \\(2,\\)"):
        rail(state=("agent_pos", "agent_pos")).reset(TASK, seed=0)
    with pytest.raises(ContractError, match="distinct names"):
        rail(tasks=[TASK, TASK])
    with pytest.raises(UnknownNameError, match="did you mean 'centre'"):
        rail().reset(Task(name="center", instruction="x", time_limit=1.0), seed=0)
    with pytest.raises(ContractError, match="call reset"):
        rail().observe()


def test_success_that_nobody_reports_is_not_taken_for_failure() -> None:
    class Silent(Rail):
        def step(self, action: np.ndarray) -> Any:
            return self.sensed(), 0.0, False, False, {"coverage": 0.5}

    world = rail(Silent())
    world.reset(TASK, seed=0)
    with pytest.raises(ContractError, match=r"only \['coverage'\]; say success="):
        world.apply(LEFT)
    told = rail(Silent(), success=lambda info: info["coverage"] > 0.4)
    told.reset(TASK, seed=0)
    told.apply(LEFT)
    assert told.outcome() is not None


def test_a_state_that_is_not_finite_is_refused_when_it_comes() -> None:
    class Exploding(Rail):
        def step(self, action: np.ndarray) -> Any:
            self.place = float("nan")
            return {"pixels": {"top": self._picture}, "agent_pos": np.array([np.nan])}, 0.0, False, False, {}

    world = rail(Exploding())
    world.reset(TASK, seed=0)
    with pytest.raises(ContractError, match="not finite"):
        world.apply(LEFT)


def test_actions_that_do_not_fit_are_refused_at_once() -> None:
    vector = gymnasium.vector.SyncVectorEnv([Rail])
    with pytest.raises(ContractError, match="is a vector of environments; give one"):
        rail(vector)
    assert isinstance(rail(vector.envs[0]), World)

    with pytest.raises(ContractError, match="Rail is a class; give an instance"):
        rail(Rail)

    class Buttons(Rail):
        action_space = spaces.Discrete(3)

    with pytest.raises(ContractError, match="TransformAction"):
        rail(Buttons())

    class Wide(Rail):
        action_space = spaces.Box(-1, 1, (2,), np.float32)

    with pytest.raises(ContractError, match="takes no 1 real numbers"):
        rail(Wide())


def test_pendulum_in_a_few_lines() -> None:
    """A plain environment without pictures or success of its own."""
    body = Embodiment(
        name="pendulum",
        cameras=(),
        state=Space(
            parts=(
                Part(name="direction", unit="1", low=(-1.0, -1.0), high=(1.0, 1.0)),
                Part(name="rate", unit="rad/s", low=(-8.0,), high=(8.0,)),
            )
        ),
        action=Space(parts=(Part(name="torque", unit="N m", low=(-2.0,), high=(2.0,), kind="velocity"),)),
        control_hz=20.0,
    )
    up = Task(name="swing-up", instruction="swing the pendulum up", time_limit=10.0)
    world = GymWorld(
        gymnasium.make("Pendulum-v1"), embodiment=body, tasks=[up], images={}, state=("",), success=lambda info: False
    )
    start = world.reset(up, seed=2)
    expected, _ = gymnasium.make("Pendulum-v1").reset(seed=2)
    assert np.array_equal(start.state, expected)
    while world.outcome() is None:
        world.apply(np.zeros(1, dtype=np.float32))
    assert world.outcome().time == pytest.approx(10.0)


@pytest.mark.parametrize(("world", "package"), [("pusht", "gym_pusht"), ("aloha", "gym_aloha")])
def test_a_world_whose_package_is_absent_says_how_to_get_it(world: str, package: str) -> None:
    if importlib.util.find_spec(package) is not None:
        pytest.skip(f"{package} is installed here")
    if world == "aloha":
        pytest.importorskip("mujoco")
        from actloop.simulation import rendering

        try:
            rendering.gl_backend()
        except MissingDependency:
            pytest.skip("no OpenGL on this machine, which is said first")
    with pytest.raises(MissingDependency, match=rf'pip install "actloop\[{world}\]"'):
        make_world(world)
