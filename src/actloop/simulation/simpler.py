"""SIMPLER (Li et al. 2024) as a World: the four tasks in which a WidowX of BridgeData V2 is judged, by ManiSkill 3.

Scenes, starts, controller, success test and limits of steps are ManiSkill's (`mani_skill.envs.tasks.digital_twins`);
the body is the one that policies trained on BridgeData declare. docs/benchmarks-worlds.md says how to install it.
"""

import math
from pathlib import Path

import numpy as np

from actloop.contracts import Action, Camera, Embodiment, Part, Space, Task
from actloop.errors import ContractError, UnknownNameError
from actloop.simulation.gym import GymWorld
from actloop.simulation.simpler_expert import command
from actloop.simulation.simpler_package import find_assets, require_package
from actloop.simulation.simpler_scene import BridgeScene

# SIMPLER's name: (ManiSkill's name, instruction, steps).
TASKS = {
    "widowx_spoon_on_towel": ("PutSpoonOnTableClothInScene-v1", "put the spoon on the towel", 60),
    "widowx_carrot_on_plate": ("PutCarrotOnPlateInScene-v1", "put carrot on plate", 60),
    "widowx_stack_cube": (
        "StackGreenCubeOnYellowCubeBakedTexInScene-v1",
        "stack the green block on the yellow block",
        60,
    ),
    "widowx_put_eggplant_in_basket": ("PutEggplantInBasketScene-v1", "put eggplant into yellow basket", 120),
}
JUDGED = ("first", "end")
RATE_HZ = 5.0
WORLD = "world 'simpler'"


class SimplerWorld(GymWorld):
    """The four Bridge tasks by SIMPLER's names; a World, Demonstrator and Disturbable.

    `seed` is the number of a fixed start, as in published evaluations: 24 a task, 64 of the basket; beyond the last
    ManiSkill begins again, so that more episodes than starts repeat them.

    Args:
        assets: folder whose `data/` has the tasks' meshes and the arm; ManiSkill's own where not given.
        judged: `first` ends an episode when the success test first fires, as ManiSkill's step does; `end` asks after
            the last step, as SIMPLER's published evaluations do.
        image_size: side of the picture; the camera's 640 x 480 is shrunk to it whole, as BridgeData's were.
        render_backend: ManiSkill's word for what draws: `cpu`, `gpu`, `cuda:0`.

    Raises:
        MissingDependency: the package or its files are absent; at the first reset also where nothing here can draw.
        UnknownNameError: no such way to judge.
    """

    disturbances: tuple[str, ...] = ("displace",)

    def __init__(
        self,
        *,
        assets: str | Path | None = None,
        judged: str = "first",
        image_size: int = 256,
        render_backend: str = "cpu",
    ) -> None:
        if judged not in JUDGED:
            raise UnknownNameError(f"{WORLD}, judged", judged, JUDGED)
        if image_size < 1:
            raise ContractError(WORLD, f"expected image_size of 1 or more, got {image_size}")
        require_package()
        folder = find_assets(assets)

        def build(task: Task) -> BridgeScene:
            return BridgeScene(task.skill, folder, judged=judged, side=image_size, render_backend=render_backend)

        super().__init__(
            build,
            embodiment=_embodiment(image_size),
            tasks=[
                Task(name=name, instruction=told, time_limit=steps / RATE_HZ, skill=own, group="bridge")
                for name, (own, told, steps) in TASKS.items()
            ],
            images={"image_0": "image"},
            state=("state",),
        )

    def demonstrate(self) -> Action:
        """What a scripted arm that knows where everything is would send."""
        return command(self._scene)

    def disturb(self, name: str, *, seed: int) -> None:
        """Move the thing that the task is about by 3 to 6 cm on the table.

        Raises:
            UnknownNameError: no such disturbance.
            ContractError: the hand holds the thing.
        """
        scene = self._scene
        if name not in self.disturbances:
            raise UnknownNameError(f"{WORLD}, disturbance", name, self.disturbances)
        if scene.grasped:
            raise ContractError("disturb", "the hand holds the thing; displace moves what lies there")
        rng = np.random.default_rng([seed, 29])
        angle, distance = rng.uniform(0, 2 * np.pi), rng.uniform(0.03, 0.06)
        scene.shift(distance * np.array([np.cos(angle), np.sin(angle), 0.0]))
        self._read(scene.look())

    @property
    def _scene(self) -> BridgeScene:
        scene: BridgeScene = self._running()
        return scene


def _embodiment(side: int) -> Embodiment:
    """The WidowX of BridgeData V2, as policies trained on it declare it."""
    half = (-math.pi,) * 3, (math.pi,) * 3
    return Embodiment(
        name="bridge-widowx",
        cameras=(Camera(name="image_0", height=side, width=side),),
        state=Space(
            parts=(
                Part(name="position", unit="m", low=(-1.0,) * 3, high=(1.0,) * 3),
                Part(name="euler_xyz", unit="rad", low=half[0], high=half[1]),
                Part(name="gripper", unit="1", low=(0.0,), high=(1.0,)),
            )
        ),
        action=Space(
            parts=(
                Part(name="position", unit="m", low=(-0.05,) * 3, high=(0.05,) * 3, kind="delta"),
                Part(name="euler_xyz", unit="rad", low=(-0.25,) * 3, high=(0.25,) * 3, kind="delta"),
                Part(name="gripper", unit="1", low=(0.0,), high=(1.0,)),
            )
        ),
        control_hz=RATE_HZ,
    )
