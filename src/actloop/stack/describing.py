"""What a stack file comes to: its world, its limits, and what it is, with digests of the files that it names."""

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from actloop.contracts import Embodiment, World
from actloop.loop.governor.limits import Limits
from actloop.simulation.faults import Disturbed, parse_faults
from actloop.simulation.registry import make_world
from actloop.stack.declared import ActionTable, Stack
from actloop.stack.sources import Source, digest_of, policy_identity
from actloop.stack.tables import named


def world_of(stack: Stack) -> World:
    """The world of a stack file, with its faults.

    Raises:
        UnknownNameError, ContractError, MissingDependency: it cannot be made like that.
    """
    table, options = stack.world, dict(stack.world.options)
    with named(stack.at("world")):
        if table.robot:
            from actloop.simulation.robot import robot_from_toml

            return robot_from_toml(table.robot)
        if table.real and "spec" in options:
            options["spec"] = stack.path.parent / str(options["spec"])
        world = make_world(table.name, **options)
        return Disturbed(world, parse_faults(table.faults)) if table.faults else world


def limits_of(stack: Stack, embodiment: Embodiment) -> Limits | None:
    """The limits of a stack file, for a body; None where it has none.

    Raises:
        UnknownNameError: the body has no such action part.
        ContractError: a limit is out of range.
    """
    if not stack.limits:
        return None
    with named(stack.at("loop")):
        return Limits.of(embodiment, **{kind: dict(bounds) for kind, bounds in stack.limits.items()})


def describe_stack(stack: Stack) -> dict[str, Any]:
    """What a stack is, JSON-ready, with digests of its files: it changes with everything that changes a decision."""
    digests = {f"{layer}.{key}": digest for layer, table in stack.layers.items() for key, digest in _digests(table)}
    return stack.to_dict() | {"digests": digests}


def _digests(table: object) -> Iterator[tuple[str, str]]:
    for each in fields(table):  # type: ignore[arg-type]  # a layer's table
        value = getattr(table, each.name)
        if isinstance(value, Source):
            yield each.name, policy_identity(value)
        elif isinstance(value, Path):
            yield each.name, digest_of(value)
        elif isinstance(value, ActionTable) and value.model is not None:
            yield each.name, policy_identity(value.model)
