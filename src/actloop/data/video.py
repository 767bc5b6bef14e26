"""Video files: write clips of frames, read any frame fast.

    write_video   clips --encode--> one mp4
    VideoFile     packet table (position, size, time, key) + memory map --decode from the keyframe before--> RGB

A `VideoFile` shares nothing that moves: the compressed bytes are mapped read-only, decoders are made per process and
have one thread, so it can be used after a fork. PyAV is imported when a file is opened.
"""

import contextlib
import mmap
import os
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8

from actloop.data.layout import partial_path
from actloop.errors import DataError, MissingDependency

CODECS = {  # encoder: (codec name in info.json, options)
    "libsvtav1": ("av1", {"crf": "30", "preset": "12"}),
    "libx264": ("h264", {"crf": "18", "preset": "veryfast", "bf": "0"}),
}
ENCODE_ATTEMPTS = 3
TALL_PIXELS = 1 << 21  # pixels converted to RGB in one call


def _av() -> Any:
    try:
        import av
    except ImportError as error:
        raise MissingDependency("PyAV", "videos are read and written with it", "pip install 'actloop[data]'") from error
    return av


def write_video(
    path: Path,
    clips: Sequence[UInt8[np.ndarray, "time height width 3"]],
    *,
    fps: float,
    codec: str,
    keyframe_every: int,
) -> None:
    """Encode clips one after another into one file, which appears under its name when it is whole.

    The last frame of a clip is repeated up to the next keyframe, so that none is predicted from another clip.

    Raises:
        DataError: the encoder failed several times.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("SVT_LOG", "1")  # else the AV1 encoder prints a page per file
    frames = sum(padded(len(clip), keyframe_every) for clip in clips)
    for left in reversed(range(ENCODE_ATTEMPTS)):
        try:
            _encode(partial_path(path), clips, fps=fps, codec=codec, keyframe_every=keyframe_every)
            found = len(VideoFile(partial_path(path)))
            if found != frames:
                raise DataError(f"{path}: the encoder made {found} frames out of {frames}")
            break
        except (_av().FFmpegError, DataError) as error:  # the AV1 encoder fails once in a long while, on a busy machine
            if not left:
                raise DataError(f"{path}: could not be encoded with {codec} ({error})") from error
    os.replace(partial_path(path), path)


def padded(frames: int, keyframe_every: int) -> int:
    """Frames that a clip takes in its file."""
    return -(-frames // keyframe_every) * keyframe_every


def _encode(path: Path, clips: Sequence[np.ndarray], *, fps: float, codec: str, keyframe_every: int) -> None:
    av = _av()
    rate = Fraction(fps).limit_denominator(1000)
    with _ordinary_priority() as restore, av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream(codec, rate=rate, options=CODECS[codec][1] | {"g": str(keyframe_every)})
        stream.height, stream.width = clips[0].shape[1:3]
        stream.pix_fmt = "yuv420p"
        number = 0
        for clip in clips:
            for tick in range(padded(len(clip), keyframe_every)):
                frame = av.VideoFrame.from_ndarray(clip[min(tick, len(clip) - 1)], format="rgb24")
                frame.pts, frame.time_base = number, 1 / rate
                number += 1
                container.mux(stream.encode(frame))
                if number == 1:
                    restore()
        container.mux(stream.encode())


@contextlib.contextmanager
def _ordinary_priority() -> Iterator[Callable[[], None]]:
    """Undo what SVT-AV1 does as root: it makes the process real-time, and everything else on the machine waits.

    Yields what to call once the encoder has started its threads; leaves the process as it was.
    """
    known = hasattr(os, "sched_setscheduler")
    before = os.sched_getscheduler(0) if known else None

    def restore() -> None:
        if before is None or before != os.SCHED_OTHER:
            return
        for thread in os.listdir("/proc/self/task"):
            with contextlib.suppress(OSError):
                os.sched_setscheduler(int(thread), os.SCHED_OTHER, os.sched_param(0))

    try:
        yield restore
    finally:
        restore()


class VideoFile:
    """Random access to the frames of one file, in the order in which they are shown."""

    def __init__(self, path: Path) -> None:
        """Read the packet table.

        Raises:
            DataError: the file is missing, truncated or holds no video.
        """
        self.path = path
        av = _av()
        if not path.is_file():
            raise DataError(f"{path}: missing, though the episodes name it")
        try:
            with av.open(str(path)) as container:
                if not container.streams.video:
                    raise DataError(f"{path}: holds no video stream")
                stream = container.streams.video[0]
                packets = [(p.pts, p.pos, p.size, p.is_keyframe) for p in container.demux(stream) if p.size]
                self.height, self.width = stream.codec_context.height, stream.codec_context.width
                self._codec, self._extradata = stream.codec_context.name, stream.codec_context.extradata
                time_base = float(stream.time_base)
        except (av.FFmpegError, OSError) as error:
            raise DataError(f"{path}: not readable as video ({error}); it may be truncated") from error
        self._index(packets, time_base)
        with path.open("rb") as file:
            self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if packets and max(pos + size for _, pos, size, _ in packets) > len(self._bytes):
            raise DataError(f"{path}: truncated, the packet table points behind its end")
        self._idle: list[Any] = []
        self._pid = os.getpid()

    def _index(self, packets: list[tuple[int, int, int, bool]], time_base: float) -> None:
        if not packets or not packets[0][3] or any(pts is None or pos is None for pts, pos, _, _ in packets):
            raise DataError(f"{self.path}: holds no frames that can be addressed; it may be truncated")
        pts = np.array([packet[0] for packet in packets], np.int64)
        shown = np.argsort(pts, kind="stable")  # rank -> position in decoding order
        self.times = pts[shown] * time_base
        self._packets = packets
        self._position = shown
        keys = np.flatnonzero([packet[3] for packet in packets])
        nearest = np.searchsorted(keys, shown, side="right") - 1
        while (late := pts[keys[nearest]] > pts[shown]).any():  # leading pictures belong to the keyframe before
            nearest[late & (nearest > 0)] -= 1
            if (nearest[late] == 0).all():
                break
        self._key = keys[nearest]

    def __len__(self) -> int:
        return len(self._packets)

    def ranks(self, times: Float[np.ndarray, "wanted"], tolerance: float) -> Int[np.ndarray, "wanted"]:
        """The frame shown nearest to each time, in seconds.

        Raises:
            DataError: no frame lies within `tolerance` seconds.
        """
        after = np.clip(np.searchsorted(self.times, times), 1, max(len(self.times) - 1, 1))
        after = np.minimum(after, len(self.times) - 1)
        before = np.maximum(after - 1, 0)
        nearest = np.where(times - self.times[before] <= self.times[after] - times, before, after)
        off = np.abs(self.times[nearest] - times)
        if off.size and off.max() > tolerance:
            raise DataError(
                f"{self.path}: no frame at {times[off.argmax()]:.3f} s (the nearest is {off.max():.3f} s away); it "
                f"holds {len(self)} frames up to {self.times[-1]:.3f} s, fewer than the episodes say"
            )
        return nearest

    def decode(self, ranks: Int[np.ndarray, "wanted"]) -> UInt8[np.ndarray, "wanted height width 3"]:
        """The frames of `ranks`, which must rise strictly.

        Raises:
            DataError: the bytes do not decode.
        """
        out = np.empty((len(ranks), self.height, self.width, 3), np.uint8)
        wanted = {self._packets[position][0]: slot for slot, position in enumerate(self._position[ranks])}
        batch: list[tuple[int, Any]] = []
        limit = max(1, min(TALL_PIXELS // (self.height * self.width), 16000 // self.height))
        found = 0
        for frame in self._decoded(ranks):
            slot = wanted.pop(frame.pts, None)
            if slot is None:
                continue
            batch.append((slot, frame))
            found += 1
            if len(batch) == limit:
                _convert(batch, out)
                batch.clear()
        if wanted:
            raise DataError(f"{self.path}: {len(wanted)} of {len(ranks)} frames do not decode; it may be damaged")
        if batch:
            _convert(batch, out)
        return out

    def _decoded(self, ranks: Int[np.ndarray, "wanted"]) -> Iterator[Any]:
        av = _av()
        decoder = self._decoder()
        try:
            for first, last in self._runs(ranks):
                produced = 0
                for position in range(first, last + 1):
                    pts, start, size, _ = self._packets[position]
                    packet = av.Packet(self._bytes[start : start + size])
                    packet.pts = pts
                    for frame in decoder.decode(packet):
                        produced += 1
                        yield frame
                if produced <= last - first:  # a decoder that reorders holds some back
                    yield from decoder.decode(None)
                    decoder.flush_buffers()
        except av.FFmpegError as error:
            raise DataError(f"{self.path}: frames do not decode ({error}); it may be damaged") from error
        self._idle.append(decoder)

    def _runs(self, ranks: Int[np.ndarray, "wanted"]) -> list[tuple[int, int]]:
        """Stretches of packets, first and last in decoding order, that hold the wanted frames and their keyframes."""
        runs: list[tuple[int, int]] = []
        for key, position in sorted(zip(self._key[ranks].tolist(), self._position[ranks].tolist(), strict=True)):
            if runs and key <= runs[-1][1] + 1:
                runs[-1] = (runs[-1][0], max(position, runs[-1][1]))
            else:
                runs.append((key, position))
        return runs

    def _decoder(self) -> Any:
        if self._pid != os.getpid():
            self._pid, self._idle = os.getpid(), []
        if self._idle:
            return self._idle.pop()
        decoder = _av().CodecContext.create(self._codec, "r")
        decoder.extradata = self._extradata
        decoder.thread_count, decoder.thread_type = 1, "SLICE"
        return decoder


def _convert(batch: list[tuple[int, Any]], out: UInt8[np.ndarray, "wanted height width 3"]) -> None:
    """Write decoded frames into their slots as RGB.

    A call of the converter costs more than 64 pixels square of it, so frames of 4:2:0 video are laid under each other
    and converted as one tall picture; every chroma row serves two rows of its own frame, so the result is the same.
    """
    first = batch[0][1]
    count, height, width = len(batch), first.height, first.width
    if first.format.name != "yuv420p" or height % 2 or width % 2:
        for slot, frame in batch:
            out[slot] = frame.to_ndarray(format="rgb24")
        return
    tall = _av().VideoFrame(width, height * count, "yuv420p")
    tall.colorspace, tall.color_range = first.colorspace, first.color_range
    planes = [np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size) for plane in tall.planes]
    for row, (_, frame) in enumerate(batch):
        for target, plane, shift in zip(planes, frame.planes, (0, 1, 1), strict=True):
            rows, columns = height >> shift, width >> shift
            source = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
            target[row * rows : (row + 1) * rows, :columns] = source[:rows, :columns]
    rgb = tall.to_ndarray(format="rgb24").reshape(count, height, width, 3)
    slots = [slot for slot, _ in batch]
    if slots == list(range(slots[0], slots[0] + count)):
        out[slots[0] : slots[0] + count] = rgb  # a block copy is several times faster than a scattered one
    else:
        out[slots] = rgb
