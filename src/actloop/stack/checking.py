"""The checks that a stack file can name, and what options they take there."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from actloop.checks.cameras import FrozenCamera
from actloop.checks.grasp import Grasp
from actloop.checks.pictures import Foresight
from actloop.checks.plans import Disagreement, Spread
from actloop.checks.proprioception import Proprioception
from actloop.errors import ContractError, UnknownNameError
from actloop.stack.tables import Table, named

VERIFIER = "verifier"
FORESIGHT = "foresight"
SPREAD = "spread"
CHECKS: dict[str, Any] = {
    "proprioception": Proprioception,
    "grasp": Grasp,
    "frozen-camera": FrozenCamera,
    FORESIGHT: Foresight,
    "disagreement": Disagreement,
    SPREAD: Spread,
}
NAMES = (*CHECKS, VERIFIER)
SAMPLES = 4  # chunks that `spread` compares, unless told otherwise
_NOT_WRITTEN = ("sample", "sampler", "name")

Checks = tuple[tuple[str, Mapping[str, Any]], ...]


def checks_of(found: object, path: str) -> Checks:
    """Names, or tables of a name and options, as name and options.

    Raises:
        UnknownNameError: no such check, or no such option of it.
        ContractError: not a list of these, or an option that the check refuses.
    """
    if not isinstance(found, list) or not found:
        raise ContractError(path, f"expected a list of checks, got {found!r}")
    return tuple(_check_of(item, f"{path}[{index}]") for index, item in enumerate(found))


def _check_of(item: object, path: str) -> tuple[str, Mapping[str, Any]]:
    plain = {"name": item} if isinstance(item, str) else item
    if not isinstance(plain, Mapping) or not isinstance(plain.get("name"), str):
        raise ContractError(path, f'expected a name or {{ name = "...", ... }}, got {item!r}')
    name = plain["name"]
    if name not in NAMES:
        raise UnknownNameError(path, name, NAMES)
    given = {key: value for key, value in plain.items() if key != "name"}
    Table(given, path, _takes(name))
    options = {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
    if name == SPREAD:
        count = options.get("count", SAMPLES)
        if not isinstance(count, int) or isinstance(count, bool) or count < 2:
            raise ContractError(f"{path}.count", f"expected a whole number of at least 2, got {count!r}")
    elif name in CHECKS:  # those that need no body and no model show at once whether they take their options
        defaults = {"camera": "any"} if name == FORESIGHT else {}
        with named(path):
            CHECKS[name](**(defaults | options))
    return name, options


def _takes(name: str) -> tuple[str, ...]:
    if name not in CHECKS:
        return ()
    taken = tuple(field.name for field in fields(CHECKS[name]) if field.init and field.name not in _NOT_WRITTEN)
    return (*taken, "count") if name == SPREAD else taken
