"""Who is best under the main condition, who cannot be told from it, and whom to take."""

import math
from collections.abc import Iterable

from actloop.evaluation.cells import Cell
from actloop.evaluation.comparison import Comparison
from actloop.evaluation.economy import Economy, affordable, cheapest

ALIKE = 1.15  # costs closer than this are called alike: the same network was timed twice


class Standing:
    """Who is best under the main condition, and who cannot be told from it."""

    def __init__(self, comparison: Comparison) -> None:
        self.comparison = comparison
        self.arms = {arm.name: arm for arm in comparison.run.arms}
        self.main = comparison.run.main
        found = {name: comparison.cell(name, self.main.name) for name in self.arms}
        self.cells: dict[str, Cell] = {name: cell for name, cell in found.items() if cell and cell.episodes}
        self.ready = len(self.cells) == len(self.arms)
        if not self.ready:
            return
        self.best = max(self.cells, key=lambda name: (self.cells[name].success.value, -self.cost(name)))
        self.beaten = [name for name in self.arms if self._separated(name)]
        self.rivals = [name for name in self.arms if name not in self.beaten]
        least = min(self.cost(name) for name in self.rivals)
        frugal = [name for name in self.rivals if self.cost(name) <= ALIKE * least]
        self.pick = max(frugal, key=lambda name: self.cells[name].success.value)
        config = comparison.run.config
        self.budget, self.failure_cost = config.get("compute_budget"), config.get("failure_cost")
        self.economies = {
            name: Economy(computed=cell.computed, failure=1 - cell.success.value, rate=cell.cost)
            for name, cell in self.cells.items()
        }
        self.within = affordable(self.economies, self.budget)
        if self.within and self.failure_cost is not None:
            self.pick = cheapest(self.within, self.failure_cost)
        elif self.within and self.pick not in self.within:
            self.pick = max(self.within, key=lambda name: (self.cells[name].success.value, -self.cost(name)))

    def cost(self, name: str) -> float:
        cost = self.cells[name].cost
        return cost if math.isfinite(cost) else self.main.latency_ms(name)

    def _separated(self, name: str) -> bool:
        contrast = self.comparison.contrast(self.best, name, self.main.name)
        return contrast is not None and contrast.separated

    def places(self, names: Iterable[str]) -> set[str]:
        return {self.arms[name].place for name in names}
