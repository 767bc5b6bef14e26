"""The DreamZero that ships: it opens by its name, acts, and is trained by a preset."""

from pathlib import Path

import pytest
import torch

from actloop.cli.trained import train_preset
from actloop.errors import ContractError
from actloop.loop import LatencyProfile, LoopConfig, run_episode
from actloop.models.checkpoint import load_policy
from actloop.models.dreamzero.policy import DreamZeroPolicy
from actloop.presets import DEMO_ARMS, PRESETS, shipped_weights
from actloop.simulation.registry import make_world
from actloop.stack.sources import card_of, source_of
from actloop.training.dreamzero import DreamZeroRecipe

SHIPPED = shipped_weights("tabletop")


@pytest.mark.parametrize("mode", ["4-steps", "flash"])
def test_it_acts(mode: str) -> None:
    torch.set_num_threads(1)
    policy, world = load_policy(SHIPPED["dreamzero"], mode=mode), make_world("tabletop")
    assert isinstance(policy, DreamZeroPolicy)
    result = run_episode(
        world,
        policy,
        world.tasks["pick-red"],
        seed=7000,
        latency=LatencyProfile.constant(50),
        config=LoopConfig(execute_horizon=4, observe_every=0),
    )
    world.close()
    assert result.success, result.outcome


def test_it_says_what_it_is() -> None:
    policy = load_policy(SHIPPED["dreamzero"])
    assert isinstance(policy, DreamZeroPolicy)
    told = policy.describe()
    assert (told["name"], told["variant"], told["memory"]) == (
        "tabletop-dreamzero",
        "dreamzero",
        "sliding, anchor kept",
    )
    assert policy.info.training["video_rows"] == 4
    assert policy.absorb_every == 0, "a block is one frame, the request's own"
    card = card_of(source_of("dreamzero", folder=Path(), path="model", world="tabletop"))
    assert (card.embodiment, card.horizon, card.absorb_every) == (policy.embodiment, policy.horizon, 0)
    assert "dreamzero" not in DEMO_ARMS, "the demo is the paper's variants; `--arms` adds it"


def test_its_preset_is_the_recipe_that_made_it() -> None:
    recipe, policy = PRESETS["tabletop-dreamzero"](), load_policy(SHIPPED["dreamzero"])
    assert isinstance(recipe, DreamZeroRecipe)
    assert isinstance(policy, DreamZeroPolicy)
    told = policy.info.training
    for name in ("steps", "batch_size", "video_rows", "learning_rate"):
        assert getattr(recipe, name) == told[name]
    config = policy.model.config
    for name in ("dim", "layers", "stem_channels", "keypoints", "window_blocks", "predicts_change"):
        assert getattr(recipe.sizes, name) == getattr(config, name)


def test_video_is_for_dreamzero_alone(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="--video: preset 'tabletop-fast' learns from no video alone"):
        train_preset(
            "tabletop-fast", tmp_path, tmp_path / "x.safetensors", steps=1, seed=0, resume=False, video=[tmp_path]
        )
