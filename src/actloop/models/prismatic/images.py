"""Frames as the pixel tensor that the towers expect, without torchvision.

frame --square, as the strategy says, bicubic--> uint8 --/255, normalised once per tower--> channels of all towers
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from actloop.contracts import Frame
from actloop.errors import CheckpointError, ContractError, MissingDependency, UnknownNameError
from actloop.models.prismatic.config import RESIZES, Colour, PrismaticConfig, Resize

BICUBIC = 3  # PIL's number of it
Square = UInt8[np.ndarray, "side side 3"]


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What one tower is shown: a square of `size` pixels, colours from 0 to 1 less `mean`, over `std`."""

    size: int
    mean: Colour
    std: Colour


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageProcessor:
    """Frames to pixels. `resize`: stretched to a square, its middle cut out, or grey put around it."""

    views: tuple[View, ...]
    resize: Resize = "resize-naive"

    def __post_init__(self) -> None:
        if self.resize not in RESIZES:
            raise UnknownNameError("resize", self.resize, RESIZES)
        if not self.views or len({view.size for view in self.views}) > 1:
            raise ContractError("views", f"expected towers of one size, got {[view.size for view in self.views]}")

    @classmethod
    def of(cls, config: PrismaticConfig) -> "ImageProcessor":
        """The one that belongs to a model."""
        views = (View(size=tower.image_size, mean=tower.mean, std=tower.std) for tower in config.towers)
        return cls(views=tuple(views), resize=config.resize)

    @classmethod
    def from_hf(cls, plain: Mapping[str, Any]) -> "ImageProcessor":
        """From a released `preprocessor_config.json`.

        `tvf_normalize_params` hold the statistics that count; `means` and `stds` are those from before rounding.

        Raises:
            CheckpointError: it does not describe such a processor, or asks for something that is not done here.
        """
        try:
            rounded = plain.get("tvf_normalize_params") or [
                {"mean": mean, "std": std} for mean, std in zip(plain["means"], plain["stds"], strict=True)
            ]
            sizes = [int(size[-1]) for size in plain["input_sizes"]]
            views = tuple(
                View(size=size, mean=_colour(params["mean"]), std=_colour(params["std"]))
                for size, params in zip(sizes, rounded, strict=True)
            )
            kinds = set(plain.get("interpolations", ["bicubic"]))
            made = cls(views=views, resize=plain.get("image_resize_strategy", "resize-naive"))
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, ContractError) as error:
            why = f"{type(error).__name__}: {error}"
            raise CheckpointError(f"preprocessor_config.json: not of a Prismatic image processor ({why})") from error
        if kinds != {"bicubic"}:
            raise CheckpointError(f"preprocessor_config.json: expected bicubic interpolation, got {sorted(kinds)}")
        return made

    def as_hf(self) -> dict[str, object]:
        """As `preprocessor_config.json` of the released layout."""
        sizes = [[view.size, view.size] for view in self.views]
        return {
            "image_processor_type": "PrismaticImageProcessor",
            "image_resize_strategy": self.resize,
            "input_sizes": [[3, *size] for size in sizes],
            "interpolations": ["bicubic"] * len(sizes),
            "means": [list(view.mean) for view in self.views],
            "stds": [list(view.std) for view in self.views],
            "tvf_crop_params": [{"output_size": size} for size in sizes],
            "tvf_do_letterbox": self.resize == "letterbox",
            "tvf_normalize_params": [
                {"inplace": False, "mean": list(view.mean), "std": list(view.std)} for view in self.views
            ],
            "use_fused_vision_backbone": len(sizes) == 2,
        }

    def __call__(self, images: Sequence[Sequence[Frame]]) -> Float[Tensor, "batch images channels side side"]:
        """The pictures of each row of a batch, float32.

        Raises:
            ContractError: rows of different length or without a picture, or something that is no frame.
        """
        counts = sorted({len(row) for row in images})
        if len(counts) != 1 or not counts[0]:
            raise ContractError("images", f"expected as many in each row, and from 1 on; got {counts}")
        squares = np.stack([self._square(_frame(image)) for row in images for image in row])
        colours = torch.from_numpy(squares).permute(0, 3, 1, 2).contiguous().to(torch.float32) / 255
        shown = []
        for view in self.views:
            mean, std = (torch.tensor(values).view(3, 1, 1) for values in (view.mean, view.std))
            shown.append((colours - mean) / std)
        pixels = torch.cat(shown, dim=1)
        return pixels.view(len(images), -1, *pixels.shape[1:])

    def _square(self, image: Frame) -> Square:
        size = self.views[0].size
        if image.shape[:2] == (size, size):
            return image
        pillow = _pillow()
        picture = pillow.fromarray(image)
        if self.resize == "letterbox":
            picture = _padded(pillow, picture, tuple(int(255 * value) for value in self.views[0].mean))
        if self.resize == "resize-crop":
            return _cropped(picture, size)
        return np.asarray(picture.resize((size, size), BICUBIC))


def with_preprocessor(config: PrismaticConfig, plain: Mapping[str, Any]) -> PrismaticConfig:
    """The configuration with the statistics and the strategy of a `preprocessor_config.json`; sizes stay the model's.

    Raises:
        CheckpointError: it describes no image processor for as many towers.
    """
    found = ImageProcessor.from_hf(plain)
    if len(found.views) != len(config.towers):
        raise CheckpointError(
            f"preprocessor_config.json: is for {len(found.views)} towers, the model has {len(config.towers)}"
        )
    pairs = zip(config.towers, found.views, strict=True)
    towers = tuple(replace(tower, mean=view.mean, std=view.std) for tower, view in pairs)
    return replace(config, towers=towers, resize=found.resize)


def _cropped(picture: Any, size: int) -> Square:
    """The short side becomes `size`, and the middle is kept."""
    width, height = picture.size
    scale = size / min(width, height)
    wide, high = max(size, int(scale * width)), max(size, int(scale * height))
    left, top = round((wide - size) / 2), round((high - size) / 2)
    return np.asarray(picture.resize((wide, high), BICUBIC))[top : top + size, left : left + size]


def _padded(pillow: Any, picture: Any, colour: tuple[int, ...]) -> Any:
    width, height = picture.size
    side = max(width, height)
    square = pillow.new("RGB", (side, side), colour)
    square.paste(picture, ((side - width) // 2, (side - height) // 2))
    return square


def _frame(image: Frame) -> Frame:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or min(image.shape) < 1:
        raise ContractError("image", f"expected uint8 (height, width, 3), got {image.dtype} {image.shape}")
    return image


def _colour(values: Sequence[float]) -> Colour:
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def _pillow() -> Any:
    try:
        return import_module("PIL.Image")
    except ModuleNotFoundError as error:
        why = "pictures of another size than the model's are resized with it"
        raise MissingDependency("package 'pillow'", why, 'pip install "actloop[language]"') from error
