"""Record demonstrations of a world's scripted expert as a LeRobotDataset.

    (task, seed, attempt) --workers--> Demonstration --in order, successes only--> EpisodeWriter

Episodes go round the tasks, so a recording that is cut short is balanced. What is recorded depends on the seed alone,
not on the number of workers nor on how often the recording was interrupted and taken up again.
"""

import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Protocol, runtime_checkable

from actloop.contracts import Demonstrator, Observation, Task, World
from actloop.data.fields import EXECUTED
from actloop.data.schema import Extra
from actloop.data.writer import EpisodeWriter
from actloop.errors import ActloopError, ContractError
from actloop.training.demonstrate import Attempt, Demonstration, demonstrate

WorldFactory = Callable[[], World]
FAILURES_IN_A_ROW = 25


@dataclass(slots=True, kw_only=True)
class TaskCount:
    """Episodes of one task: `recorded` are in the dataset, `new` of them from this run, whose failures are `failed`."""

    recorded: int = 0
    new: int = 0
    failed: int = 0
    noisy: int = 0
    astray: int = 0
    disturbed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordSummary:
    """What is in the dataset after a recording. `interrupted`: by Ctrl-C; what was finished is kept."""

    path: Path
    episodes: int
    frames: int
    tasks: Mapping[str, TaskCount]
    seconds: float
    interrupted: bool


@runtime_checkable
class _Pending(Protocol):
    def result(self) -> Demonstration: ...


@dataclass(slots=True)
class _Stream:
    """The attempts of one task, in order; the next ones may be running ahead."""

    task: Task
    next_number: int
    running: deque[_Pending] = field(default_factory=deque)


def record(
    world_factory: WorldFactory,
    tasks: Sequence[Task],
    path: str | Path,
    *,
    episodes_per_task: int,
    seed: int,
    noise_share: float = 0.3,
    astray_share: float = 0.0,
    disturb_share: float = 0.1,
    workers: int = 1,
    progress: bool = False,
    codec: str = "libsvtav1",
) -> RecordSummary:
    """Record until the dataset at `path` has `episodes_per_task` successful episodes of every task.

    The shares are of episodes: with noise, with commands that have nothing to do with the task for a while, disturbed.
    An existing dataset of the same embodiment is continued. With several workers the factory must be picklable.

    Raises:
        ContractError: the world has no expert, or its expert keeps failing a task.
        DataError: the dataset there belongs to another embodiment or is not readable.
    """
    shares = {"noise_share": noise_share, "astray_share": astray_share, "disturb_share": disturb_share}
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise ContractError(name, f"expected a share between 0 and 1, got {share}")
    if seed < 0 or episodes_per_task < 1:
        got = f"a seed of {seed} and {episodes_per_task} episodes"
        raise ContractError("record", f"expected a seed of 0 or more, and 1 or more episodes of a task; got {got}")
    if not tasks or len({task.name for task in tasks}) != len(tasks):
        raise ContractError("record", f"expected distinct tasks, got {[task.name for task in tasks]}")
    began = time.monotonic()
    world = world_factory()
    try:
        if not isinstance(world, Demonstrator):
            raise ContractError(world.embodiment.name, "has no scripted expert (`demonstrate`) to record")
        extras = [Extra(name=EXECUTED, names=tuple(world.embodiment.action.component_names))]
        writer = EpisodeWriter(path, embodiment=world.embodiment, codec=codec, extras=extras)
        counts = {task.name: TaskCount() for task in tasks}
        streams = {task.name: _Stream(task, 0) for task in tasks}
        _take_up(writer, counts, streams, seed)
        make = partial(
            Attempt, seed=seed, noise_share=noise_share, disturb_share=disturb_share, astray_share=astray_share
        )
        interrupted = False
        try:
            with (
                writer,
                _runner(world, world_factory, workers) as run,
                _bar(progress, counts, episodes_per_task) as show,
            ):
                for done in _successes(streams, counts, episodes_per_task, max(1, 2 * workers), make, run):
                    _save(writer, done)
                    _count(counts[done.attempt.task.name], done)
                    show()
        except KeyboardInterrupt:
            interrupted = True
    finally:
        world.close()
    return RecordSummary(
        path=Path(path),
        episodes=len(writer.saved),
        frames=sum(episode.length for episode in writer.saved),
        tasks=counts,
        seconds=time.monotonic() - began,
        interrupted=interrupted,
    )


