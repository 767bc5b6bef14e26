"""The acting form's memory: keys and values of the frames seen, in every layer, in buffers that never grow.

    tokens of a buffer    [actions | state | current block | anchor | past blocks, a ring]

What is asked fills the front, what was seen lies behind it, so that a call sees one slice. Frames are written once they
are observed; what was only imagined is never kept.

Past the window the ring's oldest block is overwritten. Positions count from the anchor through the window, as in a
clip of the window alone: each time it slides, the keys in it are turned back by a block. A block that left still shows
in what later blocks made of it; `memory="recomputed"` (session.py) computes the window anew instead. The released rule
cuts at frames, anchor included, and counts on (`memory="released"`).
"""

import torch
from jaxtyping import Float
from torch import Tensor

from actloop.errors import ContractError
from actloop.models.dreamzero.config import DreamZeroConfig
from actloop.models.dreamzero.layers import Attend, mixed, split
from actloop.models.dreamzero.positions import Turns, counted_turns, moved, moved_turns, video_turns
from actloop.models.layers import rotate


class Memory:
    """What a session has seen, for `batch` rows; calls to a network change it in place."""

    def __init__(self, config: DreamZeroConfig, batch: int, *, device: torch.device, dtype: torch.dtype) -> None:
        self.config = config
        frame, block = config.frame_tokens, config.block_frames * config.frame_tokens
        self.current_at = config.block_actions + 1
        self.past_at = self.current_at + block
        tokens = self.past_at + frame + (config.window_blocks - 1) * block
        shape = (batch, config.heads, tokens, config.head_dim)
        self.keys = [torch.zeros(shape, device=device, dtype=dtype) for _ in range(config.layers)]
        self.values = [torch.zeros(shape, device=device, dtype=dtype) for _ in range(config.layers)]
        self.frames = 0
        self.newest: Tensor | None = None  # the newest frame's latents
        self.looked: Tensor | None = None  # what a stem found in it
        self.device = device

    @property
    def batch(self) -> int:
        return len(self.keys[0])

    @property
    def kept(self) -> int:
        """Frames that can be seen."""
        return min(self.frames, self.config.frames(self.config.window_blocks - 1))

    @property
    def first(self) -> int:
        """Position of the next frame."""
        return self.frames if self.config.memory == "released" else self.kept

    @property
    def number(self) -> int:
        """Position of the next block among blocks."""
        return (self.first - 1) // self.config.block_frames

    def forget(self, frames: int = 0) -> None:
        """Keep the first `frames` frames: none, or the anchor.

        Raises:
            ContractError: more than the anchor, or an anchor that was never seen or has been overwritten.
        """
        if frames > 1 or frames > self.frames or (frames and self.frames > self.kept and not self._pinned):
            raise ContractError("memory.frames", f"cannot go back to {frames} of {self.frames} frames")
        self.frames = frames

    def clone(self) -> "Memory":
        """The same memory, apart."""
        other = object.__new__(Memory)
        other.__dict__.update(self.__dict__)
        other.keys, other.values = [x.clone() for x in self.keys], [x.clone() for x in self.values]
        return other

    def seen(self, layer: int) -> Float[Tensor, "2 batch heads tokens dim"]:
        """Keys (turned) and values of the frames that can be seen, oldest first."""
        order = sorted(range(self.frames - self.kept, self.frames) if not self._pinned else self._pinned_frames())
        size = self.config.frame_tokens
        at = [slice(start, start + size) for start in (self._place(frame) for frame in order)]
        both = torch.stack([self.keys[layer], self.values[layer]])
        return torch.cat([both[:, :, :, part] for part in at], dim=3)

    # what a network asks for

    def turns(self, frames: int, *, acting: bool) -> Turns:
        """Positions of [next frames | actions | state]."""
        parts = [video_turns(self.config, self.first, frames, self.device)]
        if acting:
            size = self.config.block_actions
            parts.append(counted_turns(self.config, self.number * size, size, self.device))
            parts.append(counted_turns(self.config, self.number, 1, self.device))
        return torch.cat(parts)

    def denoising(self, layer: int, turns: Turns, *, acting: bool) -> Attend:
        """Attention of [current block | actions | state] to the memory and itself."""
        config = self.config
        video = config.block_frames * config.frame_tokens
        end = self.past_at + self.kept * config.frame_tokens
        start = 0 if acting else self.current_at
        alone = acting and not config.state_sees_all

        def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            asked = rotate(query, turns).transpose(1, 2)
            self._write(layer, rotate(key, turns).transpose(1, 2), split(value, config.heads), video)
            seen = self.keys[layer][:, :, start:end], self.values[layer][:, :, start:end]
            if not alone:
                return mixed(asked, seen)
            return torch.cat([mixed(asked[:, :, :-1], seen), value[:, -1:]], dim=1)

        return attend

    def observing(self, layer: int, turns: Turns, frames: int) -> Attend:
        """Attention of observed frames, the anchor or a block, to the memory and themselves; they are kept."""
        config = self.config
        tokens = frames * config.frame_tokens

        def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            keys, values = self.keys[layer], self.values[layer]
            new = rotate(key, turns).transpose(1, 2), split(value, config.heads)
            start = self.past_at - tokens
            end = self.past_at + self.kept * config.frame_tokens
            for buffer, part in zip((keys, values), new, strict=True):
                buffer[:, :, start : self.past_at] = part
            out = mixed(rotate(query, turns).transpose(1, 2), (keys[:, :, start:end], values[:, :, start:end]))
            self._keep(layer, new, frames)
            return out

        return attend

    def observed(self, frames: int) -> None:
        """All layers have seen these frames."""
        self.frames += frames

    def _write(self, layer: int, key: Tensor, value: Tensor, video: int) -> None:
        """What is asked, to the front: actions and state first."""
        acting = key.shape[2] - video
        for buffer, part in ((self.keys[layer], key), (self.values[layer], value)):
            buffer[:, :, self.current_at : self.past_at] = part[:, :, :video]
            if acting:
                buffer[:, :, :acting] = part[:, :, video:]

    def _keep(self, layer: int, new: tuple[Tensor, Tensor], frames: int) -> None:
        config, size = self.config, self.config.frame_tokens
        capacity = config.frames(config.window_blocks - 1)
        for buffer, part in zip((self.keys[layer], self.values[layer]), new, strict=True):
            for index in range(frames):
                if config.window_blocks == 1 and self.frames + index and self._pinned:
                    continue  # a window of the current block alone: nothing but the anchor is kept
                start = self._place(self.frames + index)
                buffer[:, :, start : start + size] = part[:, :, index * size : (index + 1) * size]
        if self._pinned and self.frames + frames > capacity and capacity > 1:
            ring = self.keys[layer][:, :, self.past_at + size :]
            ring.copy_(moved(ring, moved_turns(config, -config.block_frames, self.device)))

    @property
    def _pinned(self) -> bool:
        """Whether the anchor stays."""
        return self.config.memory != "released"

    def _place(self, frame: int) -> int:
        """Where a frame's tokens are."""
        capacity = self.config.frames(self.config.window_blocks - 1)
        if not self._pinned:
            slot = frame % capacity
        else:
            slot = 0 if frame == 0 else 1 + (frame - 1) % (capacity - 1)
        return self.past_at + slot * self.config.frame_tokens

    def _pinned_frames(self) -> list[int]:
        return [0, *range(self.frames - self.kept + 1, self.frames)] if self.frames else []
