"""Coming to rest on the tick grid, one component at a time, in closed form.

    speed         displacement per tick; its differences are the acceleration and the jerk per tick
    ease(v)       the braking from which the ramp out, one jerk per tick, ends exactly at speed 0
    brake(v, a)   the next acceleration of the quickest stop: ease, within the jerk and acceleration limits

The stop is a feedback law: what is left of it after one tick is the stop of the next state. So a state from which it
fits has a next state from which it fits. With jerk J, braking at c and ramping out sheds c + (c - J) + (c - 2J) + ...
"""

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float

Axes = Float[np.ndarray, "axes"]
SLACK = 1e-12
"""Relative rounding allowed in counts of ticks and in solved distances."""


def ease(speed: Float[np.ndarray, "*rows axes"], jerk: Axes) -> Float[np.ndarray, "*rows axes"]:
    """The largest braking, with the sign of `speed`, that can be ramped out before the speed changes its sign."""
    size = np.abs(speed)
    ticks = np.floor((np.sqrt(1.0 + 8.0 * size / jerk) - 1.0) / 2.0)
    braking: Float[np.ndarray, "*rows axes"] = np.copysign(size / (ticks + 1.0) + jerk * ticks / 2.0, speed)
    return braking


def ease_one(speed: float, jerk: float) -> float:
    """`ease` of one component."""
    ticks = math.floor((math.sqrt(1.0 + 8.0 * abs(speed) / jerk) - 1.0) / 2.0)
    return math.copysign(abs(speed) / (ticks + 1.0) + jerk * ticks / 2.0, speed)


def brake(speed: Axes, acceleration: Axes, most: Axes, jerk: Axes) -> Axes:
    """The next acceleration of the quickest stop; `most` bounds the acceleration."""
    wanted = np.maximum(np.minimum(-ease(speed, jerk), most), -most)
    braked: Axes = np.maximum(np.minimum(wanted, acceleration + jerk), acceleration - jerk)
    return braked


def travel(speed: float, acceleration: float, most: float, jerk: float) -> tuple[float, float]:
    """How far the stop goes: (where it rests, the farthest upwards it gets), from the present position."""
    ticks = math.floor(abs(acceleration) / jerk)
    swing = ticks * abs(acceleration) - jerk * ticks * (ticks + 1) / 2.0
    if speed + math.copysign(swing, acceleration) >= 0.0:
        rest = _rest(speed, acceleration, most, jerk)
        return rest, max(rest, 0.0)
    rest = -_rest(-speed, -acceleration, most, jerk)
    return rest, _rise(speed, acceleration, jerk) if speed > 0.0 else 0.0


def _rest(speed: float, acceleration: float, most: float, jerk: float) -> float:
    """Where a stop rests that ends in braking a positive speed: ramp to the braking, brake evenly, ramp out."""
    ahead = -acceleration / jerk
    whole = math.floor(ahead)
    part = ahead - whole
    under = (1.0 + ahead) ** 2 - 0.5 * (2.0 + whole) * (1.0 + whole + 2.0 * part) + speed / jerk
    root = math.sqrt(max(under, 0.0)) - (1.0 + ahead)
    meets = max(math.ceil(root - SLACK * (1.0 + abs(root))), -1 - whole)
    full = math.ceil((most + acceleration) / jerk - 1.0 - SLACK)
    k = max(min(meets, full), 0)
    rest = k * speed + acceleration * k * (k + 1) / 2.0 - jerk * k * (k + 1) * (k + 2) / 6.0
    speed = max(speed + k * acceleration - jerk * k * (k + 1) / 2.0, 0.0)
    ticks = math.floor(most / jerk)
    last = (ticks + 1) * most - jerk * ticks * (ticks + 1) / 2.0
    if speed > last:
        k = math.ceil((speed - last) / most - SLACK)
        rest += k * speed - most * k * (k + 1) / 2.0
        speed -= k * most
    n = math.floor((math.sqrt(1.0 + 8.0 * speed / jerk) - 1.0) / 2.0)
    braking = speed / (n + 1) + jerk * n / 2.0
    return rest + (n + 1) * speed - braking * (n + 1) * (n + 2) / 2.0 + jerk * n * (n + 1) * (n + 2) / 6.0


def _rise(speed: float, acceleration: float, jerk: float) -> float:
    """How far up it still gets where the braking is already too hard, and the speed will change its sign."""
    middle = acceleration + jerk / 2.0
    root = (-middle - math.sqrt(max(middle * middle - 2.0 * jerk * speed, 0.0))) / jerk
    k = max(math.floor(root + SLACK), 0)
    return max(k * speed + acceleration * k * (k + 1) / 2.0 + jerk * k * (k + 1) * (k + 2) / 6.0, 0.0)


def solve(excess: Callable[[float], float], low: float, high: float, tolerance: float) -> float:
    """The largest argument found in [low, high] with `excess` at most `tolerance`; `excess` does not fall.

    `low` is returned where even it exceeds. Regula falsi with the Illinois change, at most ten evaluations.
    """
    above = excess(high)
    if above <= tolerance:
        return high
    below = excess(low)
    if below >= -tolerance:
        return low
    side, most, least = 0, above, below
    for _ in range(8):
        middle = (low * most - high * least) / (most - least)
        if not low < middle < high:
            break
        value = excess(middle)
        if value > tolerance:
            high, most = middle, value
            least = least / 2.0 if side == 1 else least
            side = 1
        else:
            low, least = middle, value
            if value >= -tolerance:
                break
            most = most / 2.0 if side == -1 else most
            side = -1
    return low
