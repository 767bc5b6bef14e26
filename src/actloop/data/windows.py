"""Episodes and windows over anything that holds frames, states and actions. NumPy only.

sample i = one dataset frame (episode e, tick t)
  images[camera]  at t + frames[0], t + frames[1], ...     clamped to the episode, frame_is_pad where clamped
  states          at t + states[0], ...                    clamped to the episode, state_is_pad where clamped
  actions         at t, t + 1, ..., t + actions - 1        last action repeated, action_is_pad where repeated
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from actloop.errors import ContractError


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeInfo:
    """Where one episode lies: `start` is the index of its first frame in the dataset, `length` its frames."""

    index: int
    instruction: str
    start: int
    length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Episode:
    """One recorded episode; `frames(camera)` is `(time, height, width, 3)` uint8, decoded when asked."""

    index: int
    instruction: str
    states: Float[np.ndarray, "time state"]
    actions: Float[np.ndarray, "time action"]
    frames: Callable[[str], UInt8[np.ndarray, "time height width 3"]]


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowSpec:
    """What one sample holds: offsets in ticks from the sample's own tick, and how many actions from it on."""

    frames: tuple[int, ...]
    actions: int
    states: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        if self.actions < 0:
            raise ContractError("window.actions", f"expected a number of actions, 0 or more, got {self.actions}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """One sample. Where a `*_is_pad` flag is set, the value repeats the nearest one inside the episode."""

    images: Mapping[str, UInt8[np.ndarray, "frames height width 3"]]
    states: Float[np.ndarray, "states state"]
    actions: Float[np.ndarray, "horizon action"]
    frame_is_pad: Bool[np.ndarray, "frames"]
    state_is_pad: Bool[np.ndarray, "states"]
    action_is_pad: Bool[np.ndarray, "horizon"]
    instruction: str
    episode: int
    tick: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowBatch:
    """Samples stacked along a first axis; `episodes` and `ticks` say where each came from."""

    images: Mapping[str, UInt8[np.ndarray, "batch frames height width 3"]]
    states: Float[np.ndarray, "batch states state"]
    actions: Float[np.ndarray, "batch horizon action"]
    frame_is_pad: Bool[np.ndarray, "batch frames"]
    state_is_pad: Bool[np.ndarray, "batch states"]
    action_is_pad: Bool[np.ndarray, "batch horizon"]
    instructions: list[str]
    episodes: Int[np.ndarray, "batch"]
    ticks: Int[np.ndarray, "batch"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where the values of some windows lie, counted over the whole dataset, and which of them are padding."""

    episodes: Int[np.ndarray, "batch"]
    ticks: Int[np.ndarray, "batch"]
    frames: Int[np.ndarray, "batch frames"]
    states: Int[np.ndarray, "batch states"]
    actions: Int[np.ndarray, "batch horizon"]
    frame_is_pad: Bool[np.ndarray, "batch frames"]
    state_is_pad: Bool[np.ndarray, "batch states"]
    action_is_pad: Bool[np.ndarray, "batch horizon"]


@runtime_checkable
class Frames(Protocol):
    """What windows are cut from: a dataset on disk or its decoded cache. Frames are counted over the whole dataset."""

    @property
    def episodes(self) -> Sequence[EpisodeInfo]: ...

    @property
    def cameras(self) -> tuple[str, ...]: ...

    @property
    def fps(self) -> float: ...

    @property
    def states(self) -> Float[np.ndarray, "total state"]: ...

    @property
    def actions(self) -> Float[np.ndarray, "total action"]: ...

    @property
    def executed(self) -> Float[np.ndarray, "total action"]:
        """What the robot really did in the tick, where that was recorded beside what it ought to; else `actions`."""
        ...

    def images(self, camera: str, indices: Int[np.ndarray, "*shape"]) -> UInt8[np.ndarray, "*shape height width 3"]: ...


def episode_of(
    source: Frames,
    index: int,
    frames: Callable[[int, str], UInt8[np.ndarray, "time height width 3"]],
    *,
    where: object,
) -> Episode:
    """One episode of a dataset, whose pictures come from `frames(index, camera)`; `where` names it in errors.

    Raises:
        ContractError: no such episode.
    """
    if not 0 <= index < len(source.episodes):
        raise ContractError("episode", f"{index} is not in {where}, which has {len(source.episodes)} episodes")
    info = source.episodes[index]
    here = slice(info.start, info.start + info.length)
    return Episode(
        index=index,
        instruction=info.instruction,
        states=source.states[here],
        actions=source.actions[here],
        frames=partial(frames, index),
    )


class Windows:
    """A random-access sequence of windows: every frame of the chosen episodes is one sample."""

    def __init__(self, source: Frames, spec: WindowSpec, episodes: Sequence[int] | None = None) -> None:
        """`episodes` restricts the samples to those episode indices, in that order; None takes all.

        Raises:
            ContractError: an episode index is not in the dataset.
        """
        known = len(source.episodes)
        chosen = list(range(known)) if episodes is None else [int(index) for index in episodes]
        bad = [index for index in chosen if not 0 <= index < known]
        if bad:
            raise ContractError("windows.episodes", f"episode {bad[0]} is not in the dataset, which has {known}")
        infos = [source.episodes[index] for index in chosen]
        self.spec = spec
        self._source = source
        self._episode = np.repeat(np.array(chosen, np.int64), [info.length for info in infos])
        self._tick = np.concatenate([np.arange(info.length) for info in infos] or [np.zeros(0, np.int64)])
        self._start = np.array([info.start for info in source.episodes], np.int64)
        self._length = np.array([info.length for info in source.episodes], np.int64)
        self._lengths = np.array([info.length for info in infos], np.int64)
        self._firsts = np.cumsum(self._lengths) - self._lengths
        self._frames, self._states = np.array(spec.frames, np.int64), np.array(spec.states, np.int64)
        self._actions = np.arange(spec.actions)

    def __len__(self) -> int:
        return len(self._tick)

    def __getitem__(self, index: int) -> Window:
        if not -len(self) <= index < len(self):
            raise IndexError(f"window {index} of {len(self)}")
        batch = self.batch([index])
        return Window(
            images={camera: images[0] for camera, images in batch.images.items()},
            states=batch.states[0],
            actions=batch.actions[0],
            frame_is_pad=batch.frame_is_pad[0],
            state_is_pad=batch.state_is_pad[0],
            action_is_pad=batch.action_is_pad[0],
            instruction=batch.instructions[0],
            episode=int(batch.episodes[0]),
            tick=int(batch.ticks[0]),
        )

    def batch(self, indices: Sequence[int] | Int[np.ndarray, "batch"]) -> WindowBatch:
        """The windows of `indices`, stacked; frames that several of them share are decoded once."""
        at, source = self.places(indices), self._source
        return WindowBatch(
            images={camera: source.images(camera, at.frames) for camera in source.cameras} if at.frames.size else {},
            states=source.states.take(at.states, axis=0),
            actions=source.actions.take(at.actions, axis=0),
            frame_is_pad=at.frame_is_pad,
            state_is_pad=at.state_is_pad,
            action_is_pad=at.action_is_pad,
            instructions=[source.episodes[index].instruction for index in at.episodes],
            episodes=at.episodes,
            ticks=at.ticks,
        )

    def places(self, indices: Sequence[int] | Int[np.ndarray, "batch"]) -> Places:
        """Where the windows of `indices` lie, without reading them."""
        chosen = np.asarray(indices, np.int64)
        episodes, ticks = self._episode[chosen], self._tick[chosen]
        frames, frame_is_pad = self._place(episodes, ticks, self._frames)
        states, state_is_pad = self._place(episodes, ticks, self._states)
        actions, action_is_pad = self._place(episodes, ticks, self._actions)
        return Places(
            episodes=episodes,
            ticks=ticks,
            frames=frames,
            states=states,
            actions=actions,
            frame_is_pad=frame_is_pad,
            state_is_pad=state_is_pad,
            action_is_pad=action_is_pad,
        )

    def draw(self, rng: np.random.Generator, size: int) -> Int[np.ndarray, "size"]:
        """Random windows: an episode, then one of its ticks, so that long episodes do not crowd out short ones."""
        episodes = rng.integers(len(self._lengths), size=size)
        chosen: np.ndarray = self._firsts[episodes] + rng.integers(self._lengths[episodes])
        return chosen

    def _place(self, episodes: np.ndarray, ticks: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Dataset frame of every offset `(batch, offsets)`, clamped to the episode, and where it was clamped."""
        wanted = ticks[:, None] + offsets
        inside = np.clip(wanted, 0, self._length[episodes, None] - 1)
        return self._start[episodes, None] + inside, inside != wanted
