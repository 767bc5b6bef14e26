"""Worlds by name, and their tasks by name, skill or group.

A package of your own adds a world with an entry point in the group `actloop.worlds`, see docs/add-a-world.md.
"""

import inspect
from collections.abc import Callable, Iterable
from importlib import import_module
from importlib.metadata import entry_points

from actloop.contracts import Task, World
from actloop.errors import ContractError, MissingDependency, UnknownNameError

WORLDS: dict[str, str] = {
    "tabletop": "actloop.simulation.tabletop:Tabletop",
    "metaworld": "actloop.simulation.metaworld:MetaWorld",
    "libero": "actloop.simulation.libero:LiberoWorld",
    "aloha": "actloop.simulation.aloha:open_aloha",
    "simpler": "actloop.simulation.simpler:SimplerWorld",
    "pusht": "actloop.simulation.pusht:open_pusht",
    "exact": "actloop.simulation.exact:ExactWorld",
    "robot": "actloop.simulation.robot:open_robot",
}
ENTRY_POINTS = "actloop.worlds"
EXTRAS = {"mujoco": "simulation", "metaworld": "metaworld", "gymnasium": "metaworld", "packaging": "metaworld"}
# Whatever a world of these misses comes with its extra.
WORLD_EXTRAS = {name: name for name in ("libero", "simpler", "aloha", "pusht")}


def known_worlds() -> dict[str, str]:
    """Import strings `module:attribute` by world name: ours, then those of installed plugins."""
    return WORLDS | {point.name: point.value for point in entry_points(group=ENTRY_POINTS) if point.name not in WORLDS}


def make_world(name: str, **options: object) -> World:
    """The world `name`, built with the options of its constructor.

    Raises:
        UnknownNameError: no such world, or no such option of it.
        MissingDependency: a package the world needs is not installed.
        ContractError: what was built is not a `World`.
    """
    factory = _factory(name)
    takes = inspect.signature(factory).parameters
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in takes.values()):
        for option in options:
            if option not in takes:
                raise UnknownNameError(f"world {name!r}, option", option, takes)
    for option, value in options.items():
        _check_kind(f"world {name!r}, option {option}", takes[option].annotation if option in takes else None, value)
    try:
        world = factory(**options)
    except ModuleNotFoundError as error:
        raise _missing(name, error) from error
    if not isinstance(world, World):
        raise ContractError(f"world {name!r}", f"{type(world).__name__} does not implement actloop.contracts.World")
    return world


def find_task(world: World, name: str) -> Task:
    """The task `name` of a world.

    Raises:
        UnknownNameError: with the nearest names.
    """
    if name not in world.tasks:
        raise UnknownNameError(f"{world.embodiment.name}, task", name, world.tasks)
    return world.tasks[name]


def tasks_of(world: World, patterns: Iterable[str] = ()) -> list[Task]:
    """Tasks by name, skill or group, each once, in the order asked for and then the world's; all where none is asked.

    Raises:
        UnknownNameError: with the nearest names.
    """
    found: dict[str, Task] = {}
    asked = list(patterns)
    for pattern in asked:
        matching = [task for task in world.tasks.values() if pattern in (task.name, task.skill, task.group)]
        if not pattern or not matching:
            known = {name for task in world.tasks.values() for name in (task.name, task.skill, task.group) if name}
            raise UnknownNameError(f"{world.embodiment.name}, task, skill or group", pattern, known)
        exact = [task for task in matching if task.name == pattern]  # a task may share its name with a skill
        found |= {task.name: task for task in exact or matching}
    return list(found.values()) if asked else list(world.tasks.values())


def _check_kind(path: str, wanted: object, value: object) -> None:
    """That a number or a word is given where the constructor says so; whatever else it says is its own to check."""
    fits: dict[object, tuple[str, tuple[type, ...]]] = {
        int: ("a whole number", (int,)),
        float: ("a number", (int, float)),
        bool: ("true or false", (bool,)),
        str: ("text", (str,)),
    }
    said, kinds = fits.get(wanted, ("", (object,)))
    if not isinstance(value, kinds) or (isinstance(value, bool) and wanted in (int, float)):
        raise ContractError(path, f"expected {said}, got {value!r}")


def _factory(name: str) -> Callable[..., object]:
    known = known_worlds()
    if name not in known:
        raise UnknownNameError("world", name, known)
    module, _, attribute = known[name].partition(":")
    try:
        factory: Callable[..., object] = getattr(import_module(module), attribute)
    except ModuleNotFoundError as error:
        raise _missing(name, error) from error
    return factory


def _missing(world: str, error: ModuleNotFoundError) -> MissingDependency:
    package = (error.name or str(error)).partition(".")[0]
    extra = WORLD_EXTRAS.get(world) or EXTRAS.get(package)
    wanted = f'"actloop[{extra}]"' if extra else package
    return MissingDependency(f"package {package!r}", f"the world {world!r} needs it", f"pip install {wanted}")
