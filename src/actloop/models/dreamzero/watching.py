"""What a robot has seen, and how it becomes memory: frames by tick, encoded block after block.

    picture, picture, ... --every `frame_ticks`--> block of frames --codec--> latents --observe--> Memory

Memory ends at a tick. A chunk is asked for at a tick, and what memory needs for it are the frames at equal steps before
that tick: where whole blocks lie between the two, they are added; else the window is encoded anew, from an anchor whole
blocks before the tick. A frame that nobody showed is stood in for by the one before it, if that is younger than a
block. Nothing that a session holds is changed afterwards: a step copies the memory that it adds to.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from actloop.errors import ContractError, UnknownNameError
from actloop.models.codec import PATCH, Codec
from actloop.models.dreamzero.embodiments import RobotDeclaration
from actloop.models.dreamzero.image import ImageTower
from actloop.models.dreamzero.layers import Words
from actloop.models.dreamzero.objective import first_frame_condition
from actloop.models.dreamzero.session import Anchor, DreamZeroActor, Session
from actloop.models.dreamzero.streaming import VideoStream
from actloop.models.wan.vae import WanCodec

Encoding = Literal["stream", "apart"]
ENCODINGS: tuple[Encoding, ...] = get_args(Encoding)
Anchoring = Literal["kept", "moved"]
ANCHORINGS: tuple[Anchoring, ...] = get_args(Anchoring)
GREY = 128  # uint8, for codecs that take no others

Picture = UInt8[np.ndarray, "height width 3"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenFrame:
    """All cameras at one tick, as the network is shown them."""

    tick: int
    picture: Picture


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """Memory up to the frame of `tick`. `latents`: the anchor's and the blocks' of the window, oldest first; `ahead`:
    of the block after it, what has been encoded already."""

    tick: int
    session: Session
    stream: VideoStream | None
    latents: tuple[Float[Tensor, "1 frames channels height width"], ...]
    ahead: tuple[Float[Tensor, "1 frames channels height width"], ...] = ()


class Watcher:
    """Turns frames into memory, for any number of sessions; holds nothing of theirs.

    `encoding`: a block goes on from the frames before it, as in training ("stream"), or is encoded apart behind a
    repeated frame, as the released loop does it ("apart"). `anchoring`: past the window the network's own `memory`
    rules, with the first anchor ("kept"); or the window is encoded anew with the frame before it as the anchor, as in
    every clip of the training ("moved"). `encoded` counts blocks and anchors, `frames_encoded` pictures.
    """

    def __init__(
        self,
        actor: DreamZeroActor,
        codec: Codec,
        declaration: RobotDeclaration,
        *,
        tower: ImageTower | None = None,
        encoding: Encoding = "stream",
        anchoring: Anchoring = "kept",
    ) -> None:
        """`tower`: of a network that is shown the anchor's picture.

        Raises:
            ContractError: network, codec, tower and robot do not fit each other.
            UnknownNameError: no such encoding or anchoring.
        """
        config = actor.config
        side = spatial_stride(codec)
        size = (config.latent_height * side, config.latent_width * side)
        declaration.check(config, temporal_stride=codec.temporal_stride, size=size)
        if (tower is None) == bool(config.image_tokens):
            has = "none" if tower is None else "one"
            raise ContractError("tower", f"the network takes {config.image_tokens} image tokens, got {has}")
        if encoding not in ENCODINGS:
            raise UnknownNameError("encoding", encoding, ENCODINGS)
        if anchoring not in ANCHORINGS:
            raise UnknownNameError("anchoring", anchoring, ANCHORINGS)
        self.actor, self.codec, self.declaration = actor, codec, declaration
        self.tower, self.encoding, self.anchoring = tower, encoding, anchoring
        self.encoded = self.frames_encoded = 0

    @property
    def span(self) -> int:
        """Ticks before the newest frame that can still be asked for."""
        return self.actor.config.window_blocks * self.declaration.block_actions

    def seen(self, frames: tuple[SeenFrame, ...], tick: int, picture: Picture) -> tuple[SeenFrame, ...]:
        """The frames with a newer one; those too old to be asked for are left out.

        Raises:
            ContractError: it is older than the newest one.
        """
        if frames and tick <= frames[-1].tick:
            if tick == frames[-1].tick:
                return frames
            raise ContractError("observation.tick", f"expected {frames[-1].tick} or later, got {tick}: start anew")
        first = next((i for i, frame in enumerate(frames) if frame.tick >= tick - self.span), len(frames))
        return (*frames[max(0, first - 1) :], SeenFrame(tick=tick, picture=picture))

    def due(self, past: Past | None, frames: Sequence[SeenFrame]) -> bool:
        """Whether the newest frame is the first one, or completes the block after memory with none missing."""
        if past is None:
            return True
        newest = frames[-1].tick
        if newest != past.tick + self.declaration.block_actions:
            return False
        shown = {frame.tick for frame in frames}
        return all(tick in shown for tick in self._ticks(newest))

    def prepared(self, past: Past, frames: Sequence[SeenFrame]) -> Past:
        """With what has arrived of the next block encoded, as far as the codec takes it before the block is whole."""
        stride, block = self.codec.temporal_stride, self.declaration.block_actions
        apart = self.encoding == "apart" and past.stream is not None
        if apart or past.session.spent or not self._takes(past, 1):
            return past
        shown = {frame.tick: frame.picture for frame in frames}
        wanted = self._ticks(past.tick + block)[self._done(past) :]
        pictures = list(takewhile(lambda one: one is not None, map(shown.get, wanted)))
        ready = len(pictures) // stride * stride
        if not ready:
            return past
        stream = None if past.stream is None else past.stream.clone()
        latents = self._one(torch.from_numpy(np.stack(pictures[:ready]))[None], stream)  # type: ignore[arg-type]
        return replace(past, stream=stream, ahead=(*past.ahead, latents))

    def reach(self, past: Past | None, frames: Sequence[SeenFrame], words: Words) -> Past:
        """Memory up to the newest frame."""
        tick, block = frames[-1].tick, self.declaration.block_actions
        if past is not None and (tick - past.tick) % block == 0:
            ends = range(past.tick + block, tick + 1, block)
            blocks = [self._block(frames, end) for end in ends]
            if self._takes(past, len(blocks)) and all(one is not None for one in blocks):
                for end, pictures in zip(ends, blocks, strict=True):
                    assert pictures is not None
                    past = self._extended(past, pictures, end, words)
                return past
        return self._rebuilt(frames, words)

    # blocks

    def _takes(self, past: Past, blocks: int) -> bool:
        """Whether so many blocks are added, rather than the window encoded anew."""
        config = self.actor.config
        if self.anchoring == "moved":
            return not blocks or past.session.memory.frames + blocks * config.block_frames <= config.frames(
                config.window_blocks - 1
            )
        return blocks <= config.window_blocks

    def _rebuilt(self, frames: Sequence[SeenFrame], words: Words) -> Past:
        """From the oldest anchor that whole blocks lead from to the newest frame."""
        tick, block = frames[-1].tick, self.declaration.block_actions
        later: list[tuple[int, Sequence[Picture]]] = []
        for _ in range(self.actor.config.window_blocks - 1):
            end = tick - len(later) * block
            pictures = self._block(frames, end)
            if pictures is None or self._at(frames, end - block) is None:
                break
            later.append((end, pictures))
        start = tick - len(later) * block
        picture = self._at(frames, start)
        assert picture is not None
        past = self._anchored(picture, start, words)
        for end, pictures in reversed(later):
            latents = self._add(past, pictures)
            past = replace(past, tick=end, latents=self._kept(past.latents, latents))
        return past

    def _extended(self, past: Past, pictures: Sequence[Picture], tick: int, words: Words) -> Past:
        if past.session.spent:
            return self._anchored(pictures[-1], tick, words)
        copied = replace(
            past, session=past.session.clone(), stream=None if past.stream is None else past.stream.clone()
        )
        latents = self._add(copied, pictures)
        return replace(copied, tick=tick, latents=self._kept(past.latents, latents), ahead=())

    def _add(self, past: Past, pictures: Sequence[Picture]) -> Tensor:
        """A block to a memory that nobody else holds; its latents."""
        latents = self._encode(past, pictures)
        self.actor.observe(past.session, latents)
        self.encoded += 1
        return latents

    def _anchored(self, picture: Picture, tick: int, words: Words) -> Past:
        """A memory of one frame."""
        frame = torch.from_numpy(picture)[None]
        stream = VideoStream(self.codec) if isinstance(self.codec, WanCodec) else None
        latents = self._one(frame[:, None], stream)
        anchor = Anchor(
            latents=latents,
            condition=anchor_condition(self.codec, frame, self.actor.config.window_frames)
            if self.actor.config.first_frame_condition
            else None,
            image=None if self.tower is None else self.tower.encode(frame).float(),
        )
        self.encoded += 1
        return Past(tick=tick, session=self.actor.start(words, anchor), stream=stream, latents=(latents,))

    def _encode(self, past: Past, pictures: Sequence[Picture]) -> Tensor:
        frames = torch.from_numpy(np.stack(pictures[self._done(past) :]))[None]
        if self.encoding == "apart" and past.stream is not None:
            self.frames_encoded += 1 + frames.shape[1]
            return self.codec.encode(torch.cat([frames[:, :1], frames], dim=1))[:, 1:]
        return torch.cat([*past.ahead, self._one(frames, past.stream)], dim=1)

    def _done(self, past: Past) -> int:
        """Pictures of the next block that have been encoded."""
        return sum(part.shape[1] for part in past.ahead) * self.codec.temporal_stride

    def _one(self, frames: Tensor, stream: VideoStream | None) -> Tensor:
        self.frames_encoded += frames.shape[1]
        return self.codec.encode(frames.to(self.actor.model.device)) if stream is None else stream.encode(frames)

    def _kept(self, latents: tuple[Tensor, ...], new: Tensor) -> tuple[Tensor, ...]:
        return (*latents, new)[-self.actor.config.window_blocks :]

    # frames

    def _ticks(self, end: int) -> list[int]:
        """Of the frames of a block that ends at `end`."""
        declared = self.declaration
        return [end - declared.frame_ticks * back for back in reversed(range(declared.block_frames))]

    def _block(self, frames: Sequence[SeenFrame], end: int) -> list[Picture] | None:
        found = [self._at(frames, tick) for tick in self._ticks(end)]
        known = [picture for picture in found if picture is not None]
        return known if len(known) == len(found) else None

    def _at(self, frames: Sequence[SeenFrame], tick: int) -> Picture | None:
        """The newest frame up to `tick`, unless it is a block older."""
        for frame in reversed(frames):
            if frame.tick <= tick:
                return frame.picture if tick - frame.tick < self.declaration.block_actions else None
        return None


def spatial_stride(codec: Codec) -> int:
    """Pixels per side of a latent."""
    return codec.spatial_stride if isinstance(codec, WanCodec) else PATCH


def anchor_condition(
    codec: Codec, frames: UInt8[Tensor, "batch height width 3"], window_frames: int
) -> Float[Tensor, "batch window_frames extra rows columns"]:
    """The first-frame condition (objective.py) of anchors: a picture, then grey for the rest of a window."""
    later = (window_frames - 1) * codec.temporal_stride
    if isinstance(codec, WanCodec):
        first = frames.to(codec.device).permute(0, 3, 1, 2)[:, :, None].float() / 127.5 - 1
        video = torch.cat([first, first.new_zeros(*first.shape[:2], later, *first.shape[3:])], dim=2)
        return first_frame_condition(codec.encode_video(video))
    grey = torch.full_like(frames[:, None], GREY).expand(-1, later, -1, -1, -1)
    return first_frame_condition(codec.encode(torch.cat([frames[:, None], grey], dim=1)))
