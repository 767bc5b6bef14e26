"""Runs episodes one after the other in this process, in processes beside it, or on a cluster: the same records.

work(job, units) --> here: one at a time | floor.py: processes of this machine | cluster.py: Ray
"""

import time
from collections.abc import Iterator
from typing import Any

from actloop.evaluation.runner import Job, Runner, Unit

Finished = tuple[Unit, dict[str, Any], float]


def work(job: Job, units: Iterator[Unit], count: int) -> Iterator[Finished]:
    """Finished episodes with the seconds that each took, in any order."""
    if job.config.ray:
        from actloop.evaluation.cluster import work_on_ray

        yield from work_on_ray(job, units, count)
    elif job.config.workers > 1 and count > 1:
        from actloop.evaluation.floor import work_in_processes

        yield from work_in_processes(job, units, count)
    else:
        yield from _work_here(job, units)


def _work_here(job: Job, units: Iterator[Unit]) -> Iterator[Finished]:
    runner = Runner(job=job)
    try:
        for unit in units:
            start = time.perf_counter()
            yield unit, runner.run(unit), time.perf_counter() - start
    finally:
        runner.close()
