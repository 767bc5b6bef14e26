"""tf.train.Example, the protocol buffer in a record, without the protobuf library.

    Example { 1: Features { 1: repeated entry { 1: name, 2: Feature } } }
    Feature { 1: bytes list | 2: float list | 3: int64 list }, each { 1: repeated value }

The parts of a record are found once; a list is decoded when it is asked for. Views share the record's bytes.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float32, Int64

from actloop.errors import DataError

VARINT, EIGHT, SIZED, FOUR = 0, 1, 2, 5  # wire types
KINDS = {1: "bytes", 2: "float", 3: "int64"}
MAX_VARINT = 10  # bytes of a 64-bit number, seven bits in each


def parse_example(record: bytes) -> dict[str, memoryview]:
    """The encoded Feature of every name.

    Raises:
        DataError: the bytes are no Example.
    """
    features: dict[str, memoryview] = {}
    for number, message in _fields(memoryview(record)):
        for entry_number, entry in _fields(message) if number == 1 else ():
            parts = dict(_fields(entry)) if entry_number == 1 else {}
            if 1 in parts:
                features[_name(parts[1])] = parts.get(2, memoryview(b""))
    return features


def bytes_list(feature: memoryview) -> list[memoryview]:
    """The byte strings of a Feature; empty where it holds none.

    Raises:
        DataError: it holds numbers.
    """
    found = list(_values(feature, 1))
    if any(wire != SIZED for wire, _ in found):
        raise DataError("expected byte strings, got numbers")
    return [value for _, value in found]


def floats(feature: memoryview) -> Float32[np.ndarray, "n"]:
    """The numbers of a float Feature, packed or not; a packed list is a view of the record.

    Raises:
        DataError: it holds something else.
    """
    parts = []
    for wire, value in _values(feature, 2):
        if wire not in (SIZED, FOUR) or len(value) % 4:
            raise DataError(f"expected packed float32, got {len(value)} bytes of wire type {wire}")
        parts.append(np.frombuffer(value, "<f4"))
    return parts[0] if len(parts) == 1 else np.concatenate(parts or [np.zeros(0, "<f4")])


def integers(feature: memoryview) -> Int64[np.ndarray, "n"]:
    """The numbers of an int64 Feature, packed or not.

    Raises:
        DataError: it holds something else.
    """
    parts = []
    for wire, value in _values(feature, 3):
        if wire not in (SIZED, VARINT):
            raise DataError(f"expected packed int64, got wire type {wire}")
        parts.append(_varints(value))
    return parts[0] if len(parts) == 1 else np.concatenate(parts or [np.zeros(0, np.int64)])


def _values(feature: memoryview, wanted: int) -> Iterator[tuple[int, memoryview]]:
    """Wire type and content of each value in the list of that kind."""
    for number, message in _fields(feature):
        if number == wanted:
            yield from ((wire, value) for one, wire, value in _tagged(message) if one == 1)
        elif number in KINDS:
            raise DataError(f"expected a {KINDS[wanted]} list, got a {KINDS[number]} list")


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Number and content of the sized fields of a message; the others mean nothing here."""
    return ((number, value) for number, wire, value in _tagged(message) if wire == SIZED)


def _tagged(message: memoryview) -> Iterator[tuple[int, int, memoryview]]:
    """Number, wire type and content of every field of a message."""
    place, size = 0, len(message)
    while place < size:
        tag, place = _varint(message, place)
        wire = tag & 7
        if wire == SIZED:
            length, place = _varint(message, place)
            after = place + length
        elif wire == VARINT:
            after = _varint(message, place)[1]
        elif wire in (EIGHT, FOUR):
            after = place + (8 if wire == EIGHT else 4)
        else:
            raise DataError(f"no protocol buffer: wire type {wire} at byte {place}")
        if after > size:
            raise DataError(f"no protocol buffer: a field ends at byte {after} of {size}")
        yield tag >> 3, wire, message[place:after]
        place = after


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    """A number of seven bits per byte, lowest first, and the place behind it."""
    if place < len(message) and message[place] < 0x80:
        return message[place], place + 1  # nearly all are this short
    value = 0
    for shift, byte in enumerate(message[place : place + MAX_VARINT]):
        value |= (byte & 0x7F) << 7 * shift
        if byte < 0x80:
            return value, place + shift + 1
    raise DataError(f"no protocol buffer: a number at byte {place} does not end")


def _varints(packed: memoryview) -> Int64[np.ndarray, "n"]:
    """Many numbers at once; negative ones take ten bytes, in two's complement."""
    raw = np.frombuffer(packed, np.uint8)
    last = np.flatnonzero(raw < 0x80)
    if len(last) == len(raw):
        return raw.astype(np.int64)  # flags and small counts: a byte each
    if raw[-1] >= 0x80:
        raise DataError("a packed list of numbers ends within one")
    first = np.concatenate([[0], last[:-1] + 1])
    if (last - first).max() >= MAX_VARINT:
        raise DataError(f"a packed number is longer than {MAX_VARINT} bytes")
    shift = 7 * (np.arange(len(raw)) - np.repeat(first, last - first + 1))
    bits = (raw & 0x7F).astype(np.uint64) << shift.astype(np.uint64)
    return np.bitwise_or.reduceat(bits, first).view(np.int64)


def _name(raw: memoryview) -> str:
    try:
        return bytes(raw).decode()
    except UnicodeDecodeError as error:
        raise DataError(f"a feature's name is no text ({error})") from error
