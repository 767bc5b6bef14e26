"""Does the policy agree with itself? Overlapping plans, and several samples for one moment."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from actloop.checks.described import GRIPPER, described, known, ranges
from actloop.checks.evidence import Evidence, Score
from actloop.contracts import ActionChunk, Embodiment
from actloop.errors import ContractError

RESOLUTION = 0.01  # of a range
Sample = Callable[[Evidence], Sequence[ActionChunk]]


@dataclass(slots=True)
class _Judged:
    embodiment: Embodiment | None = None
    plan: ActionChunk | None = None

    def begin(self, embodiment: Embodiment) -> None:
        self.embodiment, self.plan = embodiment, None

    def again(self, chunk: ActionChunk) -> bool:
        """Whether this plan was judged before; from now on it was."""
        seen = self.plan is not None and (chunk.anchor, chunk.observed_at) == (self.plan.anchor, self.plan.observed_at)
        self.plan = chunk
        return seen


@dataclass(frozen=True, kw_only=True)
class Disagreement:
    """How differently the plan before and the present one mean to use the ticks that both cover.

    Mean over those ticks of the distance between their actions, each component as a share of its range; only ticks that
    the present plan still has to execute count, since committed ones agree by construction. Once per plan, when it has
    just begun. The lead is the ticks between the two anchors.

    Attributes:
        parts: action parts to compare; default: all but grippers, whose one late click outweighs everything.
        least: ticks that must be covered by both.
    """

    parts: tuple[str, ...] | None = None
    least: int = 1
    name: str = "disagreement"
    _judged: _Judged = field(default_factory=_Judged, init=False, repr=False, compare=False)

    @property
    def identity(self) -> str:
        return described("disagreement", parts=self.parts, least=self.least)

    def begin(self, embodiment: Embodiment, instruction: str, *, seed: int) -> None:
        chosen(embodiment, self.parts, self.name)
        self._judged.begin(embodiment)

    def score(self, evidence: Evidence) -> Score | None:
        embodiment = known(self._judged.embodiment, self.name)
        chunk, overtaken = evidence.prediction.chunk, evidence.overtaken
        if self._judged.again(chunk) or overtaken is None:
            return None
        before = overtaken.prediction.chunk
        first = math.ceil(evidence.progress - 1e-6)
        stop = min(chunk.horizon, math.floor(before.horizon - 1 - overtaken.offset + 1e-6) + 1)
        if stop - first < max(1, self.least):
            return None
        columns = chosen(embodiment, self.parts, self.name)
        meant = _between(before.actions, np.arange(first, stop) + overtaken.offset)
        apart = (chunk.actions[first:stop] - meant)[:, columns] / ranges(embodiment.action)[columns]
        value = float(np.linalg.norm(apart, axis=1).mean())
        return Score(value=value, lead=chunk.anchor - before.anchor, resolution=RESOLUTION)


@dataclass(frozen=True, kw_only=True)
class Spread:
    """How differently a policy that is asked several times would act, once per plan, when it has just begun.

    Attributes:
        sample: chunks for the moment of the evidence, at least two; give those of `SamplingPolicy.sample`.
        sampler: the name of `sample`: it is part of the identity.
        parts: as in `Disagreement`.
        first: only this many ticks of the chunks count; default all.
    """

    sample: Sample
    sampler: str
    parts: tuple[str, ...] | None = None
    first: int | None = None
    name: str = "spread"
    _judged: _Judged = field(default_factory=_Judged, init=False, repr=False, compare=False)

    @property
    def identity(self) -> str:
        return described("spread", sampler=self.sampler, parts=self.parts, first=self.first)

    def begin(self, embodiment: Embodiment, instruction: str, *, seed: int) -> None:
        chosen(embodiment, self.parts, self.name)
        self._judged.begin(embodiment)

    def score(self, evidence: Evidence) -> Score | None:
        embodiment = known(self._judged.embodiment, self.name)
        if self._judged.again(evidence.prediction.chunk):
            return None
        columns = chosen(embodiment, self.parts, self.name)
        samples = np.stack([chunk.actions[: self.first] for chunk in self.sample(evidence)])
        value = spread(samples[:, :, columns] / ranges(embodiment.action)[columns])
        return Score(value=value, lead=0, resolution=RESOLUTION)


def spread(chunks: Float[np.ndarray, "samples ticks action"]) -> float:
    """Root of the samples' total variance (unbiased, summed over components), averaged over ticks.

    Raises:
        ContractError: fewer than two samples.
    """
    if chunks.ndim != 3 or len(chunks) < 2:
        raise ContractError("spread", f"expected at least 2 samples of (ticks, action), got shape {chunks.shape}")
    return float(np.sqrt(np.var(chunks, axis=0, ddof=1).sum(axis=1).mean()))


def stac(
    first: Float[np.ndarray, "samples ticks action"],
    second: Float[np.ndarray, "others ticks action"],
    *,
    beta: float,
) -> float:
    """Squared maximum mean discrepancy of two sets of plans for the same ticks, k(x, y) = exp(-|x - y|² / beta).

    In 0..2, of equal sets 0 (the biased estimate: pairs of a sample with itself count). `beta` is in the squared unit
    of the actions: scale them first.

    Raises:
        ContractError: no samples, different ticks or components, or a beta that is not positive.
    """
    if first.shape[1:] != second.shape[1:] or first.ndim != 3 or not len(first) or not len(second):
        raise ContractError("stac", f"expected (samples, ticks, action) twice, got {first.shape} and {second.shape}")
    if not beta > 0:
        raise ContractError("stac.beta", f"expected a positive number, got {beta}")

    def alike(one: np.ndarray, other: np.ndarray) -> float:
        flat, other_flat = one.reshape(len(one), 1, -1), other.reshape(1, len(other), -1)
        return float(np.exp(-np.sum((flat - other_flat) ** 2, axis=2) / beta).mean())

    return max(0.0, alike(first, first) + alike(second, second) - 2 * alike(first, second))


def chosen(embodiment: Embodiment, parts: tuple[str, ...] | None, name: str) -> np.ndarray:
    """Indices of the components of these action parts; of all but grippers where none are named."""
    action = embodiment.action
    names = parts or tuple(part.name for part in action.parts if not part.name.startswith(GRIPPER))
    if not names:
        raise ContractError(f"check.{name}.parts", "the body has only grippers; name the parts to compare")
    return np.concatenate([np.arange(action.size)[action.slice(part)] for part in names])


def _between(
    actions: Float[np.ndarray, "horizon action"], at: Float[np.ndarray, "ticks"]
) -> Float[np.ndarray, "ticks action"]:
    """The actions at fractional indices."""
    low = np.clip(np.floor(at + 1e-9).astype(int), 0, len(actions) - 1)
    high = np.minimum(low + 1, len(actions) - 1)
    share = np.clip(at - low, 0.0, 1.0)[:, None]
    between: Float[np.ndarray, "ticks action"] = actions[low] * (1 - share) + actions[high] * share
    return between
