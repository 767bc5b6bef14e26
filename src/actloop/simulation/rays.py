"""Pictures of a MuJoCo scene without OpenGL: one ray per pixel, `mj_multiRay`, flat colours, one lamp at the camera.

    pixel -> ray -> (geom, distance) -> colour of the geom * shade of the surface the distances make

It draws what a policy needs and no more: geoms of the groups that MuJoCo shows by default, as solids, and spherical
sites (markers). No textures (their mean colour instead), no shadows, no transparency.
Pixels differ from those of OpenGL, so cameras drawn here declare the renderer "ray".
"""

import mujoco
import numpy as np
from jaxtyping import Float, Int

from actloop.contracts import Frame
from actloop.errors import ContractError, UnknownNameError

SHOWN_GROUPS = np.array([1, 1, 1, 0, 0, 0], dtype=np.uint8)  # as MuJoCo's own viewers
SKY = np.array([158.0, 176.0, 196.0])
AMBIENT = 0.35
UNSET_RGBA = (0.5, 0.5, 0.5, 1.0)  # MuJoCo's default: the material's colour applies


class RayCamera:
    """One named camera of a compiled model; `render` draws it from the present `MjData`.

    Colours are read once, here: change `model.geom_rgba` first.
    """

    def __init__(self, model: mujoco.MjModel, camera: str, *, height: int, width: int) -> None:
        """Raises: ContractError where the model has no such camera or the size is not positive."""
        names = [model.camera(index).name for index in range(model.ncam)]
        if camera not in names:
            raise UnknownNameError("camera", camera, names)
        if height < 2 or width < 2:
            raise ContractError("image_size", f"expected at least 2 pixels, got {height} x {width}")
        self._model = model
        self._camera = names.index(camera)
        self._shape = (height, width)
        self._rays = _pixel_rays(model.cam_fovy[self._camera], height, width)
        self._palette = np.concatenate([_geom_colours(model), SKY[None]])  # the last row, -1, is a miss
        self._markers = [site for site in range(model.nsite) if _is_marker(model, site)]

    def render(self, data: mujoco.MjData) -> Frame:
        """uint8 `(height, width, 3)`, upright as the camera is; `mj_forward` must have been called."""
        rotation = data.cam_xmat[self._camera].reshape(3, 3)
        origin = data.cam_xpos[self._camera]
        directions = np.ascontiguousarray(self._rays @ rotation.T)
        geoms = np.empty(len(directions), dtype=np.int32)
        depth = np.empty(len(directions))
        mujoco.mj_multiRay(
            self._model,
            data,
            origin,
            directions.ravel(),
            SHOWN_GROUPS,
            1,
            -1,
            geoms,
            depth,
            *self._extra_outputs(),
            len(directions),
            mujoco.mjMAXVAL,
        )
        depth[geoms < 0] = np.inf
        colours = self._palette[geoms] * self._shade(geoms, depth)[:, None]
        for site in self._markers:
            reached = _to_sphere(data.site_xpos[site] - origin, float(self._model.site_size[site, 0]), directions)
            seen = reached < depth
            depth[seen] = reached[seen]
            colours[seen] = 255 * self._model.site_rgba[site, :3]
        image: Frame = np.clip(colours, 0, 255).astype(np.uint8).reshape(*self._shape, 3)
        return image

    def _shade(self, geoms: Int[np.ndarray, "pixels"], depth: Float[np.ndarray, "pixels"]) -> np.ndarray:
        """Brightness of every pixel: how squarely its surface faces the camera, from depth differences."""
        rays = self._rays.reshape(*self._shape, 3)
        points = rays * np.where(np.isfinite(depth), depth, 0.0).reshape(*self._shape, 1)
        ids = geoms.reshape(self._shape)
        normal = np.cross(_tangent(points, ids, 1), _tangent(points, ids, 0))
        length = np.linalg.norm(normal, axis=-1)
        facing = np.abs((normal * rays).sum(-1)) / np.maximum(length, 1e-12)
        shade: np.ndarray = np.where((length > 1e-12) & (ids >= 0), AMBIENT + (1 - AMBIENT) * facing, 1.0)
        return shade.ravel()

    @staticmethod
    def _extra_outputs() -> tuple[None, ...]:
        """MuJoCo 4 takes an output for normals as well, MuJoCo 3 does not."""
        return (None,) if int(mujoco.__version__.partition(".")[0]) >= 4 else ()


