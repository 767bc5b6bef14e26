"""What `features.json` of a TFDS dataset declares, and how a field of a record becomes arrays.

features.json --read_schema--> Schema { steps: key -> Field, episode: key -> Field }
Field + the encoded lists of a record --decode--> (values, *shape), texts, or encoded images

Keys are paths as TFDS flattens them, `observation/image_0`, without the leading `steps/`.
"""

import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from actloop.data.rlds.example import bytes_list, floats, integers
from actloop.errors import DataError

STEPS = "steps"
FLAT_VALUES, ROW_LENGTHS = "ragged_flat_values", "ragged_row_lengths_{}"
ENCODINGS = ("none", "bytes", "zlib")
ANY = None  # a side that differs from value to value

Kind = Literal["number", "bytes", "text", "image"]
Encoded = Mapping[str, memoryview]


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One leaf of the tree. `shape` is of one value; `levels` counts the sequences around it, the steps included."""

    key: str
    kind: Kind
    levels: int
    shape: tuple[int | None, ...] = ()
    dtype: str = ""
    encoding: str = "none"

    @property
    def is_camera(self) -> bool:
        """Whether every step holds one colour image."""
        return self.kind == "image" and self.dtype == "uint8" and self.levels == 1 and self.shape[-1:] == (3,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Schema:
    """The fields of every step and those of the whole episode."""

    steps: Mapping[str, Field]
    episode: Mapping[str, Field]


def read_schema(path: Path) -> Schema:
    """Parse a `features.json`.

    Raises:
        DataError: missing, malformed, without steps, or with a kind of feature that this reader does not know.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        fields = list(_leaves(raw, "", 0))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: not readable as TFDS features ({type(error).__name__}: {error})") from error
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    steps = {f.key.removeprefix(STEPS + "/"): f for f in fields if f.key.startswith(STEPS + "/") and f.levels}
    if not steps:
        raise DataError(f"{path}: has no sequence {STEPS!r}; RLDS datasets hold one episode of steps per record")
    episode = {field.key: field for field in fields if not field.key.startswith(STEPS + "/")}
    return Schema(steps=steps, episode=episode)


def decode(field: Field, record: Encoded) -> Any:
    """The values of a field: an array `(values, *shape)`, or a list of texts, byte strings or encoded images.

    Without a sequence around it, the one value; with two or more, nested lists of the above.

    Raises:
        DataError: the field is not in the record, or not what the features declare.
    """
    if field.levels >= 2:
        return _ragged(field, record)
    values = _values(field, _feature(record, field.key))
    if field.levels == 0:
        if len(values) != 1:
            raise DataError(f"{field.key!r}: expected one value, found {len(values)}")
        return values[0]
    return values


def count(field: Field, record: Encoded) -> int:
    """How many values a field holds along its outermost sequence.

    Raises:
        DataError: the field is not in the record, or not what the features declare.
    """
    if field.levels >= 2:
        return len(_row_lengths(field, record)[0])
    return len(_values(field, _feature(record, field.key)))


def _leaves(node: Mapping[str, Any], key: str, levels: int) -> Iterator[Field]:
    """Every field below a node, depth first."""
    if "featuresDict" in node:
        for name, child in node["featuresDict"]["features"].items():
            yield from _leaves(child, f"{key}/{name}" if key else name, levels)
    elif "sequence" in node:
        yield from _leaves(node["sequence"]["feature"], key, levels + 1)
    elif "tensor" in node:
        yield _tensor(node["tensor"], key, levels)
    elif "text" in node:
        yield Field(key=key, kind="text", levels=levels)
    elif "classLabel" in node:
        yield Field(key=key, kind="number", levels=levels, dtype="int64")
    elif "image" in node:
        image = node["image"]
        dtype = _dtype(image.get("dtype", "uint8"), key)
        yield Field(key=key, kind="image", levels=levels, shape=_shape(image), dtype=dtype)
    else:
        kind = node.get("pythonClassName") or node.get("type") or f"a node with {sorted(node)}"
        raise DataError(
            f"{key or 'the root'!r} is of kind {kind}, which this reader does not know; it reads FeaturesDict, "
            "Sequence, Dataset, Tensor, Scalar, Text, Image and ClassLabel"
        )


