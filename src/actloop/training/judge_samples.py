"""What the judges are trained on: moments as numbers, words, and rows of a store of pictures.

rollouts --Frames--> pictures by row
         --moments--> verifier_samples: 1 where the rest of a chunk is no longer executable, else 0
         --ticks----> value_samples: 1 - time to go / usual time of the task, in episodes that succeeded, from any
                      disturbance on
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, UInt8

from actloop.actions.normalizers import Normalizer, mean_std
from actloop.checks.evidence import Evidence
from actloop.contracts import Embodiment
from actloop.errors import DataError
from actloop.models.judge import resized
from actloop.models.text import Vocabulary
from actloop.models.verifier import moment_numbers, nearest_imagined, path_of, strayed_by
from actloop.training.moments import FITS, RAMP, Moment, Perturber, evidence, moments
from actloop.training.rollouts import Rollout


@dataclass(frozen=True, slots=True, kw_only=True)
class Frames:
    """Every picture of some rollouts at a network's size, seen ones and then imagined ones, by row."""

    pixels: UInt8[np.ndarray, "rows cameras height width 3"]
    seen: Int[np.ndarray, "episodes"]
    """The row of each episode's tick 0."""
    imagined: Sequence[Int[np.ndarray, "plans frames"]]
    """The rows of what each plan of each episode imagined."""

    @classmethod
    def of(cls, rollouts: Sequence[Rollout], embodiment: Embodiment, size: int) -> "Frames":
        """Copies, and resizes where needed.

        Raises:
            DataError: rollouts without the cameras of the embodiment.
        """
        names = [camera.name for camera in embodiment.cameras]
        for rollout in rollouts:
            if sorted(rollout.images) != sorted(names):
                raise DataError(f"rollout {rollout.number}: expected cameras {names}, got {sorted(rollout.images)}")
        counts = [rollout.ticks + 1 for rollout in rollouts]
        shapes = [(len(rollout.asked), len(rollout.imagined_after)) for rollout in rollouts]
        starts = np.cumsum([sum(counts), *(plans * frames for plans, frames in shapes)])
        pixels = np.empty((int(starts[-1]), len(names), size, size, 3), np.uint8)
        seen = np.cumsum([0, *counts])[:-1]
        imagined = [start + np.arange(p * f).reshape(p, f) for start, (p, f) in zip(starts[:-1], shapes, strict=True)]
        for rollout, first, rows in zip(rollouts, seen, imagined, strict=True):
            for place, name in enumerate(names):
                pixels[first : first + rollout.ticks + 1, place] = resized(rollout.images[name], size)
                pixels[rows, place] = resized(rollout.imagined[name], size)
        return cls(pixels=pixels, seen=seen, imagined=imagined)


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """What a network is trained on: rows of `Frames` (-1 where there is none), numbers, words, and what to answer."""

    views: Int[np.ndarray, "samples views"]
    numbers: Float[np.ndarray, "samples numbers"]
    words: Int[np.ndarray, "samples tokens"]
    target: Float[np.ndarray, "samples"]
    kind: np.ndarray
    lead: Int[np.ndarray, "samples"]
    episode: Int[np.ndarray, "samples"]

    def __len__(self) -> int:
        return len(self.target)


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What turns moments into numbers and words."""

    embodiment: Embodiment
    vocabulary: Vocabulary
    normalizers: Mapping[str, Normalizer]
    horizon: int
    imagines: bool


def told_by(
    rollouts: Sequence[Rollout], embodiment: Embodiment, *, instructions: Sequence[str] = (), imagines: bool
) -> Told:
    """Words, normalisers and horizon of some rollouts; words also of further `instructions`."""
    states = np.concatenate([rollout.states for rollout in rollouts])
    horizon = max(rollout.chunks.shape[1] for rollout in rollouts)
    starts = range(0, horizon, RAMP)
    rests = [path_of(chunk[start:], embodiment) for rollout in rollouts for chunk in rollout.chunks for start in starts]
    texts = [*instructions, *(rollout.instruction for rollout in rollouts)]
    return Told(
        embodiment=embodiment,
        vocabulary=Vocabulary.of(texts, max_tokens=max(len(text.split()) for text in texts)),
        normalizers={
            "state": mean_std(states),
            "path": mean_std(np.concatenate(rests)),
            "strayed": _strayed(rollouts, embodiment),
        },
        horizon=horizon,
        imagines=imagines,
    )


def _strayed(rollouts: Sequence[Rollout], embodiment: Embodiment) -> Normalizer:
    """How far the state usually strays from what was sent, while nothing disturbs it."""
    found = [
        strayed_by(evidence(rollout, moment, embodiment), embodiment)
        for episode, rollout in enumerate(rollouts)
        for moment in moments(rollout, episode, embodiment.control_hz)
        if moment.kind == FITS and moment.now > rollout.asked[moment.plan]
    ]
    return mean_std(np.stack(found)) if found else mean_std(np.zeros((1, embodiment.state.size), np.float32))


def verifier_samples(
    rollouts: Sequence[Rollout],
    frames: Frames,
    told: Told,
    *,
    perturbed: int,
    rng: np.random.Generator,
) -> Samples:
    """Every labelled moment, and of the executable ones `perturbed` perturbed copies each."""
    perturb = Perturber(rollouts, told.embodiment, told.normalizers["path"], rng)
    rows: list[tuple[Moment, Evidence, str]] = []
    for episode, rollout in enumerate(rollouts):
        for moment in moments(rollout, episode, told.embodiment.control_hz):
            found = evidence(rollout, moment, told.embodiment)
            rows.append((moment, found, moment.kind))
            made = [perturb(found, moment) for _ in range(perturbed if moment.kind == FITS else 0)]
            rows += [(moment, *one) for one in made if one is not None]
    words = {text: told.vocabulary.encode(text).numpy() for text in {found.instruction for _, found, _ in rows}}
    nearest = [nearest_imagined(found) if told.imagines else None for _, found, _ in rows]
    views = [
        (
            frames.seen[moment.episode] + moment.now,
            frames.seen[moment.episode] + found.anchor.tick,
            -1 if near is None else frames.imagined[moment.episode][moment.plan, near[0]],
        )
        for (moment, found, _), near in zip(rows, nearest, strict=True)
    ]
    numbers = [
        moment_numbers(found, None if near is None else near[1], told.embodiment, told.normalizers, told.horizon)
        for (_, found, _), near in zip(rows, nearest, strict=True)
    ]
    return Samples(
        views=np.array(views)[:, : 3 if told.imagines else 2],
        numbers=np.stack(numbers),
        words=np.stack([words[found.instruction] for _, found, _ in rows]),
        target=np.array([kind != FITS for _, _, kind in rows], np.float32),
        kind=np.array([kind for _, _, kind in rows]),
        lead=np.array([found.lead for _, found, _ in rows]),
        episode=np.array([moment.episode for moment, _, _ in rows]),
    )


def value_samples(rollouts: Sequence[Rollout], frames: Frames, told: Told, usual: Mapping[str, float]) -> Samples:
    """Seen and imagined moments of successful episodes, from a disturbance on, with how far along they are.

    An imagined frame counts where its plan was executed up to it, undisturbed; it has the state of its own tick.
    """
    rows: list[tuple[int, int, int, str]] = []  # episode, tick, row of frames, kind
    for episode, rollout in enumerate(rollouts):
        if not rollout.success or rollout.task not in usual:
            continue
        first = max(rollout.disturbed_at, 0)
        rows += [(episode, tick, int(frames.seen[episode]) + tick, "seen") for tick in range(first, rollout.ticks + 1)]
        ends = [*rollout.asked[1:], rollout.ticks]
        for plan, (anchor, end) in enumerate(zip(rollout.asked, ends, strict=True)):
            for index, after in enumerate(rollout.imagined_after):
                tick = round(float(anchor + after))
                if anchor >= first and tick <= end:
                    rows.append((episode, tick, int(frames.imagined[episode][plan, index]), "imagined"))
    told_state, words = told.normalizers["state"], told.vocabulary
    target = [1 - (rollouts[episode].ticks - tick) / usual[rollouts[episode].task] for episode, tick, _, _ in rows]
    return Samples(
        views=np.array([[row] for _, _, row, _ in rows]),
        numbers=np.stack([told_state.normalize(rollouts[episode].states[tick]) for episode, tick, _, _ in rows]),
        words=np.stack([words.encode(rollouts[episode].instruction).numpy() for episode, _, _, _ in rows]),
        target=np.clip(target, 0, 1).astype(np.float32),
        kind=np.array([kind for _, _, _, kind in rows]),
        lead=np.zeros(len(rows), np.int64),
        episode=np.array([episode for episode, _, _, _ in rows]),
    )
