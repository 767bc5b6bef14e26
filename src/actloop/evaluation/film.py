"""A recorder that keeps what was seen and what was imagined, judges the one by the other, and writes them as video.

Ticked -> real frame of the tick                     Imagined -> frames at observed_at + (i + 1) * period
left: real          right: of the newest future that had arrived, the frame for the time nearest to now
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from actloop.contracts import Frame, Future, Observation
from actloop.errors import ContractError, MissingDependency
from actloop.loop.events import EpisodeEnded, EpisodeStarted, Event, Imagined, Ticked

SCALE = 3  # nearest, so that single pixels of a 64-pixel camera stay visible
GAP = 4  # pixels between the panels, after scaling
BLANK = 96  # grey of the right panel before the first future came


@dataclass(frozen=True, slots=True, kw_only=True)
class Foresight:
    """How far imagined frames were from those that came, `lead` seconds after the observation they started from.

    Mean squared errors of `frames` comparisons, pixels in 0..1, all imagined cameras together. `still` is the error
    of expecting that nothing changes since that observation; a model that foresees anything is below it.
    """

    lead: float
    frames: int
    error: float
    still: float

    def to_dict(self) -> dict[str, float]:
        return {**asdict(self), "error": round(self.error, 9), "still": round(self.still, 9)}


def psnr(error: float) -> float:
    """Peak signal-to-noise ratio in dB of a mean squared error of pixels in 0..1."""
    return math.inf if error <= 0 else -10 * math.log10(error)


@dataclass(slots=True)
class Arrived:
    tick: int
    plan: int
    future: Future


@dataclass(slots=True)
class Film:
    """A subscriber for one episode that takes an observation at every tick (`LoopConfig.observe_every=1`)."""

    seen: dict[int, Observation] = field(default_factory=dict)
    arrived: list[Arrived] = field(default_factory=list)
    period: float = 0.0
    camera: str = ""

    def on_event(self, event: Event) -> None:
        if isinstance(event, EpisodeStarted):
            self.period, self.camera = event.period, event.embodiment.cameras[0].name
        if isinstance(event, EpisodeStarted | Ticked | EpisodeEnded) and event.observation is not None:
            self.seen[event.observation.tick] = event.observation
        if isinstance(event, Imagined) and event.prediction.future is not None:
            self.arrived.append(Arrived(tick=event.tick, plan=event.plan, future=event.prediction.future))

    def foresight(self) -> list[Foresight]:
        """Imagined against real by lead time, wherever a picture was taken at the time that was imagined.

        The plan may have been replaced meanwhile: what is imagined is where the policy's behaviour leads, and the newer
        plans are its behaviour too.
        """
        errors: dict[int, list[tuple[float, float]]] = {}
        for arrived in self.arrived:
            future, start = arrived.future, self.seen.get(arrived.future.chunk.anchor)
            if start is None:
                continue
            for index in range(_length(future)):
                tick = start.tick + round((index + 1) * future.period / self.period)
                if tick in self.seen:
                    pair = _errors(future, index, start, self.seen[tick])
                    errors.setdefault(tick - start.tick, []).append(pair)
        return [
            Foresight(lead=ticks * self.period, frames=len(pairs), error=_mean(pairs, 0), still=_mean(pairs, 1))
            for ticks, pairs in sorted(errors.items())
        ]

    def panels(self) -> list[Frame]:
        """One picture per tick that was seen, scaled; two panels where anything was imagined."""
        pictures = []
        for tick in sorted(self.seen):
            picture = _enlarged(self.seen[tick].images[self.camera])
            if self.arrived:
                imagined = self._imagined_for(tick)
                beside = np.full_like(picture, BLANK) if imagined is None else _enlarged(imagined)
                gap = np.full((len(picture), GAP, 3), 255, dtype=np.uint8)
                picture = np.concatenate([picture, gap, beside], axis=1)
            pictures.append(picture)
        return pictures

    def _imagined_for(self, tick: int) -> Frame | None:
        """Of all frames imagined so far the one nearest in time, the newest of equals; None before the first."""
        nearest: tuple[float, int, Frame] | None = None
        for order, arrived in enumerate(self.arrived):
            if arrived.tick > tick:
                break
            future = arrived.future
            frames = future.frames.get(self.camera, next(iter(future.frames.values())))
            step = future.period / self.period
            index = min(max(math.floor((tick - future.chunk.anchor) / step + 0.5) - 1, 0), len(frames) - 1)
            distance = abs(future.chunk.anchor + (index + 1) * step - tick)
            if nearest is None or (distance, -order) < nearest[:2]:
                nearest = (distance, -order, frames[index])
        return None if nearest is None else nearest[2]


def write_video(path: Path, frames: Sequence[Frame], *, fps: float) -> None:
    """Write H.264 that browsers play (yuv420p, one keyframe per two seconds).

    Raises:
        MissingDependency: PyAV is not installed.
        ContractError: there is no frame to write.
    """
    if not frames:
        raise ContractError(f"video {path.name}", "no frame was recorded")
    av = require_av()
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = (length - length % 2 for length in frames[0].shape[:2])
    partial = path.with_suffix(".partial")
    with av.open(str(partial), "w", format="mp4", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"crf": "25", "preset": "veryfast", "g": str(max(1, round(2 * fps))), "threads": "1"}
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame[:height, :width]), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    partial.replace(path)


def require_av() -> Any:
    """PyAV, or the command that installs it."""
    try:
        return import_module("av")
    except ModuleNotFoundError as error:
        raise MissingDependency(
            "package 'av'", "videos are written with it", 'pip install "actloop[report]"'
        ) from error


def _length(future: Future) -> int:
    return min((len(frames) for frames in future.frames.values()), default=0)


def _errors(future: Future, index: int, start: Observation, came: Observation) -> tuple[float, float]:
    imagined, still = [], []
    for camera, frames in future.frames.items():
        real = came.images[camera].astype(np.float64) / 255
        if frames[index].shape != real.shape:
            reason = f"imagined frames are {frames[index].shape}, the camera's {real.shape}; they must agree"
            raise ContractError(f"future.frames.{camera}", reason)
        imagined.append(np.square(frames[index] / 255 - real).mean())
        still.append(np.square(start.images[camera] / 255 - real).mean())
    return float(np.mean(imagined)), float(np.mean(still))


def _mean(pairs: Sequence[tuple[float, float]], which: int) -> float:
    return float(np.mean([pair[which] for pair in pairs]))


def _enlarged(frame: Frame) -> Frame:
    return frame.repeat(SCALE, axis=0).repeat(SCALE, axis=1)
