"""Judges the episodes of a comparison: a pure function from a run and its records to every number of the report.

    records --by (arm, condition, scope)--> Cell       success, time, latency, ages, calls
            --two arms, same seeds-------> Contrast    paired test, corrected within its family
            --one arm, two latencies-----> Slowdown    what waiting costs it
            --imagined against real------> ForesightRow

A scope is "all" tasks, "group:NAME" or "task:NAME".
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np

from actloop.evaluation.arms import computing
from actloop.evaluation.film import psnr
from actloop.evaluation.run import FORMAT, Run
from actloop.evaluation.statistics import (
    Interval,
    Paired,
    Successes,
    TimeToSuccess,
    compare_paired,
    holm,
    mean_success,
    time_to_success,
    wilson,
)

ALL = "all"
Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Order statistics; NaN where nothing was counted."""

    p50: float
    p95: float
    p99: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One arm under one condition over one scope. Means are per episode; `cost` is computing per second of robot.

    `latency_ms` is what the clock charged; `late` are ticks held because a plan was spent before the next came,
    `starved` those before the first came; `age_ms` is that of the observation behind each executed action. `computed`
    are seconds of computing, `alarms` looks on which a check was over its threshold.
    """

    arm: str
    condition: str
    scope: str
    episodes: int
    planned: int
    successes: int
    crashed: int
    success: Interval
    time: TimeToSuccess
    latency_ms: Spread
    age_ms: Spread
    late: float
    starved: float
    ticks: float
    calls: float
    dropped: float
    cost: float
    computed: float
    alarms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrast:
    """Two arms on shared seeds under one condition; `p_corrected` is Holm's within the family of its scope."""

    condition: str
    scope: str
    first: str
    second: str
    paired: Paired
    p_corrected: float = 1.0

    @property
    def separated(self) -> bool:
        return separated(self.paired, self.p_corrected)


@dataclass(frozen=True, slots=True, kw_only=True)
class Slowdown:
    """One arm against itself, quick and slow, on shared seeds; the difference is slow minus quick."""

    arm: str
    scope: str
    quick: str
    slow: str
    paired: Paired
    p_corrected: float = 1.0

    @property
    def separated(self) -> bool:
        return separated(self.paired, self.p_corrected)


