"""The torch side of a vision-language model: what training and constrained decoding ask of any of them.

    Example(images, prompt, answer ids) --collate--> LanguageBatch --forward--> loss per row
    images, prompt --answer, one token at a time, of those that `allowed` lets through--> ids

Implemented by our own `PrismaticVLM` (prismatic/) and by `HuggingFaceVLM` (huggingface.py). RT-2 acts through any of
them; OpenVLA through the former.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from actloop.contracts import Frame

IGNORED = -100  # of labels: this position is not learned

Allowed = Callable[[Sequence[int]], Sequence[int] | None]
"""From the ids decoded so far to the ids that may follow; None where any may."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One thing to learn: what is answered to a prompt about some pictures.

    Attributes:
        prompt: the question alone, without the model's own template or image tokens.
        answer: token ids after the prompt, without the token that ends an answer.
    """

    images: tuple[Frame, ...]
    prompt: str
    answer: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageBatch:
    """Examples as one model's input; `pictures` are the tensors that its image processor makes, by their own names.

    A row is an example; a model may put several about the same pictures into one, and then says with `owners` which
    example, counted from 0, a token belongs to: -1 where to all of the row, or at padding.
    """

    ids: Int[Tensor, "batch tokens"]
    mask: Bool[Tensor, "batch tokens"]
    labels: Int[Tensor, "batch tokens"]
    pictures: Mapping[str, Tensor] = field(default_factory=dict)
    owners: Int[Tensor, "batch tokens"] | None = None

    def to(self, device: torch.device) -> "LanguageBatch":
        return LanguageBatch(
            owners=None if self.owners is None else self.owners.to(device),
            ids=self.ids.to(device),
            mask=self.mask.to(device),
            labels=self.labels.to(device),
            pictures={name: tensor.to(device) for name, tensor in self.pictures.items()},
        )


@runtime_checkable
class Tokens(Protocol):
    """A tokenizer as far as actions need one."""

    @property
    def size(self) -> int:
        """Ids that it knows: 0 to `size` - 1; the model may have more rows, which stand for nothing."""
        ...

    @property
    def end(self) -> int:
        """The id that ends an answer."""
        ...

    @property
    def special(self) -> frozenset[int]:
        """Ids that are no text: beginning, end, padding, image tokens. None of them may come to mean an action."""
        ...

    def encode(self, text: str) -> list[int]:
        """Ids of a text that continues another one: nothing is put before or after it."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; special ones are left out."""
        ...


@runtime_checkable
class LanguageBackbone(Protocol):
    """A vision-language model, a `torch.nn.Module`, whose answers can be trained and constrained."""

    @property
    def tokens(self) -> Tokens: ...

    @property
    def device(self) -> torch.device: ...

    def collate(self, examples: Sequence[Example]) -> LanguageBatch:
        """Examples in the model's own template, padded; the answer and its end are labelled, nothing else is."""
        ...

    def forward(self, batch: LanguageBatch) -> Float[Tensor, "examples"]:
        """Mean cross-entropy over the labelled tokens of each example."""
        ...

    def answer(
        self,
        images: Sequence[Sequence[Frame]],
        prompts: Sequence[str],
        *,
        max_tokens: int,
        allowed: Allowed | None = None,
    ) -> list[list[int]]:
        """The most likely ids after each prompt, one at a time, of those allowed; the end token is not among them."""
        ...
