"""Meta-World's success test on random ways: ours fires on the raw step on which theirs does, and on no other."""

import numpy as np
import pytest

pytest.importorskip("metaworld", reason="the extra 'metaworld' is absent")

from metaworld.env_dict import ALL_V3_ENVIRONMENTS

from actloop.simulation.metaworld import RAW_STEP, MetaWorld

WAYS = [("drawer-close", 0), ("drawer-close", 1), ("push", 0)]  # one of them succeeds by chance


@pytest.fixture(scope="module")
def blind() -> MetaWorld:
    return MetaWorld(cameras=())


def play(blind: MetaWorld, name: str, seed: int) -> bool:
    theirs = ALL_V3_ENVIRONMENTS[f"{name}-v3"]()
    theirs._freeze_rand_vec, theirs._set_task_called, theirs.seeded_rand_vec = False, True, True
    theirs._partially_observable = False
    theirs.__dict__.pop("sawyer_observation_space", None)
    theirs.seed(seed)
    theirs.reset()
    blind.reset(blind.tasks[name], seed=seed)
    rng = np.random.default_rng(seed)
    raw_steps, solved_at, action = 0, None, np.zeros(4, dtype=np.float32)
    for tick in range(62):
        if tick % 6 == 0:
            action = rng.uniform(-1, 1, 4).astype(np.float32)
        blind.apply(action)
        for _ in range(8):
            *_, info = theirs.step(action)
            raw_steps += 1
            solved_at = solved_at or (raw_steps if info["success"] else None)
        outcome = blind.outcome()
        assert (outcome is not None and outcome.success) == (solved_at is not None)
        if outcome is not None:
            assert not outcome.success or outcome.time == solved_at * RAW_STEP
            break
    return solved_at is not None


def test_success_on_random_ways_is_theirs(blind: MetaWorld) -> None:
    assert len({play(blind, name, seed) for name, seed in WAYS}) == 2, "the ways chosen never, or always, succeed"
