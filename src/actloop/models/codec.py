"""A light latent codec behind the interface of a video VAE: linear, per 8 x 8 patch, fitted in closed form.

    frames uint8 (b, t, H, W, 3) --encode--> latents (b, t, c, H/8, W/8) --decode--> frames

The code of a patch is its projection on the leading principal components of the patches of the training frames. Like
the released VAE it is frozen afterwards and its latents are standardised per channel; trailing components, which are
mostly texture, keep a part of their small variance (`MIN_SHARE`) so that the loss is not spent on them.
"""

from typing import Protocol, runtime_checkable

import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from actloop.errors import ContractError

PATCH = 8
MIN_SHARE = 0.1


@runtime_checkable
class Codec(Protocol):
    """Frames to latents and back, frozen; `temporal_stride` frames per latent frame after the first."""

    temporal_stride: int

    def encode(
        self, frames: UInt8[Tensor, "batch time height width 3"]
    ) -> Float[Tensor, "batch time channels rows columns"]: ...

    def decode(
        self, latents: Float[Tensor, "batch time channels rows columns"]
    ) -> UInt8[Tensor, "batch time height width 3"]: ...

    def state_dict(self) -> dict[str, Tensor]: ...


class PatchCodec(nn.Module):
    """A fitted codec; `mean`, `basis` and `scale` are its whole state."""

    mean: Tensor
    basis: Tensor
    scale: Tensor
    temporal_stride = 1

    def __init__(self, channels: int) -> None:
        super().__init__()
        size = PATCH * PATCH * 3
        if not 0 < channels <= size:
            raise ContractError("codec.channels", f"expected 1 to {size}, got {channels}")
        self.channels = channels
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("basis", torch.zeros(channels, size))
        self.register_buffer("scale", torch.ones(channels))

    @torch.no_grad()
    def fit(self, frames: UInt8[Tensor, "frames height width 3"]) -> "PatchCodec":
        """Principal components of all patches of some hundred representative frames."""
        patches = _patches(frames).flatten(0, -2).double()
        self.mean.copy_(patches.mean(0))
        centred = patches - self.mean.double()
        variance, vectors = torch.linalg.eigh(centred.T @ centred / len(centred))
        order = variance.argsort(descending=True)[: self.channels]
        # Eigenvectors have no sign of their own: fix it, so that two fits on the same frames agree.
        basis = vectors[:, order].T
        sign = basis.gather(1, basis.abs().argmax(1, keepdim=True)).sign()
        self.basis.copy_(basis * sign)
        std = variance[order].clamp(min=0).sqrt()
        self.scale.copy_(std.clamp(min=float(MIN_SHARE * std.max())))
        return self

    @torch.no_grad()
    def encode(
        self, frames: UInt8[Tensor, "batch time height width 3"]
    ) -> Float[Tensor, "batch time channels rows columns"]:
        """Standardised latents of frames in 0..255."""
        codes = (_patches(frames) - self.mean) @ self.basis.T / self.scale
        return rearrange(codes, "b t h w c -> b t c h w")

    @torch.no_grad()
    def decode(
        self, latents: Float[Tensor, "batch time channels rows columns"]
    ) -> UInt8[Tensor, "batch time height width 3"]:
        """The frames that the latents stand for."""
        codes = rearrange(latents, "b t c h w -> b t h w c") * self.scale
        pixels = codes @ self.basis + self.mean
        frames = rearrange(pixels, "b t h w (p q c) -> b t (h p) (w q) c", p=PATCH, q=PATCH)
        return (frames * 255).round().clamp(0, 255).to(torch.uint8)

    @torch.no_grad()
    def cells(self, per_side: int) -> tuple[Float[Tensor, "cells channels"], Float[Tensor, "cells"]]:
        """The linear map (weight, bias) from a patch's latents to the mean colours, 0 to 1, of `per_side`^2 cells of
        it, ordered (colour, row, column)."""
        size = PATCH // per_side
        vectors = torch.cat([self.basis * self.scale[:, None], self.mean[None]])
        cells = rearrange(vectors, "v (i p j q c) -> v (c i j) (p q)", i=per_side, p=size, j=per_side, q=size, c=3)
        means = cells.mean(-1)
        return means[:-1].T.contiguous(), means[-1]


def _patches(frames: UInt8[Tensor, "*batch height width 3"]) -> Float[Tensor, "*batch rows columns pixels"]:
    height, width = frames.shape[-3:-1]
    if height % PATCH or width % PATCH:
        raise ContractError("codec.frames", f"sides must be multiples of {PATCH}, got {height} x {width}")
    scaled = frames.float() / 255
    return rearrange(scaled, "... (h p) (w q) c -> ... h w (p q c)", p=PATCH, q=PATCH)
