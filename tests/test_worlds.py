"""Worlds by name, the exact world, and the conformance suite: on every world here, and on broken ones it must catch."""

import importlib.util
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest

from actloop.contracts import (
    ActionChunk,
    Committed,
    Demonstrator,
    Disturbable,
    ForceSensing,
    Future,
    Observation,
    Outcome,
    Prediction,
    World,
)
from actloop.errors import ContractError, MissingDependency, UnknownNameError
from actloop.simulation import registry
from actloop.simulation.exact import MAX_STEP, TOLERANCE, ExactWorld, draw_tick, read_tick
from actloop.simulation.registry import find_task, known_worlds, make_world, tasks_of
from actloop.testing.conformance import check_policy, check_world

needs_mujoco = pytest.mark.skipif(importlib.util.find_spec("mujoco") is None, reason="the extra 'simulation' is absent")


# Registry


def test_a_world_is_made_by_name_with_its_options() -> None:
    world = make_world("exact", kind="absolute", image_size=16)
    assert isinstance(world, World)
    assert world.embodiment.action.parts[0].kind == "absolute"
    assert world.embodiment.cameras[0].height == 16


def test_unknown_names_suggest_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'tabletop'"):
        make_world("tabeltop")
    with pytest.raises(UnknownNameError, match="did you mean 'image_size'"):
        make_world("exact", imagesize=32)
    with pytest.raises(UnknownNameError, match="did you mean 'reach-left'"):
        find_task(ExactWorld(), "reach-lef")
    with pytest.raises(UnknownNameError, match="did you mean 'reach'"):
        tasks_of(ExactWorld(), ["reac"])


@pytest.mark.parametrize(("package", "extra"), [("mujoco", "simulation"), ("metaworld", "metaworld")])
def test_a_missing_package_names_the_command(monkeypatch: pytest.MonkeyPatch, package: str, extra: str) -> None:
    def absent(module: str) -> None:
        raise ModuleNotFoundError(f"No module named {package!r}", name=package)

    monkeypatch.setattr(registry, "import_module", absent)
    with pytest.raises(MissingDependency, match=rf'pip install "actloop\[{extra}\]"'):
        make_world("metaworld")


def test_a_plugin_adds_a_world_and_cannot_replace_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    plugins = [
        EntryPoint(name="mine", value="actloop.simulation.exact:ExactWorld", group=registry.ENTRY_POINTS),
        EntryPoint(name="tabletop", value="somewhere:Else", group=registry.ENTRY_POINTS),
    ]
    monkeypatch.setattr(registry, "entry_points", lambda group: plugins)
    assert isinstance(make_world("mine"), ExactWorld)
    assert known_worlds()["tabletop"] == registry.WORLDS["tabletop"]


def test_what_is_no_world_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.WORLDS, "counter", "collections:Counter")
    with pytest.raises(ContractError, match="Counter does not implement"):
        make_world("counter")


def test_tasks_by_name_skill_and_group() -> None:
    world = ExactWorld()
    both = list(world.tasks.values())
    assert tasks_of(world) == tasks_of(world, ["reach"]) == tasks_of(world, ["exact"]) == both
    assert tasks_of(world, ["reach-right", "reach"]) == both[::-1]  # in the order asked for, each once
    with pytest.raises(UnknownNameError):
        tasks_of(world, [""])


# The exact world


@pytest.mark.parametrize("tick", [0, 1, 255, 256, 40_000, 65_535])
def test_the_tick_is_in_the_pixels(tick: int) -> None:
    image = draw_tick(tick, 32)
    assert read_tick(image) == tick
    noise = np.random.default_rng(tick).normal(0, 40, image.shape)
    assert read_tick(np.clip(image + noise, 0, 255).astype(np.uint8)) == tick


def test_ticks_and_sizes_that_cannot_be_drawn_are_refused() -> None:
    with pytest.raises(ContractError, match="65536"):
        draw_tick(65_536, 32)
    with pytest.raises(ContractError, match="multiple of 8"):
        ExactWorld(image_size=30)


