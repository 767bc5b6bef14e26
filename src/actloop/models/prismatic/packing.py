"""Several examples about the same pictures in one row: the pictures are read once, and no example sees another.

    <bos> [patches] prompt 1 answer 1 <eos> prompt 2 answer 2 <eos> ...
                    `- positions go on from the patches in each of them, attention is causal within it

An example comes out as it would alone in its row.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from actloop.contracts import Frame

SHARED = -1  # of owners: this token belongs to all examples of the row, or is padding


def shared_rows(pictures: Sequence[tuple[Frame, ...]]) -> list[list[int]]:
    """Numbers of the examples of each row: those that hold the same tuple of pictures, in the order of the first."""
    rows: dict[int, list[int]] = {}
    for number, images in enumerate(pictures):
        rows.setdefault(id(images) if images else -1 - number, []).append(number)
    return list(rows.values())


def unpacked(
    owners: Int[Tensor, "batch tokens"], patches: int
) -> tuple[Int[Tensor, "batch positions"], Bool[Tensor, "batch 1 positions positions"], Int[Tensor, "batch tokens"]]:
    """How rows of several examples are read, with `patches` positions after their first token.

    Returns rotary positions; what sees what; for each token the position in the row that predicts it.
    """
    batch, tokens = owners.shape
    columns = torch.arange(tokens, device=owners.device).expand(batch, -1)
    begins = torch.zeros_like(owners, dtype=torch.bool)
    begins[:, 1:] = owners[:, 1:] != owners[:, :-1]
    first = torch.where(begins, columns, 0).cummax(dim=1).values
    own = columns - first + 1
    before = torch.where(begins, patches, columns + patches - 1)
    seen = torch.arange(patches + 1, device=owners.device).expand(batch, -1)
    positions = torch.cat((seen, own[:, 1:] + patches), dim=1)
    owner = torch.cat((torch.full_like(seen, SHARED), owners[:, 1:]), dim=1)
    reaches = (owner[:, None] == SHARED) | (owner[:, None] == owner[:, :, None])
    causal = torch.ones(reaches.shape[1:], dtype=torch.bool, device=owners.device).tril()
    return positions, (reaches & causal)[:, None], before
