"""What comes in at every tick, checked in microseconds; the contracts themselves say what is wrong with it."""

import math

import numpy as np

from actloop.contracts import Embodiment, Observation

PIXEL = np.dtype(np.uint8)


def sound(vector: np.ndarray, size: int) -> bool:
    """Whether `Space.check`, of a space of that size, has nothing to say about a vector."""
    return vector.shape == (size,) and vector.dtype.kind == "f" and all(map(math.isfinite, vector.tolist()))


class Border:
    """Checks the observations of one body; `Embodiment.check` takes ten times as long."""

    def __init__(self, embodiment: Embodiment) -> None:
        self._body = embodiment
        self._size = embodiment.state.size
        self._shapes = {camera.name: (camera.height, camera.width, 3) for camera in embodiment.cameras}

    def check(self, obs: Observation) -> None:
        """Raise `ContractError` where an observation is not what the body declares."""
        if not (sound(obs.state, self._size) and self._pictured(obs)):
            self._body.check(obs)

    def _pictured(self, obs: Observation) -> bool:
        images, shapes = obs.images, self._shapes
        return len(images) == len(shapes) and all(
            name in shapes and image.shape == shapes[name] and image.dtype == PIXEL for name, image in images.items()
        )
