"""Roll policies out and keep what happened: the successes, failures and disturbances that judges learn from.

    world, policies --roll_out--> Rollout --write--> FOLDER/000042.npz --read_rollouts--> Rollout

A plain stepping loop without latency: ask, execute a random number of the chunk's actions, ask again. Everything that
happens follows from the seed and the number of the episode.
"""

import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8

from actloop.contracts import Action, Disturbable, Future, Observation, Outcome, Policy, Task, World
from actloop.errors import ContractError, DataError

LEAST_EXECUTED = 4
EARLIEST = 2  # the tick from which on a disturbance may be due; it happens when it first fits
LATEST = 1 / 3  # of the time limit: successful episodes are much shorter
FACTS = ("arm", "task", "instruction", "number", "success", "reason", "disturbance", "disturbed_at")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """One episode. Images and states are of ticks 0 to T, with the end; `sent` of ticks 0 to T - 1.

    `disturbed_at` is the first tick whose observation shows the disturbance (of a push: whose action it bends), -1
    where there was none. Plan `k` was asked for at tick `asked[k]` and drove the robot until `asked[k + 1]`; its
    imagined frames, where there are any, show `imagined_after[i]` ticks after it.
    """

    arm: str
    task: str
    instruction: str
    number: int
    success: bool
    reason: str
    disturbance: str
    disturbed_at: int
    images: Mapping[str, UInt8[np.ndarray, "time height width 3"]]
    states: Float[np.ndarray, "time state"]
    sent: Float[np.ndarray, "ticks action"]
    asked: Int[np.ndarray, "plans"]
    chunks: Float[np.ndarray, "plans horizon action"]
    imagined: Mapping[str, UInt8[np.ndarray, "plans frames height width 3"]]
    imagined_after: Float[np.ndarray, "frames"]

    @property
    def ticks(self) -> int:
        return len(self.sent)


def roll_out(
    world: World, policy: Policy[Any], task: Task, *, arm: str, seed: int, number: int, disturb_share: float
) -> Rollout:
    """One episode; with probability `disturb_share` something goes wrong in the middle of one of its chunks.

    After a disturbance the chunk in force is executed to its end, blindly: these are the moments to learn from.
    """
    rng = np.random.default_rng([seed, number])
    world_seed, policy_seed, disturb_seed = seeds_of(rng)
    wanted, due = _planned(world, task, rng, disturb_share)
    done, disturbed_at = "", -1
    seen = [world.reset(task, seed=world_seed)]
    session = policy.start(task.instruction, seed=policy_seed)
    sent: list[Action] = []
    asked: list[int] = []
    chunks: list[np.ndarray] = []
    futures: list[Future | None] = []
    while (outcome := world.outcome()) is None:
        session, prediction = policy.predict(session, seen[-1], imagine=True)
        actions = prediction.chunk.actions
        asked.append(len(sent))
        chunks.append(actions)
        futures.append(prediction.future)
        last = int(rng.integers(min(LEAST_EXECUTED, len(actions)), len(actions) + 1))
        for index, action in enumerate(actions):
            if index >= last or world.outcome() is not None:
                break
            if index and wanted and len(sent) >= due and disturbed(world, wanted, disturb_seed):
                done, wanted, disturbed_at, last = wanted, "", len(sent), len(actions)
                seen[-1] = world.observe()
            sent.append(np.array(world.apply(world.embodiment.action.clip(action)), np.float32))
            seen.append(world.observe())
    facts = {"arm": arm, "task": task.name, "instruction": task.instruction, "number": number}
    return _rollout(facts, outcome, (done, disturbed_at), seen, sent, asked, chunks, futures)


def seeds_of(rng: np.random.Generator) -> tuple[int, int, int]:
    """Seeds of the world, the policy and the disturbance: the first draws of an episode's generator."""
    first, second, third = (int(value) for value in rng.integers(2**31, size=3))
    return first, second, third


def _planned(world: World, task: Task, rng: np.random.Generator, share: float) -> tuple[str, int]:
    """Which disturbance, and the tick from which on it is due; none where the episode stays undisturbed."""
    latest = round(LATEST * task.time_limit * world.embodiment.control_hz)
    happens, due = rng.random() < share, int(rng.integers(EARLIEST, max(latest, EARLIEST + 1)))
    if not happens or not isinstance(world, Disturbable) or not world.disturbances:
        return "", -1
    name = str(rng.choice(world.disturbances))
    return name, EARLIEST if name == "slip" else due  # waits for a grasp anyway


