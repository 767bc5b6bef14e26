"""How often a person has to step in, and what that is worth: counted, never mixed with what the policy does alone."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from actloop.evaluation.records import Record, called, seconds_of, successes
from actloop.evaluation.statistics import EventRate, Interval, event_rate, mean_success


@dataclass(frozen=True, slots=True, kw_only=True)
class Interventions:
    """One arm under one condition.

    Attributes:
        episodes: that were run.
        helped: of those, in how many a person was called.
        rate: interventions per hour in which the policy had the robot, and seconds from one to the next.
        causes: how often each led to one: a check's name, `limits`, or `overdue`.
        alone: success without any.
        together: success with and without, where a person takes over; the same as `alone` where asking ends an episode.
    """

    arm: str
    condition: str
    episodes: int
    helped: int
    rate: EventRate | None
    causes: Mapping[str, int]
    alone: Interval
    together: Interval


def interventions_of(arm: str, condition: str, records: Sequence[Record]) -> Interventions:
    """Count those of an arm under a condition."""
    counts, seconds = [called(record) for record in records], [seconds_of(record) for record in records]
    causes = Counter(one["cause"] for record in records for one in record.get("watched", {}).get("interventions", ()))
    return Interventions(
        arm=arm,
        condition=condition,
        episodes=len(records),
        helped=sum(count > 0 for count in counts),
        rate=event_rate(counts, seconds) if sum(seconds) > 0 else None,
        causes=dict(causes.most_common()),
        alone=mean_success(successes(records)),
        together=mean_success(successes(records, helped=True)),
    )
