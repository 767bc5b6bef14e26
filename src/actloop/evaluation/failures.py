"""Failures sorted by what was seen: how far the task had come when it was lost."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from actloop.evaluation.records import Record, alone, called

TIME_LIMIT = "time limit"
PROGRESS = (("touch", "never touched it"), ("grasp", "touched it, never grasped it"))
"""What was not reached, and what is then said; worlds name these events alike."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Episodes of an arm under a condition that failed alike; `episodes` are their task and seed."""

    kind: str
    arm: str
    condition: str
    episodes: tuple[tuple[str, int], ...]


def failures_of(records: Sequence[Record]) -> list[Failure]:
    """Every failed episode, by kind, arm and condition; the most frequent kind first."""
    telling = _telling(records)
    found: dict[tuple[str, str, str], list[tuple[str, int]]] = {}
    totals: dict[str, int] = {}
    for record in records:
        if alone(record):
            continue
        kind = kind_of(record, tells=record["task"] in telling)
        totals[kind] = totals.get(kind, 0) + 1
        found.setdefault((kind, record["arm"], record["condition"]), []).append((record["task"], record["seed"]))
    order = sorted(found, key=lambda key: (-totals[key[0]], key))
    return [Failure(kind=key[0], arm=key[1], condition=key[2], episodes=tuple(found[key])) for key in order]


def kind_of(record: Record, *, tells: bool) -> str:
    """In words; `tells`: the world says of this task how far it has come."""
    result = record["result"]
    reason = str(result["outcome"]["reason"])
    if result["error"]:
        return "crashed"
    if called(record):
        return "a person had to help"
    if reason != TIME_LIMIT:
        return reason
    watched = record.get("watched", {})
    if not tells:
        return "ran out of time"
    for event, said in PROGRESS:
        if event not in watched["reached"]:
            return said
    return "held it, did not finish" if "grasp" in watched["last"] else "grasped it and lost it"


def _telling(records: Iterable[Record]) -> set[str]:
    """Tasks of which the world tells the steps: some success went through them."""
    return {
        record["task"]
        for record in records
        if alone(record) and {event for event, _ in PROGRESS} <= set(record.get("watched", {}).get("reached", ()))
    }