def test_delta_dynamics_are_exact() -> None:
    world = ExactWorld()
    start = world.reset(world.tasks["reach-left"], seed=3).state
    world.apply(np.array([0.03125, -1.0], dtype=np.float32))
    assert np.array_equal(world.observe().state, start + np.array([0.03125, -MAX_STEP], dtype=np.float32))


def test_absolute_dynamics_are_exact() -> None:
    world = ExactWorld(kind="absolute")
    start = world.reset(world.tasks["reach-left"], seed=3).state
    world.apply(np.array([start[0] + 0.03125, -1.0], dtype=np.float32))
    assert np.array_equal(world.observe().state, start + np.array([0.03125, -MAX_STEP], dtype=np.float32))


@pytest.mark.parametrize("kind", ["delta", "absolute"])
def test_the_expert_needs_as_many_ticks_as_the_way_has_steps(kind: str) -> None:
    world = ExactWorld(kind=kind)  # type: ignore[arg-type]
    for seed in range(20):
        start = world.reset(world.tasks["reach-right"], seed=seed).state
        expected = np.ceil((np.abs(world.goal - start).max() - TOLERANCE) / MAX_STEP)
        while world.outcome() is None:
            world.apply(world.demonstrate())
        assert world.outcome() == Outcome(success=True, reason="goal reached", time=expected * world.embodiment.period)


def test_the_expert_recovers_from_a_displacement() -> None:
    world = ExactWorld()
    for seed in range(20):
        world.reset(world.tasks["reach-left"], seed=seed)
        world.apply(world.demonstrate())
        before = world.observe().state
        world.disturb("displace", seed=seed)
        assert np.abs(world.observe().state - before).min() >= 4 * MAX_STEP
        while world.outcome() is None:
            world.apply(world.demonstrate())
        assert world.outcome().success


def test_nothing_can_be_done_before_the_first_reset() -> None:
    world = ExactWorld()
    for call in (world.observe, world.demonstrate, lambda: world.apply(np.zeros(2, dtype=np.float32))):
        with pytest.raises(ContractError, match="call reset"):
            call()


# Conformance: what is right passes


@pytest.mark.parametrize("options", [{}, {"kind": "absolute"}, {"control_hz": 25.0, "cameras": ("left", "right")}])
def test_the_exact_world_conforms(options: dict[str, object]) -> None:
    assert isinstance(ExactWorld(), Demonstrator)
    assert isinstance(ExactWorld(), Disturbable)
    check_world(lambda: make_world("exact", **options), "reach-left", demonstrations=10)


@needs_mujoco
def test_the_tabletop_conforms() -> None:
    world = make_world("tabletop")
    first_of_each_group = {task.group: task.name for task in reversed(world.tasks.values())}
    world.close()
    for name in first_of_each_group.values():
        check_world(lambda: make_world("tabletop"), name, demonstrations=2, must_succeed=1)


# Conformance: what is wrong is caught


class _Stuck(ExactWorld):
    def apply(self, action: np.ndarray) -> np.ndarray:
        sent = super().apply(action)
        self._tick -= 1
        return sent


class _Unclipped(ExactWorld):
    def apply(self, action: np.ndarray) -> np.ndarray:
        super().apply(action)
        return action


class _Credulous(ExactWorld):
    def apply(self, action: np.ndarray) -> np.ndarray:
        return super().apply(np.nan_to_num(action).astype(np.float32))


class _Seedless(ExactWorld):
    def reset(self, task, *, seed):  # type: ignore[no-untyped-def]
        return super().reset(task, seed=0)


class _Unrepeatable(ExactWorld):
    episodes = 0

    def reset(self, task, *, seed):  # type: ignore[no-untyped-def]
        type(self).episodes += 1
        return super().reset(task, seed=seed + 100 * self.episodes)


class _Restless(ExactWorld):
    def observe(self) -> Observation:
        if self._tick:
            self._position = self._position + 1 / 1024
        return super().observe()


class _Drifting(ExactWorld):
    def apply(self, action: np.ndarray) -> np.ndarray:
        sent = super().apply(action)
        self._position = self._position + 1 / 64
        return sent


