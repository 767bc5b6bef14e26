"""`[loop]` of a stack file: every field of `LoopConfig` that no layer has said already."""

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

from actloop.errors import ContractError
from actloop.loop.budget import Budget
from actloop.loop.config import LoopConfig
from actloop.loop.joining import Join
from actloop.loop.ladder import LadderConfig
from actloop.stack.tables import Table, named

LIMITS = ("velocity", "acceleration", "jerk", "low", "high")
ELSEWHERE = {
    "max_age": "max_age in [action]",
    "answer_timeout": "timeout in the table of each layer",
    "check_every": "every in [check]",
    "candidates": "candidates in [foresight]",
    "subtask_every": "every in [semantic]",
    "done_ends": "done_ends in [semantic]",
}
INNER: dict[str, type] = {"join": Join, "ladder": LadderConfig, "budget": Budget}


def loop_config(
    plain: Mapping[str, Any], path: str, rates: Mapping[str, Any]
) -> tuple[LoopConfig, Mapping[str, Mapping[str, Any]]]:
    """The configuration without limits, and the limits as written.

    Args:
        plain: the table.
        path: of the table, for errors.
        rates: fields that the layers have said.

    Raises:
        UnknownNameError: no such field.
        ContractError: a field is not of its form, or belongs to the table of a layer.
    """
    for key in plain:
        if key in ELSEWHERE:
            raise ContractError(f"{path}.{key}", f"belongs to a layer: write {ELSEWHERE[key]}")
    known = [field.name for field in fields(LoopConfig) if field.name not in ELSEWHERE]
    table = Table(plain, path, known)
    values = _values(LoopConfig, {key: plain[key] for key in plain if key not in ("limits", *INNER)}, path)
    for key, kind in INNER.items():
        inner = Table(table.mapping(key), table.at(key), [field.name for field in fields(kind)])
        if key in table:
            with named(inner.path):
                values[key] = kind(**_values(kind, plain[key], inner.path))
    limits = table.mapping("limits")
    for key, bounds in limits.items():
        if not isinstance(bounds, Mapping):
            raise ContractError(f"{table.at('limits')}.{key}", f"expected a table of action parts, got {bounds!r}")
    with named(path):
        return LoopConfig(**values, **rates), limits


def _values(kind: type, plain: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Values of the kind of each field's default; whole numbers where numbers are asked for, lists as tuples."""
    values = {}
    for field in fields(kind):
        if field.name not in plain:
            continue
        value = plain[field.name]
        wanted = type(field.default if field.default_factory is MISSING else field.default_factory())
        if isinstance(value, list):
            value = tuple(value)
        if wanted is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
            raise ContractError(
                f"{path}.{field.name}", f"expected {_WORDS.get(wanted, wanted.__name__)}, got {value!r}"
            )
        if isinstance(value, tuple | Mapping):
            _judge_inner(value, f"{path}.{field.name}")
        values[field.name] = value
    return values


_WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text in quotes",
    tuple: "a list",
    dict: "a table",
}


def _judge_inner(value: Any, path: str) -> None:
    """Lists are of names and tables of numbers."""
    if isinstance(value, tuple) and not all(isinstance(item, str) for item in value):
        raise ContractError(path, f"expected names in quotes, got {list(value)!r}")
    if isinstance(value, Mapping):
        for key, number in value.items():
            if isinstance(number, bool) or not isinstance(number, int | float):
                raise ContractError(f"{path}.{key}", f"expected a number, got {number!r}")
