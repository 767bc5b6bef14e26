"""How far along a task is, from what is seen; and how good a candidate chunk is, for choosing among several.

    images, state, instruction --Judge--> progress in 0..1
    now, chunk, imagined future --OutcomeScorer--> value of where it leads, and whether it can be executed

Progress is time to go, backwards: 1 at success, 0 where as long is left as the whole task takes, and less after a
disturbance than before it. Trained by `actloop.training.verify`.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from actloop.contracts import ActionChunk, Embodiment, Future, Observation
from actloop.errors import ContractError
from actloop.models.judge import Judging, load_judging, resized, save_judging
from actloop.models.verifier import Verifier, expected_state, load_verifier

FORMAT = "actloop.value.1"


class Value:
    """Judges how far along each of several moments is. Bound to the robot it was trained on."""

    def __init__(self, judging: Judging) -> None:
        config = judging.network.config
        if config.views != 1 or config.numbers != judging.embodiment.state.size:
            raise ContractError("value", f"expected 1 view and {judging.embodiment.state.size} numbers, got {config}")
        self.judging = judging
        self._identity = judging.identity

    @property
    def embodiment(self) -> Embodiment:
        return self.judging.embodiment

    @property
    def identity(self) -> str:
        return f"value-{self._identity}"

    def judge(
        self,
        frames: Mapping[str, UInt8[np.ndarray, "moments height width 3"]],
        states: Float[np.ndarray, "moments state"],
        instruction: str,
    ) -> Float[np.ndarray, "moments"]:
        """Share of the way to success, 0..1, of each moment; seen or imagined frames by camera.

        Raises:
            ContractError: a camera is missing, its frames are not as many as states, or a word is unknown.
        """
        self.embodiment.state.check(states, "value.states")
        names, size = [camera.name for camera in self.embodiment.cameras], self.judging.network.config.pixels
        for name in names:
            if name not in frames or len(frames[name]) != len(states) or states.ndim != 2:
                found = {name: len(found) for name, found in frames.items()}
                raise ContractError(f"value.frames.{name}", f"expected one frame per state {states.shape}, got {found}")
        pictures = np.stack([[[resized(frame, size)] for frame in frames[name]] for name in names], axis=1)
        numbers = self.judging.normalizers["state"].normalize(states)
        absent = np.zeros((len(states), 1), np.float32)
        return self.judging.probability(pictures, numbers, instruction, absent)


class OutcomeScorer:
    """How good a candidate is, 0 to 1, higher is better: the mean of what its parts say.

    `value` says how far along the frame is that the chunk leads to, where a model imagined the chunk's own future;
    `verifier` says whether the chunk fits what is seen now. Either may be left out.

    Raises:
        ContractError: neither is given, or they are for different robots.
    """

    def __init__(self, *, verifier: Verifier | None = None, value: Value | None = None) -> None:
        if verifier is None and value is None:
            raise ContractError("outcome", "expected a verifier, a value, or both")
        if verifier is not None and value is not None and verifier.embodiment.identity != value.embodiment.identity:
            names = f"{verifier.embodiment.name!r} and {value.embodiment.name!r}"
            raise ContractError("outcome", f"verifier and value are for different robots, {names}")
        self.verifier = verifier
        self.value = value

    @property
    def identity(self) -> str:
        return "+".join(part.identity for part in (self.verifier, self.value) if part is not None)

    def score(self, obs: Observation, chunk: ActionChunk, future: Future | None, instruction: str) -> float:
        """Of one candidate for the observation.

        Raises:
            ContractError: a value alone was given no future of this very chunk, or an image is missing.
        """
        parts = []
        if self.value is not None and future is not None and future.follows_chunk:
            parts.append(imagined_value(self.value, obs, chunk, future, instruction))
        if self.verifier is not None:
            parts.append(self.verifier.fits(obs, chunk, instruction, future))
        if not parts:
            reason = "a value judges only a future that follows the chunk; imagine it, or add a verifier"
            raise ContractError("outcome.future", reason)
        return sum(parts) / len(parts)


def imagined_value(value: Value, obs: Observation, chunk: ActionChunk, future: Future, instruction: str) -> float:
    """How far along the last imagined frame within the chunk is, with the state that the chunk leads to there."""
    count = min(len(frames) for frames in future.frames.values())
    ticks = future.period / chunk.period
    index = min(max(int(chunk.horizon / ticks), 1), count) - 1
    frames = {name: np.asarray(frames[index])[None] for name, frames in future.frames.items()}
    state = expected_state(value.embodiment, obs.state, chunk.actions[: round((index + 1) * ticks)])
    return float(value.judge(frames, state[None], instruction)[0])


def save_value(value: Value, path: str | Path) -> None:
    """Write a value; the file alone rebuilds it."""
    save_judging(value.judging, path, FORMAT)


def load_value(path: str | Path, *, embodiment: Embodiment | None = None) -> Value:
    """Rebuild a value; with `embodiment`, only for exactly that body.

    Raises:
        CheckpointError: no such file, another format, damaged, or for another robot.
    """
    return Value(load_judging(path, FORMAT, embodiment=embodiment))


def load_scorer(
    *, verifier: str | Path | None = None, value: str | Path | None = None, embodiment: Embodiment | None = None
) -> OutcomeScorer:
    """An `OutcomeScorer` from files.

    Raises:
        CheckpointError: a file cannot be read, or is for another robot.
        ContractError: no file is given, or they are for different robots.
    """
    return OutcomeScorer(
        verifier=None if verifier is None else load_verifier(verifier, embodiment=embodiment),
        value=None if value is None else load_value(value, embodiment=embodiment),
    )
