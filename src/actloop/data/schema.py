"""What `meta/info.json` says about a recording of ours: features and where they come from."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from actloop.contracts import Embodiment, embodiment_to_dict
from actloop.data import layout
from actloop.data.fields import IMAGE_PREFIX
from actloop.data.layout import Feature
from actloop.data.video import CODECS
from actloop.errors import ContractError

DATA_MB, VIDEO_MB = 100, 200  # LeRobot's limits on a file


@dataclass(frozen=True, slots=True, kw_only=True)
class Extra:
    """A further number or vector per frame, `names` one per component; `dtype` is float32, int64 or bool."""

    name: str
    names: tuple[str, ...]
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if self.dtype not in ("float32", "int64", "bool") or not self.names:
            raise ContractError(f"extra.{self.name}", f"expected float32, int64 or bool with names, got {self.dtype}")


def features_of(embodiment: Embodiment, extras: Sequence[Extra]) -> dict[str, Feature]:
    """Every feature of a recording of that body, in the order of the columns."""
    features = [
        Feature(
            name=IMAGE_PREFIX + camera.name,
            dtype="video",
            shape=(camera.height, camera.width, 3),
            names=("height", "width", "channels"),
        )
        for camera in embodiment.cameras
    ]
    for name, space in (("observation.state", embodiment.state), ("action", embodiment.action)):
        features.append(Feature(name=name, dtype="float32", shape=(space.size,), names=tuple(space.component_names)))
    features += [Feature(name=e.name, dtype=e.dtype, shape=(len(e.names),), names=e.names) for e in extras]
    features += [Feature(name=name, dtype=dtype, shape=(1,)) for name, dtype in layout.INDEX_FEATURES.items()]
    return {feature.name: feature for feature in features}


def info_json(
    features: Iterable[Feature],
    embodiment: Embodiment,
    *,
    fps: float,
    robot_type: str,
    episodes: int,
    frames: int,
    tasks: int,
    video: dict[str, Any],
) -> dict[str, Any]:
    """The content of `meta/info.json`; `video` is said of every camera, and LeRobot ignores the embodiment."""
    return {
        "codebase_version": layout.VERSION,
        "robot_type": robot_type,
        "total_episodes": episodes,
        "total_frames": frames,
        "total_tasks": tasks,
        "chunks_size": layout.CHUNK_SIZE,
        "data_files_size_in_mb": DATA_MB,
        "video_files_size_in_mb": VIDEO_MB,
        "fps": _number(fps),
        "splits": {"train": f"0:{episodes}"},
        "data_path": layout.DATA_PATH,
        "video_path": layout.VIDEO_PATH if embodiment.cameras else None,
        "features": {feature.name: _entry(feature, video) for feature in features},
        layout.EMBODIMENT_KEY: embodiment_to_dict(embodiment),
    }


def video_json(codec: str, fps: float, keyframe_every: int) -> dict[str, Any]:
    """How the videos were encoded, in LeRobot's keys."""
    name, options = CODECS[codec]
    return {
        "video.codec": name,
        "video.pix_fmt": "yuv420p",
        "video.is_depth_map": False,
        "video.fps": _number(fps),
        "video.channels": 3,
        "video.g": keyframe_every,
        "video.crf": int(options["crf"]),
        "has_audio": False,
    }


def _entry(feature: Feature, video: dict[str, Any]) -> dict[str, Any]:
    entry = {"dtype": feature.dtype, "shape": list(feature.shape), "names": list(feature.names) or None}
    if not feature.is_image:
        return entry
    return entry | {"info": {"video.height": feature.shape[0], "video.width": feature.shape[1]} | video}


def _number(fps: float) -> int | float:
    """LeRobot has whole rates as integers."""
    return int(fps) if fps.is_integer() else fps