def _pixel_rays(fovy: float, height: int, width: int) -> Float[np.ndarray, "pixels 3"]:
    """Unit vectors through the pixel centres, row by row, in the camera's frame (x right, y up, looking along -z)."""
    half = np.tan(np.deg2rad(fovy) / 2)
    up = half * (1 - (2 * np.arange(height) + 1) / height)
    right = half * (width / height) * ((2 * np.arange(width) + 1) / width - 1)
    rays = np.stack([*np.meshgrid(right, up), np.full((height, width), -1.0)], axis=-1).reshape(-1, 3)
    unit: Float[np.ndarray, "pixels 3"] = rays / np.linalg.norm(rays, axis=1, keepdims=True)
    return unit


def _to_sphere(centre: np.ndarray, radius: float, directions: np.ndarray) -> Float[np.ndarray, "rays"]:
    """Distance along each unit ray from the origin to a sphere, infinite where it passes by or starts inside."""
    along = directions @ centre
    inside = radius**2 - (centre @ centre - along**2)
    distance = along - np.sqrt(np.maximum(inside, 0))
    reached: np.ndarray = np.where((inside > 0) & (distance > 0), distance, np.inf)
    return reached


def _tangent(points: np.ndarray, ids: np.ndarray, axis: int) -> np.ndarray:
    """Difference to a neighbour along an axis, on the side where the same geom goes on, else to the nearer one."""
    ahead = np.diff(points, axis=axis)
    same = np.diff(ids, axis=axis) == 0
    last = np.take(ahead, [-1], axis=axis), np.take(same, [-1], axis=axis)
    first = np.take(ahead, [0], axis=axis), np.take(same, [0], axis=axis)
    forward, forward_same = (np.concatenate(pair, axis=axis) for pair in ((ahead, last[0]), (same, last[1])))
    backward, backward_same = (np.concatenate(pair, axis=axis) for pair in ((first[0], ahead), (first[1], same)))
    jump = np.linalg.norm(forward, axis=-1), np.linalg.norm(backward, axis=-1)
    use_forward = np.where(forward_same == backward_same, jump[0] <= jump[1], forward_same)
    tangent: np.ndarray = np.where(use_forward[..., None], forward, backward)
    return tangent


def _geom_colours(model: mujoco.MjModel) -> Float[np.ndarray, "geoms 3"]:
    """RGB in [0, 255], as MuJoCo chooses between geom and material, textures by their mean."""
    colours: np.ndarray = model.geom_rgba[:, :3].astype(np.float64)
    for geom in range(model.ngeom):
        material = int(model.geom_matid[geom])
        if material < 0:
            continue
        if np.allclose(model.geom_rgba[geom], UNSET_RGBA):
            colours[geom] = model.mat_rgba[material, :3]
        texture = int(np.max(model.mat_texid[material]))
        if texture >= 0:
            colours[geom] *= _mean_texel(model, texture)
    colours *= 255
    return colours


def _mean_texel(model: mujoco.MjModel, texture: int) -> Float[np.ndarray, "rgb"]:
    start = int(model.tex_adr[texture])
    channels = int(model.tex_nchannel[texture])
    texels = model.tex_data[start : start + channels * int(model.tex_height[texture]) * int(model.tex_width[texture])]
    mean = texels.reshape(-1, channels).mean(axis=0)
    return np.array([mean[0], mean[min(1, channels - 1)], mean[min(2, channels - 1)]]) / 255


def _is_marker(model: mujoco.MjModel, site: int) -> bool:
    sphere = int(model.site_type[site]) == int(mujoco.mjtGeom.mjGEOM_SPHERE)
    return bool(sphere and SHOWN_GROUPS[model.site_group[site]] and model.site_rgba[site, 3] > 0)
