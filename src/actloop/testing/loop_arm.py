"""What the loop's benchmark runs: an arm that costs nothing, and a module that computes all the time.

StillArm --2 images, 8 numbers--> Thinker: 100 ms of computing --chunk: circles from where the arm was seen-->
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from actloop.contracts import (
    Action,
    ActionChunk,
    Camera,
    Embodiment,
    Observation,
    Outcome,
    Part,
    Prediction,
    Space,
    Task,
)
from actloop.loop.questions import Answer, Question

JOINTS = 7
IMAGE = 224
WORK = Literal["matrices", "python"]


def arm_body(hz: float) -> Embodiment:
    """Seven joints and a gripper, two cameras."""
    joints = Part(name="joints", unit="rad", low=(-2.9,) * JOINTS, high=(2.9,) * JOINTS)
    gripper = Part(name="gripper", unit="1", low=(0.0,), high=(1.0,))
    space = Space(parts=(joints, gripper))
    cameras = tuple(Camera(name=name, height=IMAGE, width=IMAGE) for name in ("front", "wrist"))
    return Embodiment(name="bench-arm", cameras=cameras, state=space, action=space, control_hz=hz)


@dataclass(frozen=True, slots=True)
class Known:
    """What the loop has to know of a policy."""

    embodiment: Embodiment
    horizon: int


class StillArm:
    """A robot whose drives do at once what they are told, and whose cameras deliver new frames, copied per tick."""

    def __init__(self, body: Embodiment, task: Task) -> None:
        self.embodiment = body
        self.tasks: Mapping[str, Task] = {task.name: task}
        pixels = np.random.default_rng(0).integers(0, 256, (4, IMAGE, IMAGE, 3), dtype=np.uint8)
        self._frames = list(pixels)  # as a driver's ring of buffers
        self._tick = 0
        self._state = np.zeros(body.action.size, np.float32)

    def reset(self, task: Task, *, seed: int) -> Observation:
        self._tick = 0
        self._state = np.zeros(self.embodiment.action.size, np.float32)
        return self.observe()

    def observe(self) -> Observation:
        images = {
            camera.name: self._frames[(self._tick + number) % len(self._frames)].copy()
            for number, camera in enumerate(self.embodiment.cameras)
        }
        time = self._tick * self.embodiment.period
        return Observation(images=images, state=self._state, tick=self._tick, time=time)

    def apply(self, action: Action) -> Action:
        self._state, self._tick = action.copy(), self._tick + 1
        return action

    def outcome(self) -> Outcome | None:
        return None

    def close(self) -> None:
        """There is nothing to close."""


class Thinker:
    """A module that computes for `think` seconds and answers with a smooth motion, from where the arm was seen."""

    def __init__(self, hz: float, horizon: int, think: float, work: WORK) -> None:
        self._hz, self._horizon, self._think = hz, horizon, think
        self._work = _matrices if work == "matrices" else _python

    def start(self, instruction: str, *, seed: int) -> None:
        """Nothing is remembered."""

    def answer(self, question: Question) -> Answer:
        until = time.perf_counter() + self._think
        while time.perf_counter() < until:
            self._work()
        obs = question.observation
        ahead = (1 + np.arange(self._horizon)) / self._hz
        joints = np.tile(obs.state[:JOINTS].astype(np.float64), (self._horizon, 1))
        joints[:, ::2][:, :3], joints[:, 1::2] = circling(joints[0, :6:2], joints[0, 1::2], ahead[:, None])
        closed = ((obs.tick / self._hz + ahead) % 4.0 > 2.0).astype(np.float64)[:, None]
        chunk = ActionChunk(
            actions=np.concatenate([joints, closed], axis=1).astype(np.float32),
            anchor=obs.tick,
            period=1.0 / self._hz,
            observed_at=obs.time,
        )
        return Answer(prediction=Prediction(chunk=chunk))


def circling(x: np.ndarray, y: np.ndarray, ahead: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where two joints will be: out of the middle and into a circle, smooth from rest, as a function of the place."""
    place = x + 1j * y + 5e-4
    growth = 0.3 / (1.0 + (0.3 / np.abs(place) - 1.0) * np.exp(-3.0 * ahead))
    place = growth * np.exp(1j * (np.angle(place) + 2.0 * ahead)) - 5e-4
    return place.real, place.imag


def _matrices() -> None:
    """Most of a millisecond in which no interpreter runs."""
    square = np.full((160, 160), 0.5, np.float32)
    for _ in range(4):
        square = square @ square
        square /= np.abs(square).max()


def _python() -> None:
    """Most of a millisecond in Python."""
    total = 0.0
    for number in range(10_000):
        total += number * 0.5
