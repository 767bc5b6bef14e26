"""Run a world's scripted expert through one episode, shaken where asked.

label     what the expert would send in this state, clean
executed  label + smooth bursts of noise, clipped to the limits; recovery from them is in the data.
          Led astray: for up to two seconds at a time something random and steady in place of the label, so that what
          comes of a command can be told from what is usually commanded
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import numpy as np
from jaxtyping import Float, UInt8

from actloop.contracts import Action, Demonstrator, Disturbable, Embodiment, Observation, Task, World
from actloop.errors import ContractError

NOISE = {"delta": 0.5, "velocity": 0.5, "absolute": 0.03}  # of half the range of a component, at the peak of a burst
BURST_TICKS = (3, 9)
BURST_CHANCE = 0.12  # per tick between bursts
ASTRAY_TICKS = (6, 20)
ASTRAY_CHANCE = 0.08  # per tick between them
ASTRAY = {"delta": 0.4, "velocity": 0.4, "absolute": 0.0}  # of half the range: a gripper that opens loses the task
SETTLE_TICKS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """What to run. Everything that happens follows from `task`, `seed` and `number`."""

    task: Task
    seed: int
    number: int
    noise_share: float
    disturb_share: float
    astray_share: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Demonstration:
    """One episode of the expert; `actions` are its clean labels, `executed` what the world really did.

    A failed one has no frames.
    """

    attempt: Attempt
    success: bool
    reason: str
    is_noisy: bool
    is_astray: bool
    disturbance: str
    disturbed_at: int
    images: dict[str, UInt8[np.ndarray, "time height width 3"]]
    states: Float[np.ndarray, "time state"]
    actions: Float[np.ndarray, "time action"]
    executed: Float[np.ndarray, "time action"]


@dataclass(slots=True)
class Burst:
    """Smooth action noise that comes and goes: a random direction under half a sine."""

    scale: Float[np.ndarray, "action"]
    rng: np.random.Generator
    left: int = 0
    ticks: int = 1
    direction: Any = 0.0

    def __call__(self) -> Float[np.ndarray, "action"] | float:
        if not self.left:
            if self.rng.random() >= BURST_CHANCE:
                return 0.0
            self.ticks = self.left = int(self.rng.integers(*BURST_TICKS))
            self.direction = self.rng.normal(size=len(self.scale)) * self.scale
        height = np.sin(np.pi * (self.left - 0.5) / self.ticks)
        self.left -= 1
        noise: np.ndarray = self.direction * height
        return noise


@dataclass(slots=True)
class Astray:
    """Commands that have nothing to do with the task: a random direction, kept for a while, in place of the label."""

    scale: Float[np.ndarray, "action"]
    rng: np.random.Generator
    left: int = 0
    direction: Any = 0.0

    def __call__(self, label: Action) -> Float[np.ndarray, "action"]:
        if not self.left:
            if self.rng.random() >= ASTRAY_CHANCE:
                return label
            self.left = int(self.rng.integers(*ASTRAY_TICKS))
            self.direction = self.rng.normal(size=len(self.scale)) * self.scale
        self.left -= 1
        led: np.ndarray = np.where(self.scale > 0, self.direction, label)
        return led


def demonstrate(world: World, attempt: Attempt) -> Demonstration:
    """One episode of the expert of `world`, up to success and a few ticks of settling, or to failure.

    Raises:
        ContractError: the world has no expert.
    """
    if not isinstance(world, Demonstrator):
        raise ContractError(world.embodiment.name, "has no scripted expert (`demonstrate`) to record")
    rng = np.random.default_rng([attempt.seed, crc32(attempt.task.name.encode()), attempt.number])
    world_seed, disturb_seed = (int(value) for value in rng.integers(2**31, size=2))
    is_noisy = bool(rng.random() < attempt.noise_share)
    planned, at = _plan_disturbance(world, attempt, world_seed, rng)
    disturbance = ""
    embodiment = world.embodiment
    # Drawn from numbers of its own, so that without it a recording is what it was before there was any.
    apart = np.random.default_rng([attempt.seed, crc32(attempt.task.name.encode()), attempt.number, 1])
    is_astray = bool(apart.random() < attempt.astray_share)
    burst = Burst(scale=noise_scale(embodiment) * (is_noisy and not is_astray), rng=rng)
    astray = Astray(scale=noise_scale(embodiment, ASTRAY) * is_astray, rng=apart)
    obs = world.reset(attempt.task, seed=world_seed)
    seen: list[Observation] = []
    actions: list[Action] = []
    executed: list[Action] = []
    settle = SETTLE_TICKS
    while settle:
        outcome = world.outcome()
        if planned and len(seen) >= at and outcome is None:
            disturbance = _disturb(world, planned, disturb_seed)
            if disturbance:
                planned, at, obs = [], len(seen), world.observe()
        if outcome is not None:
            if not outcome.success:
                break
            settle -= 1
        embodiment.check(obs)
        wanted = world.demonstrate()
        embodiment.action.check(wanted, f"{attempt.task.name}: expert action")
        label = embodiment.action.clip(wanted)
        told = astray(label) + burst() if outcome is None else label
        sent = world.apply(embodiment.action.clip(told))
        seen.append(obs)
        actions.append(label)
        executed.append(np.array(sent, np.float32))
        obs = world.observe()
    assert outcome is not None
    kept = seen if outcome.success else []
    return Demonstration(
        attempt=attempt,
        success=outcome.success,
        reason=outcome.reason,
        is_noisy=is_noisy and not is_astray,
        is_astray=is_astray,
        disturbance=disturbance,
        disturbed_at=at if disturbance else -1,
        images={
            camera.name: _stack([obs.images[camera.name] for obs in kept], (camera.height, camera.width, 3), np.uint8)
            for camera in embodiment.cameras
        },
        states=_stack([obs.state for obs in kept], (embodiment.state.size,), np.float32),
        actions=_stack(actions[: len(kept)], (embodiment.action.size,), np.float32),
        executed=_stack(executed[: len(kept)], (embodiment.action.size,), np.float32),
    )


def _stack(rows: Sequence[np.ndarray], shape: tuple[int, ...], dtype: type) -> np.ndarray:
    return np.array(rows, dtype).reshape(len(rows), *shape)


def _plan_disturbance(world: World, attempt: Attempt, seed: int, rng: np.random.Generator) -> tuple[list[str], int]:
    """Which disturbances to try, in order, and from which tick on; none where the episode stays undisturbed."""
    if not isinstance(world, Disturbable) or rng.random() >= attempt.disturb_share:
        return [], -1
    names = [str(name) for name in rng.permutation(world.disturbances)]
    # An undisturbed run first: only its length tells which ticks lie inside the episode.
    return names, int(_expert_length(world, attempt.task, seed) * rng.uniform(0.1, 0.8))


def _disturb(world: World, names: list[str], seed: int) -> str:
    """Try each disturbance, as not every one fits every moment; the one that happened, or nothing."""
    assert isinstance(world, Disturbable)
    for name in names:
        try:
            world.disturb(name, seed=seed)
        except ContractError:  # nothing was changed: there is nothing in the gripper to lose, say
            continue
        return name
    return ""


def _expert_length(world: World, task: Task, seed: int) -> int:
    """Ticks that the expert takes when nothing disturbs it."""
    assert isinstance(world, Demonstrator)
    world.reset(task, seed=seed)
    ticks = 0
    while world.outcome() is None:
        world.apply(world.embodiment.action.clip(world.demonstrate()))
        ticks += 1
    return ticks


def noise_scale(embodiment: Embodiment, shares: Mapping[str, float] = NOISE) -> Float[np.ndarray, "action"]:
    """Shares of half the range by kind of action, as numbers: those of the noise at the peak of a burst."""
    kinds = [shares[part.kind] for part in embodiment.action.parts for _ in range(part.size)]
    scale: np.ndarray = np.array(kinds) * (embodiment.action.high - embodiment.action.low) / 2
    return scale
