"""One form for every dataset: delta position, delta rotation, and a gripper that is 1 open and 0 closed.

episode --recipe--> Standard { states, actions (time, 7), steps, instruction, is_idle }

Where a dataset keeps these numbers is a `Recipe`, a table; what is done to them is here. Rotations keep the form in
which they were recorded, which the recipe declares: they are not comparable between datasets (OpenVLA, appendix A).
"""

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float32, Int

from actloop.actions.grippers import absolute_from_relative, binarised
from actloop.actions.rotations import convert, wrapped
from actloop.data.rlds.episode import RldsEpisode
from actloop.errors import ContractError, DataError

MOTION, ACTION = 6, 7  # numbers
STILL = 1e-5  # a motion of no more than this in every number is idle

Rotation = Literal["euler_xyz_difference", "euler_xyz", "euler_xyz_velocity", "axis_angle", "none", "unstated"]
Rows = np.ndarray  # (time, numbers), floating point


@dataclass(frozen=True, slots=True, kw_only=True)
class Take:
    """The numbers `start` to `stop` of a key, then `via`, rows to rows; `via` meets byte strings as they are."""

    key: str
    start: int | None = None
    stop: int | None = None
    via: Callable[[Any], Rows] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Constant:
    """A number that the dataset does not have, at every step."""

    value: float
    size: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class StatePart:
    """A stretch of the state, and the unit it was recorded in."""

    name: str
    unit: str
    take: Take


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Where a dataset keeps what.

    `names` are the names it goes by, `*` standing for anything; `cameras` maps our names to keys; the first of
    `instructions` that says something is taken. `unit` is that of the translation: metres, or what the controller
    understood. `reached`: `motion` takes the pose, and actions are how it changed until the next step (Bridge), not the
    command. `skip_first` leaves the first step out; `marks_idle` tells the steps at which nothing moves.
    """

    name: str
    names: tuple[str, ...]
    control_hz: float
    cameras: Mapping[str, str]
    motion: tuple[Take | Constant, ...]
    gripper: Take | Constant
    rotation: Rotation
    unit: str = "as recorded"
    state: tuple[StatePart, ...] = ()
    instructions: tuple[str, ...] = ("language_instruction",)
    skip_first: bool = False
    reached: bool = False
    marks_idle: bool = False


@dataclass(frozen=True, kw_only=True)
class Standard:
    """An episode in that form. `steps` says which step of the record each row belongs to."""

    states: Float32[np.ndarray, "time state"]
    actions: Float32[np.ndarray, "time 7"]
    steps: Int[np.ndarray, "time"]
    instruction: str

    @cached_property
    def is_idle(self) -> Bool[np.ndarray, "time"]:
        """Where nothing moves; the gripper may."""
        idle: np.ndarray = (np.abs(self.actions[:, :MOTION]) <= STILL).all(axis=1)
        return idle


def standardise(episode: RldsEpisode, recipe: Recipe, *, released: bool = False) -> Standard:
    """Bring an episode into the common form.

    `released` leaves the jump by a whole turn in the rotations of Bridge, as the released code does.

    Raises:
        DataError: a key is missing or holds something else than the recipe says.
    """
    try:
        standard = _standard(episode, recipe, released)
    except (ContractError, ValueError, zlib.error) as error:
        raise DataError(f"{episode.place}: is not as {recipe.name!r} says: {error}") from error
    for name, values in (("state", standard.states), ("action", standard.actions)):
        bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
        if bad.size:
            raise DataError(f"{episode.place}: the {name} of step {standard.steps[bad[0]]} is not finite")
    return standard


def _standard(episode: RldsEpisode, recipe: Recipe, released: bool) -> Standard:
    steps = np.arange(1 if recipe.skip_first else 0, episode.length)
    states = _stacked(episode, tuple(part.take for part in recipe.state) or (Constant(value=0.0),), steps)
    motion = _stacked(episode, recipe.motion, steps)
    if recipe.reached:
        motion = _reached(motion, released)
    gripper = _stacked(episode, (recipe.gripper,), steps)
    if motion.shape[1:] != (MOTION,) or gripper.shape[1:] != (1,):
        found = f"{motion.shape[1]} and {gripper.shape[1]}"
        raise ContractError("action", f"expected 6 numbers of motion and 1 of the gripper, got {found}")
    rows = len(motion)  # what was reached is known one step less
    return Standard(
        states=states[:rows],
        actions=np.concatenate([motion, gripper[:rows]], axis=1),
        steps=steps[:rows],
        instruction=_instruction(episode, recipe),
    )


def state_sizes(episode: RldsEpisode, recipe: Recipe) -> list[int]:
    """Numbers in each part of the state, as an episode has them; one zero where nothing was measured.

    Raises:
        DataError: a key is missing or holds something else than the recipe says.
    """
    first = np.zeros(1, np.int64)
    return [_stacked(episode, (part.take,), first).shape[1] for part in recipe.state] or [1]


def clipped(rows: Rows) -> Rows:
    """Into [0, 1]."""
    return rows.clip(0, 1)


def inverted(rows: Rows) -> Rows:
    """1 open from 0 open, or the other way round."""
    return 1 - rows


def clipped_inverted(rows: Rows) -> Rows:
    """Into [0, 1], then the other way round."""
    return 1 - rows.clip(0, 1)


def decided(rows: Rows) -> Rows:
    """Open or closed; in between, what comes next. A column that never decides again is rounded."""
    return np.round(binarised(rows[:, 0]))[:, None] if len(rows) else rows


def held(rows: Rows) -> Rows:
    """1 open, 0 closed, from commands to close (+1) and to open (-1)."""
    return absolute_from_relative(rows[:, 0])[:, None] if len(rows) else rows


def euler_from_quat_xyzw(rows: Rows) -> Rows:
    """Roll, pitch and yaw about fixed axes, radians, of quaternions with the real part last.

    Raises:
        ContractError: a quaternion of length zero.
        MissingDependency: scipy is not installed.
    """
    return convert(rows, "quat_xyzw", "euler_xyz")


def zlib_floats(values: Sequence[memoryview] | Rows) -> Rows:
    """Rows from compressed float32 numbers, one string per step; rows stay as they are."""
    if isinstance(values, np.ndarray):
        return values
    return np.stack([np.frombuffer(zlib.decompress(value), "<f4") for value in values])


def from_codepoints(numbers: np.ndarray) -> str:
    """Text from the code points of its characters, padded with zeros."""
    ends = np.flatnonzero(numbers == 0)
    return "".join(chr(number) for number in numbers[: ends[0] if ends.size else None])


def _stacked(episode: RldsEpisode, sources: Sequence[Take | Constant], steps: np.ndarray) -> Rows:
    """The sources side by side, at the given steps, float32."""
    columns = []
    for source in sources:
        if isinstance(source, Constant):
            columns.append(np.full((len(steps), source.size), source.value, np.float32))
            continue
        values = episode.values(source.key)
        if isinstance(values, np.ndarray):
            values = values[steps].reshape(len(steps), -1)[:, source.start : source.stop]
            rows = source.via(values.astype(np.float32)) if source.via else values
        elif source.via is zlib_floats:
            rows = zlib_floats(values)[steps, source.start : source.stop]
        else:
            raise DataError(f"{source.key!r} holds {episode.field(source.key).kind}, expected numbers")
        columns.append(rows.astype(np.float32))
    return np.concatenate(columns, axis=1)


def _reached(pose: Rows, released: bool) -> Rows:
    """Position and Euler angles at the next step less those at this one; angles turn the short way round."""
    motion = np.diff(pose, axis=0)
    if not released:
        turned = motion[:, 3:]
        motion[:, 3:] = np.where(np.abs(turned) > np.pi, wrapped(turned), turned)
    return motion


def _instruction(episode: RldsEpisode, recipe: Recipe) -> str:
    """The first text that says something; empty where none does."""
    for key in recipe.instructions:
        if key not in episode.keys:
            continue
        if episode.field(key).kind == "number":
            texts = [from_codepoints(numbers) for numbers in episode.array(key)]
        else:
            texts = episode.texts(key)
        said = next((text.strip() for text in texts if text.strip()), "")
        if said:
            return said
    return ""
