"""Moments to judge imagination at, and what really follows from each of several chunks there.

    policy acts, paused --every few plans--> Moment --other_chunks--> candidates --restore, roll--> what came

A simulator is put back to a moment by repeating what was sent since its reset: that needs no way of its own to save a
state, and it is checked, to the byte, that the same picture comes back.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from actloop.contracts import Action, ActionChunk, Embodiment, Observation, Task, World, WorldActionModel
from actloop.errors import ContractError
from actloop.loop.config import derive_seed

PUSH = 0.5  # of half an action's range: how far a changed chunk departs from the policy's own, at most
LEAN = 0.25  # the same for absolute targets, which it departs from bit by bit


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """A tick at which the policy planned: all that was sent before it, and the policy's sessions as they were then.

    The first session acted; the others saw the same and differ in their noise. `chunk` is the first one's plan.
    """

    task: Task
    seed: int
    sent: tuple[Action, ...]
    observation: Observation
    sessions: tuple[Any, ...]
    chunk: ActionChunk


def planned_moments(
    policy: WorldActionModel[Any], world: World, task: Task, *, seed: int, count: int, draws: int, execute_horizon: int
) -> list[Moment]:
    """Up to `count` of the moments at which the policy plans in one episode, evenly spread over it.

    The world waits for the policy; `execute_horizon` actions of each chunk are sent.

    Raises:
        ContractError: the world or the policy breaks its contract.
    """
    observation = world.reset(task, seed=seed)
    seeds = [derive_seed(seed, f"draw {index}") for index in range(draws)]
    sessions = [policy.start(task.instruction, seed=each) for each in seeds]
    sent: list[Action] = []
    moments: list[Moment] = []
    while world.outcome() is None:
        observation = world.observe()
        before = tuple(sessions)
        sessions[0], prediction = policy.predict(sessions[0], observation)
        for index in range(1, draws):
            sessions[index], _ = policy.predict(sessions[index], observation)
        moments.append(
            Moment(
                task=task,
                seed=seed,
                sent=tuple(sent),
                observation=observation,
                sessions=before,
                chunk=prediction.chunk,
            )
        )
        for action in prediction.chunk.actions[:execute_horizon]:
            world.apply(action)
            sent.append(action)
            if world.outcome() is not None:
                break
    chosen = np.unique(np.linspace(0, len(moments) - 1, min(count, len(moments))).round().astype(int))
    return [moments[index] for index in chosen]


def other_chunks(embodiment: Embodiment, moment: Moment, count: int) -> list[ActionChunk]:
    """The policy's own chunk and `count - 1` others: standing still, then its own with a random push all along it.

    Pushed are deltas and velocities, by up to half of their limits; absolute targets drift away by up to an eighth of
    their range. What is random follows from the task and the seed.
    """
    own = moment.chunk
    rng = np.random.default_rng([derive_seed(moment.seed, moment.task.name), moment.observation.tick])
    chunks = [own]
    held = embodiment.hold(moment.observation, moment.sent[-1] if moment.sent else None)
    if count > 1:
        chunks.append(replace(own, actions=np.repeat(held[None], own.horizon, axis=0)))
    half = (embodiment.action.high - embodiment.action.low) / 2
    kinds = [part.kind for part in embodiment.action.parts for _ in part.low]
    absolute = np.array([kind == "absolute" for kind in kinds])
    ramp = np.arange(1, own.horizon + 1)[:, None] / own.horizon
    while len(chunks) < count:
        push = rng.uniform(-1, 1, size=len(half)) * half
        change = np.where(absolute, LEAN * ramp * push, PUSH * push)
        chunks.append(replace(own, actions=embodiment.action.clip(own.actions + change)))
    return chunks


def roll(world: World, moment: Moment, chunk: ActionChunk, ticks: Sequence[int]) -> dict[int, Observation]:
    """Put the world back to the moment, send the chunk, and look after each of `ticks` actions.

    Where the episode ends before, its last picture stands for those that would have followed.

    Raises:
        ContractError: the world does not repeat: another picture or state comes back.
    """
    restore(world, moment)
    seen: dict[int, Observation] = {}
    for tick, action in enumerate(chunk.actions[: max(ticks)], start=1):
        world.apply(action)
        if tick in ticks:
            seen[tick] = world.observe()
        if world.outcome() is not None:
            last = world.observe()
            return {each: seen.get(each, last) for each in ticks}
    return seen


def restore(world: World, moment: Moment) -> None:
    """Put the world back to the moment, by the same reset and commands, with time left for a whole chunk.

    Raises:
        ContractError: the world does not repeat.
    """
    more = moment.chunk.horizon * moment.chunk.period
    world.reset(replace(moment.task, time_limit=moment.task.time_limit + more), seed=moment.seed)
    for action in moment.sent:
        world.apply(action)
    again, before = world.observe(), moment.observation
    same = np.array_equal(again.state, before.state) and all(
        np.array_equal(again.images[name], image) for name, image in before.images.items()
    )
    if not same:
        reason = (
            f"task {moment.task.name!r}, seed {moment.seed} does not repeat: {len(moment.sent)} commands led elsewhere "
            "than before; other chunks can only be tried where it does"
        )
        raise ContractError(f"world of {world.embodiment.name!r}", reason)
