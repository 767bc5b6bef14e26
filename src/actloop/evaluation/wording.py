"""Numbers, conditions and lists in words."""

import math
from collections.abc import Sequence

from actloop.evaluation.arms import Arm
from actloop.evaluation.cells import Contrast
from actloop.evaluation.conditions import PAUSED, PUBLISHED, Condition
from actloop.evaluation.statistics import Interval


def condition_title(condition: Condition) -> str:
    """A condition in words, with its disturbance, and with what the clock did wherever it was paused."""
    title = _timing_title(condition)
    return f"{title}, disturbed ({condition.disturbance})" if condition.twin else title


def _timing_title(condition: Condition) -> str:
    if condition.clock == PAUSED:
        return "a world that waits for the model (paused)"
    if condition.timing == PUBLISHED:
        return "the latency published for each variant"
    everybody = " for every arm" if len(condition.profiles) > 1 else ""
    if condition.timing == "measured":
        own = "each arm's own latency" if everybody else "its own latency"
        return f"{own}, measured on this machine"
    (profile, *_) = condition.profiles.values()
    ms = f"{1000 * profile.quantile(0.5):g} ms"
    return f"{ms}{everybody}" if condition.timing.endswith("ms") else f"{condition.timing} ({ms}){everybody}"


def place_title(arm: Arm) -> str:
    return {"online": "predicts online", "in training only": "predicts in training", "nowhere": "predicts nowhere"}.get(
        arm.place, "prediction not stated"
    )


def rate(interval: Interval) -> str:
    return f"{100 * interval.value:.0f} % ({100 * interval.low:.0f} to {100 * interval.high:.0f})"


def in_points(difference: Interval) -> str:
    low, high = (f"{100 * value:+.0f}" for value in (difference.low, difference.high))
    change = round(100 * difference.value)  # an integer has no minus zero
    return f"{change:+d} points ({low} to {high})".replace("-", "\N{MINUS SIGN}")


def contrast_words(contrast: Contrast) -> str:
    return f"{in_points(contrast.paired.difference)}, p = {p_value(contrast.p_corrected)}"


def points_alone(difference: float) -> str:
    return counted(round(100 * abs(difference)), "point")


def p_value(value: float) -> str:
    return "0.001 or less" if value <= 0.001 else f"{value:.2f}" if value >= 0.095 else f"{value:.3f}"


def counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def rounded(count: int) -> int:
    """Two figures: it is an estimate."""
    unit: int = 10 ** max(0, len(str(count)) - 2)
    return math.ceil(count / unit) * unit


def listed(items: Sequence[str], last: str = "and") -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} {last} {items[-1]}"


def in_seconds(value: float) -> str:
    return f"{value:.2g} s" if value < 100 else f"{value:.0f} s"


def share(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.0f} %"


def time_range(interval: Interval) -> str:
    """Seconds, and their 95 % interval; what was not reached is `never`."""
    said = ["never" if math.isinf(value) else f"{value:.1f}" for value in (interval.value, interval.low, interval.high)]
    return f"{said[0]}{'' if said[0] == 'never' else ' s'} ({said[1]} to {said[2]})"
