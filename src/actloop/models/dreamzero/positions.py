"""Where tokens are, as turns of rotary embeddings: video by frame, row and column; actions and states by their count.

The three axes of a picture share a head's pairs (time has what the others leave), each with rates of its own range;
actions and states turn the whole head by one number.
"""

from functools import lru_cache

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from actloop.models.dreamzero.config import DreamZeroConfig
from actloop.models.layers import rope_table, turns

Turns = Complex[Tensor, "tokens 1 pairs"]


def axis_dims(head_dim: int) -> tuple[int, int, int]:
    """Dimensions of a head for time, row and column."""
    side = 2 * (head_dim // 6)
    return head_dim - 2 * side, side, side


@lru_cache(maxsize=64)
def video_turns(config: DreamZeroConfig, first: int, frames: int, device: torch.device) -> Turns:
    """Of `frames` latent frames that begin at position `first`; ordered frame, row, column."""
    axes = (torch.arange(first, first + frames), torch.arange(config.rows), torch.arange(config.columns))
    grid = torch.meshgrid(*axes, indexing="ij")
    tables = [rope_table(axis.flatten(), dim) for axis, dim in zip(grid, axis_dims(config.head_dim), strict=True)]
    return turns(torch.cat(tables, dim=-1)).to(device)


@lru_cache(maxsize=64)
def counted_turns(config: DreamZeroConfig, first: int, count: int, device: torch.device) -> Turns:
    """Of `count` actions or states that begin at number `first`."""
    return turns(rope_table(torch.arange(first, first + count), config.head_dim)).to(device)


@lru_cache(maxsize=64)
def moved_turns(config: DreamZeroConfig, frames: int, device: torch.device) -> Complex[Tensor, "pairs"]:
    """What moves a video key by so many frames."""
    time, row, column = axis_dims(config.head_dim)
    tables = [rope_table(torch.tensor([frames]), time), *(rope_table(torch.tensor([0]), dim) for dim in (row, column))]
    return turns(torch.cat(tables, dim=-1)).flatten().to(device)


def moved(keys: Float[Tensor, "*batch dim"], by: Complex[Tensor, "pairs"]) -> Float[Tensor, "*batch dim"]:
    """Keys that were turned already, at another frame; in fp32."""
    pairs = torch.view_as_complex(torch.unflatten(keys.float(), -1, (-1, 2)))
    return torch.view_as_real(pairs * by).flatten(-2).to(keys.dtype)
