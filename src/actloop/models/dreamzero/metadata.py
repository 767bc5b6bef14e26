"""What lies beside the released weights: a robot's statistics and sizes, and the negative prompt.

experiment_cfg/metadata.json    {tag: {statistics: {state, action}: {part: {min, max, mean, std, q01, q99}},
                                       modalities: {video, state, action}: {part: {shape, resolution, ...}}}}
config.json                     the negative prompt, where the release kept it
"""

import json
from collections.abc import Mapping
from pathlib import Path

from actloop.contracts import Space
from actloop.errors import CheckpointError, ContractError
from actloop.models.dreamzero.embodiments import RobotDeclaration
from actloop.models.dreamzero.statistics import RobotStatistics, VectorStatistics
from actloop.models.dreamzero.weights import settings

METADATA = "experiment_cfg/metadata.json"
NEGATIVE = "negative_prompt"

Plain = Mapping[str, object]


def with_metadata(declaration: RobotDeclaration, path: str | Path) -> RobotDeclaration:
    """The robot with the statistics that a checkpoint's metadata has for its tag.

    `path`: the file, or the checkpoint's folder.

    Raises:
        CheckpointError: no readable file; no such tag, part or statistic in it (named, with what there is); or the
            robot there has parts or cameras of another size.
    """
    path = Path(path)
    path = path / METADATA if path.is_dir() else path
    plain = _read(path)
    tag = declaration.tag or declaration.embodiment.name
    robot = _inside(plain, tag, str(path))
    where, body = f"{path}: {tag}", declaration.embodiment
    modalities = robot.get("modalities")
    if isinstance(modalities, Mapping):
        for group, space in (("state", body.state), ("action", body.action)):
            _check_shapes(_inside(modalities, group, f"{where}.modalities"), space, f"{where}.modalities.{group}")
        _check_cameras(_inside(modalities, "video", f"{where}.modalities"), declaration, f"{where}.modalities.video")
    statistics = _inside(robot, "statistics", where)
    found = {
        group: _vector(_inside(statistics, group, f"{where}.statistics"), space, f"{where}.statistics.{group}")
        for group, space in (("state", body.state), ("action", body.action))
    }
    return declaration.with_statistics(RobotStatistics(**found))


def negative_prompt(folder: str | Path) -> str | None:
    """What guidance leads away from, as a checkpoint's `config.json` has it; None where it does not say.

    Raises:
        CheckpointError: no readable `config.json`.
    """
    found = _first(settings(folder))
    return found if isinstance(found, str) and found.strip() else None


def _read(path: Path) -> Plain:
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path}: expected the metadata of a checkpoint ({error})") from error
    if not isinstance(plain, dict):
        raise CheckpointError(f"{path}: expected an object by robot tag, got {type(plain).__name__}")
    return plain


def _inside(plain: Plain, name: str, where: str) -> Plain:
    if name not in plain:
        raise CheckpointError(f"{where}: no {name!r} in it, only {sorted(plain)}")
    found = plain[name]
    if not isinstance(found, Mapping):
        raise CheckpointError(f"{where}.{name}: expected an object, got {type(found).__name__}")
    return found


def _vector(plain: Plain, space: Space, where: str) -> VectorStatistics:
    """Parts in the order of the robot's declaration."""
    found = []
    for part in space.parts:
        one = _inside(plain, part.name, where)
        try:
            statistics = VectorStatistics.from_dict(one, f"{where}.{part.name}")
        except ContractError as error:
            raise CheckpointError(str(error)) from error
        if statistics.size != part.size:
            raise CheckpointError(f"{where}.{part.name}: {statistics.size} components, declared are {part.size}")
        found.append(statistics)
    return VectorStatistics.joined(found)


def _check_shapes(plain: Plain, space: Space, where: str) -> None:
    for part in space.parts:
        shape = _inside(plain, part.name, where).get("shape")
        if shape is not None and shape != [part.size]:
            raise CheckpointError(f"{where}.{part.name}: of shape {shape}, declared are {part.size} components")


def _check_cameras(plain: Plain, declaration: RobotDeclaration, where: str) -> None:
    for camera in declaration.embodiment.cameras:
        resolution = _inside(plain, camera.name, where).get("resolution")
        if resolution is not None and resolution != [camera.width, camera.height]:
            declared = [camera.width, camera.height]
            raise CheckpointError(f"{where}.{camera.name}: [width, height] {resolution}, declared are {declared}")


def _first(plain: object) -> object:
    """The negative prompt's value, however deep."""
    if isinstance(plain, dict):
        if plain.get(NEGATIVE):
            return plain[NEGATIVE]
        plain = list(plain.values())
    if isinstance(plain, list):
        return next((found for found in map(_first, plain) if found is not None), None)
    return None
