"""Does what is seen follow what was imagined? Pictures against pictures, or in a latent space.

plan made       ... due
anchor ------- imagined (period, 2 periods, ...)
                  |  distance
observation --- real
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from jaxtyping import Float

from actloop.checks.described import described, known, need_camera
from actloop.checks.evidence import Evidence, Score
from actloop.contracts import Embodiment, Frame, Future, Observation
from actloop.errors import ContractError

View = Literal["colour", "gradient"]
VIEWS: tuple[View, ...] = ("colour", "gradient")
Embed = Callable[[Frame], np.ndarray]
NOTHING = 0.02  # of full brightness: changes below it are noise, and no prediction is asked to beat it
_KEPT = 8  # plans whose futures are not due yet


@dataclass(slots=True)
class _Plan:
    future: Future
    anchor: Observation
    stalled: float  # ticks in which the plan did not go on: what it imagined comes later


@dataclass(slots=True)
class _Plans:
    """The plans that an episode has been shown, while frames of theirs may still come due."""

    embodiment: Embodiment | None = None
    plans: list[_Plan] = field(default_factory=list)

    def begin(self, embodiment: Embodiment) -> None:
        self.embodiment = embodiment
        self.plans.clear()

    def due(self, evidence: Evidence, camera: str, slack: float) -> tuple[Frame, Frame, int] | None:
        """The imagined frame that is due now, the anchor's, and the lead in ticks; of several the shortest lead."""
        assert self.embodiment is not None
        self._learn(evidence)
        now, tick = evidence.observation.time, self.embodiment.period
        for plan in reversed(self.plans):
            future = plan.future
            index = round((now - future.chunk.observed_at) / future.period) - 1
            late = now - future.chunk.observed_at - (index + 1) * future.period
            if plan.stalled > slack or index < 0 or abs(late) > 0.5 * tick + 1e-9:
                continue  # before anything is asked of the frames: they may be decoded when first looked at
            if camera in future.frames and index < len(future.frames[camera]):
                lead = evidence.observation.tick - plan.anchor.tick
                return future.frames[camera][index], plan.anchor.images[camera], lead
        return None

    def _learn(self, evidence: Evidence) -> None:
        """Remember a new plan; one whose future is that of exactly its chunk is forgotten with the chunk."""
        future, stalled = evidence.prediction.future, max(0.0, evidence.lead - evidence.progress)
        if future is not None and not any(plan.future is future for plan in self.plans):
            self.plans = [plan for plan in self.plans if not plan.future.follows_chunk][-(_KEPT - 1) :]
            self.plans.append(_Plan(future, evidence.anchor, stalled))
        for plan in self.plans:
            plan.stalled = max(plan.stalled, stalled)


