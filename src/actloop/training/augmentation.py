"""Changed pictures of the same thing, as OpenVLA is fine-tuned on: cut, lit and coloured otherwise, never mirrored.

    frames uint8 --crop of 0.9 of the area--> brightness --> contrast --> saturation --> hue --> frames uint8

Every step is computed on [0, 1] and clipped to it (released code, spec of OpenVLA's fine-tuning).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from actloop.errors import ContractError
from actloop.models.openvla.pictures import Pixels, cropped, to_bytes

Frames = UInt8[np.ndarray, "count height width 3"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """How far a picture may be changed: brightness and hue are added to, contrast and saturation multiplied.

    `crop_share`: share of the area that is kept, from a random place. Hue runs from 0 to 1.
    """

    crop_share: float = 0.9
    brightness: float = 0.2
    contrast: tuple[float, float] = (0.8, 1.2)
    saturation: tuple[float, float] = (0.8, 1.2)
    hue: float = 0.05

    def __post_init__(self) -> None:
        if not 0 < self.crop_share <= 1 or self.brightness < 0 or self.hue < 0:
            raise ContractError("augmentation", f"expected 0 < crop_share <= 1, brightness and hue >= 0; got {self}")
        if min(self.contrast) < 0 or min(self.saturation) < 0:
            raise ContractError("augmentation", f"expected positive factors, got {self}")

    def __call__(self, frames: Frames, rng: np.random.Generator) -> Frames:
        """Each frame changed in its own way, drawn from `rng`."""

        def drawn(low: float, high: float) -> Tensor:
            return torch.from_numpy(rng.uniform(low, high, len(frames)).astype(np.float32))[:, None, None, None]

        pixels = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float() / 255
        pixels = cropped(pixels, self.crop_share, drawn(0, 1), drawn(0, 1))
        changes: tuple[Callable[[], Pixels], ...] = (
            lambda: pixels + drawn(-self.brightness, self.brightness),
            lambda: contrasted(pixels, drawn(*self.contrast)),
            lambda: coloured(pixels, drawn(*self.saturation), drawn(-self.hue, self.hue)),
        )
        for change in changes:
            pixels = change().clamp(0, 1)
        return to_bytes(pixels)


def contrasted(pixels: Pixels, factor: Tensor) -> Pixels:
    """Farther from, or nearer to, the mean of each channel."""
    mean = pixels.mean(dim=(2, 3), keepdim=True)
    return (pixels - mean) * factor + mean


def coloured(pixels: Pixels, saturation: Tensor, hue: Tensor) -> Pixels:
    """Saturation times a factor, clipped to 1, and hue turned by a share of the circle; value is kept."""
    value, least = pixels.amax(1, keepdim=True), pixels.amin(1, keepdim=True)
    spread = value - least
    red, green, blue = pixels[:, 0:1], pixels[:, 1:2], pixels[:, 2:3]
    safe = torch.where(spread > 0, spread, torch.ones_like(spread))
    at_red = (green - blue) / safe
    at_green = (blue - red) / safe + 2
    at_blue = (red - green) / safe + 4
    sector = torch.where(value == red, at_red, torch.where(value == green, at_green, at_blue))
    turned = torch.where(spread > 0, sector, torch.zeros_like(sector)) + 6 * hue
    chroma = torch.minimum(spread * saturation, value)
    # Each channel falls from `value` as its own hue lies farther away (HSV to RGB, Foley and van Dam).
    offsets = torch.tensor([5.0, 3.0, 1.0], device=pixels.device).view(1, 3, 1, 1)
    away = (offsets + turned) % 6
    return value - chroma * torch.minimum(away, 4 - away).clamp(0, 1)
