"""`actloop data robot`: a robot as DreamZero takes it, declared in one file, with statistics of its own data."""

import json
from pathlib import Path

from actloop.contracts import Embodiment
from actloop.data.cache import CachedEpisodes
from actloop.data.dataset import LeRobotDataset
from actloop.errors import ContractError, DataError
from actloop.models.dreamzero.embodiments import PLACE, RobotDeclaration, declare
from actloop.models.dreamzero.robots import ROBOTS, released_robot


def write(declared: RobotDeclaration, out: Path) -> None:
    """Write a declaration as JSON."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(declared.to_dict(), indent=1) + "\n", encoding="utf-8")


def declaration_of(like: str) -> RobotDeclaration | None:
    """A released robot by name, one out of a file, or None for an empty name.

    Raises:
        UnknownNameError: neither a name nor a file.
        ContractError: the file is no declaration; what it lacks is named.
    """
    path = Path(like)
    if not like:
        return None
    if path.suffix != ".json":
        return released_robot(like)
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ContractError(like, f"expected a declaration ({', '.join(ROBOTS)}, or a JSON file): {error}") from error
    if not isinstance(plain, dict):
        raise ContractError(like, f"expected an object, got {type(plain).__name__}")
    return RobotDeclaration.from_dict(plain)


def measured(
    dataset: Path,
    like: RobotDeclaration | None = None,
    *,
    block_actions: int,
    frame_ticks: int,
    template: str = PLACE,
) -> RobotDeclaration:
    """The declaration with statistics of the dataset; without `like`, of the body that it was recorded from.

    Raises:
        DataError: the dataset cannot be read, or does not say its body and nothing else does.
        ContractError: the dataset is of another robot; what differs is named.
    """
    data = CachedEpisodes(dataset) if (dataset / "manifest.json").is_file() else LeRobotDataset(dataset)
    if like is None:
        if data.embodiment is None:
            raise DataError(f"{dataset}: does not say which body it was recorded from; declare one and pass it as like")
        like = declare(data.embodiment, block_actions=block_actions, frame_ticks=frame_ticks, template=template)
    _check_same(like.embodiment, data, dataset)
    spans = [(info.start, info.start + info.length) for info in data.episodes]
    episodes = [(data.states[a:b], data.actions[a:b]) for a, b in spans]
    return like.measured(episodes, rows=len(data.states))


def said(declared: RobotDeclaration, out: Path) -> str:
    """What was declared, for a person to check."""
    body, (height, width) = declared.embodiment, declared.tiling.size
    absolute = [part.name for part in body.action.parts if part.name not in declared.relative]
    return "\n".join(
        (
            f"{out}: {body.name}, {', '.join(declared.tiling.cameras)} in {height} x {width} pixels",
            f"  a block is {declared.block_actions} actions and {declared.block_frames} frames, "
            f"{declared.block_seconds:g} s",
            f"  relative to its start: {', '.join(declared.relative) or 'none'}; as they are: {', '.join(absolute)}",
            f"  prompt: {declared.template}",
        )
    )


def _check_same(body: Embodiment, data: CachedEpisodes | LeRobotDataset, path: Path) -> None:
    for camera in body.cameras:
        if camera.name not in data.cameras:
            raise ContractError(f"{path}: camera {camera.name}", f"missing; the dataset has {list(data.cameras)}")
    for name, space, found in (("state", body.state, data.states), ("action", body.action, data.actions)):
        if found.shape[-1] != space.size:
            raise ContractError(
                f"{path}: {name}", f"{found.shape[-1]} components, {body.name!r} has {space.component_names}"
            )
    if abs(data.fps - body.control_hz) > 1e-3 * body.control_hz:
        raise ContractError(
            f"{path}: fps", f"{data.fps:g} Hz, {body.name!r} is told {body.control_hz:g} times a second"
        )
