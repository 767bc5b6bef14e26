"""PushT through the Gymnasium wrapper: its own seeds, pictures and success test, unchanged."""

import numpy as np
import pytest

pytest.importorskip("gym_pusht", reason="the extra 'pusht' is absent")

import gymnasium

from actloop.errors import UnknownNameError
from actloop.simulation.pusht import open_pusht
from actloop.simulation.registry import make_world
from actloop.testing.conformance import check_world


def test_it_conforms() -> None:
    check_world(lambda: make_world("pusht", image_size=32), "push-t")


@pytest.mark.parametrize("seed", [0, 5])
def test_it_is_the_packages_own(seed: int) -> None:
    world = open_pusht()
    task = world.tasks["push-t"]
    alone = gymnasium.make("gym_pusht/PushT-v0", obs_type="pixels_agent_pos")
    seen, _ = alone.reset(seed=seed)
    now = world.reset(task, seed=seed)
    rng = np.random.default_rng(seed)
    target, done, ticks = now.state, False, 0
    while not done:
        assert np.array_equal(now.images["image"], seen["pixels"])
        assert np.array_equal(now.state, seen["agent_pos"].astype(np.float32))
        target = np.clip(target + rng.normal(0, 40, 2), 0, 512).astype(np.float32)
        world.apply(target)
        seen, _, terminated, truncated, info = alone.step(target)
        done, ticks, now = terminated or truncated, ticks + 1, world.observe()
        assert (world.outcome() is not None) == done
    assert world.outcome().success == info["is_success"]
    assert world.outcome().time == pytest.approx(ticks / 10)
    world.close()


def test_success_fires_where_theirs_does() -> None:
    world = open_pusht(image_size=16)
    world.reset(world.tasks["push-t"], seed=0)
    env = world._running().unwrapped
    env.agent.position, env.agent.velocity = (20.0, 20.0), (0.0, 0.0)
    env.block.angle = env.goal_pose[2]  # the T on its outline; in this order, as turning it moves it
    env.block.position = env.goal_pose[:2].tolist()
    world.apply(np.array([20.0, 20.0], dtype=np.float32))
    assert env._get_coverage() > 0.95
    assert world.outcome() is not None
    assert world.outcome().success
    world.close()


def test_an_option_that_does_not_exist_suggests_one() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'image_size'"):
        make_world("pusht", imagesize=32)
