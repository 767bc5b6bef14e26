"""Prompts through a text encoder that is at hand, each once; elsewhere a robot reads a `PromptCache`."""

from jaxtyping import Float
from torch import Tensor

from actloop.models.wan.prompts import PromptCache
from actloop.models.wan.text import UMT5Encoder

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
