"""The comparison: fake policies in the exact world, where every success and failure is known by hand."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actloop.contracts import ActionChunk, Embodiment, Future, Observation, Prediction
from actloop.evaluation.comparison import Comparison
from actloop.evaluation import CompareConfig, RunMismatchError, answer, compare, format_table, load_comparison
from actloop.simulation.exact import FIELD, GRID, MAX_STEP, ExactWorld

HORIZON = 8


def _where(image: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """Metres, from the pixels: the middle of the square of this colour."""
    cell = image.shape[0] // GRID
    rows, columns = np.nonzero((image[2 * cell :] == colour).all(axis=-1))
    size = image.shape[0]
    return np.array([columns.min() / (size - cell), rows.min() / (5 * cell)]) * 2 * FIELD - FIELD


@dataclass
class Seeker:
    """Sees the goal and walks to it; imagines that the picture stays, or how the world will look."""

    variant: str
    imagines: bool = False
    lazy: float = 0.0  # share of episodes in which it does nothing
    embodiment: Embodiment = ExactWorld().embodiment
    horizon: int = HORIZON

    def describe(self) -> dict[str, Any]:
        return {"variant": self.variant, "digest": f"{self.variant}-{self.lazy}", "parameters": 0, "steps": 1}

    def start(self, instruction: str, *, seed: int) -> bool:
        return bool(np.random.default_rng(seed).random() < self.lazy)

    def predict(
        self, session: bool, obs: Observation, *, committed: ActionChunk | None = None, imagine: bool = False
    ) -> tuple[bool, Prediction]:
        here, actions = obs.state.astype(float), []
        image = obs.images["front"]
        goal = _where(image, (0, 255, 0)) if (image == (0, 255, 0)).all(axis=-1).any() else here
        for _ in range(self.horizon):
            step = np.zeros(2) if session else np.clip(np.rint((goal - here) / MAX_STEP), -1, 1) * MAX_STEP
            here = here + step
            actions.append(step)
        chunk = ActionChunk(
            actions=np.array(actions, dtype=np.float32), anchor=obs.tick, period=0.1, observed_at=obs.time
        )
        future = None
        if imagine and self.imagines:
            future = Future(frames={"front": np.stack([image] * 4)}, chunk=chunk, period=0.2)
        return session, Prediction(chunk=chunk, future=future)


def plain() -> Seeker:
    return Seeker("no-cotrain", lazy=0.5)


def dreamer() -> Seeker:
    return Seeker("joint", imagines=True)


class Breaking(Seeker):
    def predict(self, session: bool, obs: Observation, **rest: Any) -> tuple[bool, Prediction]:
        if obs.tick > 3:
            raise RuntimeError("the network exploded")
        return super().predict(session, obs, **rest)


def breaking() -> Seeker:
    return Breaking("fast")
