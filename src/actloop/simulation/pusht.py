"""PushT (package `gym-pusht`; Chi et al. 2023) as a World: push a T onto its outline with a disc, seen from above.

Start states, dynamics, the success test (95 % of the outline covered) and the limit of 300 steps are the package's.
"""

import os
from importlib import import_module

from actloop.contracts import Camera, Embodiment, Part, Space, Task
from actloop.simulation.gym import GymWorld

SIDE = 512.0  # pixels of the board on which positions are counted
STEPS = 300
RATE_HZ = 10.0


def open_pusht(*, image_size: int = 96) -> GymWorld:
    """The board at 10 Hz; state and action are the place of the disc and its target, in board pixels, x then y down.

    The names of camera and state are those of LeRobot's PushT recordings (`observation.image`, `observation.state`).
    """
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    gymnasium = import_module("gymnasium")
    import_module("gym_pusht")
    place = Part(name="disc", unit="board pixel", low=(0.0, 0.0), high=(SIDE, SIDE))
    embodiment = Embodiment(
        name="pusht",
        cameras=(Camera(name="image", height=image_size, width=image_size, renderer="pygame"),),
        state=Space(parts=(place,)),
        action=Space(parts=(place,)),
        control_hz=RATE_HZ,
    )
    task = Task(
        name="push-t",
        instruction="push the T onto its outline",
        time_limit=STEPS / RATE_HZ,
        skill="push",
        group="pusht",
    )
    env = gymnasium.make(
        "gym_pusht/PushT-v0",
        obs_type="pixels_agent_pos",
        observation_width=image_size,
        observation_height=image_size,
    )
    return GymWorld(env, embodiment=embodiment, tasks=[task], images={"image": "pixels"}, state=("agent_pos",))