@dataclass(frozen=True, slots=True, kw_only=True)
class ForesightRow:
    """Imagined frames `lead` seconds ahead against those that came: PSNR in dB; `still` is that of no change."""

    arm: str
    lead: float
    frames: int
    psnr: float
    still: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A run and what its episodes say."""

    run: Run
    records: Sequence[Record]
    cells: Sequence[Cell]
    contrasts: Sequence[Contrast]
    slowdowns: Sequence[Slowdown]
    foresight: Sequence[ForesightRow]

    @property
    def complete(self) -> bool:
        return len(self.records) == len(self.run.units())

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
            "crashes": [
                {name: record[name] for name in ("arm", "condition", "task", "seed")}
                | {"error": record["result"]["error"]}
                for record in self.records
                if record["result"]["error"]
            ],
        }
        cleaned: dict[str, Any] = _without_nan(plain)
        return cleaned


def judge(run: Run, records: Sequence[Record]) -> Comparison:
    """Every number of the report; the order of the records does not matter."""
    judged = _Judge(run, records)
    return Comparison(
        run=run,
        records=judged.records,
        cells=judged.cells(),
        contrasts=judged.contrasts(),
        slowdowns=judged.slowdowns(),
        foresight=judged.foresight(),
    )


def separated(paired: Paired, p_corrected: float) -> bool:
    """Whether two arms are measurably apart: the test takes pairs for independent, the interval clusters by seed."""
    return p_corrected < 0.05 and not paired.difference.low <= 0 <= paired.difference.high


def turned(paired: Paired) -> Paired:
    """The same pairs, seen from the other arm."""
    difference = paired.difference
    return replace(
        paired,
        only_first=paired.only_second,
        only_second=paired.only_first,
        difference=Interval(value=-difference.value, low=-difference.high, high=-difference.low),
    )


class _Judge:
    def __init__(self, run: Run, records: Sequence[Record]) -> None:
        self.run = run
        planned = {(u.arm, u.condition, u.task, u.seed) for u in run.units()}
        found = {(r["arm"], r["condition"], r["task"], r["seed"]): r for r in records}
        self.records = [found[key] for key in sorted(found) if key in planned]
        self._by_place: dict[tuple[str, str], dict[str, list[Record]]] = defaultdict(lambda: defaultdict(list))
        for record in self.records:
            self._by_place[record["arm"], record["condition"]][record["task"]].append(record)
        self.scopes = {ALL: [task.name for task in run.tasks]}
        groups = list(dict.fromkeys(task.group for task in run.tasks if task.group))
        if len(groups) > 1:
            self.scopes |= {f"group:{g}": [task.name for task in run.tasks if task.group == g] for g in groups}
        self.pooled = list(self.scopes)
        self.scopes |= {f"task:{task.name}": [task.name] for task in run.tasks}

    def successes(self, arm: str, condition: str, scope: str) -> Successes:
        by_task = self._by_place[arm, condition]
        return {
            task: {r["seed"]: bool(r["result"]["outcome"]["success"]) for r in by_task.get(task, [])}
            for task in self.scopes[scope]
        }

    def cells(self) -> list[Cell]:
        return [
            self._cell(arm.name, condition.name, scope)
            for condition in self.run.conditions
            for arm in self.run.arms
            for scope in self.scopes
        ]

    def _cell(self, arm: str, condition: str, scope: str) -> Cell:
        records = [r for task in self.scopes[scope] for r in self._by_place[arm, condition].get(task, [])]
        results = [r["result"] for r in records]
        limits = {task.name: task.time_limit for task in self.run.tasks}
        won = [bool(result["outcome"]["success"]) for result in results]
        if scope in self.pooled:
            success = mean_success(self.successes(arm, condition, scope))
        else:
            success = wilson(sum(won), len(won))
        seconds = sum(result["ticks"] * result["period"] for result in results)
        described = next(item for item in self.run.arms if item.name == arm)
        computed = sum(computing(described, result) for result in results)
        return Cell(
            arm=arm,
            condition=condition,
            scope=scope,
            episodes=len(records),
            planned=len(self.scopes[scope]) * len(self.run.seeds),
            successes=sum(won),
            crashed=sum(bool(result["error"]) for result in results),
            success=success,
            time=time_to_success(
                [result["outcome"]["time"] for result in results], won, [limits[r["task"]] for r in records]
            ),
            latency_ms=_spread([1000 * value for result in results for value in result["latencies"]]),
            age_ms=_spread([1000 * value for result in results for value in result["ages"]]),
            late=_mean([result["held_late"] for result in results]),
            starved=_mean([result["held_starved"] for result in results]),
            ticks=_mean([result["ticks"] for result in results]),
            calls=_mean([result["calls"] for result in results]),
            dropped=_mean([sum(result["dropped"].values()) for result in results]),
            cost=computed / seconds if seconds > 0 else math.nan,
            computed=computed / len(results) if results else math.nan,
            alarms=_mean([result.get("alarms", 0) for result in results]),
        )

    def contrasts(self) -> list[Contrast]:
        """All pairs of arms over pooled scopes, one family each; per task each arm against the baseline, one family."""
        found: list[Contrast] = []
        names = [arm.name for arm in self.run.arms]
        for condition in self.run.conditions:
            for scope in self.pooled:
                family = [self._contrast(two, one, condition.name, scope) for one, two in combinations(names, 2)]
                found += _corrected(family)
        others = [name for name in names if name != self.run.baseline]
        main = self.run.main.name
        tasks = [
            self._contrast(name, self.run.baseline, main, scope)
            for scope in self.scopes
            if scope not in self.pooled
            for name in others
        ]
        return found + _corrected(tasks)

    def _contrast(self, first: str, second: str, condition: str, scope: str) -> Contrast:
        paired = compare_paired(self.successes(first, condition, scope), self.successes(second, condition, scope))
        return Contrast(condition=condition, scope=scope, first=first, second=second, paired=paired)

    def slowdowns(self) -> list[Slowdown]:
        """Each arm at its quickest condition against each slower one; one family per scope."""
        found: list[Slowdown] = []
        for scope in self.pooled:
            family = []
            for arm in self.run.arms:
                ordered = sorted(self.run.conditions, key=lambda condition: condition.latency_ms(arm.name))
                quick = ordered[0]
                for slow in ordered[1:]:
                    paired = compare_paired(
                        self.successes(arm.name, slow.name, scope), self.successes(arm.name, quick.name, scope)
                    )
                    family.append(Slowdown(arm=arm.name, scope=scope, quick=quick.name, slow=slow.name, paired=paired))
            found += _corrected(family)
        return found

    def foresight(self) -> list[ForesightRow]:
        sums: dict[tuple[str, float], list[tuple[int, float, float]]] = defaultdict(list)
        for record in self.records:
            for point in record["foresight"]:
                entry = (point["frames"], point["error"], point["still"])
                sums[record["arm"], round(point["lead"], 6)].append(entry)
        rows = []
        for arm in self.run.arms:
            for (name, lead), points in sorted(sums.items()):
                if name == arm.name:
                    frames = sum(point[0] for point in points)
                    error = sum(point[0] * point[1] for point in points) / frames
                    still = sum(point[0] * point[2] for point in points) / frames
                    rows.append(ForesightRow(arm=name, lead=lead, frames=frames, psnr=psnr(error), still=psnr(still)))
        return rows


def _corrected(family: Sequence[Any]) -> list[Any]:
    corrected = holm([item.paired.p_value for item in family])
    return [replace(item, p_corrected=p) for item, p in zip(family, corrected, strict=True)]


def _spread(values: Sequence[float]) -> Spread:
    if not values:
        return Spread(p50=math.nan, p95=math.nan, p99=math.nan)
    p50, p95, p99 = np.quantile(values, [0.5, 0.95, 0.99], method="inverted_cdf")
    return Spread(p50=float(p50), p95=float(p95), p99=float(p99))


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else math.nan


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