@dataclass(frozen=True, kw_only=True)
class Foresight:
    """How far the camera's picture is from the one imagined for now.

        colour       root mean square difference of cell means, brightness in 0..1
        gradient     the same of the differences between neighbouring cells, in grey: edges, not light

    With `relative` it is divided by the same distance from the anchor's picture to the real one plus 0.02: near 0 for
    a perfect prediction, about 1 where expecting no change at all would have done as well. Plans that a newer one
    replaced are remembered until their pictures are due, unless their future is that of exactly their chunk.

    Attributes:
        camera: which.
        view: what is compared.
        cell: pixels on a side that are averaged first; imagined pictures blur.
        relative: to expecting no change.
        slack: ticks by which the robot may be behind the plan; beyond them what was imagined is not due.
    """

    camera: str
    view: View = "colour"
    cell: int = 8
    relative: bool = True
    slack: float = 1.0
    _plans: _Plans = field(default_factory=_Plans, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.view not in VIEWS:
            raise ContractError(f"check.{self.name}.view", f"expected one of {VIEWS}, got {self.view!r}")
        if self.cell < 1:
            raise ContractError(f"check.{self.name}.cell", f"expected 1 pixel or more, got {self.cell}")

    @property
    def name(self) -> str:
        return f"foresight.{self.camera}"

    @property
    def identity(self) -> str:
        return described("foresight", view=self.view, cell=self.cell, relative=self.relative, slack=self.slack)

    def begin(self, embodiment: Embodiment, instruction: str, *, seed: int) -> None:
        need_camera(embodiment, self.camera, self.name)
        self._plans.begin(embodiment)

    def score(self, evidence: Evidence) -> Score | None:
        known(self._plans.embodiment, self.name)
        due = self._plans.due(evidence, self.camera, self.slack)
        if due is None:
            return None
        imagined, anchor, lead = due
        real = evidence.observation.images[self.camera]
        value = difference(imagined, real, self.view, self.cell)
        if self.relative:
            value /= difference(anchor, real, self.view, self.cell) + NOTHING
        return Score(value=value, lead=lead, resolution=NOTHING)


@dataclass(frozen=True, kw_only=True)
class LatentForesight:
    """How far the camera's picture is from the one imagined for now, as an encoder sees them.

        cosine       1 - cos(imagined, real)
        whitened     root mean square of (imagined - real) / scales

    Attributes:
        embed: one frame to a vector.
        encoder: the name of `embed` and of its weights: it is part of the identity.
        scales: of each dimension, for `whitened`; given, that is what is measured.
    """

    camera: str
    embed: Embed
    encoder: str
    scales: Float[np.ndarray, "dims"] | None = None
    slack: float = 1.0
    _plans: _Plans = field(default_factory=_Plans, init=False, repr=False, compare=False)

    @property
    def name(self) -> str:
        return f"latent.{self.camera}"

    @property
    def identity(self) -> str:
        return described("latent foresight", encoder=self.encoder, scales=self.scales, slack=self.slack)

    def begin(self, embodiment: Embodiment, instruction: str, *, seed: int) -> None:
        need_camera(embodiment, self.camera, self.name)
        self._plans.begin(embodiment)

    def score(self, evidence: Evidence) -> Score | None:
        known(self._plans.embodiment, self.name)
        due = self._plans.due(evidence, self.camera, self.slack)
        if due is None:
            return None
        imagined = np.asarray(self.embed(due[0]), dtype=np.float64).ravel()
        real = np.asarray(self.embed(evidence.observation.images[self.camera]), dtype=np.float64).ravel()
        if self.scales is not None:
            value = float(np.sqrt(np.mean(((imagined - real) / self.scales) ** 2)))
        else:
            lengths = float(np.linalg.norm(imagined) * np.linalg.norm(real))
            value = 1.0 - float(imagined @ real) / lengths if lengths > 0 else 1.0
        return Score(value=value, lead=due[2])


def difference(one: Frame, other: Frame, view: View, cell: int) -> float:
    """How different two pictures of one size are, 0 for the same; see `Foresight`."""
    first, second = one.astype(np.float64) / 255, other.astype(np.float64) / 255
    first, second = _means(first, cell), _means(second, cell)
    if view == "colour":
        return float(np.sqrt(np.mean((first - second) ** 2)))
    off = first.mean(axis=2) - second.mean(axis=2)
    edges = np.concatenate([np.diff(off, axis=0).ravel(), np.diff(off, axis=1).ravel()])
    return float(np.sqrt(np.mean(edges**2))) if edges.size else 0.0


def _means(image: Float[np.ndarray, "height width colour"], cell: int) -> Float[np.ndarray, "rows columns colour"]:
    """Means of square cells; a rest at the right and lower edge that fills no cell is left out."""
    height, width = image.shape[0] // cell * cell, image.shape[1] // cell * cell
    if height == 0 or width == 0:
        raise ContractError("check.foresight.cell", f"{cell} pixels do not fit a picture of {image.shape[:2]}")
    cells = image[:height, :width].reshape(height // cell, cell, width // cell, cell, -1)
    return np.asarray(cells.mean(axis=(1, 3)))
