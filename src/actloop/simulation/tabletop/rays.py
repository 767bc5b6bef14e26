"""A renderer without OpenGL: MuJoCo's ray casting, analytic faces, Lambert shading and soft drop shadows in NumPy.

    rays (per camera, precomputed) -> mj_multiRay -> geom and distance per pixel -> face -> colour -> uint8

The same numbers give the same bytes. Boxes, cylinders and spheres are drawn. Geom 0 must be the ground, an upright
box with its top at z = 0: most pixels see it, and skip the search for their face.
"""

import copy

import mujoco
import numpy as np
from jaxtyping import Bool, Float, Int

from actloop.contracts import Frame

_LIGHT = np.array([0.32, -0.48, 0.82], dtype=np.float32)  # towards the light, in the world
_FAR = 4.0
_SKY_LOW = np.array([0.86, 0.90, 0.94], dtype=np.float32)
_SKY_HIGH = np.array([0.52, 0.66, 0.82], dtype=np.float32)
_GROUPS = np.array([[1], [1], [1], [0], [0], [0]], dtype=np.uint8)  # geoms in groups 3 to 5 are helpers
_NO_NORMALS = (None,) if "normal:" in (mujoco.mj_multiRay.__doc__ or "") else ()  # an argument of later versions
_TOP = 5  # face 2 * axis + (1 on the positive side): the upper one


def _roomy(model: mujoco.MjModel) -> mujoco.MjModel:
    """A copy whose geoms have wider bounding boxes, for ray casting only.

    mj_multiRay (3.3.0) skips a geom by the angles of its box's corners, but a wide box seen from near reaches
    beyond its corners: floors get holes. With boxes around the camera nothing is skipped; it costs no time here.
    """
    roomy = copy.copy(model)
    roomy.geom_aabb[:, 3:] += 10.0
    return roomy


def _brightness(normals: Float[np.ndarray, "*rows 3"]) -> Float[np.ndarray, "*rows"]:
    light: Float[np.ndarray, "*rows"] = 0.50 + 0.14 * normals[..., 2] + 0.40 * np.maximum(normals @ _LIGHT, 0.0)
    return light


