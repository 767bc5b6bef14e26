"""Dataclasses of arrays to plain values and back, guided by their declared types.

dataclass -> {field: value}    array -> {"array": i}, with array i as {dtype, shape, bytes} or {jpeg, quality, shape}

Reading is strict: a field that is unknown, missing or of another type, an array of another kind, rank or length than
declared, are errors that say where. An array is carried once, however often a message holds it.
"""

import dataclasses
import functools
import io
import math
import types
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np
from jaxtyping import AbstractArray

from actloop.errors import ContractError, MissingDependency

DTYPES = ("bool", "uint8", "uint16", "int32", "int64", "float16", "float32", "float64")  # little endian
MAX_DIMS = 6
MAX_PIXELS = 64_000_000  # of all JPEG pictures of one message, before any is decoded


class WireError(ContractError):
    """A message is not what this version of the wire speaks: where, and what was expected."""


class Arrays:
    """The arrays of one message, each once; pictures as JPEG where a quality (1 to 100) is given."""

    def __init__(self, jpeg_quality: int | None = None) -> None:
        self._quality = jpeg_quality
        self._places: dict[int, int] = {}
        self._kept: list[np.ndarray] = []  # so that an id stays that of one array
        self.plain: list[dict[str, object]] = []

    def add(self, array: np.ndarray, path: str) -> int:
        """The place of an array in the message."""
        if id(array) not in self._places:
            if array.dtype.name not in DTYPES or array.ndim > MAX_DIMS:
                raise WireError(path, f"cannot send {array.dtype} of shape {array.shape}; expected one of {DTYPES}")
            self._places[id(array)] = len(self.plain)
            self._kept.append(array)
            picture = array.dtype == np.uint8 and array.ndim in (3, 4) and array.shape[-1] == 3 and array.size > 0
            self.plain.append(_jpeg(array, self._quality) if picture and self._quality else _raw(array))
        return self._places[id(array)]


