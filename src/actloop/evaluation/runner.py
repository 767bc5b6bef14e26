"""Runs one episode of a comparison in this process: one world, one policy per arm, kept between episodes."""

import contextlib
import errno
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from actloop.contracts import Outcome, Task, World
from actloop.evaluation.batching import Beside, Desk, Link
from actloop.evaluation.conditions import ClockKind, Condition
from actloop.evaluation.config import CompareConfig
from actloop.evaluation.film import Film, write_video
from actloop.evaluation.subjects import STACK, DeskSubject, Running, Setting, Trial, open_subject, policy_of
from actloop.evaluation.watching import Told, Watch, rescuer_of
from actloop.loop.config import LoopConfig
from actloop.loop.events import EventLog, Subscriber
from actloop.loop.ladder import Handover
from actloop.loop.result import EpisodeResult
from actloop.simulation.faults import Disturbed, parse_faults
from actloop.simulation.registry import find_task, make_world

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
DECIMALS = 6  # microseconds
STOPPED = 1.0  # seconds for which limits stop a robot before its rescuer is called


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Unit:
    """One episode to run. Units sort in the order of the report's tables."""

    arm: str
    condition: str
    task: str
    seed: int

    @property
    def path(self) -> Path:
        """Where its event log lies in the run folder."""
        return Path("events", self.arm, self.condition, f"{file_name(self.task)}-{self.seed}.jsonl")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What every process of one comparison knows.

    `desks` are the horizons of the arms that answer in batches, `digests` those of the arms' weights.
    """

    config: CompareConfig
    conditions: Mapping[str, Condition]
    main: str
    desks: Mapping[str, int] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)

    def filmed(self, unit: Unit) -> bool:
        return unit.condition == self.main and unit.seed < self.config.seed + self.config.videos


@dataclass(slots=True)
class Runner:
    """Opens what an episode needs when it is first needed, and again after an episode that crashed.

    `link` leads to the desk of an arm that answers in batches; None for desks of this process.
    """

    job: Job
    link: Callable[[str], Link] | None = None
    world: World | None = None
    subjects: dict[tuple[str, str], Running] = field(default_factory=dict)

    def prepare(self) -> None:
        """Make the world before the first episode; where that fails, the episode says so."""
        with contextlib.suppress(Exception):
            self._world()

    def run(self, unit: Unit) -> dict[str, Any]:
        """The record of one episode, JSON-ready. What the world or the policy raises makes it a failed episode."""
        try:
            record = self._run(unit)
        except Exception as error:  # a crash is a failure of that episode, not the end of the comparison
            if isinstance(error, OSError) and error.errno in NO_ROOM:
                raise  # nor of any other: it was the disk
            record = crashed(self.job, unit, f"{type(error).__name__}: {error}")
        if record["result"]["error"]:
            self.close()
        return record

    def close(self) -> None:
        """Let go of the world and the policies."""
        world, self.world = self.world, None
        subjects, self.subjects = self.subjects, {}
        for subject in subjects.values():
            subject.close()
        if world is not None:
            world.close()

    def _run(self, unit: Unit) -> dict[str, Any]:
        config, condition = self.job.config, self.job.conditions[unit.condition]
        world, subject = self._world(), self._subject(unit)
        task = find_task(world, unit.task)
        disturbed = Disturbed(world, parse_faults(condition.faults)) if condition.faults else None
        filmed = self.job.filmed(unit)
        film, watch = Film(), Watch(disturbed or world)
        with EventLog(config.out / unit.path) as log:
            told: tuple[Subscriber, ...] = (watch, log, film) if filmed else (watch, log)
            trial = Trial(
                world=disturbed or world,
                task=task,
                seed=unit.seed,
                latency=condition.profiles[unit.arm],
                loop=_loop_config(config, task, world.embodiment.period, filmed=filmed),
                rescuer=rescuer_of(world) if config.rescue else None,
                stall=None if disturbed is None else disturbed.stall,
                subscribers=told if disturbed is None else (Told(disturbed, told),),
            )
            result = subject.run(trial)
        record = _record(unit, result)
        record["watched"] = watch.to_dict()
        if disturbed is not None:
            record["incidents"] = [incident.to_dict() for incident in disturbed.incidents]
        if filmed and film.seen:
            video = Path("videos", unit.arm, f"{file_name(unit.task)}-{unit.seed}.mp4")
            write_video(config.out / video, film.panels(), fps=world.embodiment.control_hz)
            record["video"] = video.as_posix()
            record["imagines"] = bool(film.arrived)
            record["foresight"] = [point.to_dict() for point in film.foresight()]
        return record

    def _world(self) -> World:
        if self.world is None:
            self.world = make_world(self.job.config.world, **self.job.config.world_options)
        return self.world

    def _subject(self, unit: Unit) -> Running:
        """A policy is opened once for a clock, a stack once for each latency: its calibration holds for that one."""
        config, source = self.job.config, self.job.config.arms[unit.arm]
        condition = self.job.conditions[unit.condition]
        key = (unit.arm, condition.timing if source.endswith(STACK) else condition.clock)
        if key not in self.subjects and unit.arm in self.job.desks:
            link = self.link(unit.arm) if self.link else Beside(desk_of(self.job, unit.arm))
            body = self._world().embodiment
            self.subjects[key] = DeskSubject(link, body, self.job.desks[unit.arm], condition.clock)
        elif key not in self.subjects:
            path = config.out / calibration_path(unit.arm, condition.timing)
            self.subjects[key] = open_subject(
                source,
                setting_of(config, condition.clock),
                self._world(),
                latency=condition.profiles[unit.arm],
                calibration=path if path.exists() else None,
            )
        return self.subjects[key]


def desk_of(job: Job, arm: str) -> Desk:
    """The policy of an arm, opened in this process to answer in batches."""
    return Desk(policy_of(job.config.arms[arm]), job.config.batch)


def setting_of(config: CompareConfig, clock: ClockKind) -> Setting:
    return Setting(world=config.world, options=config.world_options, clock=clock)


def calibration_path(arm: str, condition: str) -> Path:
    """Where the thresholds of an arm's checks lie in the run folder."""
    return Path("calibrations", arm, f"{file_name(condition)}.json")


