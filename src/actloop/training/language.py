"""Training a vision-language model on pictures with questions and answers.

    ExampleSource --draw, by (seed, step, micro-batch)--> Examples --collate of the model--> LanguageBatch --> the loop

A source may be a store of questions (questions.py), a robot's demonstrations with actions as tokens, or a mixture.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from actloop.errors import ContractError, DataError
from actloop.models.backbone import Example, LanguageBackbone, LanguageBatch
from actloop.models.tensors import fingerprint
from actloop.training.config import TrainResult
from actloop.training.loop import Loop, Progress, accelerator
from actloop.training.recipe import Recipe
from actloop.training.state import weights

VALIDATION_BATCH = 64

Save = Callable[[Mapping[str, Tensor], dict[str, object]], None]
"""Writes a trained network: all its tensors by name, whole and on the CPU, and facts about its training."""


@runtime_checkable
class ExampleSource(Protocol):
    """What a language model is shown."""

    source: str
    """Identifies the data and how they are mixed: a run is resumed on the same only."""

    def draw(self, rng: np.random.Generator, count: int) -> Sequence[Example]:
        """That many examples; which ones follows from `rng` alone."""
        ...

    def validation(self) -> Sequence[Example]:
        """Held-out examples, the same every time; may be none."""
        ...


class LanguageBatches:
    """A `Batches` of the loop, over a source of examples."""

    def __init__(self, backbone: LanguageBackbone, source: ExampleSource, *, seed: int, batch_size: int) -> None:
        self.source = source.source
        self._backbone, self._examples, self._seed, self._batch_size = backbone, source, seed, batch_size
        self._device = torch.device("cpu")
        self._held_out = list(source.validation())

    @property
    def held_out(self) -> int:
        return -(-len(self._held_out) // VALIDATION_BATCH)

    def place(self, device: torch.device) -> None:
        self._device = device

    def training(self, step: int, micro: int) -> tuple[LanguageBatch]:
        rng = np.random.default_rng((self._seed, step, micro))
        return self._collated(self._examples.draw(rng, self._batch_size))

    def validation(self, number: int) -> tuple[LanguageBatch]:
        return self._collated(self._held_out[number * VALIDATION_BATCH :][:VALIDATION_BATCH])

    def _collated(self, examples: Sequence[Example]) -> tuple[LanguageBatch]:
        if not examples:
            raise DataError(f"{self.source}: gave no examples to train on")
        return (self._backbone.collate(examples).to(self._device),)


def train_language(
    backbone: LanguageBackbone,
    source: ExampleSource,
    recipe: Recipe,
    out: str | Path,
    *,
    save: Save,
    resume: bool = False,
    progress: Progress | None = None,
) -> TrainResult:
    """Train a model in place: those of its parameters that require a gradient; `save` then writes it to `out`.

    The log (JSON lines) and the resumable state lie beside `out`.

    Raises:
        ContractError: the model is no `torch.nn.Module`, or nothing of it trains.
        DataError: the source gives no examples.
        CheckpointError: `resume` without a state, or with one of another run.
        MissingDependency: accelerate is not installed.
    """
    if not isinstance(backbone, nn.Module):
        raise ContractError("backbone", f"expected a torch.nn.Module to train, got {type(backbone).__name__}")
    if not any(parameter.requires_grad for parameter in backbone.parameters()):
        raise ContractError("backbone", "none of its parameters requires a gradient: nothing would train")
    out, begun = Path(out), time.perf_counter()
    torch.set_num_threads(recipe.threads)
    torch.manual_seed(recipe.seed)
    out.parent.mkdir(parents=True, exist_ok=True)
    batches = LanguageBatches(backbone, source, seed=recipe.seed, batch_size=recipe.batch_size)
    origin = fingerprint(backbone.state_dict())
    loop = Loop(backbone, batches, recipe, out, accelerator(recipe, unused=True), origin=origin)
    loop.begin(resume=resume)
    losses = loop.run(progress)
    seconds = loop.seconds + time.perf_counter() - begun
    tensors = weights(loop.model)
    if loop.is_main:
        facts: dict[str, object] = {"steps": recipe.steps, "seconds": round(seconds, 1), "data": source.source}
        facts |= {"batch_size": recipe.batch_size * loop.micro_batches, "learning_rate": recipe.learning_rate}
        facts |= {"seed": recipe.seed, "init": origin, "torch": torch.__version__}
        save(tensors, facts | {f"validation_{key}": value for key, value in losses.items()})
        loop.state.unlink(missing_ok=True)
    loop.accelerator.wait_for_everyone()
    backbone.eval()
    return TrainResult(checkpoint=out, log=loop.log, steps=recipe.steps, seconds=seconds, losses=losses)
