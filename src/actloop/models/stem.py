"""Convolutional stems for models too small to learn from patches alone.

pixels or latents --convolutions, group norms--> maps --spatial soft-argmax--> keypoints (Levine et al. 2016)
"""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional


class Stem(nn.Module):
    """What a small model needs to see precisely: convolutions on the current frame, told what to look for.

    The latents are unfolded to a picture of 2-pixel cells (a linear map that starts as the codec's own decoder), and
    run through a few convolutions modulated by the instruction (FiLM, Perez et al. 2018). They give an addition to
    the first frame's tokens, and keypoints (spatial soft-argmax, Levine et al. 2016), which together with the
    instruction and the state, in sines and cosines, become a few tokens of the context.
    """

    cells = 4  # per side of a latent's patch
    tokens = 4
    rates = (1.0, 2.0, 4.0)
    sharpness = 4.0

    def __init__(
        self,
        *,
        latent_channels: int,
        channels: int,
        keypoints: int,
        cameras: int,
        hidden: int,
        text_dim: int,
        state_dim: int,
    ) -> None:
        super().__init__()
        wide, self.cameras = channels, cameras
        self.picture = nn.Conv2d(latent_channels, 3 * self.cells**2, 1)
        self.look = nn.Conv2d(5, wide, 5, stride=2, padding=2)
        self.again = nn.Conv2d(wide, wide, 3, padding=1)
        self.norms = nn.ModuleList(nn.GroupNorm(4, wide) for _ in range(2))  # without them it hardly learns to look
        self.films = nn.ModuleList(nn.Linear(text_dim, 2 * wide) for _ in range(2))
        for film in self.films:
            assert isinstance(film, nn.Linear)
            nn.init.normal_(film.weight, std=0.02)
        self.maps = nn.Conv2d(wide, keypoints, 1)
        self.patches = nn.Sequential(
            nn.Conv2d(wide, 2 * wide, 3, stride=2, padding=1),
            nn.GELU(approximate="tanh"),
            nn.Conv2d(2 * wide, hidden, 2, stride=2),
        )
        state = state_dim * (1 + 2 * len(self.rates))
        self.points = nn.Sequential(
            nn.Linear(2 * keypoints * cameras + state + text_dim, 256),
            nn.GELU(approximate="tanh"),
            nn.Linear(256, 256),
            nn.GELU(approximate="tanh"),
            nn.Linear(256, self.tokens * text_dim),
        )

    def forward(
        self,
        latents: Float[Tensor, "batch channels height width"],
        text: Float[Tensor, "batch text"],
        state: Float[Tensor, "batch state"],
    ) -> tuple[Float[Tensor, "batch tokens hidden"], Float[Tensor, "batch points text"]]:
        """The addition to the first frame's tokens, and the keypoint tokens."""
        picture = functional.pixel_shuffle(self.picture(latents), self.cells)
        seen = self._modulated(0, self.look(torch.cat([picture, grid(picture)], dim=1)), text)
        seen = self._modulated(1, self.again(seen), text)
        maps = rearrange(self.maps(seen), "b k h (n w) -> b (n k) h w", n=self.cameras)
        points = keypoints(self.sharpness * maps)[0].flatten(1)
        waves = [wave(state * rate) for rate in self.rates for wave in (torch.sin, torch.cos)]
        tokens = self.points(torch.cat([2 * points, 2 * state, *waves, text], dim=1))
        patches: Tensor = rearrange(self.patches(seen), "b d h w -> b (h w) d")
        return patches, rearrange(tokens, "b (p t) -> b p t", p=self.tokens)

    def _modulated(self, layer: int, seen: Tensor, text: Float[Tensor, "batch text"]) -> Tensor:
        scale, shift = rearrange(self.films[layer](text), "b (two c) -> two b c 1 1", two=2)
        return functional.gelu(torch.addcmul(shift, self.norms[layer](seen), 1 + scale), approximate="tanh")

    @torch.no_grad()
    def unfold_with(self, weight: Float[Tensor, "cells channels"], bias: Float[Tensor, "cells"]) -> None:
        """Start from the codec's own decoder, its colours of 0 to 1 centred and stretched."""
        self.picture.weight.copy_(4 * weight[:, :, None, None])
        self.picture.bias.copy_(4 * (bias - 0.6))  # type: ignore[union-attr]


def keypoints(
    maps: Float[Tensor, "batch points height width"],
) -> tuple[Float[Tensor, "batch points 2"], Float[Tensor, "batch points cells"]]:
    """Where each map is high: mean row and column, -1 to 1, and the share of every cell in them."""
    share = maps.flatten(2).softmax(-1)
    return torch.einsum("bkp,bxp->bkx", share, grid(maps).flatten(2)), share


def grid(like: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch 2 height width"]:
    """Row and column of every cell, -1 to 1."""
    batch, _, height, width = like.shape
    rows = torch.linspace(-1, 1, height, device=like.device, dtype=like.dtype)
    columns = torch.linspace(-1, 1, width, device=like.device, dtype=like.dtype)
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij")).expand(batch, -1, -1, -1)
