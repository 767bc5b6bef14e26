"""Clips of several robots in one batch, and the noise that belongs to them: a `Batches` of the loop."""

from collections.abc import Sequence

import numpy as np
import torch

from actloop.models.dreamzero import Clip, Draws, draw
from actloop.training.dreamzero.recipe import DreamZeroRecipe
from actloop.training.dreamzero.samples import ClipSamples, joined, moved

VALIDATION_SAMPLES, VALIDATION_BATCH = 384, 48


class ClipBatches:
    """`batch_size` rows that act and, where there is such data, `video_rows` of video alone.

    Every batch has a number of blocks, drawn from 1 to `clip_blocks`: policies act after few blocks as after many.
    Noise levels are those of the recipe's stage at a step. Validation is of held-out episodes that act, with the
    schedule of the first stage.
    """

    def __init__(self, acting: ClipSamples, video_only: Sequence[ClipSamples], recipe: DreamZeroRecipe) -> None:
        self._acting, self._video_only, self._recipe = acting, list(video_only), recipe
        self.source = " + ".join([acting.recording.source, *(samples.recording.source for samples in video_only)])
        chosen = np.random.default_rng(1).permutation(len(acting.validation))[:VALIDATION_SAMPLES]
        self._chunks = [chosen[at : at + VALIDATION_BATCH] for at in range(0, len(chosen), VALIDATION_BATCH)]
        self._device = torch.device("cpu")

    @property
    def held_out(self) -> int:
        return len(self._chunks)

    def place(self, device: torch.device) -> None:
        self._device = device
        for samples in (self._acting, *self._video_only):
            samples.place(device)

    def training(self, step: int, micro: int) -> tuple[Clip, Draws]:
        recipe = self._recipe
        rng = np.random.default_rng((recipe.seed, step, micro))
        acting = self._acting
        blocks = int(rng.integers(1, recipe.clip_blocks + 1))
        clips = [acting.clip(acting.train, acting.draw(rng, recipe.batch_size, blocks), blocks=blocks)]
        if self._video_only and recipe.video_rows:
            # From a generator of its own, so that the rows that act are those of a run without it.
            other = np.random.default_rng((recipe.seed, step, micro, 1))
            samples = self._video_only[int(other.integers(len(self._video_only)))]
            clips.append(samples.clip(samples.train, samples.draw(other, recipe.video_rows, blocks), blocks=blocks))
        generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step + micro * 1_000_000_007)
        clip = joined(clips, acting.config)
        return self._drawn(clip, draw(acting.config, recipe.schedule_at(step), clip, generator))

    def validation(self, number: int) -> tuple[Clip, Draws]:
        """The same clips and noise every time."""
        generator = torch.Generator().manual_seed(1_000_003 * (number + 1))
        clip = self._acting.clip(self._acting.validation, self._chunks[number])
        return self._drawn(clip, draw(self._acting.config, self._recipe.schedule, clip, generator))

    def _drawn(self, clip: Clip, draws: Draws) -> tuple[Clip, Draws]:
        device = self._device
        placed = Draws(**{name: getattr(draws, name).to(device) for name in Draws.__slots__})
        return moved(clip, lambda x: x.to(device)), placed
