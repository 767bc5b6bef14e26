"""Prompts through a text encoder that is at hand, each once; elsewhere a robot reads a `PromptCache`.

instruction --declaration--> prompt --text--> context --network, once--> keys and values of all layers
"""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from actloop.errors import ContractError
from actloop.models.dreamzero.embodiments import RobotDeclaration
from actloop.models.dreamzero.layers import Words
from actloop.models.dreamzero.session import DreamZeroActor
from actloop.models.text import Instructions
from actloop.models.wan.prompts import PromptCache
from actloop.models.wan.text import UMT5Encoder

PROMPTS_KEPT = 4
WHOLE = "{task}"  # what is encoded are prompts already


class EncodedPrompts:
    """What a policy is told, through its encoder; contexts are kept by prompt."""

    def __init__(self, encoder: UMT5Encoder) -> None:
        self.encoder = encoder
        self.contexts: dict[str, Float[Tensor, "tokens width"]] = {}

    @property
    def instructions(self) -> tuple[str, ...]:
        """Prompts that were encoded so far; others can be."""
        return tuple(self.contexts)

    def encode(self, instruction: str) -> Float[Tensor, "max_tokens width"]:
        """The context of a prompt, padded with zeros.

        Raises:
            ContractError: it is longer than the context.
        """
        if instruction not in self.contexts:
            self.contexts[instruction] = self.encoder.encode([instruction])[0]
        context = self.contexts[instruction]
        padded = context.new_zeros(self.encoder.max_tokens, context.shape[-1])
        padded[: len(context)] = context
        return padded

    def cache(self) -> PromptCache:
        """What was encoded so far, for a robot without the encoder."""
        return PromptCache(
            contexts=self.contexts,
            template=WHOLE,
            encoder=self.encoder.identity,
            max_tokens=self.encoder.max_tokens,
        )


class PromptWords:
    """Keys and values of a robot's prompts, computed once; the newest few are kept.

    `negative`: what guidance leads away from, where the actor's sampler asks for it.
    """

    def __init__(
        self,
        actor: DreamZeroActor,
        text: Instructions,
        declaration: RobotDeclaration,
        negative: Shaped[Tensor, "tokens ..."] | None,
    ) -> None:
        self._actor, self._text, self._declaration, self._negative = actor, text, declaration, negative
        self._known: dict[str, Words] = {}

    def __call__(self, instruction: str) -> Words:
        """Raises:
        ContractError: the instruction is empty, or the text is not known.
        """
        if instruction not in self._known:
            actor = self._actor
            prompt = self._text.encode(self._declaration.prompt(instruction))[None].to(actor.model.device)
            negative = None
            if self._negative is not None and actor.sampler.guidance != 1:
                negative = _as_long(self._negative[None].to(prompt), prompt)
            self._known[instruction] = actor.words(prompt, negative)
            if len(self._known) > PROMPTS_KEPT:
                self._known.pop(next(iter(self._known)))
        return self._known[instruction]

    def forget(self) -> None:
        """All prompts are computed anew."""
        self._known.clear()


def _as_long(text: Tensor, other: Tensor) -> Tensor:
    """Padded with zeros to the tokens of another."""
    missing = other.shape[1] - text.shape[1]
    if missing < 0:
        raise ContractError("negative", f"{other.shape[1]} tokens fit, got {text.shape[1]}")
    return torch.cat([text, text.new_zeros(1, missing, *text.shape[2:])], dim=1)