def _take_up(writer: EpisodeWriter, counts: Mapping[str, TaskCount], streams: Mapping[str, _Stream], seed: int) -> None:
    """Count the episodes that are there; attempts of this seed go on behind the last one that was recorded."""
    for episode in writer.saved:
        name = str(episode.notes.get("task"))
        if name in counts:
            counts[name].recorded += 1
            if episode.notes.get("seed") == seed:
                streams[name].next_number = max(streams[name].next_number, int(episode.notes["attempt"]) + 1)


def _successes(
    streams: Mapping[str, _Stream],
    counts: Mapping[str, TaskCount],
    wanted: int,
    ahead: int,
    make: Callable[..., Attempt],
    run: Callable[[Attempt], _Pending],
) -> Iterator[Demonstration]:
    """Successful episodes in their fixed order, while the next ones are already running."""
    have = {name: count.recorded for name, count in counts.items()}
    order = [name for rank in range(wanted) for name in streams if have[name] <= rank]
    for place in range(len(order)):
        failures = 0
        while True:
            upcoming = order[place : place + ahead]
            for name in dict.fromkeys(upcoming):
                stream = streams[name]
                while len(stream.running) < upcoming.count(name):
                    stream.running.append(run(make(task=stream.task, number=stream.next_number)))
                    stream.next_number += 1
            name = order[place]
            done = streams[name].running.popleft().result()
            if done.success:
                break
            counts[name].failed += 1
            failures += 1
            if failures >= FAILURES_IN_A_ROW:
                raise ContractError(f"task {name}", f"the expert failed {failures} times in a row, last: {done.reason}")
        yield done


def _save(writer: EpisodeWriter, done: Demonstration) -> None:
    period = writer.embodiment.period
    for tick, (state, action, executed) in enumerate(zip(done.states, done.actions, done.executed, strict=True)):
        images = {name: frames[tick] for name, frames in done.images.items()}
        obs = Observation(images=images, state=state, tick=tick, time=tick * period)
        writer.add_frame(obs, action, extra={EXECUTED: executed})
    notes = {
        "task": done.attempt.task.name,
        "skill": done.attempt.task.skill,
        "seed": done.attempt.seed,
        "attempt": done.attempt.number,
        "noisy": done.is_noisy,
        **({"astray": True} if done.is_astray else {}),
        "disturbance": done.disturbance,
        "disturbed_at": done.disturbed_at if done.disturbance else None,
    }
    writer.save_episode(done.attempt.task.instruction, notes=notes)


def _count(count: TaskCount, done: Demonstration) -> None:
    count.recorded += 1
    count.new += 1
    count.noisy += done.is_noisy
    count.astray += done.is_astray
    count.disturbed += bool(done.disturbance)


@dataclass(frozen=True, slots=True)
class _Inline:
    """Runs in this process, when its result is asked for."""

    world: World
    attempt: Attempt

    def result(self) -> Demonstration:
        return demonstrate(self.world, self.attempt)


@contextmanager
def _runner(world: World, factory: WorldFactory, workers: int) -> Iterator[Callable[[Attempt], _Pending]]:
    """How an attempt is started: here, or in one of several fresh processes that hold a world each."""
    if workers <= 1:
        yield lambda attempt: _Inline(world, attempt)
        return
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_enter, initargs=(factory,))
    try:
        yield lambda attempt: pool.submit(_work, attempt)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_worlds: list[World] = []  # the world of this worker process


def _enter(factory: WorldFactory) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that writes
    _worlds.append(factory())


def _work(attempt: Attempt) -> Demonstration:
    try:
        return demonstrate(_worlds[0], attempt)
    except ActloopError as error:  # those with fields of their own do not survive the way between processes
        raise ActloopError(f"{attempt.task.name}, attempt {attempt.number}: {error}") from None


@contextmanager
def _bar(progress: bool, counts: Mapping[str, TaskCount], wanted: int) -> Iterator[Callable[[], None]]:
    """A progress bar over all episodes; what it yields redraws it."""
    if not progress:
        yield lambda: None
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn()) as bar:
        line = bar.add_task("recording", total=sum(max(wanted, count.recorded) for count in counts.values()))

        def show() -> None:
            failed = sum(count.failed for count in counts.values())
            text = f"recording ({failed} discarded)" if failed else "recording"
            bar.update(line, completed=sum(count.recorded for count in counts.values()), description=text)

        show()
        yield show
