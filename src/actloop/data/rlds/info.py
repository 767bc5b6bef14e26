"""What is in an RLDS dataset, and what is wrong with it: the last record of every file is read, and some others."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from actloop.data.rlds.dataset import RldsDataset, splits
from actloop.data.rlds.episode import RldsEpisode
from actloop.data.rlds.features import Field
from actloop.data.rlds.recipes import recipe_of
from actloop.data.rlds.standardise import standardise
from actloop.errors import ActloopError, UnknownNameError

SPREAD = 32  # records looked at besides


@dataclass(frozen=True, slots=True, kw_only=True)
class RldsInfo:
    """Plain data about a split. `splits` counts episodes; `steps` and `instructions` are of the records looked at.

    `recipe` is empty where none is known by the dataset's name; `problems` where every file could be read.
    """

    path: str
    name: str
    version: str
    split: str
    splits: Mapping[str, int]
    files: int
    bytes: int
    fields: Mapping[str, str]
    episode_fields: Mapping[str, str]
    cameras: tuple[str, ...]
    recipe: str
    control_hz: float | None
    rotation: str
    looked_at: int
    steps: tuple[int, int] | None
    instructions: Mapping[str, int]
    problems: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return asdict(self)


def describe(folder: str | Path, split: str = "train") -> RldsInfo:
    """What is in the dataset in `folder`.

    Raises:
        DataError: the metadata cannot be read, or a file is missing or truncated.
        UnknownNameError: there is no such split.
    """
    dataset = RldsDataset(folder, split)
    try:
        recipe = recipe_of(dataset.name)
    except UnknownNameError:
        recipe = None
    instructions: Counter[str] = Counter()
    steps, problems = [], []
    for index in _looked_at(dataset):
        try:
            episode = dataset[index]
            steps.append(episode.length)
            _look(episode, dataset)
            if recipe is not None:
                instructions[standardise(episode, recipe).instruction] += 1
        except ActloopError as error:
            problems.append(str(error))
    if instructions[""]:
        problems.append(f"{instructions['']} of {len(steps)} episodes looked at have no instruction")
    return RldsInfo(
        path=str(dataset.folder),
        name=dataset.name,
        version=dataset.version,
        split=split,
        splits=splits(dataset.folder),
        files=len(dataset.shards),
        bytes=dataset.bytes,
        fields={key: _said(field) for key, field in dataset.schema.steps.items()},
        episode_fields={key: _said(field) for key, field in dataset.schema.episode.items()},
        cameras=dataset.cameras,
        recipe=recipe.name if recipe else "",
        control_hz=recipe.control_hz if recipe else None,
        rotation=recipe.rotation if recipe else "",
        looked_at=len(steps),
        steps=(min(steps), max(steps)) if steps else None,
        instructions=dict(instructions.most_common()),
        problems=tuple(problems),
    )


def _looked_at(dataset: RldsDataset) -> list[int]:
    """The last record of every file, and some spread over the whole dataset."""
    ends = np.cumsum([len(shard) for shard in dataset.shards])
    last = [int(end) - 1 for end, shard in zip(ends, dataset.shards, strict=True) if len(shard)]
    spread = np.linspace(0, len(dataset) - 1, SPREAD).round().astype(int) if len(dataset) else np.zeros(0, int)
    return sorted({*last, *spread.tolist()})


def _look(episode: RldsEpisode, dataset: RldsDataset) -> None:
    """Decode every field, and of every camera one picture."""
    for key in episode.keys:
        episode.values(key)
    for camera in dataset.cameras if episode.length else ():
        episode.images(camera, [0])


def _said(field: Field) -> str:
    """`float32 7`, `jpeg` images as `uint8 64x64x3`, texts as `text`."""
    shape = "x".join("?" if side is None else str(side) for side in field.shape)
    parts = [field.kind if field.kind != "number" else "", field.dtype, shape]
    parts += [field.encoding] if field.encoding != "none" else []
    return " ".join(part for part in parts if part)
