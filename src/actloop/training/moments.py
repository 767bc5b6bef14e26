"""Rollouts as labelled moments: when was the rest of a chunk executable?

    Rollout --moments--> Moment --evidence--> Evidence --Perturber--> Evidence

label of the verifier    1 = no longer executable                       0 = executable
    displace, slip, push a disturbance lies between the anchor and now
    failure              the last second of an undisturbed episode that failed
    shifted, elsewhere,  the rest was moved aside; is of another moment or episode; or other words go with it
    otherwise
    fits                                                                no disturbance since the anchor, and the
                                                                        episode succeeded
Left out: earlier moments of failed episodes (which chunk spoilt them is unknown), and plans made during a push. An
episode that succeeded late may have missed a grasp before: its moments count as executable, and cost false alarms.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from actloop.actions.normalizers import Normalizer
from actloop.checks.evidence import Evidence
from actloop.contracts import ActionChunk, Embodiment, Future, Observation, Prediction
from actloop.training.rollouts import Rollout

FITS = "fits"
PERTURBED = ("shifted", "elsewhere", "otherwise")
PUSH_TICKS = 4  # from a push until plans are made on a settled hand again
LATE = 1.3  # times the usual length of a task
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


def is_late(rollout: Rollout, usual: Mapping[str, float]) -> bool:
    """Whether an episode took a detour, counted from its disturbance where it has one."""
    took = rollout.ticks - max(rollout.disturbed_at, 0)
    return took > LATE * usual.get(rollout.task, np.inf)


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
