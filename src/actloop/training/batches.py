"""Windows of a dataset as what FastWAM trains on: a batch, and the noise that belongs to it."""

from dataclasses import fields

import numpy as np
import torch
from jaxtyping import Int

from actloop.data.windows import Windows
from actloop.models.action_model import Batch
from actloop.models.fastwam import Draws, FastWAM
from actloop.training.samples import Samples

VALIDATION_SAMPLES, VALIDATION_BATCH = 512, 64


class NoisedBatches:
    """A `Batches` of the loop: every batch with its noise levels and noise, drawn from its own seed."""

    def __init__(self, samples: Samples, model: FastWAM, *, seed: int, batch_size: int) -> None:
        self.samples, self.source = samples, samples.source
        self._model, self._seed, self._batch_size = model, seed, batch_size
        self._device = torch.device("cpu")
        chosen = np.random.default_rng(1).permutation(len(samples.validation))[:VALIDATION_SAMPLES]
        self._chunks = [chosen[at : at + VALIDATION_BATCH] for at in range(0, len(chosen), VALIDATION_BATCH)]

    @property
    def held_out(self) -> int:
        return len(self._chunks)

    def place(self, device: torch.device) -> None:
        self._device = device
        self.samples.place(device)

    def training(self, step: int, micro: int) -> tuple[Batch, Draws]:
        rng = np.random.default_rng((self._seed, step, micro))
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + step + micro * 1_000_000_007)
        indices = self.samples.train.draw(rng, self._batch_size)
        return self._seen(self.samples.train, indices, generator)

    def validation(self, number: int) -> tuple[Batch, Draws]:
        """The same samples and noise every time."""
        generator = torch.Generator().manual_seed(1_000_003 * (number + 1))
        return self._seen(self.samples.validation, self._chunks[number], generator)

    def _seen(
        self, windows: Windows, indices: Int[np.ndarray, "batch"], generator: torch.Generator
    ) -> tuple[Batch, Draws]:
        batch = self.samples.batch(windows, indices)
        batch = Batch(**{field.name: getattr(batch, field.name).to(self._device) for field in fields(Batch)})
        return batch, self._model.draw(batch, generator)
