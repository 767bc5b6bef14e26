"""A standardised RLDS dataset as windows, statistics and training read one: vectors in memory, frames when asked for.

RldsDataset + Recipe --one pass over the records--> RldsFrames.windows(spec), .episode(i), .statistics, .embodiment
"""

import hashlib
from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int, UInt8

from actloop.contracts import Embodiment
from actloop.data.rlds.dataset import RldsDataset
from actloop.data.rlds.embodiment import embodiment_of
from actloop.data.rlds.episode import RldsEpisode
from actloop.data.rlds.recipes import chosen
from actloop.data.rlds.standardise import Recipe, Standard, standardise, state_sizes
from actloop.data.statistics import Stats, vector_stats
from actloop.data.windows import Episode, EpisodeInfo, Windows, WindowSpec, episode_of
from actloop.errors import DataError, UnknownNameError

Progress = Callable[[int, int], None]  # records or episodes done, and in all


class RldsFrames:
    """The episodes of a split that have an instruction. It may be used after a fork and be sent to a process.

    A frame is read with its whole record; for training over many epochs, convert the dataset.
    """

    def __init__(
        self,
        dataset: RldsDataset,
        recipe: Recipe | None = None,
        *,
        released: bool = False,
        episodes: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        """`recipe` None takes that of the dataset's name; `episodes` stops after so many records.

        Raises:
            UnknownNameError: no recipe is known for the dataset, or it lacks a key that the recipe names.
            DataError: a record is damaged or not as the recipe says, or no episode is left.
        """
        self.dataset, self.recipe, self.released = dataset, recipe or chosen(dataset), released
        self.path, self.fps = dataset.folder, self.recipe.control_hz
        self._keys = dict(self.recipe.cameras)
        for camera, key in self._keys.items():
            if key not in dataset.schema.steps or not dataset.schema.steps[key].is_camera:
                raise UnknownNameError(f"{dataset.folder}: camera {camera}", key, dataset.cameras)
        self.episodes: list[EpisodeInfo] = []
        self.records: list[int] = []  # the record of each episode
        self.silent = 0  # records without an instruction, and those too short to hold a motion
        kept: list[Standard] = []
        total = len(dataset) if episodes is None else min(episodes, len(dataset))
        for record in range(total):
            if progress is not None:
                progress(record + 1, total)
            standard = standardise(dataset[record], self.recipe, released=released)
            if not standard.instruction or not len(standard.steps):
                self.silent += 1
                continue
            start = self.episodes[-1].start + self.episodes[-1].length if self.episodes else 0
            self.episodes.append(
                EpisodeInfo(index=len(kept), instruction=standard.instruction, start=start, length=len(standard.steps))
            )
            self.records.append(record)
            kept.append(standard)
        if not kept:
            raise DataError(f"{dataset.folder}: no episode of split {dataset.split!r} has steps and an instruction")
        self.states: Float[np.ndarray, "total state"] = np.concatenate([one.states for one in kept])
        self.actions: Float[np.ndarray, "total action"] = np.concatenate([one.actions for one in kept])
        self.executed: Float[np.ndarray, "total action"] = self.actions  # no release has both
        self.is_idle = np.concatenate([one.is_idle for one in kept])
        self._steps = np.concatenate([one.steps for one in kept])
        self._starts = np.array([info.start for info in self.episodes], np.int64)

    @property
    def cameras(self) -> tuple[str, ...]:
        return tuple(self._keys)

    @cached_property
    def embodiment(self) -> Embodiment:
        """The body as the recipe declares it; limits are the least and greatest values in the data."""
        first = self.dataset[self.records[0]]
        return embodiment_of(self.recipe, self.sizes, state_sizes(first, self.recipe), self.states, self.actions)

    @cached_property
    def statistics(self) -> dict[str, Stats]:
        """Statistics of state and action over every frame, by LeRobot's names."""
        return {"observation.state": vector_stats(self.states), "action": vector_stats(self.actions)}

    @property
    def identity(self) -> str:
        """Sixteen hex digits that change when the records or what is taken from them do."""
        digest = hashlib.sha256(repr((self.dataset.name, self.dataset.split, self.recipe.name, self._keys)).encode())
        for values in (*(shard.lengths for shard in self.dataset.shards), self.states, self.actions, self._steps):
            digest.update(np.ascontiguousarray(values).tobytes())
        return digest.hexdigest()[:16]

    def windows(self, spec: WindowSpec, episodes: Sequence[int] | None = None) -> Windows:
        """Random windows over all frames, or over those of the given episodes."""
        return Windows(self, spec, episodes)

    def episode(self, index: int) -> Episode:
        """One episode.

        Raises:
            ContractError: no such episode.
        """
        return episode_of(self, index, self.episode_frames, where=self.path)

    def images(self, camera: str, indices: Int[np.ndarray, "*shape"]) -> UInt8[np.ndarray, "*shape height width 3"]:
        """Frames by their index among the kept ones, any shape of indices; each record is read once.

        Raises:
            UnknownNameError: no such camera.
            DataError: a record is damaged, or a picture has another size than the first one.
        """
        if not np.size(indices):
            return np.zeros((*np.shape(indices), *self._size(camera), 3), np.uint8)
        unique, inverse = np.unique(indices, return_inverse=True)
        episodes = np.searchsorted(self._starts, unique, side="right") - 1
        parts = [
            self._pictures(self.dataset[self.records[episode]], camera, self._steps[unique[episodes == episode]])
            for episode in np.unique(episodes)
        ]
        return np.concatenate(parts).take(inverse.reshape(np.shape(indices)), axis=0)

    def episode_frames(
        self, index: int, camera: str, record: RldsEpisode | None = None
    ) -> UInt8[np.ndarray, "time height width 3"]:
        """All frames of an episode; `record` is its record where it was read already."""
        info = self.episodes[index]
        steps = self._steps[info.start : info.start + info.length]
        return self._pictures(record or self.dataset[self.records[index]], camera, steps)

    def _pictures(self, record: RldsEpisode, camera: str, steps: np.ndarray) -> np.ndarray:
        size = self._size(camera)
        pictures = record.images(self._keys[camera], steps.tolist())
        if pictures.shape[1:] != (*size, 3):
            found = pictures.shape[1:3]
            raise DataError(f"{record.place}: {camera!r} is {found}, the first picture of the dataset {size}")
        return pictures

    def _size(self, camera: str) -> tuple[int, int]:
        if camera not in self._keys:
            raise UnknownNameError(f"{self.path}: camera", camera, self._keys)
        return self.sizes[camera]

    @cached_property
    def sizes(self) -> dict[str, tuple[int, int]]:
        """Height and width of each camera: declared, or those of the first picture."""
        sizes = {}
        for camera, key in self._keys.items():
            height, width = self.dataset.schema.steps[key].shape[:2]
            if height is None or width is None:
                first = self.dataset[self.records[0]].images(key, [int(self._steps[0])])
                height, width = first.shape[1:3]
            sizes[camera] = (height, width)
        return sizes
