"""Frames out of the video of an episode: what was seen, and beside it what was imagined."""

from pathlib import Path

import numpy as np

from actloop.contracts import Frame
from actloop.errors import DataError
from actloop.evaluation.film import GAP, require_av
from actloop.report.episode import EpisodeView
from actloop.report.episode_canvas import ACROSS, FRAME, GUTTER, Film


def read_film(video: Path, view: EpisodeView, *, every: bool = False) -> Film:
    """As many frames as fit side by side, evenly over the episode; or `every` one.

    A video has one frame per tick. Where it is twice as wide as the camera, its right half is what was imagined.

    Raises:
        DataError: the video cannot be read.
        MissingDependency: PyAV is not installed.
    """
    pictures = _decoded(video)
    height, width = pictures[0].shape[:2]
    camera = view.body.cameras[0]
    both = width > 1.5 * height * camera.width / camera.height
    pane = (width - GAP) // 2 if both else width
    end = float(view.edges[-1])
    if every:
        times = np.arange(len(pictures)) * view.period
    else:
        wide = (FRAME * pane / height + GUTTER) / ACROSS * end  # seconds that a picture covers
        many = max(1, min(int(end / wide), len(pictures)))
        times = np.linspace(wide / 2, max(end - wide / 2, wide / 2), many)
    chosen = [min(round(time / view.period), len(pictures) - 1) for time in times]
    return Film(
        times=[float(time) for time in times],
        seen=[pictures[number][:, :pane] for number in chosen],
        imagined=[pictures[number][:, -pane:] for number in chosen] if both else (),
    )


def _decoded(video: Path) -> list[Frame]:
    av = require_av()
    try:
        with av.open(str(video)) as container:
            pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    except (OSError, av.error.FFmpegError) as error:
        raise DataError(f"{video}: cannot be read as a video ({error})") from error
    if not pictures:
        raise DataError(f"{video}: holds no frame")
    return pictures
