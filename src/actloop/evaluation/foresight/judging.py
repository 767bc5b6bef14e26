"""Judges a world action model's imagination by the simulator: the same moment, several chunks, what came of each.

planned_moments --> other_chunks --+--imagine--> frames --+--> Measured --by task and seed--> ForesightReport
                                   '--roll-----> frames --'
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float

from actloop.contracts import ActionChunk, Embodiment, Frame, Future, Observation, Policy, Task, World, WorldActionModel
from actloop.errors import ContractError
from actloop.evaluation.film import Foresight
from actloop.evaluation.foresight.measures import (
    Measured,
    Ranked,
    correlation,
    gain,
    measure_frames,
    spread_over_skill,
)
from actloop.evaluation.foresight.moments import Moment, other_chunks, planned_moments, roll
from actloop.evaluation.foresight.report import Bin, Calibration, ForesightReport, Ranking, Response
from actloop.evaluation.statistics import Interval, mean_value
from actloop.models.verifier import expected_state
from actloop.stack.guarded import one_thread

BINS = 5


class MomentJudge(Protocol):
    """Says how good each of several moments is, 0 to 1, higher is better: such as the learned value that ships."""

    @property
    def identity(self) -> str: ...

    def judge(
        self, frames: Mapping[str, np.ndarray], states: Float[np.ndarray, "moments state"], instruction: str
    ) -> Float[np.ndarray, "moments"]: ...


def judge_foresight(
    policy: Policy[Any],
    world: World,
    tasks: Iterable[Task],
    seeds: Iterable[int],
    *,
    value: MomentJudge | None = None,
    moments: int = 3,
    candidates: int = 8,
    draws: int = 3,
    execute_horizon: int = 0,
    on_episode: Callable[[Task, int], None] | None = None,
) -> ForesightReport:
    """Imagined futures against the simulator's, of the policy's own plans and of others from the same moments.

    Args:
        policy: imagines; it also acts, in a world that waits for it.
        world: simulated; the same commands must bring back the same pictures.
        tasks: of the world.
        seeds: of the initial conditions; the units of the intervals.
        value: ranks candidates by where they lead; without it there is no ranking and no calibration.
        moments: per episode, at most.
        candidates: chunks per moment, the policy's own among them.
        draws: imagined futures of the policy's own chunk, from different noise.
        execute_horizon: actions sent of each chunk; 0 for half of it.
        on_episode: told after each episode.

    Raises:
        ContractError: a number is too small, no task or seed is given, the world does not repeat, or the policy
            cannot imagine or imagines nothing within its chunk.
    """
    chosen, numbers = list(tasks), sorted(set(seeds))
    execute = execute_horizon or max(1, policy.horizon // 2)
    _check(chosen, numbers, moments=moments, candidates=candidates, draws=draws)
    if numbers and numbers[0] < 0:
        raise ContractError("seed", f"expected 0 or more, got {numbers[0]}")
    if not isinstance(policy, WorldActionModel):
        raise ContractError("policy", f"{type(policy).__name__} cannot imagine: a world action model is needed")
    judged: list[_Judged] = []
    with one_thread():
        for task in chosen:
            for seed in numbers:
                for moment in planned_moments(
                    policy, world, task, seed=seed, count=moments, draws=draws, execute_horizon=execute
                ):
                    judged.append(_Judged(policy, world, moment, value, candidates))
                if on_episode is not None:
                    on_episode(task, seed)
    measured = [each.measured for each in judged]
    leads = judged[0].leads
    describe = getattr(policy, "describe", None)
    return ForesightReport(
        policy=dict(describe()) if callable(describe) else {},
        embodiment=world.embodiment.name,
        tasks=tuple(task.name for task in chosen),
        seeds=tuple(numbers),
        moments=len(measured),
        candidates=candidates,
        draws=draws,
        follows_chunk=judged[0].follows_chunk,
        errors=tuple(_error(measured, index, lead) for index, lead in enumerate(leads)),
        responses=tuple(_response(measured, index, lead, draws) for index, lead in enumerate(leads)),
        ranking=_ranking(measured),
        calibration=_calibration(measured) if value is not None else None,
        judge=value.identity if value is not None else "",
    )


class _Judged:
    """One moment: every candidate imagined and rolled out."""

    def __init__(
        self,
        policy: WorldActionModel[Any],
        world: World,
        moment: Moment,
        value: MomentJudge | None,
        candidates: int,
    ) -> None:
        chunks = other_chunks(world.embodiment, moment, candidates)
        futures = [policy.imagine(moment.sessions[0], moment.observation, chunk) for chunk in chunks]
        ticks = _ticks(futures[0])
        self.leads = [tick * moment.chunk.period for tick in ticks]
        self.follows_chunk = futures[0].follows_chunk
        came = [roll(world, moment, chunk, ticks) for chunk in chunks]
        others = [policy.imagine(each, moment.observation, chunks[0]) for each in moment.sessions[1:]]
        cameras = sorted(futures[0].frames)
        ranked = None
        if value is not None:
            ends = [each[ticks[-1]] for each in came]
            ranked = _ranked(value, world.embodiment, moment, chunks, futures, ends)
        self.measured = measure_frames(
            moment.task.name,
            moment.seed,
            imagined=_imagined(futures, cameras, len(ticks)),
            real=np.stack([[_pixels(each[tick].images, cameras) for tick in ticks] for each in came]),
            still=_pixels(moment.observation.images, cameras),
            draws=_imagined([futures[0], *others], cameras, len(ticks)),
            ranked=ranked,
        )


def _ticks(future: Future) -> list[int]:
    """After how many actions each imagined frame within the chunk shows the world."""
    count = min((len(frames) for frames in future.frames.values()), default=0)
    ticks = [round((index + 1) * future.period / future.chunk.period) for index in range(count)]
    within = [tick for tick in ticks if 1 <= tick <= future.chunk.horizon]
    if not within or len(set(within)) < len(within):
        raise ContractError(
            "future", f"expected frames after 1 to {future.chunk.horizon} actions, got {ticks or 'none'}"
        )
    return within


def _imagined(futures: Sequence[Future], cameras: Sequence[str], count: int) -> Float[np.ndarray, "c k p"]:
    return np.stack(
        [
            [_pixels({name: future.frames[name][index] for name in cameras}, cameras) for index in range(count)]
            for future in futures
        ]
    )


def _pixels(images: Mapping[str, Frame], cameras: Sequence[str]) -> Float[np.ndarray, "p"]:
    return np.concatenate([np.asarray(images[name], dtype=np.float32).ravel() for name in cameras]) / 255


def _ranked(
    value: MomentJudge,
    body: Embodiment,
    moment: Moment,
    chunks: Sequence[ActionChunk],
    futures: Sequence[Future],
    came: Sequence[Observation],
) -> Ranked:
    """Values of all candidates at the last imagined frame within the chunk."""
    now, words = moment.observation, moment.task.instruction
    names = [camera.name for camera in body.cameras]
    ticks = _ticks(futures[0])
    states = np.stack([expected_state(body, now.state, chunk.actions[: ticks[-1]]) for chunk in chunks])
    shown = {name: np.stack([np.asarray(future.frames[name][len(ticks) - 1]) for future in futures]) for name in names}
    as_is = {name: np.stack([now.images[name]] * len(chunks)) for name in names}
    real = {name: np.stack([each.images[name] for each in came]) for name in names}
    return Ranked(
        imagined=_listed(value.judge(shown, states, words)),
        still=_listed(value.judge(as_is, states, words)),
        real=_listed(value.judge(real, np.stack([each.state for each in came]), words)),
    )


def _error(measured: Sequence[Measured], index: int, lead: float) -> Foresight:
    error = float(np.mean([each.error[index] for each in measured]))
    still = float(np.mean([each.still[index] for each in measured]))
    return Foresight(lead=lead, frames=len(measured), error=error, still=still)


def _response(measured: Sequence[Measured], index: int, lead: float, draws: int) -> Response:
    return Response(
        lead=lead,
        correlation=_over_seeds(measured, lambda some: correlation(some, index)),
        gain=_over_seeds(measured, lambda some: gain(some, index)),
        moves=math.sqrt(float(np.mean([each.real[index] for each in measured]))),
        spread=spread_over_skill(measured, index, draws),
    )


def _ranking(measured: Sequence[Measured]) -> Ranking | None:
    """Over the moments at which the candidates really differ; None where there is none."""
    told = [each for each in measured if each.ranked is not None and each.ranked.tells]
    if not told:
        return None

    def over(read: Callable[[Ranked], float]) -> Interval:
        return _over_seeds(told, lambda some: _mean([read(each.ranked) for each in some if each.ranked is not None]))

    return Ranking(
        moments=len(told),
        tau=over(lambda ranked: ranked.agreement(ranked.imagined)),
        tau_still=over(lambda ranked: ranked.agreement(ranked.still)),
        regret=over(lambda ranked: ranked.regret(ranked.imagined)),
        regret_still=over(lambda ranked: ranked.regret(ranked.still)),
        regret_chance=over(lambda ranked: ranked.regret_by_chance),
    )


def _calibration(measured: Sequence[Measured]) -> Calibration:
    def over(read: Callable[[float, float], float]) -> Interval:
        return _over_seeds(measured, lambda some: _mean([read(*pair) for pair in _pairs(some)]))

    pairs = sorted(_pairs(measured))
    parts = [part for part in np.array_split(np.array(pairs), BINS) if len(part)]
    return Calibration(
        bias=over(lambda imagined, real: imagined - real),
        error=over(lambda imagined, real: abs(imagined - real)),
        bins=tuple(
            Bin(count=len(part), imagined=float(part[:, 0].mean()), real=float(part[:, 1].mean())) for part in parts
        ),
    )


def _pairs(measured: Sequence[Measured]) -> list[tuple[float, float]]:
    return [
        pair
        for each in measured
        if each.ranked is not None
        for pair in zip(each.ranked.imagined, each.ranked.real, strict=True)
    ]


def _over_seeds(measured: Sequence[Measured], number: Callable[[Sequence[Measured]], float]) -> Interval:
    """A number of each episode's moments together, then the mean over tasks with its range over seeds."""
    grouped: dict[str, dict[int, list[Measured]]] = defaultdict(lambda: defaultdict(list))
    for each in measured:
        grouped[each.task][each.seed].append(each)
    values = {task: {seed: number(some) for seed, some in seeds.items()} for task, seeds in grouped.items()}
    known = {task: {seed: x for seed, x in seeds.items() if math.isfinite(x)} for task, seeds in values.items()}
    return mean_value(known)


def _check(tasks: Sequence[Task], seeds: Sequence[int], **numbers: int) -> None:
    if not tasks or not seeds:
        raise ContractError("foresight", f"expected tasks and seeds, got {len(tasks)} and {len(seeds)}")
    least = {"moments": 1, "candidates": 2, "draws": 1}
    for name, number in numbers.items():
        if number < least[name]:
            raise ContractError(f"foresight.{name}", f"expected {least[name]} or more, got {number}")


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else math.nan


def _listed(values: np.ndarray) -> tuple[float, ...]:
    return tuple(float(value) for value in values)
