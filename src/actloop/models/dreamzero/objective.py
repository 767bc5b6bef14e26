"""What DreamZero learns: the velocities of video and actions at noise levels of their own, block by block.

noise level   grid of 1000, shifted (flow.py); one per block and row, the anchor has its own
coupled       actions have the level of their block (released default)
decoupled     video near noise, actions anywhere: the last stage, for acting in one step (Flash)
loss          squared error x bell weight of the level, video + action
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from actloop.errors import ContractError
from actloop.models.dreamzero.config import MASK_CHANNELS, DreamZeroConfig
from actloop.models.dreamzero.network import DreamZero, NoisyClip
from actloop.models.flow import TIMESTEPS, bell_weight, shifted

Averaging = Literal["real", "released"]


@dataclass(slots=True, kw_only=True)
class Clip:
    """Normalised clips to learn from; rows with fewer blocks are padded at the end.

    `latents`: the anchor, then blocks. `condition` and `image` as the network takes them, of the anchor. `counts`:
    actions and dimensions with a label; a row where none has one is video alone, and its states are not seen either.
    `blocks`: how many of them are real, in each row.
    """

    latents: Float[Tensor, "batch frames channels height width"]
    text: Shaped[Tensor, "batch tokens ..."]
    actions: Float[Tensor, "batch actions action"]
    states: Float[Tensor, "batch blocks state"]
    counts: Bool[Tensor, "batch actions action"]
    blocks: Int[Tensor, "batch"]
    condition: Float[Tensor, "batch frames extra height width"] | None = None
    image: Float[Tensor, "batch patches features"] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseSchedule:
    """How noise levels are drawn.

    `near_noise`: the video's level, before its shift, is Beta(near_noise, 1): 1 is uniform, more is nearer to noise.
    `decoupled`: actions have levels of their own, uniform before the shift; `per_action` draws one for each action
    (released code) rather than for each block (paper, section on Flash). `bell`: the released weight of a level, which
    is zero for pure noise; without it all levels count alike, which few steps of a sampler need.
    """

    video_shift: float = 5.0
    action_shift: float = 5.0
    near_noise: float = 1.0
    decoupled: bool = False
    per_action: bool = False
    bell: bool = True

    def __post_init__(self) -> None:
        for name in ("video_shift", "action_shift", "near_noise"):
            if getattr(self, name) <= 0:
                raise ContractError(name, f"expected a positive number, got {getattr(self, name)}")
        if self.per_action and not self.decoupled:
            raise ContractError("per_action", "levels per action exist only where they are decoupled from the video's")

    @classmethod
    def flash(cls) -> "NoiseSchedule":
        """Of the paper's last stage: video at Beta(7, 1), actions uniform."""
        return cls(near_noise=7.0, decoupled=True)


@dataclass(slots=True, kw_only=True)
class Draws:
    """The randomness of one training step; levels are 0 (data) to 1 (noise)."""

    video_noise: Float[Tensor, "batch frames channels height width"]
    video_level: Float[Tensor, "batch frames"]
    action_noise: Float[Tensor, "batch actions action"]
    action_level: Float[Tensor, "batch actions"]


def draw(config: DreamZeroConfig, schedule: NoiseSchedule, clip: Clip, generator: torch.Generator) -> Draws:
    """All randomness of a step, in fp32, drawn where the generator lives."""
    batch, frames = clip.latents.shape[:2]
    blocks, device = config.blocks(frames), generator.device

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, device=device)

    def level(drawn: Tensor, shift: float, near_noise: float = 1.0) -> Tensor:
        index = ((1 - drawn ** (1 / near_noise)) * TIMESTEPS).floor().clamp(max=TIMESTEPS - 1)
        return shifted(1 - index / TIMESTEPS, shift)

    own = uniform(batch, 1 + blocks)
    per_frame = torch.cat([own[:, :1], own[:, 1:].repeat_interleave(config.block_frames, dim=1)], dim=1)
    actions = own[:, 1:].repeat_interleave(config.block_actions, dim=1)
    near_noise = schedule.near_noise
    if schedule.decoupled:
        near_noise = 1.0
        actions = uniform(batch, blocks * config.block_actions if schedule.per_action else blocks)
        actions = actions.repeat_interleave(1 if schedule.per_action else config.block_actions, dim=1)
    draws = Draws(
        video_level=level(per_frame, schedule.video_shift, schedule.near_noise),
        action_level=level(actions, schedule.action_shift, near_noise),
        video_noise=torch.randn(clip.latents.shape, generator=generator, device=device),
        action_noise=torch.randn(clip.actions.shape, generator=generator, device=device),
    )
    here = clip.latents.device
    return Draws(**{name: getattr(draws, name).to(here) for name in Draws.__slots__})


