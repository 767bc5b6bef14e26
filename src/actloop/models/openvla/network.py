"""OpenVLA (2406.09246) and OpenVLA-OFT (2502.19645): a Prismatic VLM that answers with actions, in one of three ways.

    tokens           [begin | patches | prompt] --one token at a time, of 256--> digits
    parallel-tokens  [begin | patches | state | prompt | slots | end] --both ways, once--> digits at the slots
    l1               the same                                          --both ways, once--> L1 head --> numbers

The slots are zeros, as released, or learnt. A zero stays one through the first layer's norm: it asks nothing there, and
only rotary positions tell one slot from another. A deep pretrained network copes; a small one learns far slower by it.

Normalised actions and digits only: units are the policy's business.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from actloop.errors import ContractError, UnknownNameError
from actloop.models.openvla.oft import ActionHead, ProprioProjector
from actloop.models.prismatic.model import PrismaticVLM

Head = Literal["tokens", "parallel-tokens", "l1"]
HEADS: tuple[Head, ...] = ("tokens", "parallel-tokens", "l1")
DIGITS = 256
SLOT_STD = 0.02  # as Llama's words begin


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionConfig:
    """How the network answers.

    Attributes:
        vocabulary: digit d is the id `vocabulary` - d; of OpenVLA 32000, which is not the rows of its embedding.
        proprio_dim: numbers of the state, shown as one token; 0 where it is not shown. Only parallel heads see it.
        learned_slots: what stands where a parallel head's numbers will be read is learnt, not zero.
    """

    action_dim: int
    vocabulary: int
    horizon: int = 1
    head: Head = "tokens"
    proprio_dim: int = 0
    learned_slots: bool = False

    def __post_init__(self) -> None:
        if self.head not in HEADS:
            raise UnknownNameError("head", self.head, HEADS)
        if min(self.action_dim, self.horizon) < 1 or self.proprio_dim < 0 or self.vocabulary < DIGITS:
            raise ContractError("actions", f"expected sizes from 1 on and a vocabulary from {DIGITS} on, got {self}")
        if self.proprio_dim and self.head == "tokens":
            raise ContractError("proprio_dim", "the state is shown to parallel heads only (OFT); expected 0")
        if self.learned_slots and self.head == "tokens":
            raise ContractError("learned_slots", "only parallel heads (OFT) have slots; expected false")

    @property
    def numbers(self) -> int:
        """Numbers in a chunk: tokens, of the heads that answer with tokens."""
        return self.horizon * self.action_dim


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked about some moments. `ids` begin with the first token and end with the prompt, padded right."""

    pixels: Float[Tensor, "batch images channels height width"]
    ids: Int[Tensor, "batch tokens"]
    mask: Bool[Tensor, "batch tokens"]
    state: Float[Tensor, "batch state"] | None = None

    def to(self, device: torch.device) -> "Question":
        state = None if self.state is None else self.state.to(device)
        return Question(pixels=self.pixels.to(device), ids=self.ids.to(device), mask=self.mask.to(device), state=state)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What was done then: normalised, and as digits 1..256. Of what is padding nothing is learned."""

    actions: Float[Tensor, "batch horizon action"]
    digits: Int[Tensor, "batch horizon action"]
    is_pad: Bool[Tensor, "batch horizon"]

    def to(self, device: torch.device) -> "Target":
        return Target(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})


class ActingVLM(nn.Module):
    """A vision-language model and what it needs to answer with actions."""

    def __init__(self, vlm: PrismaticVLM, config: ActionConfig) -> None:
        super().__init__()
        if config.vocabulary > vlm.config.language.vocabulary:
            rows = vlm.config.language.vocabulary
            raise ContractError("vocabulary", f"action tokens reach up to {config.vocabulary}, the model has {rows}")
        self.vlm, self.config = vlm, config
        width = vlm.config.language.hidden
        self.action_head = ActionHead(width, config.action_dim) if config.head == "l1" else None
        self.proprio_projector = ProprioProjector(width, config.proprio_dim) if config.proprio_dim else None
        slots = nn.Parameter(torch.randn(config.numbers, width) * SLOT_STD) if config.learned_slots else None
        self.slot_embeddings = slots

    @property
    def device(self) -> torch.device:
        return self.vlm.device

    def rows(self) -> Int[Tensor, "digits"]:
        """Token ids of all digits, digit 1 first."""
        return self.config.vocabulary - 1 - torch.arange(DIGITS, device=self.device)

    def centres(self) -> Float[Tensor, "digits"]:
        """Normalised value of each digit, digit 1 first; the last two are the same."""
        edges = torch.linspace(-1.0, 1.0, DIGITS, device=self.device)
        centres = (edges[:-1] + edges[1:]) / 2
        return torch.cat([centres, centres[-1:]])

    # --- training -----------------------------------------------------------------------------------------------------

    def forward(self, asked: Question, target: Target) -> dict[str, Float[Tensor, "batch"]]:
        """Per row: `loss` (cross-entropy of digits and the end, or L1), `l1` of normalised actions, and of heads that
        answer with tokens `accuracy`, the share of digits that are the most likely ones."""
        if self.config.head == "l1":
            predicted = self._continuous(asked)
            errors = (predicted - target.actions).abs().mean(-1)
            l1 = _over_known(errors, target.is_pad)
            return {"loss": l1, "l1": l1.detach()}
        logits, loss = self._taught(asked, target) if self.config.head == "tokens" else self._parallel(asked, target)
        return {"loss": loss, **self._metrics(logits.detach(), target)}

    def _taught(self, asked: Question, target: Target) -> tuple[Tensor, Tensor]:
        """Logits of the digits after the true ones before them, and the loss over them and the end token."""
        ends = target.digits.new_full((len(target.digits), 1), self.vlm.tokens.end)
        answer = torch.cat([self.config.vocabulary - target.digits.flatten(1), ends], dim=1)
        lengths = asked.mask.sum(1)
        columns = lengths[:, None] + torch.arange(answer.shape[1], device=answer.device)
        room = functional.pad(asked.ids, (0, answer.shape[1]), value=self.vlm.tokens.pad)
        embeds = self.vlm.embed(asked.pixels, room.scatter(1, columns, answer))
        shift = embeds.shape[1] - room.shape[1]
        hidden = _gathered(self.vlm.hidden(embeds), columns + shift - 1)
        logits = self.vlm.logits(hidden).float()
        losses = functional.cross_entropy(logits.flatten(0, 1), answer.flatten(), reduction="none").view(answer.shape)
        known = (~target.is_pad).repeat_interleave(self.config.action_dim, dim=1)
        known = torch.cat([known, torch.ones_like(known[:, :1])], dim=1)
        return logits[:, :-1, self.rows()], _over_known(losses, ~known)

    def _parallel(self, asked: Question, target: Target) -> tuple[Tensor, Tensor]:
        """Logits of the digits at the zeros, and the loss over them; no end is predicted."""
        logits = self.vlm.logits(self.slots(asked), self.rows()).float()
        wanted = target.digits.flatten(1) - 1
        losses = functional.cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="none").view(wanted.shape)
        return logits, _over_known(losses, target.is_pad.repeat_interleave(self.config.action_dim, dim=1))

    def _metrics(self, logits: Float[Tensor, "batch numbers digits"], target: Target) -> dict[str, Tensor]:
        best = logits.argmax(-1)
        is_pad = target.is_pad.repeat_interleave(self.config.action_dim, dim=1)
        right = (best == target.digits.flatten(1) - 1).float()
        away = (self.centres()[best] - target.actions.flatten(1)).abs()
        return {"accuracy": _over_known(right, is_pad), "l1": _over_known(away, is_pad)}

    # --- acting -------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def digits(
        self, asked: Question, given: Int[Tensor, "batch given action"] | None = None, *, constrained: bool = True
    ) -> Int[Tensor, "batch horizon action"]:
        """The most likely chunk as digits 1..256, after the digits of its first actions where these are given.

        `constrained=False`: any token may be answered, and one that is no digit is taken for the nearest, as the
        released code does.
        """
        size = self.config.action_dim
        if self.config.head == "parallel-tokens":
            rows = self.rows() if constrained else None
            best = self.vlm.logits(self.slots(asked), rows).argmax(-1)
            return self._read(best if rows is None else rows[best]).view(len(best), -1, size)
        first = asked.ids.new_empty((len(asked.ids), 0, size)) if given is None else given
        ids, mask = _continued(asked, self.config.vocabulary - first.flatten(1))
        left = self.config.numbers - first.shape[1] * size
        rows = self.rows() if constrained else None
        said = self._read(self.vlm.decode(asked.pixels, ids, mask, tokens=left, rows=rows))
        return torch.cat([first, said.view(len(ids), -1, size)], dim=1)

    @torch.no_grad()
    def numbers(self, asked: Question) -> Float[Tensor, "batch horizon action"]:
        """The chunk as the L1 head has it, normalised."""
        return self._continuous(asked)

    def slots(self, asked: Question) -> Float[Tensor, "batch numbers words"]:
        """Hidden states that a chunk's numbers are read from, all in one pass in which everything sees everything."""
        embeds = self.vlm.embed(asked.pixels, asked.ids)
        lengths = asked.mask.sum(1)[:, None] + embeds.shape[1] - asked.ids.shape[1]
        if self.proprio_projector is not None:
            if asked.state is None:
                raise ContractError("state", "this network is shown the state, and was asked without it")
            at = 1 + asked.pixels.shape[1] * self.vlm.config.patches
            token = self.proprio_projector(asked.state.to(embeds.dtype))
            embeds, lengths = torch.cat([embeds[:, :at], token, embeds[:, at:]], dim=1), lengths + 1
        count = self.config.numbers
        columns = torch.arange(embeds.shape[1] + count + 1, device=embeds.device)[None]
        room = functional.pad(embeds, (0, 0, 0, count + 1))
        is_slot = ((columns >= lengths) & (columns < lengths + count))[..., None]
        room = room.masked_fill(is_slot, 0.0)
        if self.slot_embeddings is not None:
            nth = (columns - lengths).clamp(0, count - 1)
            room = torch.where(is_slot, self.slot_embeddings.to(room.dtype)[nth], room)
        end = self.vlm.embed(None, asked.ids.new_full((1, 1), self.vlm.tokens.end))
        room = torch.where((columns == lengths + count)[..., None], end, room)
        hidden = self.vlm.hidden(room, columns <= lengths + count, causal=False)
        return _gathered(hidden, lengths - 1 + torch.arange(count, device=embeds.device))

    def _continuous(self, asked: Question) -> Float[Tensor, "batch horizon action"]:
        if self.action_head is None:
            raise ContractError("head", f"{self.config.head!r} answers with tokens; ask for digits")
        predicted: Tensor = self.action_head(self.slots(asked))
        return predicted.float()

    def _read(self, ids: Int[Tensor, "batch numbers"]) -> Int[Tensor, "batch numbers"]:
        return (self.config.vocabulary - ids).clamp(1, DIGITS)