def disturbed(world: World, name: str, seed: int) -> bool:
    """Whether it happened: not every disturbance fits every moment."""
    assert isinstance(world, Disturbable)
    try:
        world.disturb(name, seed=seed)
    except ContractError:  # nothing was changed
        return False
    return True


def _rollout(
    facts: Mapping[str, Any],
    outcome: Outcome,
    disturbance: tuple[str, int],
    seen: Sequence[Observation],
    sent: Sequence[Action],
    asked: Sequence[int],
    chunks: Sequence[np.ndarray],
    futures: Sequence[Future | None],
) -> Rollout:
    first = futures[0]
    period = seen[1].time - seen[0].time
    count = 0 if first is None else len(next(iter(first.frames.values())))
    return Rollout(
        **facts,
        success=outcome.success,
        reason=outcome.reason,
        disturbance=disturbance[0],
        disturbed_at=disturbance[1],
        images={name: np.stack([obs.images[name] for obs in seen]) for name in seen[0].images},
        states=np.stack([obs.state for obs in seen]),
        sent=np.stack(sent),
        asked=np.array(asked, dtype=np.int64),
        chunks=np.stack(chunks).astype(np.float32),
        imagined={name: np.stack([_frames(future, name, image) for future in futures])
                  for name, image in seen[0].images.items()},
        imagined_after=np.array(
            [(index + 1) * first.period / period for index in range(count)] if first is not None else [], np.float32
        ),
    )  # fmt: skip


def _frames(future: Future | None, camera: str, like: np.ndarray) -> np.ndarray:
    return np.zeros((0, *like.shape), np.uint8) if future is None else np.asarray(future.frames[camera])


def collect(
    folder: Path,
    world: World,
    policies: Mapping[str, Policy[Any]],
    tasks: Sequence[Task],
    *,
    episodes: int,
    seed: int,
    disturb_share: float = 0.5,
    progress: Callable[[int, Rollout], None] | None = None,
) -> None:
    """Roll out until the folder holds `episodes` of them; tasks and policies take turns. Goes on where it was cut."""
    folder.mkdir(parents=True, exist_ok=True)
    arms = list(policies)
    for number in range(episodes):
        path = folder / f"{number:06d}.npz"
        if path.exists():
            continue
        arm, task = arms[number % len(arms)], tasks[number // len(arms) % len(tasks)]
        rollout = roll_out(world, policies[arm], task, arm=arm, seed=seed, number=number, disturb_share=disturb_share)
        write(path, rollout)
        if progress is not None:
            progress(number + 1, rollout)


def write(path: Path, rollout: Rollout) -> None:
    """One compressed file of plain arrays, which appears whole or not at all."""
    arrays: dict[str, Any] = {
        "facts": np.array(json.dumps({name: getattr(rollout, name) for name in FACTS})),
        "states": rollout.states,
        "sent": rollout.sent,
        "asked": rollout.asked,
        "chunks": rollout.chunks,
        "imagined_after": rollout.imagined_after,
        **{f"images.{name}": frames for name, frames in rollout.images.items()},
        **{f"imagined.{name}": frames for name, frames in rollout.imagined.items()},
    }
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        np.savez_compressed(file, **arrays)
    partial.replace(path)


def read(path: Path) -> Rollout:
    """What `write` wrote.

    Raises:
        DataError: unreadable, or not a rollout.
    """
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        facts = json.loads(str(arrays.pop("facts")))
        groups: dict[str, dict[str, np.ndarray]] = {"images": {}, "imagined": {}}
        for name in [name for name in arrays if "." in name]:
            group, _, camera = name.partition(".")
            groups[group][camera] = arrays.pop(name)
        return Rollout(**facts, **arrays, images=groups["images"], imagined=groups["imagined"])
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{path}: not a rollout ({type(error).__name__}: {error}); delete it, it is made again"
        ) from error


def read_rollouts(folder: Path, *, limit: int | None = None) -> list[Rollout]:
    """The first `limit` rollouts of a folder, by number.

    Raises:
        DataError: there is none, or one is unreadable.
    """
    paths = sorted(folder.glob("*.npz"))[:limit]
    if not paths:
        raise DataError(f"{folder}: holds no rollouts; collect some first")
    return [read(path) for path in paths]
