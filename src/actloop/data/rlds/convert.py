"""RLDS to LeRobotDataset v3, and a comparison of what was written with what was read.

RldsFrames --one episode after another--> EpisodeWriter --read back--> Conversion { counts, actions equal, image loss }
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from actloop.contracts import Observation
from actloop.data.dataset import LeRobotDataset
from actloop.data.layout import read_info
from actloop.data.rlds.frames import Progress, RldsFrames
from actloop.data.schema import Extra
from actloop.data.writer import EpisodeWriter
from actloop.errors import DataError

IDLE = Extra(name="idle", names=("idle",), dtype="bool")
COMPARED_EPISODES = 8  # whose pictures are decoded again, spread over the dataset


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """What is in the new dataset. `new` episodes are from this run; `silent` records had no instruction or no motion.

    `image_error` is the mean absolute difference of the pictures that were compared, of 255, and `psnr_db` their peak
    signal-to-noise ratio: the loss of the video encoding.
    """

    source: Path
    path: Path
    recipe: str
    episodes: int
    frames: int
    new: int
    silent: int
    image_error: float
    psnr_db: float


def convert(
    frames: RldsFrames, path: str | Path, *, codec: str = "libsvtav1", progress: Progress | None = None
) -> Conversion:
    """Write every episode to the dataset at `path`; one that was begun from the same source is gone on with.

    Raises:
        DataError: a record is damaged, the dataset there came from elsewhere, or what was written reads differently.
        ContractError: a camera with an odd side, which video cannot hold.
        UnknownNameError: no such codec.
    """
    extras = (IDLE,) if frames.recipe.marks_idle else ()
    source = frames.identity
    _check_own(Path(path), frames)
    with EpisodeWriter(path, embodiment=frames.embodiment, codec=codec, extras=extras) as writer:
        done = len(writer.saved)
        if any(saved.notes.get("source") != source for saved in writer.saved):
            raise _foreign(path)
        if progress is not None:
            progress(done, len(frames.episodes))
        for index in range(done, len(frames.episodes)):
            _write(writer, frames, index, source)
            if progress is not None:
                progress(index + 1, len(frames.episodes))
    return _compared(frames, Path(path), new=len(frames.episodes) - done)


def _check_own(path: Path, frames: RldsFrames) -> None:
    """What is there already has this very embodiment, whose limits are those of the data."""
    if not (path / "meta" / "info.json").is_file():
        return
    recorded = read_info(path).embodiment
    if recorded is None or recorded.identity != frames.embodiment.identity:
        raise _foreign(path)


def _foreign(path: str | Path) -> DataError:
    return DataError(f"{path}: holds episodes of other records or another recipe; choose another folder")


def _write(writer: EpisodeWriter, frames: RldsFrames, index: int, source: str) -> None:
    """Add one episode; its record is read once."""
    episode, number = frames.episode(index), frames.records[index]
    record, start = frames.dataset[number], frames.episodes[index].start
    pictures = {camera: frames.episode_frames(index, camera, record) for camera in frames.cameras}
    for tick, (state, action) in enumerate(zip(episode.states, episode.actions, strict=True)):
        images = {camera: shown[tick] for camera, shown in pictures.items()}
        extra = {IDLE.name: frames.is_idle[start + tick]} if frames.recipe.marks_idle else {}
        writer.add_frame(
            Observation(images=images, state=state, tick=tick, time=tick / frames.fps), action, extra=extra
        )
    notes = {"source": source, "dataset": frames.dataset.name, "split": frames.dataset.split, "record": number}
    writer.save_episode(episode.instruction, notes=notes)


def _compared(frames: RldsFrames, path: Path, new: int) -> Conversion:
    """Read the new dataset: episodes, states and actions must be the same, pictures are as the codec left them."""
    written = LeRobotDataset(path)
    if [(e.length, e.instruction) for e in written.episodes] != [(e.length, e.instruction) for e in frames.episodes]:
        found = f"{len(written.episodes)} episodes of {len(written.actions)} frames"
        raise DataError(f"{path}: holds {found}, the source {len(frames.episodes)} of {len(frames.actions)}")
    for name, ours, theirs in (("state", written.states, frames.states), ("action", written.actions, frames.actions)):
        if not np.array_equal(ours, theirs):
            row = int(np.flatnonzero((ours != theirs).any(axis=1))[0])
            raise DataError(f"{path}: the {name} of frame {row} is {ours[row]}, the source has {theirs[row]}")
    mean, psnr = _image_loss(frames, written)
    return Conversion(
        source=frames.path,
        path=path,
        recipe=frames.recipe.name,
        episodes=len(written.episodes),
        frames=len(written.actions),
        new=new,
        silent=frames.silent,
        image_error=mean,
        psnr_db=psnr,
    )


def _image_loss(frames: RldsFrames, written: LeRobotDataset) -> tuple[float, float]:
    """Mean absolute difference, of 255, and peak signal-to-noise ratio in dB over some episodes and every camera."""
    last = len(frames.episodes) - 1
    chosen = sorted({round(place) for place in np.linspace(0, last, COMPARED_EPISODES)})
    absolute, square, pixels = 0.0, 0.0, 0
    for index in chosen:
        record = frames.dataset[frames.records[index]]
        for camera in frames.cameras:
            before = frames.episode_frames(index, camera, record).astype(np.float32)
            difference = before - written.episode(index).frames(camera)
            absolute += float(np.abs(difference).sum(dtype=np.float64))
            square += float((difference**2).sum(dtype=np.float64))
            pixels += difference.size
    return absolute / max(pixels, 1), float(10 * np.log10(255**2 * pixels / square)) if square else float("inf")
