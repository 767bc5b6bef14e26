"""Compute as something that is spent: seconds of computing per second of robot time, per layer and in total. Pure.

admission: will it be done in time, and is it paid for?   reserve at asking, settle at the answer
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from actloop.errors import ContractError, UnknownNameError
from actloop.loop.questions import LAYERS, Layer, Ticket

UNLIMITED = float("inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What may be spent.

    Attributes:
        total: seconds of computing per second of robot time, of all layers together.
        layers: the same of single layers; those that are not named have no limit of their own.
        window: seconds of robot time whose allowance may be saved up and spent at once.
    """

    total: float = UNLIMITED
    layers: Mapping[str, float] = field(default_factory=dict)
    window: float = 2.0

    def __post_init__(self) -> None:
        for name in self.layers:
            if name not in LAYERS:
                raise UnknownNameError("budget.layers", name, LAYERS)
        for name, share in (("total", self.total), *self.layers.items()):
            if not share >= 0:
                raise ContractError(f"budget.{name}", f"expected seconds per second of at least 0, got {share}")
        if not 0 < self.window < UNLIMITED:
            raise ContractError("budget.window", f"expected seconds above 0, got {self.window}")


class Account:
    """Keeps a budget over one episode. What is asked is reserved as expected, and settled as it was."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._shares: dict[str, float] = {"total": budget.total, **budget.layers}
        self.spent: dict[Layer, float] = {}
        self._levels: dict[str, float] = {}
        self._at = 0.0
        self._reserved: dict[Ticket, float] = {}
        self.reset()

    def reset(self) -> None:
        """Begin an episode with a full allowance."""
        self.spent = {}
        self._levels = {name: share * self._budget.window for name, share in self._shares.items()}
        self._at = 0.0
        self._reserved = {}

    def refusal(self, layer: Layer, seconds: float, now: float) -> str:
        """Why `seconds` more of computing are not paid for, or empty."""
        self._accrue(now)
        for name in ("total", layer):
            share = self._shares.get(name, UNLIMITED)
            most = share * self._budget.window
            if seconds <= self._levels.get(name, UNLIMITED) + 1e-9 and most > 0:
                continue
            left = f"{1000 * max(self._levels[name], 0.0):.0f} ms left of {share:g} s/s ({name})"
            never = f", which saves up {1000 * most:.0f} ms at most" if seconds > most + 1e-9 else ""
            return f"budget: {1000 * seconds:.0f} ms wanted, {left}{never}"
        return ""

    def reserve(self, ticket: Ticket, seconds: float, now: float) -> None:
        """Set aside what a question will probably cost."""
        self._accrue(now)
        self._reserved[ticket] = seconds
        self._charge(ticket.layer, seconds)

    def settle(self, ticket: Ticket, seconds: float) -> None:
        """Replace what was set aside by what was spent, once for each question."""
        if ticket not in self._reserved:
            return
        self._charge(ticket.layer, seconds - self._reserved.pop(ticket))
        self.spent[ticket.layer] = self.spent.get(ticket.layer, 0.0) + seconds

    def spend(self, layer: Layer, seconds: float) -> None:
        """Put computing on the account for which nothing was set aside."""
        self._charge(layer, seconds)
        self.spent[layer] = self.spent.get(layer, 0.0) + seconds

    def _charge(self, layer: Layer, seconds: float) -> None:
        for name in ("total", layer):
            if name in self._levels:
                self._levels[name] -= seconds

    def _accrue(self, now: float) -> None:
        passed, self._at = max(now - self._at, 0.0), max(now, self._at)
        for name, share in self._shares.items():
            if share < UNLIMITED:
                self._levels[name] = min(self._levels[name] + share * passed, share * self._budget.window)
