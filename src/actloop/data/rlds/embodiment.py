"""The body that a recipe describes: units and kinds from the recipe, limits from the data."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from actloop.contracts import Camera, Embodiment, Kind, Part, Space
from actloop.data.rlds.standardise import MOTION, Recipe

OPEN = 1.0  # what the gripper is told before anything was sent
TRANSLATION = 3  # numbers
NO_STATE = ("unmeasured", "1")  # a zero in place of a state that the dataset lacks


def embodiment_of(
    recipe: Recipe,
    cameras: Mapping[str, tuple[int, int]],
    state_sizes: Sequence[int],
    states: Float[np.ndarray, "total state"],
    actions: Float[np.ndarray, "total 7"],
) -> Embodiment:
    """`cameras` maps each name to its height and width; `state_sizes` counts the numbers in each part of the state."""
    named = [(part.name, part.unit) for part in recipe.state] or [NO_STATE]
    edges = np.cumsum([0, *state_sizes])
    state = [
        _part(name, unit, states[:, start:stop])
        for (name, unit), start, stop in zip(named, edges[:-1], edges[1:], strict=True)
    ]
    kind: Kind = "velocity" if recipe.rotation.endswith("velocity") else "delta"
    angle = "as recorded" if recipe.unit == "as recorded" else "rad"
    low, high = _limits(actions[:, MOTION:])
    action = (
        _part("translation", recipe.unit, actions[:, :TRANSLATION], kind),
        _part("rotation", angle, actions[:, TRANSLATION:MOTION], kind),
        Part(name="gripper", unit="1 open", low=(min(0.0, low[0]),), high=(max(OPEN, high[0]),), neutral=(OPEN,)),
    )
    return Embodiment(
        name=recipe.name,
        cameras=tuple(Camera(name=name, height=size[0], width=size[1]) for name, size in cameras.items()),
        state=Space(parts=tuple(state)),
        action=Space(parts=action),
        control_hz=recipe.control_hz,
    )


def _part(name: str, unit: str, values: np.ndarray, kind: Kind = "absolute") -> Part:
    low, high = _limits(values)
    return Part(name=name, unit=unit, low=low, high=high, kind=kind)


def _limits(values: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Least and greatest value of each column; half a unit to either side of one that never changes."""
    low, high = values.min(axis=0), values.max(axis=0)
    slack = np.where(low == high, 0.5, 0.0)
    return tuple((low - slack).tolist()), tuple((high + slack).tolist())
