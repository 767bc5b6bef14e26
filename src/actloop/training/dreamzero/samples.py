"""Clips of a robot's recordings, as the network takes them.

    frames --tiling--> pictures --codec, once for all--> latents in memory
    window of an episode  --anchor at any tick--> blocks; what lies past the episode's end is masked

    past the end      frames repeat the last one; a block's video counts where all of its frames are inside
                      actions count where they are inside; states belong to blocks of which something counts
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from actloop.data.windows import Frames, Windows, WindowSpec
from actloop.errors import ContractError, DataError
from actloop.models.codec import PatchCodec
from actloop.models.dreamzero import Clip, DreamZeroConfig
from actloop.models.dreamzero.embodiments import RobotDeclaration
from actloop.models.text import Vocabulary

ENCODED_AT_ONCE = 512  # pictures
FITTED_ON = 600


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


def fitted_codec(recordings: Sequence[Recording], channels: int) -> PatchCodec:
    """A codec for the pictures of all of them, alike.

    Raises:
        ContractError: they differ in size.
    """
    sizes = {recording.declaration.tiling.size for recording in recordings}
    if len(sizes) != 1:
        raise ContractError("tiling", f"expected pictures of one size from all robots, got {sorted(sizes)}")
    shown = []
    for recording in recordings:
        total = len(recording.data.states)
        count = min(total, FITTED_ON // len(recordings))
        shown.append(recording.pictures(np.linspace(0, total - 1, count).astype(np.int64)))
    return PatchCodec(channels).fit(torch.from_numpy(np.concatenate(shown)))


class ClipSamples:
    """Windows of one robot's recordings as clips. `acts=False`: video alone, whose states and actions are never read.

    Raises:
        ContractError: the declaration has no statistics, or does not fit the network; states or actions are not those
            of the robot, or not finite.
    """

    def __init__(
        self,
        recording: Recording,
        config: DreamZeroConfig,
        *,
        codec: PatchCodec,
        vocabulary: Vocabulary,
        blocks: int,
        validation_share: float,
        acts: bool = True,
    ) -> None:
        self.recording, self.config, self.acts = recording, config, acts
        data, declaration = recording.data, recording.declaration
        if acts:
            declaration.embodiment.state.check(np.asarray(data.states), f"{recording.source}: state")
            declaration.embodiment.action.check(np.asarray(data.actions), f"{recording.source}: action")
            self._states = torch.from_numpy(declaration.normalize_states(np.asarray(data.states), config.state_dim))
        self._words = {text: vocabulary.encode(prompt) for text, prompt in recording.prompts().items()}
        self.latents = self._encoded(codec)
        size = declaration.tiling.size
        declaration.check(config, temporal_stride=codec.temporal_stride, size=size)
        spec = WindowSpec(
            frames=tuple(declaration.frame_offsets(blocks).tolist()),
            actions=blocks * declaration.block_actions,
            states=tuple(declaration.state_offsets(blocks).tolist()),
        )
        held_out = held_out_episodes(len(data.episodes), validation_share)
        kept = [index for index in range(len(data.episodes)) if index not in held_out]
        self.train = Windows(data, spec, kept)
        self.validation = Windows(data, spec, sorted(held_out))

    def clip(self, windows: Windows, indices: Int[np.ndarray, "batch"]) -> Clip:
        """Some windows as one batch, as long as its longest row."""
        at, config, declaration = windows.places(indices), self.config, self.recording.declaration
        size = declaration.block_actions
        inside = rearrange(~at.action_is_pad, "b (n k) -> b n k", k=size)
        used = int(inside.any(-1).sum(1).max())
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
            latents=self.latents[torch.from_numpy(at.frames[:, :frames])].float(),
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

    def _encoded(self, codec: PatchCodec) -> Float[Tensor, "frames channels rows columns"]:
        total, pieces = len(self.recording.data.states), []
        for start in range(0, total, ENCODED_AT_ONCE):
            indices = np.arange(start, min(start + ENCODED_AT_ONCE, total))
            pieces.append(codec.encode(torch.from_numpy(self.recording.pictures(indices))[:, None])[:, 0].half())
        return torch.cat(pieces)


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
    found: dict[str, Tensor | None] = {}
    for field in fields(Clip):
        parts = [getattr(clip, field.name) for clip in clips]
        if any(part is None for part in parts):
            found[field.name] = None
        else:
            found[field.name] = torch.cat([_lengthened(part, lengths.get(field.name)) for part in parts])
    return Clip(**found)  # type: ignore[arg-type]


def moved(clip: Clip, change: Callable[[Tensor], Tensor]) -> Clip:
    """A clip with every tensor changed alike: to another device, say."""
    parts = {field.name: getattr(clip, field.name) for field in fields(Clip)}
    return Clip(**{name: None if part is None else change(part) for name, part in parts.items()})


def _lengthened(x: Tensor, length: int | None) -> Tensor:
    missing = 0 if length is None else length - x.shape[1]
    return x if not missing else torch.cat([x, x.new_zeros(len(x), missing, *x.shape[2:])], dim=1)
