"""The package `hf-libero` made ready: found, told where its assets are, imported without a question, and read safely.

Left alone it asks on stdin for a folder at its first import, and fetches its meshes from the network. It is installed
without its own dependencies, most of which are for training: see MEND, and docs/benchmarks-worlds.md.
"""

import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
from jaxtyping import Float

from actloop.contracts import Task
from actloop.errors import ContractError, DataError, MissingDependency, UnknownNameError

ASSETS_VARIABLE = "ACTLOOP_LIBERO_ASSETS"
MEND = (
    'pip install "actloop[libero]", then pip install --no-deps hf-libero==0.1.4 robosuite==1.4.0 bddl==1.0.1 '
    "(with all their dependencies they bring packages that are for training, and a compiler's work)"
)
ASSETS_MEND = (
    "the folder libero/libero/assets of the repository Lifelong-Robot-Learning/LIBERO; say where it is with "
    f"assets=FOLDER (--world-options assets=FOLDER) or {ASSETS_VARIABLE}=FOLDER"
)
NEEDED_ASSETS = ("articulated_objects", "scenes", "stable_hope_objects", "textures", "turbosquid_objects")
RATE_HZ = 20.0
# Ticks allowed to a task of each suite, as evaluations of released policies (OpenVLA and since) do it.
STEPS = {"libero_spatial": 220, "libero_object": 280, "libero_goal": 300, "libero_10": 520, "libero_90": 400}

_settings: list[tempfile.TemporaryDirectory[str]] = []  # read at any time while the process lives


def package_root() -> Path:
    """The folder of tasks and initial states, without importing anything.

    Raises:
        MissingDependency: the package is not installed, or is not the one that carries them.
    """
    spec = find_spec("libero")
    folders = list(spec.submodule_search_locations or []) if spec else []
    for folder in folders:
        if (Path(folder) / "libero" / "bddl_files").is_dir():
            return Path(folder) / "libero"
    why = "the package 'libero' that is installed carries no tasks" if folders else "the world 'libero' needs it"
    raise MissingDependency("package 'hf-libero'", why, MEND)


def find_assets(asked: str | Path | None) -> Path:
    """The folder of meshes and textures: as asked, else that of the environment variable, else inside the package.

    Raises:
        MissingDependency: there is none, or it is not LIBERO's.
    """
    said = asked or os.environ.get(ASSETS_VARIABLE)
    folder = Path(said).expanduser() if said else package_root() / "assets"
    lacks = [name for name in NEEDED_ASSETS if not (folder / name).is_dir()]
    if lacks:
        why = f"{folder} has no {', '.join(lacks)}" if folder.is_dir() else f"{folder} is no folder"
        raise MissingDependency("LIBERO's meshes and textures", why, ASSETS_MEND)
    return folder.resolve()


