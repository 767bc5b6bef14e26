"""Events packed for the log: in the loop's own thread, so in microseconds; `lines` makes text of them."""

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from actloop.checks.evidence import Reading
from actloop.errors import ContractError


def pack(event: Any) -> dict[str, Any]:
    """What the log holds of an event: its kind, then its fields as plain values, vectors as the bytes of float32.

    Raises:
        ContractError: a field holds what has no place in the log.
    """
    packed: dict[str, Any] = {"event": event.kind}
    for name in _logged(type(event)):
        packed[name] = _packed(getattr(event, name))
    return packed


def _logged(kind: type) -> tuple[str, ...]:
    if kind not in LOGGED:
        live: frozenset[str] = getattr(kind, "live", frozenset())
        LOGGED[kind] = tuple(field.name for field in fields(kind) if field.name not in live)
    return LOGGED[kind]


def _packed(value: object) -> Any:
    kind = type(value)
    if kind in PLAIN:
        return value
    packer: Callable[[Any], Any] = PACKERS.get(kind, _other)
    return packer(value)


def _array(array: np.ndarray) -> Any:
    """Rows of rows, down to vectors. The zero leaves no negative zero."""
    packed: bytes = (array.astype("<f4") + 0).tobytes()
    if array.ndim == 1:
        return packed
    if array.ndim == 2:
        row = 4 * array.shape[1]
        return [packed[at : at + row] for at in range(0, len(packed), row)] if row else [b""] * len(array)
    raise ContractError("event", f"an array of {array.ndim} dimensions has no place in the log")


def _list(values: tuple[object, ...] | list[object]) -> list[Any]:
    return [_packed(item) for item in values]


def _mapping(values: Mapping[Any, object]) -> dict[str, Any]:
    return {str(key): _packed(values[key]) for key in sorted(values)}


def _reading(reading: Reading) -> dict[str, Any]:
    """With its alarm: the log has no infinite numbers, and a threshold may be one."""
    return {**{name: _packed(getattr(reading, name)) for name in _logged(Reading)}, "alarm": bool(reading.alarm)}


def _other(value: object) -> Any:
    """What is none of the types below, but may be of their kind."""
    if isinstance(value, float):  # NumPy's double
        return float(value)
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, str):
        return str(value)
    if isinstance(value, Mapping):
        return _mapping(value)
    raise ContractError("event", f"{type(value).__name__} has no place in the log")


LOGGED: dict[type, tuple[str, ...]] = {}  # the fields of each kind of event that go into the log
PLAIN = frozenset({float, int, str, bool, type(None)})
PACKERS: dict[type, Callable[[Any], Any]] = {
    np.ndarray: _array,
    tuple: _list,
    list: _list,
    dict: _mapping,
    Reading: _reading,
}