def losses(
    model: DreamZero,
    clip: Clip,
    draws: Draws,
    schedule: NoiseSchedule,
    *,
    averaging: Averaging = "real",
) -> dict[str, Float[Tensor, "batch"]]:
    """`video`, `action` and their sum `total`, per row.

    `averaging`: over real frames, actions and dimensions; or as "released", over all, so that padding dilutes the loss.

    Raises:
        ContractError: parts that do not fit together, or a row of no blocks or of more than there are.
    """
    config, (batch, frames) = model.config, clip.latents.shape[:2]
    blocks = config.blocks(frames)
    if clip.blocks.shape != (batch,) or bool((clip.blocks < 1).any()) or bool((clip.blocks > blocks).any()):
        raise ContractError("clip.blocks", f"expected {batch} numbers from 1 to {blocks}, got {clip.blocks.tolist()}")
    acts = clip.counts.any(dim=(1, 2))
    acting = bool(acts.any())
    latents = clip.latents.float()
    noisy = NoisyClip(
        video=_noised(latents, draws.video_noise, draws.video_level),
        video_time=draws.video_level * TIMESTEPS,
        clean=latents,
        condition=clip.condition,
        actions=_noised(clip.actions.float(), draws.action_noise, draws.action_level) if acting else None,
        action_time=draws.action_level * TIMESTEPS if acting else None,
        states=clip.states if acting else None,
        acts=None if bool(acts.all()) else acts,
    )
    found = model(noisy, model.context(clip.text, clip.image))
    error = (found.video.float() - (draws.video_noise - latents)).square().mean((2, 3, 4))
    if config.predicts_change:  # the error of the predicted frame itself, not divided by its noise
        error = error * draws.video_level.square()
    weighted = error * _weight(draws.video_level, schedule.video_shift, schedule.bell)
    real = _real(config, clip.blocks, frames, averaging)
    if config.predicts_change:
        real[:, 0] = 0  # an anchor changes against nothing
    parts = {"video": (weighted * real).sum(1) / real.sum(1), "action": torch.zeros(batch, device=latents.device)}
    if found.actions is not None:
        error = (found.actions.float() - (draws.action_noise - clip.actions)).square()
        weight = _weight(draws.action_level, schedule.action_shift, schedule.bell)
        parts["action"] = _action_loss(error, weight, clip.counts, averaging)
    return {**parts, "total": parts["video"] + parts["action"]}


def loss(
    model: DreamZero,
    clip: Clip,
    schedule: NoiseSchedule,
    *,
    generator: torch.Generator,
    averaging: Averaging = "real",
) -> dict[str, Float[Tensor, "batch"]]:
    """`losses` with randomness of its own."""
    return losses(model, clip, draw(model.config, schedule, clip, generator), schedule, averaging=averaging)


def first_frame_condition(
    latents: Float[Tensor, "batch frames channels height width"],
) -> Float[Tensor, "batch frames extra height width"]:
    """The condition of every frame, from the latents of [the anchor's picture, grey pictures (0 in -1..1) after it].

    Four channels are 1 on the first latent frame and 0 after it; the latents follow.
    """
    batch, frames, _, height, width = latents.shape
    mask = latents.new_zeros(batch, frames, MASK_CHANNELS, height, width)
    mask[:, 0] = 1
    return torch.cat([mask, latents], dim=2)


def _noised(data: Tensor, noise: Tensor, level: Float[Tensor, "batch steps"]) -> Tensor:
    level = level.reshape(*level.shape, *[1] * (data.ndim - 2))
    return (1 - level) * data + level * noise


def _weight(level: Float[Tensor, "batch steps"], shift: float, bell: bool) -> Float[Tensor, "batch steps"]:
    if not bell:
        return torch.ones_like(level)
    return bell_weight(level.flatten(), shift).reshape(level.shape)


def _real(config: DreamZeroConfig, blocks: Tensor, frames: int, averaging: Averaging) -> Float[Tensor, "batch frames"]:
    if averaging == "released":
        return torch.ones(len(blocks), frames, device=blocks.device)
    return (torch.arange(frames, device=blocks.device) < 1 + blocks[:, None] * config.block_frames).float()


def _action_loss(error: Tensor, weight: Tensor, counts: Tensor, averaging: Averaging) -> Float[Tensor, "batch"]:
    if averaging == "released":
        return ((error * counts).mean(2) * weight).mean(1)
    per_action = (error * counts).sum(2) / counts.sum(2).clamp(min=1) * weight
    return per_action.sum(1) / counts.any(2).sum(1).clamp(min=1)
