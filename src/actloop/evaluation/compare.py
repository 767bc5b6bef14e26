"""The main job: every arm on the same tasks and seeds, under the same conditions, on a clock that does not wait.

CompareConfig --settle--> Run (run.json) --units--> workers --records--> episodes.jsonl --judge--> Comparison
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from actloop.contracts import Demonstrator, ForceSensing, Task, World, embodiment_to_dict
from actloop.errors import ActloopError, ContractError
from actloop.evaluation.arms import Arm
from actloop.evaluation.comparison import Comparison
from actloop.evaluation.conditions import parse_scenarios, settle_conditions
from actloop.evaluation.config import CompareConfig
from actloop.evaluation.deciding import decide
from actloop.evaluation.film import require_av
from actloop.evaluation.identity import identity
from actloop.evaluation.judging import judge
from actloop.evaluation.progress import Estimate, Progress
from actloop.evaluation.run import (
    Run,
    append_episode,
    check_same,
    read_episodes,
    read_run,
    unit_of,
    write_episodes,
    write_json,
)
from actloop.evaluation.runner import NO_ROOM, Job, Unit, calibration_path, setting_of
from actloop.evaluation.subjects import Subject, calibrate_source, needs_calibration, open_subject, source_identity
from actloop.evaluation.working import work
from actloop.simulation.faults import Disturbed, parse_faults
from actloop.simulation.registry import make_world, tasks_of


def compare(config: CompareConfig, progress: Callable[[Progress], None] | None = None) -> Comparison:
    """Run what is still missing of a comparison and judge all of it.

    Finished episodes are kept as they come: interrupted, a second call with the same configuration goes on.

    Raises:
        RunMismatchError: the folder holds another comparison.
        ContractError: an arm is made for another robot than the world has.
        ActloopError: a worker process died, or the disk is full; what was finished is kept.
    """
    if config.videos:
        require_av()
    run = settle(config)
    done = read_episodes(config.out)
    write_episodes(config.out, done)  # mends a last line that was cut off before anything is appended to it
    watch = _Decided(run, done)
    finished = {unit_of(record) for record in done}
    missing = [unit for unit in run.units() if unit not in finished and watch.wants(unit)]
    estimate = Estimate(total=len(finished) + len(missing), done=len(done), missing=missing, workers=config.workers)
    job = job_of(config, run)
    report = progress or (lambda _: None)
    report(estimate.progress())
    try:
        for unit, record, seconds in work(job, filter(watch.wants, missing), len(missing)):
            append_episode(config.out, record)
            watch.add(record)
            estimate.add(unit, seconds)
            report(estimate.progress())
        records = read_episodes(config.out)
        comparison = judge(run, records)
        _leave_out(config.out, [record for record in records if record not in comparison.records])
        write_episodes(config.out, comparison.records)
        write_json(config.out / "results.json", comparison.to_json())
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        kept = f"{estimate.done} of {estimate.total} episodes are kept; make room, and run the same again"
        raise ActloopError(f"{config.out}: cannot be written ({error.strerror}). {kept}") from error
    return comparison


def job_of(config: CompareConfig, run: Run) -> Job:
    """What has to be known to run any episode of a run."""
    return Job(
        config=config,
        conditions={item.name: item for item in run.conditions},
        main=run.main.name,
        desks={arm.name: arm.horizon for arm in run.arms if arm.batch > 1},
        digests={arm.name: str(arm.identity.get("digest", "")) for arm in run.arms},
    )


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
    _check_world(config, world)
    arms, calls = [], False
    for name, source in config.arms.items():
        subject = open_subject(source, setting_of(config, config.clock), world)
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
        calls = calls or subject.calls
        rowwise = subject.rowwise(config.batch, world, tasks, seed=config.seed) if config.batch > 1 else ""
        arms.append(
            Arm(
                name=name,
                source=source,
                horizon=subject.horizon,
                identity=identity_,
                measured=measured,
                batch=1 if rowwise else config.batch,
                rowwise=rowwise,
            )
        )
        subject.close()
    if config.rescue and config.rescue_after is None and not calls:
        reason = "no arm asks for a human (a stack with the rung 'human', or with limits, does); say `rescue_after`"
        raise ContractError("compare.rescue", reason)
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
            if condition.twin:  # checked by the thresholds of its undisturbed twin
                continue
            path = config.out / calibration_path(arm.name, condition.name)
            if not path.exists():
                done = calibrate_source(
                    arm.source,
                    setting_of(config, condition.clock),
                    run.tasks,
                    alpha=config.alpha,
                    episodes=config.calibration_episodes,
                    latency=condition.profiles[arm.name],
                )
                path.parent.mkdir(parents=True, exist_ok=True)
                done.calibration.save(path)


def _check_world(config: CompareConfig, world: World) -> None:
    """That the world has what is to go wrong, an expert where one is to rescue, and measures what has a limit.

    Raises:
        UnknownNameError, ContractError: as `Disturbed`.
    """
    for faults in [config.faults, *(scenario.faults for scenario in parse_scenarios(config.disturb))]:
        Disturbed(world, parse_faults(faults))
    if config.rescue and not isinstance(world, Demonstrator):
        reason = f"the world {config.world!r} has no scripted expert that could take over"
        raise ContractError("compare.rescue", reason)
    if config.force_limit is not None and not isinstance(world, ForceSensing):
        reason = f"the world {config.world!r} does not measure how hard its robot touches anything (`ForceSensing`)"
        raise ContractError("compare.force_limit", reason)


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


def _leave_out(folder: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Remove what was run ahead of the seed that decided: it must not depend on the number of workers."""
    for record in records:
        for name in (record["events"], record["video"]):
            if name:
                (folder / name).unlink(missing_ok=True)


class _Decided:
    """Whether an episode is still wanted, as far as a run that stops when it is decided has come."""

    def __init__(self, run: Run, records: Sequence[Mapping[str, Any]]) -> None:
        self._run, self._records = run, list(records)
        self._asked = bool(run.config.get("until_decided"))
        self._last: int | None = None
        self._look()

    def add(self, record: Mapping[str, Any]) -> None:
        """Take a finished episode into account."""
        self._records.append(record)
        if record["condition"] == self._run.main.name:
            self._look()

    def wants(self, unit: Unit) -> bool:
        return self._last is None or unit.seed <= self._last

    def _look(self) -> None:
        if self._asked and self._last is None:
            decision = decide(self._run, self._records)
            self._last = decision.last if decision.verdict else None
