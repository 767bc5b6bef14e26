"""The main job: every arm on the same tasks and seeds, under the same conditions, on a clock that does not wait.

CompareConfig --settle--> Run (run.json) --units--> workers --records--> episodes.jsonl --judge--> Comparison
"""

import logging
import multiprocessing
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from actloop.contracts import Task, World, embodiment_to_dict
from actloop.errors import ActloopError, ContractError
from actloop.evaluation.arms import Arm, settle_conditions
from actloop.evaluation.comparison import Comparison, judge
from actloop.evaluation.config import CompareConfig
from actloop.evaluation.film import require_av
from actloop.evaluation.identity import identity
from actloop.evaluation.progress import Estimate, Progress
from actloop.evaluation.run import (
    Run,
    check_same,
    episode_line,
    read_episodes,
    read_run,
    unit_of,
    write_episodes,
    write_json,
)
from actloop.evaluation.runner import Job, Runner, Unit, calibration_path, setting_of
from actloop.evaluation.subjects import Subject, calibrate_source, needs_calibration, open_subject, source_identity
from actloop.simulation.registry import make_world, tasks_of

_runner: Runner | None = None  # of a worker process, made by its initializer


def compare(config: CompareConfig, progress: Callable[[Progress], None] | None = None) -> Comparison:
    """Run what is still missing of a comparison and judge all of it.

    Finished episodes are kept as they come: interrupted, a second call with the same configuration goes on.

    Raises:
        RunMismatchError: the folder holds another comparison.
        ContractError: an arm is made for another robot than the world has.
        ActloopError: a worker process died; what was finished is kept.
    """
    if config.videos:
        require_av()
    run = settle(config)
    done = read_episodes(config.out)
    write_episodes(config.out, done)  # mends a last line that was cut off before anything is appended to it
    finished = {unit_of(record) for record in done}
    missing = [unit for unit in run.units() if unit not in finished]
    estimate = Estimate(total=len(run.units()), done=len(done), missing=missing, workers=config.workers)
    job = Job(config=config, conditions={item.name: item for item in run.conditions}, main=run.main.name)
    report = progress or (lambda _: None)
    report(estimate.progress())
    with (config.out / "episodes.jsonl").open("a", encoding="utf-8") as file:
        for unit, record, seconds in _work(job, missing):
            file.write(episode_line(record))
            file.flush()
            estimate.add(unit, seconds)
            report(estimate.progress())
    records = read_episodes(config.out)
    write_episodes(config.out, records)
    comparison = judge(run, records)
    write_json(config.out / "results.json", comparison.to_json())
    return comparison


def load_comparison(folder: Path) -> Comparison:
    """What a run folder holds so far, judged; also of a run that was interrupted."""
    return judge(read_run(folder), read_episodes(folder))


def settle(config: CompareConfig) -> Run:
    """The folder's run, or a new one: tasks, arms, latencies measured and frozen, written to `run.json`."""
    world = make_world(config.world, **config.world_options)
    try:
        if (config.out / "run.json").exists():
            before = read_run(config.out)
            identities = {name: source_identity(source) for name, source in config.arms.items()}
            check_same(before, config, identities)
            return before
        run = _new_run(config, world)
    finally:
        world.close()
    _calibrate(config, run)
    write_json(config.out / "run.json", run.to_dict())
    return run


def _new_run(config: CompareConfig, world: World) -> Run:
    tasks = tasks_of(world, config.tasks)
    arms = []
    for name, source in config.arms.items():
        subject = open_subject(source, setting_of(config), world)
        if subject.embodiment.identity != world.embodiment.identity:
            body, wanted = world.embodiment.name, subject.embodiment.name
            reason = f"was made for the robot {wanted!r}, the world {config.world!r} has {body!r}"
            if body == wanted:
                reason += (
                    " with other cameras, limits, units or rate; make the world with the options it was trained in"
                )
            raise ContractError(f"arm {name!r}", reason)
        _check_instructions(name, subject, tasks)
        measured = subject.measure(world.reset(tasks[0], seed=config.seed), tasks[0])
        identity_ = subject.describe()
        arms.append(Arm(name=name, source=source, horizon=subject.horizon, identity=identity_, measured=measured))
        subject.close()
    return Run(
        config=config.to_dict(),
        arms=tuple(arms),
        tasks=tuple(tasks),
        conditions=tuple(settle_conditions(config, arms)),
        baseline=config.baseline or _baseline(arms),
        embodiment=embodiment_to_dict(world.embodiment),
        identity=identity(_command()),
    )


def _calibrate(config: CompareConfig, run: Run) -> None:
    """Calibrate the checks of every stack that brings no calibration, once for each condition."""
    for arm in run.arms:
        if not needs_calibration(arm.source):
            continue
        for condition in run.conditions:
            path = config.out / calibration_path(arm.name, condition.name)
            if not path.exists():
                done = calibrate_source(
                    arm.source,
                    setting_of(config),
                    run.tasks,
                    alpha=config.alpha,
                    episodes=config.calibration_episodes,
                    latency=condition.profiles[arm.name],
                )
                path.parent.mkdir(parents=True, exist_ok=True)
                done.calibration.save(path)


def _check_instructions(name: str, subject: Subject, tasks: Sequence[Task]) -> None:
    """That the policy takes every task, so that hours of episodes do not all fail for one word."""
    for task in tasks:
        try:
            subject.understands(task)
        except ActloopError as error:
            reason = f"does not take the instruction {task.instruction!r} ({error}); leave the task out, or the arm"
            raise ContractError(f"arm {name!r}, task {task.name!r}", reason) from error


def _command() -> list[str]:
    program = Path(sys.argv[0])
    name = program.parent.name if program.name == "__main__.py" else program.name  # python -m package
    return [name, *sys.argv[1:]]


def _baseline(arms: Sequence[Arm]) -> str:
    """The arm that the others are held against: the one that predicts nowhere, else the first."""
    return next((arm.name for arm in arms if arm.place == "nowhere"), arms[0].name)


Finished = tuple[Unit, dict[str, Any], float]


def _work(job: Job, units: Sequence[Unit]) -> Iterator[Finished]:
    """Finished episodes, in any order. One worker runs here, more in processes of their own."""
    if job.config.workers > 1 and len(units) > 1:
        yield from _work_in_processes(job, units)
        return
    runner = Runner(job=job)
    try:
        for unit in units:
            start = time.perf_counter()
            yield unit, runner.run(unit), time.perf_counter() - start
    finally:
        runner.close()


def _work_in_processes(job: Job, units: Sequence[Unit]) -> Iterator[Finished]:
    workers = min(job.config.workers, len(units))
    waiting = iter(units)
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