class _Endless(ExactWorld):
    def outcome(self) -> Outcome | None:
        ended = super().outcome()
        return ended if ended and ended.success else None


class _Fickle(ExactWorld):
    def outcome(self) -> Outcome | None:
        ended = super().outcome()
        return ended and replace(ended, success=self._tick % 2 == 0)


class _Clumsy(ExactWorld):
    def demonstrate(self) -> np.ndarray:
        return -super().demonstrate()


class _Misdeclared(ExactWorld):
    def observe(self) -> Observation:
        obs = super().observe()
        return replace(obs, state=np.append(obs.state, np.float32(0)))


class _Chance(ExactWorld):
    def disturb(self, name: str, *, seed: int) -> None:
        super().disturb(name, seed=int(np.random.default_rng().integers(2**30)))


class _Feeling(ExactWorld):
    """Feels the wall of its field."""

    def contact_force(self) -> float:
        self._running()
        return float(np.abs(self._position).max() >= 1.0) if self._tick else 0.0


class _Careless(_Feeling):
    def contact_force(self) -> float:
        return 0.0


class _Leaning(_Feeling):
    def contact_force(self) -> float:
        return super().contact_force() + 1.0


class _Pulling(_Feeling):
    def contact_force(self) -> float:
        return super().contact_force() - float(self._tick > 1)


class _Exploding(_Feeling):
    def contact_force(self) -> float:
        return super().contact_force() + (np.inf if self._tick > 1 else 0.0)


class _Nervous(_Feeling):
    asked = 0

    def contact_force(self) -> float:
        self.asked += 1
        return super().contact_force() + (self.asked if self._tick else 0.0)


def test_a_world_that_feels_what_it_touches_conforms() -> None:
    assert isinstance(_Feeling(), ForceSensing)
    assert not isinstance(ExactWorld(), ForceSensing)
    check_world(_Feeling, "reach-left")


@pytest.mark.parametrize(
    ("world", "message"),
    [
        (_Careless, "took being asked before the first reset"),
        (_Leaning, "1.0 N after reset"),
        (_Pulling, "expected newtons of 0 or more"),
        (_Exploding, "expected newtons of 0 or more"),
        (_Nervous, "changed when asked twice"),
        (_Stuck, "expected tick 1, got 0"),
        (_Unclipped, "beyond the declared limits"),
        (_Credulous, "took NaN without ContractError"),
        (_Seedless, "another seed gave the same start"),
        (_Unrepeatable, "the same seed gave another start"),
        (_Restless, "changed the world"),
        (_Drifting, "drifts by"),
        (_Endless, "still None after the time limit"),
        (_Fickle, "changed from"),
        (_Clumsy, "succeeded in 0 of 3"),
        (_Misdeclared, "expected 2 dimensions"),
        (_Chance, "did two different things"),
    ],
)
def test_a_broken_world_is_caught(world: Callable[[], World], message: str) -> None:
    with pytest.raises(ContractError, match=message):
        check_world(world, "reach-left")


# Conformance of policies


@dataclass(frozen=True)
class _Memory:
    seed: int


class _Honest:
    """Steers to the middle with seeded noise, and imagines that nothing will change."""

    def __init__(self) -> None:
        self._world = ExactWorld()
        self.embodiment = self._world.embodiment
        self.horizon = 4

    def start(self, instruction: str, *, seed: int) -> _Memory:
        return _Memory(seed)

    def predict(
        self, session: _Memory, obs: Observation, *, committed: Committed | None = None, imagine: bool = False
    ) -> tuple[_Memory, Prediction]:
        self.embodiment.check(obs)
        noise = np.random.default_rng([session.seed, obs.tick]).normal(0, 0.01, (self.horizon, 2))
        actions = self.embodiment.action.clip(noise - obs.state / 16)
        chunk = ActionChunk(actions=actions, anchor=obs.tick, period=self.embodiment.period, observed_at=obs.time)
        return session, Prediction(chunk=chunk, future=self.imagine(session, obs, chunk) if imagine else None)

    def imagine(self, session: _Memory, obs: Observation, chunk: ActionChunk) -> Future:
        frames = {name: np.repeat(image[None], 2, axis=0) for name, image in obs.images.items()}
        return Future(frames=frames, chunk=chunk, period=2 * chunk.period)