def _tensor(raw: Mapping[str, Any], key: str, levels: int) -> Field:
    dtype, encoding = _dtype(raw["dtype"], key), str(raw.get("encoding") or "none")
    if encoding not in ENCODINGS:
        raise DataError(f"{key!r} has encoding {encoding!r}, expected one of {', '.join(ENCODINGS)}")
    kind: Kind = "bytes" if dtype == "bytes" else "number"
    return Field(key=key, kind=kind, levels=levels, shape=_shape(raw), dtype=dtype, encoding=encoding)


def _shape(raw: Mapping[str, Any]) -> tuple[int | None, ...]:
    sides = [int(side) for side in (raw.get("shape") or {}).get("dimensions", ())]
    return tuple(side if side >= 0 else ANY for side in sides)


def _dtype(name: str, key: str) -> str:
    if name in ("string", "object", "str"):
        return "bytes"
    try:
        dtype = np.dtype(name)
    except TypeError as error:
        raise DataError(f"{key!r} has dtype {name!r}, which NumPy does not know") from error
    if dtype.kind not in "fiub":
        raise DataError(f"{key!r} has dtype {name!r}, expected floats, integers or bool")
    return dtype.name


def _feature(record: Encoded, key: str) -> memoryview:
    if key not in record:
        raise DataError(f"{key!r} is declared in features.json and not in the record")
    return record[key]


def _values(field: Field, feature: memoryview) -> Any:
    """What one list of the record holds, as `decode` gives it for one sequence."""
    try:
        if field.kind == "text":
            return [bytes(value).decode() for value in bytes_list(feature)]
        if field.kind in ("image", "bytes"):
            return bytes_list(feature)
        if field.encoding != "none":
            return np.stack([_unpacked(field, value) for value in bytes_list(feature)])
        flat = floats(feature) if np.dtype(field.dtype).kind == "f" else integers(feature)
        return _shaped(field, flat.astype(field.dtype, copy=False))
    except (DataError, UnicodeDecodeError, ValueError, zlib.error) as error:
        raise DataError(f"{field.key!r}: {error}") from error


def _shaped(field: Field, flat: np.ndarray) -> np.ndarray:
    """Rows of a flat list: one where no sequence is around the field, else as many as there are."""
    if field.shape.count(ANY) > (field.levels == 0):
        raise DataError(f"the sides of shape {field.shape} cannot be told from a flat list")
    shape = tuple(-1 if side is ANY else side for side in field.shape)
    size = int(np.prod([side for side in shape if side >= 0], dtype=np.int64))
    if size == 0 or flat.size % size:
        raise DataError(f"{flat.size} numbers are no whole number of values of shape {field.shape}")
    return flat.reshape((1, *shape) if field.levels == 0 else (-1, *shape))


def _unpacked(field: Field, value: memoryview) -> np.ndarray:
    raw = zlib.decompress(value) if field.encoding == "zlib" else bytes(value)
    return np.frombuffer(raw, field.dtype).reshape([-1 if side is ANY else side for side in field.shape])


def _ragged(field: Field, record: Encoded) -> list[Any]:
    """Sequences in sequences, rebuilt from the innermost level out."""
    values = _values(field, _feature(record, f"{field.key}/{FLAT_VALUES}"))
    for lengths in reversed(_row_lengths(field, record)):
        if lengths.sum() != len(values) or (lengths < 0).any():
            raise DataError(f"{field.key!r}: rows of {lengths.sum()} values in all, {len(values)} values")
        ends = np.cumsum(lengths)
        values = [values[end - length : end] for length, end in zip(lengths, ends, strict=True)]
    return list(values)


def _row_lengths(field: Field, record: Encoded) -> list[np.ndarray]:
    keys = [f"{field.key}/{ROW_LENGTHS.format(level)}" for level in range(field.levels - 1)]
    try:
        return [integers(_feature(record, key)) for key in keys]
    except DataError as error:
        raise DataError(f"{field.key!r}: {error}") from error
