"""What comes next in every frame of a recording, in words: its episodes played again in the world they are from.

    recording: seed and number of each episode, what was executed --the same world--> the expert's step, frame by frame

A recording holds pictures, not the state of the world; but everything in it follows from its seeds.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np

from actloop.contracts import Disturbable, World
from actloop.data.dataset import LeRobotDataset
from actloop.data.fields import EXECUTED, FieldMap
from actloop.errors import ContractError, DataError
from actloop.training.questions import Questionable

NEAR = 1e-3  # of a state's range: by as much may an episode differ when played again
KEYS = ("task", "seed", "attempt")

Progress = Callable[[int, int], None]  # episodes done, and in all


def recorded_plans(world: World, dataset: str | Path, *, progress: Progress | None = None) -> list[str]:
    """The expert's step of every frame of a dataset that `record` made.

    Raises:
        ContractError: the world cannot be questioned, or is of another body.
        DataError: the dataset was not recorded so, or an episode comes out otherwise here.
    """
    if not isinstance(world, Questionable):
        raise ContractError(world.embodiment.name, "cannot be asked what comes next")
    data = LeRobotDataset(dataset, FieldMap(cameras={}, action=EXECUTED))
    if data.embodiment is None or data.embodiment.identity != world.embodiment.identity:
        raise ContractError(f"{dataset}", f"was not recorded from {world.embodiment.name!r}")
    plans: list[str] = []
    for info, notes in zip(data.episodes, data.notes, strict=True):
        if not all(key in notes for key in KEYS):
            raise DataError(
                f"{dataset}: episode {info.index} does not say which attempt it was: not of `actloop record`"
            )
        where = slice(info.start, info.start + info.length)
        plans += _played(world, notes, data.states[where], data.actions[where], f"{dataset}: episode {info.index}")
        if progress is not None:
            progress(info.index + 1, len(data.episodes))
    return plans


def _played(world: World, notes: dict[str, Any], states: np.ndarray, executed: np.ndarray, path: str) -> list[str]:
    assert isinstance(world, Questionable)
    rng = np.random.default_rng([notes["seed"], crc32(notes["task"].encode()), notes["attempt"]])
    world_seed, disturb_seed = (int(value) for value in rng.integers(2**31, size=2))  # as `demonstrate` draws them
    world.reset(world.tasks[notes["task"]], seed=world_seed)
    steps = []
    for tick, action in enumerate(executed):
        if notes.get("disturbance") and tick == notes["disturbed_at"]:
            assert isinstance(world, Disturbable)
            world.disturb(notes["disturbance"], seed=disturb_seed)
        steps.append(world.next_step())
        if tick + 1 == len(executed):
            _check_same(world, states[tick], path)
        world.apply(action)
    return steps


def _check_same(world: World, recorded: np.ndarray, path: str) -> None:
    space = world.embodiment.state
    apart = np.abs(world.observe().state - recorded) / (space.high - space.low)
    if apart.max() > NEAR:
        raise DataError(
            f"{path}: ends {apart.max():.1%} of the range away from what was recorded: another world version?"
        )
