"""Random states of the desk that no task starts from: blocks on pads, on each other, in the drawer, held, or gone."""

import numpy as np
from jaxtyping import Float

from actloop.simulation.tabletop.bodies import REACH_HIGH, REACH_LOW, Body
from actloop.simulation.tabletop.experts import GRIP
from actloop.simulation.tabletop.scene import (
    COLOURS,
    DRAWER_FRONT,
    DRAWER_TRAVEL,
    HALF,
    MAX_OPENING,
    PAD_TOP,
    PADS,
    Scene,
)

_TABLE = np.array([-0.24, -0.20]), np.array([0.24, 0.02])
_PLACES = {"table": 0.40, "pad": 0.25, "stack": 0.12, "drawer": 0.10, "held": 0.08, "gone": 0.05}


def arrange(scene: Scene, body: Body, rng: np.random.Generator) -> float:
    """Put drawer, blocks and robot anywhere that they can be; returns the opening to ask for, metres."""
    out = float(rng.choice([0.0, DRAWER_TRAVEL - 0.003, rng.uniform(0.0, DRAWER_TRAVEL)], p=[0.4, 0.45, 0.15]))
    scene.put_slide("drawer", out)
    placed: dict[str, Float[np.ndarray, 3]] = {}
    held = ""
    for name in rng.permutation(list(COLOURS)):
        kind = str(rng.choice(list(_PLACES), p=list(_PLACES.values())))
        if kind == "held" and not held:
            held = str(name)
            continue
        placed[str(name)] = _spot(kind, placed, out, rng)
    tcp = _hand(placed, rng)
    for name, point in placed.items():
        scene.put_block(name, point, float(rng.uniform(-0.22, 0.22)))
    if held:
        scene.put_block(held, tcp, 0.0)
    opening = 2 * HALF if held else float(rng.choice([rng.uniform(0.0, 0.05), MAX_OPENING]))
    body.place(scene, tcp, opening)
    return GRIP if held else opening


def _spot(
    kind: str, placed: dict[str, Float[np.ndarray, "3"]], out: float, rng: np.random.Generator
) -> Float[np.ndarray, "3"]:
    """A free place of that kind, or one on the table where there is none."""
    if kind == "gone":
        return np.array([0.8 + 0.1 * len(placed), 0.0, -0.5])
    single = [place for place in placed.values() if place[2] == HALF]
    if kind == "stack" and len(single) == len(placed) and single:
        under = single[int(rng.integers(len(single)))]
        top: Float[np.ndarray, 3] = under + np.array([*rng.uniform(-0.008, 0.008, size=2), 2 * HALF + 0.001])
        return top
    if kind == "drawer" and out > 0.1 and not any(p[1] > 0.02 for p in placed.values()):
        return np.array([rng.uniform(-0.025, 0.025), DRAWER_FRONT - out + 0.06, HALF + 0.008])
    for _ in range(200):
        if kind == "pad":
            x, y = PADS[str(rng.choice(list(PADS)))]
            place = np.array([x, y]) + rng.uniform(-0.04, 0.04, size=2)
            height = PAD_TOP + HALF + 0.001
        else:
            place, height = rng.uniform(*_TABLE), HALF
            if place[1] > -0.02 and abs(place[0]) < 0.12 and out > 0.02:  # the drawer comes out there
                continue
            if any(np.abs(place - np.array(pad)).max() < 0.095 for pad in PADS.values()):
                continue
        if _free(place, list(placed.values())):
            return np.append(place, height)
        kind = "table" if rng.random() < 0.2 else kind
    return np.array([0.8 + 0.1 * len(placed), 0.0, -0.5])


def _free(place: Float[np.ndarray, "2"], others: list[Float[np.ndarray, "3"]]) -> bool:
    return all(np.abs(place - other[:2]).max() > 2 * HALF + 0.012 for other in others)


def _hand(placed: dict[str, Float[np.ndarray, "3"]], rng: np.random.Generator) -> Float[np.ndarray, "3"]:
    """A place for the hand where it touches nothing, whatever it holds."""
    while True:
        tcp = rng.uniform(REACH_LOW, REACH_HIGH)
        clear = all(np.abs(tcp[:2] - p[:2]).max() > 0.12 or tcp[2] > p[2] + 2 * HALF + 0.02 for p in placed.values())
        if clear and (tcp[2] > 0.13 or tcp[1] < 0.0):
            return tcp
