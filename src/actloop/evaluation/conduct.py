"""How an arm ran, besides how well: what was held and late, what limits changed, how much it got done in an hour."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from actloop.evaluation.cells import Spread, spread
from actloop.evaluation.force import Hardest, hardest_of
from actloop.evaluation.records import Record, alone
from actloop.evaluation.statistics import Curve, success_curve

HELD = ("starved", "late", "stale", "told")


@dataclass(frozen=True, slots=True, kw_only=True)
class Conduct:
    """One arm under one condition, all tasks.

    Attributes:
        ticks: commands sent.
        held: share of them without a fresh action, by reason.
        delay: ticks from an observation to the first command that rests on it.
        overdue: answers that came after their deadline, of `answers`.
        modified: share of the ticks in which limits changed the command, by reason.
        asked_outside: share of the ticks in which the policy asked for more than the action space allows.
        sent_outside: share in which more than that was sent.
        worst: how far outside the farthest was, as a share of its range.
        outside_bound: 95 % upper bound on the share of episodes in which something outside is sent, where none did.
        per_hour: successes per hour of robot time.
        success_by_delay: success of the episodes, by the third of them that waited least, more, and most.
        jerk: root mean square over the episodes by part of the action, in its unit per second cubed.
        time_to_success: the share that has not yet succeeded, by seconds; None without episodes.
        force: how hard it touched things; None where that was not measured.
    """

    arm: str
    condition: str
    ticks: int
    held: Mapping[str, float]
    delay: Spread
    answers: int
    overdue: int
    modified: Mapping[str, float]
    asked_outside: float
    sent_outside: float
    worst: float
    outside_bound: float
    per_hour: float
    success_by_delay: tuple[tuple[float, float], ...]
    time_to_success: Curve | None
    jerk: Mapping[str, float] = field(default_factory=dict)
    force: Hardest | None = None


def conduct_of(
    arm: str,
    condition: str,
    records: Sequence[Record],
    limits: Mapping[str, float],
    *,
    force_limit: float | None = None,
) -> Conduct:
    """Add up the episodes of an arm under a condition; `limits` are seconds by task, `force_limit` is newtons."""
    results = [record["result"] for record in records]
    ticks = sum(result["ticks"] for result in results)
    seconds = sum(result["ticks"] * result["period"] for result in results)
    modified: Counter[str] = Counter()
    for result in results:
        modified.update(result.get("modified", {}))
    outside = [record.get("watched", {}).get("outside", {}) for record in records]
    sent = sum(one.get("sent", 0) for one in outside)
    return Conduct(
        arm=arm,
        condition=condition,
        ticks=ticks,
        held={why: _share(sum(result.get(f"held_{why}", 0) for result in results), ticks) for why in HELD},
        delay=spread([float(value) for result in results for value in result["delays"]]),
        answers=sum(len(result["latencies"]) for result in results),
        overdue=sum(result.get("overdue", 0) for result in results),
        modified={why: _share(count, ticks) for why, count in sorted(modified.items())},
        asked_outside=_share(sum(one.get("asked", 0) for one in outside), ticks),
        sent_outside=_share(sent, ticks),
        worst=max((one.get("worst", 0.0) for one in outside), default=0.0),
        outside_bound=min(1.0, 3 / len(records)) if records and not sent else math.nan,
        per_hour=3600 * sum(map(alone, records)) / seconds if seconds else math.nan,
        success_by_delay=_by_delay(records),
        time_to_success=_curve(records, limits),
        jerk=_jerk(records),
        force=hardest_of(records, force_limit),
    )


def _jerk(records: Sequence[Record]) -> dict[str, float]:
    """Every tick alike; episodes that were recorded without it are left out."""
    squares: dict[str, list[tuple[float, int]]] = {}
    for record in records:
        for part, value in record.get("watched", {}).get("jerk", {}).items():
            squares.setdefault(part, []).append((value * value, record["result"]["ticks"]))
    return {part: math.sqrt(sum(s * n for s, n in of) / sum(n for _, n in of)) for part, of in squares.items()}


def _by_delay(records: Sequence[Record]) -> tuple[tuple[float, float], ...]:
    """Mean delay in ticks and success of each third of the episodes; empty where delays hardly differ."""
    known = [(float(np.mean(r["result"]["delays"])), alone(r)) for r in records if r["result"]["delays"]]
    if len(known) < 6 or max(known)[0] - min(known)[0] < 1:
        return ()
    thirds = np.array_split(np.array(sorted(known), dtype=float), 3)
    return tuple((float(part[:, 0].mean()), float(part[:, 1].mean())) for part in thirds)


def _curve(records: Sequence[Record], limits: Mapping[str, float]) -> Curve | None:
    if not records:
        return None
    times = [float(record["result"]["outcome"]["time"]) for record in records]
    longest = max(limits.values())  # a failure never succeeds, also where other tasks have more time
    return success_curve(times, [alone(record) for record in records], [longest] * len(records))


def _share(count: float, of: float) -> float:
    return count / of if of else math.nan
