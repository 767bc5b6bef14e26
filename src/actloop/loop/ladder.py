"""What to do when reality leaves the prediction: a ladder, one rung at a time, the cheapest first. Pure.

continue -> slow -> replan -> choose -> ask -> hold -> human
            |       |         |         |      `-- stand still and look again
            |       |         |         `-- the language model, for another instruction
            |       |         `-- the best of several chunks, by what they lead to
            |       `-- a new chunk from what is seen now
            `-- follow the plan slower
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from actloop.errors import ContractError, UnknownNameError

Rung = Literal["slow", "replan", "choose", "ask", "hold", "human"]
RUNGS: tuple[Rung, ...] = ("slow", "replan", "choose", "ask", "hold", "human")
CONTINUE = "continue"


@dataclass(frozen=True, slots=True, kw_only=True)
class LadderConfig:
    """Which rungs there are, and how fast they are climbed.

    Attributes:
        rungs: in the order of climbing; of a layer that is not there they are left out.
        settle: ticks that a rung gets to show its effect, besides the expected delay of what it asks for.
        calm: ticks without an alarm after which the ladder is left.
        pace: of the robot while a rung above `continue` is in force, 1 for no slower.
    """

    rungs: tuple[Rung, ...] = ("replan", "choose", "ask")
    settle: int = 4
    calm: int = 10
    pace: float = 1.0

    def __post_init__(self) -> None:
        for rung in self.rungs:
            if rung not in RUNGS:
                raise UnknownNameError("ladder.rungs", rung, RUNGS)
        if len(set(self.rungs)) != len(self.rungs):
            raise ContractError("ladder.rungs", f"each once, got {self.rungs}")
        for name, value, least in (("settle", self.settle, 0), ("calm", self.calm, 1)):
            if value < least:
                raise ContractError(f"ladder.{name}", f"expected at least {least} ticks, got {value}")
        if not 0 < self.pace <= 1:
            raise ContractError("ladder.pace", f"expected above 0 and at most 1, got {self.pace}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Handover:
    """When a person is called besides by the ladder, and for how long they then have the robot.

    Attributes:
        ticks: until they hand it back; 0: the episode ends where one is called.
        overdue: seconds, since the start or the last time, after which somebody who watches steps in.
        stopped: ticks in a row for which limits may stop the robot before one is called; 0 for any number.
    """

    ticks: int = 0
    overdue: float = math.inf
    stopped: int = 0

    def __post_init__(self) -> None:
        for name in ("ticks", "stopped"):
            if getattr(self, name) < 0:
                raise ContractError(f"handover.{name}", f"expected at least 0 ticks, got {getattr(self, name)}")
        if not self.overdue > 0:
            raise ContractError("handover.overdue", f"expected seconds above 0, got {self.overdue}")


class Ladder:
    """Where a robot stands on the ladder."""

    def __init__(self, config: LadderConfig) -> None:
        self._config = config
        self.reset()

    def reset(self) -> None:
        """Begin at the bottom."""
        self._level = -1
        self._since = 0
        self._wait = 0
        self._alarmed: int | None = None

    @property
    def rung(self) -> str:
        """The rung in force, or `continue`."""
        return CONTINUE if self._level < 0 else self._config.rungs[self._level]

    @property
    def pace(self) -> float:
        return 1.0 if self._level < 0 else self._config.pace

    def alarm(self, tick: int, refusal: Callable[[Rung], str], delay: Callable[[Rung], int]) -> list[tuple[Rung, str]]:
        """An alarm at `tick`: climb, unless the rung in force still has time to show its effect.

        Args:
            tick: of now.
            refusal: why a rung cannot be taken now, or empty.
            delay: ticks until a rung can have an effect.

        Returns:
            The rungs tried, each with its refusal; the last one is in force if its refusal is empty.
        """
        self._alarmed = tick
        if self._level >= 0 and tick - self._since < self._wait:
            return []
        tried: list[tuple[Rung, str]] = []
        for level in range(self._level + 1, len(self._config.rungs)):
            rung = self._config.rungs[level]
            why = refusal(rung)
            tried.append((rung, why))
            if not why:
                self._enter(level, tick, delay(rung))
                return tried
        if self._level >= 0:  # no higher one is left: what the present one asks for is asked again
            rung = self._config.rungs[self._level]
            why = refusal(rung)
            tried.append((rung, why))
            if not why:
                self._enter(self._level, tick, delay(rung))
        return tried

    def calmed(self, tick: int) -> bool:
        """Whether the ladder was just left, because there was no alarm for long enough."""
        if self._level < 0 or self._alarmed is None or tick - self._alarmed < max(self._config.calm, self._wait):
            return False
        self._level = -1
        return True

    def _enter(self, level: int, tick: int, delay: int) -> None:
        self._level, self._since, self._wait = level, tick, self._config.settle + delay
