"""Twins of an episode: the same actions again, up to a moment at which something goes wrong.

    Rollout --replay what was sent, disturb, go on with the chunk--> Rollout of one chunk, cut where the chunk ends

A world that repeats makes disturbances cheap: no policy is asked, and nothing is drawn before the disturbance. A judge
that has seen few of them learns them by heart, so that twins, not episodes, are what it learns to see from.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np

from actloop.contracts import Disturbable, Task, World
from actloop.errors import ContractError
from actloop.training.rollouts import Rollout, disturbed, read, seeds_of, write

AFTER = 7  # ticks that a twin is followed for after its disturbance
SAME = 1e-4  # of the range of the state: two runs of the same actions that differ by more are not twins


def twin(
    world: World, original: Rollout, task: Task, *, names: Sequence[str], seed: int, rng: np.random.Generator
) -> Rollout | None:
    """The first of the disturbances that fits, in the middle of an undisturbed chunk of an episode made with `seed`.

    It has the pictures and plan of that chunk alone, from tick 0 on, and counts as not successful: how it would have
    ended is unknown. None where no disturbance fits the moment that was drawn.

    Raises:
        ContractError: the world does not repeat itself.
    """
    plan, at, end = _moment(original, rng)
    if at < 0:
        return None
    anchor, disturb_seed = int(original.asked[plan]), int(rng.integers(2**31))
    _replay(world, original, task, seeds_of(np.random.default_rng([seed, original.number]))[0], at)
    name = next((name for name in names if disturbed(world, name, disturb_seed)), "")
    if not name:
        return None
    seen = [world.observe()]
    actions = world.embodiment.action.clip(original.chunks[plan])
    sent = list(original.sent[anchor:at])
    for action in actions[at - anchor : end - anchor]:
        if world.outcome() is not None:
            break
        sent.append(np.array(world.apply(action), np.float32))
        seen.append(world.observe())
    before = slice(anchor, at)
    return replace(
        original,
        success=False,
        reason="cut",
        disturbance=name,
        disturbed_at=at - anchor,
        images={
            camera: np.concatenate([frames[before], np.stack([obs.images[camera] for obs in seen])])
            for camera, frames in original.images.items()
        },
        states=np.concatenate([original.states[before], np.stack([obs.state for obs in seen])]),
        sent=np.stack(sent),
        asked=np.zeros(1, np.int64),
        chunks=original.chunks[plan : plan + 1],
        imagined={camera: frames[plan : plan + 1] for camera, frames in original.imagined.items()},
    )


def _moment(original: Rollout, rng: np.random.Generator) -> tuple[int, int, int]:
    """A plan, a tick within its chunk but not at its start, and the tick at which the twin ends; -1 where none is."""
    last = original.disturbed_at if original.disturbance else original.ticks
    ends = [min(int(end), last) for end in (*original.asked[1:], original.ticks)]
    plans = [plan for plan, asked in enumerate(original.asked) if asked + 1 < ends[plan]]
    if not plans:
        return -1, -1, -1
    plan = int(rng.choice(plans))
    anchor, horizon = int(original.asked[plan]), original.chunks.shape[1]
    at = int(rng.integers(anchor + 1, ends[plan]))
    return plan, at, min(anchor + horizon, at + AFTER)


def _replay(world: World, original: Rollout, task: Task, seed: int, until: int) -> None:
    """Bring the world to a tick of the original."""
    world.reset(task, seed=seed)
    for action in original.sent[:until]:
        world.apply(action)
    space = world.embodiment.state
    apart = np.abs(world.observe().state - original.states[until]) / (space.high - space.low)
    if apart.max() > SAME:
        where = f"{original.task}, episode {original.number}, tick {until}"
        raise ContractError(
            world.embodiment.name, f"does not repeat: {where} differs by {apart.max():.1e} of the range"
        )


def collect_twins(
    folder: Path,
    world: World,
    rollouts: Sequence[Rollout],
    *,
    each: int,
    seed: int,
    progress: Callable[[int, Rollout], None] | None = None,
) -> list[Rollout]:
    """Up to `each` twins of every rollout, in `folder`; goes on where it was cut. They keep their originals' numbers.

    Raises:
        ContractError: the world does not repeat itself.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found: list[Rollout] = []
    names = list(world.disturbances) if isinstance(world, Disturbable) else []
    for original, count in product(rollouts, range(each if names else 0)):
        path = folder / f"{original.number:06d}-{count}.npz"
        empty = path.with_suffix(".none")
        if not path.exists() and not empty.exists():
            rng = np.random.default_rng([seed, original.number, count])
            order = [str(name) for name in rng.permutation(names)]
            made = twin(world, original, world.tasks[original.task], names=order, seed=seed, rng=rng)
            empty.touch() if made is None else write(path, made)
        if path.exists():
            found.append(read(path))
            if progress is not None:
                progress(len(found), found[-1])
    return found
