"""What a network that acts owes the policy and the trainer, on the torch side: batched, normalised, on a device."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor


@dataclass(slots=True, kw_only=True)
class Batch:
    """Normalised inputs and, in training, targets.

    `latents[:, 0]` is the current frame, the rest the future (absent when acting). `actions` are what is to be learned;
    the future is what came of `executed`, the same but where a demonstration was shaken. `text` holds word indices
    (0 is padding), or the context vectors of a frozen text encoder. Pad flags are True past an episode's end.
    """

    latents: Float[Tensor, "batch time channels height width"]
    state: Float[Tensor, "batch state"]
    text: Shaped[Tensor, "batch tokens ..."]
    actions: Float[Tensor, "batch horizon action"]
    executed: Float[Tensor, "batch horizon action"]
    action_pad: Bool[Tensor, "batch horizon"]
    latents_pad: Bool[Tensor, "batch time"]


@runtime_checkable
class ActionModel(Protocol):
    """A network that learns actions: an `nn.Module` with a loss and a sampler."""

    def loss(self, batch: Batch, *, generator: torch.Generator) -> dict[str, Float[Tensor, "batch"]]:
        """Losses per sample by name; `total` is what is minimised."""
        ...

    def sample(
        self, batch: Batch, *, generator: torch.Generator, prefix: Float[Tensor, "batch done action"] | None = None
    ) -> Float[Tensor, "batch horizon action"]:
        """Normalised actions; the first `done` of them equal `prefix`."""
        ...
