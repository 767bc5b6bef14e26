"""ALOHA's simulated tasks: the package's own starts, pictures and success test, drawn once instead of three times."""

import importlib.util

import numpy as np
import pytest

if importlib.util.find_spec("gym_aloha") is None:  # not imported here: that would look for a screen
    pytest.skip("the extra 'aloha' is absent", allow_module_level=True)

from actloop.errors import MissingDependency
from actloop.simulation import rendering
from actloop.simulation.aloha import TASKS, open_aloha
from actloop.testing.conformance import check_world

try:
    BACKEND = rendering.gl_backend()
except MissingDependency as error:
    pytest.skip(str(error), allow_module_level=True)


@pytest.mark.parametrize("task", TASKS)
def test_it_conforms(task: str) -> None:
    check_world(lambda: open_aloha(height=24, width=32, shadows=False), task)


def test_pictures_states_and_success_are_the_packages_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", BACKEND)
    world = open_aloha()
    task = world.tasks["transfer-cube"]
    now = world.reset(task, seed=3)
    import gymnasium

    alone = gymnasium.make(TASKS["transfer-cube"][0], obs_type="pixels_agent_pos", disable_env_checker=True)
    seen, _ = alone.reset(seed=3)
    assert np.array_equal(now.images["top"], seen["pixels"]["top"])
    alone.unwrapped._env.task.get_observation = (
        world._running().unwrapped._env.task.get_observation
    )  # to save the drawing
    rng = np.random.default_rng(0)
    for _ in range(20):
        action = world.embodiment.action.clip(now.state + rng.normal(0, 0.2, 14))
        world.apply(action)
        seen, reward, _, _, info = alone.step(action)
        now = world.observe()
        assert np.array_equal(now.state, seen["agent_pos"].astype(np.float32))
        assert (world.outcome() is not None) == info["is_success"] == (reward == 4)
    world.close()


@pytest.mark.parametrize("reward", [3, 4])
def test_only_the_fourth_stage_is_success(monkeypatch: pytest.MonkeyPatch, reward: int) -> None:
    world = open_aloha(height=24, width=32, shadows=False)
    start = world.reset(world.tasks["insertion"], seed=0)
    task = world._running().unwrapped._env.task
    monkeypatch.setattr(task, "get_reward", lambda physics: reward)
    world.apply(world.embodiment.hold(start, None))
    assert (world.outcome() is not None and world.outcome().success) == (reward == 4)
    world.close()


def test_pictures_without_shadows_are_another_renderer() -> None:
    stock, plain = open_aloha(), open_aloha(shadows=False)
    assert stock.embodiment.identity != plain.embodiment.identity
    assert plain.embodiment.cameras[0].renderer == "mujoco-plain"
