"""What DreamZero's loss counts, how its noise is drawn, and that the tiny network learns."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from actloop.errors import ContractError
from actloop.models.dreamzero import (
    Clip,
    Draws,
    DreamZero,
    DreamZeroConfig,
    NoiseSchedule,
    draw,
    first_frame_condition,
    loss,
    losses,
)
from actloop.models.flow import shifted


def network(**changes: object) -> DreamZero:
    torch.manual_seed(0)
    return DreamZero(DreamZeroConfig.tiny(**changes)).eval()


def clip_of(config: DreamZeroConfig, *, rows: int = 2, blocks: int = 2, seed: int = 3) -> Clip:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(rows, *shape, generator=generator)

    frames, sides = config.frames(blocks), (config.latent_height, config.latent_width)
    actions = normal(blocks * config.block_actions, config.action_dim).clamp(-1, 1)
    counts = torch.ones_like(actions, dtype=torch.bool)
    counts[..., -1] = False
    return Clip(
        latents=normal(frames, config.latent_channels, *sides),
        text=normal(config.text_tokens, config.text_dim),
        image=normal(config.image_tokens, config.image_dim),
        condition=normal(frames, config.condition_channels, *sides),
        actions=actions,
        states=normal(blocks, config.state_dim),
        counts=counts,
        blocks=torch.full((rows,), blocks),
    )


def drawn(config: DreamZeroConfig, schedule: NoiseSchedule, clip: Clip, seed: int = 5) -> Draws:
    return draw(config, schedule, clip, torch.Generator().manual_seed(seed))


def test_coupled_actions_have_the_level_of_their_block_and_the_anchor_its_own() -> None:
    config = DreamZeroConfig.tiny()
    draws = drawn(config, NoiseSchedule(), clip_of(config, rows=64, blocks=3))
    blocks = draws.video_level[:, 1:].unflatten(1, (3, config.block_frames))
    assert (blocks == blocks[:, :, :1]).all()
    actions = draws.action_level.unflatten(1, (3, config.block_actions))
    assert (actions == blocks[:, :, :1]).all()
    assert (draws.video_level[:, 0] != draws.video_level[:, 1]).float().mean() > 0.9
    assert 0 < draws.video_level.min() < 0.2 < 0.99 < draws.video_level.max() <= 1
    grid = shifted(1 - torch.arange(1000) / 1000, 5.0)
    assert (draws.video_level[..., None] == grid).any(-1).all()


def test_flash_draws_video_near_noise_and_actions_anywhere() -> None:
    config, schedule = DreamZeroConfig.tiny(), replace(NoiseSchedule.flash(), video_shift=1.0, action_shift=1.0)
    draws = drawn(config, schedule, clip_of(config, rows=512, blocks=3))
    assert draws.video_level.mean().item() == pytest.approx(7 / 8, abs=0.01), "Beta(7, 1)"
    assert draws.action_level.mean().item() == pytest.approx(0.5, abs=0.03)
    actions = draws.action_level.unflatten(1, (3, config.block_actions))
    assert (actions == actions[..., :1]).all(), "one level per block"
    each = drawn(config, replace(schedule, per_action=True), clip_of(config, rows=512, blocks=3))
    actions = each.action_level.unflatten(1, (3, config.block_actions))
    assert (actions != actions[..., :1])[..., 1:].float().mean() > 0.9
    with pytest.raises(ContractError, match="per_action"):
        NoiseSchedule(per_action=True)
    with pytest.raises(ContractError, match="near_noise"):
        NoiseSchedule(near_noise=0.0)


@torch.no_grad()
def test_the_real_loss_counts_real_dimensions_alone() -> None:
    model = network()
    clip, schedule = clip_of(model.config), NoiseSchedule()
    draws = drawn(model.config, schedule, clip)
    real = losses(model, clip, draws, schedule)
    released = losses(model, clip, draws, schedule, averaging="released")
    share = (model.config.action_dim - 1) / model.config.action_dim
    assert torch.allclose(released["action"], share * real["action"], rtol=1e-5)
    assert torch.equal(released["video"], real["video"])
    assert torch.equal(real["total"], real["video"] + real["action"])
    wrong = clip.actions.clone()
    wrong[..., -1] = (
        0.3  # what does not count changes what the network sees, as noise of another colour, not the target
    )
    noise = draws.action_noise.clone()
    noise[..., -1] = (
        (1 - draws.action_level) * clip.actions[..., -1] + draws.action_level * noise[..., -1]
        - (1 - draws.action_level) * 0.3
    ) / draws.action_level  # fmt: skip
    other = losses(model, replace(clip, actions=wrong), replace(draws, action_noise=noise), schedule)
    assert torch.allclose(other["action"], real["action"], rtol=1e-4)


@torch.no_grad()
def test_padded_blocks_change_nothing() -> None:
    model, schedule = network(), NoiseSchedule()
    config = model.config
    clip = clip_of(config, blocks=3)
    draws = drawn(config, schedule, clip)
    frames, actions = config.frames(2), 2 * config.block_actions
    counts = clip.counts.clone()
    counts[1, actions:] = False
    padded = losses(model, replace(clip, blocks=torch.tensor([3, 2]), counts=counts), draws, schedule)
    assert clip.condition is not None
    assert clip.image is not None
    alone = Clip(
        latents=clip.latents[1:, :frames],
        text=clip.text[1:],
        image=clip.image[1:],
        condition=clip.condition[1:, :frames],
        actions=clip.actions[1:, :actions],
        states=clip.states[1:, :2],
        counts=clip.counts[1:, :actions],
        blocks=torch.tensor([2]),
    )
    cut = Draws(
        video_noise=draws.video_noise[1:, :frames],
        video_level=draws.video_level[1:, :frames],
        action_noise=draws.action_noise[1:, :actions],
        action_level=draws.action_level[1:, :actions],
    )
    own = losses(model, alone, cut, schedule)
    for name, value in own.items():
        assert torch.allclose(padded[name][1:], value, rtol=1e-5), name
    for blocks in ([3, 4], [0, 3]):
        with pytest.raises(ContractError, match=r"clip\.blocks"):
            losses(model, replace(clip, blocks=torch.tensor(blocks)), draws, schedule)


def test_rows_of_video_alone_teach_nothing_about_actions_and_learn_nothing_from_them() -> None:
    model, schedule = network(), NoiseSchedule()
    clip = clip_of(model.config)
    counts = clip.counts.clone()
    counts[1] = False
    draws = drawn(model.config, schedule, clip)
    found = losses(model, replace(clip, counts=counts), draws, schedule)
    assert found["action"][1] == 0
    assert found["action"][0] > 0
    assert found["video"][1] > 0
    found["total"][1].backward()
    silent = ("action_encoder", "action_decoder", "state_encoder")
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert not [name for name, grad in gradients.items() if name.startswith(silent) and grad.any()]
    assert gradients["patch_embedding.weight"].any()
    moved = replace(clip, counts=counts, actions=clip.actions - 0.5 * torch.eye(2)[:, 1:, None], states=clip.states + 1)
    assert torch.equal(losses(model, moved, draws, schedule)["video"][1], found["video"][1])
    alone = losses(model, replace(clip, counts=torch.zeros_like(counts)), draws, schedule)
    assert torch.allclose(alone["video"][1], found["video"][1], rtol=1e-5)
    assert (alone["action"] == 0).all()


def test_a_validation_loss_needs_no_gradients_and_equals_the_training_one() -> None:
    model, schedule = network(), NoiseSchedule()
    clip = clip_of(model.config)
    trained = loss(model, clip, schedule, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        validated = loss(model, clip, schedule, generator=torch.Generator().manual_seed(1))
    assert torch.equal(trained["total"], validated["total"])
    model.checkpointed = True
    again = loss(model, clip, schedule, generator=torch.Generator().manual_seed(1))
    assert torch.equal(trained["total"], again["total"])
    again["total"].sum().backward()
    assert model.blocks[0].get_parameter("self_attn.q.weight").grad is not None


def test_the_tiny_network_learns_a_clip() -> None:
    model = network(image_tokens=0, first_frame_condition=False, vocabulary=5).train()
    clip = replace(clip_of(model.config), image=None, condition=None, text=torch.tensor([[1, 2, 0], [3, 4, 2]]))
    schedule = NoiseSchedule()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)

    def validation() -> float:
        with torch.no_grad():
            return float(loss(model, clip, schedule, generator=torch.Generator().manual_seed(9))["total"].mean())

    before = validation()
    for step in range(40):
        optimizer.zero_grad()
        loss(model, clip, schedule, generator=torch.Generator().manual_seed(step))["total"].mean().backward()
        optimizer.step()
    assert validation() < 0.8 * before


def test_the_first_frame_condition_marks_the_first_frame() -> None:
    latents = torch.randn(1, 3, 2, 4, 4)
    condition = first_frame_condition(latents)
    assert condition.shape == (1, 3, 6, 4, 4)
    assert (condition[:, 0, :4] == 1).all()
    assert (condition[:, 1:, :4] == 0).all()
    assert torch.equal(condition[:, :, 4:], latents)
