"""One picture out of all cameras: a grid of equal cells, as data.

    {camera: uint8 (*time, h, w, 3)} --cut, resize, repeat--> grid --resize--> uint8 (*time, H, W, 3)
    {camera: uint8 (*time, h, w, 3)} <--------------------- apart -------------------------'

A camera fills a cell, or a row of cells by repeating its columns; cells without a camera are black. Resizing into cells
is bilinear with antialiasing, the whole grid's is bilinear without, both as released.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
import torch
from jaxtyping import UInt8
from torch.nn import functional

from actloop.errors import ContractError
from actloop.models.views import resized

Pictures = Mapping[str, UInt8[np.ndarray, "*time h w 3"]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """Where a camera lies, in cells from the upper left; `wide` cells, each of its columns repeated so often."""

    camera: str
    row: int
    column: int
    wide: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiling:
    """A grid of `rows` x `columns` cells of `height` x `width` pixels.

    `crop`: the share of a camera's sides that is kept, around its middle. `resized_to`: (height, width) of the whole
    picture where that is not the grid's own.

    Raises:
        ContractError: cells outside the grid or on top of each other, a camera twice, or sizes below 1.
    """

    cells: tuple[Cell, ...]
    rows: int
    columns: int
    height: int
    width: int
    crop: float = 1.0
    resized_to: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        names = [cell.camera for cell in self.cells]
        if not names or len(set(names)) != len(names):
            raise ContractError("tiling.cells", f"expected at least one camera, each once, got {names}")
        if min(self.rows, self.columns, self.height, self.width, *(self.resized_to or (1,))) < 1:
            raise ContractError("tiling", f"expected sizes of 1 or more, got {self}")
        if not 0 < self.crop <= 1:
            raise ContractError("tiling.crop", f"expected a share above 0, at most 1, got {self.crop}")
        taken: dict[tuple[int, int], str] = {}
        for cell in self.cells:
            if not (0 <= cell.row < self.rows and 0 <= cell.column <= cell.column + cell.wide - 1 < self.columns):
                raise ContractError(f"tiling.{cell.camera}", f"outside of {self.rows} x {self.columns} cells: {cell}")
            for column in range(cell.column, cell.column + cell.wide):
                other = taken.setdefault((cell.row, column), cell.camera)
                if other != cell.camera:
                    raise ContractError(f"tiling.{cell.camera}", f"lies on camera {other!r}: {cell}")

    @classmethod
    def side_by_side(cls, cameras: Mapping[str, tuple[int, int]]) -> "Tiling":
        """Cameras of one (height, width) in a row, left to right in the order given, at their own size.

        Raises:
            ContractError: no camera, or of several sizes.
        """
        sizes = set(cameras.values())
        if len(sizes) != 1:
            raise ContractError("tiling", f"side by side needs cameras of one size, got {dict(cameras) or 'none'}")
        height, width = sizes.pop()
        cells = tuple(Cell(camera=name, row=0, column=index) for index, name in enumerate(cameras))
        return cls(cells=cells, rows=1, columns=len(cells), height=height, width=width)

    @property
    def cameras(self) -> tuple[str, ...]:
        return tuple(cell.camera for cell in self.cells)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the picture."""
        return self.resized_to or self._grid

    def compose(self, images: Pictures) -> UInt8[np.ndarray, "*time height width 3"]:
        """One picture of the cameras; others than the declared ones are left out.

        Raises:
            ContractError: a declared camera is missing (named), an image is not uint8 with 3 channels, or the cameras
                have unequal numbers of frames.
        """
        lead = self._check(images)
        picture = np.zeros((*lead, *self._grid, 3), np.uint8)
        for cell in self.cells:
            image = images[cell.camera]
            rows, columns = self._kept(*image.shape[-3:-1])
            small = resized(image[..., rows, columns, :], (self.height, self.width))
            picture[..., self._rows(cell), self._columns(cell), :] = np.repeat(small, cell.wide, axis=-2)
        return picture if self.resized_to is None else _interpolated(picture, self.resized_to)

    def apart(
        self, pictures: UInt8[np.ndarray, "*time height width 3"], sizes: Mapping[str, tuple[int, int]]
    ) -> dict[str, UInt8[np.ndarray, "*time h w 3"]]:
        """The cameras of pictures, each brought back to its own (height, width).

        What `crop` cut away repeats the nearest pixel that is known.

        Raises:
            ContractError: the pictures are not of this tiling's size, or a camera has no size.
        """
        if pictures.ndim < 3 or pictures.shape[-3:] != (*self.size, 3):
            raise ContractError("tiling.pictures", f"expected (*, {self.size}, 3), got {pictures.shape}")
        missing = [name for name in self.cameras if name not in sizes]
        if missing:
            raise ContractError("tiling.sizes", f"expected one of camera {missing[0]!r}, got {list(sizes)}")
        grid = pictures if self.resized_to is None else resized(pictures, self._grid)
        return {cell.camera: self._uncut(grid, cell, sizes[cell.camera]) for cell in self.cells}

    def to_dict(self) -> dict[str, object]:
        """JSON-ready form, read back by `from_dict`."""
        return {**asdict(self), "cells": [asdict(cell) for cell in self.cells]}

    @classmethod
    def from_dict(cls, plain: Mapping[str, object]) -> "Tiling":
        """What `to_dict` wrote.

        Raises:
            ContractError: a field is missing, unknown or of the wrong form.
        """
        try:
            cells, size = plain["cells"], plain.get("resized_to")
            if not isinstance(cells, list | tuple) or not (size is None or isinstance(size, list | tuple)):
                raise TypeError("cells and resized_to must be lists")
            fields = {**plain, "cells": tuple(Cell(**cell) for cell in cells)}
            return cls(**{**fields, "resized_to": None if size is None else tuple(size)})  # type: ignore[arg-type]
        except (KeyError, TypeError) as error:
            raise ContractError("tiling", f"not a saved tiling ({type(error).__name__}: {error})") from error

    @property
    def _grid(self) -> tuple[int, int]:
        return self.rows * self.height, self.columns * self.width

    def _rows(self, cell: Cell) -> slice:
        return slice(cell.row * self.height, (cell.row + 1) * self.height)

    def _columns(self, cell: Cell) -> slice:
        return slice(cell.column * self.width, (cell.column + cell.wide) * self.width)

    def _kept(self, height: int, width: int) -> tuple[slice, slice]:
        """Rows and columns of a camera that are seen."""
        sides = [(side, max(1, int(side * self.crop))) for side in (height, width)]
        starts = [(round((side - kept) / 2), kept) for side, kept in sides]
        rows, columns = (slice(start, start + kept) for start, kept in starts)
        return rows, columns

    def _uncut(self, grid: np.ndarray, cell: Cell, size: tuple[int, int]) -> np.ndarray:
        """The first of every repeated column, at the camera's own size, with what was cut away around it."""
        small = grid[..., self._rows(cell), self._columns(cell), :][..., :: cell.wide, :]
        rows, columns = self._kept(*size)
        seen = resized(small, (rows.stop - rows.start, columns.stop - columns.start))
        around = ((rows.start, size[0] - rows.stop), (columns.start, size[1] - columns.stop), (0, 0))
        return np.pad(seen, [(0, 0)] * (seen.ndim - 3) + list(around), mode="edge")

    def _check(self, images: Pictures) -> tuple[int, ...]:
        lead: tuple[int, ...] | None = None
        for name in self.cameras:
            if name not in images:
                raise ContractError(f"images.{name}", f"missing; got {sorted(images) or 'no images'}")
            image = images[name]
            if image.dtype != np.uint8 or image.ndim < 3 or image.shape[-1] != 3:
                raise ContractError(
                    f"images.{name}", f"expected uint8 (*, height, width, 3), got {image.dtype} {image.shape}"
                )
            lead = image.shape[:-3] if lead is None else lead
            if image.shape[:-3] != lead:
                first = self.cameras[0]
                raise ContractError(
                    f"images.{name}", f"expected frames {lead} as camera {first!r}, got {image.shape[:-3]}"
                )
        return lead or ()


def _interpolated(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear without antialiasing, rounded."""
    flat = torch.from_numpy(picture).reshape(-1, *picture.shape[-3:]).permute(0, 3, 1, 2).float()
    scaled = functional.interpolate(flat, size=size, mode="bilinear", align_corners=False).round_().clamp_(0, 255)
    found: np.ndarray = scaled.to(torch.uint8).permute(0, 2, 3, 1).reshape(*picture.shape[:-3], *size, 3).numpy()
    return found
