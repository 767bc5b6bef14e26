"""Episodes in processes of this machine, and the policies that answer in batches in this one.

worker: world + loop --begin, ask--> this process: Desk of each arm, one pass for many --answer--> worker
                     --done, failed-->             records
"""

import contextlib
import logging
import multiprocessing
import os
import pickle
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from actloop.errors import ActloopError
from actloop.evaluation.batching import Desk
from actloop.evaluation.runner import Job, Runner, Unit, crashed, desk_of
from actloop.loop.questions import Question, Result

PATIENCE = 5.0  # seconds for a process to end by itself
DEATHS = 3  # in a row, besides one of every worker, after which something is wrong with the machine

Finished = tuple[Unit, dict[str, Any], float]


def work_in_processes(job: Job, units: Iterator[Unit], count: int) -> Iterator[Finished]:
    """Finished episodes, in any order.

    A process that dies takes its episode with it: that one crashed, and another process takes the place.

    Raises:
        ActloopError: processes cannot start, or one after the other dies.
    """
    floor = _Floor(job, min(job.config.workers, count))
    try:
        yield from floor.run(units)
    finally:
        floor.close()


@dataclass(slots=True, eq=False)
class _Worker:
    """A process, and what is known of its episode."""

    process: SpawnProcess
    pipe: Connection
    ready: bool = False
    unit: Unit | None = None
    given: float = 0.0
    arm: str = ""
    asked: Question | None = None
    since: float = 0.0

    @classmethod
    def started(cls, job: Job) -> "_Worker":
        """A fresh process: a forked one would share the locks of threads that torch and the renderer may have."""
        context = multiprocessing.get_context("spawn")
        pipe, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, job), name="actloop-world", daemon=True)
        process.start()
        theirs.close()
        return cls(process, pipe)

    def give(self, unit: Unit) -> None:
        self.unit, self.given = unit, time.perf_counter()
        self.send(("run", unit))

    def send(self, message: tuple[Any, ...]) -> None:
        """What a process that has died cannot take is of no use to anybody: its end is heard of next."""
        with contextlib.suppress(OSError):
            self.pipe.send(message)

    def end(self) -> str:
        """Wait for it, or end it; says how it ended."""
        self.pipe.close()
        self.process.join(PATIENCE)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
        code = self.process.exitcode or 0
        return f"by signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"with exit code {code}"


