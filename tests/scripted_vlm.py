"""A language backbone that answers by given logits: what is decoded then depends on nothing else."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from actloop.contracts import Frame
from actloop.models.backbone import IGNORED, Allowed, Example, LanguageBatch

PAD, END = 0, 1
Logits = Callable[[Sequence[int]], np.ndarray]


class LetterTokens:
    """One token per letter of ASCII, from id 2 on, and `spare` ids that no text has; two digits at once where told."""

    def __init__(self, *, spare: int = 300, pairs: bool = False) -> None:
        self.pieces = ["<pad>", "<end>", *map(chr, range(32, 127)), *(f"{n:02d}" for n in range(100) if pairs)]
        self.size = len(self.pieces) + spare
        self.end = END
        self.special = frozenset({PAD, END})
        self._id = {piece: index for index, piece in enumerate(self.pieces)}

    def encode(self, text: str) -> list[int]:
        ids, at = [], 0
        while at < len(text):
            length = 2 if text[at : at + 2] in self._id else 1
            ids.append(self._id[text[at : at + length]])
            at += length
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        known = [one for one in ids if one not in self.special and one < len(self.pieces)]
        return "".join(self.pieces[one] for one in known)


class ScriptedVLM(nn.Module):
    """Answers with what `logits(ids so far)` make the most likely of the allowed ids; notes what it was asked."""

    def __init__(self, logits: Logits, tokens: LetterTokens | None = None) -> None:
        super().__init__()
        self.tokens = tokens or LetterTokens()
        self.logits = logits
        self.asked: list[tuple[list[Frame], str]] = []
        self.steps = 0
        self.scale = nn.Parameter(torch.zeros(1))

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def collate(self, examples: Sequence[Example]) -> LanguageBatch:
        rows = [torch.tensor([*one.answer, END]) for one in examples]
        ids = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PAD)
        return LanguageBatch(ids=ids, mask=ids != PAD, labels=torch.where(ids == PAD, IGNORED, ids))

    def forward(self, batch: LanguageBatch) -> Tensor:
        return self.scale.square() + batch.mask.float().mean(1)

    def answer(
        self,
        images: Sequence[Sequence[Frame]],
        prompts: Sequence[str],
        *,
        max_tokens: int,
        allowed: Allowed | None = None,
    ) -> list[list[int]]:
        self.asked += [(list(row), prompt) for row, prompt in zip(images, prompts, strict=True)]
        return [self._row(max_tokens, allowed) for _ in prompts]

    def _row(self, max_tokens: int, allowed: Allowed | None) -> list[int]:
        ids: list[int] = []
        while len(ids) < max_tokens:
            following = None if allowed is None else allowed(ids)
            options = list(range(self.tokens.size) if following is None else following)
            if not options:
                break
            self.steps += 1
            best = options[int(np.argmax(self.logits(ids)[options]))]
            if best == END:
                break
            ids.append(best)
        return ids


def random_logits(seed: int, size: int) -> Logits:
    """Other ones for every prefix, the same for the same."""
    return lambda ids: np.random.default_rng([seed, *ids]).normal(size=size)


def writing(ids: Sequence[int], size: int) -> Logits:
    """Whatever was decoded, the next of these ids is the most likely one; then the end."""

    def logits(so_far: Sequence[int]) -> np.ndarray:
        found = np.zeros(size)
        found[ids[len(so_far)] if len(so_far) < len(ids) else END] = 1.0
        return found

    return logits
