"""The training form: one sequence of a whole clip, and who sees whom in it.

    teacher forcing    [clean video | noisy video | actions of all blocks | states of all blocks]
    no clean copy      [noisy video | actions of all blocks | states of all blocks]

    asks \\ sees        clean before i    clean i    noisy i    actions i    state i
    clean block i      window            yes
    noisy block i      window                       yes        yes          yes
    actions i          window                       yes        yes          yes
    state i                                                                 itself

The anchor is a block of its own that sees itself alone. A block never sees a later one, so rows with fewer blocks are
padded at the end and need no mask. Video without actions is a row whose actions and states nobody sees.

Left out is what changes nothing: the clean copy of the last block, which nobody sees (unless the sequence is to be
`whole`), and the noisy anchor where a network predicts changes, of which an anchor has none.

The window is the anchor and the last blocks, the asking one among them; positions count from the anchor as if what
lies between it and the window had never been. The released masks differ past the window: noisy blocks see everything,
clean ones cut the window at frames, and positions are absolute.
"""

from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from jaxtyping import Bool
from torch import Tensor

from actloop.errors import ContractError
from actloop.models.dreamzero.config import DreamZeroConfig
from actloop.models.dreamzero.layers import mixed, split
from actloop.models.dreamzero.positions import Turns, counted_turns, video_turns
from actloop.models.layers import rotate


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Tokens that see the same: `video` parts, and `acting` ones, which rows without actions do not see.

    `slid`: blocks between the anchor and the window, which positions leave out.
    """

    asks: tuple[slice, ...]
    video: tuple[slice, ...]
    acting: tuple[slice, ...] = ()
    slid: int = 0


class ClipSequence:
    """Places of a clip's tokens, and their groups."""

    def __init__(self, config: DreamZeroConfig, blocks: int, *, clean: bool, acting: bool, whole: bool = True) -> None:
        if blocks > config.window_blocks and config.memory == "recomputed":
            raise ContractError(
                "clip.blocks",
                f"expected up to {config.window_blocks}, the window, past which a recomputed one is another clip; "
                f"got {blocks}",
            )
        self.config, self.blocks, self.clean, self.acting = config, blocks, clean, acting
        self.frames = config.frames(blocks)
        self.clean_blocks = (blocks if whole else blocks - 1) if clean else -1
        self.clean_frames = config.frames(self.clean_blocks) if clean else 0
        self.first_noisy = 1 if config.predicts_change and clean else 0
        self.noisy_at = self.clean_frames * config.frame_tokens
        self.actions_at = self.noisy_at + (self.frames - self.first_noisy) * config.frame_tokens
        self.states_at = self.actions_at + (blocks * config.block_actions if acting else 0)
        self.tokens = self.states_at + (blocks if acting else 0)

    def video(self, first: int, last: int, *, noisy: bool) -> slice:
        """Tokens of frames `first` to `last` (exclusive)."""
        size = self.config.frame_tokens
        at = self.noisy_at - self.first_noisy * size if noisy else 0
        return slice(at + first * size, at + last * size)

    def block(self, number: int, *, noisy: bool) -> slice:
        """Tokens of a block's frames; -1 is the anchor."""
        if number < 0:
            return self.video(0, 1, noisy=noisy)
        return self.video(self.config.frames(number), self.config.frames(number + 1), noisy=noisy)

    def actions(self, number: int) -> slice:
        size = self.config.block_actions
        return slice(self.actions_at + number * size, self.actions_at + (number + 1) * size)

    def state(self, number: int) -> slice:
        return slice(self.states_at + number, self.states_at + number + 1)

    @property
    def noisy(self) -> slice:
        return slice(self.noisy_at, self.actions_at)

    def groups(self) -> list[Group]:
        """All that see more than themselves, in the order of the first token of each; states are left out."""
        kinds = [*([False] if self.clean else []), *([] if self.first_noisy else [True])]
        anchors = [Group(asks=(at,), video=(at,)) for at in (self.block(-1, noisy=kind) for kind in kinds)]
        clean = [self._group(number, noisy=False) for number in range(self.clean_blocks)]
        return anchors + clean + [self._group(number, noisy=True) for number in range(self.blocks)]

    def _group(self, number: int, *, noisy: bool) -> Group:
        """A block: what lies before it in its window, and itself."""
        before, slid = self._before(number, noisy=noisy)
        own = self.block(number, noisy=noisy)
        group = Group(asks=(own,), video=(*before, own), slid=slid)
        if not noisy or not self.acting:
            return group
        actions = self.actions(number)
        return replace(group, asks=(own, actions), acting=(actions, self.state(number)))

    def _before(self, number: int, *, noisy: bool) -> tuple[tuple[slice, ...], int]:
        config, copy = self.config, not self.clean  # without a clean copy, the noisy frames are the past
        first, last = 1, config.frames(number)
        if config.memory == "released":
            if copy or not noisy:
                first = max(1, config.frames(number + 1) - config.window_frames)
            slid = 0
        else:
            slid = max(0, number + 1 - config.window_blocks)
            first = config.frames(slid)
        anchor, rest = self.video(0, 1, noisy=copy), self.video(first, last, noisy=copy)
        return (anchor, rest) if last > first else (anchor,), slid

    def turns(self, slid: int, device: torch.device) -> Turns:
        """Positions of all tokens, for a window that left out `slid` blocks; what it left out has none of meaning."""
        config = self.config
        anchor = video_turns(config, 0, 1, device)
        rest = video_turns(config, 1 - slid * config.block_frames, self.frames - 1, device)
        parts = [torch.cat([anchor, rest])[: self.clean_frames * config.frame_tokens]] if self.clean else []
        parts += [rest] if self.first_noisy else [anchor, rest]
        if self.acting:
            actions = self.blocks * config.block_actions
            parts.append(counted_turns(config, -slid * config.block_actions, actions, device))
            parts.append(counted_turns(config, -slid, self.blocks, device))
        return torch.cat(parts)

    def visibility(self) -> Bool[Tensor, "tokens tokens"]:
        """Who sees whom, spelled out: True where the row's token sees the column's."""
        seen = torch.eye(self.tokens, dtype=torch.bool)
        for group in self.groups():
            for asks in group.asks:
                for sees in (*group.video, *group.acting):
                    seen[asks, sees] = True
        return seen