@lru_cache(maxsize=1)
def suites() -> Mapping[str, Sequence[str]]:
    """LIBERO's names of the tasks of each suite, in the order by which they are numbered."""
    path = package_root() / "benchmark" / "libero_suite_task_map.py"
    spec = spec_from_file_location("actloop_libero_suites", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    named: Mapping[str, Sequence[str]] = module.libero_task_map
    return {suite: tuple(named[suite]) for suite in STEPS}


def all_tasks(asked: Sequence[str]) -> dict[str, Task]:
    """Tasks by suite and number, `libero_spatial-3`; `skill` is LIBERO's own name of it, `group` the suite.

    Raises:
        UnknownNameError: no such suite.
    """
    found = {}
    for suite in asked:
        if suite not in STEPS:
            raise UnknownNameError("world 'libero', suite", suite, STEPS)
        for number, own in enumerate(suites()[suite]):
            name = f"{suite}-{number}"
            limit = STEPS[suite] / RATE_HZ
            found[name] = Task(name=name, instruction=language_of(own), time_limit=limit, skill=own, group=suite)
    if not found:
        raise ContractError("world 'libero', suites", f"expected at least one of {', '.join(STEPS)}")
    return found


def language_of(own: str) -> str:
    """The instruction in LIBERO's name of a task, as its demonstrations have it.

    Names of LIBERO-100 begin with a scene in capitals, `KITCHEN_SCENE3_turn_on_the_stove`, which nobody is told.
    """
    words = own.split("_")
    scene = next((index for index, word in enumerate(words) if word.startswith("SCENE")), -1)
    return " ".join(words[scene + 1 :] if own[:1].isupper() else words)


def initial_states(task: Task) -> Float[np.ndarray, "states numbers"]:
    """LIBERO's fixed initial states of a task: time, then places and speeds of all joints; arrays and nothing else.

    Raises:
        DataError: the file is damaged, or holds something other than an array.
    """
    torch = import_module("torch")
    path = package_root() / "init_files" / task.group / f"{task.skill}.pruned_init"
    rebuild: Callable[..., Any] = np._core.multiarray._reconstruct  # type: ignore[attr-defined]
    named = (rebuild, "numpy.core.multiarray._reconstruct")  # where NumPy 1, which wrote the files, had it
    allowed = [rebuild, named, np.ndarray, np.dtype, np.dtypes.Float64DType]
    try:
        with torch.serialization.safe_globals(allowed):
            states = torch.load(path, weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, UnpicklingError) as error:
        kind = type(error).__name__
        raise DataError(f"{path}: cannot be read as initial states, an array and nothing else ({kind})") from error
    if not isinstance(states, np.ndarray) or states.ndim != 2 or not len(states):
        raise DataError(f"{path}: expected initial states by row, got {type(states).__name__}")
    return states


def control_env(task: Task, assets: Path) -> Any:
    """LIBERO's environment of a task, without its renderer, not ending by itself.

    Raises:
        MissingDependency: a package that it imports is not installed.
    """
    try:
        with warnings.catch_warnings(), _without_chatter():
            warnings.simplefilter("ignore")
            libero = _import_libero(assets)
            libero._assets_path_cache = str(assets)  # its own variable for "found already"
            wrapper: Any = import_module("libero.libero.envs.env_wrapper")
            return wrapper.ControlEnv(
                bddl_file_name=str(package_root() / "bddl_files" / task.group / f"{task.skill}.bddl"),
                use_camera_obs=False,
                has_offscreen_renderer=False,
                hard_reset=False,
                ignore_done=True,
                control_freq=RATE_HZ,
            )
    except ModuleNotFoundError as error:
        raise MissingDependency(f"package {error.name!r}", "the world 'libero' needs it", MEND) from error


def _import_libero(assets: Path) -> Any:
    """LIBERO's settings lie in a file, and without it the import asks for them: it gets one of ours meanwhile."""
    variable = "LIBERO_CONFIG_PATH"
    kept = os.environ.get(variable)
    if kept is None or not (Path(kept) / "config.yaml").is_file():
        os.environ[variable] = _write_settings(assets)
    try:
        return import_module("libero.libero")
    finally:
        if kept is None:
            os.environ.pop(variable, None)
        else:
            os.environ[variable] = kept


def _write_settings(assets: Path) -> str:
    if not _settings:
        _settings.append(tempfile.TemporaryDirectory(prefix="actloop-libero-"))
    root, folder = package_root(), Path(_settings[0].name)
    places = {
        "benchmark_root": root,
        "bddl_files": root / "bddl_files",
        "init_states": root / "init_files",
        "datasets": folder,
        "assets": assets,
    }
    lines = [f"{key}: {str(place)!r}\n" for key, place in places.items()]
    (folder / "config.yaml").write_text("".join(lines), encoding="utf-8")
    return str(folder)


class _without_chatter:
    """robosuite warns, at its import, of a file of settings that nobody needs."""

    def __enter__(self) -> None:
        self._before = logging.root.manager.disable
        logging.disable(logging.WARNING)

    def __exit__(self, *_: object) -> None:
        logging.disable(self._before)
