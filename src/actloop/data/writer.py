"""Record episodes as LeRobotDataset v3.0.

    add_frame ... save_episode --> frames and rows in memory --every few episodes--> commit
    commit: mp4 per camera, data parquet, tasks, episodes, statistics, and last info.json, each renamed into place

A kill loses what was not committed and nothing else: no file that info.json counts is ever touched again.
"""

import io
import json
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from actloop.contracts import Embodiment, Observation
from actloop.data import layout, tables
from actloop.data.fields import IMAGE_PREFIX
from actloop.data.layout import numbered, write_atomically
from actloop.data.schema import DATA_MB, Extra, features_of, info_json, video_json
from actloop.data.statistics import Stats, image_histogram, image_stats, vector_stats
from actloop.data.video import CODECS, padded, write_video
from actloop.errors import ContractError, DataError, UnknownNameError

HELD_MB = 512  # frames held until they are encoded; compressed they stay far below the limit on a video file


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedEpisode:
    """What the writer knows of an episode on disk; `notes` are the recorder's own."""

    instruction: str
    length: int
    notes: Mapping[str, Any]


class EpisodeWriter:
    """Appends episodes to a dataset, new or its own; a context manager that commits on the way out, whatever happens.

    `saved` lists every episode in the dataset so far, those of earlier recordings included.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        embodiment: Embodiment,
        fps: float | None = None,
        robot_type: str | None = None,
        codec: str = "libsvtav1",
        extras: Sequence[Extra] = (),
        keyframe_every: int = 1,
        episodes_per_file: int = 64,
    ) -> None:
        """`fps` defaults to the embodiment's control rate; after `episodes_per_file` episodes a file is committed.

        LeRobot writes a keyframe every second frame. At 64 pixels, keyframes alone (1) cost 40 % more bytes and no
        time, and spare the frames between them a loss of 2 dB and the ghosts of fast motion.

        Raises:
            DataError: the dataset there is not readable, or of another embodiment, rate or set of features.
            UnknownNameError: no such codec.
            ContractError: a camera with an odd side, which video cannot hold.
        """
        if codec not in CODECS:
            raise UnknownNameError("codec", codec, CODECS)
        for name, value in (("episodes_per_file", episodes_per_file), ("keyframe_every", keyframe_every)):
            if value < 1:
                raise ContractError(name, f"expected 1 or more, got {value}")
        for camera in embodiment.cameras:
            if camera.height % 2 or camera.width % 2:
                raise ContractError(
                    f"camera {camera.name}", f"video needs even sides, got {camera.height} x {camera.width}"
                )
        self.path, self.embodiment, self.fps = Path(path), embodiment, float(fps or embodiment.control_hz)
        self._codec, self._keyframe_every, self._per_file = codec, keyframe_every, episodes_per_file
        self._robot_type = robot_type or embodiment.name
        self._extras = {extra.name: extra for extra in extras}
        self._features = features_of(embodiment, extras)
        self._columns = [feature for feature in self._features.values() if not feature.is_image]
        self._values: dict[str, list[np.ndarray]] = {feature.name: [] for feature in self._columns}
        self._histograms = {c.name: np.zeros((3, 256), np.int64) for c in embodiment.cameras}
        self._tasks: dict[str, int] = {}
        self.saved: list[SavedEpisode] = []
        self._frames, self._files = 0, 0
        self._fresh: list[dict[str, Any]] = []  # rows of the episodes table that are not committed
        self._fresh_histograms = {name: np.zeros_like(value) for name, value in self._histograms.items()}
        self._clips: dict[str, list[np.ndarray]] = {camera.name: [] for camera in embodiment.cameras}
        self._buffer: list[tuple[Observation, np.ndarray, dict[str, np.ndarray]]] = []
        if (self.path / "meta" / "info.json").exists():
            self._resume()
        elif self.path.is_dir() and any(self.path.iterdir()) and not (self.path / "meta").is_dir():
            raise DataError(f"{self.path}: is not empty and no dataset; choose a new folder")
        self._remove_uncommitted()

    def __enter__(self) -> "EpisodeWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard_episode()
        self.close()

    def add_frame(
        self, observation: Observation, action: Float[np.ndarray, "action"], *, extra: Mapping[str, Any] | None = None
    ) -> None:
        """Buffer one tick: what was sensed, and the action that belongs to it, in physical units.

        Raises:
            ContractError: the values are not what the embodiment or the declared extras say.
        """
        self.embodiment.check(observation)
        self.embodiment.action.check(action, "action")
        if set(extra or {}) != set(self._extras):
            raise ContractError("extra", f"expected {sorted(self._extras)}, got {sorted(extra or {})}")
        values = {
            name: np.asarray(value, self._extras[name].dtype).reshape(-1) for name, value in (extra or {}).items()
        }
        for name, value in values.items():
            if len(value) != len(self._extras[name].names):
                raise ContractError(
                    f"extra.{name}", f"expected {len(self._extras[name].names)} values, got {len(value)}"
                )
        self._buffer.append((observation, np.array(action, np.float32), values))

    def save_episode(self, instruction: str, *, notes: Mapping[str, Any] | None = None) -> None:
        """Keep the buffered frames as one episode; `notes` (JSON-ready) are kept beside it.

        Raises:
            ContractError: nothing was buffered, or there is no instruction.
        """
        if not self._buffer:
            raise ContractError("episode", "has no frames; call add_frame before save_episode")
        if not instruction.strip():
            raise ContractError("episode.instruction", "is empty")
        with _uninterrupted():
            self._save(instruction, dict(notes or {}))
            if len(self._fresh) >= self._per_file or self._is_full():
                self._commit()

    def _save(self, instruction: str, notes: dict[str, Any]) -> None:
        length, number = len(self._buffer), len(self.saved)
        task = self._tasks.setdefault(instruction, len(self._tasks))
        columns = self._columns_of(number, task)
        row: dict[str, Any] = {
            "episode_index": number,
            "tasks": [instruction],
            "length": length,
            **_place("data", self._files),
            "dataset_from_index": self._frames,
            "dataset_to_index": self._frames + length,
            layout.NOTES_COLUMN: json.dumps(notes, sort_keys=True),
        }
        stats = {name: vector_stats(values) for name, values in columns.items()}
        for camera in self.embodiment.cameras:
            row |= self._add_clip(camera.name, stats)
        for name, stat in stats.items():
            row |= {f"stats/{name}/{key}": value for key, value in stat.items()}
        for name, values in columns.items():
            self._values[name].append(values)
        self.saved.append(SavedEpisode(instruction=instruction, length=length, notes=notes))
        self._fresh.append(row)
        self._frames += length
        self.discard_episode()

    def discard_episode(self) -> None:
        """Forget the buffered frames."""
        self._buffer.clear()

    def commit(self) -> None:
        """Close the open files and count their episodes; from here on a kill does not lose them."""
        if self._fresh:
            with _uninterrupted():
                self._commit()

    def _commit(self) -> None:
        for camera, clips in self._clips.items():
            path = self.path / numbered(layout.VIDEO_PATH, self._files, video_key=IMAGE_PREFIX + camera)
            write_video(path, clips, fps=self.fps, codec=self._codec, keyframe_every=self._keyframe_every)
        fresh = len(self._fresh)
        values = {name: chunks[-fresh:] for name, chunks in self._values.items()}
        data = tables.write_data(self._columns, values)
        write_atomically(self.path / numbered(layout.DATA_PATH, self._files), data)
        histograms = io.BytesIO()
        np.savez_compressed(histograms, allow_pickle=False, **self._fresh_histograms)
        write_atomically(self.path / numbered(layout.HISTOGRAMS_PATH, self._files), histograms.getvalue())
        write_atomically(self.path / "meta" / "tasks.parquet", tables.write_tasks(list(self._tasks)))
        rows = [row | _place("meta/episodes", self._files) for row in self._fresh]
        write_atomically(self.path / numbered(layout.EPISODES_PATH, self._files), tables.write_rows(rows))
        for name, histogram in self._fresh_histograms.items():
            self._histograms[name] += histogram
            histogram[:] = 0
        write_atomically(self.path / "meta" / "stats.json", json.dumps(self._statistics(), indent=4).encode())
        write_atomically(self.path / "meta" / "info.json", json.dumps(self._info(), indent=4).encode())
        self._fresh.clear()
        for clips in self._clips.values():
            clips.clear()
        self._files += 1

    def close(self) -> None:
        """Commit what was saved; the writer can go on afterwards, in new files."""
        self.commit()

    def _columns_of(self, number: int, task: int) -> dict[str, np.ndarray]:
        """The buffered frames as arrays `(length, size)` by feature."""
        length = len(self._buffer)
        frame = np.arange(length)
        columns = {
            "observation.state": np.stack([obs.state for obs, _, _ in self._buffer]).astype(np.float32),
            "action": np.stack([action for _, action, _ in self._buffer]),
            **{name: np.stack([extra[name] for _, _, extra in self._buffer]) for name in self._extras},
            "timestamp": (frame / self.fps).astype(np.float32),
            "frame_index": frame,
            "episode_index": np.full(length, number),
            "index": frame + self._frames,
            "task_index": np.full(length, task),
        }
        return {name: values.reshape(length, -1) for name, values in columns.items()}

    def _add_clip(self, camera: str, stats: dict[str, Stats]) -> dict[str, Any]:
        """Queue the buffered frames of one camera; the episode's columns that say where they will be."""
        feature = IMAGE_PREFIX + camera
        images = np.stack([obs.images[camera] for obs, _, _ in self._buffer])
        histogram = image_histogram(images)
        stats[feature] = image_stats(histogram, len(images))
        self._fresh_histograms[camera] += histogram
        start = sum(padded(len(clip), self._keyframe_every) for clip in self._clips[camera])
        self._clips[camera].append(images)
        return _place(f"videos/{feature}", self._files) | {
            f"videos/{feature}/from_timestamp": start / self.fps,
            f"videos/{feature}/to_timestamp": (start + len(images)) / self.fps,
        }

    def _is_full(self) -> bool:
        row_bytes = 4 * sum(feature.size for feature in self._columns)
        data_bytes = sum(row["length"] for row in self._fresh) * row_bytes
        frame_bytes = sum(clip.nbytes for clips in self._clips.values() for clip in clips)
        return data_bytes >= DATA_MB * 2**20 or frame_bytes >= HELD_MB * 2**20

    def _statistics(self) -> dict[str, Stats]:
        vectors = {name: vector_stats(np.concatenate(chunks)) for name, chunks in self._values.items()}
        images = {IMAGE_PREFIX + name: image_stats(value, self._frames) for name, value in self._histograms.items()}
        return vectors | images

    def _info(self) -> dict[str, Any]:
        return info_json(
            self._features.values(),
            self.embodiment,
            fps=self.fps,
            robot_type=self._robot_type,
            episodes=len(self.saved),
            frames=self._frames,
            tasks=len(self._tasks),
            video=video_json(self._codec, self.fps, self._keyframe_every),
        )

    def _resume(self) -> None:
        """Take up the dataset that is there."""
        info = layout.read_info(self.path)
        where = self.path / "meta" / "info.json"
        if info.embodiment is None:
            raise DataError(f"{where}: says no embodiment, so it was not recorded by actloop; choose another folder")
        if info.embodiment.identity != self.embodiment.identity:
            raise DataError(
                f"{where}: was recorded from embodiment {info.embodiment.name!r} ({info.embodiment.identity}), not "
                f"{self.embodiment.name!r} ({self.embodiment.identity}); choose another folder"
            )
        if info.fps != self.fps or dict(info.features) != self._features:
            raise DataError(
                f"{where}: was recorded at {info.fps:g} Hz with {sorted(info.features)}; cannot append to it"
            )
        rows = tables.read_episodes(self.path, info)
        for row in rows:
            self.saved.append(
                SavedEpisode(
                    instruction=row.instruction, length=row.length, notes=json.loads(row.notes) if row.notes else {}
                )
            )
        self._tasks = {task: index for index, task in enumerate(tables.read_tasks(self.path))}
        self._frames = info.frames
        self._files = max((row.data_file for row in rows), default=-1) + 1
        columns = tables.read_columns(self.path, info, rows, [feature.name for feature in self._columns])
        self._values = {name: [values] for name, values in columns.items()}
        for number in range(self._files):
            path = self.path / numbered(layout.HISTOGRAMS_PATH, number)
            if not path.is_file():
                raise DataError(f"{path}: missing; without it the statistics cannot be continued")
            with np.load(path) as counts:
                for name in self._histograms:
                    self._histograms[name] += _counts(counts[name], path)

    def _remove_uncommitted(self) -> None:
        """Delete the files of a recording that was killed: partial ones, and those numbered after the last commit."""
        for partial in self.path.glob("**/*.partial"):
            partial.unlink()
        patterns = [layout.DATA_PATH, layout.EPISODES_PATH, layout.HISTOGRAMS_PATH]
        patterns += [layout.VIDEO_PATH.replace("{video_key}", IMAGE_PREFIX + name) for name in self._histograms]
        for pattern in patterns:
            (self.path / numbered(pattern, self._files)).unlink(missing_ok=True)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Hold a Ctrl-C back until the files agree with one another again."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python delivers signals to the main thread alone
        return
    came: list[tuple[int, FrameType | None]] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: came.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if came and callable(before):
        before(*came[0])


def _counts(raw: np.ndarray, path: Path) -> Int[np.ndarray, "3 256"]:
    if raw.shape != (3, 256):
        raise DataError(f"{path}: expected histograms (3, 256), got {raw.shape}")
    return raw.astype(np.int64)


def _place(prefix: str, number: int) -> dict[str, int]:
    return {
        f"{prefix}/chunk_index": number // layout.CHUNK_SIZE,
        f"{prefix}/file_index": number % layout.CHUNK_SIZE,
    }
