"""Whether a camera sees a block: rays from the camera to points on it."""

import mujoco
import numpy as np

from actloop.simulation.tabletop.scene import HALF, Scene

CAMERAS = ("front", "wrist")
SEEN = 2  # of the nine points
_OFFSETS = np.array([(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)] + [(0, 0, 0)]) * HALF * 0.7


def visible(scene: Scene, block: str) -> bool:
    """Whether enough of the block is in the picture of either camera, with nothing in front of it."""
    points = scene.block(block) + _OFFSETS
    geom = int(scene.model.geom(block).id)
    return any(_hits(scene, scene.camera_id(camera), points, geom) >= SEEN for camera in CAMERAS)


def _hits(scene: Scene, camera: int, points: np.ndarray, geom: int) -> int:
    model, data = scene.model, scene.data
    origin, axes = data.cam_xpos[camera], data.cam_xmat[camera].reshape(3, 3)
    seen = (points - origin) @ axes  # in the camera's frame: it looks along -z
    reach = np.tan(np.deg2rad(model.cam_fovy[camera]) / 2) * -seen[:, 2]
    inside = (seen[:, 2] < -0.02) & (np.abs(seen[:, :2]) < reach[:, None]).all(axis=1)
    hit, found = np.zeros(1, dtype=np.int32), 0
    for point in points[inside]:
        mujoco.mj_ray(model, data, origin, point - origin, None, 1, -1, hit)
        found += int(hit[0]) == geom
    return found
