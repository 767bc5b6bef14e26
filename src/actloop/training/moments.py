"""Rollouts as labelled moments: when was the rest of a chunk executable, and how far along was the task?

    Rollout --moments--> Moment --evidence--> Evidence --numbers, rows of frames--> Samples

label of the verifier    1 = no longer executable                       0 = executable
    displace, slip, push a disturbance lies between the anchor and now
    failure              the last second of an undisturbed episode that failed
    shifted, elsewhere,  the rest was moved aside; is of another moment or episode; or other words go with it
    otherwise
    fits                                                                no disturbance since the anchor, and the
                                                                        episode succeeded
Left out: earlier moments of failed episodes (which chunk spoilt them is unknown), and plans made during a push.

target of the value      1 - time to go / usual time of the task, in episodes that succeeded, after any disturbance
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int, UInt8

from actloop.actions.normalizers import Normalizer, mean_std
from actloop.checks.evidence import Evidence
from actloop.contracts import ActionChunk, Embodiment, Future, Observation, Prediction
from actloop.errors import DataError
from actloop.models.judge import resized
from actloop.models.text import Vocabulary
from actloop.models.verifier import moment_numbers, nearest_imagined, path_of, strayed_by
from actloop.training.rollouts import Rollout

FITS = "fits"
PERTURBED = ("shifted", "elsewhere", "otherwise")
PUSH_TICKS = 4  # from a push until plans are made on a settled hand again
FAILING = 1.0  # seconds before the end of a failed episode
SHIFT = (0.5, 1.5)  # of the spread of the paths, in every direction at random
RAMP = 4  # ticks over which a shifted path leaves the true one
FAR = 8  # ticks between a moment and another one whose plan does not fit it


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """Tick `now` of an episode under its plan number `plan`; `kind` says why it carries its label."""

    episode: int
    plan: int
    now: int
    kind: str

    @property
    def label(self) -> int:
        return int(self.kind != FITS)


def moments(rollout: Rollout, episode: int, control_hz: float) -> list[Moment]:
    """The labelled moments of an episode, every tick that has a label once."""
    found = []
    ends = [*rollout.asked[1:], rollout.ticks]
    for plan, (anchor, end) in enumerate(zip(rollout.asked, ends, strict=True)):
        for now in range(int(anchor), int(end) + (plan == len(ends) - 1)):
            kind = _kind(rollout, int(anchor), now, control_hz)
            if kind:
                found.append(Moment(episode=episode, plan=plan, now=now, kind=kind))
    return found


def _kind(rollout: Rollout, anchor: int, now: int, control_hz: float) -> str:
    at, name = rollout.disturbed_at, rollout.disturbance
    if name:
        shows = at + (name == "push")  # the push begins to bend what happens after that tick
        if anchor < at <= now:
            return name if now >= shows else ""
        if name == "push" and at <= anchor < at + PUSH_TICKS:
            return ""
    if rollout.success:
        return FITS
    return "failure" if not name and now >= rollout.ticks - FAILING * control_hz else ""


def evidence(rollout: Rollout, moment: Moment, embodiment: Embodiment) -> Evidence:
    """What a check would have been given at that moment."""
    anchor = int(rollout.asked[moment.plan])
    chunk = ActionChunk(
        actions=rollout.chunks[moment.plan],
        anchor=anchor,
        period=embodiment.period,
        observed_at=anchor * embodiment.period,
    )
    return Evidence(
        observation=_observation(rollout, moment.now, embodiment),
        anchor=_observation(rollout, anchor, embodiment),
        prediction=Prediction(chunk=chunk, future=_future(rollout, moment.plan, chunk)),
        progress=float(moment.now - anchor),
        sent=rollout.sent[anchor : moment.now],
        instruction=rollout.instruction,
    )


def _observation(rollout: Rollout, tick: int, embodiment: Embodiment) -> Observation:
    images = {name: frames[tick] for name, frames in rollout.images.items()}
    return Observation(images=images, state=rollout.states[tick], tick=tick, time=tick * embodiment.period)


def _future(rollout: Rollout, plan: int, chunk: ActionChunk) -> Future | None:
    if not len(rollout.imagined_after):
        return None
    frames = {name: found[plan] for name, found in rollout.imagined.items()}
    return Future(frames=frames, chunk=chunk, period=float(rollout.imagined_after[0]) * chunk.period)


class Perturber:
    """Makes an executable moment one that is not, by touching only the rest of its chunk or its words."""

    def __init__(
        self, rollouts: Sequence[Rollout], embodiment: Embodiment, path: Normalizer, rng: np.random.Generator
    ) -> None:
        self._rollouts = rollouts
        self._rng = rng
        parts = [part for part in embodiment.action.parts for _ in part.low]
        self._summed = np.array([part.kind != "absolute" for part in parts])
        self._spread = np.asarray(path.scale) * [not part.name.startswith("gripper") for part in parts]
        self._instructions: dict[str, list[str]] = defaultdict(list)
        for text in sorted({rollout.instruction for rollout in rollouts}):
            self._instructions[text.split()[0]].append(text)

    def __call__(self, found: Evidence, moment: Moment) -> tuple[Evidence, str] | None:
        """The perturbed evidence and its kind; None where too little of the chunk is left."""
        done, actions = int(found.progress), found.prediction.chunk.actions
        if len(actions) - done < RAMP:
            return None
        kind = str(self._rng.choice(PERTURBED))
        if kind == "otherwise":
            return replace(found, instruction=self._other_words(found.instruction)), kind
        rest = self._shifted(actions[done:]) if kind == "shifted" else self._elsewhere(moment, len(actions) - done)
        changed = np.concatenate([actions[:done], rest]).astype(np.float32)
        chunk = replace(found.prediction.chunk, actions=changed)
        return replace(found, prediction=replace(found.prediction, chunk=chunk)), kind

    def _shifted(self, rest: np.ndarray) -> np.ndarray:
        direction = self._rng.normal(size=rest.shape[1]) * (self._spread > 0)
        aside = direction / np.linalg.norm(direction) * self._spread * self._rng.uniform(*SHIFT)
        steps = np.minimum(np.arange(1, len(rest) + 1), RAMP)[:, None] / RAMP * aside
        moved: np.ndarray = rest + np.where(self._summed, np.diff(steps, axis=0, prepend=0.0), steps)
        return moved

    def _elsewhere(self, moment: Moment, length: int) -> np.ndarray:
        """A stretch of another moment of this episode, or of another episode."""
        own = self._rollouts[moment.episode]
        away = [plan for plan, asked in enumerate(own.asked) if abs(int(asked) - moment.now) >= FAR]
        if away and self._rng.random() < 0.5:
            chunk = own.chunks[int(self._rng.choice(away))]
        else:
            other = self._rollouts[int(self._rng.integers(len(self._rollouts)))]
            chunk = other.chunks[int(self._rng.integers(len(other.chunks)))]
        taken: np.ndarray = chunk[:length]
        return taken

    def _other_words(self, instruction: str) -> str:
        """Preferably of the same kind: another colour or side."""
        alike = [text for text in self._instructions[instruction.split()[0]] if text != instruction]
        others = alike or [text for group in self._instructions.values() for text in group if text != instruction]
        return str(self._rng.choice(others)) if others else instruction


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
    rollouts: Sequence[Rollout], frames: Frames, told: Told, *, perturbed: int, rng: np.random.Generator
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


def usual_ticks(rollouts: Sequence[Rollout]) -> dict[str, float]:
    """Mean length of every task's successful episodes, of the undisturbed ones where there are any."""
    plain: dict[str, list[int]] = defaultdict(list)
    all_of: dict[str, list[int]] = defaultdict(list)
    for rollout in rollouts:
        if rollout.success:
            all_of[rollout.task].append(rollout.ticks)
            if not rollout.disturbance:
                plain[rollout.task].append(rollout.ticks)
    return {task: float(np.mean(plain.get(task) or ticks)) for task, ticks in all_of.items()}


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
