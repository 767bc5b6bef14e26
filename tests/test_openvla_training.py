"""Training OpenVLA: it learns, adapters alone where only they should, and pictures change as they may."""

import colorsys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from dots import BODY, dots, picture
from tiny_openvla import network

from actloop.contracts import Observation
from actloop.errors import CheckpointError, ContractError, UnknownNameError
from actloop.models.checkpoint import load_policy
from actloop.models.openvla import OpenVLAPolicy
from actloop.models.openvla.adapters import LowRank, load_adapter
from actloop.models.openvla.network import Head
from actloop.models.openvla.pictures import Pictures
from actloop.models.prismatic import train_tokens
from actloop.training.augmentation import Augmentation, coloured, contrasted
from actloop.training.openvla import (
    ActionBatches,
    OpenVLARecipe,
    adapt,
    fresh_policy,
    idle_prefixes,
    released_lora,
    train_openvla,
)

RECIPE = OpenVLARecipe(head="tokens", horizon=2, steps=60, batch_size=16, learning_rate=1e-2, validate_every=30)


def untrained(folder: Path, recipe: OpenVLARecipe, *, cut: float = 1.0) -> OpenVLAPolicy:
    pictures = replace(Pictures.one_each(BODY), centre_crop=cut)
    data = dots(folder)
    return fresh_policy(network(), data, recipe, embodiment=BODY, unnorm_key="dots", pictures=pictures)


def moves(policy: OpenVLAPolicy, instruction: str) -> np.ndarray:
    obs = Observation(images={"top": picture(0.5)}, state=np.array([0.5, 0.5], np.float32), tick=0, time=0.0)
    return policy.predict(policy.start(instruction, seed=0), obs)[1].chunk.actions


