"""A learned check: is the rest of the chunk in force still executable? After FFDC (2605.06222, future-reality check).

    images now, at the anchor, and imagined --+
    state now and at the anchor --------------+--> Judge --> probability that the rest no longer fits: the score
    what was sent, the rest of the chunk -----+
    the instruction --------------------------+

The rest is given as the path that it leads along from now on: sums of deltas, targets of absolute parts. The state is
also given as how far it strayed from what was sent, in which a push shows. Trained by `actloop.training.verify`.
"""

import functools
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float

from actloop.actions.normalizers import Normalizer
from actloop.checks.evidence import Evidence, Score
from actloop.contracts import ActionChunk, Embodiment, Frame, Future, Observation, Prediction, State
from actloop.errors import ContractError
from actloop.models.judge import Judging, load_judging, save_judging

FORMAT = "actloop.verifier.1"
VIEWS = ("now", "anchor", "imagined")
SCALARS = 3  # lead, whether something was imagined, how far its frame is from now: the first of the numbers
IMAGINED = slice(1, 3)


class Verifier:
    """A `Check` named "verifier": 0 where the rest of the chunk still fits what is seen, 1 where it no longer does.

    Bound to the robot it was trained on. One number per moment; a moment without images has none.
    """

    name = "verifier"

    def __init__(self, judging: Judging, *, horizon: int) -> None:
        size, config = numbers_size(judging.embodiment, horizon), judging.network.config
        if config.views not in (2, 3) or config.numbers != size:
            raise ContractError("verifier", f"expected 2 or 3 views and {size} numbers, got {config}")
        self.judging = judging
        self.horizon = horizon
        self._identity = judging.identity

    @property
    def embodiment(self) -> Embodiment:
        return self.judging.embodiment

    @property
    def imagines(self) -> bool:
        """Whether it looks at imagined frames where there are any; without, it has two views of each camera."""
        return self.judging.network.config.views == len(VIEWS)

    @property
    def identity(self) -> str:
        return f"verifier-{self._identity}"

    def begin(self, embodiment: Embodiment, instruction: str, *, seed: int) -> None:
        """Nothing is kept between episodes; what it was not trained for is refused.

        Raises:
            ContractError: another robot, or an instruction with a word it does not know.
        """
        self.judging.check(embodiment, instruction, self.name)

    def score(self, evidence: Evidence) -> Score | None:
        """Probability in 0..1 that the rest of the chunk is no longer executable; None where images are missing."""
        if not self._pictured(evidence.observation) or not self._pictured(evidence.anchor):
            return None
        nearest = nearest_imagined(evidence) if self.imagines else None
        views: list[Mapping[str, Frame] | None] = [evidence.observation.images, evidence.anchor.images]
        if self.imagines:
            views.append(_imagined(evidence, nearest))
        pictures, absent = self.judging.pictures(views)
        ahead = None if nearest is None else nearest[1]
        numbers = moment_numbers(evidence, ahead, self.embodiment, self.judging.normalizers, self.horizon)
        found = self.judging.probability(pictures[None], numbers[None], evidence.instruction, absent[None])
        return Score(value=float(found[0]), lead=evidence.lead)

    def fits(self, obs: Observation, chunk: ActionChunk, instruction: str, future: Future | None = None) -> float:
        """Probability in 0..1 that a chunk fits what is seen now, before any of it is executed.

        Raises:
            ContractError: the observation lacks an image.
        """
        nothing = np.zeros((0, self.embodiment.action.size), np.float32)
        prediction = Prediction(chunk=chunk, future=future)
        found = self.score(
            Evidence(
                observation=obs, anchor=obs, prediction=prediction, progress=0.0, sent=nothing, instruction=instruction
            )
        )
        if found is None:
            raise ContractError("observation.images", f"expected all of {self._cameras()}, got {sorted(obs.images)}")
        return 1.0 - found.value

    def _pictured(self, obs: Observation) -> bool:
        return all(name in obs.images for name in self._cameras())

    def _cameras(self) -> list[str]:
        return [camera.name for camera in self.embodiment.cameras]