class ClipAttention:
    """Attention of a clip's tokens; made once for all layers.

    `acts` marks the rows whose actions and states may be seen; None: all.
    """

    def __init__(self, sequence: ClipSequence, device: torch.device, acts: Bool[Tensor, "batch"] | None) -> None:
        self.heads = sequence.config.heads
        self.states = slice(sequence.states_at, sequence.tokens)
        self.groups = sequence.groups()
        edges = {part.start for group in self.groups for part in (*group.asks, *group.video, *group.acting)}
        edges |= {part.stop for group in self.groups for part in (*group.asks, *group.video, *group.acting)}
        self.starts = sorted(edges | {0, sequence.tokens})
        slides = sorted({group.slid for group in self.groups})
        self.turns = {slid: sequence.turns(slid, device) for slid in slides}
        self.masks = [None if acts is None or not group.acting else _row_mask(group, acts) for group in self.groups]

    def __call__(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        values = self._pieces(split(value, self.heads))
        sides = {
            slid: [self._pieces(rotate(x, at).transpose(1, 2)) for x in (query, key)] for slid, at in self.turns.items()
        }
        found = [(self.states.start, value[:, self.states])]  # a state sees itself alone: its own value
        for group, mask in zip(self.groups, self.masks, strict=True):
            queries, keys = sides[group.slid]
            sees = (*group.video, *group.acting)
            asked, seen = self._taken(queries, group.asks), (self._taken(keys, sees), self._taken(values, sees))
            out = mixed(asked, seen, mask)
            lengths = [part.stop - part.start for part in group.asks]
            found += zip((part.start for part in group.asks), torch.split(out, lengths, dim=1), strict=True)
        return torch.cat([part for _, part in sorted(found, key=lambda pair: pair[0])], dim=1)

    def _pieces(self, x: Tensor) -> dict[int, Tensor]:
        """(batch, heads, tokens, dim) by first token, cut once: the gradient of a slice is as long as what it is of."""
        lengths = [end - start for start, end in pairwise(self.starts)]
        return dict(zip(self.starts, torch.split(x, lengths, dim=2), strict=False))

    def _taken(self, pieces: dict[int, Tensor], parts: tuple[slice, ...]) -> Tensor:
        """Some tokens of what was cut."""
        found = [pieces[at] for part in parts for at in self.starts if part.start <= at < part.stop]
        return found[0] if len(found) == 1 else torch.cat(found, dim=2)


def _row_mask(group: Group, acts: Bool[Tensor, "batch"]) -> Bool[Tensor, "batch 1 1 keys"]:
    """Rows without actions see the video alone."""
    video, acting = (sum(part.stop - part.start for part in parts) for parts in (group.video, group.acting))
    always = torch.ones(len(acts), video, dtype=torch.bool, device=acts.device)
    return torch.cat([always, acts[:, None].expand(-1, acting)], dim=1)[:, None, None]