class _Floor:
    """The workers of one run, and the desks that they ask."""

    def __init__(self, job: Job, workers: int) -> None:
        self._job = job
        self._workers = [_Worker.started(job) for _ in range(workers)]
        self._desks: dict[str, Desk] = {}
        self._deaths = 0

    def run(self, units: Iterator[Unit]) -> Iterator[Finished]:
        """Give units to whoever is idle until there are none."""
        while True:
            idle = [worker for worker in self._workers if worker.ready and worker.unit is None]
            for worker in idle:
                if (unit := next(units, None)) is not None:
                    worker.give(unit)
            busy = [worker for worker in self._workers if worker.unit is not None]
            if idle and not busy:  # there was nothing left to give, whoever is still getting ready
                return
            batch = self._due(busy)
            for pipe in wait([worker.pipe for worker in self._workers], timeout=0 if batch else None):
                yield from self._hear(next(worker for worker in self._workers if worker.pipe is pipe))
            if batch:
                self._answer(batch)

    def close(self) -> None:
        """End every process; an episode that still runs is left as it is."""
        for worker in self._workers:
            if worker.unit is not None or not worker.ready:
                worker.process.kill()
            worker.send(("stop",))
        for worker in self._workers:
            worker.end()

    def _hear(self, worker: _Worker) -> Iterator[Finished]:
        try:
            message = worker.pipe.recv()
        except (EOFError, ConnectionResetError):
            yield from self._buried(worker)
            return
        match message:
            case ("ready",):
                worker.ready = True
            case ("begin", arm, instruction, seed):
                self._desk(arm).begin(worker, instruction, seed)
            case ("ask", arm, question):
                worker.arm, worker.asked, worker.since = arm, question, time.perf_counter()
            case ("failed", error):
                raise error
            case ("done", record):
                assert worker.unit is not None
                unit, worker.unit, worker.asked, self._deaths = worker.unit, None, None, 0
                for desk in self._desks.values():
                    desk.leave(worker)
                yield unit, record, time.perf_counter() - worker.given

    def _buried(self, worker: _Worker) -> Iterator[Finished]:
        """A process is gone: its episode crashed, and another process takes its place."""
        ended, unit = worker.end(), worker.unit
        self._deaths += 1
        if not worker.ready or self._deaths > DEATHS + len(self._workers):
            what = "one world's process after the other ended" if worker.ready else "the process of a world ended"
            near = f" near {unit}" if unit else " before it could begin"
            reason = "out of memory, or a crash in native code?"
            kept = f"What was finished is kept in {self._job.config.out}; run the same again, perhaps with one worker."
            raise ActloopError(f"{what} {ended}{near} ({reason}). {kept}")
        for desk in self._desks.values():
            desk.leave(worker)
        self._workers[self._workers.index(worker)] = _Worker.started(self._job)
        if unit is not None:
            record = crashed(self._job, unit, f"ProcessDied: the process of the world ended {ended}")
            yield unit, record, time.perf_counter() - worker.given

    def _due(self, busy: list[_Worker]) -> list[_Worker]:
        """Who is to be answered now: a full batch, or, where everybody waits, the largest there is."""
        groups: dict[str, list[_Worker]] = defaultdict(list)
        for worker in busy:
            if worker.asked is not None:
                groups[worker.arm].append(worker)
        if not groups:
            return []
        size, largest = self._job.config.batch, max(groups.values(), key=len)
        if len(largest) < size and any(worker.asked is None for worker in busy):
            return []
        return sorted(largest, key=lambda worker: worker.since)[:size]

    def _answer(self, batch: list[_Worker]) -> None:
        asked: dict[Hashable, Question] = {
            worker: worker.asked for worker in batch if worker.asked is not None and worker in self._workers
        }
        if not asked:
            return
        results = self._desk(batch[0].arm).answer(asked)
        for worker in batch:
            if worker in results:
                worker.asked = None
                worker.send(("answer", portable(results[worker])))

    def _desk(self, arm: str) -> Desk:
        if arm not in self._desks:
            self._desks[arm] = desk_of(self._job, arm)
        return self._desks[arm]


class _Asking:
    """A worker's way to the desk of an arm."""

    def __init__(self, pipe: Connection, arm: str) -> None:
        self._pipe, self._arm = pipe, arm

    def begin(self, instruction: str, seed: int) -> None:
        self._pipe.send(("begin", self._arm, instruction, seed))

    def ask(self, question: Question) -> None:
        self._pipe.send(("ask", self._arm, question))

    def receive(self) -> Result:
        _, result = self._pipe.recv()
        found: Result = result
        return found


def _serve(pipe: Connection, job: Job) -> None:
    """A worker's life: one episode after the other, until it is told to stop or nobody is left to tell."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    logging.captureWarnings(True)  # two workers must not write over one progress bar
    threading.Thread(target=_end_with_parent, daemon=True).start()
    runner = Runner(job=job, link=lambda arm: _Asking(pipe, arm))
    try:
        runner.prepare()
        pipe.send(("ready",))
        while (message := pipe.recv())[0] != "stop":
            if message[0] == "answer":  # to a question that was open when its episode ended
                continue
            try:
                record = runner.run(message[1])
            except OSError as error:  # what the runner lets through: the disk is full
                pipe.send(("failed", error))
                return
            pipe.send(("done", record))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
    finally:
        runner.close()


def _end_with_parent() -> None:
    """Nobody writes into the folder of a run that was killed: it may be going on already."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def portable(result: Result) -> Result:
    """A result whose error can leave this process."""
    if result.error is None:
        return result
    try:
        again = pickle.loads(pickle.dumps(result.error))
    except Exception:  # an error of a policy's own making may take what it likes to be made
        again = None
    if type(again) is type(result.error) and str(again) == str(result.error):
        return result
    told = ActloopError(f"{type(result.error).__name__}: {result.error}")
    return Result(ticket=result.ticket, seconds=result.seconds, error=told)
