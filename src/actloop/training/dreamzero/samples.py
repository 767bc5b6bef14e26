"""Clips of a robot's recordings, as the network takes them; pictures.py says where their latents come from.

window of an episode  --anchor at any tick--> blocks; what lies past the episode's end is masked

past the end      frames repeat the last one; a block's video counts where all of its frames are inside
                  actions count where they are inside; states belong to blocks of which something counts
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from actloop.data.windows import Frames, Places, Windows, WindowSpec
from actloop.errors import ContractError, DataError
from actloop.models.codec import Codec
from actloop.models.dreamzero import Clip, DreamZeroConfig
from actloop.models.dreamzero.embodiments import RobotDeclaration
from actloop.models.dreamzero.watching import spatial_stride
from actloop.models.text import Instructions


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """A dataset, whose it is, and what identifies it."""

    data: Frames
    declaration: RobotDeclaration
    source: str

    def __post_init__(self) -> None:
        body, data = self.declaration.embodiment, self.data
        if not data.episodes:
            raise DataError(f"{self.source}: has no episodes to train on")
        if abs(data.fps - body.control_hz) > 0.01 * body.control_hz:
            reason = f"recorded at {data.fps:g} Hz; {body.name!r} acts at {body.control_hz:g} Hz"
            raise ContractError(f"{self.source}: fps", reason)

    def pictures(self, indices: Int[np.ndarray, "frames"]) -> np.ndarray:
        """What the network is shown of some frames: uint8 (frames, height, width, 3)."""
        cameras = self.declaration.tiling.cameras
        return self.declaration.picture({name: self.data.images(name, indices) for name in cameras})

    def prompts(self) -> dict[str, str]:
        """Of its instructions."""
        texts = sorted({episode.instruction for episode in self.data.episodes})
        return {text: self.declaration.prompt(text) for text in texts}


class ClipSamples(ABC):
    """Windows of one robot's recordings as clips. `acts=False`: video alone, whose states and actions are never read.

    `at_most`: episodes to train on, evenly spread; 0: all but those held out.

    Raises:
        ContractError: the declaration has no statistics, or does not fit the network; states or actions are not those
            of the robot, or not finite.
    """

    def __init__(
        self,
        recording: Recording,
        config: DreamZeroConfig,
        *,
        codec: Codec,
        text: Instructions,
        blocks: int,
        validation_share: float,
        at_most: int = 0,
        acts: bool = True,
    ) -> None:
        self.recording, self.config, self.acts = recording, config, acts
        data, declaration = recording.data, recording.declaration
        if acts:
            declaration.embodiment.state.check(np.asarray(data.states), f"{recording.source}: state")
            declaration.embodiment.action.check(np.asarray(data.actions), f"{recording.source}: action")
            self._states = torch.from_numpy(declaration.normalize_states(np.asarray(data.states), config.state_dim))
        self._words = {told: text.encode(prompt) for told, prompt in recording.prompts().items()}
        side = spatial_stride(codec)
        size = (config.latent_height * side, config.latent_width * side)
        declaration.check(config, temporal_stride=codec.temporal_stride, size=size)
        spec = WindowSpec(
            frames=tuple(declaration.frame_offsets(blocks).tolist()),
            actions=blocks * declaration.block_actions,
            states=tuple(declaration.state_offsets(blocks).tolist()),
        )
        held_out = held_out_episodes(len(data.episodes), validation_share)
        kept = [index for index in range(len(data.episodes)) if index not in held_out]
        if at_most:
            chosen = np.linspace(0, len(kept) - 1, min(at_most, len(kept))).round().astype(int)
            kept = [kept[index] for index in chosen]
        self.train = Windows(data, spec, kept)
        self.validation = Windows(data, spec, sorted(held_out))
        self._blocks = _used(self.train.places(np.arange(len(self.train))), declaration.block_actions)

    def draw(self, rng: np.random.Generator, size: int, blocks: int) -> Int[np.ndarray, "size"]:
        """Random training windows of which something lies in at least so many blocks, or in one where none is as long.

        Rows of a batch that are alike in length waste nothing on padding.
        """
        wanted = min(blocks, int(self._blocks.max()))
        found = np.zeros(0, np.int64)
        while len(found) < size:
            drawn = self.train.draw(rng, 2 * size)
            found = np.concatenate([found, drawn[self._blocks[drawn] >= wanted]])
        return found[:size]

    def clip(self, windows: Windows, indices: Int[np.ndarray, "batch"], *, blocks: int | None = None) -> Clip:
        """Some windows as one batch, as long as its longest row, or as the first `blocks` of them."""
        at, config, declaration = windows.places(indices), self.config, self.recording.declaration
        size = declaration.block_actions
        inside = rearrange(~at.action_is_pad, "b (n k) -> b n k", k=size)
        used = min(int(_used(at, size).max()), blocks or inside.shape[1])
        frames = 1 + used * declaration.block_frames
        real = rearrange(~at.frame_is_pad[:, 1:frames], "b (n k) -> b n k", n=used).all(-1).sum(1)
        episodes = [self.recording.data.episodes[index] for index in at.episodes]
        shape = (len(indices), used * size)
        states = torch.zeros(len(indices), used, config.state_dim)
        actions = torch.zeros(*shape, config.action_dim)
        counts = torch.zeros(*shape, config.action_dim, dtype=torch.bool)
        if self.acts:
            states = self._states[torch.from_numpy(at.states[:, :used])]
            actions = self._actions(at.actions[:, : shape[1]], at.states[:, :used])
            room = torch.from_numpy(declaration.real_actions(config.action_dim))
            counts = torch.from_numpy(inside[:, :used]).flatten(1)[..., None] & room
        return Clip(
            **self._seen(at.frames[:, :frames]),
            text=torch.stack([self._words[episode.instruction] for episode in episodes]),
            actions=actions * counts,
            states=states,
            counts=counts,
            blocks=torch.from_numpy(np.maximum(real, 1)),
        )

    def _actions(self, actions: np.ndarray, starts: np.ndarray) -> Float[Tensor, "batch actions action"]:
        """Of ticks `actions` (batch, actions), in blocks that start at ticks `starts` (batch, blocks)."""
        data, declaration = self.recording.data, self.recording.declaration
        physical = rearrange(np.asarray(data.actions[actions]), "b (n k) a -> b n k a", n=starts.shape[1])
        told = declaration.normalize_actions(physical, np.asarray(data.states[starts]), self.config.action_dim)
        return torch.from_numpy(told).flatten(1, 2)

    def place(self, device: torch.device) -> None:  # noqa: B027 (nothing to place is the ordinary case)
        """Bring what computes latents to the training device."""

    @abstractmethod
    def _seen(self, frames: Int[np.ndarray, "batch frames"]) -> dict[str, Any]:
        """What a `Clip` holds of these frames: latents and, where the network takes them, condition and image."""


def _used(at: Places, size: int) -> Int[np.ndarray, "batch"]:
    """Blocks of each window of which something is inside the episode."""
    found: np.ndarray = rearrange(~at.action_is_pad, "b (n k) -> b n k", k=size).any(-1).sum(1)
    return found


def held_out_episodes(episodes: int, share: float) -> set[int]:
    """Episodes kept for the validation losses: the same whatever is trained."""
    count = max(1, round(episodes * share)) if episodes > 1 else 0
    return set(np.random.default_rng(0).permutation(episodes)[:count].tolist())


def joined(clips: Sequence[Clip], config: DreamZeroConfig) -> Clip:
    """One batch out of several, the shorter ones padded behind."""
    blocks = max(clip.states.shape[1] for clip in clips)
    lengths = {
        "latents": config.frames(blocks),
        "condition": config.frames(blocks),
        "actions": blocks * config.block_actions,
        "counts": blocks * config.block_actions,
        "states": blocks,
    }
    found: dict[str, Any] = {}
    for field in fields(Clip):
        parts = [getattr(clip, field.name) for clip in clips]
        if any(part is None for part in parts):
            found[field.name] = None
        else:
            found[field.name] = torch.cat([_lengthened(part, lengths.get(field.name)) for part in parts])
    return Clip(**found)


def moved(clip: Clip, change: Callable[[Tensor], Tensor]) -> Clip:
    """A clip with every tensor changed alike: to another device, say."""
    parts = {field.name: getattr(clip, field.name) for field in fields(Clip)}
    found: dict[str, Any] = {name: None if part is None else change(part) for name, part in parts.items()}
    return Clip(**found)


def _lengthened(x: Tensor, length: int | None) -> Tensor:
    missing = 0 if length is None else length - x.shape[1]
    return x if not missing else torch.cat([x, x.new_zeros(len(x), missing, *x.shape[2:])], dim=1)
