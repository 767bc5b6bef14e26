"""A split of an RLDS dataset: episodes by number, decoded as they are asked for.

folder: dataset_info.json, features.json, <name>-<split>.tfrecord-00000-of-00016, ...

RldsDataset(folder, split)[i] -> RldsEpisode --array(key)---> (time, *shape)        --step(tick)-> dict
                                             --texts(key)---> one per step
                                             --images(key)--> (time, height, width, channels)
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from actloop.data.rlds.episode import RldsEpisode
from actloop.data.rlds.example import parse_example
from actloop.data.rlds.features import read_schema
from actloop.data.rlds.tfrecord import Shard, open_shard
from actloop.errors import DataError, UnknownNameError

INFO, FEATURES = "dataset_info.json", "features.json"
TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"


class RldsDataset:
    """One split on disk. It holds no file and may be used after a fork or be sent to a process."""

    def __init__(self, folder: str | Path, split: str = "train", *, verify: bool = True) -> None:
        """`folder` is that of a version, or the one above where it holds a single version.

        `verify` compares the checksum of every record that is read; those of the lengths are compared here.

        Raises:
            DataError: a file is missing, damaged, of another format, or holds another number of records than declared.
            UnknownNameError: there is no such split.
        """
        self.folder, self.split, self.verify = version_folder(folder), split, verify
        info = _info(self.folder / INFO)
        self.name = str(info.get("name") or self.folder.parent.name)
        self.version = str(info.get("version") or self.folder.name)
        self.schema = read_schema(self.folder / FEATURES)
        self.shards = _shards(self.folder, self.name, info, split)
        self._ends = np.cumsum([len(shard) for shard in self.shards], dtype=np.int64)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int) -> RldsEpisode:
        """One episode.

        Raises:
            IndexError: there is no such episode.
            DataError: its record is damaged.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"episode {index} of {len(self)}")
        number = int(np.searchsorted(self._ends, index, side="right"))
        shard = self.shards[number]
        record = index - (int(self._ends[number - 1]) if number else 0)
        place = f"{shard.path}: record {record}"
        payload = shard.read(record, verify=self.verify)
        try:
            return RldsEpisode(place, parse_example(payload), self.schema)
        except DataError as error:
            raise DataError(f"{place}: {error}") from error

    @property
    def bytes(self) -> int:
        """Payload of all records."""
        return int(sum(shard.lengths.sum() for shard in self.shards))

    @property
    def cameras(self) -> tuple[str, ...]:
        """Keys that hold a colour image at every step."""
        return tuple(key for key, field in self.schema.steps.items() if field.is_camera)


def version_folder(folder: str | Path) -> Path:
    """The folder that holds `dataset_info.json`: the one given, or its only version.

    Raises:
        DataError: there is none, or several.
    """
    root = Path(folder)
    if (root / INFO).is_file():
        return root
    versions = sorted(path.parent for path in root.glob(f"*/{INFO}"))
    if len(versions) != 1:
        found = ", ".join(path.name for path in versions)
        said = f"several versions, {found}; name one" if versions else f"no {INFO}; expected a TFDS dataset"
        raise DataError(f"{root}: holds {said}")
    return versions[0]


def is_rlds(folder: str | Path) -> bool:
    """Whether a folder is laid out as a TFDS dataset; it may still be damaged."""
    root = Path(folder)
    return (root / INFO).is_file() or any(root.glob(f"*/{INFO}"))


def splits(folder: str | Path) -> dict[str, int]:
    """Episodes of each split that is declared.

    Raises:
        DataError: the metadata cannot be read.
    """
    path = version_folder(folder) / INFO
    return {name: sum(_lengths(split, path)) for name, split in _splits(_info(path), path).items()}


def _info(path: Path) -> dict[str, Any]:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(raw, dict) or not isinstance(raw.get("splits"), list):
        raise DataError(f"{path}: declares no splits; expected the metadata of a TFDS dataset")
    fmt = raw.get("fileFormat") or "tfrecord"
    if fmt != "tfrecord":
        raise DataError(f"{path}: the files are {fmt!r}, this reader knows 'tfrecord'; convert them with TFDS")
    return raw


def _splits(info: Mapping[str, Any], path: Path) -> dict[str, Mapping[str, Any]]:
    try:
        return {str(split["name"]): split for split in info["splits"]}
    except (KeyError, TypeError) as error:
        raise DataError(f"{path}: a split without a name") from error


def _lengths(split: Mapping[str, Any], path: Path) -> list[int]:
    try:
        return [int(length) for length in split["shardLengths"]]
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: split {split.get('name')!r} has no shardLengths") from error


def _shards(folder: Path, name: str, info: Mapping[str, Any], split: str) -> list[Shard]:
    path = folder / INFO
    declared = _splits(info, path)
    if split not in declared:
        raise UnknownNameError(f"{path}: split", split, declared)
    lengths = _lengths(declared[split], path)
    template = str(declared[split].get("filepathTemplate") or TEMPLATE)
    shards = []
    for number, length in enumerate(lengths):
        shard = open_shard(folder / _file_name(template, name, split, number, len(lengths), path))
        if len(shard) != length:
            raise DataError(f"{shard.path}: holds {len(shard)} records, {INFO} says {length}; the file is truncated")
        shards.append(shard)
    return shards


def _file_name(template: str, name: str, split: str, number: int, total: int, path: Path) -> str:
    known = {
        "DATASET": name,
        "SPLIT": split,
        "FILEFORMAT": "tfrecord",
        "SHARD_INDEX": f"{number:05d}",
        "NUM_SHARDS": f"{total:05d}",
        "SHARD_X_OF_Y": f"{number:05d}-of-{total:05d}",
    }
    unknown = [part for part in re.findall(r"\{(\w+)\}", template) if part not in known]
    if unknown:
        raise UnknownNameError(f"{path}: filepathTemplate", unknown[0], known)
    try:
        return template.format(**known)
    except (ValueError, IndexError, KeyError) as error:
        raise DataError(f"{path}: filepathTemplate {template!r} cannot be filled in ({error})") from error
