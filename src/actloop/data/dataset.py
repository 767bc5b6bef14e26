"""Read a LeRobotDataset v3.0, whoever wrote it: vectors in memory, frames decoded as they are asked for.

LeRobotDataset(path, fields) --windows(spec)--> Windows[i] | Windows.batch(indices)
                             --episode(i)-----> Episode
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8

from actloop.contracts import Embodiment
from actloop.data import tables
from actloop.data.fields import EXECUTED, IMAGE_PREFIX, FieldMap
from actloop.data.images import EmbeddedImages
from actloop.data.layout import Feature, Info, read_info
from actloop.data.statistics import Stats
from actloop.data.video import VideoFile
from actloop.data.windows import Episode, EpisodeInfo, Windows, WindowSpec, episode_of
from actloop.errors import DataError, UnknownNameError


class LeRobotDataset:
    """A dataset on disk. It may be used after a fork and be sent to a process, which opens its own files."""

    def __init__(self, path: str | Path, fields: FieldMap | None = None) -> None:
        """`fields` None takes every image feature as a camera, named as the feature without `observation.images.`.

        Raises:
            DataError: a file is missing, truncated or disagrees with its metadata.
            UnknownNameError: a field names no feature.
        """
        self.path = Path(path)
        self.info: Info = read_info(self.path)
        self.fields = fields or _every_camera(self.info)
        self.fields.check({name: feature.dtype for name, feature in self.info.features.items()}, str(self.path))
        self._rows = tables.read_episodes(self.path, self.info)
        self.episodes = [
            EpisodeInfo(index=row.index, instruction=row.instruction, start=row.start, length=row.length)
            for row in self._rows
        ]
        self._check_embodiment()
        names = {self.fields.state, self.fields.action, EXECUTED, "timestamp"} & set(self.info.features)
        columns = tables.read_columns(self.path, self.info, self._rows, sorted(names))
        self.states: Float[np.ndarray, "total state"] = self._finite(columns[self.fields.state], self.fields.state)
        self.actions: Float[np.ndarray, "total action"] = self._finite(columns[self.fields.action], self.fields.action)
        self.executed: Float[np.ndarray, "total action"] = self.actions
        if EXECUTED in columns and columns[EXECUTED].shape == self.actions.shape:
            self.executed = self._finite(columns[EXECUTED], EXECUTED)
        tick = np.concatenate([np.arange(e.length) for e in self.episodes] or [np.zeros(0, np.int64)])
        stamps = columns["timestamp"][:, 0].astype(np.float64) if "timestamp" in columns else tick / self.info.fps
        self._time = np.where(np.abs(stamps - tick / self.info.fps) < 1e-3, tick / self.info.fps, stamps)
        self._episode_of = np.repeat(np.arange(len(self.episodes)), [e.length for e in self.episodes])
        self._videos: dict[Path, VideoFile] = {}
        self._embedded: dict[str, EmbeddedImages] = {}

    def __reduce__(self) -> tuple[Callable[..., "LeRobotDataset"], tuple[Any, ...]]:
        return (LeRobotDataset, (self.path, self.fields))

    @property
    def embodiment(self) -> Embodiment | None:
        """The body it was recorded from, where actloop recorded it."""
        return self.info.embodiment

    @property
    def fps(self) -> float:
        """Frames per second."""
        return float(self.info.fps)

    @property
    def cameras(self) -> tuple[str, ...]:
        return tuple(self.fields.cameras)

    @property
    def tasks(self) -> list[str]:
        """Instructions in order of their task index."""
        return tables.read_tasks(self.path)

    @property
    def statistics(self) -> dict[str, Stats]:
        """What `meta/stats.json` says, by feature; empty where it is absent."""
        path = self.path / "meta" / "stats.json"
        if not path.is_file():
            return {}
        try:
            stats: dict[str, Stats] = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise DataError(f"{path}: not readable as JSON ({error})") from error
        return stats

    @property
    def notes(self) -> list[dict[str, Any]]:
        """What the recorder noted beside each episode; empty where it was not ours."""
        return [json.loads(row.notes) if row.notes else {} for row in self._rows]

    @property
    def identity(self) -> str:
        """Sixteen hex digits that change when the data or the field mapping do: metadata and the size of each file."""
        digest = hashlib.sha256(repr((dict(self.fields.cameras), self.fields.state, self.fields.action)).encode())
        digest.update((self.path / "meta" / "info.json").read_bytes())
        for path in sorted([*(self.path / "meta" / "episodes").glob("*/*.parquet"), *self.files()]):
            size = path.stat().st_size if path.is_file() else -1
            digest.update(f"{path.relative_to(self.path).as_posix()} {size}\n".encode())
        return digest.hexdigest()[:16]

    def files(self) -> list[Path]:
        """Every data and video file that the episodes name, there or not."""
        found = set(tables.data_files(self.path, self.info, self._rows))
        for row in self._rows:
            found |= {self._video_path(feature, row) for feature in row.videos if feature in self._video_features()}
        return sorted(found)

    def last_episodes(self, camera: str) -> list[int]:
        """The last episode in each file that holds frames of a camera: where it reads, the file is whole.

        Raises:
            UnknownNameError: no such camera.
        """
        feature = self._feature_of(camera)
        place = {}
        for row in self._rows:
            at = row.videos[feature.name][:2] if feature.dtype == "video" else (row.data_chunk, row.data_index)
            place[at] = row.index
        return list(place.values())

    def windows(self, spec: WindowSpec, episodes: Sequence[int] | None = None) -> Windows:
        """Random windows over all frames, or over those of the given episodes."""
        return Windows(self, spec, episodes)

    def episode(self, index: int) -> Episode:
        """One episode.

        Raises:
            ContractError: no such episode.
        """
        return episode_of(self, index, self._episode_frames, where=self.path)

    def images(self, camera: str, indices: Int[np.ndarray, "*shape"]) -> UInt8[np.ndarray, "*shape height width 3"]:
        """Frames by their index in the dataset, any shape of indices; each is decoded once.

        Raises:
            UnknownNameError: no such camera.
            DataError: a file is missing or damaged.
        """
        feature = self._feature_of(camera)
        unique, inverse = np.unique(indices, return_inverse=True)
        if feature.dtype == "image":
            frames = self._images_of(feature).frames(unique)
        else:
            frames = self._video_frames(feature, unique)
        return frames.take(inverse.reshape(indices.shape), axis=0)

    def _feature_of(self, camera: str) -> Feature:
        if camera not in self.fields.cameras:
            raise UnknownNameError(f"{self.path}: camera", camera, self.fields.cameras)
        return self.info.features[self.fields.cameras[camera]]

    def _episode_frames(self, index: int, camera: str) -> UInt8[np.ndarray, "time height width 3"]:
        info = self.episodes[index]
        return self.images(camera, np.arange(info.start, info.start + info.length))

    def _video_frames(self, feature: Feature, indices: Int[np.ndarray, "n"]) -> UInt8[np.ndarray, "n height width 3"]:
        """Rising dataset indices; consecutive ones of one file are decoded together."""
        episodes = self._episode_of[indices]
        paths = {episode: self._video_path(feature.name, self._rows[episode]) for episode in np.unique(episodes)}
        parts: list[tuple[np.ndarray, np.ndarray]] = []
        for path in dict.fromkeys(paths.values()):
            here = np.flatnonzero(np.isin(episodes, [episode for episode, at in paths.items() if at == path]))
            video = self._video(path, feature)
            starts = np.array([self._rows[episode].videos[feature.name][2] for episode in episodes[here]])
            ranks = video.ranks(starts + self._time[indices[here]], 0.25 / self.info.fps)
            rising, inverse = np.unique(ranks, return_inverse=True)
            frames = video.decode(rising)
            parts.append((here, frames if len(rising) == len(ranks) and (rising == ranks).all() else frames[inverse]))
        if len(parts) == 1:
            return parts[0][1]
        out = np.empty((len(indices), *feature.shape), np.uint8)
        for here, frames in parts:
            out[here] = frames
        return out

    def _video(self, path: Path, feature: Feature) -> VideoFile:
        if path not in self._videos:
            video = VideoFile(path)
            if (video.height, video.width, 3) != feature.shape:
                size = (video.height, video.width, 3)
                raise DataError(f"{path}: frames are {size}, info.json says {feature.shape} for {feature.name!r}")
            self._videos[path] = video
        return self._videos[path]

    def _images_of(self, feature: Feature) -> EmbeddedImages:
        if feature.name not in self._embedded:
            files = tables.data_files(self.path, self.info, self._rows)
            self._embedded[feature.name] = EmbeddedImages(feature, files)
        return self._embedded[feature.name]

    def _video_path(self, feature: str, row: tables.EpisodeRow) -> Path:
        chunk, file, _ = row.videos[feature]
        return self.path / self.info.video_path.format(video_key=feature, chunk_index=chunk, file_index=file)

    def _video_features(self) -> set[str]:
        return {name for name in self.fields.cameras.values() if self.info.features[name].dtype == "video"}

    def _finite(self, values: np.ndarray, name: str) -> Float[np.ndarray, "total size"]:
        vectors = values.astype(np.float32)
        bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        if bad.size:
            raise DataError(f"{self.path}: {name!r} is not finite in {bad.size} frames, the first is frame {bad[0]}")
        return vectors

    def _check_embodiment(self) -> None:
        """The spaces of the recorded embodiment are those of the columns."""
        if self.info.embodiment is None:
            return
        for name, space in (("observation.state", self.info.embodiment.state), ("action", self.info.embodiment.action)):
            feature = self.info.features.get(name)
            if feature is not None and feature.size != space.size:
                raise DataError(
                    f"{self.path / 'meta' / 'info.json'}: {name!r} has shape {feature.shape}, the recorded embodiment "
                    f"says {space.size}"
                )


def _every_camera(info: Info) -> FieldMap:
    cameras = [name for name, feature in info.features.items() if feature.is_image]
    return FieldMap(cameras={name.removeprefix(IMAGE_PREFIX): name for name in cameras})
