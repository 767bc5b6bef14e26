"""Does LeRobot's own reader see in our datasets what ours sees, and ours in LeRobot's? Frame by frame.

LeRobot 0.4.4 asks for older packages than actloop, so it gets an environment of its own, which is thrown away:

    python3 -m venv /tmp/lerobot && . /tmp/lerobot/bin/activate
    apt-get install ffmpeg                                            # torchcodec needs its libraries
    pip install torch==2.13.0 "numpy<2.3"
    pip install --no-deps lerobot==0.4.4 torchvision==0.28.0
    pip install "datasets<5" pillow accelerate "av<16" torchcodec==0.13.0 jaxtyping
    PYTHONPATH=src python benchmarks/lerobot_reads_ours.py DATASET ...

pip warns about versions; it works. Without an argument a small dataset is written and read.
"""

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from actloop.data.dataset import LeRobotDataset
from actloop.data.windows import WindowSpec

os.environ.setdefault("HF_HUB_OFFLINE", "1")
SPEC = WindowSpec(frames=(-3, -1, 0, 2), states=(-1, 0), actions=5)
RGB_TOLERANCE = 3  # of 255: the two decode the same video and convert it to RGB with different rounding


def open_with_lerobot(path: Path, delta_timestamps: dict[str, list[float]] | None = None) -> Any:
    """LeRobot's reader on a local dataset."""
    import torch

    # The wheel of torchvision is built for CUDA; on a CPU its import fails unless these two operators are known.
    shim = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        try:
            shim.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        except RuntimeError as error:
            if "multiple times" not in str(error):
                raise
    from lerobot.datasets.lerobot_dataset import LeRobotDataset as Theirs

    return Theirs("local/dataset", root=path, delta_timestamps=delta_timestamps, video_backend="torchcodec")


def compare(path: Path, samples: int = 60) -> str:
    """One line about the dataset at `path`; raises where the two readers disagree."""
    ours = LeRobotDataset(path)
    fps, fields = ours.info.fps, ours.fields
    deltas = {fields.state: [i / fps for i in SPEC.states], fields.action: [i / fps for i in range(SPEC.actions)]}
    deltas |= {feature: [i / fps for i in SPEC.frames] for feature in fields.cameras.values()}
    single, theirs, windows = open_with_lerobot(path), open_with_lerobot(path, deltas), ours.windows(SPEC)
    if (len(theirs), theirs.num_episodes) != (len(windows), len(ours.episodes)):
        raise SystemExit(f"{path}: {len(theirs)} frames, {theirs.num_episodes} episodes there, {len(windows)} here")
    ends = [index for e in ours.episodes for index in (e.start, e.start + e.length - 1)]
    drawn = np.random.default_rng(0).integers(len(windows), size=samples).tolist()
    worst = 0.0
    for index in sorted({*ends[:20], *ends[-20:], *drawn}):
        mine, item, plain = windows[index], theirs[index], single[index]
        check(path, index, "instruction", mine.instruction == item["task"] == plain["task"])
        check(path, index, "episode", mine.episode == int(item["episode_index"]))
        check(path, index, "states", np.array_equal(mine.states, item[fields.state].numpy()))
        check(path, index, "actions", np.array_equal(mine.actions, item[fields.action].numpy()))
        check(
            path, index, "action padding", np.array_equal(mine.action_is_pad, item[f"{fields.action}_is_pad"].numpy())
        )
        for camera, feature in fields.cameras.items():
            check(path, index, "frame padding", np.array_equal(mine.frame_is_pad, item[f"{feature}_is_pad"].numpy()))
            frames = item[feature].numpy().transpose(0, 2, 3, 1) * 255
            now = plain[feature].numpy().transpose(1, 2, 0) * 255
            difference = np.abs(mine.images[camera] - frames).max()
            difference = max(difference, np.abs(mine.images[camera][SPEC.frames.index(0)] - now).max())
            worst = max(worst, float(difference))
            check(path, index, f"frames of {camera} (off by {difference:.1f})", difference <= RGB_TOLERANCE)
    stats = sorted(theirs.meta.stats or {})
    return f"{path}: {len(windows)} frames, {len(ours.episodes)} episodes agree, RGB within {worst:.1f}; stats {stats}"


def check(path: Path, index: int, what: str, agrees: bool) -> None:
    if not agrees:
        raise SystemExit(f"{path}: frame {index}: LeRobot and actloop disagree about the {what}")


def main() -> None:
    if sys.argv[1:]:
        for argument in sys.argv[1:]:
            print(compare(Path(argument)))
        return
    from data_reader import write

    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder, "dataset"), 5, 31, keyframe_every=2)
        print(compare(Path(folder, "dataset")))


if __name__ == "__main__":
    main()