def action_config(plain: Mapping[str, object]) -> ActionConfig:
    """From the header of a file.

    Raises:
        TypeError: fields are missing or unknown.
    """
    return ActionConfig(**plain)  # type: ignore[arg-type]


def _continued(asked: Question, more: Int[Tensor, "batch more"]) -> tuple[Tensor, Tensor]:
    """Prompts with ids after them, padded to the right again."""
    if not more.shape[1]:
        return asked.ids, asked.mask
    columns = asked.mask.sum(1)[:, None] + torch.arange(more.shape[1], device=more.device)
    ids = functional.pad(asked.ids, (0, more.shape[1])).scatter(1, columns, more)
    mask = functional.pad(asked.mask, (0, more.shape[1])).scatter(1, columns, torch.ones_like(more, dtype=torch.bool))
    return ids, mask


def _gathered(hidden: Float[Tensor, "batch positions words"], columns: Int[Tensor, "batch some"]) -> Tensor:
    return hidden.gather(1, columns[..., None].expand(-1, -1, hidden.shape[-1]))


def _over_known(values: Float[Tensor, "batch some"], is_pad: Bool[Tensor, "batch some"]) -> Float[Tensor, "batch"]:
    """Mean of each row over what is no padding."""
    return (values * ~is_pad).sum(1) / (~is_pad).sum(1).clamp(min=1)
