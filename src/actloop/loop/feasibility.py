"""Whether a latency can feed a robot at all: plain arithmetic on ticks, before an episode and while it runs."""

import math

from actloop.errors import ContractError


class InfeasibleError(ContractError):
    """A model this slow cannot feed a robot this fast with chunks this short."""


def delay_in_ticks(latency: float, period: float) -> int:
    """Ticks from an observation to the first command that can use its answer."""
    return math.ceil(latency / period - 1e-6)


def infeasibility(*, latency: float, period: float, horizon: int) -> str:
    """Why a latency (seconds) cannot feed a robot without pauses, or empty.

    A chunk that arrives d ticks late has horizon - d actions left, and the next one takes d ticks again: both fit
    only if 2 d <= horizon, however early the question is asked.
    """
    delay = delay_in_ticks(latency, period)
    if 2 * delay <= horizon:
        return ""
    return (
        f"answers come {delay} ticks late ({latency * 1000:.0f} ms at {1 / period:g} Hz) and need chunks of at least "
        f"{2 * delay} actions, the policy gives {horizon}: take longer chunks, a faster model or a lower control rate"
    )


def conflict(*, latency: float, period: float, horizon: int, execute_horizon: int) -> str:
    """Why the settings do not fit one another, or empty.

    With `execute_horizon` actions run between questions and a delay of d ticks, real-time chunking needs
    d <= horizon - execute_horizon (2506.07339): else the plan is spent before the answer comes.
    """
    if why := infeasibility(latency=latency, period=period, horizon=horizon):
        return why
    delay = delay_in_ticks(latency, period)
    if delay <= horizon - execute_horizon:
        return ""
    return (
        f"answers come {delay} ticks late ({latency * 1000:.0f} ms at {1 / period:g} Hz), but {execute_horizon} actions"
        f" are executed of chunks of {horizon}, which leaves {horizon - execute_horizon}: execute at most"
        f" {horizon - delay}, take longer chunks, a faster model or a lower control rate"
    )


def outdated(*, latency: float, period: float, max_age: float) -> str:
    """Why no answer that takes so long is ever executed, or empty; `max_age` is in seconds, infinite for no limit."""
    ticks = age_in_ticks(max_age, period)
    if not ticks or delay_in_ticks(latency, period) < ticks:
        return ""
    return (
        f"answers come {1000 * latency:.0f} ms late, and no action is executed later than"
        f" {1000 * max_age:.0f} ms after its observation: allow more, or take a faster model"
    )


def age_in_ticks(max_age: float, period: float) -> int:
    """Whole ticks within an age (seconds), at least one; 0 where it is infinite."""
    return 0 if math.isinf(max_age) else max(1, math.floor(max_age / period + 1e-6))
