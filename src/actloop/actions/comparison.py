"""Every representation on the same chunks: what a model would have to answer for them, and what would be lost.

    episodes --chunked--> chunks --compared--> one Reconstruction per representation

FAST learns its pairs from four fifths of the episodes; its tokens are counted on the others, which it never saw.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from actloop.actions.bins import UniformBins, centre_bins, uniform_bins
from actloop.actions.continuous import Continuous
from actloop.actions.fast import SCALE, VOCABULARY, fit_fast
from actloop.actions.normalizers import MaskedNormalizer, Normalizer, quantile
from actloop.actions.representation import Chunk, Reconstruction, Representation, checked, reconstruction
from actloop.actions.tokens import IntegerText
from actloop.actions.written import WrittenBins
from actloop.errors import ContractError

HELD_OUT = 5  # every fifth episode
CHARACTERS = 11  # ten digits and a space

Episodes = Sequence[Float[np.ndarray, "_ action"]]


def chunked(episodes: Episodes, horizon: int) -> list[list[Chunk]]:
    """The chunks of each episode, one after another without overlap; what is left at its end is dropped.

    Raises:
        ContractError: a horizon below 1, or one that no episode is long enough for.
    """
    if horizon < 1:
        raise ContractError("horizon", f"expected at least 1 action, got {horizon}")
    chunks = [[one[at : at + horizon] for at in range(0, len(one) - horizon + 1, horizon)] for one in episodes]
    if not any(chunks):
        longest = max((len(one) for one in episodes), default=0)
        raise ContractError("horizon", f"no episode has {horizon} steps, the longest has {longest}")
    return chunks


def held_out(chunks: Sequence[Sequence[Chunk]]) -> tuple[list[Chunk], list[Chunk]]:
    """Chunks to learn pairs from and chunks to count tokens on; the same ones where there are too few episodes."""
    filled = [one for one in chunks if len(one)]
    learned = [chunk for number, one in enumerate(filled) for chunk in one if (number + 1) % HELD_OUT]
    counted = [chunk for number, one in enumerate(filled) for chunk in one if not (number + 1) % HELD_OUT]
    return (learned, counted) if counted else (learned, learned)


def compared(
    episodes: Episodes,
    horizon: int,
    *,
    limits: tuple[Float[np.ndarray, "action"], Float[np.ndarray, "action"]] | None = None,
    scales: Sequence[float] = (SCALE,),
    vocabulary: int = VOCABULARY,
) -> list[Reconstruction]:
    """One result per representation, on chunks of `horizon` actions in physical units.

    `limits` bound the uniform bins; None takes the least and greatest value in the data. Normalised errors are those
    of values between the 1 % and 99 % quantiles of all steps, in units of half that range.

    Raises:
        ContractError: no chunk of that length, limits or a vocabulary that do not fit, or a value that is not finite.
        MissingDependency: `tokenizers` or `scipy` is not installed.
    """
    by_episode = chunked(episodes, horizon)
    every = [chunk for one in by_episode for chunk in one]
    learned, counted = held_out(by_episode)
    steps = checked(np.concatenate(list(episodes)))
    normalizer = quantile(steps)
    bins = _bounded(steps, limits)
    results = [reconstruction(one, every, normalizer) for one in _fixed(bins, normalizer)]
    for scale in scales:
        fast = replace(fit_fast(learned, normalizer, scale=scale, vocabulary=vocabulary), name=f"FAST, scale {scale:g}")
        told, loss = reconstruction(fast, counted, normalizer), reconstruction(fast, every, normalizer)
        results.append(replace(loss, size=told.size, longest=told.longest, fewer=told.fewer, smaller=told.smaller))
    return results


def _fixed(bins: UniformBins, normalizer: Normalizer) -> list[Representation]:
    """The representations that learn nothing but a normaliser from data."""
    text = WrittenBins(
        bins=bins,
        tokens=IntegerText(lambda written: [ord(character) for character in written]),
        width=len(bins.low),
        vocabulary=CHARACTERS,
        name="integer text, digit by digit",
    )
    return [
        replace(bins, name="uniform bins"),
        text,
        replace(centre_bins(normalizer), name="quantile bins"),
        Continuous(normalizer=normalizer, name="continuous"),
        Continuous(normalizer=_within_quantiles(normalizer), clip=True, name="continuous, clipped"),
    ]


def _within_quantiles(normalizer: Normalizer) -> MaskedNormalizer:
    """The same range, clipped to it."""
    offset, scale = np.array(normalizer.offset), np.array(normalizer.scale)
    low, high = (offset - scale).tolist(), (offset + scale).tolist()
    return MaskedNormalizer(low=tuple(low), high=tuple(high), mask=(True,) * len(low))


def _bounded(
    steps: Float[np.ndarray, "steps action"],
    limits: tuple[Float[np.ndarray, "action"], Float[np.ndarray, "action"]] | None,
) -> UniformBins:
    """Bins within the limits; half a unit to either side of a component that never changes."""
    low, high = limits or (steps.min(axis=0), steps.max(axis=0))
    slack = np.where(low < high, 0.0, 0.5)
    return uniform_bins(low - slack, high + slack)