@pytest.mark.parametrize("head", ["tokens", "parallel-tokens", "l1"])
def test_it_learns_which_way_a_word_means(tmp_path: Path, head: Head) -> None:
    recipe = replace(RECIPE, head=head, proprio=head != "tokens")
    policy, data = untrained(tmp_path, recipe), dots(tmp_path)
    out = tmp_path / "out" / "policy.safetensors"
    result = train_openvla(policy, data, recipe, out=out, name="tiny", source="dots", half=False)
    assert result.losses["l1"] < 0.5
    assert ("accuracy" in result.losses) == (head != "l1")
    trained = load_policy(out)
    assert isinstance(trained, OpenVLAPolicy)
    assert (moves(trained, "go left")[:, 0] < -0.03).all()
    assert (moves(trained, "go right")[:, 0] > 0.03).all()
    np.testing.assert_allclose(moves(policy, "go left"), moves(trained, "go left"), atol=1e-5)
    training = trained.info.training
    assert {"steps", "seconds", "data", "validation_l1", "init", "trainable"} <= set(training)
    assert len(result.log.read_text().splitlines()) == -(-recipe.steps // 30)
    assert not result.log.with_name("policy.state").exists()


def test_with_adapters_the_rest_stays_and_what_is_kept_is_what_was_merged(tmp_path: Path) -> None:
    recipe = replace(RECIPE, trainable="lora", lora=LowRank(rank=4, alpha=8), keep_adapter=True, steps=5)
    policy = untrained(tmp_path, recipe)
    out = tmp_path / "policy.safetensors"
    train_openvla(policy, dots(tmp_path), recipe, out=out, name="tiny", source="dots", half=False)
    trained = load_policy(out)
    assert isinstance(trained, OpenVLAPolicy)
    before, after = network().state_dict(), trained.model.vlm.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert "language_model.lm_head.weight" not in changed
    assert "language_model.model.embed_tokens.weight" not in changed
    assert "language_model.model.layers.0.mlp.up_proj.weight" in changed
    assert "vision_backbone.featurizer.blocks.0.attn.qkv.weight" in changed
    assert not any(".blocks.2." in name or "attn_pool" in name for name in changed)  # computed by nobody
    vlm = network()
    load_adapter(vlm, tmp_path / "policy.adapter")
    beside = trained.model.vlm.hidden(trained.model.vlm.embed(None, torch.tensor([[1, 7, 8]])))
    torch.testing.assert_close(vlm.hidden(vlm.embed(None, torch.tensor([[1, 7, 8]]))), beside, atol=1e-4, rtol=1e-4)


def test_what_no_answer_goes_through_does_not_train(tmp_path: Path) -> None:
    recipe = replace(RECIPE, head="l1", proprio=True)
    policy = untrained(tmp_path, recipe)
    adapt(policy.model, recipe)
    batches = ActionBatches(dots(tmp_path), policy, recipe, source="dots")
    policy.model(*batches.training(0, 0))["loss"].mean().backward()
    for name, parameter in policy.model.named_parameters():
        assert parameter.requires_grad == (parameter.grad is not None), name
    assert any(name.startswith(idle_prefixes(policy.model)) for name, _ in policy.model.named_parameters())


def test_batches_follow_from_step_and_micro_batch(tmp_path: Path) -> None:
    recipe = replace(RECIPE, augmentation=Augmentation())
    policy = untrained(tmp_path, recipe, cut=0.9)
    batches = ActionBatches(dots(tmp_path), policy, recipe, source="dots")
    first, again, other = (batches.training(3, micro) for micro in (0, 0, 1))
    assert torch.equal(first[0].pixels, again[0].pixels)
    assert torch.equal(first[1].digits, again[1].digits)
    assert not torch.equal(first[0].pixels, other[0].pixels)
    asked, target = batches.validation(0)
    assert torch.equal(asked.pixels, batches.validation(0)[0].pixels)
    body = untrained(tmp_path, recipe, cut=0.9)
    index = int(np.random.default_rng(0).permutation(10)[0])  # the one episode that is held out
    assert len(asked.ids) == 8
    frames = dots(tmp_path).images("top", np.arange(8 * index, 8 * index + 8))
    shown = body.model.vlm.images([body.pictures.show({"top": frame}) for frame in frames])
    order = np.random.default_rng(1).permutation(8)
    torch.testing.assert_close(asked.pixels, shown[order])  # as the policy itself shows them
    assert target.is_pad.sum() == 1  # the last tick has one action more to come than there is


def test_a_run_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    policy, data = untrained(tmp_path, RECIPE), dots(tmp_path)
    out = tmp_path / "policy.safetensors"
    with pytest.raises(ContractError, match="the recipe says"):
        train_openvla(policy, data, replace(RECIPE, horizon=3), out=out, name="x", source="dots")
    with pytest.raises(CheckpointError, match="nothing to resume"):
        train_openvla(policy, data, RECIPE, out=out, name="x", source="dots", resume=True)
    changed = replace(RECIPE, augmentation=Augmentation())
    with pytest.raises(ContractError, match=r"crops keep 0\.9 of a picture, the policy will be shown 1\.0"):
        train_openvla(policy, data, changed, out=out, name="x", source="dots")
    with pytest.raises(ContractError, match="validation_share"):
        replace(RECIPE, validation_share=1.0)
    data.fps = 5.0
    with pytest.raises(ContractError, match="recorded at 5 Hz"):
        train_openvla(policy, data, RECIPE, out=out, name="x", source="dots")
    with pytest.raises(UnknownNameError, match="did you mean 'lora'"):
        replace(RECIPE, trainable="lorra")
    vlm = network()
    vlm.tokens = train_tokens(["go"], 512, reserved=0)
    vlm.tokens._special = frozenset({vlm.tokens.size - 3})  # type: ignore[misc]
    with pytest.raises(ContractError, match="is a special token"):
        fresh_policy(vlm, dots(tmp_path), RECIPE, embodiment=BODY, unnorm_key="dots")


def test_the_released_recipe_is_the_released_one() -> None:
    recipe = released_lora(head="l1", horizon=8, proprio=True)
    assert (recipe.lora.rank, recipe.lora.alpha, recipe.learning_rate) == (32, 16, 5e-4)
    assert recipe.rate(0) == recipe.rate(recipe.steps - 1) == 1.0  # constant, no warm-up
    assert recipe.augmentation == Augmentation()


# --- changed pictures -------------------------------------------------------------------------------------------------


def test_colours_change_as_the_colour_circle_says() -> None:
    pixels = torch.rand((2, 3, 5, 5), generator=torch.Generator().manual_seed(0))
    factor, turn = torch.tensor([1.3, 0.5])[:, None, None, None], torch.tensor([0.1, -0.04])[:, None, None, None]
    found = coloured(pixels, factor, turn).permute(0, 2, 3, 1)
    for row in range(2):
        for rgb, ours in zip(pixels[row].permute(1, 2, 0).reshape(-1, 3), found[row].reshape(-1, 3), strict=True):
            hue, saturation, value = colorsys.rgb_to_hsv(*rgb.tolist())
            mixed = colorsys.hsv_to_rgb((hue + float(turn[row])) % 1, min(1, saturation * float(factor[row])), value)
            assert ours.tolist() == pytest.approx(mixed, abs=1e-5)
    grey = torch.full((1, 3, 2, 2), 0.4)
    torch.testing.assert_close(coloured(grey, torch.full((1, 1, 1, 1), 2.0), torch.full((1, 1, 1, 1), 0.3)), grey)
    torch.testing.assert_close(contrasted(grey, torch.full((1, 1, 1, 1), 2.0)), grey)


def test_pictures_change_from_their_seed_alone_and_stay_themselves_without_range() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    before = frames.copy()
    change = Augmentation()
    one, again = (change(frames, np.random.default_rng(1)) for _ in range(2))
    np.testing.assert_array_equal(one, again)
    np.testing.assert_array_equal(frames, before)
    assert (one != change(frames, np.random.default_rng(2))).any()
    still = Augmentation(crop_share=1.0, brightness=0.0, contrast=(1.0, 1.0), saturation=(1.0, 1.0), hue=0.0)
    assert np.abs(still(frames, np.random.default_rng(0)).astype(int) - frames).max() <= 1
    with pytest.raises(ContractError, match="crop_share"):
        Augmentation(crop_share=0.0)
