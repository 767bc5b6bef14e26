"""What is in a dataset: counts, ranges, lengths, and what is wrong with it.

describe(path) -> DatasetInfo (JSON-ready by `to_dict`)      plot(path, file) -> one picture
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from actloop.data.dataset import LeRobotDataset
from actloop.data.layout import Feature
from actloop.data.statistics import vector_stats
from actloop.errors import ActloopError, MissingDependency

SAMPLES = 6  # frames of each camera in a plot
BINS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class ComponentRange:
    """One component of the state or the action over all frames, in its own unit."""

    name: str
    minimum: float
    maximum: float
    mean: float
    std: float
    q01: float
    q99: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetInfo:
    """Plain data about a dataset. `lengths` are `(first tick count, last tick count, episodes)` per bin.

    `tasks` counts the episodes of each instruction; `problems` is empty where every file is there and readable.
    """

    path: str
    episodes: int
    frames: int
    fps: float
    seconds: float
    embodiment: str
    robot_type: str
    bytes: int
    tasks: Mapping[str, int]
    features: Mapping[str, tuple[str, tuple[int, ...]]]
    state: tuple[ComponentRange, ...]
    action: tuple[ComponentRange, ...]
    lengths: tuple[tuple[int, int, int], ...]
    problems: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return asdict(self)


def describe(path: str | Path) -> DatasetInfo:
    """What is in the dataset at `path`; one episode of every video file is decoded to see that it can be.

    Raises:
        DataError: the metadata or the vectors cannot be read at all.
    """
    dataset = LeRobotDataset(path)
    info = dataset.info
    features = info.features
    lengths = np.array([episode.length for episode in dataset.episodes], np.int64)
    return DatasetInfo(
        path=str(path),
        episodes=info.episodes,
        frames=info.frames,
        fps=info.fps,
        seconds=info.frames / info.fps,
        embodiment=info.embodiment.name if info.embodiment else "",
        robot_type=info.robot_type,
        bytes=sum(file.stat().st_size for file in dataset.path.rglob("*") if file.is_file()),
        tasks=dict(Counter(episode.instruction for episode in dataset.episodes).most_common()),
        features={name: (feature.dtype, feature.shape) for name, feature in features.items()},
        state=_ranges(features[dataset.fields.state], dataset.states),
        action=_ranges(features[dataset.fields.action], dataset.actions),
        lengths=_histogram(lengths),
        problems=tuple(_problems(dataset)),
    )


def plot(path: str | Path, out_png: str | Path) -> None:
    """Draw episode lengths, episodes per task, each action component, and frames of each camera.

    Raises:
        DataError: the dataset cannot be read.
        MissingDependency: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependency("matplotlib", "plots are drawn with it", "pip install 'actloop[report]'") from error
    dataset = LeRobotDataset(path)
    action = dataset.info.features[dataset.fields.action]
    size = action.size
    rows = 1 + -(-size // 4) + len(dataset.cameras)
    figure = Figure(figsize=(12, 2.4 * rows), layout="constrained")
    bands = np.atleast_1d(np.array(figure.subfigures(rows, 1), dtype=object))
    _plot_episodes(bands[0], dataset)
    names = _component_names(action)
    for component in range(size):
        band = bands[1 + component // 4]
        axes = band.add_subplot(1, 4, component % 4 + 1)
        axes.hist(dataset.actions[:, component], bins=40, color="tab:orange")
        axes.set_title(f"action {names[component]}", fontsize=9)
        axes.tick_params(labelsize=7)
    for band, camera in zip(bands[rows - len(dataset.cameras) :], dataset.cameras, strict=True):
        _plot_frames(band, dataset, camera)
    figure.suptitle(f"{dataset.info.episodes} episodes, {dataset.info.frames} frames at {dataset.info.fps:g} Hz")
    Path(out_png).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out_png, dpi=90)


def _plot_episodes(band: Any, dataset: LeRobotDataset) -> None:
    lengths, tasks = band.subplots(1, 2)
    lengths.hist([episode.length for episode in dataset.episodes], bins=30, color="tab:blue")
    lengths.set_title("episode length (frames)", fontsize=9)
    counts = Counter(episode.instruction for episode in dataset.episodes).most_common(12)
    tasks.barh([text[:44] for text, _ in counts], [count for _, count in counts], color="tab:green")
    tasks.invert_yaxis()
    tasks.set_title("episodes per instruction" + (" (12 most frequent)" if len(counts) == 12 else ""), fontsize=9)
    for axes in (lengths, tasks):
        axes.tick_params(labelsize=7)


def _plot_frames(band: Any, dataset: LeRobotDataset, camera: str) -> None:
    chosen = sorted({round(place) for place in np.linspace(0, len(dataset.episodes) - 1, SAMPLES) if place >= 0})
    for column, index in enumerate(chosen, start=1):
        episode = dataset.episodes[index]
        axes = band.add_subplot(1, SAMPLES, column)
        axes.set_title(f"{camera}, episode {index}", fontsize=8)
        axes.axis("off")
        try:
            axes.imshow(dataset.images(camera, np.array([episode.start + episode.length // 2]))[0])
        except ActloopError:
            axes.text(0.5, 0.5, "not readable", ha="center", va="center", fontsize=8)


def _problems(dataset: LeRobotDataset) -> list[str]:
    """One line per file that is missing or cannot be read, and per feature that looks wrong."""
    problems = []
    for camera in dataset.cameras:
        seen: set[str] = set()
        for number in dataset.last_episodes(camera):
            episode = dataset.episodes[number]
            try:
                dataset.images(camera, np.arange(episode.start, episode.start + episode.length))
            except ActloopError as error:
                seen.add(str(error))
        problems += sorted(seen)
    if not dataset.episodes:
        problems.append("there are no episodes")
    empty = sum(not episode.instruction.strip() for episode in dataset.episodes)
    if empty:
        problems.append(f"{empty} episodes have no instruction")
    if not dataset.statistics:
        problems.append("meta/stats.json is missing")
    return problems


def _ranges(feature: Feature, values: Float[np.ndarray, "total size"]) -> tuple[ComponentRange, ...]:
    if not len(values):
        return ()
    stats = vector_stats(values)
    return tuple(
        ComponentRange(
            name=name,
            minimum=stats["min"][index],
            maximum=stats["max"][index],
            mean=stats["mean"][index],
            std=stats["std"][index],
            q01=stats["q01"][index],
            q99=stats["q99"][index],
        )
        for index, name in enumerate(_component_names(feature))
    )


def _component_names(feature: Feature) -> list[str]:
    named = len(feature.names) == feature.size
    return list(feature.names) if named else [str(index) for index in range(feature.size)]


def _histogram(lengths: np.ndarray) -> tuple[tuple[int, int, int], ...]:
    if not len(lengths):
        return ()
    edges = np.unique(
        np.linspace(lengths.min(), lengths.max() + 1, min(BINS, int(np.ptp(lengths)) + 1) + 1).astype(int)
    )
    counts, _ = np.histogram(lengths, np.append(edges[:-1], edges[-1] - 0.5))
    bins = zip(edges[:-1], edges[1:] - 1, counts, strict=True)
    return tuple((int(low), int(high), int(count)) for low, high, count in bins)
