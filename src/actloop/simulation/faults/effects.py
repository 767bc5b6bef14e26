"""What each kind of fault does, one small function a kind, in one table.

    picture (height, width, 3) | stretch of the state | stretch of the command  --effect--> the same, disturbed

A new kind is a function `effect(value, moment) -> value` and a line in `KINDS`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from actloop.contracts import Frame

Place = Literal["world", "camera", "state", "observation", "action", "inference"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """What an effect may use besides the value itself.

    Attributes:
        strength: as the fault says, or its kind's own.
        span: high minus low of each component; empty for a picture.
        before: the value in the last tick before the onset (at tick 0: of tick 0); of a kind that is `late`, the value
            `strength` ticks ago.
        once: chance that falls the same way as long as the fault lasts.
        now: chance that falls anew in each tick, the same way however often that tick is asked.
    """

    strength: float
    span: Float[np.ndarray, "components"]
    before: np.ndarray
    once: np.random.Generator
    now: np.random.Generator


Effect = Callable[[np.ndarray, Moment], np.ndarray]


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultKind:
    """One kind of fault: where it sits, what it does there, and how strong it is unless told otherwise.

    `on` "world" asks the world to disturb itself (`Disturbable`), at once and by the kind's name; "observation" is all
    cameras and the state; "inference" is nothing in the world: whoever runs the episode makes answers late.
    `strength` is None where there is nothing to vary. `repeats`: the effect needs the value of the tick before the
    onset. `late`: it needs that of `strength` ticks ago, a whole number.
    """

    about: str
    on: Place
    effect: Effect | None = None
    strength: float | None = None
    repeats: bool = False
    late: bool = False


def _repeat(_: np.ndarray, moment: Moment) -> np.ndarray:
    return moment.before


def _black(picture: Frame, moment: Moment) -> Frame:
    """A black rectangle over `strength` of the picture's area, somewhere in it."""
    side = min(1.0, moment.strength) ** 0.5
    size = [round(side * length) for length in picture.shape[:2]]
    top, left = (
        int(moment.once.integers(length - part + 1)) for length, part in zip(picture.shape, size, strict=False)
    )
    covered = picture.copy()
    covered[top : top + size[0], left : left + size[1]] = 0
    return covered


def _blur(picture: Frame, moment: Moment) -> Frame:
    """A Gaussian whose standard deviation is `strength` of the picture's height."""
    sigma = moment.strength * picture.shape[0]
    reach = max(1, round(3 * sigma))
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / max(sigma, 1e-6)) ** 2)
    weights /= weights.sum()
    smooth = picture.astype(np.float32)
    for axis in (0, 1):
        length = smooth.shape[axis]
        rows = np.clip(np.arange(length) + np.arange(-reach, reach + 1)[:, None], 0, length - 1)
        smooth = sum(weight * smooth.take(row, axis) for weight, row in zip(weights, rows, strict=True))
    return _picture(smooth)


def _dim(picture: Frame, moment: Moment) -> Frame:
    return _picture(picture * (1.0 - min(1.0, moment.strength)))


def _tint(picture: Frame, moment: Moment) -> Frame:
    """Light of another colour: one channel is left, one loses `strength` of it, one something between."""
    loss = moment.once.permutation([0.0, float(moment.once.uniform(0.2, 0.8)), 1.0])
    return _picture(picture * (1.0 - min(1.0, moment.strength) * loss))


def _picture(values: np.ndarray) -> Frame:
    picture: Frame = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return picture


def _grain(picture: Frame, moment: Moment) -> Frame:
    """Normal noise on every pixel, anew in each tick; `strength` is its standard deviation, 1 for full white."""
    return _picture(picture + 255.0 * moment.strength * moment.now.normal(size=picture.shape))


def _noise(vector: np.ndarray, moment: Moment) -> np.ndarray:
    """Normal noise, independent in every tick; `strength` is its standard deviation as a share of the range."""
    noisy: np.ndarray = vector + moment.strength * moment.span * moment.now.normal(size=vector.shape)
    return noisy


def _bias(vector: np.ndarray, moment: Moment) -> np.ndarray:
    """A constant offset of `strength` of the range, up or down for each component."""
    biased: np.ndarray = vector + moment.strength * moment.span * moment.once.choice([-1.0, 1.0], size=vector.shape)
    return biased


KINDS: dict[str, FaultKind] = {
    "displace": FaultKind(about="the task's object is moved", on="world"),
    "goal": FaultKind(about="what the task's object is to go to is moved", on="world"),
    "slip": FaultKind(about="the object is taken out of the gripper", on="world"),
    "push": FaultKind(about="the hand is shoved", on="world"),
    "freeze": FaultKind(about="a camera repeats its last picture", on="camera", effect=_repeat, repeats=True),
    "black": FaultKind(about="a share of the picture is covered", on="camera", effect=_black, strength=1.0),
    "blur": FaultKind(about="a camera is out of focus", on="camera", effect=_blur, strength=0.04),
    "dim": FaultKind(about="the light loses that share", on="camera", effect=_dim, strength=0.6),
    "tint": FaultKind(about="the light changes its colour", on="camera", effect=_tint, strength=0.4),
    "grain": FaultKind(about="noise on the picture", on="camera", effect=_grain, strength=0.1),
    "noise": FaultKind(about="noise on what is sensed", on="state", effect=_noise, strength=0.02),
    "bias": FaultKind(about="a constant error of what is sensed", on="state", effect=_bias, strength=0.05),
    "drop": FaultKind(about="the last observation again", on="observation", effect=_repeat, repeats=True),
    "delay": FaultKind(
        about="observations of that many ticks ago", on="observation", effect=_repeat, strength=3.0, late=True
    ),
    "late": FaultKind(about="the model's answers come so many seconds later", on="inference", strength=0.5),
    "actuator": FaultKind(about="commands are off by a constant", on="action", effect=_bias, strength=0.02),
}