def moment_numbers(
    evidence: Evidence,
    ahead: float | None,
    embodiment: Embodiment,
    normalizers: Mapping[str, Normalizer],
    horizon: int,
) -> Float[np.ndarray, "numbers"]:
    """Lead, how far the imagined frame lies `ahead`, the state, how it strayed, what was sent, the rest as masked path.

    `ahead` is in ticks, None where no frame is shown.
    """
    path = normalizers["path"]
    state = normalizers["state"].normalize(evidence.observation.state)
    strayed = normalizers["strayed"].normalize(strayed_by(evidence, embodiment))
    sent = path.normalize(path_of(evidence.sent, embodiment)[-1]) if len(evidence.sent) else np.zeros(len(path.scale))
    rest = rest_of(evidence)[:horizon]
    told = np.zeros((horizon, embodiment.action.size + 1), np.float32)
    if len(rest):
        told[: len(rest), :-1] = path.normalize(path_of(rest, embodiment))
        told[: len(rest), -1] = 1.0
    scalars = (evidence.lead / horizon, ahead is not None, (ahead or 0.0) / horizon)
    return np.concatenate([scalars, state, strayed, sent, told.ravel()]).astype(np.float32)


def numbers_size(embodiment: Embodiment, horizon: int) -> int:
    """Length of what `moment_numbers` gives."""
    return 2 * embodiment.state.size + embodiment.action.size + SCALARS + horizon * (embodiment.action.size + 1)


def strayed_by(evidence: Evidence, embodiment: Embodiment) -> State:
    """How far the state is from where it would be, had the robot followed exactly what was sent since the anchor."""
    strayed: State = evidence.observation.state - expected_state(embodiment, evidence.anchor.state, evidence.sent)
    return strayed


def expected_state(embodiment: Embodiment, state: State, actions: Float[np.ndarray, "ticks action"]) -> State:
    """Where the state is after the actions if the robot follows them; within limits.

    Parts of the state that no action part of the same name and size drives stay as they are.
    """
    after = np.array(state, dtype=np.float32)
    if not len(actions):
        return after
    led = path_of(actions, embodiment)[-1]
    driven = {part.name: part for part in embodiment.action.parts}
    for part in embodiment.state.parts:
        driver = driven.get(part.name)
        if driver is None or driver.size != part.size:
            continue
        there = led[embodiment.action.slice(part.name)]
        where = embodiment.state.slice(part.name)
        if driver.kind == "absolute":
            after[where] = there
        else:
            after[where] += there * (embodiment.period if driver.kind == "velocity" else 1.0)
    return embodiment.state.clip(after)


def rest_of(evidence: Evidence) -> Float[np.ndarray, "ticks action"]:
    """The actions from `progress` on, the one that was begun included."""
    return evidence.prediction.chunk.actions[int(max(evidence.progress, 0.0)) :]


def path_of(actions: Float[np.ndarray, "ticks action"], embodiment: Embodiment) -> Float[np.ndarray, "ticks action"]:
    """Where actions lead: deltas summed, velocities integrated over ticks, absolute parts as they are."""
    led: np.ndarray = np.where(_summed(embodiment), np.cumsum(actions, axis=0, dtype=np.float64), actions)
    return led.astype(np.float32)


def nearest_imagined(evidence: Evidence) -> tuple[int, float] | None:
    """Which imagined frame is nearest to now, and by how many ticks it lies ahead; None where there is none."""
    future = evidence.prediction.future
    if future is None or not future.frames:
        return None
    now, start = evidence.observation.time, future.chunk.observed_at
    count = min(len(frames) for frames in future.frames.values())
    index = min(max(round((now - start) / future.period) - 1, 0), count - 1)
    return index, (start + (index + 1) * future.period - now) / future.chunk.period


def _imagined(evidence: Evidence, nearest: tuple[int, float] | None) -> Mapping[str, Frame] | None:
    future = evidence.prediction.future
    if future is None or nearest is None:
        return None
    return {name: frames[nearest[0]] for name, frames in future.frames.items()}


def save_verifier(verifier: Verifier, path: str | Path) -> None:
    """Write a verifier; the file alone rebuilds it."""
    save_judging(verifier.judging, path, FORMAT)


def load_verifier(path: str | Path, *, embodiment: Embodiment | None = None) -> Verifier:
    """Rebuild a verifier; with `embodiment`, only for exactly that body.

    Raises:
        CheckpointError: no such file, another format, damaged, or for another robot.
    """
    judging = load_judging(path, FORMAT, embodiment=embodiment)
    body = judging.embodiment
    rest = judging.network.config.numbers - numbers_size(body, 0)
    return Verifier(judging, horizon=rest // (body.action.size + 1))


@functools.cache
def _summed_of(kinds: tuple[str, ...]) -> np.ndarray:
    return np.array([kind != "absolute" for kind in kinds])


def _summed(embodiment: Embodiment) -> np.ndarray:
    return _summed_of(tuple(part.kind for part in embodiment.action.parts for _ in part.low))