def to_plain(value: Any, arrays: Arrays, path: str) -> Any:
    """The plain form of dataclasses, mappings, sequences and numbers; their arrays go to `arrays`.

    Raises:
        WireError: a value has no plain form.
    """
    if isinstance(value, np.ndarray):
        return {"array": arrays.add(value, path)}
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        return {name: to_plain(getattr(value, name), arrays, f"{path}.{name}") for name in names}
    if isinstance(value, Mapping):
        return {str(key): to_plain(item, arrays, f"{path}.{key}") for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return [to_plain(item, arrays, f"{path}[{index}]") for index, item in enumerate(value)]
    raise WireError(path, f"a {type(value).__name__} cannot be sent")


def from_plain(hint: Any, plain: Any, arrays: Sequence[np.ndarray], path: str) -> Any:
    """The value of the declared type `hint` that `to_plain` made `plain` of.

    Raises:
        WireError: it is not of that type.
        ContractError: it breaks what its own class demands.
    """
    if hint is object:
        return plain
    if isinstance(hint, type) and issubclass(hint, AbstractArray):
        return _array(hint, plain, arrays, path)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _dataclass(hint, plain, arrays, path)
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if plain is None and type(None) in inner:
            return None
        (only,) = (kind for kind in inner if kind is not type(None))
        return from_plain(only, plain, arrays, path)
    if origin is Literal:
        _expect(plain in inner, path, f"one of {inner}", plain)
        return plain
    if origin is tuple or origin is Sequence:
        _expect(isinstance(plain, list), path, "a list", plain)
        return tuple(from_plain(inner[0], item, arrays, f"{path}[{index}]") for index, item in enumerate(plain))
    if origin is Mapping:
        _expect(isinstance(plain, dict), path, "a map", plain)
        return {str(key): from_plain(inner[1], item, arrays, f"{path}.{key}") for key, item in plain.items()}
    return _scalar(hint, plain, path)


def read_arrays(plain: Any) -> list[np.ndarray]:
    """The arrays of a message, which may be written to.

    Raises:
        WireError: a dtype is not allowed, or shape and bytes disagree.
    """
    _expect(isinstance(plain, list), "arrays", "a list of maps", plain)
    pixels = sum(_pixels(entry) for entry in plain)
    _expect(pixels <= MAX_PIXELS, "arrays", f"at most {MAX_PIXELS} pixels of JPEG", pixels)
    return [_read_array(entry, f"arrays[{index}]") for index, entry in enumerate(plain)]


def _dataclass(hint: type, plain: Any, arrays: Sequence[np.ndarray], path: str) -> Any:
    _expect(isinstance(plain, dict), path, f"a map, a {hint.__name__}", plain)
    kinds, needed = _fields(hint)
    for name in plain:
        _expect(name in kinds, f"{path}.{name}", f"a field of {hint.__name__}: {', '.join(kinds)}", name)
    for name in needed:
        _expect(name in plain, f"{path}.{name}", "a value", "none")
    return hint(**{name: from_plain(kinds[name], item, arrays, f"{path}.{name}") for name, item in plain.items()})


@functools.cache
def _fields(hint: type) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The types of the fields of a dataclass, and the names of those without a default."""
    fields, missing = dataclasses.fields(hint), dataclasses.MISSING
    needed = [field.name for field in fields if field.default is missing and field.default_factory is missing]
    return get_type_hints(hint), tuple(needed)


def _array(hint: type, plain: Any, arrays: Sequence[np.ndarray], path: str) -> np.ndarray:
    _expect(isinstance(plain, dict) and set(plain) == {"array"}, path, '{"array": index}', plain)
    index = plain["array"]
    _expect(type(index) is int and 0 <= index < len(arrays), path, f"an index below {len(arrays)}", index)
    array: np.ndarray = arrays[index]
    if not isinstance(array, hint):
        raise WireError(path, f"expected {hint.__name__}, got {array.dtype} of shape {array.shape}")
    return array


def _scalar(hint: Any, plain: Any, path: str) -> Any:
    if hint is float:
        _expect(type(plain) in (int, float), path, "a number", plain)
        return float(plain)
    _expect(hint in (int, str, bool) and type(plain) is hint, path, f"{getattr(hint, '__name__', hint)}", plain)
    return plain


def _read_array(entry: Any, path: str) -> np.ndarray:
    _expect(isinstance(entry, dict), path, "a map", entry)
    shape = entry.get("shape")
    sound = isinstance(shape, list) and len(shape) <= MAX_DIMS and all(type(n) is int and n >= 0 for n in shape)
    _expect(sound, f"{path}.shape", f"at most {MAX_DIMS} sizes", shape)
    if set(entry) == {"jpeg", "quality", "shape"}:
        return _read_jpeg(entry["jpeg"], shape, path)
    _expect(set(entry) == {"dtype", "shape", "bytes"}, path, "dtype, shape and bytes", sorted(map(str, entry)))
    dtype, data = entry["dtype"], entry["bytes"]
    _expect(dtype in DTYPES, f"{path}.dtype", f"one of {DTYPES}", dtype)
    size = math.prod(shape) * np.dtype(dtype).itemsize
    found = len(data) if isinstance(data, bytes) else type(data).__name__
    _expect(found == size, f"{path}.bytes", f"{size} bytes for {dtype} of shape {tuple(shape)}", found)
    return np.frombuffer(data, np.dtype(dtype).newbyteorder("<")).astype(dtype).reshape(shape)


def _pixels(entry: Any) -> int:
    """Declared by a JPEG entry, if it is one; what is not sound is found when it is read."""
    shape = entry.get("shape") if isinstance(entry, dict) and "jpeg" in entry else None
    sound = isinstance(shape, list) and len(shape) <= MAX_DIMS and all(type(n) is int and n >= 0 for n in shape)
    return math.prod(shape[:-1]) if sound and shape else 0


def _raw(array: np.ndarray) -> dict[str, object]:
    little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    return {"dtype": array.dtype.name, "shape": list(array.shape), "bytes": little.reshape(-1).view(np.uint8).data}


def _jpeg(array: np.ndarray, quality: int) -> dict[str, object]:
    pictures = array[None] if array.ndim == 3 else array
    image, packed = _pillow(), []
    for picture in pictures:
        stream = io.BytesIO()
        image.fromarray(np.ascontiguousarray(picture)).save(stream, "JPEG", quality=quality)
        packed.append(stream.getvalue())
    return {"jpeg": packed, "quality": quality, "shape": list(array.shape)}


def _read_jpeg(packed: Any, shape: list[int], path: str) -> np.ndarray:
    _expect(
        len(shape) in (3, 4) and shape[-1] == 3 and math.prod(shape) > 0,
        f"{path}.shape",
        "that of colour pictures",
        shape,
    )
    count = shape[0] if len(shape) == 4 else 1
    sound = isinstance(packed, list) and len(packed) == count and all(isinstance(one, bytes) for one in packed)
    _expect(sound, f"{path}.jpeg", f"{count} pictures", type(packed).__name__)
    height, width = shape[-3:-1]
    pictures = np.empty((count, height, width, 3), np.uint8)
    for picture, data in zip(pictures, packed, strict=True):
        try:
            with _pillow().open(io.BytesIO(data), formats=("JPEG",)) as opened:
                _expect(opened.size == (width, height), f"{path}.jpeg", f"{width} x {height} pixels", opened.size)
                picture[:] = np.asarray(opened.convert("RGB"))
        except (OSError, SyntaxError, ValueError) as error:
            raise WireError(f"{path}.jpeg", f"not a JPEG picture ({error})") from error
    return pictures.reshape(shape)


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingDependency("pillow", "JPEG pictures need it", "pip install 'actloop[serving]'") from error
    return Image


def _expect(sound: bool, path: str, expected: str, found: object) -> None:
    if not sound:
        raise WireError(path, f"expected {expected}, got {_short(found)}")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
