"""What this machine can do, what is missing, and the command that mends it. Each check tries the thing itself.

python, machine -> torch, mujoco, data, report -> tabletop, metaworld, weights -> can the main job run?
"""

import importlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from actloop.cli.text import columns

State = Literal["ok", "limited", "missing"]
GIB = 1024**3
NEEDS_DISK, NEEDS_MEMORY = 2.0, 3.0  # GiB, of the main job with room to spare
GL_PACKAGES = "apt-get install -y --no-install-recommends libegl1 libgl1"
# The backend is chosen while mujoco is imported, so that each is tried in a process of its own.
GL_PROBE = """
import mujoco
model = mujoco.MjModel.from_xml_string("<mujoco><worldbody><light/><geom size='1'/></worldbody></mujoco>")
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
with mujoco.Renderer(model, 64, 64) as renderer:
    renderer.update_scene(data)
    renderer.render()
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was tried. `needed` by the main job; `mend` is a command, or what else to do."""

    name: str
    state: State
    detail: str
    mend: str = ""
    needed: bool = False


class ProbeError(Exception):
    """A probe found the thing broken; carries the command that mends it."""

    def __init__(self, detail: str, mend: str) -> None:
        self.mend = mend
        super().__init__(detail)


def examine() -> list[Check]:
    """Every check, in the order in which a missing part would be mended; takes some seconds."""
    return [
        _try("python", _python, mend="install Python 3.11 or newer", needed=True),
        _machine(),
        _disk(),
        _try("torch", _torch, mend=_install("models"), needed=True),
        _try("mujoco", _mujoco, mend=_install("simulation"), needed=True),
        _try("data", _data, mend=_install("data"), needed=True),
        _try("report", _report, mend=_install("report"), needed=True),
        _try("tabletop", _tabletop, mend=_install("simulation"), needed=True),
        _try("metaworld", _metaworld, mend=_install("metaworld")),
        _try("opengl", _opengl, mend=GL_PACKAGES),
        _try("weights", _weights, mend="git checkout -- src/actloop/weights", needed=True),
    ]


def can_run(checks: list[Check]) -> bool:
    """Whether nothing that the main job needs is missing."""
    return not any(check.needed and check.state == "missing" for check in checks)


def _install(extra: str) -> str:
    return f'pip install "actloop[{extra}]"'


def report(checks: list[Check]) -> str:
    """The checks for people: one line each, with what mends it below."""
    lines: list[tuple[str, str, str]] = []
    for check in checks:
        lines.append((check.state, check.name, check.detail))
        if check.mend:
            lines.append(("", "", f"-> {check.mend}"))
    verdict = "The main job can run: actloop demo" if can_run(checks) else "The main job cannot run here yet."
    return columns(lines, indent=0) + f"\n\n{verdict}"


def _try(name: str, probe: Callable[[], str], *, mend: str, needed: bool = False) -> Check:
    """Run a probe that returns what it found; whatever it raises is the finding."""
    try:
        return Check(name=name, state="ok", detail=probe(), needed=needed)
    except ProbeError as error:
        return Check(name=name, state="missing", detail=str(error), mend=error.mend, needed=needed)
    except Exception as error:  # a doctor reports what is broken, whatever it is, and goes on
        detail = f"{type(error).__name__}: {error}".splitlines()[0]
        return Check(name=name, state="missing", detail=detail, mend=mend, needed=needed)


def _python() -> str:
    import actloop

    return f"{platform.python_version()} at {sys.executable}, actloop {actloop.__version__}"


def _machine() -> Check:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    detail = f"{platform.machine()}, {cores} {'core' if cores == 1 else 'cores'}, {memory:.0f} GiB of memory"
    if cores >= 2 and memory >= NEEDS_MEMORY:
        return Check(name="machine", state="ok", detail=detail)
    return Check(name="machine", state="limited", detail=detail, mend="works, slowly: use --workers 1")


