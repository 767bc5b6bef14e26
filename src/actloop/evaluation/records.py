"""Records of finished episodes, as `episodes.jsonl` has them, and what can be read off a single one."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from actloop.evaluation.statistics import Successes

Record = Mapping[str, Any]


def called(record: Record) -> int:
    """How often a person was called."""
    return int(record["result"].get("rungs", {}).get("human", 0))


def alone(record: Record) -> bool:
    """Whether it succeeded, and nobody had to help."""
    return bool(record["result"]["outcome"]["success"]) and not called(record)


def successes(records: Iterable[Record], *, helped: bool = False) -> Successes:
    """By task and seed; with `helped`, also where a person was called."""
    found: dict[str, dict[int, bool]] = {}
    for record in records:
        won = bool(record["result"]["outcome"]["success"]) if helped else alone(record)
        found.setdefault(record["task"], {})[record["seed"]] = won
    return found


def onset(record: Record) -> int | None:
    """The first tick that showed anything that was made to go wrong; None where nothing happened."""
    ticks = [incident["onset"] for incident in record.get("incidents", ()) if incident["onset"] is not None]
    return min(ticks, default=None)


def alarms(record: Record) -> Sequence[int]:
    """Ticks in which a check raised an alarm; none where that was not recorded."""
    found: Sequence[int] = record.get("watched", {}).get("alarms", ())
    return found


def looked_from(record: Record, tick: int) -> int | None:
    """The first tick whose command rests on an observation of `tick` or later; None where none does."""
    views = record.get("watched", {}).get("views", ())
    return next((at for at, seen in views if seen >= tick), None)


def seconds_of(record: Record) -> float:
    """Seconds that the policy had the robot."""
    result = record["result"]
    taken = record.get("watched", {}).get("interventions", ())
    ticks = result["ticks"] - sum(
        (result["ticks"] if one["back"] is None else one["back"]) - one["tick"] for one in taken
    )
    return float(ticks * result["period"])
