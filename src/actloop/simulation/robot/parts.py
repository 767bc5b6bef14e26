"""What a robot's numbers mean, said once by its user: LeRobot names its floats, but tells no units, limits or kinds.

{"shoulder_pan.pos": 3.1, ..., "front": picture} --BodyMap--> state vector, pictures
action vector --BodyMap--> {"shoulder_pan.pos": 3.4, ...}
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from actloop.contracts import Action, Camera, Embodiment, Frame, Part, Space, State
from actloop.errors import ActloopError, ContractError, UnknownNameError


class RobotError(ActloopError):
    """The robot does not answer: it is not there, not calibrated, went away, or hangs."""


@runtime_checkable
class LeRobot(Protocol):
    """What is used of LeRobot's `Robot`; any object with these will do.

    Features map a name to `float`, or to a shape `(height, width, 3)`. `send_action` returns what was really sent.
    """

    @property
    def observation_features(self) -> Mapping[str, Any]: ...

    @property
    def action_features(self) -> Mapping[str, Any]: ...

    @property
    def is_connected(self) -> bool: ...

    def connect(self) -> None: ...

    def get_observation(self) -> Mapping[str, Any]: ...

    def send_action(self, action: dict[str, Any]) -> Mapping[str, Any]: ...

    def disconnect(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RobotPart:
    """A part of the body and the robot's names of its components, in order.

    `role` says whether it is sensed ("state"), commanded ("action"), or both under the same names and in the same unit,
    which only targets of kind "absolute" can be.

    Raises:
        ContractError: other than one name for each component, or what is sensed is declared a delta or a velocity.
        UnknownNameError: no such role.
    """

    part: Part
    features: tuple[str, ...]
    role: Literal["both", "state", "action"] = "both"

    def __post_init__(self) -> None:
        path = f"robot part {self.part.name!r}"
        if self.role not in ("both", "state", "action"):
            raise UnknownNameError(f"{path}, role", str(self.role), ("both", "state", "action"))
        if len(self.features) != self.part.size or len(set(self.features)) != len(self.features):
            raise ContractError(path, f"expected {self.part.size} different features, got {list(self.features)}")
        if self.role != "action" and self.part.kind != "absolute":
            raise ContractError(path, f'a {self.part.kind} is commanded, not sensed: say role = "action"')


class BodyMap:
    """The declared body of a robot, checked against the features that it has, and the way between both forms.

    Args:
        robot: only its features are read.
        name: of the embodiment.
        control_hz: of the loop.
        parts: in the order of the vectors.
        cameras: those to use; all colour cameras where None.
        unused: names of what is sensed that is left out on purpose.

    Raises:
        ContractError: names what is commanded or sensed and not declared, or declared and not there.
    """

    def __init__(
        self,
        robot: LeRobot,
        *,
        name: str,
        control_hz: float,
        parts: Sequence[RobotPart],
        cameras: Sequence[str] | None = None,
        unused: Sequence[str] = (),
    ) -> None:
        if not control_hz > 0:
            raise ContractError("robot.control_hz", f"expected a rate above 0, got {control_hz}")
        state = [part for part in parts if part.role != "action"]
        action = [part for part in parts if part.role != "state"]
        if not state or not action:
            raise ContractError("robot.parts", "declare at least one part that is sensed and one that is commanded")
        self._state = _names("state", state)
        self._action = _names("action", action)
        offered = dict(robot.observation_features)
        colour = [key for key, shape in offered.items() if _is_colour(shape)]
        used = colour if cameras is None else list(cameras)
        for camera in used:
            if camera not in colour:
                raise UnknownNameError("robot.cameras", camera, colour)
        _same_names("robot.action_features", self._action, robot.action_features, "commanded")
        left_out = {*unused, *(camera for camera in colour if camera not in used)}
        sensed = [key for key in offered if key not in left_out and key not in used]
        _same_names("robot.observation_features", self._state, sensed, "sensed", " or list it as unused")
        self.embodiment = Embodiment(
            name=name,
            cameras=tuple(Camera(name=key, height=offered[key][0], width=offered[key][1]) for key in used),
            state=Space(parts=tuple(part.part for part in state)),
            action=Space(parts=tuple(part.part for part in action)),
            control_hz=control_hz,
        )

    def sensed(self, reading: Mapping[str, Any]) -> tuple[State, dict[str, Frame]]:
        """State vector and pictures of one reading, copied: drivers reuse their buffers.

        Raises:
            ContractError: a feature is missing, or is not a number or picture as declared.
        """
        cameras = [camera.name for camera in self.embodiment.cameras]
        missing = [name for name in (*self._state, *cameras) if name not in reading]
        if missing:
            raise ContractError("robot.get_observation", f"lacks {missing}, has {sorted(reading)}")
        state = _vector("robot.get_observation", self._state, reading)
        return state, {name: np.array(reading[name]) for name in cameras}

    def command(self, action: Action) -> dict[str, Any]:
        """The robot's form of a command."""
        return {name: float(value) for name, value in zip(self._action, action, strict=True)}

    def sent(self, answer: object) -> Action:
        """What `send_action` says was sent.

        Raises:
            ContractError: it says nothing, or not about exactly what was commanded.
        """
        if not isinstance(answer, Mapping):
            got = type(answer).__name__
            raise ContractError("robot.send_action", f"expected what was really sent, by name, got {got}")
        _same_names("robot.send_action, returned", self._action, answer, "sent")
        vector: Action = _vector("robot.send_action, returned", self._action, answer)
        self.embodiment.action.check(vector, "robot.send_action, returned")
        return vector


def _names(role: str, parts: Sequence[RobotPart]) -> tuple[str, ...]:
    names = tuple(name for part in parts for name in part.features)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ContractError(f"robot.parts, {role}", f"{twice} belong to more than one part")
    return names


def _same_names(path: str, declared: Sequence[str], there: Iterable[str], what: str, otherwise: str = "") -> None:
    names = list(there)
    missing = [name for name in declared if name not in names]
    unknown = [name for name in names if name not in declared]
    if missing:
        raise ContractError(path, f"declared as {what}, but not there: {missing}; there are {names}")
    if unknown:
        raise ContractError(path, f"{what}, but not declared: {unknown}; add it to a part{otherwise}")


def _is_colour(shape: object) -> bool:
    return isinstance(shape, tuple | list) and len(shape) == 3 and shape[2] == 3


def _vector(path: str, names: Sequence[str], values: Mapping[str, Any]) -> np.ndarray:
    try:
        return np.array([float(values[name]) for name in names], dtype=np.float32)
    except (TypeError, ValueError) as error:
        odd = {name: type(values[name]).__name__ for name in names}
        raise ContractError(path, f"expected one number for each name, got {odd} ({error})") from error
