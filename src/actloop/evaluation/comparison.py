"""A run and what its episodes say: every number of the report, and the form in which `results.json` has them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from actloop.evaluation.cells import ALL, Cell, Contrast, ForesightRow, Slowdown, turned
from actloop.evaluation.conduct import Conduct
from actloop.evaluation.deciding import Decision
from actloop.evaluation.failures import Failure
from actloop.evaluation.interventions import Interventions
from actloop.evaluation.records import Record
from actloop.evaluation.recovery import Alarms, Recovery
from actloop.evaluation.run import FORMAT, Run
from actloop.evaluation.runner import Unit


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A run and what its episodes say."""

    run: Run
    records: Sequence[Record]
    cells: Sequence[Cell]
    contrasts: Sequence[Contrast]
    slowdowns: Sequence[Slowdown]
    foresight: Sequence[ForesightRow]
    recoveries: Sequence[Recovery] = ()
    alarms: Sequence[Alarms] = ()
    interventions: Sequence[Interventions] = ()
    failures: Sequence[Failure] = ()
    conduct: Sequence[Conduct] = ()
    decision: Decision | None = None

    @property
    def planned(self) -> int:
        """Episodes that there will be, as far as is known: those after a decision are not run."""
        return len(planned_units(self.run, self.decision))

    @property
    def complete(self) -> bool:
        return len(self.records) == self.planned

    @property
    def groups(self) -> list[str]:
        """The groups of the tasks, where there is more than one, in the world's order."""
        names = list(dict.fromkeys(task.group for task in self.run.tasks if task.group))
        return names if len(names) > 1 else []

    def cell(self, arm: str, condition: str, scope: str = ALL) -> Cell | None:
        """The cell, or None where no such episode was planned."""
        return next(
            (cell for cell in self.cells if (cell.arm, cell.condition, cell.scope) == (arm, condition, scope)), None
        )

    def contrast(self, first: str, second: str, condition: str, scope: str = ALL) -> Contrast | None:
        """First against second, whichever way round it was stored."""
        for contrast in self.contrasts:
            if (contrast.condition, contrast.scope) != (condition, scope):
                continue
            if (contrast.first, contrast.second) == (first, second):
                return contrast
            if (contrast.first, contrast.second) == (second, first):
                return replace(contrast, first=first, second=second, paired=turned(contrast.paired))
        return None

    def to_json(self) -> dict[str, Any]:
        """Everything but the single episodes, JSON-ready; NaN and infinity as null."""
        from actloop.evaluation.answer import answer  # it reads this module's types

        said = answer(self)
        plain: dict[str, Any] = {
            "format": FORMAT,
            "complete": self.complete,
            "answer": {"headline": said.headline, "paragraphs": dict(said.paragraphs)},
            "run": self.run.to_dict(),
            "cells": [asdict(cell) for cell in self.cells],
            "contrasts": [asdict(item) | {"separated": item.separated} for item in self.contrasts],
            "slowdowns": [asdict(item) | {"separated": item.separated} for item in self.slowdowns],
            "foresight": [asdict(row) for row in self.foresight],
            "recoveries": [asdict(item) for item in self.recoveries],
            "alarms": [asdict(item) for item in self.alarms],
            "interventions": [asdict(item) for item in self.interventions],
            "failures": [asdict(item) for item in self.failures],
            "conduct": [asdict(item) for item in self.conduct],
            "decision": None if self.decision is None else asdict(self.decision),
            "crashes": [
                {name: record[name] for name in ("arm", "condition", "task", "seed")}
                | {"error": record["result"]["error"]}
                for record in self.records
                if record["result"]["error"]
            ],
        }
        cleaned: dict[str, Any] = _without_nan(plain)
        return cleaned


def planned_units(run: Run, decision: Decision | None) -> list[Unit]:
    """The episodes of a run, up to the seed that decided it."""
    decided = decision is not None and decision.verdict
    return [unit for unit in run.units() if not decided or decision is None or unit.seed <= decision.last]


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
