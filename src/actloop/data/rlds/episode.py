"""One episode of an RLDS dataset: a record, whose fields are decoded as they are asked for."""

import io
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from actloop.data.rlds.features import Encoded, Field, Schema, count, decode
from actloop.errors import ContractError, DataError, MissingDependency, UnknownNameError


class RldsEpisode:
    """One record. It holds the record's bytes; arrays of floats are views of them."""

    def __init__(self, place: str, record: Encoded, schema: Schema) -> None:
        """`place` names the file and record in errors."""
        self.place = place
        self._record, self._schema = record, schema

    @cached_property
    def length(self) -> int:
        """Steps.

        Raises:
            DataError: the record is not what the features declare.
        """
        steps = self._schema.steps
        flag = next((steps[key] for key in ("is_first", "is_last", "action") if key in steps), None)
        return int(self._read(count, flag or next(iter(steps.values()))))

    @property
    def keys(self) -> tuple[str, ...]:
        """What every step holds."""
        return tuple(self._schema.steps)

    @cached_property
    def metadata(self) -> dict[str, Any]:
        """The fields of the whole episode by path; byte strings as bytes.

        Raises:
            DataError: the record is not what the features declare.
        """
        fields = self._schema.episode
        return {key: _plain(self._read(decode, field)) for key, field in fields.items() if field.kind != "image"}

    def values(self, key: str) -> Any:
        """What every step holds under `key`: an array `(time, *shape)`, or a list of texts, bytes or nested arrays.

        Raises:
            UnknownNameError: the dataset declares no such key.
            DataError: the record is not what the features declare.
        """
        field = self.field(key)
        values = self._read(decode, field)
        if len(values) != self.length:
            raise DataError(f"{self.place}: {field.key!r} has {len(values)} values for {self.length} steps")
        return values

    def array(self, key: str) -> np.ndarray:
        """Numbers by step, `(time, *shape)`, of the declared dtype.

        Raises:
            ContractError: the key holds no numbers, or no array of them.
        """
        field = self.field(key)
        if field.kind != "number" or field.levels != 1:
            raise ContractError(f"{self.place}: {field.key}", f"is {field.kind} in {field.levels} sequences, no array")
        return np.asarray(self.values(key))

    def texts(self, key: str) -> list[str]:
        """Text by step; byte strings are read as UTF-8.

        Raises:
            ContractError: the key holds no text.
        """
        field = self.field(key)
        if field.kind not in ("text", "bytes") or field.levels != 1:
            raise ContractError(f"{self.place}: {field.key}", f"is {field.kind} in {field.levels} sequences, no text")
        return [value if isinstance(value, str) else self._text(value, field) for value in self.values(key)]

    def images(self, key: str, ticks: Sequence[int] | None = None) -> np.ndarray:
        """Images of the given steps, or of all, `(time, height, width, channels)` in the declared dtype.

        Raises:
            ContractError: the key holds no image.
            DataError: a step holds none that can be read, or one of another shape.
        """
        field = self.field(key)
        if field.kind != "image" or field.levels != 1:
            raise ContractError(f"{self.place}: {field.key}", f"is {field.kind} in {field.levels} sequences, no image")
        encoded = self.values(key)
        chosen = range(self.length) if ticks is None else ticks
        return np.stack([self._image(field, encoded[tick], tick) for tick in chosen])

    def step(self, tick: int) -> dict[str, Any]:
        """Everything one step holds, by key, images decoded.

        Raises:
            IndexError: there is no such step.
        """
        if not 0 <= tick < self.length:
            raise IndexError(f"step {tick} of {self.length}")
        fields = self._schema.steps
        return {
            key: self.images(key, [tick])[0]
            if field.kind == "image" and field.levels == 1
            else _plain(self.values(key)[tick])
            for key, field in fields.items()
        }

    def field(self, key: str) -> Field:
        """What the features declare under `key`.

        Raises:
            UnknownNameError: nothing.
        """
        if key not in self._schema.steps:
            raise UnknownNameError(f"{self.place}: key", key, self._schema.steps)
        return self._schema.steps[key]

    def _read(self, read: Callable[[Field, Encoded], Any], field: Field) -> Any:
        try:
            return read(field, self._record)
        except DataError as error:
            raise DataError(f"{self.place}: {error}") from error

    def _text(self, value: memoryview, field: Field) -> str:
        try:
            return bytes(value).decode()
        except UnicodeDecodeError as error:
            raise DataError(f"{self.place}: {field.key!r} is no text ({error})") from error

    def _image(self, field: Field, encoded: memoryview, tick: int) -> np.ndarray:
        where = f"{self.place}: {field.key!r} of step {tick}"
        pixels = _pixels(encoded, field, where)
        declared = field.shape or pixels.shape
        if len(pixels.shape) != len(declared) or any(
            side is not None and side != found for side, found in zip(declared, pixels.shape, strict=True)
        ):
            raise DataError(f"{where} is {pixels.shape}, features.json says {field.shape}")
        return pixels


def _pixels(encoded: memoryview, field: Field, where: str) -> np.ndarray:
    """Decode PNG or JPEG; TFDS keeps float32 images as the four bytes of each number in an RGBA PNG."""
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise MissingDependency("Pillow", "steps hold encoded images", "pip install 'actloop[data]'") from error
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            colour = field.dtype == "uint8" and field.shape[-1:] == (3,)
            raw = np.asarray(image.convert("RGB") if colour else image)
    except (UnidentifiedImageError, OSError) as error:
        raise DataError(f"{where} is no readable image ({error})") from error
    if field.dtype == "float32" and raw.dtype == np.uint8 and raw.ndim == 3 and raw.shape[-1] == 4:
        return raw.copy().view(np.float32)
    return (raw if raw.ndim == 3 else raw[..., None]).astype(field.dtype, copy=False)


def _plain(value: Any) -> Any:
    if isinstance(value, memoryview):
        return bytes(value)
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return value.item() if isinstance(value, np.generic) else value