class RayRenderer:
    """Draws one compiled scene; `casters` are the bodies that darken what lies under them: body id -> radius, m."""

    def __init__(self, model: mujoco.MjModel, size: int, casters: dict[int, float]) -> None:
        self._model = _roomy(model)
        self._size = size
        self._colour = 255.0 * model.geom_rgba[:, :3].astype(np.float32)
        kinds = model.geom_type
        self._ball = kinds == int(mujoco.mjtGeom.mjGEOM_SPHERE)
        cylinder = kinds == int(mujoco.mjtGeom.mjGEOM_CYLINDER)
        self._curved = self._ball | cylinder
        sizes = model.geom_size.astype(np.float32)
        sizes[cylinder] = sizes[cylinder][:, [0, 0, 1]]
        self._scale = 1.0 / np.maximum(sizes, np.float32(1e-6))
        self._casters = np.array(sorted(casters))
        self._radius = np.array([casters[body] for body in sorted(casters)], dtype=np.float32)
        self._rays = [self._camera_rays(camera) for camera in range(model.ncam)]
        self._geom = np.empty((size * size, 1), dtype=np.int32)
        self._dist = np.empty((size * size, 1), dtype=np.float64)

    def _camera_rays(self, camera: int) -> Float[np.ndarray, "pixels 3"]:
        """Unit rays through the pixel centres, row by row from the top left, in the camera's frame."""
        extent = np.tan(np.deg2rad(self._model.cam_fovy[camera]) / 2)
        grid = (np.arange(self._size) + 0.5) / self._size * 2 - 1
        right, down = np.meshgrid(grid * extent, grid * extent)
        rays = np.stack([right, -down, -np.ones_like(right)], axis=-1).reshape(-1, 3)
        unit: Float[np.ndarray, "pixels 3"] = rays / np.linalg.norm(rays, axis=1, keepdims=True)
        return unit

    def render(self, data: mujoco.MjData, camera: int, stripe_geom: int = -1, stripe_phase: float = 0.0) -> Frame:
        """One picture. Stripes 6 cm apart, shifted by `stripe_phase` metres along x, mark the geom `stripe_geom`."""
        origin = data.cam_xpos[camera]
        vectors = self._rays[camera] @ data.cam_xmat[camera].reshape(3, 3).T
        mujoco.mj_multiRay(
            self._model, data, origin.reshape(3, 1), vectors.reshape(-1, 1), _GROUPS, 1, -1,
            self._geom, self._dist, *_NO_NORMALS, len(vectors), _FAR,
        )  # fmt: skip
        geom = self._geom[:, 0]
        points = vectors.T.astype(np.float32, order="C")
        points *= self._dist[:, 0].astype(np.float32)
        points += origin.astype(np.float32)[:, None]
        image = self._shade(data, points, np.maximum(geom, 0))
        if stripe_geom >= 0:
            striped = np.flatnonzero(geom == stripe_geom)
            dark = np.mod(points[0, striped] - np.float32(stripe_phase), np.float32(0.06)) < 0.02
            image[striped[dark]] *= np.float32(0.6)
        missed = np.flatnonzero(geom < 0)
        level = np.minimum(np.maximum(vectors[missed, 2:3].astype(np.float32) + np.float32(0.6), 0.0), 1.0)
        image[missed] = 255.0 * (_SKY_LOW + level * (_SKY_HIGH - _SKY_LOW))
        image += np.float32(0.5)
        np.minimum(image, 255.0, out=image)
        frame: Frame = image.astype(np.uint8).reshape(self._size, self._size, 3)
        return frame

    def _shade(
        self, data: mujoco.MjData, points: Float[np.ndarray, "3 pixels"], geom: Int[np.ndarray, "pixels"]
    ) -> Float[np.ndarray, "pixels 3"]:
        """Colour by face, 0 to 255: a box has six brightnesses, so normals are needed per face, not per pixel."""
        frames = data.geom_xmat.reshape(-1, 3, 3).astype(np.float32)
        outward = frames.transpose(0, 2, 1)  # (geom, axis, xyz)
        normals = np.stack([-outward, outward], axis=2).reshape(-1, 3)  # (geom * face, xyz)
        shades = np.repeat(self._colour, 6, axis=0) * _brightness(normals)[:, None]

        face = geom * 6 + _TOP
        other = np.flatnonzero((geom != 0) | (points[2] < -0.002))
        seen = geom[other]
        local = points[:, other].T - data.geom_xpos.astype(np.float32)[seen]
        local = np.einsum("nij,ni->nj", (frames * self._scale[:, None, :])[seen], local)
        axis = np.abs(local).argmax(axis=1)
        face[other] = seen * 6 + axis * 2 + (local[np.arange(len(seen)), axis] > 0)
        image: Float[np.ndarray, "pixels 3"] = shades.take(face, axis=0)

        curved = np.flatnonzero(self._curved[seen])
        if len(curved):
            side, bent = local[curved], seen[curved]
            cap = ~self._ball[bent] & (np.abs(side[:, 2]) > 0.999)
            side[~self._ball[bent] & ~cap, 2] = 0.0
            side[cap, :2] = 0.0
            side /= np.linalg.norm(side, axis=1, keepdims=True)
            bright = _brightness(np.einsum("nij,nj->ni", frames[bent], side))
            image[other[curved]] = self._colour[bent] * bright[:, None]
        self._shadow(image, data, points, (normals[:, 2] > 0.7).take(face))
        return image

    def _shadow(
        self,
        image: Float[np.ndarray, "pixels 3"],
        data: mujoco.MjData,
        points: Float[np.ndarray, "3 pixels"],
        up: Bool[np.ndarray, "pixels"],
    ) -> None:
        """Darken, in place, upward faces under the casters, softer the higher they hang: it shows height from afar."""
        x, y, z = points
        for centre, radius in zip(data.xpos[self._casters].astype(np.float32), self._radius, strict=True):
            reach = radius + np.float32(0.25) * max(centre[2], np.float32(0.0))
            off_x, off_y = x - centre[0], y - centre[1]
            near = np.flatnonzero((off_x * off_x + off_y * off_y < reach * reach) & up)
            drop = centre[2] - z[near]
            spread = radius + np.float32(0.25) * np.maximum(drop, 0.0)
            depth = np.minimum(1.5 - 1.5 * np.hypot(off_x[near], off_y[near]) / spread, 1.0)
            depth *= (depth > 0.0) & (drop > 0.005)
            image[near] *= (1.0 - 0.38 * depth * radius / spread)[:, None]
