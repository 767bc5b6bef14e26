"""A clip encoded as its frames arrive: the causal VAE goes on from where it stood.

    encode(1 + 4k frames) -> 1 + k latents      encode(4k frames) -> k latents      ...

The latents are those of encoding the whole clip in one go, as in training. The released loop instead encodes each chunk
alone, behind a repeated frame.
"""

from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor

from actloop.errors import ContractError
from actloop.models.wan.library import library
from actloop.models.wan.vae import WanCodec


class VideoStream:
    """One session's stream through a shared, frozen codec; what it remembers of the past is its own."""

    def __init__(self, codec: WanCodec) -> None:
        self.codec = codec
        self._remembered: list[Any] | None = None

    def restart(self) -> None:
        """The next frame is a first one."""
        self._remembered = None

    def clone(self) -> "VideoStream":
        """The same stream, apart: what a step remembers is replaced, never changed."""
        other = VideoStream(self.codec)
        other._remembered = None if self._remembered is None else list(self._remembered)
        return other

    @torch.no_grad()
    def encode(
        self, frames: UInt8[Tensor, "batch time height width 3"]
    ) -> Float[Tensor, "batch latent_time channels rows columns"]:
        """Standardised latents of the frames that arrived; each stands for four of them, the first for one.

        Raises:
            ContractError: another number of frames, sides that are no multiples of the stride, or not uint8 RGB.
        """
        begins, codec = self._remembered is None, self.codec
        stride, side = codec.temporal_stride, codec.spatial_stride
        if frames.dtype != torch.uint8 or frames.ndim != 5 or frames.shape[-1] != 3:
            got = f"{frames.dtype} {tuple(frames.shape)}"
            raise ContractError("stream.frames", f"expected uint8 (batch, time, height, width, 3), got {got}")
        if frames.shape[1] % stride != (1 if begins else 0) or not frames.shape[1]:
            expected = f"{'1 + ' if begins else ''}{stride}k frames"
            raise ContractError("stream.frames", f"expected {expected}, got {frames.shape[1]}")
        if frames.shape[2] % side or frames.shape[3] % side:
            got = f"{frames.shape[2]} x {frames.shape[3]}"
            raise ContractError("stream.frames", f"sides must be multiples of {side}, got {got} (height x width)")
        video = rearrange(frames.to(codec.device), "b t h w c -> b c t h w").float() / 127.5 - 1
        steps = [*([1] if begins else []), *[stride] * (frames.shape[1] // stride)]
        raw = torch.cat([self._step(part) for part in torch.split(video, steps, dim=2)], dim=2)
        mean, std = codec.standard()
        return (rearrange(raw, "b c t h w -> b t c h w").float() - mean) / std

    def _step(self, video: Tensor) -> Tensor:
        """One latent: the posterior's mean."""
        vae, patch = self.codec.vae, self.codec.config.patch
        if self._remembered is None:
            self._remembered = [None] * vae._cached_conv_counts["encoder"]
        if patch > 1:
            video = library("diffusers.models.autoencoders.autoencoder_kl_wan").patchify(video, patch)
        hidden = vae.encoder(video.to(self.codec.dtype), feat_cache=self._remembered, feat_idx=[0])
        mean: Tensor = vae.quant_conv(hidden).chunk(2, dim=1)[0]
        return mean
