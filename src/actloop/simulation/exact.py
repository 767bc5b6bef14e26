"""A world that is exact: every frame carries its tick number in its pixels, and every position is known by hand.

    position <- clip(position + action)                       kind "delta"
    position <- position + clip(action - position, MAX_STEP)  kind "absolute"

It makes off-by-one errors visible: a test decodes from the pixels which tick an answer was computed from.
"""

from collections.abc import Mapping
from typing import Literal

import numpy as np

from actloop.contracts import Action, Camera, Embodiment, Frame, Observation, Outcome, Part, Space, Task
from actloop.errors import ContractError, UnknownNameError

FIELD = 1.0  # metres from the middle to the edge
MAX_STEP = 0.0625  # metres per tick: a power of two, so that sums are exact in float32
TOLERANCE = 0.03125  # metres
GRID = 8  # an image is 8 x 8 squares: two rows of bits, six of field
MAX_TICK = 2 ** (2 * GRID) - 1


def draw_tick(tick: int, size: int) -> Frame:
    """A black image whose top quarter spells `tick` in 16 black or white squares, most significant first.

    Raises:
        ContractError: the size is no multiple of 8, or the tick needs more than 16 bits.
    """
    if size < GRID or size % GRID:
        raise ContractError("image_size", f"expected a multiple of {GRID}, got {size}")
    if not 0 <= tick <= MAX_TICK:
        raise ContractError("tick", f"expected 0 to {MAX_TICK}, got {tick}")
    bits = np.array([tick >> shift & 1 for shift in range(2 * GRID - 1, -1, -1)], dtype=np.uint8).reshape(2, GRID)
    cell = size // GRID
    image = np.zeros((size, size, 3), dtype=np.uint8)
    image[: 2 * cell] = np.kron(bits, np.full((cell, cell), 255, dtype=np.uint8))[..., None]
    return image


def read_tick(image: Frame) -> int:
    """The tick number in an image of this world; squares are averaged, so lossy video may lie in between."""
    cell = image.shape[0] // GRID
    squares = image[: 2 * cell].reshape(2, cell, GRID, cell, 3).mean(axis=(1, 3, 4))
    return int("".join("1" if square > 127 else "0" for square in squares.ravel()), 2)


class ExactWorld:
    """A point on a square table that must be brought to a goal; a World, Demonstrator and Disturbable.

    The goal lies to the left or right of the start as the task says, its place follows from the seed. Positions are
    metres in [-1, 1]. The point is drawn red and the goal green, below the tick number.
    """

    disturbances: tuple[str, ...] = ("displace", "goal")

    def __init__(
        self,
        *,
        kind: Literal["delta", "absolute"] = "delta",
        control_hz: float = 10.0,
        image_size: int = 32,
        cameras: tuple[str, ...] = ("front",),
        time_limit: float = 5.0,
    ) -> None:
        if kind not in ("delta", "absolute"):
            raise UnknownNameError("world 'exact', kind", str(kind), ("delta", "absolute"))
        draw_tick(0, image_size)
        edge, step = (FIELD, FIELD), (MAX_STEP, MAX_STEP)
        limit = step if kind == "delta" else edge
        self._kind = kind
        self._size = image_size
        self._embodiment = Embodiment(
            name=f"exact-{kind}",
            cameras=tuple(Camera(name=name, height=image_size, width=image_size, renderer="exact") for name in cameras),
            state=Space(parts=(Part(name="position", unit="m", low=_minus(edge), high=edge),)),
            action=Space(parts=(Part(name="position", unit="m", low=_minus(limit), high=limit, kind=kind),)),
            control_hz=control_hz,
        )
        self._tasks = {
            name: Task(name=name, instruction=text, time_limit=time_limit, skill="reach", group="exact")
            for name, text in (
                ("reach-left", "move the red point to the green goal on the left"),
                ("reach-right", "move the red point to the green goal on the right"),
            )
        }
        self._task: Task | None = None
        self._outcome: Outcome | None = None
        self._tick = 0
        self._position: np.ndarray = np.zeros(2)
        self._goal: np.ndarray = np.zeros(2)

    @property
    def embodiment(self) -> Embodiment:
        return self._embodiment

    @property
    def tasks(self) -> Mapping[str, Task]:
        return self._tasks

    @property
    def goal(self) -> np.ndarray:
        """Metres, `(2,)`; what a test may know and a policy must see."""
        return self._goal.copy()

    def reset(self, task: Task, *, seed: int) -> Observation:
        if task.name not in self._tasks:
            raise UnknownNameError("world 'exact', task", task.name, self._tasks)
        rng = np.random.default_rng([seed, 17])
        side = -1.0 if task.name == "reach-left" else 1.0
        self._task, self._outcome, self._tick = task, None, 0
        self._position = rng.integers(-2, 3, size=2) * MAX_STEP
        self._goal = np.array([side * rng.integers(6, 15), rng.integers(-14, 15)]) * MAX_STEP
        return self.observe()

    def observe(self) -> Observation:
        self._running()
        image = draw_tick(self._tick, self._size)
        cell = self._size // GRID
        for place, colour in ((self._goal, (0, 255, 0)), (self._position, (255, 0, 0))):
            across, down = np.rint((place / FIELD + 1) / 2 * np.array([self._size - cell, 5 * cell])).astype(int)
            image[2 * cell + down : 3 * cell + down, across : across + cell] = colour
        return Observation(
            images={camera.name: image.copy() for camera in self._embodiment.cameras},
            state=self._position.astype(np.float32),
            tick=self._tick,
            time=self._tick * self._embodiment.period,
        )

    def apply(self, action: Action) -> Action:
        task = self._running()
        self._embodiment.action.check(action, "action")
        if action.ndim != 1:
            raise ContractError("action", f"expected one action of shape (2,), got {action.shape}")
        sent = self._embodiment.action.clip(action)
        wanted = sent if self._kind == "delta" else sent - self._position
        self._position = np.clip(self._position + np.clip(wanted, -MAX_STEP, MAX_STEP), -FIELD, FIELD)
        self._tick += 1
        now = self._tick * self._embodiment.period
        if self._outcome is None and np.abs(self._position - self._goal).max() <= TOLERANCE:
            self._outcome = Outcome(success=True, reason="goal reached", time=now)
        elif self._outcome is None and now >= task.time_limit:
            self._outcome = Outcome(success=False, reason="time limit", time=now)
        return sent

    def outcome(self) -> Outcome | None:
        return self._outcome

    def demonstrate(self) -> Action:
        self._running()
        step = np.clip(self._goal - self._position, -MAX_STEP, MAX_STEP)
        action: Action = (step if self._kind == "delta" else self._position + step).astype(np.float32)
        return action

    def disturb(self, name: str, *, seed: int) -> None:
        """Move the point, or the goal, by four to eight steps along each axis, towards the inside of the table."""
        self._running()
        if name not in self.disturbances:
            raise UnknownNameError("world 'exact', disturbance", name, self.disturbances)
        distance = np.random.default_rng([seed, 23]).integers(4, 9, size=2) * MAX_STEP
        if name == "goal":
            self._goal = self._goal - np.where(self._goal > 0, 1.0, -1.0) * distance
        else:
            self._position = self._position - np.where(self._position > 0, 1.0, -1.0) * distance

    def close(self) -> None:
        self._task = None

    def _running(self) -> Task:
        if self._task is None:
            raise ContractError("world 'exact'", "no episode is running; call reset(task, seed=...) first")
        return self._task


def _minus(values: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(-value for value in values)
