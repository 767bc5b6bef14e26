"""How far things are from the gripper, in whole centimetres along the directions of the front camera's picture."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float

from actloop.simulation.tabletop.scene import COLOURS, PAD_TOP, PADS, Scene
from actloop.simulation.tabletop.sight import visible
from actloop.simulation.tabletop.steps import pulled_at

AXES = (("right", "left"), ("behind", "in front"), ("above", "below"))
METRE = 100  # centimetres


def things(scene: Scene) -> Iterator[tuple[str, Float[np.ndarray, "3"]]]:
    """What can be pointed at now, with its place in metres: seen blocks, pads, and the handle or knob to pull at."""
    for name in COLOURS:
        if visible(scene, name):
            yield f"the {name} block", scene.block(name)
    point = pulled_at(scene)
    if point is not None:
        yield "the handle" if scene.layout == "desk" else "the knob", point
    if scene.layout == "desk":
        for side in PADS:
            yield f"the {side} pad", np.append(scene.pad(side), PAD_TOP)


def in_words(apart: Float[np.ndarray, "3"]) -> str:
    """Metres from the gripper as words, one part for each axis: `right 4, behind 0, below 12`."""
    parts = []
    for value, (more, less) in zip(apart, AXES, strict=True):
        far = round(abs(float(value)) * METRE)
        parts.append(f"{less if value < 0 and far else more} {far}")
    return ", ".join(parts)
