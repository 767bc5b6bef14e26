"""Packed events as lines of JSON, and the program that writes them: a `Journal` runs this file as a process.

    stdin: 4 bytes of length, then a packed event, again and again, then END  -->  stdout: the log, one line per event

It has to start in milliseconds, so it imports nothing but a little of the standard library. Numbers read back exactly:
float32 with as few digits as that takes, seven or else nine, and floats whole. NaN and infinity are null.
"""

import marshal
import os
import sys
import time
from collections.abc import Callable
from functools import cache
from json.encoder import encode_basestring_ascii
from struct import Struct
from typing import Any

HEAD = Struct("<I")
END = HEAD.pack(0)  # nothing more will come, even if somebody who was forked still holds the pipe
CHUNK = 1 << 20  # bytes read at once: as much as a pipe can hold
REST = 0.01  # seconds between two looks into the pipe: the robot's own writing wakes nobody
SYNC_EVERY = 1.0  # seconds between two times that the disk is told to keep what it has


def encode(packed: dict[str, Any]) -> str:
    """The line of a packed event, without its end."""
    return _mapping(packed)


def frame(packed: dict[str, Any]) -> bytes:
    """A packed event as it goes through the pipe."""
    body = marshal.dumps(packed)
    return HEAD.pack(len(body)) + body


def unframed(data: bytes) -> tuple[list[dict[str, Any]], bytes]:
    """The packed events in `data`, and what is left of it: the beginning of another one, or `END`."""
    found, at = [], 0
    while len(data) - at >= HEAD.size:
        end = at + HEAD.size + HEAD.unpack_from(data, at)[0]
        if end > len(data) or end == at + HEAD.size:
            break
        found.append(marshal.loads(data[at + HEAD.size : end]))
        at = end
    return found, data[at:]


def drain(source: int, sink: int) -> None:
    """Write what comes through the pipe `source` to the file `sink`, until its end, or until all have closed it."""
    rest, synced = b"", time.monotonic()
    while rest != END and (data := os.read(source, CHUNK)):
        events, rest = unframed(rest + data)
        _write(sink, "".join(f"{encode(event)}\n" for event in events).encode())
        if time.monotonic() - synced > SYNC_EVERY:
            _sync(sink)
            synced = time.monotonic()
        if rest != END:
            time.sleep(REST)
    _sync(sink)


def _write(sink: int, data: bytes) -> None:
    while data:
        data = data[os.write(sink, data) :]


def _sync(sink: int) -> None:
    try:
        os.fsync(sink)
    except OSError:  # not a file of a disk
        return


def _value(value: Any) -> str:
    return WRITERS[type(value)](value)


def _mapping(values: dict[str, Any]) -> str:
    return "{" + ",".join([f"{encode_basestring_ascii(key)}:{_value(value)}" for key, value in values.items()]) + "}"


def _list(values: tuple[Any, ...] | list[Any]) -> str:
    return f"[{','.join([_value(item) for item in values])}]"


def _float(value: float) -> str:
    text = float.__repr__(value + 0.0)  # no negative zero
    return "null" if "n" in text else text  # nan, inf


def _vector(packed: bytes) -> str:
    """Float32 numbers; seven digits read most of those back that people write."""
    layout, seven, nine = _layout(len(packed) // 4)
    values = layout.unpack(packed)
    text = seven % values
    if "n" in text:  # nan, inf
        return f"[{','.join(map(_float, values))}]"
    short = text.split(",") if values else []
    back = layout.unpack(layout.pack(*map(float, short)))
    if back != values:
        whole = (nine % values).split(",")
        short = [few if same == value else every for few, every, same, value in zip(short, whole, back, values)]  # noqa: B905
    return f"[{','.join(short)}]"


@cache
def _layout(size: int) -> tuple[Struct, str, str]:
    return Struct(f"<{size}f"), ",".join(["%.7g"] * size), ",".join(["%.9g"] * size)


WRITERS: dict[type, Callable[[Any], str]] = {
    bytes: _vector,
    float: _float,
    int: int.__repr__,
    str: encode_basestring_ascii,
    bool: lambda value: "true" if value else "false",
    type(None): lambda _: "null",
    tuple: _list,
    list: _list,
    dict: _mapping,
}


if __name__ == "__main__":
    try:
        os.nice(5)  # the robot and its models come first
        drain(0, 1)
    except OSError as error:
        sys.exit(min(error.errno or 1, 255))  # the journal reads it, and says it
