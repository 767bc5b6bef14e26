"""A dataset decoded once into memory-mapped arrays: what training reads. Opens with NumPy alone.

manifest.json   identity of the source, embodiment, episodes, statistics
states.npy  actions.npy  executed.npy  frames.<camera>.npy     uint8 (total, height, width, 3)
"""

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int, UInt8

from actloop.contracts import Embodiment, embodiment_from_dict, embodiment_to_dict
from actloop.data.statistics import Stats
from actloop.data.windows import Episode, EpisodeInfo, Windows, WindowSpec, episode_of
from actloop.errors import ContractError, DataError, UnknownNameError

if TYPE_CHECKING:
    from actloop.data.dataset import LeRobotDataset

FORMAT = "actloop.cache.1"
EXECUTED_FILE = "executed.npy"
Progress = Callable[[int, int], None]  # episodes done, episodes in all


class CachedEpisodes:
    """A decoded dataset: the same episodes, windows, statistics and embodiment as its source."""

    def __init__(self, path: str | Path) -> None:
        """Map the arrays.

        Raises:
            DataError: no cache there, or an array is missing or of another shape.
        """
        self.path = Path(path)
        where = self.path / "manifest.json"
        if not where.is_file():
            raise DataError(f"{where}: missing; expected a folder that `decode` wrote")
        try:
            raw = json.loads(where.read_text(encoding="utf-8"))
            if raw["format"] != FORMAT:
                raise DataError(
                    f"{where}: is {raw['format']!r}, expected {FORMAT!r}; delete the cache and decode again"
                )
            self.source: str = raw["source"]
            self.fps: float = float(raw["fps"])
            self.statistics: dict[str, Stats] = raw["statistics"]
            recorded = raw["embodiment"]
            self.embodiment: Embodiment | None = None if recorded is None else embodiment_from_dict(recorded)
            self.episodes = _episodes(raw["episodes"])
            self.cameras: tuple[str, ...] = tuple(raw["cameras"])
        except (KeyError, TypeError, ValueError, ContractError) as error:
            raise DataError(f"{where}: not a cache manifest ({type(error).__name__}: {error})") from error
        total = sum(episode.length for episode in self.episodes)
        self.states: Float[np.ndarray, "total state"] = self._map("states", total)
        self.actions: Float[np.ndarray, "total action"] = self._map("actions", total)
        written = (self.path / EXECUTED_FILE).is_file()  # caches from before it was kept have none
        self.executed: Float[np.ndarray, "total action"] = self._map("executed", total) if written else self.actions
        self._frames = {camera: self._map(f"frames.{camera}", total) for camera in self.cameras}

    def __reduce__(self) -> tuple[Callable[..., "CachedEpisodes"], tuple[Any, ...]]:
        return (CachedEpisodes, (self.path,))

    def check_source(self, identity: str) -> None:
        """The cache was decoded from the dataset of this identity.

        Raises:
            DataError: it was not; the dataset or the field mapping has changed since.
        """
        if self.source != identity:
            raise DataError(
                f"{self.path}: was decoded from another state of the dataset ({self.source}, now {identity}); "
                "delete it and decode again"
            )

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
        """Frames by their index in the dataset, any shape of indices."""
        return self._camera(camera).take(indices, axis=0)

    def _episode_frames(self, index: int, camera: str) -> UInt8[np.ndarray, "time height width 3"]:
        info = self.episodes[index]
        return self._camera(camera)[info.start : info.start + info.length]

    def _camera(self, camera: str) -> UInt8[np.ndarray, "total height width 3"]:
        if camera not in self._frames:
            raise UnknownNameError(f"{self.path}: camera", camera, self._frames)
        return self._frames[camera]

    def _map(self, name: str, total: int) -> np.ndarray:
        path = self.path / f"{name}.npy"
        if not path.is_file():
            raise DataError(f"{path}: missing; delete the cache and decode again")
        try:
            array = np.load(path, mmap_mode="r" if total else None, allow_pickle=False)
        except (ValueError, OSError) as error:
            raise DataError(f"{path}: not readable ({error}); delete the cache and decode again") from error
        if len(array) != total:
            raise DataError(f"{path}: has {len(array)} frames, the manifest says {total}; delete the cache")
        return np.asarray(array)


def decode(
    dataset: "LeRobotDataset",
    path: str | Path | None = None,
    *,
    refresh: bool = False,
    progress: Progress | None = None,
) -> CachedEpisodes:
    """Decode a dataset into `path`, or open what is there when it was decoded from this very dataset.

    Without a `path` it lies beside the dataset, as `NAME.decoded`.

    Raises:
        DataError: a cache of another dataset or state is there and `refresh` is false, or a source file is damaged.
    """
    path = dataset.path.with_name(f"{dataset.path.name}.decoded") if path is None else Path(path)
    identity = dataset.identity
    if (path / "manifest.json").is_file():
        try:
            CachedEpisodes(path).check_source(identity)
            if not (path / EXECUTED_FILE).is_file():
                np.save(path / EXECUTED_FILE, dataset.executed)
            return CachedEpisodes(path)
        except DataError:
            if not refresh:
                raise
    elif path.is_dir() and any(path.iterdir()):
        raise DataError(f"{path}: is not empty and no cache; choose a new folder")
    beside = path.with_name(f"{path.name}.partial-{os.getpid()}")
    beside.mkdir(parents=True)
    try:
        _fill(dataset, beside, progress)
        (beside / "manifest.json").write_text(json.dumps(_manifest(dataset, identity)), encoding="utf-8")
        if path.exists():
            shutil.rmtree(path)
        os.replace(beside, path)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return CachedEpisodes(path)


def _fill(dataset: "LeRobotDataset", folder: Path, progress: Progress | None) -> None:
    np.save(folder / "states.npy", dataset.states)
    np.save(folder / "actions.npy", dataset.actions)
    np.save(folder / EXECUTED_FILE, dataset.executed)
    arrays = {}
    for camera, feature in dataset.fields.cameras.items():
        shape = (dataset.info.frames, *dataset.info.features[feature].shape)
        arrays[camera] = np.lib.format.open_memmap(folder / f"frames.{camera}.npy", "w+", np.uint8, shape)
    for done, episode in enumerate(dataset.episodes, start=1):
        where = slice(episode.start, episode.start + episode.length)
        for camera, array in arrays.items():
            array[where] = dataset.images(camera, np.arange(where.start, where.stop))
        if progress is not None:
            progress(done, len(dataset.episodes))
    for array in arrays.values():
        array.flush()


def _manifest(dataset: "LeRobotDataset", identity: str) -> dict[str, Any]:
    embodiment = dataset.embodiment
    return {
        "format": FORMAT,
        "source": identity,
        "fps": dataset.info.fps,
        "cameras": list(dataset.cameras),
        "embodiment": None if embodiment is None else embodiment_to_dict(embodiment),
        "episodes": [{"instruction": e.instruction, "length": e.length} for e in dataset.episodes],
        "statistics": dataset.statistics,
    }


def _episodes(raw: Sequence[Mapping[str, Any]]) -> list[EpisodeInfo]:
    episodes, start = [], 0
    for index, one in enumerate(raw):
        length = int(one["length"])
        episodes.append(EpisodeInfo(index=index, instruction=str(one["instruction"]), start=start, length=length))
        start += length
    return episodes
