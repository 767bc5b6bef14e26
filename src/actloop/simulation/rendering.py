"""Pictures of a MuJoCo scene by OpenGL without a screen, through EGL or OSMesa.

MuJoCo picks its OpenGL platform when it is imported, by MUJOCO_GL; a context made here picks its own, so that a world
drawn with rays and one drawn with OpenGL live in one process.
"""

import ctypes.util
import os
import weakref
from importlib import import_module
from typing import Any

import mujoco
import numpy as np

from actloop.contracts import Frame
from actloop.errors import MissingDependency

LIBRARIES = {"egl": ("EGL", "GL"), "osmesa": ("OSMesa",)}
MEND = (
    "apt-get install -y --no-install-recommends libosmesa6 (and set MUJOCO_GL=osmesa), "
    "or apt-get install -y --no-install-recommends libegl1 libgl1 (and set MUJOCO_GL=egl)"
)


def gl_backend() -> str:
    """`egl` or `osmesa`: what MUJOCO_GL asks for, else the first whose libraries are on this machine.

    Raises:
        MissingDependency: with the command that installs one.
    """
    wanted = os.environ.get("MUJOCO_GL", "").strip().lower()
    candidates = (wanted,) if wanted in LIBRARIES else tuple(LIBRARIES)
    for backend in candidates:
        if all(ctypes.util.find_library(name) for name in LIBRARIES[backend]):
            return backend
    raise MissingDependency("OpenGL without a screen", f"found no library for {' or '.join(candidates)}", MEND)


class GLRenderer:
    """Draws the named cameras of one model; `close` frees the context.

    Raises:
        MissingDependency: no OpenGL library, or it gives no context.
    """

    def __init__(self, model: mujoco.MjModel, *, height: int, width: int) -> None:
        backend = gl_backend()
        try:
            self._context: Any = import_module(f"mujoco.{backend}").GLContext(width, height)
            self._context.make_current()
        except (ImportError, AttributeError, RuntimeError) as error:
            raise MissingDependency(f"OpenGL ({backend})", f"{type(error).__name__}: {error}", MEND) from error
        self._model = model
        model.vis.global_.offwidth = max(width, model.vis.global_.offwidth)
        model.vis.global_.offheight = max(height, model.vis.global_.offheight)
        self._drawing = mujoco.MjrContext(model, int(mujoco.mjtFontScale.mjFONTSCALE_100))
        mujoco.mjr_setBuffer(int(mujoco.mjtFramebuffer.mjFB_OFFSCREEN), self._drawing)
        self._scene = mujoco.MjvScene(model, maxgeom=2000)
        self._rectangle = mujoco.MjrRect(0, 0, width, height)
        # Also runs at exit, before the interpreter takes the OpenGL library away under a context still open.
        self._free = weakref.finalize(self, _free, self._drawing, self._context)

    def render(self, data: mujoco.MjData, camera: str) -> Frame:
        """uint8 `(height, width, 3)`, upright as the camera is."""
        self._context.make_current()
        view = mujoco.MjvCamera()
        view.type = int(mujoco.mjtCamera.mjCAMERA_FIXED)
        view.fixedcamid = self._model.camera(camera).id
        everything = int(mujoco.mjtCatBit.mjCAT_ALL)
        mujoco.mjv_updateScene(self._model, data, mujoco.MjvOption(), None, view, everything, self._scene)
        mujoco.mjr_render(self._rectangle, self._scene, self._drawing)
        frame = np.empty((self._rectangle.height, self._rectangle.width, 3), dtype=np.uint8)
        mujoco.mjr_readPixels(frame, None, self._rectangle, self._drawing)
        return frame[::-1].copy()  # OpenGL counts rows from the bottom

    def close(self) -> None:
        self._free()


def _free(drawing: mujoco.MjrContext, context: Any) -> None:
    drawing.free()
    context.free()
