"""Frames that are embedded in the data files as PNG or JPEG bytes, one per row."""

import io
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8

from actloop.data.layout import Feature
from actloop.data.tables import EpisodeRow, read_table
from actloop.errors import DataError, MissingDependency

OPEN_FILES = 4  # columns of compressed images held in memory


class EmbeddedImages:
    """Random access to one image feature; the compressed bytes of the last few files are kept."""

    def __init__(self, feature: Feature, files: Mapping[Path, Sequence[EpisodeRow]]) -> None:
        self._feature = feature
        self._paths = list(files)
        self._first = np.array([rows[0].start for rows in files.values()], np.int64)
        self._open: OrderedDict[Path, Any] = OrderedDict()

    def frames(self, indices: Int[np.ndarray, "n"]) -> UInt8[np.ndarray, "n height width 3"]:
        """Frames by index in the dataset.

        Raises:
            DataError: a file is missing, or a cell holds no image of the declared shape.
        """
        out = np.empty((len(indices), *self._feature.shape), np.uint8)
        for slot, index in enumerate(indices):
            file = int(np.searchsorted(self._first, index, side="right")) - 1
            row = int(index - self._first[file])
            out[slot] = self._decode(self._column(self._paths[file])[row].as_py(), self._paths[file], row)
        return out

    def _column(self, path: Path) -> Any:
        if path not in self._open:
            self._open[path] = read_table(path, [self._feature.name])[self._feature.name].combine_chunks()
            if len(self._open) > OPEN_FILES:
                self._open.popitem(last=False)
        return self._open[path]

    def _decode(self, cell: Any, path: Path, row: int) -> UInt8[np.ndarray, "height width 3"]:
        try:
            from PIL import Image, UnidentifiedImageError
        except ImportError as error:
            raise MissingDependency("Pillow", "frames are embedded images", "pip install 'actloop[data]'") from error
        name = self._feature.name
        if not cell or not cell.get("bytes"):
            raise DataError(f"{path}: row {row} of {name!r} holds no image bytes")
        try:
            pixels = np.asarray(Image.open(io.BytesIO(cell["bytes"])).convert("RGB"))
        except (UnidentifiedImageError, OSError) as error:
            raise DataError(f"{path}: row {row} of {name!r} is no readable image ({error})") from error
        if pixels.shape != self._feature.shape:
            raise DataError(f"{path}: row {row} of {name!r} is {pixels.shape}, info.json says {self._feature.shape}")
        return pixels
