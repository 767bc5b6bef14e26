"""Runs episodes one after the other in this process, or in processes of their own: the same records either way."""

import logging
import multiprocessing
import signal
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

from actloop.errors import ActloopError
from actloop.evaluation.runner import Job, Runner, Unit

_runner: Runner | None = None  # of a worker process, made by its initializer

Finished = tuple[Unit, dict[str, Any], float]


def work(job: Job, units: Iterator[Unit], count: int) -> Iterator[Finished]:
    """Finished episodes, in any order. One worker runs here, more in processes of their own."""
    if job.config.workers > 1 and count > 1:
        yield from _work_in_processes(job, units, count)
        return
    runner = Runner(job=job)
    try:
        for unit in units:
            start = time.perf_counter()
            yield unit, runner.run(unit), time.perf_counter() - start
    finally:
        runner.close()


def _work_in_processes(job: Job, waiting: Iterator[Unit], count: int) -> Iterator[Finished]:
    workers = min(job.config.workers, count)
    running: dict[Future[Finished], Unit] = {}
    with _pool(job, workers) as pool:
        try:
            while True:
                for unit in _take(waiting, 2 * workers - len(running)):  # two per worker, so that none waits for us
                    running[pool.submit(_run_unit, unit)] = unit
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    unit = running.pop(future)
                    yield future.result()
        except BrokenProcessPool as error:
            raise ActloopError(
                f"a worker process died near {unit} (out of memory, or a crash in native code). "
                f"What was finished is kept in {job.config.out}; run the same again, perhaps with one worker."
            ) from error


def _take(units: Iterator[Unit], count: int) -> Iterator[Unit]:
    for _, unit in zip(range(count), units, strict=False):
        yield unit


@contextmanager
def _pool(job: Job, workers: int) -> Iterator[ProcessPoolExecutor]:
    """Fresh processes: forked ones would share the locks of threads that torch and the renderer may have running."""
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(job,))
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start_worker(job: Job) -> None:
    global _runner
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer: it lets us finish our episode
    logging.captureWarnings(True)  # two workers must not write over one progress bar
    _runner = Runner(job=job)


def _run_unit(unit: Unit) -> Finished:
    assert _runner is not None
    start = time.perf_counter()
    return unit, _runner.run(unit), time.perf_counter() - start