def _disk() -> Check:
    folders = {"here": Path.cwd(), "for temporary files": Path(tempfile.gettempdir())}
    free = {name: shutil.disk_usage(folder).free / GIB for name, folder in folders.items()}
    detail = ", ".join(f"{gib:.0f} GiB free {name}" for name, gib in free.items())
    short = min(free.values()) < NEEDS_DISK
    mend = f"free some: a run and its videos want up to {NEEDS_DISK:.0f} GiB" if short else ""
    return Check(name="disk", state="limited" if short else "ok", detail=detail, mend=mend)


def _torch() -> str:
    import torch

    count = torch.get_num_threads()
    threads = f"{count} thread{'s' * (count > 1)}"
    if not torch.cuda.is_available():
        return f"{torch.__version__}, CPU, {threads}; a GPU is not needed"
    device = torch.cuda.get_device_properties(0)
    return f"{torch.__version__}, CUDA {torch.version.cuda}: {device.name}, {device.total_memory / GIB:.0f} GiB"


def _mujoco() -> str:
    import mujoco

    return str(mujoco.__version__)


def _data() -> str:
    """Write one AV1 frame and read it back: a build of PyAV may come without the encoder."""
    import numpy as np

    from actloop.data.video import VideoFile, write_video

    importlib.import_module("pyarrow.parquet")
    importlib.import_module("PIL.Image")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "frame.mp4"
        frames = np.full((1, 64, 64, 3), 128, dtype=np.uint8)
        write_video(path, [frames], fps=10, codec="libsvtav1", keyframe_every=1)
        image = VideoFile(path).decode(np.array([0]))
    if abs(float(image.mean()) - 128) > 4:
        raise ProbeError("AV1 video comes back changed", "pip install --force-reinstall av")
    return f"pyarrow {version('pyarrow')}, av {version('av')}: writes and reads AV1 video"


def _report() -> str:
    for package in ("matplotlib", "scipy.stats"):
        importlib.import_module(package)
    return f"matplotlib {version('matplotlib')}, scipy {version('scipy')}"


def _tabletop() -> str:
    from actloop.simulation.registry import make_world

    world = make_world("tabletop")
    try:
        first = world.reset(next(iter(world.tasks.values())), seed=0)
        world.apply(world.embodiment.hold(first, None))  # else what was drawn for the reset is shown again
        start = time.perf_counter()
        images = world.observe().images
        elapsed = time.perf_counter() - start
    finally:
        world.close()
    if not images or any(image.min() == image.max() for image in images.values()):
        raise ProbeError("the cameras see nothing", 'pip install --force-reinstall "mujoco==3.3.0"')
    return f"{len(world.tasks)} tasks, {len(images)} cameras drawn by rays (no OpenGL) in {elapsed * 1000:.0f} ms"


def _metaworld() -> str:
    found, engine = version("metaworld"), version("mujoco")
    from actloop.simulation.registry import make_world

    world = make_world("metaworld")
    try:
        renderers = sorted({camera.renderer for camera in world.embodiment.cameras})
        return f"{found} with mujoco {engine}, {len(world.tasks)} tasks, renderer {' and '.join(renderers)}"
    finally:
        world.close()


def _opengl() -> str:
    working, why = [], ""
    for backend in ("egl", "osmesa"):
        done = subprocess.run(
            [sys.executable, "-c", GL_PROBE],
            env=os.environ | {"MUJOCO_GL": backend},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if done.returncode == 0:
            working.append(backend)
        else:
            why = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    if not working:
        raise ProbeError(f"no renderer for Meta-World ({why})", GL_PACKAGES)
    return f"works: {' and '.join(working)}"


def _weights() -> str:
    """Open what ships for each world; the network itself is built when it is used."""
    from safetensors import safe_open

    from actloop.presets import shipped_weights

    found = {world: shipped_weights(world) for world in ("tabletop", "metaworld")}
    for source in (source for sources in found.values() for source in sources.values()):
        with safe_open(source.partition("?")[0], framework="numpy") as file:
            file.keys()
    if not found["tabletop"]:
        raise ProbeError("none for the tabletop", "git checkout -- src/actloop/weights")
    return "; ".join(f"{world}: {', '.join(paths)}" for world, paths in found.items() if paths)
