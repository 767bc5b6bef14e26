"""A robot's world from a TOML table; docs/robot.md shows one."""

import inspect
import tomllib
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from actloop.contracts import Part, Task
from actloop.errors import ActloopError, ContractError, MissingDependency, UnknownNameError
from actloop.simulation.robot.parts import RobotPart
from actloop.simulation.robot.world import RobotWorld

_WORLD = ("name", "robot", "options", "body", "control_hz", "cameras", "unused", "reading", "patience", "home", "parts")
_KEYS = (*_WORLD, "tasks")
_PART = ("name", "features", "unit", "low", "high", "kind", "neutral", "role")
_TASK = ("name", "instruction", "time_limit", "skill", "group")


class MissingDescription(MissingDependency):
    """The world "robot" was asked for without the file that says which robot."""

    def __init__(self) -> None:
        self.what, self.why, self.mend = "a description", "a robot is described by a TOML file", "spec=FILE"
        ActloopError.__init__(
            self, "the world 'robot' is yours: describe it in a file, and give that as spec=FILE (docs/robot.md)"
        )

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        return type(self), ()


def open_robot(spec: str | Path = "") -> RobotWorld:
    """The robot described in the TOML file `spec`, in its table `[world]`, or at its top where it has none.

    Raises:
        MissingDescription: no file was named.
        ContractError: the file is not there, is no TOML, or describes no robot.
    """
    if not str(spec):
        raise MissingDescription
    path = Path(spec)
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ContractError(str(path), f"cannot be read as TOML ({error})") from error
    return robot_from_toml(table.get("world", table))


def robot_from_toml(table: Mapping[str, Any]) -> RobotWorld:
    """The robot that a table describes: `robot` is `module:function`, called with `options` as keywords.

    Raises:
        UnknownNameError: an unknown key, or a name that is none of those known.
        ContractError: a key is missing or of the wrong form, or the robot is not as declared.
        MissingDependency: a package that the robot's module needs is not installed.
    """
    _known("world", table, _KEYS)
    if table.get("name", "robot") != "robot":
        raise ContractError("world.name", f"expected 'robot', got {table['name']!r}; its own name belongs in `body`")
    parts = [_part(f"world.parts[{index}]", part) for index, part in enumerate(_tables("world", table, "parts"))]
    tasks = [_task(f"world.tasks[{index}]", task) for index, task in enumerate(_tables("world", table, "tasks"))]
    options = _get("world", table, "options", Mapping, {})
    home = _get("world", table, "home", str, "")
    cameras = _texts("world", table, "cameras") if "cameras" in table else None
    settings: dict[str, Any] = {
        "name": _get("world", table, "body", str),
        "control_hz": _number("world", table, "control_hz"),
        "unused": _texts("world", table, "unused") if "unused" in table else [],
        "reading": _get("world", table, "reading", str, "inline"),
        "patience": _number("world", table, "patience") if "patience" in table else 1.0,
        "home": _imported("world.home", home) if home else None,
    }
    robot = _made(_get("world", table, "robot", str), options)
    return RobotWorld(robot, parts=parts, tasks=tasks, cameras=cameras, **settings)


def _part(path: str, table: Mapping[str, Any]) -> RobotPart:
    _known(path, table, _PART)
    features = _texts(path, table, "features")
    neutral = _numbers(path, table, "neutral", len(features)) if "neutral" in table else None
    part = Part(
        name=_get(path, table, "name", str),
        unit=_get(path, table, "unit", str),
        low=_numbers(path, table, "low", len(features)),
        high=_numbers(path, table, "high", len(features)),
        kind=_kind(path, table),
        neutral=neutral,
    )
    return RobotPart(part=part, features=tuple(features), role=_get(path, table, "role", str, "both"))


def _kind(path: str, table: Mapping[str, Any]) -> Any:
    kind = _get(path, table, "kind", str, "absolute")
    if kind not in ("absolute", "delta", "velocity"):
        raise UnknownNameError(f"{path}.kind", kind, ("absolute", "delta", "velocity"))
    return kind


def _task(path: str, table: Mapping[str, Any]) -> Task:
    _known(path, table, _TASK)
    return Task(
        name=_get(path, table, "name", str),
        instruction=_get(path, table, "instruction", str),
        time_limit=_number(path, table, "time_limit"),
        skill=_get(path, table, "skill", str, ""),
        group=_get(path, table, "group", str, ""),
    )


def _made(name: str, options: Mapping[str, Any]) -> Any:
    factory = _imported("world.robot", name)
    try:
        inspect.signature(factory).bind(**options)
    except TypeError as error:
        raise ContractError("world.options", f"{name} does not take {dict(options)} ({error})") from error
    try:
        return factory(**options)
    except ModuleNotFoundError as error:
        raise _absent(name, error) from error


def _imported(path: str, name: str) -> Any:
    module, colon, attribute = name.partition(":")
    if not (module and colon and attribute):
        raise ContractError(path, f"expected module:function, got {name!r}")
    try:
        found = getattr(import_module(module), attribute)
    except ModuleNotFoundError as error:
        if error.name is not None and module != error.name and not module.startswith(f"{error.name}."):
            raise _absent(name, error) from error
        raise ContractError(path, f"no module {module!r} can be imported from here; is it installed?") from error
    except AttributeError as error:
        raise ContractError(path, f"the module {module!r} has no {attribute!r}") from error
    if not callable(found):
        raise ContractError(path, f"{name} is no function, but {type(found).__name__}")
    return found


def _absent(name: str, error: ModuleNotFoundError) -> MissingDependency:
    package = (error.name or str(error)).partition(".")[0]
    return MissingDependency(f"package {package!r}", f"{name} needs it", f"pip install {package}")


def _known(path: str, table: Mapping[str, Any], known: Sequence[str]) -> None:
    for key in table:
        if key not in known:
            raise UnknownNameError(f"{path}, key", key, known)


def _get(path: str, table: Mapping[str, Any], key: str, kind: Any, default: Any = None) -> Any:
    value = table.get(key, default)
    if value is None:
        raise ContractError(path, f"misses {key!r}")
    if not isinstance(value, kind):
        expected = {str: "text", Mapping: "a table", list: "a list"}[kind]
        raise ContractError(f"{path}.{key}", f"expected {expected}, got {value!r}")
    return value


def _number(path: str, table: Mapping[str, Any], key: str) -> float:
    value = _get(path, table, key, object)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ContractError(f"{path}.{key}", f"expected a number, got {value!r}")
    return float(value)


def _numbers(path: str, table: Mapping[str, Any], key: str, count: int) -> tuple[float, ...]:
    """A list of numbers, or one number for all components."""
    value = _get(path, table, key, object)
    values = value if isinstance(value, list) else [value] * count
    if any(isinstance(one, bool) or not isinstance(one, int | float) for one in values) or len(values) != count:
        raise ContractError(f"{path}.{key}", f"expected a number, or {count} of them as `features` has, got {value!r}")
    return tuple(float(one) for one in values)


def _texts(path: str, table: Mapping[str, Any], key: str) -> list[str]:
    values: list[str] = _get(path, table, key, list)
    if not all(isinstance(value, str) for value in values):
        raise ContractError(f"{path}.{key}", f"expected a list of names, got {values!r}")
    return values


def _tables(path: str, table: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    values: list[Mapping[str, Any]] = _get(path, table, key, list)
    if not values or not all(isinstance(value, Mapping) for value in values):
        raise ContractError(f"{path}.{key}", f"expected tables [[{path}.{key}]], got {values!r}")
    return values