def file_name(name: str) -> str:
    """A task's name as a file may be called on any system."""
    return "".join(letter if letter.isalnum() or letter in "._+-" else "_" for letter in name)


def _loop_config(config: CompareConfig, task: Task, period: float, *, filmed: bool) -> LoopConfig:
    """Recorders change no command: only the filmed episodes pay for rendering every tick and for imagining."""
    handover = Handover()
    if config.rescue:
        handover = Handover(
            ticks=max(1, round(config.rescue_seconds / period)),
            overdue=math.inf if config.rescue_after is None else config.rescue_after * task.time_limit,
            stopped=max(1, round(STOPPED / period)),
        )
    loop = LoopConfig(imagine=filmed, observe_every=1 if filmed else 0, handover=handover)
    return loop if config.execute_horizon is None else replace(loop, execute_horizon=config.execute_horizon)


def _record(unit: Unit, result: EpisodeResult) -> dict[str, Any]:
    plain = result.to_dict()
    del plain["wall_seconds"]  # how busy this machine was is no property of the episode
    rounded = json.loads(json.dumps(plain), parse_float=lambda text: round(float(text), DECIMALS))
    return {
        "arm": unit.arm,
        "condition": unit.condition,
        "task": unit.task,
        "seed": unit.seed,
        "result": rounded,
        "events": unit.path.as_posix(),
        "video": None,
        "imagines": False,
        "foresight": [],
    }


def crashed(job: Job, unit: Unit, error: str) -> dict[str, Any]:
    """The record of an episode that broke before or after the loop could report on it."""
    result = EpisodeResult(
        task=unit.task,
        seed=unit.seed,
        outcome=Outcome(success=False, reason="crashed", time=0.0),
        clock=job.conditions[unit.condition].clock,
        latency=job.conditions[unit.condition].profiles[unit.arm].name,
        period=0.0,
        horizon=0,
        execute_horizon=job.config.execute_horizon or 0,
        error=error,
    )
    return _record(unit, result)
