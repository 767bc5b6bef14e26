"""Stopping as soon as two arms can be told apart: looked at after every seed, in the order of the seeds.

One outcome is a seed: the mean over the tasks of first minus second, under the main condition. The test may be looked
at as often as one likes (`statistics.sequential`), so stopping early makes it no less right.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from actloop.evaluation.records import Record, alone
from actloop.evaluation.run import Run
from actloop.evaluation.statistics import Interval, SequentialTest

ALPHA = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What a sequential test says of the first arm against the second, after `seeds` seeds; `last` is the last of them.

    `verdict` is `above`, `below`, or empty where nothing is decided yet.
    """

    first: str
    second: str
    seeds: int
    last: int
    verdict: str
    e_value: float
    interval: Interval


def decide(run: Run, records: Sequence[Record]) -> Decision:
    """Look at the finished seeds in order, up to the one that decides.

    Raises:
        ValueError: a run of other than two arms.
    """
    first, second = (arm.name for arm in run.arms)
    found = {
        (record["arm"], record["task"], record["seed"]): alone(record)
        for record in records
        if record["condition"] == run.main.name
    }
    test, last = SequentialTest.of_pairs(alpha=ALPHA), run.config["seed"] - 1
    for seed in run.seeds:
        pairs = [(found.get((first, t.name, seed)), found.get((second, t.name, seed))) for t in run.tasks]
        gains = [float(one) - float(two) for one, two in pairs if one is not None and two is not None]
        if len(gains) < len(pairs):
            break  # later seeds may be there already: they wait for this one
        test.observe(sum(gains) / len(gains))
        last = seed
        if test.decided:
            break
    return Decision(
        first=first,
        second=second,
        seeds=test.count,
        last=last,
        verdict=test.verdict,
        e_value=test.e_value,
        interval=test.interval,
    )