class _Late(_Honest):
    def predict(self, session, obs, **options):  # type: ignore[no-untyped-def]
        session, prediction = super().predict(session, obs, **options)
        return session, replace(prediction, chunk=replace(prediction.chunk, anchor=obs.tick + 1))


class _Forgetful(_Honest):
    calls = 0

    def predict(self, session, obs, **options):  # type: ignore[no-untyped-def]
        self.calls += 1
        return super().predict(_Memory(session.seed + 1000 * self.calls), obs, **options)


class _Deterministic(_Honest):
    def start(self, instruction: str, *, seed: int) -> _Memory:
        return _Memory(0)


class _Short(_Honest):
    def predict(self, session, obs, **options):  # type: ignore[no-untyped-def]
        session, prediction = super().predict(session, obs, **options)
        return session, replace(prediction, chunk=replace(prediction.chunk, actions=prediction.chunk.actions[:-1]))


class _Infinite(_Honest):
    def predict(self, session, obs, **options):  # type: ignore[no-untyped-def]
        session, prediction = super().predict(session, obs, **options)
        actions = np.full_like(prediction.chunk.actions, np.inf)
        return session, replace(prediction, chunk=replace(prediction.chunk, actions=actions))


class _Unimaginative(_Honest):
    def predict(self, session, obs, *, imagine=False, **options):  # type: ignore[no-untyped-def]
        return super().predict(session, obs, **options)


class _OneEyed(_Honest):
    def imagine(self, session: _Memory, obs: Observation, chunk: ActionChunk) -> Future:
        return replace(super().imagine(session, obs, chunk), frames={})


class _Trusting(_Honest):
    def predict(self, session, obs, **options):  # type: ignore[no-untyped-def]
        fit = ExactWorld().embodiment.cameras[0].name
        images = {fit: obs.images.get(fit, np.zeros((32, 32, 3), dtype=np.uint8))}
        return super().predict(session, replace(obs, images=images), **options)


class _Vandal(_Honest):
    def predict(self, session, obs, **options):  # type: ignore[no-untyped-def]
        answer = super().predict(session, obs, **options)
        obs.state[:] += 1
        return answer


def _observation() -> Observation:
    world = ExactWorld()
    world.reset(world.tasks["reach-left"], seed=0)
    for _ in range(3):
        world.apply(world.demonstrate())
    return world.observe()


def test_an_honest_policy_conforms() -> None:
    check_policy(_Honest(), _observation())
    check_policy(_Deterministic(), _observation(), stochastic=False)


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (_Late, "is anchored to tick 4"),
        (_Forgetful, "gave two answers"),
        (_Deterministic, "another seed gave the same answer"),
        (_Short, "expected actions"),
        (_Infinite, "not finite"),
        (_Unimaginative, "returned no future"),
        (_OneEyed, "imagined \\[\\]"),
        (_Trusting, "took no image of camera front"),
        (_Vandal, "changed the observation"),
    ],
)
def test_a_broken_policy_is_caught(policy: Callable[[], _Honest], message: str) -> None:
    with pytest.raises(ContractError, match=message):
        check_policy(policy(), _observation())


# The documentation


def test_the_world_in_the_documentation_conforms() -> None:
    page = (Path(__file__).parents[1] / "docs" / "add-a-world.md").read_text()
    names: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL):
        exec(compile(block, "add-a-world.md", "exec"), names)
    assert isinstance(names["Slider"](), World)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("image_size", "abc", "a whole number, got 'abc'"),
        ("image_size", 64.5, "a whole number"),
        ("image_size", True, "a w"),
    ],
)
def test_an_option_of_another_kind_is_named(option: str, value: object, says: str) -> None:
    with pytest.raises(ContractError, match=rf"world 'exact', option {option}: expected {says}"):
        make_world("exact", **{option: value})
