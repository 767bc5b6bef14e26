"""`actloop worlds`: what can be asked of whom."""

from collections.abc import Iterable
from dataclasses import asdict

from actloop.cli.text import as_json, columns
from actloop.contracts import Embodiment, Space, Task, embodiment_to_dict
from actloop.errors import MissingDependency
from actloop.simulation.registry import known_worlds, make_world


def list_worlds(*, json: bool) -> str:
    """Every world, ours and those of plugins, with its robot and how much it asks; or why it cannot be made here."""
    found = [_summary(name) for name in known_worlds()]
    if json:
        return as_json(found)
    rows = [(str(world["name"]), str(world.get("missing") or _in_words(world))) for world in found]
    return columns(rows) + "\n\n  actloop worlds NAME lists its tasks."


def describe_world(name: str, options: dict[str, object], *, json: bool) -> str:
    """The robot of a world and its tasks, by group."""
    world = make_world(name, **options)
    body, tasks = world.embodiment, list(world.tasks.values())
    world.close()
    if json:
        plain = {"name": name, "embodiment": embodiment_to_dict(body), "tasks": [asdict(task) for task in tasks]}
        return as_json(plain)
    robot = [
        ("robot", f"{body.name}, {body.control_hz:g} Hz"),
        ("cameras", ", ".join(f"{c.name} {c.width}x{c.height} ({c.renderer})" for c in body.cameras)),
        ("state", _space(body.state)),
        ("action", _space(body.action)),
    ]
    blocks = [columns(robot)]
    for group in dict.fromkeys(task.group for task in tasks):
        rows = [_row(task) for task in tasks if task.group == group]
        blocks.append((f"{group}\n" if group else "") + columns(rows))
    return "\n\n".join(blocks)


def _summary(name: str) -> dict[str, object]:
    try:
        world = make_world(name)
    except MissingDependency as error:
        return {"name": name, "missing": str(error)}
    body: Embodiment = world.embodiment
    tasks = world.tasks.values()
    world.close()
    return {
        "name": name,
        "robot": body.name,
        "control_hz": body.control_hz,
        "tasks": len(tasks),
        "skills": _names(task.skill for task in tasks),
        "groups": _names(task.group for task in tasks),
    }


def _in_words(world: dict[str, object]) -> str:
    count = world["tasks"]
    groups = world["groups"]
    assert isinstance(groups, list)
    said = f"{world['robot']} at {world['control_hz']:g} Hz, {count} {'task' if count == 1 else 'tasks'}"
    return said + (f" in the groups {', '.join(groups)}" if len(groups) > 1 else "")


def _names(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(value for value in values if value))


def _row(task: Task) -> tuple[str, str, str, str]:
    return task.name, task.skill, f"{task.time_limit:g} s", task.instruction


def _space(space: Space) -> str:
    parts = [f"{part.name} ({part.size}, {part.kind}, {part.unit})" for part in space.parts]
    return ", ".join(parts)
