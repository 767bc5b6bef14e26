"""What OpenVLA is shown, out of what the cameras deliver; training, evaluation and servers share it.

    {camera: frame} --Mosaic: tiled, upright--> picture --Lanczos--> square --centre crop--> uint8, one per mosaic

The released network never saw a camera frame in training: its loader had brought frames to the network's size by
Lanczos3, rounded, and, where it was trained with random crops, its evaluation cuts the centre out (released code). A
server that leaves either out shows pictures of another kind than those it learned from.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from actloop.contracts import Embodiment, Frame
from actloop.errors import ContractError
from actloop.models.views import Mosaic

Pixels = Float[Tensor, "count 3 height width"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictures:
    """One picture for each mosaic, in order.

    `side`: pixels to which a picture is brought by Lanczos3 first, 0 where the network's own bicubic resizing is all.
    `centre_crop`: share of the area that is kept, 1 for all of it; 0.9 for a policy trained with random crops of 0.9.
    """

    mosaics: tuple[Mosaic, ...]
    side: int = 0
    centre_crop: float = 1.0

    def __post_init__(self) -> None:
        if not self.mosaics:
            raise ContractError("pictures", "expected at least one picture")
        if self.side < 0 or not 0 < self.centre_crop <= 1:
            raise ContractError("pictures", f"expected side >= 0 and 0 < centre_crop <= 1, got {self}")

    @classmethod
    def one_each(cls, embodiment: Embodiment) -> "Pictures":
        """Every camera its own picture, at its own size."""
        sizes = {camera.name: (camera.height, camera.width) for camera in embodiment.cameras}
        return cls(mosaics=tuple(Mosaic.side_by_side({name: size}) for name, size in sizes.items()))

    @property
    def cameras(self) -> frozenset[str]:
        return frozenset(name for mosaic in self.mosaics for name in mosaic.cameras)

    def show(self, images: Mapping[str, Frame], *, cut: bool = True) -> tuple[Frame, ...]:
        """The pictures of one moment; `cut` False leaves the centre crop to whoever crops at random."""
        shown = []
        for mosaic in self.mosaics:
            picture = mosaic.compose({name: images[name] for name in mosaic.cameras})
            picture = lanczos(picture, self.side) if self.side else picture
            shown.append(crop(picture, self.centre_crop, 0.5, 0.5) if cut and self.centre_crop < 1 else picture)
        return tuple(shown)

    def to_dict(self) -> dict[str, object]:
        """JSON-ready form, read back by `from_dict`."""
        mosaics = [mosaic.to_dict() for mosaic in self.mosaics]
        return {"mosaics": mosaics, "side": self.side, "centre_crop": self.centre_crop}

    @classmethod
    def from_dict(cls, plain: Mapping[str, object]) -> "Pictures":
        """What `to_dict` wrote.

        Raises:
            ContractError: a field is missing or of another form.
        """
        mosaics, side, kept = plain.get("mosaics"), plain.get("side"), plain.get("centre_crop")
        if not isinstance(mosaics, list) or not isinstance(side, int) or not isinstance(kept, float | int):
            raise ContractError("pictures", f"expected mosaics, side and centre_crop, got {sorted(plain)}")
        return cls(mosaics=tuple(map(Mosaic.from_dict, mosaics)), side=side, centre_crop=float(kept))


def lanczos(picture: Frame, side: int) -> UInt8[np.ndarray, "side side 3"]:
    """A square of `side` pixels, stretched, by Lanczos3 with antialiasing; untouched where it fits."""
    if picture.shape[:2] == (side, side):
        return picture
    pillow = import_module("PIL.Image")
    scaled = pillow.fromarray(np.ascontiguousarray(picture)).resize((side, side), pillow.Resampling.LANCZOS)
    return np.asarray(scaled)


def crop(picture: Frame, share: float, down: float, right: float) -> Frame:
    """`cropped` of one uint8 picture."""
    pixels = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None].float() / 255
    where = torch.tensor([[down], [right]])[:, :, None, None, None]
    frame: Frame = to_bytes(cropped(pixels, share, where[0], where[1]))[0]
    return frame


def cropped(
    pixels: Pixels, share: float, down: Float[Tensor, "count 1 1 1"], right: Float[Tensor, "count 1 1 1"]
) -> Pixels:
    """A part of `share` of the area of each picture, stretched back to its size; bilinear between pixel centres.

    `down`, `right`: where it lies among all possible places, 0 at the upper left and 1 at the lower right.
    """
    side = share**0.5
    height, width = pixels.shape[2:]
    # The outermost pixel centres of crop and picture fall together, as in the crop-and-resize of the released code.
    rows = ((1 - side) * down[:, 0] + side * torch.linspace(0, 1, height)[:, None]) * 2 - 1
    columns = ((1 - side) * right[:, 0] + side * torch.linspace(0, 1, width)[None]) * 2 - 1
    grid = torch.stack([columns.expand(-1, height, -1), rows.expand(-1, -1, width)], dim=-1)
    return functional.grid_sample(pixels, grid, mode="bilinear", padding_mode="border", align_corners=True)


def to_bytes(pixels: Pixels) -> UInt8[np.ndarray, "count height width 3"]:
    """Pixels in [0, 1] as uint8, by the released rounding: 255.5 times as large, cut off."""
    rounded = (pixels.clamp(0, 1) * 255.5).floor().clamp(max=255).to(torch.uint8)
    frames: np.ndarray = rounded.permute(0, 2, 3, 1).contiguous().numpy()
    return frames
