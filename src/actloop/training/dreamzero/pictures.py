"""Where the latents of clips come from.

LatentClips   small codec: all frames encoded once up front, latents in memory
FrameClips    video codec: the frames of a batch are read and encoded when it is needed, on the training device
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from actloop.errors import ContractError
from actloop.models.codec import PatchCodec
from actloop.models.dreamzero import DreamZeroConfig
from actloop.models.dreamzero.image import ImageTower
from actloop.models.dreamzero.watching import anchor_condition
from actloop.models.wan.vae import WanCodec
from actloop.training.dreamzero.samples import ClipSamples, Recording

ENCODED_AT_ONCE = 512  # pictures
FITTED_ON = 600


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


class LatentClips(ClipSamples):
    """All latents in memory, half precision: 70 000 frames of two small cameras take 570 MB."""

    def __init__(self, recording: Recording, config: DreamZeroConfig, *, codec: PatchCodec, **settings: Any) -> None:
        """`settings`: see `ClipSamples`."""
        super().__init__(recording, config, codec=codec, **settings)
        self.latents = self._encoded(codec)

    def _seen(self, frames: Int[np.ndarray, "batch frames"]) -> dict[str, Any]:
        return {"latents": self.latents[torch.from_numpy(frames)].float()}

    def _encoded(self, codec: PatchCodec) -> Float[Tensor, "frames channels rows columns"]:
        total, pieces = len(self.recording.data.states), []
        for start in range(0, total, ENCODED_AT_ONCE):
            indices = np.arange(start, min(start + ENCODED_AT_ONCE, total))
            pieces.append(codec.encode(torch.from_numpy(self.recording.pictures(indices))[:, None])[:, 0].half())
        return torch.cat(pieces)


class FrameClips(ClipSamples):
    """Frames that are read for a batch, through frozen encoders: a video codec and, for the anchor, an image tower."""

    def __init__(
        self,
        recording: Recording,
        config: DreamZeroConfig,
        *,
        codec: WanCodec,
        tower: ImageTower | None = None,
        **settings: Any,
    ) -> None:
        """`settings`: see `ClipSamples`.

        Raises:
            ContractError: a tower where the network takes no image tokens, or none where it does.
        """
        super().__init__(recording, config, codec=codec, **settings)
        if (tower is None) == bool(config.image_tokens):
            has = "none" if tower is None else "one"
            raise ContractError("tower", f"the network takes {config.image_tokens} image tokens, got {has}")
        self.codec, self.tower = codec, tower

    def place(self, device: torch.device) -> None:
        self.codec = self.codec.to(device)
        self.tower = None if self.tower is None else self.tower.to(device)

    @torch.no_grad()
    def _seen(self, frames: Int[np.ndarray, "batch frames"]) -> dict[str, Any]:
        """Each clip is encoded in one go, as the frames of a session are as they arrive."""
        video = torch.from_numpy(self.recording.pictures(frames))
        latents, first = self.codec.encode(video), video[:, 0]
        condition = None
        if self.config.first_frame_condition:
            whole = max(latents.shape[1], self.config.window_frames)
            condition = anchor_condition(self.codec, first, whole)[:, : latents.shape[1]]
        image = None if self.tower is None else self.tower.encode(first).float()
        return {"latents": latents, "condition": condition, "image": image}
