"""Where LeRobotDataset v3.0 keeps its files, and `meta/info.json`, the one that commits the others.

    meta/info.json  meta/stats.json  meta/tasks.parquet  meta/episodes/chunk-000/file-000.parquet
    data/chunk-000/file-000.parquet  videos/<feature>/chunk-000/file-000.mp4

Files are written beside their place and renamed, and info.json last: what it counts is complete, whatever happens.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actloop.contracts import Embodiment, embodiment_from_dict
from actloop.errors import ContractError, DataError

VERSION = "v3.0"
CHUNK_SIZE = 1000  # files per chunk directory
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
EPISODES_PATH = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
HISTOGRAMS_PATH = "meta/actloop/chunk-{chunk_index:03d}/histograms-{file_index:03d}.npz"
EMBODIMENT_KEY = "actloop.embodiment"
NOTES_COLUMN = "actloop.notes"
INDEX_FEATURES = {
    "timestamp": "float32",
    "frame_index": "int64",
    "episode_index": "int64",
    "index": "int64",
    "task_index": "int64",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Feature:
    """One column of the dataset, or one camera: `dtype` is `video`, `image` or a number type."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    names: tuple[str, ...] = ()

    @property
    def is_image(self) -> bool:
        return self.dtype in ("video", "image")

    @property
    def size(self) -> int:
        """Numbers per frame of a vector."""
        size = 1
        for side in self.shape:
            size *= side
        return size


@dataclass(frozen=True, slots=True, kw_only=True)
class Info:
    """What `meta/info.json` declares. `fps` is the frame rate in Hz; `embodiment` is there where actloop recorded."""

    fps: float
    episodes: int
    frames: int
    robot_type: str
    features: Mapping[str, Feature]
    data_path: str
    video_path: str
    embodiment: Embodiment | None


def read_info(root: Path) -> Info:
    """Parse `meta/info.json` of the dataset at `root`.

    Raises:
        DataError: missing, not JSON, of another version, or without a field that is needed.
    """
    path = root / "meta" / "info.json"
    if not path.is_file():
        if (root / "meta").is_dir() and any((root / "meta").glob("*.partial")):
            raise DataError(f"{path}: missing; a recording was stopped before its first file was complete")
        raise DataError(f"{path}: missing; expected the root folder of a LeRobotDataset {VERSION}")
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise DataError(f"{path}: not readable as JSON ({error})") from error
    version = raw.get("codebase_version") if isinstance(raw, dict) else None
    if version != VERSION:
        raise DataError(
            f"{path}: is LeRobotDataset {version or 'of unknown version'}, expected {VERSION}; convert it with "
            "`python -m lerobot.datasets.v30.convert_dataset_v21_to_v30` from LeRobot"
        )
    try:
        features = {name: _feature(name, value) for name, value in raw["features"].items()}
        recorded = raw.get(EMBODIMENT_KEY)
        return Info(
            fps=float(raw["fps"]),
            episodes=int(raw["total_episodes"]),
            frames=int(raw["total_frames"]),
            robot_type=str(raw.get("robot_type") or ""),
            features=features,
            data_path=raw["data_path"],
            video_path=raw.get("video_path") or VIDEO_PATH,
            embodiment=None if recorded is None else embodiment_from_dict(recorded),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{path}: a field is missing or malformed ({type(error).__name__}: {error})") from error
    except ContractError as error:
        raise DataError(f"{path}: {EMBODIMENT_KEY}: {error}") from error


def _feature(name: str, raw: Mapping[str, Any]) -> Feature:
    names = raw.get("names")
    flat = names if isinstance(names, Sequence) and all(isinstance(one, str) for one in names) else ()
    return Feature(name=name, dtype=raw["dtype"], shape=tuple(int(n) for n in raw["shape"]), names=tuple(flat))


def numbered(pattern: str, number: int, **names: str) -> str:
    """The path of the `number`-th file of its sort, counted over chunk directories."""
    return pattern.format(chunk_index=number // CHUNK_SIZE, file_index=number % CHUNK_SIZE, **names)


def partial_path(path: Path) -> Path:
    """Where a file is written until it is complete."""
    return path.with_name(path.name + ".partial")


def write_atomically(path: Path, content: bytes) -> None:
    """Put `content` at `path`; a reader sees the old file or the new one, nothing between."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = partial_path(path)
    beside.write_bytes(content)
    os.replace(beside, path)
