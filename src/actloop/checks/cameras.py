"""Do the cameras still see? Needs no model: a picture that stands still while the robot moves is none."""

from dataclasses import dataclass, field

import numpy as np

from actloop.checks.described import described, known, need_camera, ranges
from actloop.checks.evidence import Evidence, Score
from actloop.contracts import Embodiment, Frame

RESOLUTION = 0.002  # of a range: less motion need not show in a picture


@dataclass(slots=True)
class _Seen:
    embodiment: Embodiment | None = None
    pictures: dict[str, tuple[Frame, np.ndarray]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class FrozenCamera:
    """How far the robot has moved without a camera's picture changing, as a share of the widest-moving component.

    For each camera, the state now is compared with the state at which its picture last changed by more than `noise`;
    the largest component of the difference counts, over its range; the score is the worst camera's. A robot that is
    back where it was excuses an unchanged picture. A camera that cannot see the robot move is to be left out.

    Attributes:
        cameras: which; default: all.
        noise: mean absolute change, of 255, up to which a picture counts as unchanged; 0: identical bytes.
    """

    cameras: tuple[str, ...] | None = None
    noise: float = 0.0
    name: str = "frozen-camera"
    _seen: _Seen = field(default_factory=_Seen, init=False, repr=False, compare=False)

    @property
    def identity(self) -> str:
        return described("frozen camera", cameras=self.cameras, noise=self.noise)

    def begin(self, embodiment: Embodiment, instruction: str, *, seed: int) -> None:
        for camera in self.cameras or ():
            need_camera(embodiment, camera, self.name)
        self._seen.embodiment = embodiment
        self._seen.pictures.clear()

    def score(self, evidence: Evidence) -> Score | None:
        embodiment, obs = known(self._seen.embodiment, self.name), evidence.observation
        values = []
        for camera in self.cameras or [camera.name for camera in embodiment.cameras]:
            picture, last = obs.images[camera], self._seen.pictures.get(camera)
            if last is None or self._changed(last[0], picture):
                self._seen.pictures[camera] = picture.copy(), obs.state.copy()
            if last is not None:
                kept = self._seen.pictures[camera][1]
                values.append(float((np.abs(obs.state - kept) / ranges(embodiment.state)).max()))
        return Score(value=max(values), lead=0, resolution=RESOLUTION) if values else None

    def _changed(self, last: Frame, picture: Frame) -> bool:
        if self.noise == 0:
            return not np.array_equal(last, picture)
        return float(np.abs(last.astype(np.int16) - picture).mean()) > self.noise
