"""A calibration of a stack's checks, from episodes of the same stack without its faults.

episodes --scores of those that succeed--> calibrate --> Calibration, bound to this stack
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from actloop.checks.calibration import Calibration, Scores, normalised
from actloop.checks.evidence import Score
from actloop.errors import ContractError
from actloop.loop.events import Event, Replied
from actloop.loop.latency import LatencyProfile
from actloop.simulation.registry import tasks_of
from actloop.stack.declared import Stack
from actloop.stack.opened import open_stack
from actloop.stack.placing import ClockName


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibrated:
    """A calibration, and the episodes it rests on: how many were run, and how many succeeded."""

    calibration: Calibration
    episodes: int
    successes: int


class Scored:
    """A subscriber that keeps the scores of an episode's checks."""

    def __init__(self) -> None:
        self.scores: dict[str, list[Score]] = {}

    def on_event(self, event: Event) -> None:
        if isinstance(event, Replied):
            for reading in event.readings:
                self.scores.setdefault(reading.check, []).append(Score(value=reading.raw, lead=reading.lead))


def calibrate_stack(
    stack: Stack,
    *,
    alpha: float,
    episodes: int,
    seed: int = 0,
    tasks: Sequence[str] = (),
    clock: ClockName = "virtual",
    latency: LatencyProfile | str | None = None,
    fit_share: float = 0.5,
    place: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Calibrated:
    """Run `episodes` of every task, and calibrate on those that succeed.

    The first ones fit the normalisers. In the others these are in force, without alarms, so that scores decide how far
    the robot runs on, as they will later; the threshold comes from them.

    Args:
        stack: its faults and its calibration are left out.
        alpha: the share of successful episodes that may raise an alarm.
        episodes: of each task.
        seed: of the first; keep these seeds apart from those that the stack is judged by.
        tasks: by name, skill or group; those of the file where none is named.
        clock: that the stack will run on.
        latency: of the action layer, as in `open_stack`.
        fit_share: of the episodes, for the normalisers.
        place: as in `open_stack`.
        progress: told how many episodes were run, and how many of them succeeded.

    Raises:
        ContractError: the stack has no checks that are asked.
        TooFewEpisodes: fewer succeeded than the rate needs.
    """
    if stack.check is None or "check" in stack.offline:
        raise ContractError(str(stack.path), "has no [check] that is asked: there is nothing to calibrate")
    plain = replace(stack, check=replace(stack.check, calibration=None), world=replace(stack.world, faults=()))
    if not 0 < fit_share < 1:
        raise ContractError("calibration.fit_share", f"expected a share between 0 and 1, got {fit_share}")
    first = math.ceil(fit_share * episodes)
    seeds = range(seed, seed + first), range(seed + first, seed + episodes)
    fit, rest = list[Scores](), list[Scores]()
    run = 0
    with TemporaryDirectory() as folder:
        for kept, part in zip((fit, rest), seeds, strict=True):
            with open_stack(plain, clock=clock, place=place, latency=latency) as opened:
                for task in tasks_of(opened.world, tasks) if tasks else opened.tasks:
                    for number in part:
                        scored = Scored()
                        result = opened.run(task, seed=number, subscribers=(scored,), episode=run)
                        run += 1
                        if result.success:
                            kept.append(scored.scores)
                        if progress is not None:
                            progress(run, len(fit) + len(rest))
                identity = opened.calibration_identity
            if kept is fit:  # in the second part scores decide how far the robot runs on, as they will later
                calibration = normalised(fit, alpha=alpha, identity=identity)
                path = Path(folder, "normalisers.json")
                calibration.save(path)
                plain = replace(plain, check=replace(stack.check, calibration=path))
    calibration = calibration.completed(rest)
    return Calibrated(calibration=calibration, episodes=run, successes=len(fit) + len(rest))
