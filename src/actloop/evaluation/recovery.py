"""What an arm makes of a disturbance: against its undisturbed twin on the same tasks and seeds.

onset ----> first alarm ----> command that rests on what was seen after it ----> success, or the time limit
  |-- detection --|------ replanning ------|
  |------------------ reaction ------------|
  |------------------------------- recovery ----------------------------------|
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from actloop.evaluation.records import Record, alarms, alone, looked_from, onset, successes
from actloop.evaluation.statistics import (
    Curve,
    FalseAlarms,
    Interval,
    Paired,
    compare_paired,
    false_alarms,
    mean_success,
    survival_curve,
    wilson,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """One arm under one disturbed condition; seconds from the onset, over the episodes in which it `happened`.

    Attributes:
        episodes: that were run.
        happened: of those, in how many anything went wrong before the end.
        success: given that it happened.
        against_twin: disturbed against undisturbed, on the same tasks and seeds.
        recovered: success, of the episodes whose undisturbed twin succeeds.
        detected: seconds to the first alarm; None for an arm without checks.
        reaction: seconds to the first command that rests on a newer observation.
        replanning: seconds from the first alarm to the first command that rests on an observation since.
        recovery: seconds to success; failures have not recovered, however long one looks.
    """

    arm: str
    condition: str
    twin: str
    episodes: int
    happened: int
    success: Interval
    against_twin: Paired
    recovered: Interval
    detected: Curve | None
    reaction: Curve | None
    replanning: Curve | None
    recovery: Curve | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarms:
    """How often the checks of an arm cry wolf: alarms in undisturbed episodes that succeed, against what was promised.

    `early` are disturbed episodes with an alarm before the onset.
    """

    arm: str
    condition: str
    false: FalseAlarms
    early: int


def recovery_of(
    arm: str,
    condition: str,
    twin: str,
    disturbed: Sequence[Record],
    undisturbed: Sequence[Record],
    *,
    limit: float,
    checks: bool,
) -> Recovery:
    """Judge the episodes of an arm under a condition by those under its twin; `limit` is the longest of the tasks."""
    hit = [record for record in disturbed if onset(record) is not None]
    twins = {(record["task"], record["seed"]): record for record in undisturbed}
    pairs = [(record, twins[key]) for record in hit if (key := (record["task"], record["seed"])) in twins]
    able = [record for record, other in pairs if alone(other)]
    return Recovery(
        arm=arm,
        condition=condition,
        twin=twin,
        episodes=len(disturbed),
        happened=len(hit),
        success=mean_success(successes(hit)),
        against_twin=compare_paired(successes(hit), successes(other for _, other in pairs)),
        recovered=wilson(sum(map(alone, able)), len(able)),
        detected=_curve([_detected(record) for record in hit]) if checks else None,
        reaction=_curve([_reaction(record) for record in hit]),
        replanning=_curve([pair for record in hit if (pair := _replanned(record))]) if checks else None,
        recovery=_curve([_recovered(record, limit) for record in hit]),
    )


def alarms_of(
    arm: str, condition: str, undisturbed: Sequence[Record], disturbed: Sequence[Record], *, promised: float
) -> Alarms:
    """False alarms of an arm with checks, under one undisturbed condition and those that disturb it."""
    won = [record for record in undisturbed if alone(record)]
    early = [record for record in disturbed if any(tick < (onset(record) or math.inf) for tick in alarms(record))]
    told = sum(bool(record["result"].get("alarms")) for record in won)
    return Alarms(arm=arm, condition=condition, false=false_alarms(told, len(won), promised=promised), early=len(early))


Spell = tuple[float, bool]  # seconds, and whether it happened then; otherwise one looked no longer


def _curve(spells: Sequence[Spell]) -> Curve | None:
    if not spells:
        return None
    return survival_curve([time for time, _ in spells], [happened for _, happened in spells])


def _since(record: Record) -> tuple[int, float, float]:
    """Tick of the onset, seconds of a tick, seconds from the onset to the end."""
    began, result = onset(record), record["result"]
    assert began is not None
    return began, result["period"], max(result["ticks"] - began, 0) * result["period"]


def _detected(record: Record) -> Spell:
    began, period, rest = _since(record)
    first = next((tick for tick in alarms(record) if tick >= began), None)
    return (rest, False) if first is None else ((first - began) * period, True)


def _reaction(record: Record) -> Spell:
    began, period, rest = _since(record)
    at = looked_from(record, began)
    return (rest, False) if at is None else ((at - began) * period, True)


def _replanned(record: Record) -> Spell | None:
    """None where there was no alarm."""
    began, period, rest = _since(record)
    first = next((tick for tick in alarms(record) if tick >= began), None)
    if first is None:
        return None
    at = looked_from(record, first)
    return (max(rest - (first - began) * period, 0.0), False) if at is None else ((at - first) * period, True)


def _recovered(record: Record, limit: float) -> Spell:
    began, period, _ = _since(record)
    if alone(record):
        return max(record["result"]["outcome"]["time"] - began * period, 0.0), True
    return max(limit, record["result"]["ticks"] * period), False
