"""A Prismatic vision-language model (arXiv 2402.07865): vision towers, a projector, a Llama that reads both.

    <bos> [patches of image 1] [patches of image 2] ... prompt answer <eos>      causal throughout

OpenVLA (arXiv 2406.09246) is this network; our tiny model is it with small numbers. Parameters carry the names of the
released Hugging Face layout.
"""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from actloop.contracts import Frame
from actloop.errors import ContractError
from actloop.models.backbone import IGNORED, Allowed, Example, LanguageBatch
from actloop.models.prismatic.config import PrismaticConfig
from actloop.models.prismatic.images import ImageProcessor
from actloop.models.prismatic.language import Decoding, llama, run
from actloop.models.prismatic.packing import SHARED, shared_rows, unpacked
from actloop.models.prismatic.tokens import TextTokens
from actloop.models.prismatic.vision import Projector, VisionBackbone

PIXELS = "pixels"  # of a batch's pictures: (batch, images, channels, height, width)


class PrismaticVLM(nn.Module):
    """A `LanguageBackbone`. `tokens` may come later, or never where only ids go in and out."""

    def __init__(self, config: PrismaticConfig, tokens: TextTokens | None = None) -> None:
        super().__init__()
        self.config = config
        self.vision_backbone = VisionBackbone(config)
        self.projector = Projector(config)
        self.language_model = llama(config.language)
        self.images = ImageProcessor.of(config)
        self._tokens: TextTokens | None = None
        if tokens is not None:
            self.tokens = tokens

    @property
    def tokens(self) -> TextTokens:
        if self._tokens is None:
            raise ContractError("tokens", "this model came without a tokenizer; set `tokens` before it reads text")
        return self._tokens

    @tokens.setter
    def tokens(self, tokens: TextTokens) -> None:
        rows = self.config.language.vocabulary
        if tokens.size > rows:
            raise ContractError("tokens", f"the tokenizer knows {tokens.size} ids, the model has {rows} rows")
        self._tokens = tokens

    @property
    def reads_text(self) -> bool:
        """Whether it has a tokenizer."""
        return self._tokens is not None

    @property
    def device(self) -> torch.device:
        return self._embedding.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """What the network computes in; pixels are cast to it."""
        return self._embedding.weight.dtype

    # --- one sequence in, hidden states and logits out ----------------------------------------------------------------

    def see(self, pixels: Float[Tensor, "batch images channels height width"]) -> Float[Tensor, "batch patches words"]:
        """Pictures as the language model reads them: the patches of a row's images, one after the other."""
        batch, images = pixels.shape[:2]
        features = self.vision_backbone(pixels.flatten(0, 1).to(self.device, self.dtype))
        projected: Tensor = self.projector(features)
        return projected.reshape(batch, images * self.config.patches, -1)

    def embed(
        self,
        pixels: Float[Tensor, "batch images channels height width"] | None,
        ids: Int[Tensor, "batch tokens"],
    ) -> Float[Tensor, "batch positions words"]:
        """Embeddings of the whole sequence: the first token, all patches, the other tokens."""
        words: Tensor = self._embedding(ids)
        if pixels is None:
            return words
        return torch.cat((words[:, :1], self.see(pixels), words[:, 1:]), dim=1)

    def hidden(
        self,
        embeds: Float[Tensor, "batch positions words"],
        mask: Bool[Tensor, "batch positions"] | None = None,
        *,
        causal: bool = True,
    ) -> Float[Tensor, "batch positions words"]:
        """Last hidden states, after the final norm.

        `mask`: False at padding, which lies to the right. Under causal attention nothing sees it anyway; with
        `causal=False` every position sees every other that is not padding.
        """
        batch, positions = embeds.shape[:2]
        at = torch.arange(positions, device=embeds.device).expand(batch, -1)
        sees = None
        if not causal:
            seen = torch.ones_like(at, dtype=torch.bool) if mask is None else mask
            sees = seen[:, None, None].expand(batch, 1, positions, positions)
        return run(self.language_model, embeds, at, sees)

    def logits(
        self, hidden: Float[Tensor, "*batch words"], rows: Int[Tensor, "rows"] | None = None
    ) -> Float[Tensor, "*batch vocabulary"]:
        """Of the whole vocabulary, or of the given rows of it alone, in their order."""
        head = cast(Any, self.language_model).lm_head
        return cast(Tensor, head(hidden) if rows is None else functional.linear(hidden, head.weight[rows]))

    # --- training -----------------------------------------------------------------------------------------------------

    def collate(self, examples: Sequence[Example]) -> LanguageBatch:
        """Padded to the right; the answer and the token that ends it are labelled, nothing else is.

        Examples that hold the very same pictures (one tuple, not equal ones) share a row and its patches: none of them
        sees another (see packing.py), so that each learns as it would alone, for a fraction of the price.

        Raises:
            ContractError: no examples, rows with different numbers of pictures, or a sequence that is too long.
        """
        if not examples:
            raise ContractError("examples", "expected at least one")
        said = [(self.tokens.encode(one.prompt), [*one.answer, self.tokens.end]) for one in examples]
        rows = shared_rows([one.images for one in examples])
        ids, mask = self._padded([[self.tokens.begin, *chain(*(chain(*said[one]) for one in row))] for row in rows])
        labels, owners = torch.full_like(ids, IGNORED), torch.full_like(ids, SHARED)
        for at, row in enumerate(rows):
            column = 1
            for one in row:
                prompt, answer = said[one]
                first, last = column + len(prompt), column + len(prompt) + len(answer)
                labels[at, first:last] = torch.tensor(answer)
                owners[at, column:last] = one
                column = last
        pixels = self._pixels([examples[row[0]].images for row in rows])
        self._check_length(ids.shape[1], pixels)
        pictures = {} if pixels is None else {PIXELS: pixels}
        packed = None if len(rows) == len(examples) else owners
        return LanguageBatch(ids=ids, mask=mask, labels=labels, pictures=pictures, owners=packed)

    def forward(self, batch: LanguageBatch) -> Float[Tensor, "examples"]:
        """Mean cross-entropy over the labelled tokens of each example; 0 for one without any."""
        embeds = self.embed(batch.pictures.get(PIXELS), batch.ids)
        shift = embeds.shape[1] - batch.ids.shape[1]  # patches between the first two tokens
        wanted = batch.labels[:, 1:]
        # The token at `column + 1` of the ids is predicted one position before its own.
        row, column = torch.nonzero(wanted != IGNORED, as_tuple=True)
        if batch.owners is None:
            hidden = self.hidden(embeds, causal=True)
            owner, before, examples = row, column + shift, len(wanted)
        else:
            positions, sees, predicts = unpacked(batch.owners, shift)
            hidden = run(self.language_model, embeds, positions, sees)
            owner, before = batch.owners[row, column + 1], predicts[row, column + 1]
            examples = int(batch.owners.max()) + 1
        logits = self.logits(hidden[row, before])
        losses = functional.cross_entropy(logits.float(), wanted[row, column], reduction="none")
        total = losses.new_zeros(examples).index_add(0, owner, losses)
        return total / torch.bincount(owner, minlength=examples).clamp(min=1)

    # --- answering ----------------------------------------------------------------------------------------------------

    def answer(
        self,
        images: Sequence[Sequence[Frame]],
        prompts: Sequence[str],
        *,
        max_tokens: int,
        allowed: Allowed | None = None,
    ) -> list[list[int]]:
        """The most likely ids after each prompt, one at a time, of those allowed; the end token is not among them.

        A row ends at the end token, where nothing is allowed, or at `max_tokens`.

        Raises:
            ContractError: images and prompts of different number, a sequence that is too long, ids that no row of the
                vocabulary has.
        """
        if len(images) != len(prompts) or not prompts:
            raise ContractError("answer", f"expected images for each prompt, got {len(images)} and {len(prompts)}")
        ids, mask = self._padded([self._prompt(prompt) for prompt in prompts])
        return self.answer_ids(self._pixels(images), ids, mask, max_tokens=max_tokens, allowed=allowed)

    @torch.no_grad()
    def answer_ids(
        self,
        pixels: Float[Tensor, "batch images channels height width"] | None,
        ids: Int[Tensor, "batch tokens"],
        mask: Bool[Tensor, "batch tokens"],
        *,
        max_tokens: int,
        allowed: Allowed | None = None,
    ) -> list[list[int]]:
        """As `answer`, of prompts that are ids already: from the first token on, padded to the right."""
        said: list[list[int]] = [[] for _ in range(len(ids))]
        if max_tokens < 1:
            return said
        decoding, head = self.prefill(pixels, ids, mask, room=max_tokens - 1), _Head(self)
        going = set(range(len(said)))
        chosen: list[int] = []
        for step in range(max_tokens):
            options = {row: None if allowed is None else allowed(said[row]) for row in sorted(going)}
            going -= {row for row, option in options.items() if option is not None and not len(option)}
            if not going:
                break
            if step:
                decoding.feed(torch.tensor(chosen, device=self.device))
            chosen = head.best(decoding.hidden, {row: options[row] for row in going})
            going -= {row for row in going if chosen[row] == self.tokens.end}
            for row in going:
                said[row].append(chosen[row])
        return said

    @torch.no_grad()
    def decode(
        self,
        pixels: Float[Tensor, "batch images channels height width"] | None,
        ids: Int[Tensor, "batch tokens"],
        mask: Bool[Tensor, "batch tokens"],
        *,
        tokens: int,
        rows: Int[Tensor, "rows"] | None = None,
    ) -> Int[Tensor, "batch new"]:
        """Exactly so many of the most likely ids, of `rows` if given: one prefill, `tokens` - 1 steps of one token.

        Nothing ends a row early, and the device is not waited for.

        Raises:
            ContractError: a sequence that is too long, or no token is asked for.
        """
        if tokens < 1:
            raise ContractError("tokens", f"expected 1 or more, got {tokens}")
        decoding = self.prefill(pixels, ids, mask, room=tokens - 1)
        chosen: list[Tensor] = []
        for _ in range(tokens):
            if chosen:
                decoding.feed(chosen[-1])
            best = self.logits(decoding.hidden, rows).argmax(-1)
            chosen.append(best if rows is None else rows[best])
        return torch.stack(chosen, dim=1)

    @torch.no_grad()
    def prefill(
        self,
        pixels: Float[Tensor, "batch images channels height width"] | None,
        ids: Int[Tensor, "batch tokens"],
        mask: Bool[Tensor, "batch tokens"],
        *,
        room: int,
    ) -> Decoding:
        """The prompts, read, with room for so many tokens more."""
        self._check_length(ids.shape[1] + room, pixels)
        embeds = self.embed(pixels, ids.to(self.device))
        lengths = mask.to(self.device).sum(1) + embeds.shape[1] - ids.shape[1]
        return Decoding(self.language_model, self.config.language, embeds, lengths, room)

    # ------------------------------------------------------------------------------------------------------------------

    @property
    def _embedding(self) -> nn.Embedding:
        return cast(nn.Embedding, cast(Any, self.language_model).model.embed_tokens)

    def _prompt(self, text: str) -> list[int]:
        return [self.tokens.begin, *self.tokens.encode(text)]

    def _padded(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        longest = max(len(row) for row in rows)
        ids = torch.full((len(rows), longest), self.tokens.pad)
        mask = torch.zeros(len(rows), longest, dtype=torch.bool)
        for at, row in enumerate(rows):
            ids[at, : len(row)] = torch.tensor(row)
            mask[at, : len(row)] = True
        return ids, mask

    def _pixels(self, images: Sequence[Sequence[Frame]]) -> Tensor | None:
        return self.images(images) if any(len(row) for row in images) else None

    def _check_length(self, tokens: int, pixels: Tensor | None) -> None:
        positions = tokens + (0 if pixels is None else pixels.shape[1] * self.config.patches)
        most = self.config.language.max_positions
        if positions > most:
            raise ContractError("sequence", f"{positions} positions, and the model has {most}: ask or show it less")


class _Head:
    """The most likely of the allowed ids: where all rows allow the same, no other logits are computed."""

    def __init__(self, model: PrismaticVLM) -> None:
        self._model = model
        self._rows: dict[tuple[int, ...], Tensor] = {}

    def best(self, hidden: Float[Tensor, "batch words"], options: Mapping[int, Sequence[int] | None]) -> list[int]:
        """One id for each row: of its options, which are not empty; any where they are None or the row has none."""
        sets = {row: None if option is None else tuple(option) for row, option in options.items()}
        distinct = set(sets.values())
        if len(distinct) == 1:
            (only,) = distinct
            rows = None if only is None else self._index(only)
            best = self._model.logits(hidden, rows).argmax(-1)
            found: list[int] = (best if rows is None else rows[best]).tolist()
            return found
        logits = self._model.logits(hidden)
        for row, chosen in sets.items():
            if chosen is not None:
                barred = torch.ones(logits.shape[-1], dtype=torch.bool, device=logits.device)
                barred[self._index(chosen)] = False
                logits[row] = logits[row].masked_fill(barred, float("-inf"))
        free: list[int] = logits.argmax(-1).tolist()
        return free

    def _index(self, ids: tuple[int, ...]) -> Tensor:
        if ids not in self._rows:
            size = self._model.config.language.vocabulary
            strange = [token for token in ids if not 0 <= token < size]
            if strange:
                raise ContractError("allowed", f"id {strange[0]} of a vocabulary of {size}")
            self._rows[ids] = torch.tensor(ids, device=self._model.device)
        return self._rows[ids]
