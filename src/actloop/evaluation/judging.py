"""Judges the episodes of a comparison: a pure function from a run and its records to every number of the report.

    records --by (arm, condition, scope)--> Cell       success, time, latency, ages, calls
            --two arms, same seeds-------> Contrast    paired test, corrected within its family
            --one arm, two latencies-----> Slowdown    what waiting costs it
            --imagined against real------> ForesightRow

A scope is "all" tasks, "group:NAME" or "task:NAME".
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np

from actloop.evaluation.arms import computing
from actloop.evaluation.cells import ALL, Cell, Contrast, ForesightRow, Slowdown, spread
from actloop.evaluation.comparison import Comparison, planned_units
from actloop.evaluation.conduct import Conduct, conduct_of
from actloop.evaluation.deciding import Decision, decide
from actloop.evaluation.failures import failures_of
from actloop.evaluation.film import psnr
from actloop.evaluation.interventions import Interventions, interventions_of
from actloop.evaluation.records import Record, alone, called
from actloop.evaluation.recovery import Alarms, Recovery, alarms_of, recovery_of
from actloop.evaluation.run import Run
from actloop.evaluation.statistics import (
    Successes,
    compare_paired,
    holm,
    mean_success,
    time_to_success,
    wilson,
)


def judge(run: Run, records: Sequence[Record]) -> Comparison:
    """Every number of the report; the order of the records does not matter."""
    decision = decide(run, records) if run.config.get("until_decided") else None
    judged = _Judge(run, records, decision)
    return Comparison(
        run=run,
        records=judged.records,
        cells=judged.cells(),
        contrasts=judged.contrasts(),
        slowdowns=judged.slowdowns(),
        foresight=judged.foresight(),
        recoveries=judged.recoveries(),
        alarms=judged.alarms(),
        interventions=judged.interventions(),
        failures=failures_of(judged.records),
        conduct=judged.conduct(),
        decision=decision,
    )


class _Judge:
    def __init__(self, run: Run, records: Sequence[Record], decision: Decision | None) -> None:
        self.run = run
        units = planned_units(run, decision)
        self.seeds = len({unit.seed for unit in units})
        planned = {(u.arm, u.condition, u.task, u.seed) for u in units}
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
        return {task: {r["seed"]: alone(r) for r in by_task.get(task, [])} for task in self.scopes[scope]}

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
        won = [alone(record) for record in records]
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
            planned=len(self.scopes[scope]) * self.seeds,
            successes=sum(won),
            crashed=sum(bool(result["error"]) for result in results),
            success=success,
            time=time_to_success(
                [result["outcome"]["time"] for result in results], won, [limits[r["task"]] for r in records]
            ),
            latency_ms=spread([1000 * value for result in results for value in result["latencies"]]),
            age_ms=spread([1000 * value for result in results for value in result["ages"]]),
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
                undisturbed = [condition for condition in self.run.conditions if not condition.twin]
                ordered = sorted(undisturbed, key=lambda condition: condition.latency_ms(arm.name))
                quick = ordered[0]
                for slow in ordered[1:]:
                    paired = compare_paired(
                        self.successes(arm.name, slow.name, scope), self.successes(arm.name, quick.name, scope)
                    )
                    family.append(Slowdown(arm=arm.name, scope=scope, quick=quick.name, slow=slow.name, paired=paired))
            found += _corrected(family)
        return found

    def _of(self, arm: str, condition: str) -> list[Record]:
        return [record for found in self._by_place[arm, condition].values() for record in found]

    @property
    def _limits(self) -> dict[str, float]:
        return {task.name: task.time_limit for task in self.run.tasks}

    def recoveries(self) -> list[Recovery]:
        """Each arm under each disturbed condition, against its twin."""
        return [
            recovery_of(
                arm.name,
                condition.name,
                condition.twin,
                self._of(arm.name, condition.name),
                self._of(arm.name, condition.twin),
                limit=max(self._limits.values()),
                checks="check" in arm.identity.get("layers", ()),
            )
            for condition in self.run.conditions
            if condition.twin
            for arm in self.run.arms
        ]

    def alarms(self) -> list[Alarms]:
        """Each arm with checks, under each condition that nothing disturbs."""
        return [
            alarms_of(
                arm.name,
                condition.name,
                self._of(arm.name, condition.name),
                [r for c in self.run.conditions if c.twin == condition.name for r in self._of(arm.name, c.name)],
                promised=float(self.run.config.get("alpha", math.nan)),
            )
            for condition in self.run.conditions
            if not condition.faults
            for arm in self.run.arms
            if "check" in arm.identity.get("layers", ())
        ]

    def interventions(self) -> list[Interventions]:
        """Each arm under each condition, where anybody was called or could have been."""
        if not self.run.config.get("rescue") and not any(map(called, self.records)):
            return []
        return [
            interventions_of(arm.name, condition.name, self._of(arm.name, condition.name))
            for condition in self.run.conditions
            for arm in self.run.arms
        ]

    def conduct(self) -> list[Conduct]:
        return [
            conduct_of(
                arm.name,
                condition.name,
                self._of(arm.name, condition.name),
                self._limits,
                force_limit=self.run.config.get("force_limit"),
            )
            for condition in self.run.conditions
            for arm in self.run.arms
        ]

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


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else math.nan
