"""The package `mani-skill` made ready for SIMPLER's Bridge tasks: found, told where its files are, never asking.

Left alone it asks on stdin whether to fetch what is missing, and ends the process when told no. Its tasks also share,
between two of them in one process, the photograph behind the scene and the list of what is drawn over it; here each
has its own.
"""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from actloop.errors import ContractError, MissingDependency

ASSETS_VARIABLE = "MS_ASSET_DIR"  # ManiSkill's own
MEND = 'pip install "actloop[simpler]"'
BRIDGE = Path("tasks/bridge_v2_real2sim_dataset")
ROBOT = Path("robots/widowx/wx250s.urdf")
NEEDED = (BRIDGE / "custom", BRIDGE / "stages", BRIDGE / "real_inpainting", ROBOT)
ASSETS_MEND = (
    "python -m mani_skill.utils.download_asset bridge_v2_real2sim -y, and the same for widowx250s (they go to "
    f"~/.maniskill); a folder elsewhere is named by assets=FOLDER (--world-options assets=FOLDER) or {ASSETS_VARIABLE}"
)
VULKAN_MEND = (
    "on Debian 12: add its backports to the sources of apt, then apt-get install -y -t bookworm-backports "
    "mesa-vulkan-drivers libvulkan1; with a GPU: its driver, and render_backend=gpu"
)


def find_assets(asked: str | Path | None) -> Path:
    """The folder in which `data/` has the tasks' meshes and the arm: as asked, else ManiSkill's variable, else its own.

    Raises:
        MissingDependency: there is none, or something is not in it; says what, and how to get it.
    """
    folder = Path(asked or os.environ.get(ASSETS_VARIABLE) or "~/.maniskill").expanduser()
    lacks = [str(Path("data") / path) for path in NEEDED if not (folder / "data" / path).exists()]
    if lacks:
        why = f"{folder} has no {', '.join(lacks)}" if folder.is_dir() else f"{folder} is no folder"
        raise MissingDependency("the meshes and photographs of SIMPLER's Bridge tasks", why, ASSETS_MEND)
    return folder.resolve()


def require_package() -> None:
    """Raises: MissingDependency: ManiSkill is not installed."""
    if find_spec("mani_skill") is None:
        raise MissingDependency("package 'mani-skill'", "the world 'simpler' needs it", MEND)


def open_task(own: str, assets: Path, render_backend: str) -> Any:
    """ManiSkill's environment `own`, one of it, on the CPU's physics, with its limit of steps.

    Raises:
        MissingDependency: a package that it imports is not installed, or nothing here can draw.
        ContractError: ManiSkill was imported before with other assets.
    """
    require_package()
    try:
        with _quiet():
            twins = _import(assets)
            twins._rgb_overlay_images, twins._objects_to_remove_from_greenscreen = {}, []
            env = import_module("gymnasium").make(
                own,
                obs_mode="rgb+segmentation",
                num_envs=1,
                sim_backend="physx_cpu",
                render_backend=render_backend,
            )
            env.unwrapped._rgb_overlay_images = dict(twins._rgb_overlay_images)
            return env
    except ModuleNotFoundError as error:
        raise MissingDependency(f"package {error.name!r}", "ManiSkill needs it", MEND) from error
    except RuntimeError as error:
        said = str(error)
        if "physical device" not in said and "vk::" not in said:
            raise
        why = f"ManiSkill draws with Vulkan and cannot here ({said}); without a GPU it takes Mesa 24.3 or later"
        raise MissingDependency("a Vulkan device", why, VULKAN_MEND) from error


def _import(assets: Path) -> Any:
    """The class that the tasks derive from. Where ManiSkill's files are is fixed when it is imported."""
    os.environ.setdefault(ASSETS_VARIABLE, str(assets))
    package = import_module("mani_skill")
    if (assets / "data").resolve() != Path(package.ASSET_DIR).resolve():
        reason = f"this process has ManiSkill with {package.ASSET_DIR}, and cannot take {assets}; start another process"
        raise ContractError("simpler.assets", reason)
    package.logger.setLevel(logging.ERROR)
    import_module("mani_skill.envs.tasks.digital_twins.bridge_dataset_eval")
    return import_module("mani_skill.envs.tasks.digital_twins.base_env").BaseDigitalTwinEnv


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
